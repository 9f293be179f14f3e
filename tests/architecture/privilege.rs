//! Where the language's guarantees are switched off: `unsafe` stands in the files listed in
//! `unsafe_files.txt`, each use justified, and no lint is silenced without a reason.

use std::collections::BTreeMap;

use crate::syntax::Source;

/// The list: `path: why the file cannot do without`, one per line, `#` for comments.
pub const LIST: &str = "tests/architecture/unsafe_files.txt";

/// Files with `unsafe` that the list lacks, and files on the list without.
pub fn unlisted_unsafe(sources: &[Source], list: &str) -> Vec<String> {
    let mut violations = Vec::new();
    let mut listed = BTreeMap::new();
    for line in list.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        match line.split_once(": ") {
            Some((path, reason)) if !reason.trim().is_empty() => {
                if listed.insert(path, reason).is_some() {
                    violations.push(format!("{LIST}: {path} is listed twice"));
                }
            }
            _ => violations.push(format!("{LIST}: \"{line}\" is not of the form `path: reason`")),
        }
    }
    for source in sources {
        let first = source.unsafes().first().map(|u| u.line);
        match (first, listed.remove(source.path.as_str())) {
            (Some(line), None) => {
                violations.push(format!("{}:{line}: unsafe in a file not in {LIST}", source.path))
            }
            (None, Some(_)) => violations.push(format!("{LIST}: {} has no unsafe any more", source.path)),
            _ => {}
        }
    }
    violations.extend(listed.keys().map(|path| format!("{LIST}: {path} does not exist")));
    violations
}

/// `unsafe` blocks and implementations without `// SAFETY:` right above their statement.
pub fn unjustified_unsafe(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
        for found in source.unsafes().iter().filter(|u| u.owes_justification) {
            if !is_justified(&lines, found.line) {
                violations.push(format!("{}:{}: unsafe without `// SAFETY:` above", source.path, found.line));
            }
        }
    }
    violations
}

/// Walks up from `line` (from 1) through its own statement to the comment above it.
fn is_justified(lines: &[&str], line: usize) -> bool {
    let above = lines.get(..line.saturating_sub(1)).unwrap_or_default();
    for text in above.iter().rev() {
        if text.starts_with("// SAFETY: ") || text.starts_with("//SAFETY:") {
            return true;
        }
        let comment = text.starts_with("//");
        let other_statement = text.is_empty() || text.ends_with([';', '}']) || text.starts_with("fn ");
        if !comment && other_statement {
            return false;
        }
    }
    false
}

/// Attributes that silence a lint with `allow`: `expect` with a reason speaks up when it is no longer needed.
pub fn allowed_lints(sources: &[Source]) -> Vec<String> {
    let found = sources.iter().flat_map(|s| s.allows().into_iter().map(|line| (s.path.as_str(), line)));
    found.map(|(path, line)| format!("{path}:{line}: `allow`; use `expect` with a reason")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Vec<Source> {
        vec![Source::lex("a.rs", text.to_owned()).unwrap()]
    }

    #[test]
    fn the_list_is_exact_both_ways() {
        let with = source("fn f() { unsafe { g() } }");
        let without = source("fn f() {}");
        assert_eq!(unlisted_unsafe(&with, "# why\na.rs: calls g\n"), Vec::<String>::new());
        assert_eq!(unlisted_unsafe(&with, "").len(), 1);
        assert_eq!(unlisted_unsafe(&without, "a.rs: calls g").len(), 1);
        assert_eq!(unlisted_unsafe(&without, "b.rs: calls g").len(), 1);
        assert_eq!(unlisted_unsafe(&with, "a.rs: g\na.rs: g").len(), 1);
        assert_eq!(unlisted_unsafe(&with, "a.rs").len(), 2);
    }

    #[test]
    fn a_justification_belongs_to_one_statement() {
        let good = "fn f() {\n    // SAFETY: g has no contract\n    // to speak of.\n    let a =\n        unsafe { g() };\n}";
        let stale = "fn f() {\n    // SAFETY: g has no contract.\n    let a = unsafe { g() };\n    let b = unsafe { g() };\n}";
        let none = "fn f() {\n\n    unsafe { g() }\n}";
        assert_eq!(unjustified_unsafe(&source(good)), Vec::<String>::new());
        assert_eq!(unjustified_unsafe(&source(stale)), ["a.rs:4: unsafe without `// SAFETY:` above"]);
        assert_eq!(unjustified_unsafe(&source(none)).len(), 1);
        assert_eq!(unjustified_unsafe(&source("unsafe impl Send for A {}")).len(), 1);
    }

    #[test]
    fn allow_is_refused_and_expect_is_not() {
        assert_eq!(allowed_lints(&source("#[allow(dead_code)]\nfn f() {}")).len(), 1);
        assert_eq!(
            allowed_lints(&source("#[expect(dead_code, reason = \"r\")]\nfn f() {}")),
            Vec::<String>::new()
        );
    }
}
