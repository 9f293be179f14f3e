//! What happens to a device: one line for a person, one JSON object for a program, and the counters of both.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cause::Cause;
use super::system_call;
use crate::json::Object;

/// See above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// Its back end is gone.
    Death {
        /// What became of it.
        cause: Cause,
        /// The same in words, and why where that is known.
        how: String,
        /// Whether one of the guest's requests may be to blame.
        blamed: bool,
        /// What comes now.
        then: Then,
    },
    /// It serves again, after the guest has waited so long.
    Serving {
        /// Who serves it now, if it is a process of ours.
        pid: Option<i32>,
        /// From the loss to here.
        pause: Duration,
    },
    /// Another process took the place of the one that served, on purpose.
    Replaced {
        /// Who serves it now.
        pid: i32,
        /// From the moment at which the core had it to talk to; the guest's pause is a part of that.
        within: Duration,
    },
}

/// What comes after a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// A successor.
    Restart,
    /// The guest goes on without the device.
    Fail,
    /// The end of the machine.
    Stop,
}

impl DeviceEvent {
    /// The line for a person; none where another says it: the end of the machine has a line of its own.
    pub fn line(&self, device: &str) -> Option<String> {
        match self {
            DeviceEvent::Death { how, cause: Cause::Disconnected, then: Then::Restart, .. } => Some(format!(
                "device {device} lost its back end: {how}; it waits for somebody to listen at the socket again"
            )),
            DeviceEvent::Death { how, then: Then::Restart, .. } => {
                Some(format!("device {device} died: {how}; it is started again"))
            }
            DeviceEvent::Death { how, then: Then::Fail, .. } => {
                Some(format!("device {device} has failed: {how}; the guest goes on without"))
            }
            DeviceEvent::Death { then: Then::Stop, .. } => None,
            DeviceEvent::Serving { pid, pause } => {
                let who = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                Some(format!("device {device} serves again{who} after {} ms", pause.as_millis()))
            }
            DeviceEvent::Replaced { pid, within } => {
                Some(format!("device {device} is replaced (pid {pid}) within {} ms", within.as_millis()))
            }
        }
    }

    /// The object for a program.
    pub fn json(&self, device: &str) -> String {
        // A clock before 1970 is as good as none.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let object = |event| Object::new().number("time_ms", now.as_millis()).text("event", event);
        match self {
            DeviceEvent::Death { cause, how, blamed, then } => {
                let mut object = object("death").text("device", device).text("cause", cause.word());
                match cause {
                    Cause::Exit(code) => object = object.number("code", code),
                    Cause::Signal(number) => object = object.number("signal", number),
                    Cause::SystemCall(Some(refused)) => {
                        if let Some(name) = system_call::name(refused.call) {
                            object = object.text("system_call", name);
                        }
                        object = object.number("number", refused.call);
                    }
                    _ => {}
                }
                object.text("text", how).switch("blamed", *blamed).text("then", then.word()).end()
            }
            DeviceEvent::Serving { pid, pause } => {
                let mut object = object("serving").text("device", device);
                if let Some(pid) = pid {
                    object = object.number("pid", pid);
                }
                object.number("pause_ms", pause.as_millis()).end()
            }
            DeviceEvent::Replaced { pid, within } => {
                let object = object("replaced").text("device", device).number("pid", pid);
                object.number("within_ms", within.as_millis()).end()
            }
        }
    }
}

impl Then {
    fn word(self) -> &'static str {
        match self {
            Then::Restart => "restart",
            Then::Fail => "fail",
            Then::Stop => "stop",
        }
    }
}

/// How often what happened to one device.
#[derive(Debug, Default)]
pub struct Tally {
    deaths: [u64; Cause::WORDS.len()],
    restarts: u64,
    replacements: u64,
    pauses: u64,
    pause: Duration,
    longest_pause: Duration,
}

impl Tally {
    /// Counts an event.
    pub fn count(&mut self, event: &DeviceEvent) {
        match event {
            DeviceEvent::Death { cause, then, .. } => {
                let place = Cause::WORDS.iter().position(|word| *word == cause.word());
                if let Some(deaths) = place.and_then(|place| self.deaths.get_mut(place)) {
                    *deaths = deaths.saturating_add(1);
                }
                self.restarts = self.restarts.saturating_add((*then == Then::Restart).into());
            }
            DeviceEvent::Serving { pause, .. } => {
                self.pauses = self.pauses.saturating_add(1);
                self.pause = self.pause.saturating_add(*pause);
                self.longest_pause = self.longest_pause.max(*pause);
            }
            DeviceEvent::Replaced { .. } => self.replacements = self.replacements.saturating_add(1),
        }
    }

    /// Deaths of any cause.
    pub fn deaths(&self) -> u64 {
        self.deaths.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Successors.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The longest pause.
    pub fn longest_pause_ms(&self) -> u64 {
        milliseconds(self.longest_pause)
    }

    /// All counters, in a fixed order.
    pub fn entries(&self, device: &str) -> Vec<(String, u64)> {
        let deaths = Cause::WORDS.iter().zip(self.deaths);
        let deaths = deaths.map(|(word, count)| (format!("{device}.deaths.{word}"), count));
        let others = [
            ("restarts", self.restarts),
            ("replacements", self.replacements),
            ("pauses", self.pauses),
            ("pause_ms", milliseconds(self.pause)),
            ("longest_pause_ms", self.longest_pause_ms()),
        ];
        deaths.chain(others.map(|(name, value)| (format!("{device}.{name}"), value))).collect()
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Violation;

    fn death(cause: Cause, then: Then) -> DeviceEvent {
        DeviceEvent::Death { cause, how: "it \"broke\"\n".to_owned(), blamed: true, then }
    }

    fn without_time(json: &str) -> &str {
        let rest = json.strip_prefix("{\"time_ms\":").unwrap();
        rest.trim_start_matches(|c: char| c.is_ascii_digit())
    }

    #[test]
    fn an_event_is_one_object_on_one_line() {
        let json = death(Cause::Signal(11), Then::Restart).json("blk0");
        let rest = r#","event":"death","device":"blk0","cause":"signal","signal":11,"text":"it \"broke\"\u000a","blamed":true,"then":"restart"}"#;
        assert_eq!(without_time(&json), rest);
        let json = death(Cause::Hang, Then::Stop).json("blk0");
        assert!(!json.contains('\n') && json.contains(r#""cause":"hang","text""#), "{json}");
        let call = |call| Cause::SystemCall(Some(Violation { call, arguments: [0; 6] }));
        let json = death(call(41), Then::Restart).json("blk0");
        assert!(
            json.contains(r#""cause":"system-call","system_call":"socket","number":41,"text""#),
            "{json}"
        );
        let json = death(call(4095), Then::Restart).json("blk0");
        assert!(json.contains(r#""cause":"system-call","number":4095,"text""#), "{json}");
        let json = death(Cause::SystemCall(None), Then::Restart).json("blk0");
        assert!(json.contains(r#""cause":"system-call","text""#), "{json}");
        let json = DeviceEvent::Serving { pid: Some(7), pause: Duration::from_millis(12) }.json("rng1");
        assert_eq!(without_time(&json), r#","event":"serving","device":"rng1","pid":7,"pause_ms":12}"#);
    }

    #[test]
    fn the_end_of_the_machine_is_said_by_whoever_ends_it() {
        assert!(death(Cause::Exit(1), Then::Stop).line("blk0").is_none());
        assert!(death(Cause::Exit(1), Then::Fail).line("blk0").unwrap().contains("goes on without"));
    }

    #[test]
    fn deaths_are_counted_by_cause_and_pauses_by_length() {
        let mut tally = Tally::default();
        tally.count(&death(Cause::SystemCall(None), Then::Restart));
        tally.count(&death(Cause::Signal(9), Then::Restart));
        tally.count(&death(Cause::Signal(11), Then::Fail));
        for pause in [3, 9, 1] {
            tally.count(&DeviceEvent::Serving { pid: None, pause: Duration::from_millis(pause) });
        }
        let found: Vec<String> =
            tally.entries("blk0").iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = "blk0.deaths.exit=0 blk0.deaths.signal=2 blk0.deaths.system-call=1 blk0.deaths.hang=0 \
             blk0.deaths.not-spawned=0 blk0.deaths.disconnected=0 blk0.restarts=2 blk0.replacements=0 blk0.pauses=3 blk0.pause_ms=13 \
             blk0.longest_pause_ms=9";
        assert_eq!(found.join(" "), expected);
    }
}
