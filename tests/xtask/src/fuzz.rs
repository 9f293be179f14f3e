//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, on the stable toolchain.
//!
//! Coverage comes from LLVM's own pass, asked for by rustc's stable options as `cargo fuzz` does, in a build of its own
//! (`target/fuzz`). What a run finds new is kept there, beside what it crashed on; a target's folder in
//! `tests/fuzz/corpus` is a seed for every run and changes by `--minimise` alone.

mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Outcome, Tried};
use crate::host;
use crate::workspace::Workspace;
use report::Summary;

/// What is called by this name is all targets, one after the other.
const ALL: &str = "all";

/// Bytes of the longest input: what a corpus may hold.
const LONGEST: &str = "-max_len=4096";

/// Files of a corpus in the repository, which is there to begin from and to find again what was found.
const MOST_FILES: usize = 48;

/// What ends an input that hangs, and one that takes memory without end.
const LIMITS: [&str; 2] = ["-timeout=20", "-rss_limit_mb=2048"];

/// As `cargo fuzz` has them: a counter and an address for each edge, and the operands of comparisons. In place of
/// `.cargo/config.toml`'s flags for static programs, which a C++ library would have to be there for.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Ccodegen-units=1";

/// AddressSanitizer is no stable option: the compiler is told to take it all the same.
const ADDRESS_SANITIZER: &str = " -Zsanitizer=address";

/// What to do.
#[derive(clap::Args)]
pub struct Options {
    /// Which target, as its folder in tests/fuzz/corpus is called, or `all`.
    #[arg(default_value = ALL)]
    target: String,
    /// For how long, each.
    #[arg(default_value_t = 60)]
    seconds: u32,
    /// With AddressSanitizer: slower, and finds what unsafe code does to memory.
    #[arg(long)]
    address_sanitizer: bool,
    /// Replace the target's corpus by the fewest files that cover what it and the runs so far did.
    #[arg(long)]
    minimise: bool,
}

/// Runs what was asked for; returns whether nothing was found.
pub fn run(workspace: &Workspace, options: &Options) -> Outcome<bool> {
    let fuzzer = Fuzzer::build(workspace, options.address_sanitizer)?;
    let mut clean = true;
    for target in chosen(&fuzzer.corpora, &options.target)? {
        if options.minimise {
            fuzzer.minimise(&target)?;
        } else {
            clean &= fuzzer.run(&target, options.seconds)?;
        }
    }
    Ok(clean)
}

fn chosen(corpora: &Path, name: &str) -> Outcome<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(corpora).tried(|| format!("cannot list {}", corpora.display()))? {
        let entry = entry.tried(|| format!("cannot list {}", corpora.display()))?;
        targets.extend(entry.file_name().into_string());
    }
    targets.sort();
    let known = targets.join(", ");
    targets.retain(|target| name == ALL || target == name);
    if targets.is_empty() {
        return Err(Failure::new(format!("no fuzz target is called {name}; there are {known}")));
    }
    Ok(targets)
}

fn oldest_first(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).tried(|| format!("cannot list {}", folder.display()))? {
        let file = entry.tried(|| format!("cannot list {}", folder.display()))?.path();
        let written = fs::metadata(&file).and_then(|metadata| metadata.modified());
        files.push((written.tried(|| format!("cannot look at {}", file.display()))?, file));
    }
    files.sort();
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

struct Fuzzer {
    program: PathBuf,
    /// In the repository.
    corpora: PathBuf,
    /// Of the runs.
    folder: PathBuf,
}

impl Fuzzer {
    fn build(workspace: &Workspace, address_sanitizer: bool) -> Outcome<Self> {
        host::need_programs(&[("c++", "g++")])?;
        let mut flags = COVERAGE.to_owned();
        let mut folder = workspace.fuzz_folder();
        if address_sanitizer {
            flags.push_str(ADDRESS_SANITIZER);
            folder = folder.join("address-sanitizer");
        }
        let program = workspace.build_fuzzer(&folder.join("build"), &flags, address_sanitizer)?;
        Ok(Self { program, corpora: workspace.tests_folder().join("fuzz/corpus"), folder })
    }

    fn run(&self, target: &str, seconds: u32) -> Outcome<bool> {
        let findings = self.scratch("findings", target)?;
        let mut command = self.command(target);
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .args(["-print_final_stats=1", LONGEST])
            .args(LIMITS)
            // What a target writes on its standard error is for whoever looks into a finding.
            .arg("-close_fd_mask=3")
            .arg(self.scratch("corpus", target)?)
            .arg(self.corpora.join(target));
        let log = self.folder.join(format!("{target}.log"));
        let summary = Summary::of_run(&mut command, target, seconds, &log)?;
        println!("{target}: {summary}");
        let Some(input) = &summary.finding else { return Ok(true) };
        println!("  found: {}", self.explain(target, input));
        println!("  input: {}", input.display());
        Ok(false)
    }

    /// What the target says of one input, run again with its own standard error.
    fn explain(&self, target: &str, input: &Path) -> String {
        let output = self.command(target).args(LIMITS).arg(input).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        report::reason(&text.unwrap_or_default())
    }

    /// libFuzzer's own merge: the smallest inputs first, each for an edge that none before had.
    fn minimise(&self, target: &str) -> Outcome<()> {
        crate::progress::step(&format!("{target}: minimising its corpus"));
        let corpus = self.corpora.join(target);
        let merged = self.scratch("merged", target)?;
        fs::remove_dir_all(&merged).tried(|| format!("cannot empty {}", merged.display()))?;
        let merged = self.scratch("merged", target)?;
        let mut command = self.command(target);
        command.args(["-set_cover_merge=1", "-use_counters=0", "-close_fd_mask=3", LONGEST]).args(LIMITS);
        command.arg(&merged).arg(&corpus).arg(self.scratch("corpus", target)?);
        host::output_of(&mut command)?;
        let (old, new) = (oldest_first(&corpus)?, oldest_first(&merged)?);
        for file in old {
            fs::remove_file(&file).tried(|| format!("cannot remove {}", file.display()))?;
        }
        // They were written in the order in which they were chosen: the first cover most.
        for file in new.iter().take(MOST_FILES) {
            let to = corpus.join(file.file_name().unwrap_or_default());
            fs::copy(file, &to).tried(|| format!("cannot write {}", to.display()))?;
        }
        crate::progress::clear();
        println!("{target}: {} files, the first {MOST_FILES} at most kept", new.len());
        Ok(())
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("VMM_FUZZ_TARGET", target);
        command
    }

    fn scratch(&self, kind: &str, target: &str) -> Outcome<PathBuf> {
        let folder = self.folder.join(kind).join(target);
        fs::create_dir_all(&folder).tried(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}
