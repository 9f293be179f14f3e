//! What stands at the top of the repository: a reader sees the whole design in one listing.

use std::collections::BTreeSet;

/// The list.
pub const TOP_LEVEL: [&str; 16] = [
    ".cargo",
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "clippy.toml",
    "deny.toml",
    "devices",
    "protocol",
    "rustfmt.toml",
    "sandbox-policies",
    "tests",
    "vmm",
];

/// What is there and not on the list, and the other way round.
pub fn top_level(paths: &[String]) -> Vec<String> {
    let found: BTreeSet<&str> = paths.iter().filter_map(|p| p.split('/').next()).collect();
    let listed = BTreeSet::from(TOP_LEVEL);
    let extra = found.difference(&listed).map(|name| format!("{name}: does not belong at the top level"));
    let missing = listed.difference(&found).map(|name| format!("{name}: missing from the top level"));
    extra.chain(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_and_missing_entries_are_named() {
        let mut paths: Vec<String> = TOP_LEVEL.iter().map(|name| format!("{name}/x")).collect();
        assert_eq!(top_level(&paths), Vec::<String>::new());
        paths.push("notes.txt".to_owned());
        assert_eq!(top_level(&paths), ["notes.txt: does not belong at the top level"]);
        paths.retain(|p| !p.starts_with("LICENSE") && p != "notes.txt");
        assert_eq!(top_level(&paths), ["LICENSE: missing from the top level"]);
    }
}
