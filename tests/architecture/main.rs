//! The rules of the tree, each held by one test: read this file for the list, a module for the detail.
//!
//! A checker is a function from what it reads to a list of violations, one line each. Beside it stand
//! fixtures that it must refuse: a checker that cannot fail holds nothing.
//!
//! Run with `cargo test -p system-tests --test architecture`.

mod claims;
mod dependencies;
mod granted;
mod hostile;
mod layout;
mod manifests;
mod measured;
mod naming;
mod policies;
mod privilege;
mod size;
mod syntax;
mod traces;
mod tree;

use tree::Tree;

/// Why a rule does not hold: a line per violation, printed as they are.
struct Broken(String);

type Checked = Result<(), Broken>;

/// Ends a test.
fn none(violations: Vec<String>) -> Checked {
    if violations.is_empty() { Ok(()) } else { Err(Broken(violations.join("\n  "))) }
}

impl From<String> for Broken {
    fn from(what: String) -> Broken {
        Broken(what)
    }
}

impl std::fmt::Debug for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n  {}\n", self.0)
    }
}

#[test]
fn dependencies_point_one_way() -> Checked {
    none(dependencies::direction(&dependencies::members()?)?)
}

#[test]
fn running_programs_link_no_json_parser() -> Checked {
    none(dependencies::parsers_in_programs(&dependencies::members()?)?)
}

#[test]
fn bincode_is_used_through_protocol() -> Checked {
    none(dependencies::sole_users(&dependencies::members()?))
}

#[test]
fn unsafe_stands_in_the_listed_files() -> Checked {
    let tree = Tree::of_repository()?;
    none(privilege::unlisted_unsafe(&tree.sources()?, &tree.text(privilege::LIST)?))
}

#[test]
fn each_unsafe_block_is_justified() -> Checked {
    none(privilege::unjustified_unsafe(&Tree::of_repository()?.sources()?))
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() -> Checked {
    none(privilege::allowed_lints(&Tree::of_repository()?.sources()?))
}

#[test]
fn files_and_functions_are_short() -> Checked {
    let sources = Tree::of_repository()?.sources()?;
    println!("{}", size::medians(&sources));
    none(size::too_long(&sources))
}

#[test]
fn each_module_opens_by_saying_what_it_is() -> Checked {
    none(naming::unintroduced(&Tree::of_repository()?.sources()?))
}

#[test]
fn names_say_what_a_thing_provides() -> Checked {
    let tree = Tree::of_repository()?;
    none(naming::banned(&tree.paths, &tree.sources()?))
}

#[test]
fn the_top_level_is_the_written_list() -> Checked {
    none(layout::top_level(&Tree::of_repository()?.paths))
}

#[test]
fn each_program_has_a_policy_and_each_policy_a_program() -> Checked {
    let programs = dependencies::programs(&dependencies::members()?);
    none(policies::unpaired(&programs, &policies::names(&Tree::of_repository()?.paths)))
}

#[test]
fn policies_are_small_and_each_rule_says_who_needs_it() -> Checked {
    let tree = Tree::of_repository()?;
    none(policies::violations(&policies::read(&tree)?))
}

#[test]
fn each_device_that_can_be_limited_may_ask_for_the_time() -> Checked {
    none(policies::without_a_clock(&policies::read(&Tree::of_repository()?)?))
}

#[test]
fn the_system_calls_in_security_are_those_of_the_policies() -> Checked {
    let tree = Tree::of_repository()?;
    none(granted::violations(&tree.text("SECURITY.md")?, &granted::table(&policies::read(&tree)?)))
}

#[test]
fn versions_and_lints_stand_in_the_root_manifest() -> Checked {
    let tree = Tree::of_repository()?;
    none(manifests::violations(&tree)?)
}

#[test]
fn nothing_committed_names_a_machine() -> Checked {
    let tree = Tree::of_repository()?;
    none(traces::violations(&tree)?)
}

#[test]
fn each_claim_of_security_names_a_test_that_exists() -> Checked {
    let tree = Tree::of_repository()?;
    let tests = claims::tests(&tree.sources()?, &manifests::own_harnesses(&tree)?);
    none(claims::violations(&tree.text("SECURITY.md")?, &tests))
}

#[test]
fn each_thing_that_attackers_try_is_tried_by_a_test() -> Checked {
    let tree = Tree::of_repository()?;
    let tests = claims::tests(&tree.sources()?, &manifests::own_harnesses(&tree)?);
    none(hostile::violations(&tree.text(hostile::LIST)?, &tests))
}

#[test]
fn the_sizes_in_the_readme_are_the_measured_ones() -> Checked {
    let tree = Tree::of_repository()?;
    // A README that is missing has no table either.
    let readme = tree.text("README.md").unwrap_or_default();
    none(measured::violations(&readme, &measured::table(&tree)?))
}
