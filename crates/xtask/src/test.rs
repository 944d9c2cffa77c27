//! `cargo xtask test`: one `cargo test` over the workspace, which builds the examples too, with the
//! sum of its results. Tests that need an etcd run on every one that `cargo xtask etcd` finds.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::etcd::{self, FoundEtcd};
use crate::workspace::{Result, Workspace};

/// Runs all tests; returns true if none failed. The last lines of stdout are the etcds that it ran
/// on, and `N passed, N failed`.
///
/// # Errors
/// There is no etcd to test with; the text says what to do.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let start = now();
    let etcds = etcd::ensure(workspace)?;
    let mut command = workspace.cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.env(etcd::VARIABLE, etcd::variable(&etcds)?);
    let counts = tests(command, &mut std::io::stdout())?;
    Ok(counts.conclude(start, &etcds))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tool for people: it measures how long they waited"
)]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Runs a `cargo test`, shows its output as it comes, and sums its results.
pub(crate) fn tests(mut command: Command, shown: &mut dyn Write) -> Result<TestCounts> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut counts = TestCounts::default();
    let lines = BufReader::new(child.stdout.take().ok_or("cargo test has no stdout")?);
    for line in lines.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(shown, "{line}")?;
        counts.read(&line);
    }
    counts.end(child.wait()?.success());
    Ok(counts)
}

/// Sum of the results that test programs reported.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TestCounts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    skipped: u64,
    /// True if a program has started and not reported yet.
    running: bool,
}

impl TestCounts {
    /// Processes one line of `cargo test`.
    fn read(&mut self, line: &str) {
        if is_start(line) {
            self.lost();
            self.running = true;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.running = false;
            self.passed += figure(result, "passed");
            self.failed += figure(result, "failed");
            self.skipped += figure(result, "ignored");
        }
    }

    /// Ends the sum: no program may be unreported, and a failure that cargo reports must be
    /// counted.
    fn end(&mut self, success: bool) {
        self.lost();
        let none = self.passed + self.failed == 0;
        if self.failed == 0 && (none || !success) {
            eprintln!(
                "{}",
                if success {
                    "no test ran"
                } else {
                    "cargo test failed, see above"
                }
            );
            self.failed += 1;
        }
    }

    /// Counts a test program that died as one failure, whatever number of its tests had passed.
    fn lost(&mut self) {
        if std::mem::take(&mut self.running) {
            eprintln!("a test program ended without a result");
            self.failed += 1;
        }
    }

    /// Prints the wall time, the etcds and the result; returns true if nothing failed.
    pub(crate) fn conclude(&self, start: std::time::Instant, etcds: &[FoundEtcd]) -> bool {
        println!(
            "\nwall time {:.1} s, on etcd {}",
            start.elapsed().as_secs_f64(),
            etcd::versions(etcds).join(" and ")
        );
        println!("{}", self.line());
        self.failed == 0
    }

    /// Returns the sum of two runs.
    pub(crate) fn and(self, other: &Self) -> Self {
        let (passed, failed, skipped) = (
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
        );
        Self {
            passed,
            failed,
            skipped,
            running: false,
        }
    }

    /// Returns `N passed, N failed`, and the number of skipped tests if there are any.
    pub(crate) fn line(&self) -> String {
        let skipped = if self.skipped > 0 {
            format!(", {} skipped", self.skipped)
        } else {
            String::new()
        };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

/// Returns true for a line such as `running 12 tests`.
fn is_start(line: &str) -> bool {
    let count = line
        .strip_prefix("running ")
        .and_then(|rest| rest.split_once(" test"));
    count.is_some_and(|(count, rest)| count.parse::<u64>().is_ok() && matches!(rest, "" | "s"))
}

/// Returns the number before `word` in `ok. 12 passed; 0 failed; 1 ignored; …`.
fn figure(result: &str, word: &str) -> u64 {
    let parts = result.split([';', '.']);
    parts
        .filter_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        .next()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(output: &str, success: bool) -> String {
        let mut counts = TestCounts::default();
        output.lines().for_each(|line| counts.read(line));
        counts.end(success);
        counts.line()
    }

    const TWO: &str = "running 3 tests\ntest a ... ok\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n\
                       running 1 test\ntest result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s\n";

    #[test]
    fn figures_are_summed() {
        assert_eq!(counts(TWO, false), "3 passed, 2 failed, 1 skipped");
        assert_eq!(
            counts(
                "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
                true
            ),
            "2 passed, 0 failed"
        );
    }

    #[test]
    fn a_program_that_died_is_a_failure() {
        assert_eq!(
            counts("running 3 tests\ntest a ... ok\n", false),
            "0 passed, 1 failed"
        );
        assert_eq!(
            counts(&format!("running 9 tests\n{TWO}"), false),
            "3 passed, 3 failed, 1 skipped"
        );
    }

    #[test]
    fn a_build_that_fails_and_a_run_without_tests_are_failures() {
        assert_eq!(counts("", false), "0 passed, 1 failed");
        assert_eq!(
            counts(
                "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
                true
            ),
            "0 passed, 1 failed"
        );
    }
}
