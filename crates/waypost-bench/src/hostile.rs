//! `bench hostile`: the randomized trial of the client against hostile peers, for many seeds.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;
use waypost_testkit::hostile::trial::{self, Defect, Panics, TrialResult};
use waypost_testkit::report::{Figures, Result, quantile, rounded};

use crate::options::BenchOptions;

/// Number of concurrent trials: each of them mostly waits, and two cores must not be the
/// bottleneck.
const AT_ONCE: usize = 24;

pub(crate) fn run(options: &BenchOptions) -> Result<Figures> {
    let count = options.number("seeds", 1_000)?;
    let first = options.number("seed", 1)?;
    let at_once = options.number("at-once", AT_ONCE as u64)?.max(1);
    let panics = if options.flag("no-panics") {
        Panics::Never
    } else {
        Panics::Drawn
    };
    let seeds: Vec<u64> = (first..first.saturating_add(count)).collect();
    let mut sum = Sum::default();
    trial::run_all(&seeds, panics, usize::try_from(at_once)?, |verdict| {
        sum.add(verdict);
        if verdict.found.is_err() {
            eprintln!("{}", text(verdict));
        }
    })?;
    Ok(sum.figures())
}

fn text(verdict: &TrialResult) -> String {
    let mut text = format!("{}\n", verdict.plan);
    for defect in verdict.found.as_ref().err().into_iter().flatten() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {defect}");
    }
    text
}

#[derive(Default)]
struct Sum {
    trials: u64,
    calls: u64,
    answered: u64,
    connections: u64,
    healed_s: Vec<f64>,
    /// Seeds by the defect that was found; trials with a panicking connector are counted
    /// separately.
    failed: BTreeMap<String, Vec<u64>>,
}

impl Sum {
    fn add(&mut self, verdict: &TrialResult) {
        self.trials += 1;
        match &verdict.found {
            Ok(passed) => {
                self.calls += passed.calls;
                self.answered += passed.answered;
                self.connections += passed.connections;
                self.healed_s.push(passed.healed_after.as_secs_f64());
            }
            Err(defects) => {
                let panics = if verdict.plan.panics_percent > 0 {
                    ", its connector panics"
                } else {
                    ""
                };
                let kind = defects.first().map_or("nothing", kind);
                self.failed
                    .entry(format!("{kind}{panics}"))
                    .or_default()
                    .push(verdict.plan.seed);
            }
        }
    }

    fn figures(&self) -> Figures {
        let failed: usize = self.failed.values().map(Vec::len).sum();
        let healed = [0.5, 0.99, 1.0].map(|share| quantile(&self.healed_s, share));
        let mut table = format!(
            "{} trials against hostile peers: {failed} failed; {} calls, {} answered, {} connections\n  \
             from the end of the hostility until the last node answered: p50 {:.2} s, p99 {:.2} s, max {:.2} s",
            self.trials,
            self.calls,
            self.answered,
            self.connections,
            healed[0],
            healed[1],
            healed[2],
        );
        for (kind, seeds) in &self.failed {
            let shown: Vec<_> = seeds.iter().take(10).map(u64::to_string).collect();
            // Writing to a string does not fail.
            let _ = write!(
                table,
                "\n  {:>5}  {kind}: seeds {}",
                seeds.len(),
                shown.join(" ")
            );
        }
        let json = json!({
            "trials": self.trials, "failed": failed, "by_defect": self.failed, "calls": self.calls, "answered": self.answered,
            "connections": self.connections, "healed_s": healed.map(rounded),
        });
        let failure =
            (failed > 0).then(|| format!("{failed} of {} trials found a defect", self.trials));
        Figures {
            table,
            json,
            failures: failure.into_iter().collect(),
        }
    }
}

fn kind(defect: &Defect) -> &'static str {
    match defect {
        Defect::NeverConnected(_) => "a well node is never connected",
        Defect::NeverAnswers(_) => "a node that is reported as ready gets no call",
        Defect::InFlight(_) => "calls stay in flight",
        Defect::TasksLeft(_) => "tasks are left",
        _ => "something does not end",
    }
}
