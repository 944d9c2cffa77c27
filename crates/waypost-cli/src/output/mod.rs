//! Output on stdout and stderr.

mod json;
mod progress;
mod style;
mod table;

use std::io::{self, Write};

use clap::{Args, ValueEnum};

pub(crate) use json::{Document, SCHEMA, compact, pretty};
pub(crate) use progress::awaited;
pub(crate) use style::{Size, Style};
pub(crate) use table::Table;

/// Format in which data is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// Names only, one a line
    Name,
}

/// Flags of every command that shows data.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Show {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Show {
    pub(crate) fn format(self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// Writes one line of data to stdout.
pub(crate) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes a note to stderr. An error is ignored, since without stderr there is no reader.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
