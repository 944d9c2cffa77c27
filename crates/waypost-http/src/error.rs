//! How a call fails, and what its error says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use waypost_core::peer::Exclusion;

use crate::call::RequestError;
use crate::retry::AttemptHistory;

/// Why a call failed, by what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No peer was ready in time. Look at the counts: is the service registered, can its nodes be reached?
    NoPeer,
    /// Too many calls wait already for a node of this service.
    QueueFull,
    /// The calls that wait already for a node of this service keep too many bytes.
    QueueBytes,
    /// The last attempt ended without an answer, and the call may not be sent again.
    NoAnswer,
    /// The node reset the call with this HTTP/2 error code (RFC 9113, 7).
    Reset(u32),
    /// The caller's time ran out.
    Deadline,
    /// The caller's own request cannot be sent; the error's source says why. No node is at fault.
    Request,
    /// The client is closed.
    Closed,
    /// The call was made outside of a Tokio runtime, and a task had to be started.
    NoRuntime,
}

/// What was known of the service when the call failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The service's name.
    pub service: String,
    /// Whether the registry has answered at all.
    pub loaded: bool,
    /// How old the picture is; zero while the registry is watched.
    pub age: Duration,
    /// The registry's trouble, while it lasts.
    pub trouble: Option<String>,
    /// How many nodes are known.
    pub known: usize,
    /// How many of them are ready.
    pub ready: usize,
    /// How many are not, by reason.
    pub excluded: BTreeMap<Exclusion, usize>,
    /// The last thing that went wrong with a connection to one of them.
    pub last_failure: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.loaded, self.known) {
            (false, _) => write!(f, "the registry has not answered yet")?,
            (true, 0) => write!(f, "the registry knows no node of it")?,
            (true, known) => {
                write!(f, "{known} known, {} ready", self.ready)?;
                for (exclusion, count) in &self.excluded {
                    write!(f, ", {count} {exclusion}")?;
                }
            }
        }
        if let Some(trouble) = &self.trouble {
            write!(f, "; registry trouble for {:.1} s: {trouble}", self.age.as_secs_f64())?;
        }
        if let Some(failure) = &self.last_failure {
            write!(f, "; last connection failure: {failure}")?;
        }
        Ok(())
    }
}

/// A call that got no response: why, what was known, and what was tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct CallError {
    /// Why, by what the caller can do.
    pub kind: FailureKind,
    /// Time that the call took, or waited, until it failed.
    pub after: Duration,
    /// What was known of the service.
    pub report: Box<Report>,
    /// The attempts that gave no response.
    pub history: AttemptHistory,
    /// Why the last attempt was the last, if one was made.
    pub stopped: Option<String>,
    /// The mistake in the caller's request, for [`FailureKind::Request`].
    #[source]
    pub source: Option<RequestError>,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, after, report, history, stopped, .. } = self;
        let service = &report.service;
        let ms = after.as_millis();
        match kind {
            FailureKind::NoPeer => write!(f, "{service}: no node was ready within {ms} ms ({report})")?,
            FailureKind::QueueFull => write!(f, "{service}: too many calls wait for a node already ({report})")?,
            FailureKind::QueueBytes => write!(f, "{service}: calls that wait for a node keep too many bytes already ({report})")?,
            FailureKind::NoAnswer | FailureKind::Reset(_) => write!(f, "{service}: no answer ({report})")?,
            FailureKind::Deadline => write!(f, "{service}: deadline exceeded after {ms} ms ({report})")?,
            FailureKind::Request => write!(f, "{service}: the request cannot be sent")?,
            FailureKind::Closed => write!(f, "{service}: the client is closed")?,
            FailureKind::NoRuntime => write!(f, "{service}: no Tokio runtime on this thread; call from within one")?,
        }
        if !history.is_empty() {
            write!(f, "; tried: {history}")?;
        }
        if let Some(stopped) = stopped {
            write!(f, "; not tried again: {stopped}")?;
        }
        Ok(())
    }
}

/// A response's body that broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection was lost, or the stream was reset.
    #[error("the response broke off")]
    Broken(#[source] h2::Error),
    /// The request failed by itself while the response arrived; the stream was reset for it.
    #[error("the request failed while the response arrived")]
    Request(#[source] RequestError),
    /// The caller's time ran out.
    #[error("deadline exceeded while the response arrived")]
    Deadline,
}
