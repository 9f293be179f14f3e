//! What Rust's test harness says of its tests, counted.
//!
//! A test program with a harness of its own ends with a line `NAME: N passed, N failed` instead.

/// How the tests of one or more programs went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, and programs that ended without a result.
    pub failed: usize,
    /// Names of the tests marked as ignored: shown, never silently skipped.
    pub ignored: Vec<String>,
    /// Names of the tests that failed.
    pub failures: Vec<String>,
    /// What tests measured: lines of theirs that begin with `measured: `, without that.
    pub measured: Vec<String>,
}

impl Counts {
    /// Adds the counts of another program.
    pub fn add(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
        self.ignored.extend(other.ignored);
        self.failures.extend(other.failures);
        self.measured.extend(other.measured);
    }

    /// Adds a failure that no test reported.
    pub fn add_failure(&mut self, what: String) {
        self.failed = self.failed.saturating_add(1);
        self.failures.push(what);
    }

    /// Whether any test ran.
    pub fn ran_something(&self) -> bool {
        self.passed > 0 || self.failed > 0
    }

    /// Reads the output of test program `name`, which ended well if `succeeded`.
    ///
    /// The result line (or the last line of a harness of its own) is the authority. A program that ends without one, or badly although no test
    /// failed, has one failure more.
    pub fn of_output(name: &str, output: &str, succeeded: bool) -> Self {
        let mut counts = Self::default();
        let mut results = 0_usize;
        let own = format!("{name}: ");
        for line in without_progress(output).lines() {
            let line = line.trim_start();
            counts.measured.extend(line.strip_prefix("measured: ").map(str::to_owned));
            let own_result = line.strip_prefix(&own).filter(|result| is_result(result));
            if let Some(result) = line.strip_prefix("test result: ").or(own_result) {
                results = results.saturating_add(1);
                counts.passed = counts.passed.saturating_add(number_before(result, " passed"));
                counts.failed = counts.failed.saturating_add(number_before(result, " failed"));
            } else if let Some((test, end)) = test_line(line) {
                match end {
                    "FAILED" => counts.failures.push(format!("{name}: {test}")),
                    end if end.starts_with("ignored") => counts.ignored.push(format!("{name}: {test}")),
                    _ => {}
                }
            }
        }
        if results == 0 {
            counts.add_failure(format!("{name}: ended without a result"));
        } else if !succeeded && counts.failed == 0 {
            counts.add_failure(format!("{name}: no test failed, yet the program did"));
        }
        counts
    }

    /// Takes out the failure of a test that is to run again.
    pub fn forget_failure(&mut self, of: &str) {
        let before = self.failures.len();
        self.failures.retain(|failure| failure != of);
        self.failed = self.failed.saturating_sub(before.saturating_sub(self.failures.len()));
    }

    /// Counts the [`verdicts`] of test program `name`.
    pub fn of_verdicts(name: &str, verdicts: &[(String, bool)]) -> Self {
        let failures: Vec<String> =
            verdicts.iter().filter(|(_, good)| !good).map(|(test, _)| format!("{name}: {test}")).collect();
        let passed = verdicts.len().saturating_sub(failures.len());
        Self { passed, failed: failures.len(), failures, ..Self::default() }
    }
}

/// The verdicts in the output of a program that was stopped before its result line: name, and whether it is good.
pub fn verdicts(output: &str) -> Vec<(String, bool)> {
    let verdict = |line: &str| {
        let (test, end) = test_line(line.trim_start())?;
        match end {
            "ok" => Some((test.to_owned(), true)),
            "FAILED" => Some((test.to_owned(), false)),
            _ => None,
        }
    };
    without_progress(output).lines().filter_map(verdict).collect()
}

/// What the test called `name` wrote, as the harness shows it after all have ended.
pub fn shown<'a>(output: &'a str, name: &str) -> &'a str {
    let rest = output.split_once(&format!("---- {name} stdout ----\n")).map_or("", |(_, rest)| rest);
    rest.split_once("\n---- ").map_or(rest, |(own, _)| own)
}

/// Without the lines by which a long test says how far it has come: the first begins behind the test's name, and behind
/// the last comes the verdict.
fn without_progress(output: &str) -> String {
    let mut pieces = output.split("@@progress ");
    let first = pieces.next().unwrap_or_default();
    let rest = pieces.map(|piece| piece.split_once('\n').map_or("", |(_, behind)| behind));
    std::iter::once(first).chain(rest).collect()
}

/// Whether `text` is exactly `N passed, N failed`.
fn is_result(text: &str) -> bool {
    let (passed, failed) = (number_before(text, " passed"), number_before(text, " failed"));
    text.trim_end() == format!("{passed} passed, {failed} failed")
}

/// The name and verdict in a line `test NAME ... VERDICT`.
fn test_line(line: &str) -> Option<(&str, &str)> {
    let (test, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((test, verdict.trim_end()))
}

/// The number right before `word` in `text`; 0 if there is none.
fn number_before(text: &str, word: &str) -> usize {
    text.split_once(word)
        .and_then(|(before, _)| before.rsplit(|character: char| !character.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Counts, shown, verdicts};

    const MIXED: &str = "\nrunning 3 tests\n\
        test boots ... ok\ntest writes ... FAILED\ntest sleeps ... ignored, too slow\n\n\
        test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    #[test]
    fn each_verdict_is_counted() {
        let counts = Counts::of_output("boot", MIXED, false);
        assert_eq!((counts.passed, counts.failed), (1, 1));
        assert_eq!(counts.ignored, ["boot: sleeps"]);
        assert_eq!(counts.failures, ["boot: writes"]);
    }

    #[test]
    fn what_ended_before_a_stop_has_its_verdict() {
        let ended = verdicts("running 3 tests\ntest boots ... ok\ntest writes ... FAILED\ntest sleeps ... ");
        assert_eq!(ended, [("boots".to_owned(), true), ("writes".to_owned(), false)]);
        let counts = Counts::of_verdicts("boot", &ended);
        assert_eq!((counts.passed, counts.failed), (1, 1));
        assert_eq!(counts.failures, ["boot: writes"]);
    }

    #[test]
    fn each_test_is_known_by_what_it_wrote() {
        let output =
            "failures:\n\n---- a::boots stdout ----\nit fell\n\n---- a::writes stdout ----\nit wrote\n";
        assert_eq!(shown(output, "a::boots"), "it fell\n");
        assert_eq!(shown(output, "a::writes"), "it wrote\n");
        assert_eq!(shown(output, "a::other"), "");
    }

    #[test]
    fn a_failure_that_is_forgotten_is_not_counted() {
        let mut counts = Counts::of_output("boot", MIXED, false);
        counts.forget_failure("boot: boots");
        assert_eq!(counts.failed, 1);
        counts.forget_failure("boot: writes");
        assert_eq!((counts.passed, counts.failed, counts.failures.len()), (1, 0, 0));
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let counts = Counts::of_output("boot", "running 3 tests\ntest boots ... ok\n", false);
        assert_eq!((counts.passed, counts.failed), (0, 1));
    }

    #[test]
    fn a_good_result_with_a_bad_exit_is_a_failure() {
        let output = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let counts = Counts::of_output("unit", output, false);
        assert_eq!((counts.passed, counts.failed), (2, 1));
    }

    #[test]
    fn a_harness_of_its_own_is_counted() {
        let counts = Counts::of_output("escape", "escape: done\nescape: 12 passed, 1 failed\n", false);
        assert_eq!((counts.passed, counts.failed), (12, 1));
        let counts = Counts::of_output("escape", "other: 12 passed, 0 failed\n", true);
        assert_eq!((counts.passed, counts.failed), (0, 1));
    }

    #[test]
    fn words_of_progress_are_no_part_of_a_verdict() {
        let output = "running 2 tests\ntest dies ... @@progress 20 of 40\n@@progress 40 of 40\nFAILED\n\
                      test lives ... @@progress 1 of 1\nok\n";
        let expected = [("dies".to_owned(), false), ("lives".to_owned(), true)];
        assert_eq!(verdicts(&format!("{output}test hangs ... @@progress 1 of")), expected);
        let output = format!("{output}test result: FAILED. 1 passed; 1 failed; 0 ignored\n");
        assert_eq!(Counts::of_output("recovery", &output, false).failures, ["recovery: dies"]);
    }

    #[test]
    fn what_was_measured_is_kept() {
        let output = "test boots ... ok\n\n---- boots stdout ----\nmeasured: 3 ms\n\n\
            test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(Counts::of_output("boot", output, true).measured, ["3 ms"]);
    }

    #[test]
    fn a_program_without_tests_ran_nothing() {
        let output = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out\n";
        assert!(!Counts::of_output("unit", output, true).ran_something());
    }
}
