//! A channel to one service: its configuration and its balancers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use serde::Serialize;
use waypost_core::balance::NodeView;
use waypost_core::record::ServiceName;
use waypost_core::registry::{SkippedRecords, in_millis};

use crate::call::Call;
use crate::call::response::ResponseBody;
use crate::client::Client;
use crate::config::ChannelConfig;
use crate::error::{CallError, ServiceReport};
use crate::protocol::{BoxError, Protocol};
use crate::service::{ServiceHandle, now};

/// Error of a wait in which no node became ready in time.
#[derive(Debug, thiserror::Error)]
#[error("{service}: no node was ready within {:?} ({report})", in_millis(*after), service = report.service)]
#[non_exhaustive]
pub struct NotReady {
    /// Time waited.
    pub after: Duration,
    /// State of the service at the time of the error.
    pub report: Box<ServiceReport>,
}

/// Snapshot of a channel's view of its service, as plain data.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChannelSnapshot {
    /// The service's name.
    pub service: String,
    /// True once the registry has responded; before that, an empty node list means nothing.
    pub synced: bool,
    /// Time for which the registry could not be watched, in milliseconds; zero while it is watched.
    pub staleness_ms: u64,
    /// Outage of the registry, while it lasts.
    pub outage: Option<String>,
    /// All nodes, picked or not, ordered by id.
    pub nodes: Vec<NodeView>,
    /// Records of the service that the registry handle has read and skipped. Their nodes are not in
    /// `nodes`.
    pub skipped: SkippedRecords,
}

/// Balanced channel to one service. Clones share everything.
#[derive(Clone, Debug)]
pub struct ServiceChannel {
    service: ServiceHandle,
}

impl Client {
    /// Creates a channel to one service.
    pub fn channel(
        &self,
        service: ServiceName,
        config: ChannelConfig,
        protocol: Arc<dyn Protocol>,
    ) -> ServiceChannel {
        ServiceChannel {
            service: ServiceHandle::new(self.clone(), service, config, protocol),
        }
    }
}

impl ServiceChannel {
    /// Returns the name of the channel's service.
    pub fn service(&self) -> &ServiceName {
        self.service.name()
    }

    /// Returns the same channel, restricted to the nodes that pass the configured filters of this
    /// name; none if no filters have this name. A call waits while no node passes them, and never
    /// falls back to the whole service.
    pub fn filtered(&self, name: &str) -> Option<Self> {
        Some(Self {
            service: self.service.filtered(name)?,
        })
    }

    /// Makes a call: picks a node, sends the request, classifies the response, and retries if the
    /// policy allows. The request's URI needs only a path.
    ///
    /// # Errors
    /// [`CallError`] if no node responded. A response that reports a failure of the call is a
    /// response.
    ///
    /// # Cancel safety
    /// If dropped, the call ends: nothing stays in flight.
    pub fn call<B>(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, CallError>> + Send + use<B>
    where
        B: Body + Unpin + Send + 'static,
        B::Data: Buf + Send,
        B::Error: Into<BoxError>,
    {
        let mut call = Call::new(self.service.clone(), request);
        async move { call.run().await }
    }

    /// Waits until a node is ready, as a readiness gate at start-up.
    ///
    /// # Errors
    /// [`NotReady`] with the state of the service, once the timeout has passed.
    ///
    /// # Cancel safety
    /// Nothing is lost if it is dropped.
    pub async fn ready(&self, timeout: Duration) -> Result<(), NotReady> {
        let start = now();
        let not_ready = || NotReady {
            after: start.elapsed(),
            report: Box::new(self.service.report()),
        };
        tokio::time::timeout(timeout, self.until_ready())
            .await
            .ok()
            .flatten()
            .ok_or_else(not_ready)
    }

    /// Waits until a node is ready; returns none if the client is closed.
    async fn until_ready(&self) -> Option<()> {
        loop {
            let members = self.service.members().ok()?;
            let balancer = &self.service.joined(&members).balancer;
            let mut changes = balancer.changes();
            while !members.pool.queue.is_closed() {
                changes.borrow_and_update();
                if balancer.ready_count() > 0 {
                    return Some(());
                }
                // A pool publishes an empty set last when it ends. Checked again periodically, in
                // case it could not.
                let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
            }
        }
    }

    /// Returns a snapshot of the channel's view of its service. Inside a runtime, this starts the
    /// watch, as a call does.
    pub fn snapshot(&self) -> ChannelSnapshot {
        let members = self.service.members().ok();
        let snapshot = members
            .as_ref()
            .map(|members| members.pool.snapshot())
            .unwrap_or_default();
        let now = now();
        let nodes = members.map(|members| {
            members
                .pool
                .nodes(self.service.joined(&members), &snapshot, now)
        });
        ChannelSnapshot {
            service: self.service.name().to_string(),
            synced: snapshot.synced,
            staleness_ms: u64::try_from(snapshot.staleness(now).as_millis()).unwrap_or(u64::MAX),
            outage: snapshot.outage.map(|outage| outage.why.to_string()),
            nodes: nodes.unwrap_or_default(),
            skipped: self.service.skipped(),
        }
    }
}
