//! `vmm policy`: what the policies say, of the programs as they were built. It reads no file and asks nobody.

use std::fmt::Write;

use clap::{Parser, Subcommand};
use sandbox_policies::policy::{self, List, Operator, Refusal, Rule};
use sandbox_policies::{Program, Stage};

use crate::error::Error;
use crate::json::Object;
use crate::nearest;
use crate::supervise::system_call;

const EXAMPLES: &str = "\
Examples:
  What a disk's program may call, stage by stage, with which arguments:
    vmm policy show device-blk
  The same with the reason of each rule, for another program to read:
    vmm policy explain device-blk --json
  Whether the core may make an ioctl, when, with which arguments and why, or what happens instead:
    vmm policy explain vmm-core ioctl

A device that the machine's spawner has started again is under the stage `spawner` of vmm as well: of two answers the
stricter one holds.";

/// Says what the policy of a program allows, in the programs as they were built.
#[derive(Debug, Parser)]
#[command(bin_name = "vmm policy", after_help = EXAMPLES, max_term_width = 110, arg_required_else_help = false)]
pub struct PolicyLine {
    /// What to say.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be said.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the system calls of each stage, and what their arguments must be.
    Show {
        /// As in vmm, vmm-core, device-blk.
        #[arg(value_name = "PROGRAM", value_parser = program)]
        program: Program,

        /// One JSON object, with the reasons.
        #[arg(long)]
        json: bool,
    },
    /// The same with the reason of each rule; or of one system call alone, refused or not.
    Explain {
        /// As in vmm, vmm-core, device-blk.
        #[arg(value_name = "PROGRAM", value_parser = program)]
        program: Program,

        /// The name or the number of a system call.
        #[arg(value_name = "CALL")]
        call: Option<String>,

        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// The text that was asked for.
pub fn run(line: &PolicyLine) -> Result<String, Error> {
    Ok(match &line.command {
        Command::Show { program, json: false } => whole(*program, false),
        Command::Explain { program, call: None, json: false } => whole(*program, true),
        Command::Explain { program, call: Some(call), json: false } => one(*program, &named(call)?),
        Command::Explain { program, call: Some(call), json: true } => json(*program, Some(&named(call)?)),
        Command::Show { program, json: true } | Command::Explain { program, call: None, json: true } => {
            json(*program, None)
        }
    })
}

fn program(word: &str) -> Result<Program, String> {
    let names = || Program::ALL.iter().map(|program| program.name());
    Program::ALL.into_iter().find(|program| program.name() == word).ok_or_else(|| {
        let all: Vec<&str> = names().collect();
        format!("no program has that name{}; there are {}", nearest::hint(word, names()), all.join(", "))
    })
}

/// A system call.
struct Call {
    name: &'static str,
    number: u32,
}

/// The system call that somebody means.
fn named(word: &str) -> Result<Call, Error> {
    let number = match word.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => word.parse().ok().or_else(|| system_call::number(word)),
    };
    let found = number.and_then(|number| system_call::name(number).map(|name| Call { name, number }));
    found.ok_or_else(|| {
        let hint = nearest::hint(word, system_call::names());
        Error::Usage(format!("x86-64 has no system call '{word}'{hint}; name one as in ioctl, or by number"))
    })
}

/// The stages in the order of a program's life, and what they list.
fn lists(program: Program) -> impl Iterator<Item = (Stage, &'static List)> {
    program.stages().iter().filter_map(move |stage| Some((*stage, policy::list(program, *stage)?)))
}

/// When a stage holds, or for whom.
fn when(stage: Stage) -> &'static str {
    match stage {
        Stage::Setup => "until it serves",
        Stage::Serve => "while it serves",
        Stage::Control => "while it serves, the threads that talk to the launcher and to back ends",
        Stage::Vcpu => "while it serves, the threads that run vCPUs",
        Stage::Spawner => "its spawner, and what that spawns until it is confined itself",
        Stage::StandAlone => "started by somebody else: the parent of the process that serves",
    }
}

fn refused(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Told => "refused: SIGSYS, and the process says which call it was and dies",
        Refusal::Killed => "refused: the kernel kills the process by SIGSYS",
    }
}

/// The calls of a list, each once, in alphabetical order.
fn calls(list: &List) -> Vec<&'static str> {
    let mut calls: Vec<&str> = list.rules.iter().map(|rule| rule.call).collect();
    calls.sort_unstable();
    calls.dedup();
    calls
}

/// What the arguments must be; nothing, where they may be anything.
fn conditions(rule: &Rule) -> String {
    let all: Vec<String> = rule.conditions.iter().map(ToString::to_string).collect();
    all.join(", and ")
}

fn whole(program: Program, reasons: bool) -> String {
    let mut text = String::new();
    for (stage, list) in lists(program) {
        let calls = calls(list);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}, {}: {}", program.name(), stage.key(), when(stage));
        for call in &calls {
            for rule in list.of_call(call) {
                let _ = writeln!(text, "{}", format!("  {call:<18} {}", conditions(rule)).trim_end());
                if reasons {
                    let _ = writeln!(text, "      {}", rule.reason);
                }
            }
            if let Some(errno) = policy::answered_instead(stage, call) {
                let _ = writeln!(text, "  {call:<18} answered {errno} by a second filter");
            }
        }
        let _ = writeln!(text, "  {} system calls; any other is {}\n", calls.len(), refused(list.refusal));
    }
    // One line end at the end.
    text.pop();
    text
}

fn one(program: Program, call: &Call) -> String {
    let mut text = format!("{}: {}({})\n", program.name(), call.name, call.number);
    for (stage, list) in lists(program) {
        let key = stage.key();
        if let Some(errno) = policy::answered_instead(stage, call.name) {
            let _ = writeln!(text, "  {key:<12} answered {errno} by a second filter");
        }
        let mut rules = list.of_call(call.name).peekable();
        if rules.peek().is_none() {
            let _ = writeln!(text, "  {key:<12} {}", refused(list.refusal));
        }
        for rule in rules {
            let conditions = conditions(rule);
            let how =
                if conditions.is_empty() { "allowed".to_owned() } else { format!("allowed if {conditions}") };
            let _ = writeln!(text, "  {key:<12} {how}\n  {:<12}   {}", "", rule.reason);
        }
    }
    text
}

fn json(program: Program, only: Option<&Call>) -> String {
    let stages = lists(program).map(|(stage, list)| {
        let rules = list.rules.iter().filter(|rule| only.is_none_or(|call| call.name == rule.call));
        let refusal = match list.refusal {
            Refusal::Told => "told",
            Refusal::Killed => "killed",
        };
        let stacked = only.and_then(|call| policy::answered_instead(stage, call.name));
        let object = Object::new().text("stage", stage.key()).text("when", when(stage));
        let object = object.text("otherwise", refusal).list("rules", rules.map(rule_json));
        match stacked {
            Some(errno) => object.text("answered", errno).end(),
            None => object.end(),
        }
    });
    let object = Object::new().text("program", program.name());
    let object = match only {
        Some(call) => object.text("call", call.name).number("number", call.number),
        None => object,
    };
    format!("{}\n", object.list("stages", stages).end())
}

fn rule_json(rule: &Rule) -> String {
    let conditions = rule.conditions.iter().map(|condition| {
        let width = if condition.wide { 64 } else { 32 };
        let (operator, mask) = match condition.operator {
            Operator::Equal => ("equal", None),
            Operator::NotEqual => ("not-equal", None),
            Operator::MaskedEqual(mask) => ("masked-equal", Some(mask)),
        };
        let object = Object::new().number("argument", condition.argument).number("bits", width);
        let object = object.text("operator", operator);
        let object = match mask {
            Some(mask) => object.number("mask", mask),
            None => object,
        };
        object.number("value", condition.value).text("meaning", condition.meaning).end()
    });
    let object = Object::new().text("call", rule.call);
    let object = match system_call::number(rule.call) {
        Some(number) => object.number("number", number),
        None => object,
    };
    object.list("conditions", conditions).text("reason", rule.reason).end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> Result<String, String> {
        let line = PolicyLine::try_parse_from([&["policy"], words].concat());
        line.map_err(|error| error.to_string()).and_then(|line| run(&line).map_err(|error| error.to_string()))
    }

    #[test]
    fn every_rule_of_every_policy_is_shown_with_its_reason() {
        for program in Program::ALL {
            let shown = said(&["show", program.name()]).unwrap();
            let explained = said(&["explain", program.name()]).unwrap();
            let json = said(&["show", program.name(), "--json"]).unwrap();
            assert_eq!(json, said(&["explain", program.name(), "--json"]).unwrap());
            assert_eq!(json.lines().count(), 1);
            for (stage, list) in lists(program) {
                assert!(shown.contains(&format!("{}, {}: ", program.name(), stage.key())), "{shown}");
                for rule in list.rules {
                    assert!(shown.contains(&conditions(rule)), "{program:?} {rule:?}");
                    assert!(explained.contains(rule.reason), "{program:?} {rule:?}");
                    assert!(system_call::number(rule.call).is_some(), "{}", rule.call);
                    assert!(json.contains(&rule_json(rule)), "{program:?} {rule:?}");
                }
            }
        }
    }

    #[test]
    fn one_call_is_allowed_or_refused_in_each_stage() {
        let text = said(&["explain", "device-blk", "ioctl"]).unwrap();
        assert_eq!(text, said(&["explain", "device-blk", "16"]).unwrap());
        assert_eq!(text, said(&["explain", "device-blk", "0x10"]).unwrap());
        assert!(text.starts_with("device-blk: ioctl(16)\n"), "{text}");
        for part in [
            "  setup        allowed if argument 1 is 0x1268: BLKSSZGET\n",
            "  serve        refused: SIGSYS, and the process says which call it was and dies\n",
            "  stand_alone  refused: the kernel kills the process by SIGSYS\n",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        let hidden = said(&["explain", "vmm-core", "clone3"]).unwrap();
        assert!(hidden.contains("  setup        answered ENOSYS by a second filter\n"), "{hidden}");
        let json = said(&["explain", "device-rng", "execve", "--json"]).unwrap();
        assert!(json.contains(r#""call":"execve","number":59"#), "{json}");
        assert!(json.contains(r#""otherwise":"told","rules":[]"#), "{json}");
    }

    #[test]
    fn what_is_no_program_and_no_call_is_said_with_the_nearest() {
        let wrong = said(&["show", "device-blck"]).unwrap_err();
        assert!(wrong.contains("did you mean 'device-blk'") && wrong.contains("vmm-core"), "{wrong}");
        for (word, part) in
            [("ioctk", "did you mean 'ioctl'"), ("4095", "no system call '4095'"), ("0x", "'0x'")]
        {
            let wrong = said(&["explain", "vmm", word]).unwrap_err();
            assert!(wrong.contains(part), "{wrong}");
        }
    }
}
