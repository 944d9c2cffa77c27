//! Statistics of the calls, phase by phase. They never read a clock: each call brings its times.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::call::DemoCall;
use super::histogram::Histogram;

/// Counts of some calls.
#[derive(Clone, Debug, Default)]
pub(super) struct CallStats {
    pub(super) calls: u64,
    pub(super) failed: u64,
    pub(super) moved: u64,
    latencies: Histogram,
    longest_gap: Duration,
}

impl CallStats {
    fn count(&mut self, call: &DemoCall) {
        self.calls += 1;
        self.failed += u64::from(!call.is_answered());
        self.moved += u64::from(call.is_moved());
        if call.is_answered() {
            self.latencies.record(call.latency());
        }
    }

    /// Returns the median latency of the answered calls, in microseconds.
    pub(super) fn p50_us(&self) -> u64 {
        self.latencies.quantile_us(0.5)
    }

    /// Returns the latency that 99 of 100 answered calls did not exceed, in microseconds.
    pub(super) fn p99_us(&self) -> u64 {
        self.latencies.quantile_us(0.99)
    }

    /// Returns the longest time between successive answers, in milliseconds.
    pub(super) fn longest_gap_ms(&self) -> u64 {
        u64::try_from(self.longest_gap.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
    }
}

/// One phase. A call belongs to the phase in which it was due, a gap to the phase that contains
/// most of it.
#[derive(Clone, Debug)]
pub(super) struct DemoPhase {
    pub(super) name: &'static str,
    since: Instant,
    pub(super) figures: CallStats,
}

/// Counts of all calls so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    pub(super) phases: Vec<DemoPhase>,
    pub(super) total: CallStats,
    /// Number of answers by node.
    pub(super) nodes: BTreeMap<String, u64>,
    /// Error of the first call that failed.
    pub(super) first_fault: Option<String>,
    /// Longest time in which a server served the new certificate; none if none was replaced.
    pub(super) certificate_served: Option<Duration>,
    last_answer: Option<Instant>,
}

impl Stats {
    /// Begins a phase. The first one also begins the first gap.
    pub(super) fn begin(&mut self, name: &'static str, at: Instant) {
        self.last_answer.get_or_insert(at);
        self.phases.push(DemoPhase {
            name,
            since: at,
            figures: CallStats::default(),
        });
    }

    /// Counts a call. Calls that were due before the first phase do not count.
    pub(super) fn count(&mut self, call: &DemoCall) {
        let Some(phase) = self.phase_at(call.due) else {
            return;
        };
        phase.figures.count(call);
        self.total.count(call);
        match &call.fault {
            None => self.answered(call),
            Some((code, text)) => drop(
                self.first_fault
                    .get_or_insert_with(|| format!("{code:?}: {text}")),
            ),
        }
    }

    /// Counts a server that serves the new certificate.
    pub(super) fn certificate_served(&mut self, after: Duration) {
        self.certificate_served = self.certificate_served.max(Some(after));
    }

    /// Ends the load. If the answers had stopped before, that was a gap too.
    pub(super) fn end(&mut self, at: Instant) {
        self.close_gap(at);
    }

    fn answered(&mut self, call: &DemoCall) {
        if let Some(node) = &call.node {
            *self.nodes.entry(node.clone()).or_default() += 1;
        }
        self.close_gap(call.ended);
    }

    fn close_gap(&mut self, at: Instant) {
        let Some(last) = self.last_answer else { return };
        let gap = at.saturating_duration_since(last);
        self.last_answer = Some(at.max(last));
        self.total.longest_gap = self.total.longest_gap.max(gap);
        if let Some(phase) = self.phase_most_in(last, at) {
            phase.figures.longest_gap = phase.figures.longest_gap.max(gap);
        }
    }

    /// Returns the phase that contains most of the given time.
    fn phase_most_in(&mut self, from: Instant, to: Instant) -> Option<&mut DemoPhase> {
        let ends = self
            .phases
            .iter()
            .skip(1)
            .map(|next| next.since)
            .chain([to.max(from)]);
        let shares = self
            .phases
            .iter()
            .zip(ends)
            .map(|(phase, end)| end.min(to).saturating_duration_since(phase.since.max(from)));
        let (index, _) = shares.enumerate().max_by_key(|(_, share)| *share)?;
        self.phases.get_mut(index)
    }

    fn phase_at(&mut self, at: Instant) -> Option<&mut DemoPhase> {
        let index = self.phases.iter().rposition(|phase| phase.since <= at)?;
        self.phases.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(start: Instant, due: u64, took: u64) -> DemoCall {
        let due = start + Duration::from_millis(due);
        DemoCall {
            due,
            ended: due + Duration::from_millis(took),
            node: Some("a".into()),
            attempts: 1,
            fault: None,
        }
    }

    fn failed(call: DemoCall) -> DemoCall {
        DemoCall {
            fault: Some((tonic::Code::Unavailable, "gone".into())),
            ..call
        }
    }

    fn phases(stats: &Stats) -> Vec<(&str, u64, u64, u64)> {
        let line = |p: &DemoPhase| {
            (
                p.name,
                p.figures.calls,
                p.figures.failed,
                p.figures.longest_gap_ms(),
            )
        };
        stats.phases.iter().map(line).collect()
    }

    #[tokio::test]
    async fn a_call_belongs_to_the_phase_in_which_it_was_due_and_a_gap_to_that_which_most_of_it_lay_in()
     {
        let start = Instant::now();
        let mut stats = Stats::default();
        stats.begin("steady", start);
        stats.count(&call(start, 10, 2));
        stats.begin("kill", start + Duration::from_millis(20));
        stats.count(&call(start, 19, 121));
        stats.count(&failed(call(start, 120, 900)));
        stats.count(&call(start, 130, 60));
        assert_eq!(phases(&stats), [("steady", 2, 0, 12), ("kill", 2, 1, 128)]);
        assert_eq!(
            (
                stats.total.calls,
                stats.total.longest_gap_ms(),
                stats.nodes["a"]
            ),
            (4, 128, 3)
        );
        assert_eq!(stats.first_fault.as_deref(), Some("Unavailable: gone"));
    }

    #[tokio::test]
    async fn a_gap_that_ends_just_after_its_phase_is_still_that_phases() {
        let start = Instant::now();
        let mut stats = Stats::default();
        stats.begin("rolling-restart", start);
        stats.count(&call(start, 0, 5));
        stats.begin("kill", start + Duration::from_millis(1000));
        stats.count(&call(start, 10, 1095));
        assert_eq!(
            phases(&stats),
            [("rolling-restart", 2, 0, 1100), ("kill", 0, 0, 0)]
        );
    }

    #[tokio::test]
    async fn answers_that_stop_are_a_gap_up_to_the_end() {
        let start = Instant::now();
        let mut stats = Stats::default();
        stats.begin("steady", start);
        stats.count(&call(start, 0, 5));
        stats.end(start + Duration::from_millis(705));
        assert_eq!(phases(&stats), [("steady", 1, 0, 700)]);
    }

    #[tokio::test]
    async fn latency_counts_from_when_the_call_was_due_and_moved_only_if_answered() {
        let start = Instant::now();
        let mut stats = Stats::default();
        stats.begin("steady", start);
        stats.count(&DemoCall {
            attempts: 2,
            ..call(start, 0, 7)
        });
        stats.count(&failed(DemoCall {
            attempts: 2,
            ..call(start, 0, 9000)
        }));
        assert_eq!((stats.total.moved, stats.total.failed), (1, 1));
        assert_eq!(stats.total.p99_us() / 100, 70);
    }
}
