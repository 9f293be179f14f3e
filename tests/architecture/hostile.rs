//! What attackers try, item by item, and the tests that try it: `hostile.txt`. No item is without a test, and each test
//! that is named exists.
//!
//! A line is a section (`== name`), an item and its tests (`item: test, test`), or, with `#`, neither.

use std::collections::BTreeSet;

use crate::syntax::Source;

/// Where the items are.
pub const LIST: &str = "tests/architecture/hostile.txt";

/// Items without a test or with one that does not exist, items that are twice in a section, sections without an item.
pub fn violations(list: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut violations = Vec::new();
    let mut items = BTreeSet::new();
    let mut empty_section = None;
    for (number, line) in (1_usize..).zip(list.lines()) {
        let mut violation = |what: String| violations.push(format!("{LIST}:{number}: {what}"));
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            items.clear();
            if let Some(before) = empty_section.replace(name) {
                violation(format!("section \"{before}\" above has no item"));
            }
            continue;
        }
        empty_section = None;
        let (item, named) = line.split_once(": ").unwrap_or((line, ""));
        if !items.insert(item) {
            violation(format!("\"{item}\" is there twice"));
        }
        if named.is_empty() {
            violation(format!("nothing tries \"{item}\""));
        }
        for name in named.split(", ").filter(|name| !name.is_empty() && !tests.contains(*name)) {
            violation(format!("there is no test {name}"));
        }
    }
    if let Some(name) = empty_section {
        violations.push(format!("{LIST}: section \"{name}\" has no item"));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<Source> {
        let own = "const TESTS: T = [(\"kills\", kills)]; fn kills() {} fn helps() {}".to_owned();
        let usual = "#[test]\nfn loops() {}\nfn no_test() {}".to_owned();
        let lex = |path, text| Source::lex(path, text).unwrap();
        vec![lex("x/tests/supervision/main.rs", own), lex("x/src/b.rs", usual)]
    }

    fn wrong(list: &str) -> Vec<String> {
        violations(list, &crate::claims::tests(&sources(), &["supervision".to_owned()]))
    }

    #[test]
    fn an_item_needs_a_test_that_exists() {
        assert_eq!(
            wrong("# why\n== Rings\n\na loop: loops\na kill: supervision/kills, loops"),
            Vec::<String>::new()
        );
        let at = |what: &str| vec![format!("{LIST}:2: {what}")];
        assert_eq!(wrong("== Rings\na loop"), at("nothing tries \"a loop\""));
        assert_eq!(wrong("== Rings\na loop: loops, jumps"), at("there is no test jumps"));
        assert_eq!(wrong("== Rings\na loop: no_test"), at("there is no test no_test"));
        assert_eq!(wrong("== Rings\na kill: supervision"), at("there is no test supervision"));
        assert_eq!(wrong("a loop: loops\na loop: loops"), at("\"a loop\" is there twice"));
        assert_eq!(wrong("== Rings\n== Devices\na loop: loops"), at("section \"Rings\" above has no item"));
        assert_eq!(wrong("== Rings").len(), 1);
    }
}
