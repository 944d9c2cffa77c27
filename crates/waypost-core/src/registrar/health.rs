//! Health of a node: counts of consecutive check results, and thresholds against flapping. The
//! counts do not depend on time.

use std::num::NonZeroU32;

/// Health status by the checks so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// No check has passed yet, and fewer have failed than the threshold.
    Unknown,
    Passing,
    Failing,
}

/// Consecutive results of one check.
#[derive(Debug)]
pub(super) struct Health {
    status: Status,
    passes: u32,
    failures: u32,
    failure_threshold: NonZeroU32,
    success_threshold: NonZeroU32,
}

impl Health {
    /// Creates the health of a node with checks, none of which has ended yet.
    pub(super) fn unknown(failure_threshold: NonZeroU32, success_threshold: NonZeroU32) -> Self {
        Self {
            status: Status::Unknown,
            passes: 0,
            failures: 0,
            failure_threshold,
            success_threshold,
        }
    }

    /// Creates the health of a node without checks.
    pub(super) fn passing() -> Self {
        Self {
            status: Status::Passing,
            ..Self::unknown(NonZeroU32::MIN, NonZeroU32::MIN)
        }
    }

    pub(super) fn status(&self) -> Status {
        self.status
    }

    pub(super) fn is_failing(&self) -> bool {
        self.status == Status::Failing
    }

    /// Records one result. Returns true if it changed the status.
    pub(super) fn record(&mut self, passed: bool) -> bool {
        if passed {
            (self.passes, self.failures) = (self.passes.saturating_add(1), 0);
        } else {
            (self.passes, self.failures) = (0, self.failures.saturating_add(1));
        }
        let next = self.next();
        std::mem::replace(&mut self.status, next) != next
    }

    fn next(&self) -> Status {
        let fails = self.failures >= self.failure_threshold.get();
        match self.status {
            Status::Unknown if self.passes > 0 => Status::Passing,
            Status::Failing if self.passes >= self.success_threshold.get() => Status::Passing,
            _ if fails => Status::Failing,
            status => status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the status after each of `answers`, of which `+` passed.
    fn statuses(failure_threshold: u32, success_threshold: u32, answers: &str) -> String {
        let [failures, successes] =
            [failure_threshold, success_threshold].map(|n| NonZeroU32::new(n).unwrap());
        let mut health = Health::unknown(failures, successes);
        let mut letter = |answer| {
            let before = health.status();
            assert_eq!(health.record(answer == '+'), health.status() != before);
            match health.status() {
                Status::Unknown => '?',
                Status::Passing => 'P',
                Status::Failing => 'F',
            }
        };
        answers.chars().map(&mut letter).collect()
    }

    #[test]
    fn thresholds_count_consecutive_answers_and_one_pass_is_enough_at_the_start() {
        assert_eq!(statuses(1, 2, "+-+-++-"), "PFFFFPF");
        assert_eq!(statuses(3, 2, "--+--+---++"), "??PPPPPPFFP");
        assert_eq!(statuses(2, 1, "--+"), "?FP");
    }
}
