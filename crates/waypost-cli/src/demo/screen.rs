//! Live view on a terminal: the figures of the phases, and every node.

use std::time::Duration;

use waypost::balance::NodeView;

use super::report::milliseconds;
use super::stats::Stats;
use crate::output::{self, Size, Style, Table};

/// Size that is assumed where the terminal reports none.
const SIZE: Size = Size {
    columns: 80,
    rows: 24,
};

/// Lines on stderr that are redrawn in place.
#[derive(Debug, Default)]
pub(super) struct Screen {
    lines: usize,
}

impl Screen {
    /// Draws `frame` over the last one. Its lines fit on the terminal; if that became narrower
    /// meanwhile, they are truncated at the edge until the next frame, so that each is one line.
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

/// Returns the lines of the view, wrapped to the width of the terminal. Nodes that its height has no
/// room for are counted on the last line.
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
    let size = style.size().unwrap_or(SIZE);
    let above = [String::new(), head, figures(stats, style), String::new()];
    let mut table = table(stats, nodes).lines(style.unbounded());
    let rows = table.split_off(1);
    let mut lines: Vec<_> = above
        .iter()
        .chain(&table)
        .flat_map(|line| wrap(line, size.columns))
        .collect();
    // The cursor takes the last row, and the number of left out nodes the one above.
    let room = size.rows.saturating_sub(2);
    for (shown, row) in rows.iter().enumerate() {
        let row = wrap(row, size.columns);
        if lines.len() + row.len() > room {
            lines.push(format!("and {} more", rows.len() - shown));
            break;
        }
        lines.extend(row);
    }
    lines
}

/// Splits a line into parts of at most `columns` characters. Escape sequences of colours take none.
fn wrap(line: &str, columns: usize) -> Vec<String> {
    let (mut parts, mut taken, mut escape) = (vec![String::new()], 0, false);
    for c in line.chars() {
        escape |= c == '\u{1b}';
        if !escape && taken == columns {
            parts.push(String::new());
            taken = 0;
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        taken += usize::from(!escape);
        escape &= c != 'm';
    }
    parts
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
    for node in nodes {
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

#[cfg(test)]
mod tests {
    use waypost::peer::{Exclusion, Membership};
    use waypost::record::{Node, Service};

    use super::*;

    fn node(number: usize) -> NodeView {
        let mut service = Service::new("greeter");
        let id = number.to_string();
        service
            .nodes
            .push(Node::with_id("greeter", &id, "127.0.0.1:9097"));
        let entry = service.entries().remove(0);
        NodeView::unused(&entry, Membership::Confirmed, Exclusion::NotConnected)
    }

    fn shown(nodes: usize, columns: usize) -> Vec<String> {
        let nodes: Vec<_> = (0..nodes).map(node).collect();
        let style = Style::columns(columns);
        frame(&Stats::default(), &nodes, "", Duration::ZERO, style)
    }

    #[test]
    fn a_narrow_terminal_cuts_nothing() {
        let (wide, narrow) = (shown(2, 200), shown(2, 20));
        assert!(
            narrow.iter().all(|line| line.chars().count() <= 20),
            "{narrow:?}"
        );
        assert_eq!(wide.concat(), narrow.concat());
    }

    #[test]
    fn a_low_terminal_states_how_many_nodes_it_has_no_room_for() {
        let lines = shown(100, 200);
        assert_eq!(
            (lines.len(), lines.last().map(String::as_str)),
            (23, Some("and 83 more"))
        );
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(
            wrap("\u{1b}[1mabc\u{1b}[0md", 3),
            ["\u{1b}[1mabc\u{1b}[0m", "d"]
        );
        assert_eq!(wrap("", 3), [""]);
    }
}
