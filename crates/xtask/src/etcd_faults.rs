//! `cargo xtask etcd-faults`: every fault in the tests of `waypost-etcd`, the long ones too, on
//! every etcd, and the cost of each. The tests write their figures into a file; this command only
//! reads and sums them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::etcd::{self, FoundEtcd};
use crate::test::{self, TestCounts};
use crate::workspace::{Result, Workspace};

/// Environment variable with the file to which each test appends its figures, one JSON object per
/// line.
const REPORT: &str = "WAYPOST_FAULTS_REPORT";

/// Tests that are faults, including those that only run here.
const TESTS: [&str; 8] = [
    "test",
    "-p",
    "waypost-etcd",
    "--test",
    "it",
    "--",
    "--include-ignored",
    "faults::",
];

/// Options of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Number of times that everything is run.
    rounds: NonZeroU32,
    json: bool,
}

impl Options {
    /// Parses the command line; returns `None` if it is invalid.
    pub(crate) fn of(args: &[&str]) -> Option<Self> {
        let mut options = Self {
            rounds: NonZeroU32::MIN,
            json: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match *arg {
                "--json" => options.json = true,
                "--rounds" => options.rounds = args.next()?.parse().ok()?,
                _ => return None,
            }
        }
        Some(options)
    }
}

/// Runs the faults; returns true if no test failed. Stdout has the table and `N passed, N failed`,
/// or one JSON object; with JSON, all other output is on stderr.
///
/// # Errors
/// There is no etcd to test with; the text says what to do.
pub(crate) fn run(workspace: &Workspace, options: Options) -> Result<bool> {
    let start = test::now();
    let etcds = etcd::ensure(workspace)?;
    let report = FaultReport::new()?;
    let mut counts = TestCounts::default();
    for _ in 0..options.rounds.get() {
        let mut command = workspace.cargo(&TESTS);
        command
            .env(etcd::VARIABLE, etcd::variable(&etcds)?)
            .env(REPORT, report.path());
        let shown: &mut dyn std::io::Write = if options.json {
            &mut std::io::stderr()
        } else {
            &mut std::io::stdout()
        };
        counts = counts.and(&test::tests(command, shown)?);
    }
    let costs = costs(&std::fs::read_to_string(report.path())?)?;
    if options.json {
        println!("{}", figures(&costs, &etcds, &counts));
        eprintln!("{}", counts.line());
        return Ok(counts.failed == 0);
    }
    println!("{}", table(&costs));
    Ok(counts.conclude(start, &etcds))
}

/// File of figures, which is removed when dropped.
struct FaultReport(PathBuf);

impl FaultReport {
    fn new() -> Result<Self> {
        let report =
            Self(std::env::temp_dir().join(format!("waypost-faults-{}.jsonl", std::process::id())));
        // Tests append to the file.
        std::fs::write(report.path(), "")?;
        Ok(report)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for FaultReport {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Cost of one fault on one etcd, over all repeats.
#[derive(Debug, Default, PartialEq, Eq)]
struct FaultCost {
    registered_ms: Vec<u64>,
    current_ms: Vec<u64>,
    /// Number of nodes, and the smallest number that the client could have called.
    nodes: u64,
    fewest: Option<u64>,
    /// Number of nodes that vanished from etcd without having left; `None` if etcd's history does
    /// not show it.
    vanished: Option<u64>,
}

/// Costs by fault and version.
type Costs = BTreeMap<(String, String), FaultCost>;

fn costs(report: &str) -> Result<Costs> {
    let mut costs = Costs::new();
    for line in report.lines() {
        let figures: Value =
            serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        let text = |name: &str| {
            figures[name]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("no {name} in {line}"))
        };
        let number = |name: &str| {
            figures[name]
                .as_u64()
                .ok_or_else(|| format!("no {name} in {line}"))
        };
        let cost = costs.entry((text("fault")?, text("etcd")?)).or_default();
        cost.registered_ms.push(number("registered_ms")?);
        cost.current_ms.push(number("current_ms")?);
        cost.nodes = cost.nodes.max(number("nodes")?);
        cost.fewest = Some(cost.fewest.unwrap_or(u64::MAX).min(number("fewest")?));
        if let Some(vanished) = figures["vanished"].as_u64() {
            cost.vanished = Some(cost.vanished.unwrap_or_default() + vanished);
        }
    }
    for cost in costs.values_mut() {
        cost.registered_ms.sort_unstable();
        cost.current_ms.sort_unstable();
    }
    Ok(costs)
}

/// Returns the median of sorted figures, the greater of the middle two.
fn median(sorted: &[u64]) -> u64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn max(sorted: &[u64]) -> u64 {
    sorted.last().copied().unwrap_or_default()
}

fn table(costs: &Costs) -> String {
    let width = costs
        .keys()
        .map(|(fault, _)| fault.chars().count())
        .max()
        .unwrap_or_default();
    let seconds =
        |sorted: &[u64]| format!("{:>6} {:>6}", shown(median(sorted)), shown(max(sorted)));
    let mut lines = vec![
        String::new(),
        format!(
            "{:<width$}  {:<8} {:>2}  registered, s   snapshot, s    fewest    vanished",
            "fault", "etcd", "n"
        ),
        format!(
            "{:<width$}  {:<8} {:>2}  median    max  median    max    seen      from etcd",
            "", "", ""
        ),
    ];
    for ((fault, version), cost) in costs {
        let (registered, current) = (seconds(&cost.registered_ms), seconds(&cost.current_ms));
        let seen = format!("{} of {}", cost.fewest.unwrap_or_default(), cost.nodes);
        let vanished = cost
            .vanished
            .map_or("-".to_owned(), |vanished| vanished.to_string());
        let repeats = cost.registered_ms.len();
        lines.push(format!("{fault:<width$}  {version:<8} {repeats:>2}  {registered}  {current}    {seen:<8}  {vanished}"));
    }
    lines.join("\n")
}

fn shown(millis: u64) -> String {
    format!("{}.{:02}", millis / 1_000, millis % 1_000 / 10)
}

fn figures(costs: &Costs, etcds: &[FoundEtcd], counts: &TestCounts) -> Value {
    let fault = |((fault, version), cost): (&(String, String), &FaultCost)| {
        json!({
            "fault": fault,
            "etcd": version,
            "repeats": cost.registered_ms.len(),
            "registered_ms": { "median": median(&cost.registered_ms), "max": max(&cost.registered_ms) },
            "current_ms": { "median": median(&cost.current_ms), "max": max(&cost.current_ms) },
            "nodes": cost.nodes,
            "fewest": cost.fewest,
            "vanished": cost.vanished,
        })
    };
    let faults: Vec<Value> = costs.iter().map(fault).collect();
    json!({ "schema": "waypost/1", "etcds": etcd::versions(etcds), "faults": faults, "passed": counts.passed, "failed": counts.failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"fault":"wiped","etcd":"3.4.23","registered_ms":900,"current_ms":950,"nodes":3,"fewest":3,"confirmed":0,"vanished":null}
{"fault":"frozen","etcd":"3.6.16","registered_ms":10,"current_ms":3000,"nodes":3,"fewest":3,"confirmed":3,"vanished":0}
{"fault":"frozen","etcd":"3.6.16","registered_ms":4000,"current_ms":20,"nodes":3,"fewest":2,"confirmed":2,"vanished":1}
{"fault":"frozen","etcd":"3.6.16","registered_ms":40,"current_ms":30,"nodes":3,"fewest":3,"confirmed":3,"vanished":0}
"#;

    #[test]
    fn figures_are_summed_by_fault_and_version() {
        let costs = costs(LINES).expect("lines of JSON");
        let shown = "
fault   etcd      n  registered, s   snapshot, s    fewest    vanished
                     median    max  median    max    seen      from etcd
frozen  3.6.16    3    0.04   4.00    0.03   3.00    2 of 3    1
wiped   3.4.23    1    0.90   0.90    0.95   0.95    3 of 3    -";
        assert_eq!(table(&costs), shown);
        let figures = figures(&costs, &[], &TestCounts::default());
        assert_eq!(
            figures["faults"][0]["registered_ms"],
            json!({ "median": 40, "max": 4000 })
        );
        assert_eq!(
            (&figures["faults"][1]["vanished"], &figures["schema"]),
            (&Value::Null, &json!("waypost/1"))
        );
    }

    #[test]
    fn a_line_without_figures_is_an_error() {
        assert!(
            costs("{}\n")
                .expect_err("it has no figures")
                .to_string()
                .contains("no fault in {}")
        );
        assert!(costs("x\n").is_err());
    }

    #[test]
    fn the_command_line_is_read_in_any_order() {
        let options =
            |args: &[&str]| Options::of(args).map(|options| (options.rounds.get(), options.json));
        assert_eq!(options(&[]), Some((1, false)));
        assert_eq!(options(&["--json", "--rounds", "3"]), Some((3, true)));
        for wrong in [
            &["--rounds"][..],
            &["--rounds", "0"],
            &["--rounds", "x"],
            &["--jsn"],
        ] {
            assert_eq!(options(wrong), None, "{wrong:?}");
        }
    }
}
