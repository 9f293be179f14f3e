//! Which crate may link which: the direction of dependency is the direction of trust.
//!
//! Only what ends up in the program counts (normal dependencies, without procedural macros, for the one
//! target we build), and it counts at any depth. Cargo itself is asked, so features are the resolved ones.

use std::process::Command;

use serde_json::Value;

use crate::tree;

/// A package of the workspace.
#[derive(Clone, Debug, Default)]
pub struct Member {
    pub name: String,
    /// Folder of its manifest, relative to the root.
    pub folder: String,
    /// Names of its binary targets.
    pub programs: Vec<String>,
    /// Normal dependencies that its manifest names.
    pub direct: Vec<String>,
}

/// A crate that a package links.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Linked {
    pub name: String,
    pub version: String,
    pub features: Vec<String>,
}

/// What a package may link of ours, and what it never links; `*` at the end of a name stands for any ending.
struct Rule {
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const SHARED: Rule =
    Rule { ours: &[], never: &["clap", "lexopt", "kvm-*", "vhost*", "vm-memory", "serde*", "toml"] };
const LAUNCHER: Rule =
    Rule { ours: &["protocol", "sandbox-policies"], never: &["kvm-*", "vm-memory", "vhost*", "virtio-*"] };
const CORE: Rule = Rule {
    ours: &["protocol", "sandbox-policies"],
    never: &["clap", "serde", "serde_json", "toml", "lexopt", "vhost-user-backend", "virtio-queue"],
};
const DEVICE: Rule = Rule {
    ours: &["device-backend", "protocol", "sandbox-policies"],
    never: &["kvm-*", "clap", "serde", "serde_json", "toml", "linux-loader"],
};
/// Beside what each device links, the library of the disk that it is one of.
const IMAGE: Rule =
    Rule { ours: &["device-backend", "device-blk", "protocol", "sandbox-policies"], never: DEVICE.never };

/// The rule for a member; tests and tools link what they like.
fn rule(member: &Member) -> Result<Option<&'static Rule>, String> {
    match (member.name.as_str(), member.folder.as_str()) {
        ("protocol" | "sandbox-policies", _) => Ok(Some(&SHARED)),
        ("vmm", "vmm/launcher") => Ok(Some(&LAUNCHER)),
        ("vmm-core", "vmm/core") => Ok(Some(&CORE)),
        (_, folder) if folder.split('/').next() == Some("tests") => Ok(None),
        ("device-blk-qcow2", "devices/blk-qcow2") => Ok(Some(&IMAGE)),
        (name, folder) if is_device(name, folder) => Ok(Some(&DEVICE)),
        (name, folder) => Err(format!("package `{name}` in {folder}: no rule says what it may link")),
    }
}

/// A device's package is named for its folder, the shared back end's too.
fn is_device(name: &str, folder: &str) -> bool {
    folder.strip_prefix("devices/").is_some_and(|kind| name.strip_prefix("device-") == Some(kind))
}

/// Links against the direction of trust.
pub fn direction(members: &[Member]) -> Result<Vec<String>, String> {
    let mut violations = Vec::new();
    for member in members {
        match rule(member) {
            Ok(Some(rule)) => violations.extend(against(rule, &member.name, &linked(&member.name)?, members)),
            Ok(None) => {}
            Err(unknown) => violations.push(unknown),
        }
    }
    Ok(violations)
}

fn against(rule: &Rule, package: &str, linked: &[Linked], members: &[Member]) -> Vec<String> {
    let names = linked.iter().map(|l| l.name.as_str()).filter(|name| *name != package);
    let wrong = names.filter(|name| {
        let ours = members.iter().any(|m| m.name == *name);
        (ours && !rule.ours.contains(name)) || rule.never.iter().any(|never| matches(never, name))
    });
    wrong.map(|name| format!("{package} links {name}")).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

/// JSON parsers in a program: policies are compiled when the program is built.
pub fn parsers_in_programs(members: &[Member]) -> Result<Vec<String>, String> {
    let mut violations = Vec::new();
    for program in members.iter().filter(|m| is_shipped(m) && !m.programs.is_empty()) {
        violations.extend(parsers(&program.name, &linked(&program.name)?));
    }
    Ok(violations)
}

fn parsers(package: &str, linked: &[Linked]) -> Vec<String> {
    let found = linked.iter().filter_map(|crate_| match crate_.name.as_str() {
        "serde_json" => Some("serde_json".to_owned()),
        "seccompiler" if crate_.features.iter().any(|f| f == "json") => {
            Some("seccompiler's JSON front end".to_owned())
        }
        _ => None,
    });
    found.map(|what| format!("{package} links {what}")).collect()
}

/// Crates that one package of ours wraps for all others.
pub fn sole_users(members: &[Member]) -> Vec<String> {
    let others = members.iter().filter(|m| m.name != "protocol" && m.direct.iter().any(|d| d == "bincode"));
    others.map(|m| format!("{} depends on bincode; only protocol decodes", m.name)).collect()
}

/// Names of the programs that a user gets.
pub fn programs(members: &[Member]) -> Vec<String> {
    members.iter().filter(|m| is_shipped(m)).flat_map(|m| m.programs.clone()).collect()
}

fn is_shipped(member: &Member) -> bool {
    matches!(member.folder.split('/').next(), Some("vmm" | "devices"))
}

/// The packages of the workspace, from `cargo metadata`.
pub fn members() -> Result<Vec<Member>, String> {
    let text = tree::output(cargo().args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata.get("packages").and_then(Value::as_array);
    packages.into_iter().flatten().map(|p| member(p).ok_or_else(|| format!("cargo metadata: {p}"))).collect()
}

fn member(package: &Value) -> Option<Member> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let list = |key: &str| package.get(key).and_then(Value::as_array);
    let manifest = text(package, "manifest_path")?;
    let folder = std::path::Path::new(&manifest).parent()?.strip_prefix(tree::root()).ok()?;
    let is_program =
        |target: &&Value| target.get("kind").is_some_and(|kinds| kinds.to_string().contains("\"bin\""));
    let is_normal = |dependency: &&Value| dependency.get("kind").is_none_or(Value::is_null);
    Some(Member {
        name: text(package, "name")?,
        folder: folder.to_str()?.to_owned(),
        programs: list("targets")?.iter().filter(is_program).filter_map(|t| text(t, "name")).collect(),
        direct: list("dependencies")?.iter().filter(is_normal).filter_map(|d| text(d, "name")).collect(),
    })
}

/// What a package links, itself included, from `cargo tree`.
pub fn linked(package: &str) -> Result<Vec<Linked>, String> {
    let text = tree::output(cargo().args(["tree", "--locked", "--package", package]).args([
        "--edges=normal,no-proc-macro",
        "--prefix=none",
        "--format={p}|{f}",
    ]))?;
    parse(&text)
}

/// Reads lines of the form `name v1.2.3 (source)|feature,feature (*)`.
fn parse(text: &str) -> Result<Vec<Linked>, String> {
    let mut linked = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty()) {
        let unexpected = || format!("cargo tree: \"{line}\"");
        let (package, features) = line.split_once('|').ok_or_else(unexpected)?;
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else { return Err(unexpected()) };
        let features = features.trim_end_matches("(*)").trim().split(',');
        linked.push(Linked {
            name: name.to_owned(),
            version: version.to_owned(),
            features: features.filter(|f| !f.is_empty()).map(str::to_owned).collect(),
        });
    }
    linked.sort();
    linked.dedup();
    Ok(linked)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(tree::root());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, folder: &str) -> Member {
        Member { name: name.to_owned(), folder: folder.to_owned(), ..Member::default() }
    }

    #[test]
    fn a_link_against_the_direction_is_named() {
        let ours = [
            member("vmm-core", "vmm/core"),
            member("protocol", "protocol"),
            member("device-blk", "devices/blk"),
        ];
        let linked = parse("vmm-core v0.1.0 (/x)|\nprotocol v0.1.0 (/x)|\nvhost v0.18.0|default\n").unwrap();
        assert_eq!(against(&CORE, "vmm-core", &linked, &ours), Vec::<String>::new());
        let linked =
            parse("vmm-core v0.1.0|\ndevice-blk v0.1.0|\nserde v1.0.0|std (*)\nserde v1.0.0|std\n").unwrap();
        assert_eq!(
            against(&CORE, "vmm-core", &linked, &ours),
            ["vmm-core links device-blk", "vmm-core links serde"]
        );
        let linked = parse("device-blk v0.1.0|\nkvm-ioctls v0.25.1|").unwrap();
        assert_eq!(against(&DEVICE, "device-blk", &linked, &ours), ["device-blk links kvm-ioctls"]);
    }

    #[test]
    fn a_package_in_an_unknown_place_has_no_rule() {
        assert!(rule(&member("device-net", "devices/blk")).is_err());
        assert!(rule(&member("helpers", "helpers")).is_err());
        assert!(rule(&member("device-net", "devices/net")).unwrap().is_some());
        assert!(rule(&member("xtask", "tests/xtask")).unwrap().is_none());
    }

    #[test]
    fn a_json_parser_is_seen_as_crate_and_as_feature() {
        let linked = parse("seccompiler v0.5.0|json\nserde_json v1.0.0|std").unwrap();
        assert_eq!(
            parsers("vmm", &linked),
            ["vmm links seccompiler's JSON front end", "vmm links serde_json"]
        );
        assert_eq!(parsers("vmm", &parse("seccompiler v0.5.0|").unwrap()), Vec::<String>::new());
    }

    #[test]
    fn another_user_of_bincode_is_named() {
        let mut other = member("vmm-core", "vmm/core");
        other.direct.push("bincode".to_owned());
        assert_eq!(sole_users(&[other]).len(), 1);
    }

    #[test]
    fn the_workspace_is_read() {
        let members = members().unwrap();
        let core = members.iter().find(|m| m.name == "vmm-core").unwrap();
        assert_eq!(
            (core.folder.as_str(), core.programs.as_slice()),
            ("vmm/core", &["vmm-core".to_owned()][..])
        );
        assert!(linked("vmm-core").unwrap().iter().any(|l| l.name == "kvm-ioctls"));
    }
}
