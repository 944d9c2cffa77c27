//! Clock of the cases.

use std::time::Duration;

/// Clock of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Real time.
    Real,
    /// Paused time, which advances whenever nothing else is to be done: for backends without files,
    /// sockets or processes.
    Paused,
}

impl Time {
    /// Returns the maximum time that a case waits for an expected event.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::Real => Duration::from_secs(20),
            Self::Paused => Duration::from_secs(3_600),
        }
    }
}
