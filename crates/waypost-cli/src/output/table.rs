//! Table for people.

use crate::escape;

use super::Style;

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
                "-".to_owned()
            } else {
                escape::text(&cell)
            }
        };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// Returns the lines, the heading first.
    pub(crate) fn lines(&self, style: Style) -> Vec<String> {
        let widths: Vec<_> = self
            .heading
            .iter()
            .enumerate()
            .map(|(index, column)| self.width(index, column.name))
            .collect();
        let heading: Vec<_> = self
            .heading
            .iter()
            .map(|column| column.name.to_owned())
            .collect();
        let rows = self.rows.iter().map(|row| self.line(row, &widths));
        std::iter::once(style.strong(&self.line(&heading, &widths)))
            .chain(rows)
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
