//! Nothing committed depends on the machine it was written on: no folder of ours, no mirror of a registry,
//! no document that a reader does not have.

use std::collections::BTreeSet;

use crate::layout;
use crate::tree::Tree;

/// Folders of a person or a machine. Split, so that this file passes.
const FOLDERS: [&str; 3] = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "home/")];

/// Hosts of specifications and of source. Registries of packages are not among them: what is needed from
/// one is named as a package, and the machine's own settings say where from.
const HOSTS: [&str; 7] = [
    "docs.kernel.org",
    "docs.oasis-open.org",
    "github.com",
    "qemu.org",
    "rustsec.org",
    "uefi.org",
    "www.apache.org",
];

/// Traces in any file of the repository.
pub fn violations(tree: &Tree) -> Result<Vec<String>, String> {
    // Whether those of the top level are there is another rule's matter.
    let names = tree.paths.iter().filter_map(|p| p.rsplit('/').next());
    let documents: BTreeSet<&str> = names.chain(layout::TOP_LEVEL).collect();
    let mut violations = Vec::new();
    for path in &tree.paths {
        for (number, line) in (1_usize..).zip(tree.lossy(path)?.lines()) {
            violations
                .extend(in_line(line, &documents).into_iter().map(|what| format!("{path}:{number}: {what}")));
        }
    }
    Ok(violations)
}

fn in_line(line: &str, documents: &BTreeSet<&str>) -> Vec<String> {
    let mut found: Vec<String> =
        FOLDERS.iter().filter(|f| line.contains(**f)).map(|f| format!("names the folder {f}")).collect();
    for (scheme, _) in line.match_indices("://") {
        let host = host(line.get(scheme..).unwrap_or_default().trim_start_matches("://"));
        let of_link =
            line.get(..scheme).is_some_and(|before| before.ends_with("http") || before.ends_with("https"));
        if of_link && !host.is_empty() && !HOSTS.iter().any(|known| is_within(host, known)) {
            found.push(format!("names the host {host}"));
        }
    }
    for word in line.split(|c: char| !(c.is_alphanumeric() || "._-".contains(c))) {
        if word.len() > ".md".len() && word.ends_with(".md") && !documents.contains(word) {
            found.push(format!("refers to {word}, which is not in the repository"));
        }
    }
    found
}

/// The host at the start of what follows `://`.
fn host(rest: &str) -> &str {
    rest.split(|c: char| !(c.is_alphanumeric() || ".-".contains(c))).next().unwrap_or_default()
}

fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_hosts_and_missing_documents_are_named() {
        let documents = BTreeSet::from(["README.md"]);
        let clean =
            "see README.md, https://docs.kernel.org/virt and https://www.qemu.org/a; CARGO_HOME/registry";
        assert_eq!(in_line(clean, &documents), Vec::<String>::new());
        assert_eq!(in_line(&format!("cd {}x", FOLDERS.concat()), &documents).len(), 3);
        assert_eq!(in_line(concat!("index = \"https:", "//mirror.example.net/index\""), &documents).len(), 1);
        assert_eq!(in_line(concat!("http:", "//notqemu.org"), &documents).len(), 1);
        assert_eq!(in_line(concat!("as in NOTES", ".md §3"), &documents).len(), 1);
    }
}
