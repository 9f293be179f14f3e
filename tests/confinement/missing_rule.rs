//! A program as it would be if its policy lacked a rule: the filter that is embedded in it, one comparison changed.

use std::collections::BTreeMap;

use sandbox_policies::policy::{List, Operator, Refusal, list};
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

/// Takes every rule for `call` out of the stage's filter in the executable of `program`.
pub fn remove(executable: &mut [u8], program: Program, stage: Stage, call: &str) {
    let filter = compiled(list(program, stage).expect("a stage of the program's"));
    let whole = bytes(&filter);
    let number = number(call);
    let mut shorter = filter;
    let mut compares: Vec<_> =
        shorter.iter_mut().filter(|it| (it.code, i64::from(it.k)) == (COMPARES, number)).collect();
    assert_eq!(compares.len(), 1, "{call}: its number is compared with arguments as well, or not listed");
    compares.iter_mut().for_each(|it| it.k = NONE);
    let shorter = bytes(&shorter);
    let places: Vec<usize> = executable
        .windows(whole.len())
        .enumerate()
        .filter(|(_, it)| *it == whole)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "{}.{} is not in the program", program.name(), stage.key());
    for at in places {
        executable[at..at + whole.len()].copy_from_slice(&shorter);
    }
}

fn number(call: &str) -> i64 {
    call.parse::<Sysno>().expect("a system call").id().into()
}

/// As the build script of the policies compiles them.
fn compiled(list: &List) -> BpfProgram {
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
    let filter = SeccompFilter::new(rules, refusal, SeccompAction::Allow, TargetArch::x86_64);
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
