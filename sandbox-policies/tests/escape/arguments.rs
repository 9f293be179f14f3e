//! Every condition on an argument, of every rule of every policy, tried with a wrong value under the filter that is
//! installed: the lists say what to try, so that a new rule is tried as soon as it is there.
//!
//! One child for each wrong value, since it dies of it. No call is ever made: beneath the policy lies a filter that gives
//! an error for all but what it takes to install another and to end. The stricter answer wins, so that what the policy
//! allows is that error, and what it refuses is SIGSYS. Where a policy has a hole, the child lives.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use sandbox_policies::policy::{self, Condition, List, Operator, Rule};
use sandbox_policies::{Program, Stage, end_process, stage_two};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use syscalls::Sysno;

use crate::{Count, raw};

/// In the arguments that no condition is on.
const OTHERS: u64 = 0x5a5a_5a5a;

/// Exit code of a child that could not be confined.
const NOT_CONFINED: i32 = 3;

/// Tries each stage of each program.
pub fn each_condition_is_tried_with_wrong_values(_who: &str) -> Result<Count, String> {
    let mut count = Count::default();
    let mut tried = 0_usize;
    for program in Program::ALL {
        for stage in program.stages() {
            let list = policy::list(program, *stage).ok_or("a stage without a list")?;
            let conditions = list.rules.iter().filter(|rule| !rule.conditions.is_empty());
            for rule in conditions {
                let place = format!("{}.{}: {} {:?}", program.name(), stage.key(), rule.call, rule.reason);
                tried += wrong_ones(list, rule).len();
                count.add(&place, try_rule(program, *stage, list, rule));
            }
        }
    }
    // Each condition has one at least: a count that fell would say that there is nothing to try any more.
    if tried > 900 { Ok(count) } else { Err(format!("only {tried} wrong arguments to be tried")) }
}

fn try_rule(program: Program, stage: Stage, list: &List, rule: &Rule) -> Result<(), String> {
    let call = rule.call.parse::<Sysno>().map_err(|_| "no such system call".to_owned())?.id();
    let lives = |arguments| {
        let status = child(program, stage, i64::from(call), arguments).map_err(|errno| errno.to_string())?;
        match status {
            WaitStatus::Exited(_, 0) => Ok(true),
            WaitStatus::Signaled(_, Signal::SIGSYS, _) => Ok(false),
            other => Err(format!("a child that ended otherwise: {other:?}")),
        }
    };
    let right = right(rule);
    if !lives(right)? {
        return Err(format!("refused with what it is for: {right:x?}"));
    }
    for condition in rule.conditions {
        if wrong(list, rule, condition).is_empty() {
            return Err(format!("nothing that '{condition}' refuses: another rule allows it"));
        }
    }
    for arguments in wrong_ones(list, rule) {
        if lives(arguments)? {
            return Err(format!("allowed with {arguments:x?}"));
        }
    }
    Ok(())
}

/// Arguments that the rule allows.
fn right(rule: &Rule) -> [u64; 6] {
    let mut arguments = [OTHERS; 6];
    for condition in rule.conditions {
        if let Some(argument) = arguments.get_mut(usize::from(condition.argument)) {
            *argument = match condition.operator {
                Operator::Equal | Operator::MaskedEqual(_) => condition.value,
                Operator::NotEqual => condition.value ^ 1,
            };
        }
    }
    arguments
}

/// The same of all the rule's conditions.
fn wrong_ones(list: &List, rule: &Rule) -> Vec<[u64; 6]> {
    rule.conditions.iter().flat_map(|condition| wrong(list, rule, condition)).collect()
}

/// Arguments that break this condition alone, and that no other rule of the call allows.
fn wrong(list: &List, rule: &Rule, condition: &Condition) -> Vec<[u64; 6]> {
    let value = condition.value;
    let values: Vec<u64> = match condition.operator {
        Operator::NotEqual => vec![value],
        // Each bit that counts, and all of them; without and with others.
        Operator::MaskedEqual(mask) => {
            let bits = (0..64).map(|bit| 1 << bit).filter(|bit| mask & bit != 0);
            let flipped = bits.map(|bit| value ^ bit).chain([value ^ mask]);
            flipped.flat_map(|value| [value, value | (OTHERS & !mask)]).collect()
        }
        Operator::Equal => {
            // The lowest and the highest bit that count, the next number, none and all bits.
            let high = if condition.wide { 63 } else { 31 };
            vec![value ^ 1, value ^ (1 << high), value.wrapping_add(1), 0, u64::MAX]
        }
    };
    let mut all: Vec<[u64; 6]> = values
        .into_iter()
        .filter_map(|value| {
            let mut arguments = right(rule);
            *arguments.get_mut(usize::from(condition.argument))? = value;
            let allowed = list.of_call(rule.call).any(|rule| rule.allows(&arguments));
            (!allowed).then_some(arguments)
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// How a child ends that makes this call under the filter of this stage.
fn child(program: Program, stage: Stage, call: i64, arguments: [u64; 6]) -> Result<WaitStatus, Errno> {
    // This program has one thread, so that all of it is in the child.
    match raw::call(libc::SYS_fork, [])? {
        0 => {
            if answer_nothing().is_err() || stage_two(program, stage).is_err() {
                end_process(NOT_CONFINED);
            }
            let _answer = raw::call(call, arguments);
            end_process(0)
        }
        pid => waitpid(Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?), None),
    }
}

/// From here on system calls do nothing.
fn answer_nothing() -> Result<(), seccompiler::Error> {
    let kept = [libc::SYS_exit_group, libc::SYS_prctl, libc::SYS_seccomp].map(|call| (call, Vec::new()));
    let filter: BpfProgram = SeccompFilter::new(
        BTreeMap::from(kept),
        SeccompAction::Errno(libc::EDOM.unsigned_abs()),
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()?;
    seccompiler::apply_filter(&filter)
}
