//! The workspace as Cargo sees it: where things are built, which tests there are, and the building of
//! both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::failure::{Failure, Outcome, Tried};
use crate::host;

/// What `cargo metadata` tells of this workspace.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
    /// The integration tests of each package.
    pub tests: BTreeMap<String, Vec<String>>,
}

/// How the product's programs are built.
#[derive(Clone, Copy, Debug)]
pub enum Profile {
    /// Quickly, with every check.
    Debug,
    /// As they are installed.
    Release,
}

impl Profile {
    fn option(self) -> &'static str {
        match self {
            Self::Debug => "--profile=dev",
            Self::Release => "--profile=release",
        }
    }
}

/// One test program, built.
pub struct TestProgram {
    /// The target's name.
    pub name: String,
    /// The package's folder, in which `cargo test` would run it.
    pub folder: PathBuf,
    /// The executable.
    pub file: PathBuf,
}

impl Workspace {
    /// Asks Cargo.
    pub fn load() -> Outcome<Self> {
        let text = host::text_of(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
        let metadata: Value =
            serde_json::from_str(&text).tried(|| "cannot read cargo metadata".to_owned())?;
        let path = |key: &str| {
            text_at(&metadata, key)
                .map(PathBuf::from)
                .ok_or_else(|| Failure::new(format!("cargo metadata has no {key}")))
        };
        let mut tests = BTreeMap::new();
        for package in list_at(&metadata, "packages") {
            let name = text_at(package, "name").unwrap_or_default().to_owned();
            let names = list_at(package, "targets")
                .filter(|target| list_at(target, "kind").any(|kind| kind == "test"))
                .filter_map(|target| text_at(target, "name").map(str::to_owned))
                .collect();
            tests.insert(name, names);
        }
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")?, tests })
    }

    /// Where fetched and built guest artifacts, logs and scratch files lie.
    pub fn rig_folder(&self) -> PathBuf {
        self.target.join("rig")
    }

    /// Where programs with fault points are built.
    pub fn fault_points_folder(&self) -> PathBuf {
        self.target.join("fault-points")
    }

    /// Where the fuzzing program is built, and what it finds is kept.
    pub fn fuzz_folder(&self) -> PathBuf {
        self.target.join("fuzz")
    }

    /// The folder of the system tests.
    pub fn tests_folder(&self) -> PathBuf {
        self.root.join("tests")
    }

    /// The names of the product's programs: those of the policies, of which there is one for each.
    pub fn programs(&self) -> Outcome<Vec<String>> {
        let folder = self.root.join("sandbox-policies/policies/x86_64");
        let entries = std::fs::read_dir(&folder).tried(|| format!("cannot list {}", folder.display()))?;
        let name = |entry: std::fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
        let mut names: Vec<String> = entries.filter_map(|entry| name(entry.ok()?)).collect();
        names.sort();
        Ok(names)
    }

    /// Builds the programs of the product; returns the folder in which they all are.
    pub fn build_programs(&self, profile: Profile) -> Outcome<PathBuf> {
        crate::progress::step("building vmm, vmm-core and the devices");
        let programs = ["--package=vmm", "--package=vmm-core", "--package=device-*"];
        let artifacts = self.cargo_build(&[&["build", profile.option()], &programs[..]].concat())?;
        artifacts
            .iter()
            .filter_map(|artifact| text_at(artifact, "executable"))
            .find_map(|file| Path::new(file).parent().map(Path::to_path_buf))
            .ok_or_else(|| Failure::new("cargo built no program"))
    }

    /// Builds the program `name` of `package` and returns its file.
    pub fn build_program(&self, package: &str, name: &str, profile: Profile) -> Outcome<PathBuf> {
        crate::progress::step(&format!("building {name}"));
        let (package, program) = (format!("--package={package}"), format!("--bin={name}"));
        let artifacts = self.cargo_build(&["build", profile.option(), &package, &program])?;
        artifacts
            .iter()
            .filter(|artifact| {
                artifact.get("target").and_then(|target| text_at(target, "name")) == Some(name)
            })
            .find_map(|artifact| text_at(artifact, "executable").map(PathBuf::from))
            .ok_or_else(|| Failure::new(format!("cargo built no {name}")))
    }

    /// Builds the fuzzing program in a folder of its own, with `flags` for rustc in place of the workspace's; some of
    /// them `unstable`.
    pub fn build_fuzzer(&self, folder: &Path, flags: &str, unstable: bool) -> Outcome<PathBuf> {
        crate::progress::step("building the fuzz targets");
        let mut command = cargo();
        command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags);
        if unstable {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        let folder = format!("--target-dir={}", folder.display());
        let selection = ["--package=fuzz-targets", "--features=fuzz-targets/libfuzzer", "--bin=fuzz"];
        let artifacts =
            self.build_by(command, &[&["build", "--profile=fuzz", &folder], &selection[..]].concat())?;
        artifacts
            .iter()
            .find_map(|artifact| text_at(artifact, "executable").map(PathBuf::from))
            .ok_or_else(|| Failure::new("cargo built no fuzzing program"))
    }

    /// Builds the test programs that `selection` (arguments of `cargo test`) names.
    pub fn build_tests(&self, selection: &[String]) -> Outcome<Vec<TestProgram>> {
        let mut arguments = vec!["test", "--no-run"];
        arguments.extend(selection.iter().map(String::as_str));
        let programs = self.cargo_build(&arguments)?.iter().filter_map(test_program).collect();
        Ok(programs)
    }

    /// Runs cargo, errors and warnings going to the terminal, and returns its artifact messages.
    fn cargo_build(&self, arguments: &[&str]) -> Outcome<Vec<Value>> {
        self.build_by(cargo(), arguments)
    }

    /// As [`Self::cargo_build`], by a cargo with an environment of its own.
    fn build_by(&self, mut cargo: Command, arguments: &[&str]) -> Outcome<Vec<Value>> {
        let output = cargo
            .args(arguments)
            .args(["--quiet", "--message-format=json-render-diagnostics"])
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .tried(|| "cannot run cargo".to_owned())?;
        if !output.status.success() {
            return Err(Failure::new(format!("cargo {} failed", arguments.join(" "))));
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        Ok(messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The documentation tests of `packages`, run by cargo itself; returns their output.
    pub fn run_doc_tests(&self, packages: &[String]) -> Outcome<(bool, String)> {
        let output = cargo()
            .args(["test", "--quiet", "--doc", "--no-fail-fast"])
            .args(packages)
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .output()
            .tried(|| "cannot run cargo".to_owned())?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }
}

/// Cargo as it runs us: the same toolchain.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn test_program(message: &Value) -> Option<TestProgram> {
    let file = text_at(message, "executable")?;
    let manifest = Path::new(text_at(message, "manifest_path")?);
    if message.get("profile")?.get("test")? != true {
        return None;
    }
    Some(TestProgram {
        name: text_at(message.get("target")?, "name")?.to_owned(),
        folder: manifest.parent()?.to_path_buf(),
        file: PathBuf::from(file),
    })
}

fn text_at<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn list_at<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}
