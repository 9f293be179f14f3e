//! What SECURITY.md claims, a test holds: a paragraph that starts with "Held by:" names the tests, each in
//! backticks, and each of them exists: as a `#[test]` function, or as `target/name` in a target with a harness of its own,
//! whose `main.rs` calls it by that name.

use std::collections::BTreeSet;

use crate::syntax::Source;

const MARK: &str = "Held by:";

/// Names of all tests in the tree; `own_harnesses` are the targets that have no `#[test]` functions.
pub fn tests(sources: &[Source], own_harnesses: &[String]) -> BTreeSet<String> {
    let functions = sources.iter().flat_map(Source::functions).filter(|f| f.is_test).map(|f| f.name);
    functions.chain(own_harnesses.iter().flat_map(|target| in_own_harness(sources, target))).collect()
}

/// The functions of a target that its `main.rs` has in its table of tests, by name: a pair of which the first is that name.
/// What merely helps them is no test.
fn in_own_harness(sources: &[Source], target: &str) -> Vec<String> {
    let folder = format!("/tests/{target}/");
    let of_target = || sources.iter().filter(|source| source.path.contains(&folder));
    let main = of_target().find(|source| source.path.ends_with("/main.rs"));
    let table: String = main.map(|main| main.text.split_whitespace().collect()).unwrap_or_default();
    let functions = of_target().flat_map(Source::functions).map(|function| function.name);
    let named = functions.filter(|name| table.contains(&format!("(\"{name}\",")));
    named.map(|name| format!("{target}/{name}")).collect()
}

/// Claims that name no test, or one that does not exist.
pub fn violations(document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut violations = Vec::new();
    let mut claims = 0_usize;
    for (number, line) in (1_usize..).zip(document.lines()) {
        if !line.contains(MARK) {
            continue;
        }
        claims = claims.saturating_add(1);
        let names = named(document, number);
        if names.is_empty() {
            violations.push(format!("SECURITY.md:{number}: held by nothing"));
        }
        let missing = names.into_iter().filter(|name| !tests.contains(*name));
        violations.extend(missing.map(|name| format!("SECURITY.md:{number}: there is no test `{name}`")));
    }
    if claims == 0 {
        violations.push(format!("SECURITY.md: no paragraph with \"{MARK}\""));
    }
    violations
}

/// What stands in backticks between the mark on line `number` (from 1) and the end of its paragraph.
fn named(document: &str, number: usize) -> Vec<&str> {
    let paragraph =
        document.lines().skip(number.saturating_sub(1)).take_while(|line| !line.trim().is_empty());
    let mut names = Vec::new();
    for (nth, line) in paragraph.enumerate() {
        let text = match line.split_once(MARK) {
            Some((_, after)) if nth == 0 => after,
            // The next claim of a list begins.
            Some(_) => break,
            None => line,
        };
        names.extend(text.split('`').skip(1).step_by(2));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<String> {
        let text = "#[test]\nfn refuses_exec() {}\nfn refuses_open() {}";
        let own = "const ALL: T = [(\n\"refuses_fork\",\nrefuses_fork)];";
        let functions = "fn refuses_fork() { forks() } fn forks() {}";
        let sources = [("a.rs", text), ("x/tests/escape/main.rs", own), ("x/tests/escape/b.rs", functions)];
        tests(
            &sources.map(|(path, text)| Source::lex(path, text.to_owned()).unwrap()),
            &["escape".to_owned()],
        )
    }

    #[test]
    fn a_claim_needs_tests_that_exist() {
        assert_eq!(
            violations("No exec.\nHeld by: `refuses_exec`, `escape/refuses_fork`.\n", &known()),
            Vec::<String>::new()
        );
        for none in ["escape", "escape/forks", "escape/refuses_exec", "refuses_fork"] {
            let claim = format!("Held by: `{none}`.");
            assert_eq!(violations(&claim, &known()), [format!("SECURITY.md:1: there is no test `{none}`")]);
        }
        assert_eq!(
            violations("Held by: `refuses_exec`,\n`refuses_fork`.\n\n`unrelated`", &known()),
            ["SECURITY.md:1: there is no test `refuses_fork`"]
        );
        assert_eq!(violations("Held by: `refuses_open`.", &known()).len(), 1, "a function, but no test");
        assert_eq!(violations("Held by: good will.", &known()), ["SECURITY.md:1: held by nothing"]);
        assert_eq!(violations("All is safe.", &known()).len(), 1);
    }
}
