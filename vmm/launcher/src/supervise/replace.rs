//! The replacement of a device's program on purpose, as the supervisor carries it out.
//!
//! A new process is spawned and ready before the core hears of it; the core agrees with it, has the rings of the old one
//! drained and starts the new one where they stand; then the old one is told to end. That one lives until then, unlike
//! the predecessor of a successor ([`super::recovery`]), and need not be dead: it has given back all that it had taken, so
//! that nothing of it can be done twice, and writes no more.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use protocol::{
    Failure, FailureKind, FromLauncher, Refused, Replace, Replaced, Respawn, ToCore, ToDevice, ToSpawner,
};

use super::cause::End;
use super::device_event::DeviceEvent;
use super::second::Second;
use super::{GRACE, Recovery, Supervisor, after, verdict};
use crate::nearest;
use crate::report;
use crate::spawn::Process;

impl Supervisor {
    /// Begins to replace the program of a device, by `program` or by the one that it has.
    pub(super) fn replace(
        &mut self,
        client: u64,
        name: &str,
        program: Option<OwnedFd>,
    ) -> Result<(), String> {
        let names: Vec<String> = self.devices.iter().map(|device| device.name.clone()).collect();
        if !self.recovers() {
            return Err("the machine does not run, or is about to end".to_owned());
        }
        let Some(device) = names.iter().position(|known| known == name) else {
            let hint = nearest::hint(name, names.iter().map(String::as_str));
            return Err(format!("there is no device '{name}'{hint}; vmm ctl VM devices lists all"));
        };
        let Some(recovery) = self.devices.get_mut(device) else { return Ok(()) };
        recovery.replaceable()?;
        // A spare of the program that goes is of no use; one of the program that comes follows.
        if let Some(index) = recovery.second.take().and_then(|spare| spare.process) {
            self.dismiss(index, false);
        }
        self.ask_for_second(device, Some(client), program)
    }

    /// Has the spares spawned that there are to be.
    pub(super) fn ask_for_spares(&mut self) {
        while let Some(device) = self.devices.iter().position(Recovery::wants_spare) {
            if let Err(why) = self.ask_for_second(device, None, None) {
                self.renounce_spare(device, &why);
            }
        }
    }

    fn renounce_spare(&mut self, device: usize, why: &str) {
        let Some(recovery) = self.devices.get_mut(device) else { return };
        recovery.renounce_spare();
        report::say(&format!("device {} has no spare any more: {why}", recovery.name));
    }

    fn ask_for_second(
        &mut self,
        device: usize,
        client: Option<u64>,
        program: Option<OwnedFd>,
    ) -> Result<(), String> {
        let Some(recovery) = self.devices.get_mut(device) else { return Ok(()) };
        let number = recovery.replaceable()?;
        // A program that replaced the first one stays the device's own.
        let program = match (program, &recovery.program) {
            (None, Some(own)) => {
                Some(own.try_clone().map_err(|error| format!("cannot keep its program: {error}"))?)
            }
            (program, _) => program,
        };
        let respawn = Respawn { device: number, blamed: false, program: program.is_some() };
        self.requests = self.requests.wrapping_add(1);
        let second = Second::new(client, program, self.requests);
        let asked = self.processes.spawner.as_ref().map(|spawner| {
            spawner.ask(ToSpawner::Respawn(respawn), second.program.as_ref().map(AsFd::as_fd))
        });
        if !matches!(asked, Some(Ok(()))) {
            return Err("the spawner is gone: no program can be started any more".to_owned());
        }
        self.asked.push_back((device, Some(self.requests)));
        recovery.second = Some(second);
        Ok(())
    }

    /// The spawner has spawned one.
    pub(super) fn on_second_spawned(
        &mut self,
        device: usize,
        process: Process,
        front_end: OwnedFd,
        request: Option<u64>,
    ) {
        let keeps = |index| self.devices.iter().any(|device| device.has(index));
        let index = self.processes.place(process, keeps);
        let Some(process) = self.processes.all.get(index) else { return };
        if let Err(error) = self.events.watch_process(index, process) {
            return self.fail(&error);
        }
        let second = self.devices.get_mut(device).and_then(|device| device.second.as_mut());
        match second.filter(|second| request.is_some_and(|request| second.is_answer_to(request))) {
            Some(second) if matches!(self.state, super::State::Running | super::State::PowerButton(_)) => {
                second.on_spawned(index, front_end, Instant::now());
            }
            // Nobody waits for it any more.
            _ => self.dismiss(index, false),
        }
    }

    /// It is ready: the core may have it, now or, if it is a spare, when it is needed.
    pub(super) fn on_second_ready(&mut self, index: usize) {
        let Some(device) = self.second(index) else { return };
        let Some(recovery) = self.devices.get_mut(device) else { return };
        if let Some(spare) = recovery.second.as_mut().filter(|second| second.client.is_none()) {
            spare.keep();
            let pid = self.processes.all.get(index).map_or(0, |process| process.child.pid());
            return report::say(&format!("device {} has a spare (pid {pid})", recovery.name));
        }
        let slot = recovery.slot;
        let Some(front_end) = recovery.second.as_mut().and_then(|second| second.offer(Instant::now())) else {
            return;
        };
        if let Err(error) = self.tell_core(&ToCore::Replace(Replace { slot }), &[front_end.as_fd()]) {
            self.conclude(verdict::of_silent_core(&error));
        }
    }

    /// The device whose second process this is.
    pub(super) fn second(&self, index: usize) -> Option<usize> {
        let of =
            |device: &Recovery| device.second.as_ref().is_some_and(|second| second.process == Some(index));
        self.devices.iter().position(of)
    }

    /// A second process has ended: before the core's word that is the end of the attempt, if it had it the core says what
    /// that means.
    pub(super) fn on_second_ended(&mut self, device: usize, end: End) {
        let Some(second) = self.devices.get_mut(device).and_then(|device| device.second.as_mut()) else {
            return;
        };
        if second.offered().is_some() {
            second.ended = Some(end);
            return;
        }
        let reason = second.reason.take().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let why = format!("the new program died before it was ready: {}{reason}", verdict::describe(end));
        self.fail_second(device, &why);
    }

    /// Ends the attempt to replace a device's process, and says why to whoever waits for it.
    pub(super) fn fail_second(&mut self, device: usize, why: &str) {
        let Some(second) = self.devices.get_mut(device).and_then(Recovery::let_go_of_second) else {
            return;
        };
        if let Some(index) = second.process {
            self.dismiss(index, false);
        }
        match second.client {
            Some(client) => {
                self.answer(client, &FromLauncher::Failed(Failure::new(FailureKind::Device, why)));
            }
            None => self.renounce_spare(device, why),
        }
        self.carry_on();
    }

    /// The core will not have the new one.
    pub(super) fn on_refused(&mut self, core: usize, refused: &Refused) {
        let device = usize::from(refused.slot).wrapping_sub(1);
        if self.devices.get(device).is_some_and(Recovery::owes_a_choice) {
            self.fail_second(device, &format!("the new program will not do: {}", refused.text));
            // That was it.
            self.is_late_choice(device);
        } else if !self.is_late_choice(device) {
            self.on_violation(core, "a replacement refused that nobody sent");
        }
    }

    /// Whether the core had a choice that is none any more: the device has failed meanwhile.
    pub(super) fn is_late_choice(&mut self, device: usize) -> bool {
        self.devices.get_mut(device).is_some_and(Recovery::has_chosen_too_late)
    }

    /// Whether a second process of the device is to come from this request.
    pub(super) fn awaits(&self, device: usize, request: u64) -> bool {
        let second = self.devices.get(device).and_then(|device| device.second.as_ref());
        second.is_some_and(|second| second.is_answer_to(request))
    }

    /// The core has the new one in the place of the old one. False: none was offered.
    pub(super) fn on_replaced(&mut self, device: usize) -> bool {
        let Some(recovery) = self.devices.get_mut(device).filter(|device| device.owes_a_choice()) else {
            return false;
        };
        let now = Instant::now();
        let Some((old, second, within)) = recovery.on_replaced(now) else { return false };
        let process = second.process.and_then(|index| self.processes.all.get(index));
        let pid = process.map_or(0, |process| process.child.pid());
        if let Some(old) = old {
            self.dismiss(old, true);
        }
        self.tell_of(device, &DeviceEvent::Replaced { pid, within });
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        if let Some(client) = second.client {
            self.answer(client, &FromLauncher::Replaced(Replaced { pid, within_ms }));
        }
        if let (Some(index), Some(end)) = (second.process, second.ended) {
            // It died between the core's word and now.
            if let Some(process) = self.processes.all.get(index) {
                let verdict = verdict::of_end(&process.name, process.program, end, true);
                self.on_death(index, verdict, end);
            }
        }
        true
    }

    /// Lets a process go that serves nothing (any more): told to end, or killed.
    pub(super) fn dismiss(&mut self, index: usize, gently: bool) {
        let Some(process) = self.processes.all.get_mut(index) else { return };
        if process.ended.is_some() {
            return;
        }
        process.dismissed = after(GRACE);
        let told = process.control.as_ref().is_some_and(|control| control.send(&ToDevice::Stop, &[]).is_ok());
        if !gently || !told {
            // It can fail only for one that is dead, whose end is an event of its own.
            let _ = process.child.kill();
        }
    }

    /// Ends what was told to end and did not, and gives up what is not ready in time.
    pub(super) fn end_the_late(&mut self, now: Instant) {
        for process in &mut self.processes.all {
            if process.ended.is_none() && process.dismissed.is_some_and(|until| until <= now) {
                let _ = process.child.kill();
                process.dismissed = after(GRACE);
            }
        }
        let late = |device: &Recovery| {
            device.second.as_ref().and_then(Second::deadline).is_some_and(|deadline| deadline <= now)
        };
        while let Some(device) = self.devices.iter().position(late) {
            self.fail_second(device, "the new program was not ready in time");
        }
    }
}
