//! `--sandbox-log`: a machine whose policies refuse nothing, and the list of what they would have refused.
//!
//! Everything is as without it, but for the answer of the seccomp filters to what they do not list
//! ([`sandbox_policies::log_refusals`]), and that this process is not the launcher but traces it
//! ([`sandbox_policies::trace`]). It says each kind of call once, at its first, and all of them at the end, each as the
//! rule that would allow it; and how often each was made.
//!
//! What it hears is six numbers in registers and, for the device's name, the command line of whoever made the call. Both may
//! be lies of a process that was taken over: they are shown, printable and bounded, and decide nothing. How many kinds
//! are told apart is bounded; the rest is counted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::Read;

use protocol::Violation;
use sandbox_policies::policy::{self, Operator};
use sandbox_policies::spawn::Ended;
use sandbox_policies::trace::{self, Call, Side};
use sandbox_policies::{Program, Stage};

use crate::error::Error;
use crate::exit_code::Code;
use crate::json::quoted;
use crate::report;
use crate::spawn::SANDBOX_LOG;
use crate::supervise::{Outcome, system_call};

/// Kinds of calls that are told apart.
const KINDS: usize = 256;
/// Bytes of a command line or a thread's name that are looked at, and of a name that are shown.
const LINE: u64 = 4096;
const NAME: usize = 64;

/// Forks the launcher off and traces it to its end: `None` in the launcher, which goes on.
pub fn split() -> Result<Option<Outcome>, Error> {
    let tracer = match trace::split()? {
        Side::Traced => return Ok(None),
        Side::Tracer(tracer) => tracer,
    };
    // Before the launcher goes on: it is the first word of all.
    report::say(
        "--sandbox-log: SECCOMP REFUSES NOTHING in this run; what a policy does not list is listed here, and done. \
         The other layers hold. Not for a guest that is not trusted",
    );
    let mut listing = Listing::default();
    let ended = tracer.run(|call| {
        let name = name(call.thread);
        if let Some(line) = listing.add(&call, name, || thread_name(call.thread)) {
            report::say(&line);
        }
    })?;
    listing.summary().iter().for_each(|line| report::say(line));
    Ok(Some(Outcome { code: listing.code(ended), text: None }))
}

/// What is told apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    /// Of the policy, and its key in there.
    program: &'static str,
    stage: &'static str,
    /// The device's name, or the program's.
    name: String,
    call: u32,
    /// Of the arguments those that some policy looks at in this call: their places and values.
    arguments: Vec<(u8, u64)>,
}

/// What was found.
#[derive(Debug, Default)]
struct Listing {
    kinds: BTreeMap<Kind, u64>,
    /// Calls of further kinds.
    others: u64,
}

impl Listing {
    /// Takes a call down. The line to be said of it, if it is the first of its kind.
    fn add(&mut self, call: &Call, name: Option<String>, thread: impl FnOnce() -> String) -> Option<String> {
        let (program, stage) = call.list.map_or(("?", "?"), |(program, stage)| (program.name(), stage.key()));
        let kind = Kind {
            program,
            stage,
            name: name.unwrap_or_else(|| process_name(call.list).to_owned()),
            call: call.number,
            arguments: looked_at(call),
        };
        let room = self.kinds.len() < KINDS;
        match self.kinds.entry(kind) {
            Entry::Occupied(mut seen) => *seen.get_mut() = seen.get().saturating_add(1),
            Entry::Vacant(new) if room => {
                let Kind { name, program, stage, .. } = new.key();
                let described =
                    system_call::describe(&Violation { call: call.number, arguments: call.arguments });
                let line = format!(
                    "would be refused: {described}, which thread {} of {name} ({program}, {stage}) has made",
                    thread()
                );
                new.insert(1);
                return Some(line);
            }
            Entry::Vacant(_) => self.others = self.others.saturating_add(1),
        }
        None
    }

    /// What it comes to, a line each.
    fn summary(&self) -> Vec<String> {
        if self.kinds.is_empty() {
            return vec!["--sandbox-log: no policy would have refused anything".to_owned()];
        }
        let mut lines: Vec<String> = self.kinds.iter().map(|(kind, count)| kind.rule(*count)).collect();
        if self.others > 0 {
            lines.push(format!(
                "--sandbox-log: and {} calls of more kinds than the {KINDS} that are told apart",
                self.others
            ));
        }
        lines.push(format!(
            "--sandbox-log: {} kinds of system calls would have been refused. If nobody has attacked this machine, these \
             rules are missing; what is missing in another stage than setup must be in setup as well, and what a device needs \
             that dies and is started again in vmm.json, spawner",
            self.kinds.len()
        ));
        lines
    }

    /// How this process is to end when its launcher has ended so.
    fn code(&self, ended: Ended) -> Code {
        match ended {
            Ended::Exited(0) if !self.kinds.is_empty() => Code::Refusals,
            Ended::Exited(code) => u8::try_from(code).map_or(Code::Internal, Code::of),
            Ended::Signaled(signal) => u8::try_from(signal).map_or(Code::Internal, Code::Signal),
        }
    }
}

impl Kind {
    /// The rule that would allow it, and where it would stand.
    fn rule(&self, count: u64) -> String {
        let Self { program, stage, name, call, .. } = self;
        let Some(known) = system_call::name(*call) else {
            return format!(
                "--sandbox-log: {count} times by {name}: the system call number {call}, which has no name"
            );
        };
        let conditions = self.arguments.iter().map(|(place, value)| {
            let kind = if *value > u64::from(u32::MAX) { "qword" } else { "dword" };
            format!(r#"{{"index": {place}, "type": "{kind}", "op": "eq", "val": {value}, "comment": "…"}}"#)
        });
        let conditions: Vec<String> = conditions.collect();
        let arguments = match conditions.as_slice() {
            [] => String::new(),
            all => format!(r#""args": [{}], "#, all.join(", ")),
        };
        format!(
            "--sandbox-log: {count} times by {name}; in sandbox-policies/policies/x86_64/{program}.json, {stage}: \
             {{\"syscall\": {}, {arguments}\"comment\": \"which code needs it\"}}",
            quoted(known)
        )
    }
}

/// The arguments that tell what a call of this name is asked for, by the word of all policies: those that every rule for it
/// looks at, as the code of an ioctl. Of a call that some policy lists whatever its arguments are, none.
fn looked_at(call: &Call) -> Vec<(u8, u64)> {
    let Some(name) = system_call::name(call.number) else { return Vec::new() };
    let stages = Program::ALL
        .into_iter()
        .flat_map(|program| program.stages().iter().map(move |stage| (program, *stage)));
    let rules = stages
        .filter_map(|(program, stage)| policy::list(program, stage))
        .flat_map(|list| list.of_call(name));
    let rules: Vec<_> = rules.map(|rule| rule.conditions).collect();
    let Some(first) = rules.first() else { return Vec::new() };
    let by_all =
        first.iter().filter(|one| rules.iter().all(|rule| rule.iter().any(|it| it.argument == one.argument)));
    by_all
        .map(|condition| {
            let value = call.arguments.get(usize::from(condition.argument)).copied().unwrap_or_default();
            let value = if condition.wide { value } else { value & u64::from(u32::MAX) };
            // Of flags of which one is looked at, that one.
            let value =
                if let Operator::MaskedEqual(mask) = condition.operator { value & mask } else { value };
            (condition.argument, value)
        })
        .collect()
}

/// For who has no name of its own on its command line.
fn process_name(list: Option<(Program, Stage)>) -> &'static str {
    match list {
        Some((Program::Launcher, Stage::Spawner)) => "vmm-spawner",
        Some((program, _)) => program.name(),
        None => "?",
    }
}

/// What the launcher calls the process of this thread, by the argument that it gave it.
fn name(thread: i32) -> Option<String> {
    let line = read(&format!("/proc/{thread}/cmdline"));
    let mut arguments = line.split(|byte| *byte == 0);
    let name = arguments.find_map(|argument| argument.strip_prefix(SANDBOX_LOG.as_bytes()))?;
    Some(shown(name))
}

fn thread_name(thread: i32) -> String {
    shown(read(&format!("/proc/{thread}/comm")).trim_ascii_end())
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(NAME).collect()
}

/// The first of a file that may be gone.
fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _unreadable = File::open(path).and_then(|file| file.take(LINE).read_to_end(&mut bytes));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(list: (Program, Stage), number: u32, arguments: [u64; 6]) -> Call {
        Call { thread: 1, list: Some(list), number, arguments }
    }

    const BLK: (Program, Stage) = (Program::DeviceBlk, Stage::Serve);

    fn add(listing: &mut Listing, call: &Call) -> Option<String> {
        listing.add(call, Some("blk0".to_owned()), || "device-blk".to_owned())
    }

    #[test]
    fn a_kind_is_said_once_and_counted() {
        let mut listing = Listing::default();
        let socket = call(BLK, 41, [1, 5, 0, 0, 0, 7]);
        let line = add(&mut listing, &socket).unwrap();
        let words = "would be refused: the system call socket(41) with arguments (0x1, 0x5, 0x0, 0x0, 0x0, 0x7), which \
                     thread device-blk of blk0 (device-blk, serve) has made";
        assert_eq!(line, words);
        // No policy looks at the last argument, and at the first three some does.
        assert_eq!(add(&mut listing, &call(BLK, 41, [1, 5, 0, 0, 0, 8])), None);
        assert!(add(&mut listing, &call(BLK, 41, [2, 5, 0, 0, 0, 8])).is_some());
        let summary = listing.summary();
        assert_eq!(summary.len(), 3, "{summary:?}");
        assert!(
            summary[0]
                .contains("2 times by blk0; in sandbox-policies/policies/x86_64/device-blk.json, serve: ")
        );
        assert!(summary[2].contains("2 kinds of system calls"), "{summary:?}");
    }

    #[test]
    fn the_rule_that_would_allow_a_call_is_shown_as_a_policy_has_it() {
        let mut listing = Listing::default();
        let ioctl = call((Program::Core, Stage::Vcpu), 16, [9, 0xffff_ffff_0000_ae80, 0, 0, 0, 0]);
        add(&mut listing, &ioctl).unwrap();
        let line = &listing.summary()[0];
        let rule = line.split_once(": {").map(|(_, rule)| format!("{{{rule}")).unwrap();
        let rule: toml::Table = format!("rule = {}", rule.replace("\": ", "\" = ")).parse().unwrap();
        assert_eq!(rule["rule"]["syscall"].as_str(), Some("ioctl"));
        let condition = &rule["rule"]["args"][0];
        assert_eq!((condition["index"].as_integer(), condition["val"].as_integer()), (Some(1), Some(0xae80)));
    }

    #[test]
    fn kinds_are_bounded_and_the_rest_is_counted() {
        let mut listing = Listing::default();
        for command in 0..1000 {
            add(&mut listing, &call(BLK, 16, [0, command, 0, 0, 0, 0]));
        }
        assert_eq!((listing.kinds.len(), listing.others), (KINDS, 1000 - KINDS as u64));
        assert!(listing.summary()[KINDS].contains("and 744 calls"));
    }

    #[test]
    fn a_machine_that_ended_well_says_by_its_code_whether_something_was_found() {
        let mut listing = Listing::default();
        assert_eq!(listing.code(Ended::Exited(0)), Code::PoweredOff);
        assert_eq!(listing.summary(), ["--sandbox-log: no policy would have refused anything"]);
        add(&mut listing, &call(BLK, 41, [0; 6]));
        assert_eq!(listing.code(Ended::Exited(0)), Code::Refusals);
        assert_eq!(listing.code(Ended::Exited(9)), Code::Reset);
        assert_eq!(listing.code(Ended::Signaled(9)), Code::Signal(9));
    }

    #[test]
    fn a_number_that_is_no_call_and_a_filter_of_nobodys_are_listed_as_they_are() {
        let mut listing = Listing::default();
        let strange = Call { thread: 1, list: None, number: 4095, arguments: [0; 6] };
        let line = listing.add(&strange, None, String::new).unwrap();
        assert!(line.contains("system call number 4095") && line.contains("of ? (?, ?)"), "{line}");
        assert!(listing.summary()[0].contains("number 4095"));
    }
}
