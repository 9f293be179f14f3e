//! What programs say on their control channels, and what they are told.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use protocol::{FromCore, FromDevice, Message, Phase, Ready, ToCore, ToDevice, Violation};
use sandbox_policies::Program;

use super::verdict::{self, Verdict};
use super::{State, Supervisor};
use crate::report;

/// Frames that are read at one event: others have their turn.
const AT_ONCE: usize = 16;

impl Supervisor {
    /// Reads what is there. Devices and the core have a table of requests each; anything else ends the program.
    pub(super) fn read_messages(&mut self, index: usize) {
        for _ in 0..AT_ONCE {
            let Some(process) = self.processes.all.get(index) else { return };
            let read_on = match process.program {
                Program::Core => self.read_one(index, Self::on_core),
                _ => self.read_one(index, Self::on_device),
            };
            if !read_on {
                return;
            }
        }
    }

    fn read_one<M: Message>(&mut self, index: usize, on_message: fn(&mut Self, usize, M)) -> bool {
        let Some(process) = self.processes.all.get_mut(index) else { return false };
        let Some(control) = process.control.as_ref() else { return false };
        let phase = if process.ready.is_some() { Phase::Serving } else { Phase::HandOver };
        match control.receive::<M>(phase) {
            Ok(Some((message, _))) => {
                on_message(self, index, message);
                true
            }
            Ok(None) => {
                self.events.forget(control);
                process.control = None;
                // Programs hold it as long as they live: whoever hung up is ending, or is ended when the grace is over.
                let verdict = verdict::of_hang_up(&process.name, process.program);
                if process.ended.is_none() {
                    self.on_hang_up(index, verdict);
                }
                false
            }
            Err(protocol::Error::WouldBlock) => false,
            Err(error) => {
                self.on_violation(index, &error.to_string());
                false
            }
        }
    }

    fn on_core(&mut self, index: usize, message: FromCore) {
        match message {
            FromCore::Ready(ready) => self.note_ready(index, ready),
            FromCore::Failed(failure) => {
                self.conclude(verdict::of_failure("vmm-core", Program::Core, &failure));
            }
            FromCore::Exited(exit) => self.conclude(verdict::of_exit(exit)),
            FromCore::Counters(counters) if self.asked_counters => {
                self.asked_counters = false;
                if report::can_say() {
                    let own = self.devices.iter().flat_map(|device| device.tally.entries(&device.name));
                    report::say(&report::counters(&counters, own));
                }
            }
            FromCore::Counters(_) => self.on_violation(index, "counters that nobody asked for"),
            FromCore::DeviceLost(lost) => self.on_device_lost(index, &lost),
            FromCore::Reconnected(device) => self.on_reconnected(index, device.slot),
            FromCore::Refused(refused) => self.on_refused(index, &refused),
            FromCore::Violation(violation) => self.on_refused_call(index, violation),
        }
    }

    fn on_device(&mut self, index: usize, message: FromDevice) {
        match message {
            FromDevice::Ready(ready) => match self.too_old(index) {
                Some(verdict) => self.give_up_on(index, verdict),
                None => self.note_ready(index, ready),
            },
            FromDevice::Failed(failure) => {
                let Some(process) = self.processes.all.get(index) else { return };
                let verdict = verdict::of_failure(&process.name, process.program, &failure);
                self.give_up_on(index, verdict);
            }
            FromDevice::Keeps => self.hand_on_keep(index),
            FromDevice::Set(outcome) => self.on_set(index, &outcome),
            FromDevice::Statistics(statistics) => self.on_statistics(index, statistics),
            FromDevice::Violation(violation) => self.on_refused_call(index, violation),
            FromDevice::Counters(counters) => {
                // That it says them is all that is asked of most.
                match self.processes.all.get_mut(index).is_some_and(|process| process.silence.end()) {
                    true => self.note_amount(index, &counters),
                    false => self.on_violation(index, "counters that nobody asked for"),
                }
            }
        }
    }

    fn note_ready(&mut self, index: usize, ready: Ready) {
        if let Some(process) = self.processes.all.get_mut(index) {
            process.ready = Some(ready);
        }
        self.tell_what_is_lacking(index);
        self.on_successor_ready(index);
        self.on_ready();
    }

    /// What a later process of a device lacks that the one before it had: a host may have it no more. At the start it is said
    /// of all.
    fn tell_what_is_lacking(&mut self, index: usize) {
        let lacking = self.processes.all.get(index).map(report::lacking_of).unwrap_or_default();
        let device = self.devices.iter_mut().find(|device| device.has(index));
        let Some(device) = device.filter(|_| self.state != State::Starting) else { return };
        lacking.iter().filter(|line| !device.lacking.contains(line)).for_each(|line| report::say(line));
        device.lacking = lacking;
    }

    /// That a device's program does not know of something that was asked of it, as it would have skipped it in its set-up.
    fn too_old(&self, index: usize) -> Option<Verdict> {
        let words = self.devices.iter().find(|device| device.has(index))?.words?;
        let process = self.processes.all.get(index)?;
        let minor = process.control.as_ref()?.peer_minor();
        (minor < words.since).then(|| verdict::of_old_program(&process.name, minor, words))
    }

    /// A device's program has state that outlives it: it gets what its predecessors have left, once.
    fn hand_on_keep(&mut self, index: usize) {
        let Some(process) = self.processes.all.get_mut(index) else { return };
        if std::mem::replace(&mut process.has_keep, true) {
            return self.on_violation(index, "a keep asked for twice");
        }
        // One that is dismissed is no device's any more, and goes on waiting until it ends.
        let keep =
            self.devices.iter().find(|device| device.has(index)).and_then(|device| device.keep.as_ref());
        if let (Some(control), Some(keep)) = (&process.control, keep) {
            // One that is dead is seen to be; one that takes nothing is not ready in time.
            let _ = control.send(&ToDevice::Keep, &[keep.as_fd()]);
        }
    }

    /// A program's policy has refused a system call of its, as it says itself: it is dead or about to be. One that was taken
    /// over may have no intention to be, therefore it is killed on the word, and nothing more is heard from it. Nobody gains
    /// by saying so what is not true: it is the end of whoever says it, as the call would have been.
    fn on_refused_call(&mut self, index: usize, violation: Violation) {
        self.kill_process(index);
        let Some(process) = self.processes.all.get_mut(index) else { return };
        process.refused = Some(violation);
        if let Some(control) = process.control.take() {
            self.events.forget(&control);
        }
    }

    pub(super) fn on_violation(&mut self, index: usize, what: &str) {
        let Some(process) = self.processes.all.get_mut(index) else { return };
        let _ = process.child.kill();
        if let Some(control) = process.control.take() {
            self.events.forget(&control);
        }
        let verdict = verdict::of_violation(&process.name, process.program, what);
        self.give_up_on(index, verdict);
    }

    pub(super) fn tell_core(&self, message: &ToCore, fds: &[BorrowedFd<'_>]) -> Result<(), protocol::Error> {
        let core = self.core().and_then(|index| self.processes.all.get(index));
        match core.and_then(|core| core.control.as_ref()) {
            Some(control) => control.send(message, fds),
            None => Err(protocol::Error::System { call: "sendmsg", errno: Errno::EPIPE }),
        }
    }

    pub(super) fn tell_all_to_stop(&self) {
        // One that does not take it is killed when its time is over.
        for process in &self.processes.all {
            let Some(control) = process.control.as_ref() else { continue };
            let _ = match process.program {
                Program::Core => control.send(&ToCore::Stop, &[]),
                _ => control.send(&ToDevice::Stop, &[]),
            };
        }
    }
}
