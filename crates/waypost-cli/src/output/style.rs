//! Colour, where there is a terminal that wants it.

use std::io::{self, IsTerminal};

/// How text stands out on one of the two outputs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    terminal: bool,
    colour: bool,
}

impl Style {
    /// What does no more than print.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { terminal: false, colour: false };

    pub(crate) fn of_stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    pub(crate) fn of_stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    /// By the terminal, `NO_COLOR` (set and not empty) and `TERM=dumb`.
    fn of(terminal: bool) -> Self {
        let is = |name, said: fn(&str) -> bool| std::env::var_os(name).is_some_and(|value| value.to_str().is_none_or(said));
        let terminal = terminal && !is("TERM", |term| term == "dumb");
        Self { terminal, colour: terminal && !is("NO_COLOR", |value| !value.is_empty()) }
    }

    /// Whether lines can be drawn over.
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
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
