//! The system calls that SECURITY.md says each program keeps while it serves, made from the policies: a row for each
//! program, or kind of its threads, with what the arguments are pinned to. The table stands between two markers; when it
//! is out of date the test prints the one that belongs there.

use std::collections::{BTreeMap, BTreeSet};

use crate::policies::{Filter, Policy, is_serving};

const OPEN: &str = "<!-- granted -->";
const CLOSE: &str = "<!-- /granted -->";

/// The table as it should be.
pub fn table(policies: &BTreeMap<String, Policy>) -> String {
    let mut table = String::from(
        "| program, threads | whatever the arguments | with these arguments alone |\n|---|---|---|\n",
    );
    for (program, policy) in policies {
        let serving: Vec<_> = policy.iter().filter(|(stage, _)| is_serving(stage)).collect();
        for (stage, filter) in &serving {
            let threads = if serving.len() > 1 { format!(", {stage}") } else { String::new() };
            let (free, pinned) = (free(filter), pinned(filter));
            table.push_str(&format!("| `{program}`{threads} | {free} | {pinned} |\n"));
        }
    }
    table
}

fn free(filter: &Filter) -> String {
    let free = filter.rules().filter(|(_, conditions)| conditions.is_empty());
    let calls: BTreeSet<&str> = free.map(|(call, _)| call).collect();
    Vec::from_iter(calls.into_iter().map(|call| format!("`{call}`"))).join(" ")
}

/// Each call with all that its arguments may be, in the order of the file.
fn pinned(filter: &Filter) -> String {
    let mut calls: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (call, conditions) in filter.rules().filter(|(_, conditions)| !conditions.is_empty()) {
        calls.entry(call).or_default().push(conditions.join(" with "));
    }
    let calls = calls.iter().map(|(call, ways)| format!("`{call}` ({})", ways.join(", or ")));
    Vec::from_iter(calls).join("; ")
}

/// The difference between the document's table and that of the policies.
pub fn violations(document: &str, table: &str) -> Vec<String> {
    let belongs = format!("what belongs there is\n{OPEN}\n{table}{CLOSE}");
    let within = document.split_once(OPEN).and_then(|(_, after)| after.split_once(CLOSE));
    match within.map(|(claimed, _)| claimed.trim()) {
        Some(claimed) if claimed == table.trim() => Vec::new(),
        Some(_) => vec![format!("SECURITY.md: the granted system calls are out of date; {belongs}")],
        None => vec![format!("SECURITY.md: no {OPEN} … {CLOSE}; {belongs}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies() -> BTreeMap<String, Policy> {
        let list = |rules: &str| {
            format!(r#"{{"mismatch_action": "trap", "match_action": "allow", "filter": [{rules}]}}"#)
        };
        let argument = |meaning: &str| {
            format!(r#"{{"index": 1, "type": "dword", "op": "eq", "val": 3, "comment": "{meaning}"}}"#)
        };
        let rule = |call: &str, arguments: &[String]| {
            format!(r#"{{"syscall": "{call}", "comment": "c", "args": [{}]}}"#, arguments.join(", "))
        };
        let vcpu = [
            rule("write", &[]),
            rule("ioctl", &[argument("KVM_RUN")]),
            rule("ioctl", &[argument("KVM_IRQFD"), argument("mine")]),
            r#"{"syscall": "close", "comment": "c"}"#.to_owned(),
        ];
        let (vcpu, read) = (list(&vcpu.join(", ")), list(&rule("read", &[])));
        let text = format!(r#"{{"setup": {read}, "vcpu": {vcpu}, "control": {read}}}"#);
        BTreeMap::from([("core".to_owned(), serde_json::from_str(&text).unwrap())])
    }

    #[test]
    fn a_row_is_a_kind_of_threads_with_what_its_arguments_may_be() {
        let table = table(&policies());
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `core`, control | `read` |  |",
                "| `core`, vcpu | `close` `write` | `ioctl` (KVM_RUN, or KVM_IRQFD with mine) |"
            ]
        );
    }

    #[test]
    fn the_table_is_compared_exactly() {
        let table = table(&policies());
        let document = |table: &str| format!("# Security\n{OPEN}\n{table}{CLOSE}\nmore\n");
        assert_eq!(violations(&document(&table), &table), Vec::<String>::new());
        assert_eq!(violations(&document(&table.replace("KVM_RUN", "KVM_ALL")), &table).len(), 1);
        assert_eq!(violations("# Security\n", &table).len(), 1);
    }
}
