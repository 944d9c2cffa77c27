//! Colour on terminals that want it.

use std::io::{self, IsTerminal};

/// Style of text on one of the two outputs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    terminal: bool,
    colour: bool,
}

impl Style {
    /// Style without colour and redraws.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self {
        terminal: false,
        colour: false,
    };

    pub(crate) fn of_stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    pub(crate) fn of_stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    /// Returns the style by the terminal, `NO_COLOR` (set and not empty) and `TERM=dumb`.
    fn of(terminal: bool) -> Self {
        let is = |name, is_set: fn(&str) -> bool| {
            std::env::var_os(name).is_some_and(|value| value.to_str().is_none_or(is_set))
        };
        let terminal = terminal && !is("TERM", |term| term == "dumb");
        Self {
            terminal,
            colour: terminal && !is("NO_COLOR", |value| !value.is_empty()),
        }
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
