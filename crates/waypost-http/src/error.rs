//! Errors of calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use waypost_core::peer::Exclusion;
use waypost_core::registry::SkippedRecords;

use crate::request_error::{BoxError, RequestError};
use crate::retry::AttemptHistory;

/// Reason why a call failed, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No node was ready in time. Check the counts: is the service registered, can its nodes be
    /// reached? If the call's own deadline passed first, the kind is
    /// [`Deadline`](Self::Deadline).
    NoReadyNode,
    /// Too many calls already wait for a node of this service.
    QueueFull,
    /// The calls that already wait for a node of this service buffer too many bytes.
    QueueBytes,
    /// The last attempt ended without a response, and the call may not be sent again.
    NoAnswer,
    /// The node reset the call with this HTTP/2 error code (RFC 9113, 7).
    Reset(u32),
    /// The caller's deadline passed.
    Deadline,
    /// The caller's request cannot be sent; the error's source is the reason. No node is at fault.
    Request,
    /// The client is closed.
    Closed,
    /// The call was made outside of a Tokio runtime and needed to spawn a task.
    NoRuntime,
}

/// State of the service at the time when the call failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceReport {
    /// The service's name.
    pub service: String,
    /// True if the registry has responded at least once.
    pub synced: bool,
    /// Staleness of the snapshot; zero while the registry is watched.
    pub staleness: Duration,
    /// Error of the registry, while its outage lasts.
    pub outage: Option<String>,
    /// Number of known nodes.
    pub known: usize,
    /// Number of nodes that are ready.
    pub ready: usize,
    /// Number of nodes that are not ready, by reason.
    pub excluded: BTreeMap<Exclusion, usize>,
    /// Protocols of the nodes that are excluded by theirs, while no node is ready.
    pub protocols: Option<ProtocolMismatch>,
    /// Records of the service that the registry handle has read and skipped. Their nodes are not
    /// known.
    pub skipped: SkippedRecords,
    /// Last failure of a connection to one of the nodes.
    pub last_failure: Option<String>,
}

/// Protocols of a service's nodes that a channel cannot call.
///
/// Formats as `grpc wanted, mucp found`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProtocolMismatch {
    /// Protocol of the channel, such as `grpc`.
    pub wanted: String,
    /// Other protocols in the nodes' metadata, each once; empty for a node that names none. At most
    /// 4, of the first 100 nodes by id.
    pub found: Vec<String>,
}

impl ProtocolMismatch {
    /// Maximum number of nodes that are compared, since an error must not cost more for a larger
    /// service, and of different protocols.
    const COMPARED: usize = 100;
    const NAMED: usize = 4;

    /// Compares the protocols of nodes, none for a node that names none, with the wanted one.
    pub(crate) fn of<'a>(
        wanted: &str,
        protocols: impl Iterator<Item = Option<&'a str>>,
    ) -> Option<Self> {
        let others = protocols
            .take(Self::COMPARED)
            .filter(|protocol| *protocol != Some(wanted));
        let found: BTreeSet<_> = others.map(Option::unwrap_or_default).collect();
        (!found.is_empty()).then(|| Self {
            wanted: wanted.to_owned(),
            found: found
                .into_iter()
                .take(Self::NAMED)
                .map(str::to_owned)
                .collect(),
        })
    }
}

impl fmt::Display for ProtocolMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wanted", self.wanted)?;
        for (index, protocol) in self.found.iter().enumerate() {
            f.write_str(if index == 0 { ", " } else { " and " })?;
            match protocol.as_str() {
                "" => f.write_str("none")?,
                protocol => write!(f, "{}", protocol.escape_debug())?,
            }
        }
        f.write_str(" found")
    }
}

impl fmt::Display for ServiceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.synced, self.known) {
            (false, _) => write!(f, "the registry has not answered yet")?,
            (true, 0) => write!(f, "the registry knows no node of it")?,
            (true, known) => {
                write!(f, "{known} known, {} ready", self.ready)?;
                for (exclusion, count) in &self.excluded {
                    write!(f, ", {count} {exclusion}")?;
                    if let (Exclusion::Protocol, Some(protocols)) = (exclusion, &self.protocols) {
                        write!(f, " ({protocols})")?;
                    }
                }
                self.write_tls_remedy(f)?;
            }
        }
        if !self.skipped.is_empty() {
            write!(f, "; {}", self.skipped)?;
        }
        if let Some(outage) = &self.outage {
            write!(
                f,
                "; registry unavailable for {:.1} s: {outage}",
                self.staleness.as_secs_f64()
            )?;
        }
        if let Some(failure) = &self.last_failure {
            write!(f, "; last connection failure: {failure}")?;
        }
        Ok(())
    }
}

impl ServiceReport {
    /// Writes what to do about nodes that only TLS keeps from being used.
    fn write_tls_remedy(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ready > 0 || self.excluded.len() != 1 {
            return Ok(());
        }
        f.write_str(match self.excluded.keys().next() {
            Some(Exclusion::TlsRequired) => {
                "; give the client TLS: ClientBuilder::tls (--client-tls-ca, WAYPOST_CLIENT_TLS_CA)"
            }
            Some(Exclusion::Plaintext) => {
                "; their records do not state that they speak TLS; if they do, set TlsConfig::assume_tls (--client-tls-assume, WAYPOST_CLIENT_TLS_ASSUME)"
            }
            _ => "",
        })
    }
}

/// Error of a call that got no response: the reason, the state of the service, and the failed
/// attempts.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/plain.rs"));
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_http::{ChannelConfig, FailureKind};
///
/// # let client = client_of("127.0.0.1:1".parse()?);
/// let mut config = ChannelConfig::default();
/// config.wait_for_ready = Some(Duration::from_millis(200));
/// let users = client.channel("users".parse()?, config, Arc::new(PlainHttp));
///
/// // The only node refuses connections.
/// let error = users.call(Request::get("/users").body(Empty::<Bytes>::new())?).await.unwrap_err();
/// assert_eq!(error.kind, FailureKind::NoReadyNode);
/// assert_eq!((error.report.known, error.report.ready), (1, 0));
/// assert!(error.history.is_empty());
/// # Ok(()) }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct CallError {
    /// Reason of the failure, by what the caller can do about it.
    pub kind: FailureKind,
    /// Time from the start of the call to its failure.
    pub after: Duration,
    /// State of the service at the time of the failure.
    pub report: Box<ServiceReport>,
    /// Attempts that gave no response.
    pub history: AttemptHistory,
    /// Reason why the last attempt was not followed by another; none if no attempt was made.
    pub stopped: Option<String>,
    /// Error of the last attempt: a [`RequestError`] for [`FailureKind::Request`], and a
    /// [`StreamError`] if a stream ended without a response.
    #[source]
    pub source: Option<BoxError>,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            after,
            report,
            history,
            stopped,
            ..
        } = self;
        let service = &report.service;
        let ms = after.as_millis();
        match kind {
            FailureKind::NoReadyNode => {
                write!(f, "{service}: no node was ready within {ms} ms ({report})")?;
            }
            FailureKind::QueueFull => write!(
                f,
                "{service}: too many calls wait for a node already ({report})"
            )?,
            FailureKind::QueueBytes => write!(
                f,
                "{service}: calls that wait for a node keep too many bytes already ({report})"
            )?,
            FailureKind::NoAnswer | FailureKind::Reset(_) => {
                write!(f, "{service}: no answer ({report})")?;
            }
            FailureKind::Deadline => {
                write!(f, "{service}: deadline exceeded after {ms} ms ({report})")?;
            }
            FailureKind::Request => write!(f, "{service}: the request cannot be sent")?,
            FailureKind::Closed => write!(f, "{service}: the client is closed")?,
            FailureKind::NoRuntime => write!(
                f,
                "{service}: no Tokio runtime on this thread; call from within one"
            )?,
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

/// Error of an HTTP/2 stream: the peer reset it, or its connection was lost.
#[derive(Debug)]
pub struct StreamError(h2::Error);

impl StreamError {
    pub(crate) fn new(error: h2::Error) -> Self {
        Self(error)
    }

    pub(crate) fn h2(&self) -> &h2::Error {
        &self.0
    }

    /// Returns the HTTP/2 error code with which the peer reset the stream (RFC 9113, 7); none if the
    /// stream ended for another reason.
    pub fn reset_code(&self) -> Option<u32> {
        let is_reset = self.0.is_reset() && self.0.is_remote();
        self.0.reason().filter(|_| is_reset).map(Into::into)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for StreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Error of a response's body that ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection was lost, or the stream was reset.
    #[error("the response broke off")]
    Broken(#[source] StreamError),
    /// The request body failed while the response arrived; the stream was therefore reset.
    #[error("the request failed while the response arrived")]
    Request(#[source] RequestError),
    /// The caller's deadline passed.
    #[error("deadline exceeded while the response arrived")]
    Deadline,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_each_protocol_once() {
        let text = |protocols: &[Option<&str>]| {
            let mismatch = ProtocolMismatch::of("grpc", protocols.iter().copied());
            mismatch.map(|mismatch| mismatch.to_string())
        };
        assert_eq!(text(&[Some("grpc")]), None);
        assert_eq!(
            text(&[Some("mucp"), Some("grpc"), Some("mucp")]).as_deref(),
            Some("grpc wanted, mucp found")
        );
        assert_eq!(
            text(&[None, Some("\u{1b}[2J")]).as_deref(),
            Some("grpc wanted, none and \\u{1b}[2J found")
        );
    }
}
