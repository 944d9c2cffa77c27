//! Live view on a terminal: the figures of the phases, and every node.

use std::time::Duration;

use waypost::balance::NodeView;

use super::report::milliseconds;
use super::stats::Stats;
use crate::output::{self, Style, Table};

/// Maximum number of nodes in the view, so that it fits on a small terminal.
const MOST_NODES: usize = 12;

/// Lines on stderr that are redrawn in place.
#[derive(Debug, Default)]
pub(super) struct Screen {
    lines: usize,
}

impl Screen {
    /// Draws `frame` over the last one. Long lines are truncated at the edge, so that each is one
    /// line.
    pub(super) fn draw(&mut self, frame: &[String]) {
        let up = self.up();
        self.lines = frame.len();
        output::note(&format!("{up}\u{1b}[?7l{}\u{1b}[?7h", frame.join("\n")));
    }

    /// Removes the view.
    pub(super) fn clear(&mut self) {
        let up = self.up();
        if self.lines > 0 {
            self.lines = 0;
            output::note(&format!("{up}\u{1b}[A"));
        }
    }

    /// Returns the sequence that moves to the first line and clears everything below it.
    fn up(&self) -> String {
        if self.lines == 0 {
            String::new()
        } else {
            format!("\u{1b}[{}A\u{1b}[J", self.lines)
        }
    }
}

/// Returns the lines of the view.
pub(super) fn frame(
    stats: &Stats,
    nodes: &[NodeView],
    act: &str,
    elapsed: Duration,
    style: Style,
) -> Vec<String> {
    let phase = stats.phases.last().map_or("starting", |phase| phase.name);
    let head = format!(
        "{}  {:.1} s  {}",
        style.strong(phase),
        elapsed.as_secs_f64(),
        style.faint(act)
    );
    let mut lines = vec![String::new(), head, figures(stats, style), String::new()];
    lines.extend(table(stats, nodes).lines(style));
    lines
}

fn figures(stats: &Stats, style: Style) -> String {
    let total = &stats.total;
    let failed = format!("{} failed", total.failed);
    let failed = if total.failed == 0 {
        style.good(&failed)
    } else {
        style.bad(&failed)
    };
    let [p50, p99] = [total.p50_us(), total.p99_us()].map(milliseconds);
    format!(
        "{} calls  {failed}  {} moved  p50 {p50}  p99 {p99}",
        total.calls, total.moved
    )
}

fn table(stats: &Stats, nodes: &[NodeView]) -> Table {
    let mut table = Table::new(&["NODE", "ADDRESS", "CONNECTION", "DECISION", ">CALLS"]);
    for node in nodes.iter().take(MOST_NODES) {
        let calls = stats.nodes.get(&node.id).copied().unwrap_or(0).to_string();
        let connection = format!("{:?}", node.connection).to_lowercase();
        table.row([
            node.id.clone(),
            node.address.clone(),
            connection,
            node.decision.to_string(),
            calls,
        ]);
    }
    table
}
