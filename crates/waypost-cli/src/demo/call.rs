//! One call of the demo, and how it went.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};
use waypost::{CallError, Channel, ServedBy};
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;

/// The method it calls.
pub(super) const METHOD: &str = "/greeter.Greeter/Hello";

/// A call that is over.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// When it was to start: all is measured from here, so that a client that is late does not hide it.
    pub(super) due: Instant,
    /// When it was over.
    pub(super) ended: Instant,
    /// Who answered; of a call that failed, who was tried last.
    pub(super) node: Option<String>,
    /// More than one: it was moved.
    pub(super) attempts: u32,
    /// Why it failed, if it did.
    pub(super) fault: Option<(Code, String)>,
}

impl Call {
    /// Makes the call that is due.
    pub(super) async fn make(channel: Channel, due: Instant) -> Self {
        let request = HelloRequest { name: "world".to_owned() };
        let result = GreeterClient::new(channel).hello(request).await;
        let ended = Instant::now();
        match result {
            Ok(response) => {
                let picked = response.extensions().get::<ServedBy>();
                let (node, attempts) = picked.map_or((None, 1), |picked| (Some(picked.node.id.clone()), picked.attempts));
                Self { due, ended, node, attempts, fault: None }
            }
            Err(status) => Self::failed(due, ended, &status),
        }
    }

    fn failed(due: Instant, ended: Instant, status: &Status) -> Self {
        let source = std::error::Error::source(status);
        let history = source.and_then(|source| source.downcast_ref::<CallError>()).map(|error| &error.history);
        let node = history.and_then(|history| history.last()).map(|attempt| attempt.node.clone());
        let attempts = history.map_or(0, |history| u32::try_from(history.len()).unwrap_or(u32::MAX));
        Self { due, ended, node, attempts, fault: Some((status.code(), status.message().to_owned())) }
    }

    pub(super) fn latency(&self) -> Duration {
        self.ended.saturating_duration_since(self.due)
    }

    pub(super) fn is_answered(&self) -> bool {
        self.fault.is_none()
    }

    /// Whether it was answered by a later attempt.
    pub(super) fn is_moved(&self) -> bool {
        self.is_answered() && self.attempts > 1
    }
}
