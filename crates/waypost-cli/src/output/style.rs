//! Colour on terminals that want it.

use std::io::{self, IsTerminal};

/// Style of text on one of the two outputs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    terminal: bool,
    colour: bool,
    /// Columns and rows of the terminal, if they are known.
    size: Option<Size>,
}

/// Size of a terminal in characters; neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

impl Style {
    /// Style without colour and redraws.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self {
        terminal: false,
        colour: false,
        size: None,
    };

    /// Style of a terminal with this many columns, without colour.
    #[cfg(test)]
    pub(crate) fn columns(columns: usize) -> Self {
        let size = Some(Size { columns, rows: 24 });
        Self {
            size,
            ..Self::PLAIN
        }
    }

    pub(crate) fn of_stdout() -> Self {
        Self::of(io::stdout().is_terminal(), || size(io::stdout()))
    }

    pub(crate) fn of_stderr() -> Self {
        Self::of(io::stderr().is_terminal(), || size(io::stderr()))
    }

    /// Returns the style by the terminal, `NO_COLOR` (set and not empty) and `TERM=dumb`.
    fn of(terminal: bool, size: impl Fn() -> Option<Size>) -> Self {
        let size = if terminal { size() } else { None };
        let is = |name, is_set: fn(&str) -> bool| {
            std::env::var_os(name).is_some_and(|value| value.to_str().is_none_or(is_set))
        };
        let terminal = terminal && !is("TERM", |term| term == "dumb");
        Self {
            terminal,
            colour: terminal && !is("NO_COLOR", |value| !value.is_empty()),
            size,
        }
    }

    /// Returns the size of the terminal; none if the output is not one, or has no known size.
    pub(crate) fn size(self) -> Option<Size> {
        self.size
    }

    /// Returns the same style without a size: for lines that are wrapped afterwards.
    pub(crate) fn unbounded(self) -> Self {
        Self { size: None, ..self }
    }

    /// Returns true if a line of this many characters fits on one line of the terminal.
    pub(crate) fn fits(self, characters: usize) -> bool {
        self.size.is_none_or(|size| characters <= size.columns)
    }

    /// Returns true if lines can be redrawn in place.
    pub(crate) fn redraws(self) -> bool {
        self.terminal
    }

    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(unix)]
fn size(output: impl std::os::fd::AsFd) -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(output).ok()?;
    let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && rows > 0).then_some(Size { columns, rows })
}

#[cfg(not(unix))]
fn size<T>(_: T) -> Option<Size> {
    None
}
