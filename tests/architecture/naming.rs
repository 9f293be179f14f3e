//! Each module says first what it is, and nothing is named for being shared instead of for what it provides.

use crate::syntax::Source;

const BANNED: [&str; 8] = ["util", "utils", "common", "base", "helper", "helpers", "manager", "misc"];

/// Files that do not open with `//!`.
pub fn unintroduced(sources: &[Source]) -> Vec<String> {
    let silent = sources.iter().filter(|s| !s.text.starts_with("//! "));
    silent.map(|s| format!("{}:1: does not open with `//!`", s.path)).collect()
}

/// Folders, files and modules with a banned word in their name.
pub fn banned(paths: &[String], sources: &[Source]) -> Vec<String> {
    let in_paths = paths.iter().filter_map(|path| {
        let word = path.split('/').find_map(banned_word)?;
        Some(format!("{path}: `{word}` says nothing about what it provides"))
    });
    let in_modules = sources.iter().flat_map(|source| {
        source.modules().into_iter().filter_map(|(module, line)| {
            let word = banned_word(&module)?;
            Some(format!(
                "{}:{line}: module `{module}`: `{word}` says nothing about what it provides",
                source.path
            ))
        })
    });
    in_paths.chain(in_modules).collect()
}

fn banned_word(name: &str) -> Option<&'static str> {
    let mut words = name.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| BANNED.into_iter().find(|banned| word.eq_ignore_ascii_case(banned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Vec<Source> {
        vec![Source::lex("a.rs", text.to_owned()).unwrap()]
    }

    #[test]
    fn the_first_line_counts() {
        assert_eq!(unintroduced(&source("//! What it is.\n")), Vec::<String>::new());
        assert_eq!(unintroduced(&source("use a;\n//! Late.\n")).len(), 1);
        assert_eq!(unintroduced(&source("")).len(), 1);
    }

    #[test]
    fn words_are_banned_and_not_syllables() {
        let paths = |p: &str| vec![p.to_owned()];
        assert_eq!(banned(&paths("vmm/core/src/database.rs"), &[]), Vec::<String>::new());
        assert_eq!(banned(&paths("vmm/common/src/a.rs"), &[]).len(), 1);
        assert_eq!(banned(&paths("vmm/test_utils.rs"), &[]).len(), 1);
        assert_eq!(banned(&[], &source("mod device_manager { }")).len(), 1);
    }
}
