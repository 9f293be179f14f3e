//! The sizes that the README claims, measured: per program the lines of its own code and of our libraries in
//! it, the crates it links and the system calls it keeps while serving. The table stands between two markers; when it is out of
//! date the test prints the one that belongs there.

use std::path::Path;

use crate::dependencies::{self, Linked, Member};
use crate::policies;
use crate::syntax::Source;
use crate::tree::Tree;

const OPEN: &str = "<!-- sizes -->";
const CLOSE: &str = "<!-- /sizes -->";

/// One program's row.
struct Row {
    program: String,
    lines: usize,
    with_libraries: usize,
    ours: usize,
    others: usize,
    calls: usize,
}

/// The table as it should be.
pub fn table(tree: &Tree) -> Result<String, String> {
    let members = dependencies::members()?;
    let policies = policies::read(tree)?;
    let sources = tree.sources()?;
    let mut rows = Vec::new();
    for member in &members {
        for program in dependencies::programs(std::slice::from_ref(member)) {
            let policy = policies.get(&program).ok_or_else(|| format!("{program}: no policy"))?;
            let linked = dependencies::linked(&member.name)?;
            let (ours, others) = split(&linked, &members);
            let lines = |member: &Member| code_lines(&sources, &format!("{}/src/", member.folder));
            rows.push(Row {
                program,
                lines: lines(member),
                with_libraries: ours.iter().map(|m| lines(m)).sum(),
                ours: ours.len(),
                others,
                calls: policies::while_serving(policy).len(),
            });
        }
    }
    rows.sort_by(|a, b| a.program.cmp(&b.program));
    Ok(render(&rows))
}

fn render(rows: &[Row]) -> String {
    let mut table = String::from(
        "| program | lines of its own code | with our libraries | crates linked: ours | others | system calls while serving |\n\
         |---|--:|--:|--:|--:|--:|\n",
    );
    for Row { program, lines, with_libraries, ours, others, calls } in rows {
        table.push_str(&format!(
            "| `{program}` | {lines} | {with_libraries} | {ours} | {others} | {calls} |\n"
        ));
    }
    table
}

/// Our packages among the linked crates, the program's own included, and the number of the others.
fn split<'a>(linked: &[Linked], members: &'a [Member]) -> (Vec<&'a Member>, usize) {
    let ours: Vec<&Member> = members.iter().filter(|m| linked.iter().any(|l| l.name == m.name)).collect();
    let others = linked.len().saturating_sub(ours.len());
    (ours, others)
}

/// Lines of code under a folder, without tests: neither modules under `#[cfg(test)]` nor their files.
fn code_lines(sources: &[Source], folder: &str) -> usize {
    let within: Vec<&Source> = sources.iter().filter(|s| s.path.starts_with(folder)).collect();
    let tests: Vec<String> = within.iter().flat_map(|s| test_files(s)).collect();
    let is_test = |s: &Source| {
        tests.iter().any(|t| s.path.strip_prefix(t.as_str()).is_some_and(|end| end.starts_with(['.', '/'])))
    };
    within.iter().filter(|s| !is_test(s)).map(|s| s.code_lines()).sum()
}

/// Paths, without `.rs`, of the modules that a file declares under `#[cfg(test)]`.
fn test_files(source: &Source) -> Vec<String> {
    let path = Path::new(&source.path);
    let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("main" | "lib" | "mod") | None => path.parent().unwrap_or(path).to_owned(),
        Some(_) => path.with_extension(""),
    };
    let names = source.test_only().into_iter().filter_map(|item| item.file);
    names.map(|name| folder.join(name).display().to_string()).collect()
}

/// The difference between the README's table and the measured one.
pub fn violations(readme: &str, measured: &str) -> Vec<String> {
    let claimed =
        readme.split_once(OPEN).and_then(|(_, after)| after.split_once(CLOSE)).map(|(table, _)| table.trim());
    match claimed {
        Some(claimed) if claimed == measured.trim() => Vec::new(),
        Some(_) => vec![format!("README.md: the sizes are out of date; they are\n{OPEN}\n{measured}{CLOSE}")],
        None => {
            vec![format!("README.md: no {OPEN} … {CLOSE}; what belongs there is\n{OPEN}\n{measured}{CLOSE}")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_compared_exactly() {
        let measured = render(&[Row {
            program: "vmm".to_owned(),
            lines: 9,
            with_libraries: 9,
            ours: 2,
            others: 3,
            calls: 4,
        }]);
        let readme = |table: &str| format!("# vmm\n{OPEN}\n{table}{CLOSE}\nmore\n");
        assert_eq!(violations(&readme(&measured), &measured), Vec::<String>::new());
        assert_eq!(violations(&readme(&measured.replace('9', "8")), &measured).len(), 1);
        assert_eq!(violations("# vmm\n", &measured).len(), 1);
    }

    #[test]
    fn files_of_tests_are_not_code() {
        let file = |path: &str, text: &str| Source::lex(path, text.to_owned()).unwrap();
        let sources = [
            file("core/src/main.rs", "mod a;\n#[cfg(test)]\nmod hostile;"),
            file("core/src/hostile.rs", "fn f() {}"),
            file("core/src/hostile_guest.rs", "fn f() {}"),
            file("core/src/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests;"),
            file("core/src/a/tests.rs", "fn f() {}"),
            file("blk/src/main.rs", "fn f() {}"),
        ];
        assert_eq!(code_lines(&sources, "core/src/"), 3);
    }
}
