//! The policies in a form to be read: which system calls a stage lists, with which arguments, and why.
//!
//! Made by the build script from the very files of which it makes the filters, so that what is shown is what is loaded;
//! a test compiles the lists that are shown and compares the instructions with those that are installed. Nothing here
//! has an influence on what a filter does.

use std::fmt;

use crate::{Program, Stage};

include!(concat!(env!("OUT_DIR"), "/lists.rs"));

/// What a stage allows: an allow-list, nothing else.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// What becomes of a call that no rule allows.
    pub refusal: Refusal,
    /// In the order of the file. A call is allowed if one of its rules allows it.
    pub rules: &'static [Rule],
}

/// What becomes of a process that makes a system call which its stage does not list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It gets SIGSYS, says which call it was, and dies of it ([`crate::LastWord`]).
    Told,
    /// The kernel kills it by SIGSYS at once.
    Killed,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The system call, by the kernel's name for it.
    pub call: &'static str,
    /// All of them must hold; none: whatever the arguments are.
    pub conditions: &'static [Condition],
    /// Which code needs it.
    pub reason: &'static str,
}

/// What one argument must be.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// Which, from 0.
    pub argument: u8,
    /// Whether all 64 bits count, or the lower 32.
    pub wide: bool,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub value: u64,
    /// What that is called.
    pub meaning: &'static str,
}

/// A comparison of an argument with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It is the value.
    Equal,
    /// It is another.
    NotEqual,
    /// Those of its bits that are set here are as in the value.
    MaskedEqual(u64),
}

/// What `program` may do in `stage`; `None`: its policy has no such stage.
pub fn list(program: Program, stage: Stage) -> Option<&'static List> {
    listed(program.name(), stage.key())
}

/// The filter that this stage installs, as `struct sock_filter` after `struct sock_filter` (code u16, jt u8, jf u8, k u32);
/// `None`: its policy has no such stage.
pub fn filter(program: Program, stage: Stage) -> Option<&'static [u8]> {
    crate::seccomp::bytes(program, stage)
}

/// Calls that a stage lists and that its program gets an error for all the same, from a filter that is stacked on the
/// stage's own: the name of that error.
pub fn answered_instead(stage: Stage, call: &str) -> Option<&'static str> {
    // `seccomp::hide_clone3`, of stage one.
    (stage == Stage::Setup && call == "clone3").then_some("ENOSYS")
}

impl List {
    /// The rules for one system call.
    pub fn of_call(&self, call: &str) -> impl Iterator<Item = &'static Rule> {
        let rules: &'static [Rule] = self.rules;
        rules.iter().filter(move |rule| rule.call == call)
    }
}

impl Rule {
    /// Whether it allows its call with these arguments.
    pub fn allows(&self, arguments: &[u64; 6]) -> bool {
        self.conditions.iter().all(|condition| condition.holds(arguments))
    }
}

impl Condition {
    fn holds(&self, arguments: &[u64; 6]) -> bool {
        let Some(&argument) = arguments.get(usize::from(self.argument)) else { return false };
        let counts = if self.wide { u64::MAX } else { u64::from(u32::MAX) };
        let (argument, value) = (argument & counts, self.value & counts);
        match self.operator {
            Operator::Equal => argument == value,
            Operator::NotEqual => argument != value,
            Operator::MaskedEqual(mask) => argument & mask == value & mask,
        }
    }
}

/// "argument 1 is 44672: KVM_RUN", with large numbers in hexadecimal.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { argument, operator, value, meaning, .. } = self;
        write!(f, "argument {argument} ")?;
        match operator {
            Operator::Equal => write!(f, "is {}", Number(*value))?,
            Operator::NotEqual => write!(f, "is not {}", Number(*value))?,
            Operator::MaskedEqual(mask) => write!(f, "& {} is {}", Number(*mask), Number(*value))?,
        }
        write!(f, ": {meaning}")
    }
}

/// As it is usually written: a flag or a request of several digits in hexadecimal.
struct Number(u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 100 { write!(f, "{}", self.0) } else { write!(f, "{:#x}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };
    use std::collections::BTreeMap;
    use std::str::FromStr;

    fn compiled(list: &List) -> BpfProgram {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for rule in list.rules {
            let number = i64::from(syscalls::Sysno::from_str(rule.call).unwrap().id());
            let conditions = rule.conditions.iter().map(|condition| {
                let width = if condition.wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
                let operator = match condition.operator {
                    Operator::Equal => SeccompCmpOp::Eq,
                    Operator::NotEqual => SeccompCmpOp::Ne,
                    Operator::MaskedEqual(mask) => SeccompCmpOp::MaskedEq(mask),
                };
                SeccompCondition::new(condition.argument, width, operator, condition.value).unwrap()
            });
            let conditions: Vec<_> = conditions.collect();
            let of_call = rules.entry(number).or_default();
            if !conditions.is_empty() {
                of_call.push(SeccompRule::new(conditions).unwrap());
            }
        }
        let refusal = match list.refusal {
            Refusal::Told => SeccompAction::Trap,
            Refusal::Killed => SeccompAction::KillProcess,
        };
        let filter = SeccompFilter::new(rules, refusal, SeccompAction::Allow, TargetArch::x86_64);
        filter.unwrap().try_into().unwrap()
    }

    #[test]
    fn what_is_shown_of_a_policy_is_what_is_loaded() {
        for program in Program::ALL {
            for stage in program.stages() {
                let list = list(program, *stage).unwrap();
                assert!(!list.rules.is_empty());
                let loaded = crate::seccomp::loaded(program, *stage).unwrap();
                assert!(compiled(list) == loaded, "{program:?} {stage:?}");
            }
        }
    }

    #[test]
    fn a_stage_that_a_policy_does_not_have_has_no_list() {
        assert!(list(Program::DeviceRng, Stage::Vcpu).is_none());
        assert!(list(Program::Core, Stage::Serve).is_none());
    }

    #[test]
    fn a_condition_says_argument_comparison_value_and_meaning() {
        let serve = list(Program::DeviceBlk, Stage::Serve).unwrap();
        let words: Vec<String> =
            serve.of_call("fcntl").flat_map(|rule| rule.conditions).map(ToString::to_string).collect();
        assert!(words.contains(&"argument 1 is 0x40a: F_GET_SEALS".to_owned()), "{words:?}");
        let mapped = serve.of_call("mmap").next().unwrap().conditions[0].to_string();
        assert_eq!(mapped, "argument 2 & 4 is 0: PROT_EXEC is not in it");
    }

    #[test]
    fn clone3_is_listed_for_setting_up_and_answered_by_an_error() {
        let setup = list(Program::Core, Stage::Setup).unwrap();
        assert_eq!(setup.of_call("clone3").count(), 1);
        assert_eq!(answered_instead(Stage::Setup, "clone3"), Some("ENOSYS"));
        assert_eq!(answered_instead(Stage::Setup, "clone"), None);
        assert_eq!(answered_instead(Stage::Serve, "clone3"), None);
    }
}
