//! The root manifest is the only place for versions, lints and profiles; members inherit.

use toml::{Table, Value};

use crate::tree::Tree;

/// Members that do not inherit, and manifests outside the workspace.
pub fn violations(tree: &Tree) -> Result<Vec<String>, String> {
    let root = parse("Cargo.toml", &tree.text("Cargo.toml")?)?;
    let members = at(&root, &["workspace", "members"]).and_then(Value::as_array);
    let members: Vec<String> =
        members.into_iter().flatten().filter_map(Value::as_str).map(|m| format!("{m}/Cargo.toml")).collect();
    let mut violations = Vec::new();
    for path in tree.paths.iter().filter(|p| p.ends_with("/Cargo.toml")) {
        if !members.contains(path) {
            violations.push(format!("{path}: not a member of the workspace"));
        }
        violations.extend(against(path, &parse(path, &tree.text(path)?)?));
    }
    Ok(violations)
}

/// Names of the test targets that bring their own harness, and therefore have no `#[test]` functions.
pub fn own_harnesses(tree: &Tree) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for path in tree.paths.iter().filter(|p| p.ends_with("/Cargo.toml")) {
        names.extend(harnesses_in(&parse(path, &tree.text(path)?)?));
    }
    Ok(names)
}

fn harnesses_in(manifest: &Table) -> Vec<String> {
    let targets = at(manifest, &["test"]).and_then(Value::as_array).into_iter().flatten();
    let own = targets.filter(|t| t.get("harness").and_then(Value::as_bool) == Some(false));
    own.filter_map(|t| t.get("name")?.as_str().map(str::to_owned)).collect()
}

fn parse(path: &str, text: &str) -> Result<Table, String> {
    text.parse().map_err(|e| format!("{path}: {e}"))
}

fn against(path: &str, manifest: &Table) -> Vec<String> {
    let mut violations = Vec::new();
    if !inherits(at(manifest, &["lints"])) {
        violations.push(format!("{path}: lints are not inherited"));
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        if !inherits(at(manifest, &["package", key])) {
            violations.push(format!("{path}: package.{key} is not inherited"));
        }
    }
    for key in ["profile", "patch", "replace"].into_iter().filter(|key| manifest.contains_key(*key)) {
        violations.push(format!("{path}: [{key}] belongs in the root manifest"));
    }
    let targets = at(manifest, &["target"]).and_then(Value::as_table);
    let per_target = targets.into_iter().flat_map(|t| t.values()).filter_map(Value::as_table);
    for scope in std::iter::once(manifest).chain(per_target) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = scope.get(kind).and_then(Value::as_table).into_iter().flatten();
            let own = dependencies.filter(|(_, value)| !inherits(Some(value)));
            violations.extend(own.map(|(name, _)| format!("{path}: {kind}.{name} is not inherited")));
        }
    }
    violations
}

/// Whether a value is `{ workspace = true, … }`.
fn inherits(value: Option<&Value>) -> bool {
    value.and_then(|v| v.get("workspace")).and_then(Value::as_bool) == Some(true)
}

fn at<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\nversion.workspace = true\nedition.workspace = true\nrust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n";

    fn check(text: &str) -> Vec<String> {
        against("a/Cargo.toml", &parse("a/Cargo.toml", text).unwrap())
    }

    #[test]
    fn inheriting_passes() {
        assert_eq!(
            check(&format!(
                "{GOOD}[dependencies]\nb.workspace = true\nc = {{ workspace = true, features = [] }}"
            )),
            Vec::<String>::new()
        );
    }

    #[test]
    fn versions_in_any_dependency_table_are_named() {
        assert_eq!(
            check(&format!("{GOOD}[dependencies]\nb = \"1\"")),
            ["a/Cargo.toml: dependencies.b is not inherited"]
        );
        assert_eq!(check(&format!("{GOOD}[dev-dependencies]\nb.version = \"1\"")).len(), 1);
        assert_eq!(
            check(&format!("{GOOD}[target.'cfg(unix)'.build-dependencies]\nb.path = \"../b\"")).len(),
            1
        );
    }

    #[test]
    fn own_lints_and_profiles_are_named() {
        assert_eq!(
            check(&GOOD.replace("[lints]\nworkspace = true", "[lints.rust]\nunsafe_code = \"deny\"")).len(),
            1
        );
        assert_eq!(check(&format!("{GOOD}[profile.release]\nlto = true")).len(), 1);
        assert_eq!(check(&GOOD.replace("edition.workspace = true", "edition = \"2021\"")).len(), 1);
    }

    #[test]
    fn targets_with_a_harness_of_their_own_are_found() {
        let text = "[[test]]\nname = \"a\"\nharness = false\n[[test]]\nname = \"b\"\n";
        assert_eq!(harnesses_in(&parse("Cargo.toml", text).unwrap()), ["a"]);
    }
}
