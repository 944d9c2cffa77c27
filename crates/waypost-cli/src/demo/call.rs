//! One call of the demo, and its outcome.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};
use waypost::{CallError, Channel, ServedBy};
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;

/// Full path of the called method.
pub(super) const METHOD: &str = "/greeter.Greeter/Hello";

/// Finished call.
#[derive(Clone, Debug)]
pub(super) struct DemoCall {
    /// Time at which the call was due. Latency is measured from it, so that a late client does not
    /// hide its delay.
    pub(super) due: Instant,
    /// Time at which the call ended.
    pub(super) ended: Instant,
    /// Node that answered; of a failed call, the node that was tried last.
    pub(super) node: Option<String>,
    /// Number of attempts. An answered call with more than one was moved.
    pub(super) attempts: u32,
    /// Code and message of a failed call.
    pub(super) fault: Option<(Code, String)>,
}

impl DemoCall {
    /// Makes the call that is due.
    pub(super) async fn make(channel: Channel, due: Instant) -> Self {
        let request = HelloRequest {
            name: "world".to_owned(),
        };
        let result = GreeterClient::new(channel).hello(request).await;
        let ended = Instant::now();
        match result {
            Ok(response) => {
                let picked = response.extensions().get::<ServedBy>();
                let (node, attempts) = picked.map_or((None, 1), |picked| {
                    (Some(picked.node.id.clone()), picked.attempts)
                });
                Self {
                    due,
                    ended,
                    node,
                    attempts,
                    fault: None,
                }
            }
            Err(status) => Self::failed(due, ended, &status),
        }
    }

    fn failed(due: Instant, ended: Instant, status: &Status) -> Self {
        let source = std::error::Error::source(status);
        let history = source
            .and_then(|source| source.downcast_ref::<CallError>())
            .map(|error| &error.history);
        let node = history
            .and_then(|history| history.last())
            .map(|attempt| attempt.node.clone());
        let attempts = history.map_or(0, |history| {
            u32::try_from(history.len()).unwrap_or(u32::MAX)
        });
        Self {
            due,
            ended,
            node,
            attempts,
            fault: Some((status.code(), status.message().to_owned())),
        }
    }

    pub(super) fn latency(&self) -> Duration {
        self.ended.saturating_duration_since(self.due)
    }

    pub(super) fn is_answered(&self) -> bool {
        self.fault.is_none()
    }

    /// Returns true if a later attempt was answered.
    pub(super) fn is_moved(&self) -> bool {
        self.is_answered() && self.attempts > 1
    }
}
