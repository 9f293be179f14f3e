//! What libFuzzer says while it runs and when it ends, made short.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Failure, Outcome, Tried};
use crate::progress;

/// How a run went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Inputs that were tried.
    pub executions: u64,
    /// Edges of the code that were taken.
    pub edges: u64,
    /// libFuzzer's features: edges by how often, and comparisons by how close.
    pub features: u64,
    seconds: u32,
    /// The input that was found, if one was.
    pub finding: Option<PathBuf>,
}

impl Summary {
    /// Runs `command` to its end, showing on a terminal how far it is; all that it says goes to `log`.
    pub fn of_run(command: &mut Command, target: &str, seconds: u32, log: &Path) -> Outcome<Self> {
        progress::step(&format!("{target}: starting"));
        let mut file = fs::File::create(log).tried(|| format!("cannot write {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .tried(|| "cannot run the fuzzer".to_owned())?;
        let mut summary = Self { seconds, ..Self::default() };
        let mut lines = child.stderr.take().map(BufReader::new);
        let mut line = Vec::new();
        while let Some(reader) = &mut lines {
            line.clear();
            if reader.read_until(b'\n', &mut line).tried(|| "cannot read from the fuzzer".to_owned())? == 0 {
                break;
            }
            // A log that cannot be written is no reason to stop.
            let _ = file.write_all(&line);
            summary.take(&String::from_utf8_lossy(&line));
            progress::step(&format!("{target}, {seconds} s: {summary}"));
        }
        let status = child.wait().tried(|| "cannot wait for the fuzzer".to_owned())?;
        progress::clear();
        if !status.success() && summary.finding.is_none() {
            return Err(Failure::new(format!(
                "{target}: the fuzzer ended ({status}) without a finding; see {}",
                log.display()
            )));
        }
        Ok(summary)
    }

    /// Takes one line of libFuzzer's.
    fn take(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        if let Some(count) = words.next().and_then(|word| word.strip_prefix('#')?.parse().ok()) {
            self.executions = self.executions.max(count);
        }
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
        }
        while let Some(word) = words.next() {
            let number = match word {
                "cov:" => &mut self.edges,
                "ft:" => &mut self.features,
                _ => continue,
            };
            *number = words.next().and_then(|value| value.parse().ok()).unwrap_or(*number);
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.finding = Some(PathBuf::from(path.trim()));
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, edges, features, seconds, finding } = self;
        write!(f, "{executions} executions in {seconds} s, {edges} edges, {features} features")?;
        if finding.is_none() { write!(f, ", nothing found") } else { Ok(()) }
    }
}

/// The line that says what was wrong with an input: a panic's place and text, a sanitizer's or libFuzzer's own.
pub fn reason(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let panicked = lines.iter().position(|line| line.contains(" panicked at "));
    if let Some(at) = panicked {
        let of_panic = lines.get(at..).unwrap_or_default().iter().take(4);
        return of_panic.map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    }
    let error = lines.iter().find(|line| line.contains("ERROR: "));
    error.map_or("it does not happen again when it is run alone", |line| line.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_run_are_understood() {
        let mut summary = Summary { seconds: 3, ..Summary::default() };
        for line in [
            "INFO: Seed: 1\n",
            "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 38Mb\n",
            "#4096\tpulse  cov: 312 ft: 1013 corp: 40/1b lim: 4 exec/s: 1365 rss: 40Mb\n",
            "stat::number_of_executed_units: 5000\n",
        ] {
            summary.take(line);
        }
        assert_eq!(summary.to_string(), "5000 executions in 3 s, 312 edges, 1013 features, nothing found");
        summary.take("artifact_prefix='x/'; Test unit written to x/crash-00\n");
        assert_eq!(summary.finding, Some(PathBuf::from("x/crash-00")));
        assert!(!summary.to_string().contains("nothing"));
    }

    #[test]
    fn a_finding_is_told_by_its_panic() {
        let output = "Running: x\n\nthread '<unnamed>' panicked at protocol/src/a.rs:1:2:\nleft\n==1== ERROR: libFuzzer: deadly signal\n";
        assert!(reason(output).contains("a.rs:1:2: left"), "{}", reason(output));
        assert!(reason("==1== ERROR: AddressSanitizer: heap-use-after-free").contains("heap-use"));
        assert!(reason("").contains("alone"));
    }
}
