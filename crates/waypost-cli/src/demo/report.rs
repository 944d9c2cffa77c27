//! Report at the end of the demo.

use serde::Serialize;

use super::stats::{CallStats, Stats};
use crate::error::CliError;
use crate::output::{self, SCHEMA, Style, Table};

/// Parameters of the run.
#[derive(Clone, Debug)]
pub(super) struct DemoSetting {
    pub(super) registry: &'static str,
    /// Version of the etcd that the demo started itself.
    pub(super) etcd: Option<String>,
    pub(super) servers: u16,
    pub(super) rate: u32,
}

/// Report of the whole run, as JSON for other programs. Fields are only ever added.
#[derive(Debug, Serialize)]
pub(super) struct DemoReport {
    schema: &'static str,
    registry: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd: Option<String>,
    servers: u16,
    calls: u64,
    failed: u64,
    moved: u64,
    p50_us: u64,
    p99_us: u64,
    phases: Vec<PhaseReport>,
    /// Longest time in which a server served the new certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_served_ms: Option<u128>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    interrupted: bool,
    #[serde(skip)]
    shown: Shown,
}

#[derive(Debug, Serialize)]
struct PhaseReport {
    name: &'static str,
    calls: u64,
    failed: u64,
    longest_gap_ms: u64,
}

/// Part of the report that only people read.
#[derive(Debug)]
struct Shown {
    rate: u32,
    stats: Stats,
}

impl DemoReport {
    pub(super) fn new(setting: DemoSetting, stats: Stats) -> Self {
        let total = &stats.total;
        let phase = |phase: &super::stats::DemoPhase| {
            let CallStats { calls, failed, .. } = phase.figures;
            PhaseReport {
                name: phase.name,
                calls,
                failed,
                longest_gap_ms: phase.figures.longest_gap_ms(),
            }
        };
        Self {
            schema: SCHEMA,
            registry: setting.registry,
            etcd: setting.etcd,
            servers: setting.servers,
            calls: total.calls,
            failed: total.failed,
            moved: total.moved,
            p50_us: total.p50_us(),
            p99_us: total.p99_us(),
            phases: stats.phases.iter().map(phase).collect(),
            certificate_served_ms: stats.certificate_served.map(|after| after.as_millis()),
            interrupted: false,
            shown: Shown {
                rate: setting.rate,
                stats,
            },
        }
    }

    /// Marks the run as ended before its time.
    pub(super) fn interrupted(self) -> Self {
        Self {
            interrupted: true,
            ..self
        }
    }

    /// Prints the report on stdout: a table, or one JSON object on one line. A run that was
    /// interrupted before its first phase has none.
    pub(super) fn print(&self, json: bool) -> Result<(), CliError> {
        if self.interrupted && self.phases.is_empty() {
            return Ok(());
        }
        if json {
            return Ok(output::line(&output::compact(self))?);
        }
        for line in self.lines(Style::of_stdout()) {
            output::line(&line)?;
        }
        Ok(())
    }

    /// Returns an error if the run was interrupted, a call failed, or none was made.
    pub(super) fn verdict(&self) -> Result<(), CliError> {
        if self.interrupted {
            return Err(CliError::interrupted());
        }
        if self.failed == 0 && self.calls > 0 {
            return Ok(());
        }
        let why = self
            .shown
            .stats
            .first_fault
            .as_deref()
            .map(crate::escape::text)
            .unwrap_or_default();
        let next = "see more: RUST_LOG=waypost=debug waypost demo";
        Err(CliError::no(format!(
            "{} of {} calls failed: {why}",
            self.failed, self.calls
        ))
        .next(next))
    }

    fn lines(&self, style: Style) -> Vec<String> {
        let mut table = Table::new(&[
            "PHASE",
            ">CALLS",
            ">FAILED",
            ">MOVED",
            ">P50",
            ">P99",
            ">LONGEST GAP",
        ]);
        for phase in &self.shown.stats.phases {
            table.row(row(phase.name, &phase.figures));
        }
        table.row(row("all", &self.shown.stats.total));
        let mut lines = table.lines(style);
        lines.push(String::new());
        lines.push(self.sentence(style));
        lines
    }

    fn sentence(&self, style: Style) -> String {
        let Self { calls, failed, .. } = self;
        let on = self
            .etcd
            .as_ref()
            .map(|version| format!(" on etcd {version}"))
            .unwrap_or_default();
        let certificate = self
            .certificate_served_ms
            .map(|ms| format!(", the certificate replaced and served everywhere after {ms} ms"))
            .unwrap_or_default();
        let done = match self.interrupted {
            true => format!("Interrupted{on}"),
            false => format!(
                "Every server restarted in turn{on}, one killed and replaced{certificate}, {} calls a second",
                self.shown.rate
            ),
        };
        match failed {
            0 => format!(
                "{done}: {}",
                style.good(&format!("{calls} calls, none failed."))
            ),
            _ => format!(
                "{done}: {}",
                style.bad(&format!("{failed} of {calls} calls failed."))
            ),
        }
    }
}

fn row(name: &str, figures: &CallStats) -> [String; 7] {
    let CallStats {
        calls,
        failed,
        moved,
        ..
    } = figures;
    let [p50, p99] = [figures.p50_us(), figures.p99_us()].map(milliseconds);
    let gap = format!("{} ms", figures.longest_gap_ms());
    [
        name.to_owned(),
        calls.to_string(),
        failed.to_string(),
        moved.to_string(),
        p50,
        p99,
        gap,
    ]
}

/// Formats microseconds as milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(super) fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::demo::call::DemoCall;

    fn report(fault: Option<&(tonic::Code, String)>) -> DemoReport {
        let start = Instant::now();
        let mut stats = Stats::default();
        for (name, at) in [("steady", 0), ("rolling-restart", 100), ("kill", 200)] {
            let at = start + Duration::from_millis(at);
            stats.begin(name, at);
            let (node, fault) = (
                Some("greeter-a1".to_owned()),
                fault.cloned().filter(|_| name == "kill"),
            );
            stats.count(&DemoCall {
                due: at,
                ended: at + Duration::from_millis(3),
                node,
                attempts: 2,
                fault,
            });
        }
        DemoReport::new(
            DemoSetting {
                registry: "local",
                etcd: None,
                servers: 5,
                rate: 200,
            },
            stats,
        )
    }

    #[test]
    fn the_object_is_as_promised() {
        insta::assert_snapshot!(output::compact(&report(None)), @r#"{"schema":"waypost/1","registry":"local","servers":5,"calls":3,"failed":0,"moved":3,"p50_us":3007,"p99_us":3007,"phases":[{"name":"steady","calls":1,"failed":0,"longest_gap_ms":100},{"name":"rolling-restart","calls":1,"failed":0,"longest_gap_ms":100},{"name":"kill","calls":1,"failed":0,"longest_gap_ms":0}]}"#);
    }

    #[test]
    fn people_get_a_table_and_a_sentence() {
        insta::assert_snapshot!(report(None).lines(Style::PLAIN).join("\n"), @r"
        PHASE            CALLS  FAILED  MOVED     P50     P99  LONGEST GAP
        steady               1       0      1  3.0 ms  3.0 ms       100 ms
        rolling-restart      1       0      1  3.0 ms  3.0 ms       100 ms
        kill                 1       0      1  3.0 ms  3.0 ms         0 ms
        all                  3       0      3  3.0 ms  3.0 ms       100 ms

        Every server restarted in turn, one killed and replaced, 200 calls a second: 3 calls, none failed.
        ");
    }

    #[test]
    fn an_interrupted_run_reports_the_calls_so_far() {
        let report = report(None).interrupted();
        assert_eq!(
            report.sentence(Style::PLAIN),
            "Interrupted: 3 calls, none failed."
        );
        assert!(output::compact(&report).ends_with(r#""interrupted":true}"#));
        assert_eq!(report.verdict(), Err(CliError::interrupted()));
    }

    #[test]
    fn the_etcd_that_was_started_is_named() {
        let report = DemoReport {
            etcd: Some("3.4.23".to_owned()),
            ..report(None)
        };
        assert!(output::compact(&report).contains(r#""etcd":"3.4.23""#));
        assert!(
            report
                .sentence(Style::PLAIN)
                .starts_with("Every server restarted in turn on etcd 3.4.23, ")
        );
    }

    #[test]
    fn a_certificate_that_was_replaced_is_reported() {
        let mut stats = report(None).shown.stats;
        stats.certificate_served(Duration::from_millis(812));
        stats.certificate_served(Duration::from_millis(7));
        let setting = DemoSetting {
            registry: "local",
            etcd: None,
            servers: 5,
            rate: 200,
        };
        let report = DemoReport::new(setting, stats);
        assert!(output::compact(&report).contains(r#""certificate_served_ms":812"#));
        insta::assert_snapshot!(report.sentence(Style::PLAIN), @"Every server restarted in turn, one killed and replaced, the certificate replaced and served everywhere after 812 ms, 200 calls a second: 3 calls, none failed.");
    }

    #[test]
    fn one_failed_call_is_a_no_with_its_reason() {
        assert_eq!(report(None).verdict(), Ok(()));
        let report = report(Some(&(
            tonic::Code::Unavailable,
            "greeter: no answer".to_owned(),
        )));
        insta::assert_snapshot!(report.verdict().unwrap_err(), @r"
        1 of 3 calls failed: Unavailable: greeter: no answer
          see more: RUST_LOG=waypost=debug waypost demo
        ");
    }
}
