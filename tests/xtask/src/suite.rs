//! `cargo xtask test`: builds each group's programs, runs them where they belong, counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::artifacts::Artifacts;
use crate::failure::{Failure, Outcome, Tried};
use crate::groups::{self, Group, Needs};
use crate::host;
use crate::libtest::{self, Counts};
use crate::nested::{self, Job, Rig};
use crate::workspace::{Profile, TestProgram, Workspace};

/// What tests with guests are told: one machine at a time, and to show what they measured.
const GUEST_ARGUMENTS: [&str; 2] = ["--test-threads=1", "--show-output"];

/// Variables of the environment that the tests know, wherever they run.
const SETTINGS: [&str; 3] = ["VMM_KILLS", "VMM_SEED", "VMM_MEBIBYTES"];

/// What the groups share, made when the first of them needs it.
struct Bench<'a> {
    workspace: &'a Workspace,
    /// Passed on to each test program: a name filter and the like.
    arguments: &'a [String],
    programs: Option<PathBuf>,
    artifacts: Option<Artifacts>,
}

/// Runs the groups called `names` (all if there are none); returns whether all went well.
pub fn run(workspace: &Workspace, names: &[String], arguments: &[String]) -> Outcome<bool> {
    let groups = groups::chosen(names)?;
    if let Some(target) = groups::forgotten(workspace).first() {
        return Err(Failure::new(format!("test target {target} belongs to no group; add it in groups.rs")));
    }
    let mut bench = Bench { workspace, arguments, programs: None, artifacts: None };
    let mut total = Counts::default();
    for group in groups {
        let (mut note, begun) = (String::new(), Instant::now());
        let mut counts = bench.run(group, &mut note).unwrap_or_else(|failure| {
            let mut counts = Counts::default();
            counts.add_failure(format!("{}: {failure}", group.name));
            counts
        });
        if !counts.ran_something() {
            counts.add_failure(format!("{}: the group ran nothing", group.name));
        }
        note.push_str(&format!(", {} s", begun.elapsed().as_secs()));
        report(group, &counts, &note);
        total.add(counts);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

fn report(group: &Group, counts: &Counts, note: &str) {
    crate::progress::clear();
    println!("{}: {} passed, {} failed{note}", group.name, counts.passed, counts.failed);
    for failure in &counts.failures {
        println!("  failed: {failure}");
    }
    for ignored in &counts.ignored {
        println!("  ignored: {ignored}");
    }
    for measured in &counts.measured {
        println!("  {measured}");
    }
}

impl Bench<'_> {
    fn run(&mut self, group: &Group, note: &mut String) -> Outcome<Counts> {
        crate::progress::step(&format!("{}: building", group.name));
        let mut programs = Vec::new();
        for selection in group.selections(self.workspace) {
            programs.extend(self.workspace.build_tests(&selection)?);
        }
        if group.needs >= Needs::Programs && self.programs.is_none() {
            self.programs = Some(self.workspace.build_programs(Profile::Debug)?);
        }
        let log = self.log_file(group.name)?;
        let with_guests = |program: &TestProgram| {
            group.needs == Needs::Guests && program.folder == self.workspace.tests_folder()
        };
        let (in_rig, programs): (Vec<_>, Vec<_>) = programs.into_iter().partition(with_guests);
        let mut counts = Counts::default();
        if !in_rig.is_empty() {
            self.prepare_artifacts(group)?;
            counts.add(self.run_with_guests(&in_rig, &log, note)?);
        }
        if group.needs == Needs::Qemu {
            nested::need_qemu()?;
            crate::host::need_programs(&[("qemu-img", "qemu-utils")])?;
            self.prepare_artifacts(group)?;
        }
        let artifacts = self.artifacts.as_ref().filter(|_| group.needs == Needs::Qemu);
        for program in &programs {
            crate::progress::step(&format!("{}: {}", group.name, program.name));
            counts.add(self.run_here(program, self.programs.as_deref(), &log, artifacts)?);
        }
        if group.runs_release() {
            counts.add(self.run_release(group, programs, &log)?);
        }
        if group.name == "unit" {
            counts.add(self.run_doc_tests(&log)?);
        }
        Ok(counts)
    }

    /// Runs the group's system tests once more, with programs of the release profile.
    fn run_release(&self, group: &Group, programs: Vec<TestProgram>, log: &Path) -> Outcome<Counts> {
        let folder = self.workspace.build_programs(Profile::Release)?;
        let mut counts = Counts::default();
        for program in programs.into_iter().filter(|program| program.name == group.name) {
            let name = format!("{}, release profile", program.name);
            crate::progress::step(&name);
            counts.add(self.run_here(&TestProgram { name, ..program }, Some(&folder), log, None)?);
        }
        Ok(counts)
    }

    fn log_file(&self, group: &str) -> Outcome<PathBuf> {
        let folder = self.workspace.rig_folder().join("logs");
        fs::create_dir_all(&folder).tried(|| format!("cannot make {}", folder.display()))?;
        let log = folder.join(format!("{group}.log"));
        fs::write(&log, "").tried(|| format!("cannot write {}", log.display()))?;
        Ok(log)
    }

    /// Runs a test program on this host, as `cargo test` would, with the product's programs in `folder`.
    fn run_here(
        &self,
        program: &TestProgram,
        folder: Option<&Path>,
        log: &Path,
        artifacts: Option<&Artifacts>,
    ) -> Outcome<Counts> {
        let mut command = Command::new(&program.file);
        command
            .args(self.arguments)
            .current_dir(&program.folder)
            .env("CARGO_MANIFEST_DIR", &program.folder)
            .stdin(Stdio::null());
        if let Some(folder) = folder {
            command.env("VMM_BIN_DIR", folder);
        }
        if let Some(artifacts) = artifacts {
            command.env("VMM_ARTIFACTS", &artifacts.folder).args(GUEST_ARGUMENTS);
        }
        let output = command.output().tried(|| format!("cannot run {}", program.file.display()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let counts = Counts::of_output(&program.name, &text, output.status.success());
        keep(log, &text, counts.failed > 0)?;
        Ok(counts)
    }

    fn run_doc_tests(&self, log: &Path) -> Outcome<Counts> {
        let (succeeded, text) = self.workspace.run_doc_tests(&["--workspace".to_owned()])?;
        let counts = Counts::of_output("documentation", &text, succeeded);
        keep(log, &text, counts.failed > 0)?;
        Ok(counts)
    }

    fn prepare_artifacts(&mut self, group: &Group) -> Outcome<()> {
        let mut artifacts = match self.artifacts.take() {
            Some(artifacts) => artifacts,
            None => Artifacts::prepare(self.workspace)?,
        };
        if group.survives() {
            artifacts.prepare_fio(self.workspace)?;
            artifacts.prepare_passt(self.workspace)?;
        }
        if group.needs == Needs::Qemu {
            artifacts.prepare_qemu(self.workspace)?;
        }
        self.artifacts = Some(artifacts);
        Ok(())
    }

    /// Runs the programs where stock Linux guests run: here, or in an outer guest.
    fn run_with_guests(&self, programs: &[TestProgram], log: &Path, note: &mut String) -> Outcome<Counts> {
        let rig = Rig::detect()?;
        *note = format!(" ({rig})");
        let (Some(artifacts), Some(folder)) = (&self.artifacts, &self.programs) else {
            return Err(Failure::new("no programs to test"));
        };
        let mut counts = Counts::default();
        if rig == Rig::Direct {
            for program in programs {
                crate::progress::step(&format!("{}: real guests, on this host's KVM", program.name));
                counts.add(self.run_here(program, Some(folder), log, Some(artifacts))?);
            }
            return Ok(counts);
        }
        for program in programs {
            counts.add(self.run_nested(program, folder, artifacts, log, note)?);
        }
        Ok(counts)
    }

    /// Runs a test program in an outer guest.
    ///
    /// Two faults of the emulator's are known by their signatures, and each test may meet each of them once; it is said
    /// aloud. When the emulator itself stops, the tests that had ended have their verdict and the others run in another
    /// outer guest. A test whose guest died ([`DIED`]) runs again. No other failure is ever tried again: a rerun that
    /// hides a race is worse than a red test.
    fn run_nested(
        &self,
        program: &TestProgram,
        folder: &Path,
        artifacts: &Artifacts,
        log: &Path,
        note: &mut String,
    ) -> Outcome<Counts> {
        let settings = settings();
        let mut left = self.tests_of(program)?;
        let (mut counts, mut stopped_in, mut died) = (Counts::default(), None, Vec::new());
        while !left.is_empty() {
            // One machine at a time: guests share few emulated processors.
            let mut arguments = GUEST_ARGUMENTS.map(str::to_owned).to_vec();
            arguments.push("--exact".to_owned());
            arguments.extend(left.iter().cloned());
            let runs = vec![(program.name.as_str(), program.file.as_path())];
            let job = Job { programs: folder, runs, arguments: &arguments, settings: &settings };
            let run = nested::run(self.workspace, artifacts, &job)?;
            if let Some(stuck) = run.stuck {
                keep(log, &run.output, false)?;
                let ended = libtest::verdicts(&run.output);
                left.retain(|name| !ended.iter().any(|(ended, _)| ended == name));
                counts.add(Counts::of_verdicts(&program.name, &ended));
                let Some(running) = left.first().cloned() else { break };
                let what = format!("the emulator itself stopped during {running} ({stuck})");
                if stopped_in.as_ref() == Some(&running) {
                    return Err(Failure::new(format!("{what}, and so it did before")));
                }
                again(note, &what);
                stopped_in = Some(running);
                continue;
            }
            let mut found = Counts::default();
            for ended in &run.programs {
                found.add(Counts::of_output(&ended.name, &ended.output, ended.succeeded));
            }
            keep(log, &run.output, found.failed > 0)?;
            left.retain(|name| !died.contains(name) && a_guest_died(libtest::shown(&run.output, name)));
            left.retain(|name| found.failures.contains(&format!("{}: {name}", program.name)));
            left.iter().for_each(|name| found.forget_failure(&format!("{}: {name}", program.name)));
            if !left.is_empty() {
                again(note, &format!("a guest died in the emulator during {}", left.join(", ")));
            }
            died.extend(left.iter().cloned());
            counts.add(found);
        }
        Ok(counts)
    }

    /// The names of a program's tests that the arguments choose, in the order in which one thread runs them.
    fn tests_of(&self, program: &TestProgram) -> Outcome<Vec<String>> {
        let mut command = Command::new(&program.file);
        command.args(self.arguments).arg("--list").stdin(Stdio::null());
        let listed = host::output_of(&mut command)?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

/// What a stock kernel says that the emulation of nested paging has led astray: see CPU in `nested/qemu.rs`.
const DIED: [&str; 2] = ["triple fault at rip 0xfff0", "Kernel panic - not syncing"];

fn a_guest_died(output: &str) -> bool {
    DIED.iter().any(|signature| output.contains(signature))
}

/// Says that something runs again, now and with the group's result.
fn again(note: &mut String, what: &str) {
    crate::progress::clear();
    println!("nested rig: {what}; what has no verdict runs in another outer guest");
    note.push_str(&format!(", again: {what}"));
}

/// Those of [`SETTINGS`] that are set.
fn settings() -> Vec<String> {
    let set = |name: &&str| Some(format!("{name}={}", std::env::var(name).ok()?));
    SETTINGS.iter().filter_map(set).collect()
}

/// Keeps a program's output, and shows it if something in it failed.
fn keep(log: &Path, text: &str, show: bool) -> Outcome<()> {
    let mut content = fs::read_to_string(log).unwrap_or_default();
    content.push_str(text);
    fs::write(log, content).tried(|| format!("cannot write {}", log.display()))?;
    if show {
        crate::progress::clear();
        println!("{}", text.trim_end());
    }
    Ok(())
}
