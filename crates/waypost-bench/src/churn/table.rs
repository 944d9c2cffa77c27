//! Figures of `bench churn` as a table, beside those of an earlier run.

use std::fmt::Write;

use serde_json::Value;
use waypost_testkit::report::Result;

/// Figures in their order: key, heading.
const COLUMNS: [(&str, &str); 12] = [
    ("added_us", "one node added, CPU us"),
    ("changed_us", "one node changed, CPU us"),
    ("removed_us", "one node removed, CPU us"),
    (
        "added_after_rest_us",
        "one node added after 15 ms idle (cold caches), CPU us",
    ),
    (
        "changed_after_rest_us",
        "one node changed after 15 ms idle, CPU us",
    ),
    (
        "removed_after_rest_us",
        "one node removed after 15 ms idle, CPU us",
    ),
    ("rolling_s", "all nodes replaced, CPU s"),
    ("backoff_percent", "100 unreachable, idle, % of a core"),
    ("idle_bytes", "bytes a node, no channel"),
    ("channel_bytes", "bytes a node, channel of 100 peers"),
    ("first_answer_ms", "first answer, ms"),
    ("first_answer_cpu_ms", "first answer, CPU ms"),
];

/// Reads the rows of a run that was saved.
pub(super) fn read(path: &str) -> Result<Vec<Value>> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("--before {path}: {error}"))?;
    let run: Value =
        serde_json::from_str(&text).map_err(|error| format!("--before {path}: {error}"))?;
    run["figures"]["by_nodes"]
        .as_array()
        .cloned()
        .ok_or_else(|| format!("--before {path}: no figures.by_nodes in it").into())
}

pub(super) fn of(rows: &[Value], before: Option<&[Value]>) -> String {
    let mut text =
        "what a client pays for the nodes it knows (before: as measured then, on that machine)\n"
            .to_owned();
    for (key, heading) in COLUMNS {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {heading}");
        for row in rows {
            let old = before
                .into_iter()
                .flatten()
                .find(|old| old["nodes"] == row["nodes"]);
            let _ = writeln!(
                text,
                "    {:>7} nodes  {}",
                row["nodes"],
                shown(key, row, old)
            );
        }
    }
    text
}

fn shown(key: &str, row: &Value, old: Option<&Value>) -> String {
    let figure = |row: &Value| {
        row[key]
            .as_f64()
            .map_or("-".to_owned(), |value| format!("{value:.1}"))
    };
    let extrapolated = |row: &Value| {
        key == "rolling_s"
            && row["rolling_share"]
                .as_f64()
                .is_some_and(|share| share < 1.0)
    };
    let marked = |row: &Value| {
        format!(
            "{:>12}{}",
            figure(row),
            if extrapolated(row) { "*" } else { " " }
        )
    };
    let now = marked(row);
    old.map_or(now.clone(), |old| format!("{now}  before {}", marked(old)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_figure_is_beside_the_one_before_and_shows_if_it_was_extrapolated() {
        let (now, old) = (
            json!({"rolling_s": 1.5, "rolling_share": 1.0}),
            json!({"rolling_s": 400.0, "rolling_share": 0.01}),
        );
        assert_eq!(
            shown("rolling_s", &now, Some(&old)),
            "         1.5   before        400.0*"
        );
        assert_eq!(shown("idle_bytes", &now, None), "           - ");
    }
}
