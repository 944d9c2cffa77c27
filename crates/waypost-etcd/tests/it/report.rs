//! Report of a fault: one line for people, and one for `cargo xtask etcd-faults` in the file named
//! by the environment.

use std::io::Write;
use std::time::Duration;

use serde_json::json;
use waypost_testkit::etcd::Version;

/// Environment variable with the name of the file that gets one line of JSON for each fault.
const FILE: &str = "WAYPOST_FAULTS_REPORT";

/// Figures of one fault on one etcd.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) fault: &'a str,
    pub(crate) etcd: Version,
    /// Time until every node was registered again.
    pub(crate) registered: Duration,
    /// Time until the client's snapshot was correct again.
    pub(crate) current: Duration,
    /// Number of nodes.
    pub(crate) nodes: usize,
    /// Lowest number of nodes available to the client, suspects included.
    pub(crate) fewest: usize,
    /// Lowest number of confirmed nodes.
    pub(crate) confirmed: usize,
    /// Number of nodes that vanished from etcd without a mark as leaving, if its history is
    /// available.
    pub(crate) vanished: Option<usize>,
}

impl Report<'_> {
    /// Prints the report, and appends it to the file if one is named.
    pub(crate) fn print(&self) {
        let vanished = self
            .vanished
            .map_or("unknown".to_owned(), |vanished| vanished.to_string());
        println!(
            "etcd {}: {}: registered after {:.2} s, snapshot current after {:.2} s; fewest seen {} of {}, {} confirmed; vanished {vanished}",
            self.etcd,
            self.fault,
            self.registered.as_secs_f64(),
            self.current.as_secs_f64(),
            self.fewest,
            self.nodes,
            self.confirmed,
        );
        if let Some(file) = std::env::var_os(FILE) {
            // One write for each line, since many tests write concurrently.
            let line = format!("{}\n", self.line());
            let mut file = std::fs::File::options()
                .append(true)
                .create(true)
                .open(file)
                .unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
    }

    fn line(&self) -> serde_json::Value {
        json!({
            "fault": self.fault,
            "etcd": self.etcd.to_string(),
            "registered_ms": millis(self.registered),
            "current_ms": millis(self.current),
            "nodes": self.nodes,
            "fewest": self.fewest,
            "confirmed": self.confirmed,
            "vanished": self.vanished,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap()
}

#[test]
fn the_line_is_json() {
    let report = Report {
        fault: "keys deleted",
        etcd: Version {
            major: 3,
            minor: 4,
            patch: 23,
        },
        registered: Duration::from_millis(980),
        current: Duration::from_secs(1),
        nodes: 3,
        fewest: 3,
        confirmed: 0,
        vanished: None,
    };
    let line = r#"{"confirmed":0,"current_ms":1000,"etcd":"3.4.23","fault":"keys deleted","fewest":3,"nodes":3,"registered_ms":980,"vanished":null}"#;
    assert_eq!(report.line().to_string(), line);
}
