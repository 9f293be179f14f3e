//! What the user sets of a device while the machine runs: handed to the process that serves it, whose answer is the
//! client's.
//!
//! A process is asked for one thing at a time, and an answer that nobody asked for is a breach of the protocol. When it dies
//! before it has answered, its client is told; whether the setting outlives it is for its state to say, which the next
//! process takes up.

use protocol::{Failure, FailureKind, FromLauncher, SetDevice, SetOutcome, Setting, ToDevice};

use super::Supervisor;
use crate::nearest;
use crate::spawn::Process;
use crate::terminal_size::terminal_size;

/// Who is owed a device's answer to a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// This client.
    Client(u64),
    /// The launcher itself, which follows the size of its terminal.
    Terminal,
}

impl Supervisor {
    /// The size of the terminal has changed: so does that of the console that has it, as soon as its program can be told.
    pub(super) fn follow_terminal(&mut self) {
        let device = self.devices.iter().find(|device| device.on_terminal && self.resized);
        let (Some(device), Some(size)) = (device, terminal_size()) else {
            self.resized = false;
            return;
        };
        let wanted = SetDevice { device: device.name.clone(), setting: Setting::Console(size) };
        self.resized = self.set(Asker::Terminal, &wanted).is_err();
    }

    /// Hands a setting on.
    pub(super) fn set(&mut self, asker: Asker, wanted: &SetDevice) -> Result<(), String> {
        let name = &wanted.device;
        let process = self.serving(name, "this setting", wanted.setting.since())?;
        if process.setting_for.is_some() {
            return Err(format!("{name} is being told of another setting: try again"));
        }
        process.tell(&ToDevice::Set(wanted.setting))?;
        process.setting_for = Some(asker);
        process.silence.tell();
        Ok(())
    }

    /// The process that serves a device, if it knows `words`, as all do since minor version `since`.
    pub(super) fn serving(&mut self, name: &str, words: &str, since: u8) -> Result<&mut Process, String> {
        let Some(device) = self.devices.iter().find(|device| device.name == *name) else {
            let hint = nearest::hint(name, self.devices.iter().map(|device| device.name.as_str()));
            return Err(format!("there is no device '{name}'{hint}; vmm ctl VM devices lists all"));
        };
        // The one that serves and the one that may do so any moment share what is kept: only one of them may write to it.
        if device.owes_a_choice() {
            return Err(format!("{name} is being replaced: try again"));
        }
        let process = device.process.and_then(|index| self.processes.all.get_mut(index));
        let process = process.filter(|process| process.ended.is_none() && process.ready.is_some());
        let Some(process) = process else {
            return Err(format!("no program of vmm serves {name} now: try again when it does"));
        };
        let Some(control) = &process.control else {
            return Err(format!("the program of {name} is ending: try again when the next one serves"));
        };
        let minor = control.peer_minor();
        if minor < since {
            return Err(format!(
                "the program of {name} is of minor version {minor}, and has known {words} since {since}: replace it by a \
                 newer one with vmm ctl VM replace-device {name} --program PATH"
            ));
        }
        Ok(process)
    }

    /// A device's program has answered.
    pub(super) fn on_set(&mut self, index: usize, outcome: &SetOutcome) {
        let process = self.processes.all.get_mut(index);
        let asked = process.and_then(|process| {
            process.silence.told();
            process.setting_for.take()
        });
        let client = match asked {
            Some(Asker::Client(client)) => client,
            Some(Asker::Terminal) => return,
            None => return self.on_violation(index, "an answer to a setting that nobody made"),
        };
        self.answer(
            client,
            &match &outcome.refused {
                None => FromLauncher::Set,
                Some(refused) => FromLauncher::Failed(Failure::new(FailureKind::Device, refused)),
            },
        );
    }

    /// A device's program has ended, perhaps without an answer.
    pub(super) fn set_no_more(&mut self, index: usize) {
        let asked = self.processes.all.get_mut(index).and_then(|process| process.setting_for.take());
        // Its successor is told of the size that the terminal has then.
        self.resized |= asked == Some(Asker::Terminal);
        if let Some(Asker::Client(client)) = asked {
            let text = "the device's program ended before it answered: look whether it has been set";
            self.answer(client, &FromLauncher::Failed(Failure::new(FailureKind::Device, text)));
        }
    }
}
