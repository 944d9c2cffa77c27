//! Failures of commands: an exit code, what happened, and what to do next.

use std::process::ExitCode;
use std::{fmt, io};

use waypost::registry;

use crate::output::{self, Style};

/// Exit codes for the help of a command: the meaning of 0, and of 1 if the command has it.
macro_rules! exit_codes {
    ($yes:literal $(, $no:literal)?) => {
        concat!(
            "Exit codes: 0 ",
            $yes,
            $(", 1 ", $no,)?
            ", 2 wrong usage, 3 the registry cannot be reached or refuses, 130 interrupted"
        )
    };
}
pub(crate) use exit_codes;

/// Failure of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CliError {
    kind: ErrorKind,
    what: String,
    next: Option<String>,
}

/// Kind of a failure, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorKind {
    /// The reader of stdout is gone, which counts as success.
    Unread,
    No,
    Usage,
    Registry,
    Interrupted,
}

impl CliError {
    /// Creates the failure of a negative result: not found, not in time, calls failed.
    pub(crate) fn no(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::No, what)
    }

    /// Creates the failure of wrong usage.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, what)
    }

    /// Creates the failure of a registry that cannot be reached, or refuses.
    pub(crate) fn registry(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Registry, what)
    }

    /// Creates the failure of an interrupted command.
    pub(crate) fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    /// Adds what to do next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Marks the failure as one after which the command continues; `how` says in which way.
    pub(crate) fn continuing(mut self, how: &str) -> Self {
        self.what = format!("{}; {how}", self.what);
        self
    }

    fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            next: None,
        }
    }

    fn code(&self) -> u8 {
        match self.kind {
            ErrorKind::Unread => 0,
            ErrorKind::No => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Registry => 3,
            ErrorKind::Interrupted => 130,
        }
    }

    /// Prints the failure on stderr, unless the user caused it, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !matches!(self.kind, ErrorKind::Unread | ErrorKind::Interrupted) {
            output::note(&format!("{} {self}", Style::of_stderr().bad("error:")));
        }
        ExitCode::from(self.code())
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.next {
            Some(next) => write!(f, "\n  {next}"),
            None => Ok(()),
        }
    }
}

/// Classifies errors of the registry, and only here: what the user can do decides the code.
impl From<registry::Error> for CliError {
    fn from(error: registry::Error) -> Self {
        use registry::Error;
        let kind = match error {
            Error::NotFound { .. } | Error::IdTaken { .. } => ErrorKind::No,
            Error::Invalid { .. } | Error::Unsupported { .. } => ErrorKind::Usage,
            _ => ErrorKind::Registry,
        };
        Self::new(kind, crate::escape::text(&error.chain()))
    }
}

/// Classifies errors of stdout, or of the operating system.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        let kind = if error.kind() == io::ErrorKind::BrokenPipe {
            ErrorKind::Unread
        } else {
            ErrorKind::No
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_follows_the_kind_of_error() {
        let not_found = registry::Error::NotFound {
            service: "a".into(),
        };
        let down = registry::Error::unavailable("local", "read", io::Error::other("gone"));
        let table = [
            (
                CliError::from(io::Error::from(io::ErrorKind::BrokenPipe)),
                0,
            ),
            (CliError::from(not_found), 1),
            (CliError::from(registry::Error::invalid("a", "b")), 2),
            (CliError::from(down), 3),
            (CliError::interrupted(), 130),
        ];
        for (failure, code) in table {
            assert_eq!(failure.code(), code, "{failure}");
        }
    }

    #[test]
    fn what_to_do_comes_on_a_line_of_its_own_and_nothing_reaches_the_terminal_raw() {
        let taken = registry::Error::IdTaken {
            id: "a".into(),
            holder: "\u{1b}[2Jb".into(),
        };
        assert_eq!(
            CliError::from(taken).to_string(),
            "id \"a\" is held by another instance, \\u{1b}[2Jb"
        );
        assert_eq!(
            CliError::no("it is not").next("do it").to_string(),
            "it is not\n  do it"
        );
    }
}
