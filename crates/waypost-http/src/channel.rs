//! One channel to one service: its configuration, its balancers, and what it knows of the nodes.

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

/// No node was ready in time.
#[derive(Debug, thiserror::Error)]
#[error("{service}: no node was ready within {after:?} ({report})", service = report.service)]
#[non_exhaustive]
pub struct NotReady {
    /// Time that was waited.
    pub after: Duration,
    /// What was known of the service.
    pub report: Box<Report>,
}

/// What a channel knows of its service, as plain data.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChannelSnapshot {
    /// The service's name.
    pub service: String,
    /// True once the registry has answered; before that, no node says nothing.
    pub loaded: bool,
    /// Time for which the registry could not be watched, in milliseconds; zero while it is.
    pub age_ms: u64,
    /// The outage of the registry, while it lasts.
    pub trouble: Option<String>,
    /// Every node, picked or not, by id.
    pub nodes: Vec<NodeView>,
}

/// Makes the calls of one channel. Clones share everything.
#[derive(Clone, Debug)]
pub struct ServiceChannel {
    shared: Arc<Shared>,
    subset: Option<Arc<str>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    client: Client,
    service: ServiceName,
    pub(crate) config: ChannelConfig,
    pub(crate) protocol: Arc<dyn Protocol>,
    members: ArcSwapOption<Membership>,
}

/// A channel's place in the pool of its service.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) pool: Arc<ServicePool>,
    whole: Joined,
    subsets: HashMap<Arc<str>, Joined>,
}

impl Membership {
    pub(crate) fn joined(&self, subset: Option<&Arc<str>>) -> &Joined {
        subset.and_then(|name| self.subsets.get(name)).unwrap_or(&self.whole)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let members = self.members.swap(None);
        let pool = members.as_ref().map(|members| Arc::clone(&members.pool));
        drop(members);
        // The pool's task sees whether any channel still uses it.
        if let Some(pool) = pool {
            pool.left();
        }
    }
}

impl ServiceChannel {
    pub(crate) fn new(client: Client, service: ServiceName, config: ChannelConfig, protocol: Arc<dyn Protocol>) -> Self {
        let shared = Shared { client, service, config, protocol, members: ArcSwapOption::empty() };
        Self { shared: Arc::new(shared), subset: None }
    }

    /// The service that is called.
    pub fn service(&self) -> &ServiceName {
        &self.shared.service
    }

    /// The same channel, confined to a subset that was prepared by this name; none if there is none of this name. A subset without nodes
    /// waits, and never falls back to the whole.
    pub fn subset(&self, name: &str) -> Option<Self> {
        self.shared.config.subsets.contains_key(name).then(|| Self { subset: Some(name.into()), ..self.clone() })
    }

    /// Makes a call: picks a node, sends, classifies the response, and tries again where that is allowed. The request's URI needs only its
    /// path.
    ///
    /// # Errors
    /// [`CallError`] if no node answered; a response that says the call failed is a response.
    ///
    /// # Cancel safety
    /// Dropped, it ends the call: nothing stays in flight.
    pub fn call<B>(&self, request: Request<B>) -> impl Future<Output = Result<Response<ResponseBody>, CallError>> + Send + use<B>
    where
        B: Body + Unpin + Send + 'static,
        B::Data: Buf + Send,
        B::Error: Into<BoxError>,
    {
        let mut call = Call::new(self.clone(), request);
        async move { call.run().await }
    }

    /// Waits until a node is ready: the gate at start-up.
    ///
    /// # Errors
    /// [`NotReady`] with what is known, once the time is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn ready(&self, timeout: Duration) -> Result<(), NotReady> {
        let start = now();
        let not_ready = || NotReady { after: start.elapsed(), report: Box::new(self.report()) };
        tokio::time::timeout(timeout, self.until_ready()).await.ok().flatten().ok_or_else(not_ready)
    }

    /// Resolves once a node is ready; none if the client is closed.
    async fn until_ready(&self) -> Option<()> {
        loop {
            let members = self.members().ok()?;
            let balancer = &members.joined(self.subset.as_ref()).balancer;
            let mut changes = balancer.changes();
            while !members.pool.room.is_closed() {
                changes.borrow_and_update();
                if balancer.ready_count() > 0 {
                    return Some(());
                }
                // A pool that is gone publishes an empty set last; look again now and then in case it could not.
                let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
            }
        }
    }

    /// What the channel knows of its service now. Inside a runtime, asking starts the watch, as a call does.
    pub fn snapshot(&self) -> ChannelSnapshot {
        let members = self.members().ok();
        let snapshot = members.as_ref().map(|members| members.pool.snapshot()).unwrap_or_default();
        let now = now();
        let nodes = members.map(|members| members.pool.nodes(members.joined(self.subset.as_ref()), &snapshot, now));
        ChannelSnapshot {
            service: self.shared.service.to_string(),
            loaded: snapshot.synced,
            age_ms: u64::try_from(snapshot.staleness(now).as_millis()).unwrap_or(u64::MAX),
            trouble: snapshot.outage.map(|outage| outage.why.to_string()),
            nodes: nodes.unwrap_or_default(),
        }
    }

    /// The channel's place in the pool of its service; the first use starts the pool's task, on the runtime that this is called in, and so
    /// does the first after the task or its runtime has ended.
    ///
    /// # Errors
    /// [`Error::Closed`] once the client is closed; [`Error::Invalid`] outside a runtime, if a task must be started.
    pub(crate) fn members(&self) -> Result<Arc<Membership>, Error> {
        if let Some(members) = self.shared.members.load_full()
            && !members.pool.room.is_closed()
        {
            return Ok(members);
        }
        self.join()
    }

    #[cold]
    fn join(&self) -> Result<Arc<Membership>, Error> {
        let pool = self.shared.client.pool(&self.shared.service)?;
        let config = &self.shared.config;
        let subset = |(name, filters): (&String, &balance::Filters)| {
            let mut balance = config.balance.clone();
            balance.filters.extend(filters);
            (Arc::from(name.as_str()), pool.join(&balance))
        };
        let subsets = config.subsets.iter().map(subset).collect();
        let members = Arc::new(Membership { whole: pool.join(&config.balance), subsets, pool });
        self.shared.members.store(Some(Arc::clone(&members)));
        Ok(members)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn subset_name(&self) -> Option<&Arc<str>> {
        self.subset.as_ref()
    }

    /// What is known of the service, for errors. Costs the same for any number of nodes.
    pub(crate) fn report(&self) -> Report {
        let members = self.shared.members.load_full();
        let snapshot = members.as_ref().map(|members| members.pool.snapshot()).unwrap_or_default();
        let counts = members.as_ref().map(|members| members.joined(self.subset.as_ref()).counts()).unwrap_or_default();
        Report {
            service: self.shared.service.to_string(),
            loaded: snapshot.synced,
            age: snapshot.staleness(now()),
            trouble: snapshot.outage.map(|outage| outage.why.to_string()),
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
