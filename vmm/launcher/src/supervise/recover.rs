//! The recovery of devices as the supervisor carries it out; each event is told ([`DeviceEvent`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use protocol::{
    Abandon, Channel, Connect, DeviceLost, FromSpawner, NotConnected, Reconnect, Respawn, SpawnFailed,
    Spawned, ToCore, ToSpawner,
};
use sandbox_policies::spawn::Child;

use super::cause::{Cause, End};
use super::device_event::{DeviceEvent, Then};
use super::recovery::{Decision, Due, Reason, Recovery, TakenUp};
use super::second::Second;
use super::verdict::{self, Verdict};
use super::{State, Supervisor};
use crate::report;
use crate::spawn::Process;

impl Supervisor {
    /// Whether devices are recovered: neither before the machine runs nor once its end has begun.
    pub(super) fn recovers(&self) -> bool {
        matches!(self.state, State::Running | State::PowerButton(_))
    }

    /// The device of process `index`, if the machine survives the end of that.
    pub(super) fn survivable(&self, index: usize) -> Option<usize> {
        let of = |device: &Recovery| device.process == Some(index) && device.is_survivable();
        self.devices.iter().position(of).filter(|_| self.recovers())
    }

    /// A program does what means the end of the machine, unless it serves a device that can do without it: then it is
    /// ended, and why is said when it has.
    pub(super) fn give_up_on(&mut self, index: usize, verdict: Verdict) {
        if let Some(device) = self.second(index) {
            // It serves nothing, and its end is told to whoever asked for it.
            let second = self.devices.get_mut(device).and_then(|device| device.second.as_mut());
            if let (Some(second), Some(text)) = (second, verdict.text) {
                second.reason.get_or_insert(text);
            }
            return self.kill_process(index);
        }
        if self.processes.all.get(index).is_some_and(|process| process.dismissed.is_some()) {
            // As it was told to.
            return;
        }
        match self.survivable(index) {
            Some(device) => self.end_process(device, index, verdict.text.as_deref().map(Reason::from)),
            None => self.conclude(verdict),
        }
    }

    pub(super) fn end_process(&mut self, device: usize, index: usize, reason: Option<Reason>) {
        if let (Some(device), Some(reason)) = (self.devices.get_mut(device), reason) {
            device.give_up_on_process(reason);
        }
        self.kill_process(index);
    }

    pub(super) fn kill_process(&self, index: usize) {
        if let Some(process) = self.processes.all.get(index) {
            // It can fail only for one that is dead, whose end is an event of its own.
            let _ = process.child.kill();
        }
    }

    /// A program closed its control channel: it is ending, and if not, it is ended. How says more than that it hung up.
    pub(super) fn on_hang_up(&mut self, index: usize, verdict: Verdict) {
        let quiet = Verdict { text: None, ..verdict.clone() };
        let survivable = self.survivable(index).is_some() || self.second(index).is_some();
        let verdict = if survivable { quiet } else { verdict };
        self.give_up_on(index, verdict);
    }

    /// A program that nobody asked to end has ended.
    pub(super) fn on_death(&mut self, index: usize, verdict: Verdict, end: End) {
        let Some(device) = self.survivable(index) else { return self.conclude(verdict) };
        let reason = self.devices.get_mut(device).and_then(Recovery::take_reason);
        let cause = Cause::of(end, reason.as_ref().is_some_and(|reason| reason.hung));
        let how = verdict::describe(end);
        self.decide(device, cause, reason.map_or(how.clone(), |reason| format!("{how} ({})", reason.text)));
    }

    fn decide(&mut self, device: usize, cause: Cause, how: String) {
        let Some(recovery) = self.devices.get_mut(device) else { return };
        let decision = recovery.on_death(cause, Instant::now());
        self.carry_out(device, cause, how, decision);
    }

    fn carry_out(&mut self, device: usize, cause: Cause, how: String, decision: Decision) {
        let Some(recovery) = self.devices.get(device) else { return };
        let decision = match decision {
            Decision::Restart if self.processes.spawner.is_none() => {
                Decision::Stop("; the spawner is gone, too".to_owned())
            }
            decision => decision,
        };
        let (name, blamed) = (recovery.name.clone(), recovery.is_blamed());
        let (how, then) = match &decision {
            Decision::Restart => (how, Then::Restart),
            Decision::Fail(why) => (format!("{how}{why}"), Then::Fail),
            Decision::Stop(why) => (format!("{how}{why}"), Then::Stop),
        };
        self.tell_of(device, &DeviceEvent::Death { cause, how: how.clone(), blamed, then });
        // If the core has both to choose from, it says so first, unless nobody wants to know any more.
        // A spare is kept for later where it has not just taken over.
        let kept = |device: &Recovery| device.owes_a_choice() || device.replacement().is_none();
        if then != Then::Restart || !self.devices.get(device).is_some_and(kept) {
            self.fail_second(device, &format!("the process that serves has died: {how}"));
        }
        match then {
            Then::Restart => {}
            Then::Fail => self.abandon(device),
            Then::Stop => self.conclude(verdict::of_lost_device(&name, how, false)),
        }
        self.carry_on();
    }

    /// Says an event to whoever listens, and counts it.
    pub(super) fn tell_of(&mut self, device: usize, event: &DeviceEvent) {
        let Some(recovery) = self.devices.get_mut(device) else { return };
        recovery.tally.count(event);
        // The file first: whoever has read the line finds the object.
        self.journal.record(&recovery.name, event);
        if let Some(line) = event.line(&recovery.name) {
            report::say(&line);
        }
    }

    fn abandon(&mut self, device: usize) {
        let Some(slot) = self.devices.get(device).map(|recovery| recovery.slot) else { return };
        if let Err(error) = self.tell_core(&ToCore::Abandon(Abandon { slot }), &[]) {
            self.conclude(verdict::of_silent_core(&error));
        }
    }

    /// The core has lost a back end.
    pub(super) fn on_device_lost(&mut self, core: usize, lost: &DeviceLost) {
        let Some(device) = usize::from(lost.slot).checked_sub(1).filter(|slot| *slot < self.devices.len())
        else {
            return self.on_violation(core, "a device lost that does not exist");
        };
        let Some(recovery) = self.devices.get_mut(device) else { return };
        let verdict = verdict::of_device_lost(&recovery.name, lost);
        let news = recovery.on_lost(Instant::now());
        let (process, survivable) = (recovery.process, recovery.is_survivable());
        let dead = |index: usize| self.processes.all.get(index).is_none_or(|process| process.ended.is_some());
        match process {
            // How it died says more, and has been said or will be.
            Some(index) if dead(index) || !news => {}
            Some(index) if self.survivable(index).is_some() => {
                let reason = Reason { text: lost.text.clone(), hung: lost.hung };
                self.end_process(device, index, Some(reason));
            }
            None if survivable && self.recovers() => {
                self.decide(device, Cause::Disconnected, lost.text.clone());
            }
            _ => self.conclude(verdict),
        }
        self.carry_on();
    }

    /// The core goes on with a successor.
    pub(super) fn on_reconnected(&mut self, core: usize, slot: u8) {
        // Slots count from 1. A number beyond all is that of no device.
        let device = usize::from(slot).wrapping_sub(1);
        if self.on_replaced(device) || self.is_late_choice(device) {
            return;
        }
        let taken_up = self.devices.get_mut(device).map(|device| device.on_reconnected(Instant::now()));
        let pause = match taken_up {
            Some(TakenUp::Serves(pause)) => pause,
            Some(TakenUp::TooLate) => return,
            Some(TakenUp::Unasked) | None => {
                return self.on_violation(core, "a successor that nobody sent");
            }
        };
        let process = self.devices.get(device).and_then(|device| device.process);
        let process = process.and_then(|index| self.processes.all.get(index));
        let pid = process.map(|process| process.child.pid());
        self.tell_of(device, &DeviceEvent::Serving { pid, pause });
    }

    /// A device's program is ready, at whatever time.
    pub(super) fn on_successor_ready(&mut self, index: usize) {
        if let Some(device) = self.devices.iter_mut().find(|device| device.process == Some(index)) {
            device.on_ready();
            self.carry_on();
        }
        self.on_second_ready(index);
    }

    /// Does what it is time for.
    pub(super) fn carry_on(&mut self) {
        if !self.recovers() {
            return;
        }
        let now = Instant::now();
        self.end_the_late(now);
        self.look_for_silence(now);
        self.ask_for_spares();
        let due: Vec<Due> = self.devices.iter_mut().filter_map(|device| device.due(now)).collect();
        for due in due {
            match due {
                Due::Spawn(number, blamed) => self.ask_for_successor(number, blamed),
                Due::Connect(slot) => self.ask_for(ToSpawner::Connect(Connect { slot }), None),
                Due::Kill(index) => {
                    if let Some(device) = self.survivable(index) {
                        self.end_process(device, index, Some("it was not ready in time".into()));
                    }
                }
            }
        }
        let offers: Vec<(u8, OwnedFd)> =
            self.devices.iter_mut().filter_map(|device| Some((device.slot, device.offer()?))).collect();
        for (slot, front_end) in offers {
            let told = self.tell_core(&ToCore::Reconnect(Reconnect { slot }), &[front_end.as_fd()]);
            if let Err(error) = told {
                self.conclude(verdict::of_silent_core(&error));
            }
        }
    }

    fn ask_for_successor(&mut self, number: u8, blamed: bool) {
        let Some(device) = self.devices.iter().position(|device| device.is_number(number)) else { return };
        // Ours goes back when it is asked for.
        let program = self.devices.get_mut(device).and_then(|device| device.program.take());
        self.asked.push_back((device, None));
        let respawn = Respawn { device: number, blamed, program: program.is_some() };
        self.ask_for(ToSpawner::Respawn(respawn), program.as_ref().map(AsFd::as_fd));
        if let Some(device) = self.devices.get_mut(device) {
            device.program = program;
        }
    }

    fn ask_for(&mut self, what: ToSpawner, program: Option<BorrowedFd<'_>>) {
        let asked = self.processes.spawner.as_ref().map(|spawner| spawner.ask(what, program));
        if !matches!(asked, Some(Ok(()))) {
            self.on_spawner_gone();
        }
    }

    /// The spawner answers, or is gone.
    pub(super) fn on_spawner(&mut self) {
        let Some(spawner) = self.processes.spawner.as_ref() else { return };
        match spawner.answer() {
            Ok(Some((FromSpawner::Spawned(spawned), fds))) => self.on_spawned(spawned, fds),
            Ok(Some((FromSpawner::Failed(SpawnFailed { failure, .. }), left))) => {
                self.take_over_the_dead(left);
                self.on_not_spawned(&failure.text);
            }
            Ok(Some((FromSpawner::Connected(Connect { slot }), fds))) => {
                let front_end = fds.into_iter().next();
                if let (Some(device), Some(front_end)) = (self.in_slot(slot), front_end) {
                    device.on_connected(front_end);
                    self.carry_on();
                }
            }
            Ok(Some((FromSpawner::NotConnected(NotConnected { slot, failure }), _))) => {
                let decision = self.in_slot(slot).and_then(|device| device.on_not_connected(Instant::now()));
                if let Some(decision) = decision.filter(|_| self.recovers()) {
                    let device = usize::from(slot).wrapping_sub(1);
                    self.carry_out(device, Cause::Disconnected, failure.text, decision);
                }
            }
            Err(protocol::Error::WouldBlock) => {}
            Ok(None) | Err(_) => self.on_spawner_gone(),
        }
    }

    /// What the spawner made and came to nothing are children of ours, dead or about to be.
    fn take_over_the_dead(&mut self, pidfds: Vec<OwnedFd>) {
        // What they are called and their pids nobody asks any more.
        self.processes.left.extend(pidfds.into_iter().map(|pidfd| Child::adopt("", 0, pidfd)));
    }

    fn on_not_spawned(&mut self, why: &str) {
        match self.asked.pop_front() {
            Some((device, Some(request))) if self.awaits(device, request) => {
                self.fail_second(device, &format!("the new program cannot be started: {why}"));
            }
            Some((device, None)) if self.recovers() && self.expects(device) => {
                self.decide(device, Cause::NotSpawned, why.to_owned());
            }
            _ => {}
        }
    }

    /// Whether a successor of its process was asked for and is still wanted.
    fn expects(&self, device: usize) -> bool {
        self.devices.get(device).is_some_and(Recovery::expects)
    }

    fn in_slot(&mut self, slot: u8) -> Option<&mut Recovery> {
        self.devices.iter_mut().find(|device| device.slot == slot)
    }

    /// What is dead now cannot be started again; what lives is not touched.
    fn on_spawner_gone(&mut self) {
        if let Some(spawner) = self.processes.spawner.take() {
            self.events.forget(&spawner);
        }
        self.asked.clear();
        let awaits = |device: &Recovery| device.second.as_ref().is_some_and(Second::is_awaited);
        while let Some(device) = self.devices.iter().position(awaits) {
            self.fail_second(device, "the spawner is gone: no program can be started any more");
        }
        let waiting =
            self.devices.iter().find(|device| device.is_waiting()).map(|device| device.name.clone());
        match waiting {
            Some(name) => {
                let how = "it died, and the spawner is gone, too".to_owned();
                self.conclude(verdict::of_lost_device(&name, how, false));
            }
            None => report::say("the spawner is gone: a device that dies cannot be started again"),
        }
    }

    fn on_spawned(&mut self, spawned: Spawned, mut fds: Vec<OwnedFd>) {
        let left = fds.split_off(fds.len().min(Spawned::FDS));
        self.take_over_the_dead(left);
        // Answers come in the order of the requests.
        let Some((device, second)) = self.asked.pop_front() else { return };
        // As many as the message has, which `protocol` has seen to.
        let Ok([pidfd, control, log, front_end]) = <[OwnedFd; Spawned::FDS]>::try_from(fds) else { return };
        let Ok(control) = Channel::from_fd(control) else { return };
        let Some(index) = self.devices.get(device).and_then(|device| device.process) else { return };
        let Some(process) = self.processes.all.get_mut(index) else { return };
        let child = Child::adopt(&process.name, spawned.pid, pidfd).without(spawned.lacking);
        let new = Process::new(&process.name, process.program, (child, control, log));
        // One that the core has chosen meanwhile is not to be followed any more.
        if second.is_some() || !self.expects(device) {
            return self.on_second_spawned(device, new, front_end, second);
        }
        let Some(process) = self.processes.all.get_mut(index) else { return };
        *process = new;
        if let Err(error) = self.events.watch_process(index, process) {
            return self.fail(&error);
        }
        if self.survivable(index).is_none() {
            // The end has begun meanwhile.
            if let Some(process) = self.processes.all.get(index) {
                let _ = process.child.kill();
            }
            return;
        }
        if let Some(device) = self.devices.iter_mut().find(|device| device.process == Some(index)) {
            device.on_spawned(front_end, Instant::now());
        }
    }
}
