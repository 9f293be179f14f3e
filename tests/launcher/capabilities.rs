//! What the README says of each device program, against what the program says of itself.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use system_tests::program;

/// `--print-capabilities` (vhost-user, "Backend program conventions").
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Capabilities {
    #[serde(rename = "type")]
    kind: String,
    features: Vec<String>,
}

/// The programs: a folder of `devices` each, but for the library.
fn names(root: &Path) -> Vec<String> {
    let folders = std::fs::read_dir(root.join("devices")).expect("the folder of the devices");
    let names = folders.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.filter(|name| name != "backend").collect();
    names.sort();
    names
}

fn row(root: &Path, name: &str) -> String {
    let program = program(&format!("device-{name}")).expect("it is built");
    let output = Command::new(program).arg("--print-capabilities").output().expect("it runs");
    assert!(output.status.success() && output.stderr.is_empty(), "device-{name}: {output:?}");
    let said: Capabilities = serde_json::from_slice(&output.stdout).expect("JSON as the conventions have it");
    let page = format!("devices/{name}/README.md");
    let text = std::fs::read_to_string(root.join(&page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    for part in
        ["## What it serves", "## Options, on its own", "## Under `vmm`", "## Limits", "## Privileges"]
    {
        assert!(text.contains(part), "{page} has no part {part:?}");
    }
    let features: Vec<String> = said.features.iter().map(|feature| format!("`{feature}`")).collect();
    format!("| `device-{name}` | `{}` | {} | [{page}]({page}) |\n", said.kind, features.join(", "))
}

#[test]
fn the_readme_has_the_table_of_what_the_programs_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let rows: String = names(root).iter().map(|name| row(root, name)).collect();
    let table = format!("| program | type | features | page |\n|---|---|---|---|\n{rows}");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let (_, after) = readme.split_once("<!-- programs -->\n").expect("the table's beginning");
    let (found, _) = after.split_once("<!-- /programs -->").expect("the table's end");
    assert_eq!(found, table, "the README's table is out of date; it should be:\n{table}");
}
