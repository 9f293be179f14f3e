//! How long things may be: a file 500 lines, a function 60, tests included. Who wants more has two things.

use crate::syntax::Source;

const FILE: usize = 500;
const FUNCTION: usize = 60;

/// Files and functions over the limit.
pub fn too_long(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        if lines > FILE {
            violations.push(format!("{}: {lines} lines, at most {FILE}", source.path));
        }
        for function in source.functions().iter().filter(|f| f.lines() > FUNCTION) {
            let (name, line, lines) = (&function.name, function.first, function.lines());
            violations
                .push(format!("{}:{line}: `{name}` has {lines} lines, at most {FUNCTION}", source.path));
        }
    }
    violations
}

/// One line for the log: where the tree stands.
pub fn medians(sources: &[Source]) -> String {
    let files = sources.iter().map(|s| s.text.lines().count()).collect();
    let functions = sources.iter().flat_map(|s| s.functions().into_iter().map(|f| f.lines())).collect();
    format!("median lines of a file {}, of a function {}", median(files), median(functions))
}

fn median(mut values: Vec<usize>) -> usize {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: String) -> Vec<Source> {
        vec![Source::lex("a.rs", text).unwrap()]
    }

    #[test]
    fn the_limits_are_inclusive() {
        let function = |lines: usize| source(format!("fn f() {{{}}}", "\n".repeat(lines - 1)));
        assert_eq!(too_long(&function(60)), Vec::<String>::new());
        assert_eq!(too_long(&function(61)), ["a.rs:1: `f` has 61 lines, at most 60"]);
        assert_eq!(too_long(&source("\n".repeat(500))), Vec::<String>::new());
        assert_eq!(too_long(&source("\n".repeat(501))), ["a.rs: 501 lines, at most 500"]);
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![9, 1, 5]), 5);
        assert_eq!(median(vec![]), 0);
    }
}
