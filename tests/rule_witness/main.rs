//! `rule-witness FILE PROGRAM [ARGUMENT…]`: runs a program of ours and writes down which rules of which policies allowed
//! something to it, or to what descends from it: a line `program stage number` for each, the number being the rule's place
//! in its list.
//!
//! The programs are copies whose filters tell a tracer what they allow (`tests/confinement/filters.rs`). The exit code is
//! that of the program.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use sandbox_policies::spawn::Ended;
use sandbox_policies::trace::{self, Call, Side};
use sandbox_policies::{Program, policy};
use syscalls::Sysno;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [file, program, rest @ ..] = arguments.as_slice() else {
        eprintln!("rule-witness FILE PROGRAM [ARGUMENT…]");
        return ExitCode::from(2);
    };
    let mut rules = BTreeSet::new();
    let ended = match trace::split() {
        Ok(Side::Traced) => {
            let error = Command::new(program).args(rest).exec();
            eprintln!("rule-witness: cannot run {}: {error}", program.display());
            return ExitCode::from(2);
        }
        Ok(Side::Tracer(tracer)) => tracer.run(|call| rules.extend(allowed(&call))),
        Err(error) => Err(error),
    };
    let text: String =
        rules.iter().map(|(program, stage, rule)| format!("{program} {stage} {rule}\n")).collect();
    match (ended, std::fs::write(file, text)) {
        (Ok(Ended::Exited(code)), Ok(())) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        (Ok(Ended::Signaled(signal)), Ok(())) => {
            ExitCode::from(u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128)))
        }
        (ended, written) => {
            eprintln!("rule-witness: {ended:?}, {written:?}");
            ExitCode::from(2)
        }
    }
}

/// The rules that allow this call, in the list whose filter has told of it.
fn allowed(call: &Call) -> Vec<(&'static str, &'static str, usize)> {
    let Some((program, stage)) = call.list else { return Vec::new() };
    let Some(list) = policy::list(program, stage) else { return Vec::new() };
    let Some(sysno) = usize::try_from(call.number).ok().and_then(Sysno::new) else { return Vec::new() };
    let rules = list.rules.iter().enumerate();
    let rules = rules.filter(|(_, rule)| rule.call == sysno.name() && rule.allows(&call.arguments));
    rules.map(|(number, _)| (Program::name(program), stage.key(), number)).collect()
}
