//! The privileges as data: a policy file per program, few calls while serving, and each rule says which
//! code needs it. The files are in seccompiler's own format; top-level keys are stages or threads.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::tree::Tree;

const FOLDER: &str = "sandbox-policies/policies/x86_64/";

/// Stages that are over once the launcher's device or core serves, by how their names begin; and that of the spawner,
/// which is a process beside the one that serves and lists what whole programs need from their first instruction on.
const BEFORE_SERVING: [&str; 3] = ["setup", "stand_alone", "spawner"];

/// How many system calls a program may keep while it serves, over all its threads.
///
/// device-rng is what every device needs and nothing else: to read, to write, to wait (2), to speak with both peers (2), to
/// look at, map, unmap and close what they send (4), to tell the time where there is a limit to keep to, to end.
/// device-net needs beside these to write frames, to set its tap's offloads and to see that a frame of a stream has arrived
/// whole, and that more of one has (`ioctl` and `epoll_wait`); device-console to write output and to
/// accept whoever comes to read it; device-pmem to flush its file; device-balloon and device-mem to punch holes,
/// and they know no limits, so that they need no clock; device-fs eighteen for names, attributes and what is in files and
/// directories, and one to remember what its guest knows of them; device-vsock to read and write streams, to accept and to
/// make connections, to shut halves of them and to wait for many of them at once (7), without limits and so without a clock.
const AIMS: [(&str, usize); 11] = [
    ("vmm-core", 20),
    ("device-blk", 15),
    ("device-blk-qcow2", 15),
    ("device-rng", 12),
    ("device-net", 15),
    ("device-console", 14),
    ("device-pmem", 13),
    ("device-balloon", 12),
    ("device-mem", 12),
    ("device-fs", 31),
    ("device-vsock", 18),
];

/// Devices that cannot be limited. All others ask for the time while they serve: by a system call only where the host's vDSO
/// has no clock, so that no test on a host that has one would miss the rule.
const WITHOUT_LIMITS: [&str; 3] = ["device-balloon", "device-mem", "device-vsock"];

/// Calls whose meaning lies in an argument: allowing one of these without a condition allows too much.
const PINNED: [&str; 7] = ["clone", "ioctl", "madvise", "mmap", "mprotect", "personality", "prctl"];

/// The policy of one program: a filter per stage or thread.
pub type Policy = BTreeMap<String, Filter>;

/// One filter in seccompiler's format.
#[derive(Debug, Deserialize)]
pub struct Filter {
    mismatch_action: Value,
    match_action: Value,
    filter: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    syscall: String,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    args: Vec<BTreeMap<String, Value>>,
}

impl Filter {
    /// The system call of each rule, and what the conditions on its arguments say of themselves.
    pub fn rules(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.filter.iter().map(|rule| {
            let meanings = rule.args.iter().map(|condition| condition.get("comment").and_then(Value::as_str));
            (rule.syscall.as_str(), meanings.map(Option::unwrap_or_default).collect())
        })
    }
}

/// Whether a stage lasts while the launcher's device or core, or the launcher, serves.
pub fn is_serving(stage: &str) -> bool {
    !BEFORE_SERVING.iter().any(|before| stage.starts_with(before))
}

/// Programs without a policy and policies without a program.
pub fn unpaired(programs: &[String], policies: &[String]) -> Vec<String> {
    let bare = programs.iter().filter(|p| !policies.contains(p)).map(|p| format!("{p}: no {FOLDER}{p}.json"));
    let idle = policies
        .iter()
        .filter(|p| !programs.contains(p))
        .map(|p| format!("{FOLDER}{p}.json: no such program"));
    bare.chain(idle).collect()
}

/// The programs that have a policy file.
pub fn names(paths: &[String]) -> Vec<String> {
    let files = paths.iter().filter_map(|p| p.strip_prefix(FOLDER)?.strip_suffix(".json"));
    files.map(str::to_owned).collect()
}

/// All policies by program.
pub fn read(tree: &Tree) -> Result<BTreeMap<String, Policy>, String> {
    let mut policies = BTreeMap::new();
    for name in names(&tree.paths) {
        let path = format!("{FOLDER}{name}.json");
        let policy = serde_json::from_str(&tree.text(&path)?).map_err(|e| format!("{path}: {e}"))?;
        policies.insert(name, policy);
    }
    if policies.is_empty() { Err(format!("{FOLDER}: no policy")) } else { Ok(policies) }
}

/// The system calls that a program keeps while it serves, over all its threads.
pub fn while_serving(policy: &Policy) -> BTreeSet<&str> {
    let serving = policy.iter().filter(|(stage, _)| is_serving(stage));
    serving.flat_map(|(_, filter)| filter.filter.iter().map(|rule| rule.syscall.as_str())).collect()
}

/// Rules without a comment, rules without effect, filters that let through what they do not list, and
/// programs that keep more than they may.
pub fn violations(policies: &BTreeMap<String, Policy>) -> Vec<String> {
    let mut violations = Vec::new();
    for (program, policy) in policies {
        for (stage, filter) in policy {
            let mut found = in_filter(filter);
            let refusal = refusal(program, stage);
            if !is_allow_list(filter, refusal) && !is_refinement(stage, filter, policy, refusal) {
                found.push(format!(
                    "neither a list of what is allowed that answers the rest by `{refusal}` nor a refinement of one"
                ));
            }
            violations.extend(found.into_iter().map(|v| format!("{program}.json, {stage}: {v}")));
        }
        let kept = while_serving(policy);
        if kept.is_empty() {
            violations.push(format!("{program}.json: no filter for the time in which it serves"));
        }
        for (_, aim) in AIMS.iter().filter(|(name, aim)| name == program && kept.len() > *aim) {
            violations
                .push(format!("{program}.json: {} system calls while serving, at most {aim}", kept.len()));
        }
    }
    violations
}

/// Devices that can be limited and cannot ask for the time.
pub fn without_a_clock(policies: &BTreeMap<String, Policy>) -> Vec<String> {
    let limited = policies.iter().filter(|(program, policy)| {
        program.starts_with("device-")
            && !WITHOUT_LIMITS.contains(&program.as_str())
            && !while_serving(policy).contains("clock_gettime")
    });
    limited
        .map(|(program, _)| format!("{program}.json: limits, and no `clock_gettime` to keep them"))
        .collect()
}

/// How a stage answers what it does not list: who has a launcher to tell it to says which call it was, in the handler of
/// the signal that it then gets, and dies; all others are killed.
fn refusal(program: &str, stage: &str) -> &'static str {
    if program == "vmm" || stage.starts_with("stand_alone") { "kill_process" } else { "trap" }
}

fn is_allow_list(filter: &Filter, refusal: &str) -> bool {
    filter.match_action == "allow" && filter.mismatch_action == refusal
}

/// A filter `STAGE_no_CALL` is stacked on that of `STAGE` and answers the one call with an error instead; it can
/// only take away, as the strictest answer of all filters wins.
fn is_refinement(stage: &str, filter: &Filter, policy: &Policy, refusal: &str) -> bool {
    let Some((of, call)) = stage.split_once("_no_") else { return false };
    policy.get(of).is_some_and(|filter| is_allow_list(filter, refusal))
        && filter.match_action.get("errno").is_some()
        && filter.mismatch_action == "allow"
        && filter.filter.iter().all(|rule| rule.syscall == call && rule.args.is_empty())
}

fn in_filter(filter: &Filter) -> Vec<String> {
    let mut violations = Vec::new();
    let unconditional: BTreeSet<&str> =
        filter.filter.iter().filter(|r| r.args.is_empty()).map(|r| r.syscall.as_str()).collect();
    let mut seen = BTreeSet::new();
    for rule in &filter.filter {
        let name = &rule.syscall;
        if rule.comment.trim().is_empty() {
            violations.push(format!("`{name}` has no comment"));
        }
        if rule.args.is_empty() && PINNED.contains(&name.as_str()) {
            violations.push(format!("`{name}` is allowed whatever its arguments"));
        }
        if !seen.insert((name, conditions(rule))) {
            violations.push(format!("`{name}` is there twice"));
        } else if !rule.args.is_empty() && unconditional.contains(name.as_str()) {
            violations.push(format!("`{name}` is also allowed without conditions"));
        }
    }
    violations
}

/// The conditions of a rule, in a form that does not depend on order or comments.
fn conditions(rule: &Rule) -> BTreeSet<String> {
    let essential = |condition: &BTreeMap<String, Value>| {
        let parts = condition.iter().filter(|(key, _)| *key != "comment");
        parts.map(|(key, value)| format!("{key}={value} ")).collect()
    };
    rule.args.iter().map(essential).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(program: &str, stage: &str, rules: &str) -> BTreeMap<String, Policy> {
        let refusal = refusal(program, stage);
        let text = format!(
            r#"{{"{stage}": {{"mismatch_action": "{refusal}", "match_action": "allow", "filter": [{rules}]}}}}"#
        );
        BTreeMap::from([(program.to_owned(), serde_json::from_str(&text).unwrap())])
    }

    const READ: &str = r#"{"syscall": "read", "comment": "the kick"}"#;

    #[test]
    fn pairs_match_both_ways() {
        let names = |n: &[&str]| n.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(unpaired(&names(&["vmm"]), &names(&["vmm"])), Vec::<String>::new());
        assert_eq!(unpaired(&names(&["vmm"]), &[]).len(), 1);
        assert_eq!(unpaired(&[], &names(&["vmm"])).len(), 1);
    }

    #[test]
    fn comments_are_compulsory_and_rules_unique() {
        assert_eq!(violations(&policies("vmm", "serve", READ)), Vec::<String>::new());
        assert_eq!(
            violations(&policies("vmm", "serve", r#"{"syscall": "read"}"#)),
            ["vmm.json, serve: `read` has no comment"]
        );
        let twice = format!(r#"{READ}, {{"syscall": "read", "comment": "another"}}"#);
        assert_eq!(violations(&policies("vmm", "serve", &twice)), ["vmm.json, serve: `read` is there twice"]);
        let condition = r#"{"index": 0, "type": "dword", "op": "eq", "val": 3, "comment": "a"}"#;
        let both = format!(r#"{READ}, {{"syscall": "read", "comment": "c", "args": [{condition}]}}"#);
        assert_eq!(
            violations(&policies("vmm", "serve", &both)),
            ["vmm.json, serve: `read` is also allowed without conditions"]
        );
    }

    #[test]
    fn calls_that_are_what_their_argument_says_have_a_condition() {
        let bare = r#"{"syscall": "ioctl", "comment": "KVM_RUN"}"#;
        assert_eq!(
            violations(&policies("vmm", "serve", bare)),
            ["vmm.json, serve: `ioctl` is allowed whatever its arguments"]
        );
    }

    #[test]
    fn a_filter_that_lets_the_rest_through_is_refused() {
        let answering = |program: &str, stage: &str, action: &str| {
            let mut policies = policies(program, stage, READ);
            let policy = policies.get_mut(program).unwrap();
            policy.get_mut(stage).unwrap().mismatch_action = action.into();
            policy.entry("serve".to_owned()).or_insert_with(|| {
                serde_json::from_str(&format!(
                    r#"{{"mismatch_action": "trap", "match_action": "allow", "filter": [{READ}]}}"#
                ))
                .unwrap()
            });
            violations(&policies).len()
        };
        for (program, stage, refuses) in [
            ("vmm", "serve", "kill_process"),
            ("vmm-core", "serve", "trap"),
            ("device-blk", "setup", "trap"),
            ("device-blk", "stand_alone", "kill_process"),
        ] {
            for action in ["kill_process", "trap", "log", "allow"] {
                let found = answering(program, stage, action);
                assert_eq!(found, usize::from(action != refuses), "{program} {stage} {action}");
            }
        }
    }

    #[test]
    fn a_refinement_answers_its_one_call_on_top_of_a_list() {
        let with = |stage: &str| {
            let mut all = policies("vmm", "serve", READ);
            let text = r#"{"mismatch_action": "allow", "match_action": {"errno": 38},
                "filter": [{"syscall": "clone3", "comment": "its flags lie in memory"}]}"#;
            all.get_mut("vmm").unwrap().insert(stage.to_owned(), serde_json::from_str(text).unwrap());
            violations(&all)
        };
        assert_eq!(with("serve_no_clone3"), Vec::<String>::new());
        assert_eq!(with("serve_no_clone").len(), 1, "another call");
        assert_eq!(with("control_no_clone3").len(), 1, "on top of nothing");
        assert_eq!(with("clone3").len(), 1);
    }

    #[test]
    fn a_device_with_limits_has_a_clock() {
        let clock = r#"{"syscall": "clock_gettime", "comment": "pace.rs"}"#;
        assert_eq!(without_a_clock(&policies("device-fs", "serve", clock)), Vec::<String>::new());
        assert_eq!(without_a_clock(&policies("device-fs", "serve", READ)).len(), 1);
        assert_eq!(without_a_clock(&policies("device-fs", "setup", clock)).len(), 1, "it serves without");
        for (program, stage) in [("device-balloon", "serve"), ("vmm", "serve")] {
            assert_eq!(without_a_clock(&policies(program, stage, READ)), Vec::<String>::new());
        }
    }

    #[test]
    fn only_serving_stages_count() {
        let many: Vec<String> =
            (0..16).map(|n| format!(r#"{{"syscall": "call{n}", "comment": "c"}}"#)).collect();
        assert_eq!(violations(&policies("device-blk", "serve", &many.join(","))).len(), 1);
        assert_eq!(violations(&policies("device-blk", "serve", &many[1..].join(","))), Vec::<String>::new());
        let before = policies("device-blk", "setup", READ);
        assert_eq!(violations(&before), ["device-blk.json: no filter for the time in which it serves"]);
    }
}
