//! Whether the programs of devices still answer on their control channels.
//!
//! Now and then each is asked for its counters. One that does not answer for long is stopped, spins or waits for ever, and
//! is ended for that. What an answer proves is little: that the thread which hears the launcher and the front end runs.
//! Whether requests make progress the core sees, and sooner; but it sees nothing of a device that has none, and that would
//! be found out only by whoever needs it next.
//!
//! A setting that somebody waits for is to be answered in the same time, whatever else is.
//!
//! Time is counted in looks of ours. A look that comes late counts as one: the host was busy, or the machine was frozen as a
//! whole, and the program had no more time than we.
//!
//! Not asked are the back ends that somebody else runs, which have no control channel, programs of a minor version below
//! [`SINCE`], which nobody has told that they must answer in time, and the core: a mistake about that would end the
//! machine.
//!
//! The thread that answers also talks to the core, and waits for the device's other threads when that takes a ring back.
//! For that the core has less patience than we: a device that is late with an answer because of slow I/O is lost before.

use std::time::{Duration, Instant};

use protocol::ToDevice;
use sandbox_policies::Program;

use super::Supervisor;
use super::recovery::Reason;
use super::verdict::{self, Verdict};
use crate::spawn::Process;

/// Between two looks: few enough for a machine that has nothing to do.
const BETWEEN: Duration = Duration::from_secs(10);
/// So many looks may find a question unanswered. Twice the core's limit on requests, which knows more about why.
const MOST: u8 = 6;
/// The minor version of the protocol from which on a device has to answer in time.
const SINCE: u8 = 4;

/// When to look next.
#[derive(Debug, Default)]
pub struct Looks(Option<Instant>);

impl Looks {
    /// The time of the next, if there is to be one.
    pub fn next(&self) -> Option<Instant> {
        self.0
    }

    /// Whether it is time for a look; the next one is then due as long after this one as ever.
    fn due(&mut self, now: Instant) -> bool {
        let due = self.0.is_some_and(|next| next <= now);
        if due || self.0.is_none() {
            self.0 = now.checked_add(BETWEEN);
        }
        due
    }
}

/// What one program owes.
#[derive(Debug, Default)]
pub struct Silence {
    /// How many looks have found the question unanswered, if there is one.
    unanswered: Option<u8>,
    /// The same of a setting.
    unset: Option<u8>,
}

/// What a look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It owes nothing: the next question is to be put.
    Ask,
    /// It has time yet, or it has been said that it has not.
    Wait,
    /// It has none any more. Said once.
    Silent,
}

impl Silence {
    fn look(&mut self) -> Look {
        let mut silent = false;
        for looks in [&mut self.unanswered, &mut self.unset].into_iter().flatten() {
            *looks = looks.saturating_add(1);
            silent |= *looks == MOST;
        }
        match self.unanswered {
            _ if silent => Look::Silent,
            Some(_) => Look::Wait,
            None => {
                self.unanswered = Some(0);
                Look::Ask
            }
        }
    }

    /// It was told of a setting: that is to be answered, too.
    pub fn tell(&mut self) {
        self.unset = Some(0);
    }

    /// It has answered that.
    pub fn told(&mut self) {
        self.unset = None;
    }

    /// Whether it owes an answer.
    pub fn is_asked(&self) -> bool {
        self.unanswered.is_some()
    }

    /// It was asked, beside the looks.
    pub fn ask(&mut self) {
        self.unanswered.get_or_insert(0);
    }

    /// It answers. Whether it was asked.
    pub fn end(&mut self) -> bool {
        self.unanswered.take().is_some()
    }
}

impl Supervisor {
    /// Asks those who owe nothing, and ends those who have owed an answer for too long.
    pub(super) fn look_for_silence(&mut self, now: Instant) {
        // Without a process of ours there is nobody to wake up for.
        if self.devices.iter().all(|device| device.process.is_none()) || !self.looks.due(now) {
            return;
        }
        self.amounts_no_more();
        let mut silent = Vec::new();
        for (index, process) in self.processes.all.iter_mut().enumerate().filter(|(_, it)| is_asked(it)) {
            match process.silence.look() {
                // One that has no room for the question is as silent as one that has no answer.
                Look::Ask => {
                    let _ = process.control.as_ref().map(|control| control.send(&ToDevice::Query, &[]));
                }
                Look::Wait => {}
                Look::Silent => silent.push(index),
            }
        }
        silent.into_iter().for_each(|index| self.on_silence(index));
    }

    fn on_silence(&mut self, index: usize) {
        let Some(name) = self.processes.all.get(index).map(|process| process.name.clone()) else { return };
        let seconds = BETWEEN.as_secs().saturating_mul(MOST.into());
        let text = format!("it has not answered on its control channel for {seconds} s");
        let verdict = verdict::of_lost_device(&name, text.clone(), false);
        if self.second(index).is_some() {
            // It serves nothing: its end is told to whoever asked for it.
            return self.give_up_on(index, Verdict { text: Some(text), ..verdict });
        }
        match self.survivable(index) {
            Some(device) => self.end_process(device, index, Some(Reason { text, hung: true })),
            None => {
                // It would not hear that it is to stop.
                self.kill_process(index);
                self.conclude(verdict);
            }
        }
    }
}

/// Whether this is a device's program that serves, or is to, and has to answer.
pub(super) fn is_asked(process: &Process) -> bool {
    let serves = process.ready.is_some() && process.ended.is_none() && process.dismissed.is_none();
    let knows = process.control.as_ref().is_some_and(|control| control.peer_minor() >= SINCE);
    process.program != Program::Core && serves && knows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_answers_is_asked_at_each_look_and_never_silent() {
        let mut silence = Silence::default();
        assert!(!silence.end(), "nobody has asked");
        for _ in 0..100 {
            assert_eq!(silence.look(), Look::Ask);
            assert!(silence.end());
            assert!(!silence.end(), "it was asked once");
        }
    }

    #[test]
    fn one_that_does_not_answer_is_asked_once_and_found_silent_once() {
        let mut silence = Silence::default();
        assert_eq!(silence.look(), Look::Ask);
        for _ in 1..MOST {
            assert_eq!(silence.look(), Look::Wait);
        }
        assert_eq!(silence.look(), Look::Silent);
        for _ in 0..1000 {
            assert_eq!(silence.look(), Look::Wait);
        }
    }

    #[test]
    fn one_that_answers_everything_but_a_setting_is_found_silent_once() {
        let mut silence = Silence::default();
        silence.tell();
        silence.told();
        silence.tell();
        for _ in 1..MOST {
            assert_eq!(silence.look(), Look::Ask);
            assert!(silence.end());
        }
        assert_eq!(silence.look(), Look::Silent);
        for _ in 0..1000 {
            assert_eq!(silence.look(), Look::Ask);
            assert!(silence.end());
        }
    }

    #[test]
    fn an_answer_at_the_last_moment_begins_anew() {
        let mut silence = Silence::default();
        for _ in 0..3 {
            assert_eq!(silence.look(), Look::Ask);
            for _ in 1..MOST {
                assert_eq!(silence.look(), Look::Wait);
            }
            assert!(silence.end());
        }
    }

    #[test]
    fn a_look_that_comes_late_is_one_look() {
        let start = Instant::now();
        let mut looks = Looks::default();
        assert!(!looks.due(start), "the first is due after a while");
        assert_eq!(looks.next(), Some(start + BETWEEN));
        assert!(!looks.due(start + BETWEEN / 2));
        // The machine was frozen for a day.
        let thawed = start + Duration::from_secs(86_400);
        assert!(looks.due(thawed));
        assert!(!looks.due(thawed));
        assert_eq!(looks.next(), Some(thawed + BETWEEN));
    }
}
