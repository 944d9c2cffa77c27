//! A channel to one service: its configuration and its balancers.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use serde::Serialize;
use tokio::time::Instant;
use waypost_core::balance::{self, NodeView};
use waypost_core::record::ServiceName;
use waypost_core::registry::Error;

use crate::call::Call;
use crate::call::response::ResponseBody;
use crate::client::Client;
use crate::config::ChannelConfig;
use crate::error::{CallError, Report};
use crate::pool::{Joined, ServicePool};
use crate::protocol::{BoxError, Protocol};

/// Error of a wait in which no node became ready in time.
#[derive(Debug, thiserror::Error)]
#[error("{service}: no node was ready within {after:?} ({report})", service = report.service)]
#[non_exhaustive]
pub struct NotReady {
    /// Time waited.
    pub after: Duration,
    /// State of the service at the time of the error.
    pub report: Box<Report>,
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
}

/// Balanced channel to one service. Clones share everything.
#[derive(Clone, Debug)]
pub struct ServiceChannel {
    shared: Arc<Shared>,
    filtered: Option<Arc<str>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    client: Client,
    service: ServiceName,
    pub(crate) config: ChannelConfig,
    pub(crate) protocol: Arc<dyn Protocol>,
    members: ArcSwapOption<Membership>,
}

/// Membership of a channel in the pool of its service.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) pool: Arc<ServicePool>,
    whole: Joined,
    filtered: HashMap<Arc<str>, Joined>,
}

impl Membership {
    pub(crate) fn joined(&self, filtered: Option<&Arc<str>>) -> &Joined {
        filtered.and_then(|name| self.filtered.get(name)).unwrap_or(&self.whole)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let members = self.members.swap(None);
        let pool = members.as_ref().map(|members| Arc::clone(&members.pool));
        drop(members);
        // The pool's task then checks if any channel still uses it.
        if let Some(pool) = pool {
            pool.left();
        }
    }
}

impl ServiceChannel {
    pub(crate) fn new(client: Client, service: ServiceName, config: ChannelConfig, protocol: Arc<dyn Protocol>) -> Self {
        let shared = Shared { client, service, config, protocol, members: ArcSwapOption::empty() };
        Self { shared: Arc::new(shared), filtered: None }
    }

    /// Returns the name of the channel's service.
    pub fn service(&self) -> &ServiceName {
        &self.shared.service
    }

    /// Returns the same channel, restricted to the configured filtered of this name; none if there is
    /// no such filtered. A call to a filtered without nodes waits, and never falls back to the whole
    /// service.
    pub fn filtered(&self, name: &str) -> Option<Self> {
        self.shared.config.filtered.contains_key(name).then(|| Self { filtered: Some(name.into()), ..self.clone() })
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
    pub fn call<B>(&self, request: Request<B>) -> impl Future<Output = Result<Response<ResponseBody>, CallError>> + Send + use<B>
    where
        B: Body + Unpin + Send + 'static,
        B::Data: Buf + Send,
        B::Error: Into<BoxError>,
    {
        let mut call = Call::new(self.clone(), request);
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
        let not_ready = || NotReady { after: start.elapsed(), report: Box::new(self.report()) };
        tokio::time::timeout(timeout, self.until_ready()).await.ok().flatten().ok_or_else(not_ready)
    }

    /// Waits until a node is ready; returns none if the client is closed.
    async fn until_ready(&self) -> Option<()> {
        loop {
            let members = self.members().ok()?;
            let balancer = &members.joined(self.filtered.as_ref()).balancer;
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
        let members = self.members().ok();
        let snapshot = members.as_ref().map(|members| members.pool.snapshot()).unwrap_or_default();
        let now = now();
        let nodes = members.map(|members| members.pool.nodes(members.joined(self.filtered.as_ref()), &snapshot, now));
        ChannelSnapshot {
            service: self.shared.service.to_string(),
            synced: snapshot.synced,
            staleness_ms: u64::try_from(snapshot.staleness(now).as_millis()).unwrap_or(u64::MAX),
            outage: snapshot.outage.map(|outage| outage.why.to_string()),
            nodes: nodes.unwrap_or_default(),
        }
    }

    /// Returns the channel's membership in the pool of its service. The first use starts the pool's
    /// task on the current runtime, and so does the first use after the task or its runtime has
    /// ended.
    ///
    /// # Errors
    /// [`Error::Closed`] once the client is closed; [`Error::Invalid`] outside a runtime, if a task
    /// must be started.
    pub(crate) fn members(&self) -> Result<Arc<Membership>, Error> {
        if let Some(members) = self.shared.members.load_full()
            && !members.pool.queue.is_closed()
        {
            return Ok(members);
        }
        self.join()
    }

    #[cold]
    fn join(&self) -> Result<Arc<Membership>, Error> {
        let pool = self.shared.client.pool(&self.shared.service)?;
        let config = &self.shared.config;
        let filtered = |(name, filters): (&String, &balance::Filters)| {
            let mut balance = config.balance.clone();
            balance.filters.extend(filters);
            (Arc::from(name.as_str()), pool.join(&balance))
        };
        let filtered = config.filtered.iter().map(filtered).collect();
        let members = Arc::new(Membership { whole: pool.join(&config.balance), filtered, pool });
        self.shared.members.store(Some(Arc::clone(&members)));
        Ok(members)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn filter_name(&self) -> Option<&Arc<str>> {
        self.filtered.as_ref()
    }

    /// Returns the state of the service, for errors. The cost does not depend on the number of
    /// nodes.
    pub(crate) fn report(&self) -> Report {
        let members = self.shared.members.load_full();
        let snapshot = members.as_ref().map(|members| members.pool.snapshot()).unwrap_or_default();
        let counts = members.as_ref().map(|members| members.joined(self.filtered.as_ref()).counts()).unwrap_or_default();
        Report {
            service: self.shared.service.to_string(),
            synced: snapshot.synced,
            staleness: snapshot.staleness(now()),
            outage: snapshot.outage.map(|outage| outage.why.to_string()),
            known: counts.known(),
            ready: counts.ready(),
            excluded: counts.by_reason(),
            last_failure: members.and_then(|members| members.pool.last_failure()).map(|failure| failure.to_string()),
        }
    }
}

pub(crate) fn now() -> Instant {
    Instant::now()
}
