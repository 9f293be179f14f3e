//! How much the balloons of the machine hold, and how much memory is plugged in, for whoever asks how the devices are.
//!
//! Their programs say it with their counters. Each that owes none is asked for them at once, and the client's answer waits
//! until all have said them or ended, but never beyond the next look at whether devices answer: then it has what is known.

use protocol::{
    BALLOON_ACTUAL, BALLOON_TARGET, BalloonAmount, Counters, FromLauncher, MEM_PLUGGED, MEM_REQUESTED,
    ToDevice,
};
use sandbox_policies::Program;

use super::Supervisor;
use super::silence::is_asked;

/// What one process has said.
#[derive(Debug, Default)]
pub struct Amount {
    /// Last.
    pub known: Option<BalloonAmount>,
    /// Somebody waits for what it says next.
    awaited: bool,
}

/// What the counters are called of what is wanted and what there is.
fn names(program: Program) -> Option<(&'static str, &'static str)> {
    match program {
        Program::DeviceBalloon => Some((BALLOON_TARGET, BALLOON_ACTUAL)),
        Program::DeviceMem => Some((MEM_REQUESTED, MEM_PLUGGED)),
        _ => None,
    }
}

impl Supervisor {
    /// A client wants to know how the devices are.
    pub(super) fn on_devices(&mut self, client: u64) {
        if self.clients.waits_already(client) {
            // It does not wait for answers.
            return self.hang_up_on(client);
        }
        for process in self.processes.all.iter_mut().filter(|process| is_asked(process)) {
            if names(process.program).is_none() {
                continue;
            }
            if process.silence.is_asked() || process.tell(&ToDevice::Query).is_ok() {
                process.silence.ask();
                process.amount.awaited = true;
            }
        }
        self.answer_waiting();
    }

    /// A device's program has said its counters.
    pub(super) fn note_amount(&mut self, index: usize, counters: &Counters) {
        let Some(process) = self.processes.all.get_mut(index) else { return };
        let value = |name| counters.entries.iter().find(|it| it.name == name).map(|it| it.value);
        if let Some((target, actual)) = names(process.program)
            && let (Some(target), Some(actual)) = (value(target), value(actual))
        {
            process.amount.known = Some(BalloonAmount { target, actual });
        }
        self.amount_no_more(index);
    }

    /// Nothing more is to be waited for from this process.
    pub(super) fn amount_no_more(&mut self, index: usize) {
        if let Some(process) = self.processes.all.get_mut(index) {
            process.amount.awaited = false;
        }
        self.answer_waiting();
    }

    /// Nobody is waited for any longer.
    pub(super) fn amounts_no_more(&mut self) {
        self.processes.all.iter_mut().for_each(|process| process.amount.awaited = false);
        self.answer_waiting();
    }

    fn answer_waiting(&mut self) {
        if self.processes.all.iter().any(|process| process.amount.awaited) {
            return;
        }
        for client in self.clients.take_waiting() {
            let devices = self.device_statuses();
            self.answer(client, &FromLauncher::Devices(devices));
        }
    }
}
