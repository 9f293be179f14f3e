//! Programs with other filters than they ship: the ones that are embedded in a copy of the executable are replaced there by
//! others of the same length.

use std::collections::BTreeMap;

use sandbox_policies::policy::{List, Operator, Refusal, list};
use sandbox_policies::trace::place;
use sandbox_policies::{Program, Stage};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use syscalls::Sysno;

/// `BPF_JMP | BPF_JEQ | BPF_K`
const COMPARES: u16 = 0x15;
/// A number that no system call has.
const NONE: u32 = 0x0fff_fff0;

/// How each filter begins: the check of the architecture, and the number of the call.
const BEGINNING: usize = 4 * 8;

/// Takes every rule for `call` out of the stage's filter in the executable of `program`.
pub fn remove(executable: &mut [u8], program: Program, stage: Stage, call: &str) {
    let list = list(program, stage).expect("a stage of the program's");
    let mut shorter = compiled(list, SeccompAction::Allow);
    let number = number(call);
    let mut compares: Vec<_> =
        shorter.iter_mut().filter(|it| (it.code, i64::from(it.k)) == (COMPARES, number)).collect();
    assert_eq!(compares.len(), 1, "{call}: its number is compared with arguments as well, or not listed");
    compares.iter_mut().for_each(|it| it.k = NONE);
    let whole = bytes(&compiled(list, SeccompAction::Allow));
    replace(executable, &[(whole, bytes(&shorter))]);
}

/// Has the filters of all stages of `program` tell a tracer what they allow, with their place; what they refuse they refuse.
pub fn tell_what_is_allowed(executable: &mut [u8], program: Program) {
    let pairs = program.stages().iter().map(|stage| {
        let list = list(program, *stage).expect("a stage of the program's");
        let place = place(program, *stage).expect("a place for each stage");
        let telling = compiled(list, SeccompAction::Trace(place.into()));
        (bytes(&compiled(list, SeccompAction::Allow)), bytes(&telling))
    });
    let pairs: Vec<_> = pairs.collect();
    replace(executable, &pairs);
}

/// Each filter by the other, wherever it is.
fn replace(executable: &mut [u8], pairs: &[(Vec<u8>, Vec<u8>)]) {
    let beginning = &pairs[0].0[..BEGINNING];
    let begins: Vec<usize> = executable
        .windows(BEGINNING)
        .enumerate()
        .filter(|(_, it)| *it == beginning)
        .map(|(at, _)| at)
        .collect();
    for (before, after) in pairs {
        assert_eq!(before.len(), after.len());
        let mut replaced = 0;
        for at in &begins {
            if executable[*at..].starts_with(before) {
                executable[*at..*at + after.len()].copy_from_slice(after);
                replaced += 1;
            }
        }
        assert!(replaced > 0, "a filter is not in the program");
    }
}

fn number(call: &str) -> i64 {
    call.parse::<Sysno>().expect("a system call").id().into()
}

/// As the build script of the policies compiles them, for what is `allowed` with this answer.
fn compiled(list: &List, allowed: SeccompAction) -> BpfProgram {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in list.rules {
        let of_call = rules.entry(number(rule.call)).or_default();
        let conditions = rule.conditions.iter().map(|it| {
            let width = if it.wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
            let operator = match it.operator {
                Operator::Equal => SeccompCmpOp::Eq,
                Operator::NotEqual => SeccompCmpOp::Ne,
                Operator::MaskedEqual(mask) => SeccompCmpOp::MaskedEq(mask),
            };
            SeccompCondition::new(it.argument, width, operator, it.value).expect("a condition")
        });
        let conditions: Vec<_> = conditions.collect();
        if !conditions.is_empty() {
            of_call.push(SeccompRule::new(conditions).expect("a rule"));
        }
    }
    let refusal = match list.refusal {
        Refusal::Told => SeccompAction::Trap,
        Refusal::Killed => SeccompAction::KillProcess,
    };
    let filter = SeccompFilter::new(rules, refusal, allowed, TargetArch::x86_64);
    filter.expect("a filter").try_into().expect("a program for the kernel")
}

fn bytes(filter: &BpfProgram) -> Vec<u8> {
    let instructions = filter.iter().map(|it| {
        let [c0, c1] = it.code.to_le_bytes();
        let [k0, k1, k2, k3] = it.k.to_le_bytes();
        [c0, c1, it.jt, it.jf, k0, k1, k2, k3]
    });
    instructions.flatten().collect()
}
