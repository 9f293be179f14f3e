//! The groups of tests, by name: which programs belong to each and what they need.

use crate::failure::{Failure, Outcome};
use crate::workspace::Workspace;

/// The package of the system tests, whose test targets are groups of the same name.
const SYSTEM_TESTS: &str = "system-tests";

/// Test targets that want a program with fault points. Programs with them are built apart, lest another group's tests
/// meet one.
const WITH_FAULT_POINTS: [(&str, &str); 1] = [("device-blk", "recovery")];

/// What a group's tests need to be there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Needs {
    /// Nothing but themselves.
    Nothing,
    /// The product's programs, built.
    Programs,
    /// The programs, guest artifacts and a QEMU, which emulates: no KVM.
    Qemu,
    /// Those of the system tests: the programs, guest artifacts and a KVM that runs stock Linux. Tests of other
    /// packages need nothing of it.
    Guests,
}

/// A named group.
pub struct Group {
    /// As the user writes it.
    pub name: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// Packages whose integration tests belong to the group; all others' are in `unit`.
    packages: &'static [&'static str],
}

/// All groups, in the order in which they run: the quickest answer first.
pub const GROUPS: [Group; 8] = [
    Group { name: "unit", needs: Needs::Nothing, packages: &[] },
    Group { name: "architecture", needs: Needs::Nothing, packages: &[] },
    Group { name: "protocol", needs: Needs::Programs, packages: &["protocol"] },
    Group { name: "launcher", needs: Needs::Programs, packages: &["vmm"] },
    Group { name: "confinement", needs: Needs::Programs, packages: &["sandbox-policies"] },
    Group { name: "devices", needs: Needs::Qemu, packages: &[] },
    Group { name: "boot", needs: Needs::Guests, packages: &[] },
    Group { name: "recovery", needs: Needs::Guests, packages: &[] },
];

/// The groups called `names`, all of them if none is named.
pub fn chosen(names: &[String]) -> Outcome<Vec<&'static Group>> {
    if let Some(unknown) = names.iter().find(|name| GROUPS.iter().all(|group| group.name != *name)) {
        let known: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
        return Err(Failure::new(format!(
            "no test group is called {unknown}; there are {}",
            known.join(", ")
        )));
    }
    Ok(GROUPS
        .iter()
        .filter(|group| names.is_empty() || names.iter().any(|name| name == group.name))
        .collect())
}

/// Test targets of the system tests that belong to no group: an oversight that must not go unseen.
pub fn forgotten(workspace: &Workspace) -> Vec<String> {
    let targets = workspace.tests.get(SYSTEM_TESTS).cloned().unwrap_or_default();
    targets.into_iter().filter(|target| GROUPS.iter().all(|group| group.name != target)).collect()
}

impl Group {
    /// The arguments of each `cargo test` that together build the group's programs.
    pub fn selections(&self, workspace: &Workspace) -> Vec<Vec<String>> {
        let mut selections = Vec::new();
        match self.name {
            "unit" => selections.push(self.unit_selection(workspace)),
            "protocol" => {
                selections.push(["--package=protocol", "--lib", "--tests"].map(str::to_owned).to_vec());
            }
            "recovery" => selections.extend(with_fault_points(workspace)),
            _ => {
                for package in self.packages {
                    selections.extend(integration_tests(workspace, package, |_| true));
                }
            }
        }
        selections.extend(integration_tests(workspace, SYSTEM_TESTS, |target| target == self.name));
        selections
    }

    /// Whether the group's system tests run with programs of the release profile, too: a filter that is right
    /// for the calls of a debug build can be wrong for those of what is installed.
    pub fn runs_release(&self) -> bool {
        self.name == "confinement"
    }

    /// Whether its machines outlive deaths, under fio and on passt among others.
    pub fn survives(&self) -> bool {
        self.name == "recovery"
    }

    fn unit_selection(&self, workspace: &Workspace) -> Vec<String> {
        let mut selection = vec!["--workspace".to_owned(), "--exclude=protocol".to_owned()];
        selection.extend(["--lib", "--bins"].map(str::to_owned));
        let elsewhere = |package: &String| {
            package == SYSTEM_TESTS || GROUPS.iter().any(|group| group.packages.contains(&package.as_str()))
        };
        for (package, targets) in &workspace.tests {
            if !elsewhere(package) {
                let apart = |target: &str| WITH_FAULT_POINTS.contains(&(package.as_str(), target));
                let targets = targets.iter().filter(|target| !apart(target));
                selection.extend(targets.map(|target| format!("--test={target}")));
            }
        }
        selection
    }
}

fn with_fault_points(workspace: &Workspace) -> impl Iterator<Item = Vec<String>> {
    let folder = workspace.fault_points_folder();
    WITH_FAULT_POINTS.into_iter().map(move |(package, target)| {
        vec![
            format!("--package={package}"),
            format!("--features={package}/fault-points"),
            format!("--test={target}"),
            format!("--target-dir={}", folder.display()),
        ]
    })
}

fn integration_tests(
    workspace: &Workspace,
    package: &str,
    wanted: impl Fn(&str) -> bool,
) -> Option<Vec<String>> {
    let targets = workspace.tests.get(package)?.iter().filter(|target| wanted(target));
    let mut selection = vec![format!("--package={package}")];
    selection.extend(targets.map(|target| format!("--test={target}")));
    (selection.len() > 1).then_some(selection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_group_is_refused_by_name() {
        let refused = chosen(&["boots".to_owned()]).map(drop).unwrap_err().to_string();
        assert!(refused.contains("boots") && refused.contains("confinement"), "{refused}");
    }

    #[test]
    fn no_name_means_all() {
        assert_eq!(chosen(&[]).unwrap().len(), GROUPS.len());
    }

    #[test]
    fn programs_with_fault_points_are_built_apart() {
        let workspace = Workspace::load().unwrap();
        let wants = |selection: &Vec<String>| selection.iter().any(|word| word.contains("fault-points"));
        for group in &GROUPS {
            let selections = group.selections(&workspace);
            let apart = selections.iter().filter(|s| s.iter().any(|word| word.starts_with("--target-dir=")));
            assert_eq!(apart.filter(|s| wants(s)).count(), selections.iter().filter(|s| wants(s)).count());
            assert_eq!(selections.iter().any(wants), group.name == "recovery");
            let named = |selection: &Vec<String>| selection.contains(&"--test=recovery".to_owned());
            assert!(group.name != "unit" || !selections.iter().any(named));
        }
    }

    #[test]
    fn every_test_of_this_workspace_belongs_to_a_group() {
        let workspace = Workspace::load().unwrap();
        assert_eq!(forgotten(&workspace), Vec::<String>::new());
    }
}
