//! Table for people. Where a terminal is too narrow for it, each value is on a line of its own.

use crate::escape;

use super::Style;

/// Text of an empty cell.
const EMPTY: &str = "-";

/// Rows under a heading, each column as wide as it must be. Cells may hold anything: they are
/// escaped.
#[derive(Debug)]
pub(crate) struct Table {
    heading: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Column {
    name: &'static str,
    right: bool,
}

impl Table {
    /// Creates a table of these columns. A column whose name begins with `>` holds numbers and is
    /// right-aligned.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        let column = |name: &&'static str| match name.strip_prefix('>') {
            Some(name) => Column { name, right: true },
            None => Column { name, right: false },
        };
        Self {
            heading: columns.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. An empty cell is shown as a dash.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let cell = |cell: String| {
            if cell.is_empty() {
                EMPTY.to_owned()
            } else {
                escape::text(&cell)
            }
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// Removes a column in which no row has a value.
    pub(crate) fn drop_if_empty(&mut self, name: &str) {
        let Some(index) = self.heading.iter().position(|column| column.name == name) else {
            return;
        };
        if self.rows.iter().all(|row| row[index] == EMPTY) {
            self.heading.remove(index);
            for row in &mut self.rows {
                row.remove(index);
            }
        }
    }

    /// Returns the lines, the heading first; if one does not fit on the terminal, a line for each
    /// value instead, and an empty one between two rows.
    pub(crate) fn lines(&self, style: Style) -> Vec<String> {
        let widths = self.widths();
        let total = widths.iter().map(|width| width + 2).sum::<usize>();
        match style.fits(total.saturating_sub(2)) {
            true => self.columns(&widths, style),
            false => self.records(style),
        }
    }

    fn records(&self, style: Style) -> Vec<String> {
        let names = self.heading.iter().map(|column| column.name);
        let width = names.map(str::len).max().unwrap_or(0);
        let record = |row: &Vec<String>| {
            let values = self.heading.iter().zip(row).map(|(column, value)| {
                format!(
                    "{}  {value}",
                    style.strong(&format!("{:<width$}", column.name))
                )
            });
            values.collect::<Vec<_>>()
        };
        let records: Vec<_> = self.rows.iter().map(record).collect();
        records.join(&String::new())
    }

    fn columns(&self, widths: &[usize], style: Style) -> Vec<String> {
        let heading: Vec<_> = self
            .heading
            .iter()
            .map(|column| column.name.to_owned())
            .collect();
        let rows = self.rows.iter().map(|row| self.line(row, widths));
        std::iter::once(style.strong(&self.line(&heading, widths)))
            .chain(rows)
            .collect()
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.heading.iter().enumerate();
        columns
            .map(|(index, column)| self.width(index, column.name))
            .collect()
    }

    fn width(&self, index: usize, name: &str) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(index));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(name.len())
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let padded = cells
            .iter()
            .zip(widths)
            .zip(&self.heading)
            .map(|((cell, &width), column)| {
                if column.right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Table {
        let mut table = Table::new(&["NODE", "ADDRESS", ">CALLS", "NOTE"]);
        for (id, calls) in [("a", "7"), ("b", "1234567")] {
            let node = format!("greeter-{id}");
            table.row([node, "127.0.0.1:9097".into(), calls.into(), String::new()]);
        }
        table
    }

    #[test]
    fn a_terminal_that_is_too_narrow_gets_a_line_for_each_value() {
        assert_eq!(
            nodes().lines(Style::columns(40)),
            nodes().lines(Style::PLAIN)
        );
        insta::assert_snapshot!(nodes().lines(Style::columns(39)).join("\n"), @r"
        NODE     greeter-a
        ADDRESS  127.0.0.1:9097
        CALLS    7
        NOTE     -

        NODE     greeter-b
        ADDRESS  127.0.0.1:9097
        CALLS    1234567
        NOTE     -
        ");
    }

    #[test]
    fn an_empty_column_is_dropped_on_request() {
        let mut table = nodes();
        table.drop_if_empty("CALLS");
        table.drop_if_empty("NOTE");
        assert_eq!(
            table.lines(Style::PLAIN)[1],
            "greeter-a  127.0.0.1:9097        7"
        );
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_numbers_stand_right() {
        let mut table = Table::new(&["NAME", ">CALLS", "NOTE"]);
        table.row(["greeter-a".into(), "7".into(), String::new()]);
        table.row(["é\u{1b}[m".into(), "1234567".into(), "x".into()]);
        insta::assert_snapshot!(table.lines(Style::PLAIN).join("\n"), @r"
        NAME         CALLS  NOTE
        greeter-a        7  -
        é\u{1b}[m  1234567  x
        ");
    }
}
