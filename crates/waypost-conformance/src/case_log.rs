//! Random cases: their seeds and their steps. A case that fails prints how to reproduce it.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// Returns the seeds of `count` random cases: consecutive numbers from a random one, which is
/// printed past the test runner's capture.
///
/// `WAYPOST_CASES=n` overrides the count; `WAYPOST_SEED=n` selects that one case.
///
/// # Panics
/// If one of the two is set and is not a number.
pub fn seeds(count: usize) -> Vec<u64> {
    if let Some(seed) = number("WAYPOST_SEED") {
        return vec![seed];
    }
    let count =
        number("WAYPOST_CASES").map_or(count, |cases| usize::try_from(cases).unwrap_or(usize::MAX));
    let first = u64::from(fastrand::u32(..));
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // If stderr cannot be written, there is no reader, and no reason to fail.
    let _ = writeln!(
        std::io::stderr(),
        "{test}: {count} random cases from WAYPOST_SEED={first} on"
    );
    (first..).take(count).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment selects the cases"
)]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")),
    )
}

/// Log of the steps of one random case. When a panic drops it, it is printed with the seed that
/// reproduces the case. Clones share the log.
///
/// ```
/// use waypost_conformance::{CaseLog, seeds};
///
/// for seed in seeds(3) {
///     let log = CaseLog::new("-p my-registry random_changes", seed);
///     let mut rng = fastrand::Rng::with_seed(seed);
///     let ttl = rng.u64(1..60);
///     log.record(format!("register with a TTL of {ttl} s"));
///     // Execute the step; an assertion that fails prints the log and the seed.
///     assert_eq!(log.seed(), seed);
/// }
/// ```
#[derive(Clone, Debug)]
pub struct CaseLog(Arc<Logged>);

#[derive(Debug)]
struct Logged {
    test: &'static str,
    seed: u64,
    steps: Mutex<Vec<String>>,
}

impl CaseLog {
    /// Creates the log of the case with this `seed`. `test` is the selection for `cargo test`:
    /// `-p a-crate the_test`.
    pub fn new(test: &'static str, seed: u64) -> Self {
        Self(Arc::new(Logged {
            test,
            seed,
            steps: Mutex::default(),
        }))
    }

    /// Returns the seed of the case.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Records a step.
    pub fn record(&self, step: impl Into<String>) {
        self.0
            .steps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(step.into());
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

impl Logged {
    fn report(&self) -> String {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        format!(
            "steps:\n  {}\nreproduce with: WAYPOST_SEED={} cargo test {} -- --nocapture",
            steps.join("\n  "),
            self.seed,
            self.test
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_command_that_reproduces_the_case() {
        let log = CaseLog::new("-p a-crate the_test", 7);
        log.clone().record("0.1 s: cut");
        assert_eq!(
            log.0.report(),
            "steps:\n  0.1 s: cut\nreproduce with: WAYPOST_SEED=7 cargo test -p a-crate the_test -- --nocapture"
        );
        assert_eq!(
            seeds(3).len(),
            if number("WAYPOST_SEED").is_some() {
                1
            } else {
                3
            }
        );
    }
}
