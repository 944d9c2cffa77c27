//! The sender: what one channel does with a call, from its deadline to its last attempt.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use serde::Serialize;
use tokio::time::Instant;
use waypost_core::attempt::Policy;
use waypost_core::balance::{self, Balancer, Filters, NodeView};
use waypost_core::record::{Method, ServiceName};

use crate::call::Call;
use crate::client::Client;
use crate::error::{CallError, FailureKind, Report};
use crate::link::Link;
use crate::peers::Hub;
use crate::protocol::Protocol;
use crate::response::ResponseBody;

/// How one channel makes its calls.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// Who may be picked, and how.
    pub balance: balance::Config,
    /// Subsets prepared by name: the channel's filters and these.
    pub subsets: HashMap<String, Filters>,
    /// What may be sent twice, and how often.
    pub policy: Arc<Policy>,
    /// What is known of methods beside what the registry says, by full path.
    pub methods: HashMap<String, Method>,
    /// How long a call waits for a ready peer, within its deadline. Default 3 s.
    pub ready_wait: Duration,
    /// The deadline of calls that set none, of methods known to be unary. Default 30 s.
    pub unary_deadline: Duration,
    /// How much of a request's body is kept to be sent again. Default 64 KiB; a body in one piece is kept whole.
    pub replay_limit: usize,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            balance: balance::Config::default(),
            subsets: HashMap::new(),
            policy: Arc::default(),
            methods: HashMap::new(),
            ready_wait: Duration::from_secs(3),
            unary_deadline: Duration::from_secs(30),
            replay_limit: 64 * 1024,
        }
    }
}

/// No peer was ready in time.
#[derive(Debug, thiserror::Error)]
#[error("{service}: no node was ready within {after:?} ({report})", service = report.service)]
#[non_exhaustive]
pub struct NotReady {
    /// How long was waited.
    pub after: Duration,
    /// What was known of the service.
    pub report: Box<Report>,
}

/// What a channel knows of its service, as plain data.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChannelView {
    /// The service's name.
    pub service: String,
    /// Whether the registry has answered at all.
    pub loaded: bool,
    /// How old the picture is, in milliseconds; zero while the registry is watched.
    pub age_ms: u64,
    /// The registry's trouble, while it lasts.
    pub trouble: Option<String>,
    /// Every node, picked or not.
    pub nodes: Vec<NodeView>,
}

/// Makes the calls of one channel. Clones share everything.
#[derive(Clone, Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    balancer: Arc<Balancer<Link>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    client: Client,
    service: ServiceName,
    pub(crate) config: ChannelConfig,
    pub(crate) protocol: Arc<dyn Protocol>,
    hub: OnceLock<Arc<Hub>>,
    whole: Arc<Balancer<Link>>,
    subsets: HashMap<String, Arc<Balancer<Link>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Whoever owns the peers sees whether anybody still needs them.
        if let Some(hub) = self.hub.get() {
            hub.room.wake.notify_one();
        }
    }
}

impl Sender {
    pub(crate) fn new(client: Client, service: ServiceName, config: ChannelConfig, protocol: Arc<dyn Protocol>) -> Self {
        let whole = Arc::new(Balancer::new(config.balance.clone()));
        let subset = |(name, filters): (&String, &Filters)| {
            let mut balance = config.balance.clone();
            balance.filters.extend(filters);
            (name.clone(), Arc::new(Balancer::new(balance)))
        };
        let subsets = config.subsets.iter().map(subset).collect();
        let balancer = Arc::clone(&whole);
        Self { shared: Arc::new(Shared { client, service, config, protocol, hub: OnceLock::new(), whole, subsets }), balancer }
    }

    /// The service it calls.
    pub fn service(&self) -> &ServiceName {
        &self.shared.service
    }

    /// The same channel, confined to a subset that was prepared by this name; none if there is none of this name. A subset without
    /// nodes waits, and never falls back to the whole.
    pub fn subset(&self, name: &str) -> Option<Self> {
        let balancer = Arc::clone(self.shared.subsets.get(name)?);
        Some(Self { shared: Arc::clone(&self.shared), balancer })
    }

    /// Makes a call: picks, sends, judges, maybe again. The request's URI needs only its path.
    ///
    /// # Errors
    /// [`CallError`] if nobody answered; an answer that says the call failed is a response.
    ///
    /// # Cancel safety
    /// Dropped, it ends the call: nothing stays in flight.
    pub fn call<B>(&self, request: Request<B>) -> impl Future<Output = Result<Response<ResponseBody>, CallError>> + Send + use<B>
    where
        B: Body + Unpin + Send + 'static,
        B::Data: Buf + Send,
    {
        let mut call = Call::new(self.clone(), request);
        async move { call.run().await }
    }

    /// Waits until a peer is ready: the gate at start-up.
    ///
    /// # Errors
    /// [`NotReady`] with what is known, once the time is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn ready(&self, timeout: Duration) -> Result<(), NotReady> {
        let start = now();
        let not_ready = || NotReady { after: start.elapsed(), report: Box::new(self.report()) };
        self.hub().ok_or_else(not_ready)?;
        let mut changes = self.balancer.changes();
        let ready = async {
            while self.balancer.ready_count() == 0 {
                changes.borrow_and_update();
                if self.balancer.ready_count() > 0 || changes.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(timeout, ready).await.map_err(|_| not_ready())
    }

    /// What it knows of its service now. Asking starts the watch, as a call does.
    pub fn view(&self) -> ChannelView {
        let snapshot = self.hub().map(|hub| hub.subscription.snapshot()).unwrap_or_default();
        let now = now();
        ChannelView {
            service: self.shared.service.to_string(),
            loaded: snapshot.synced,
            age_ms: u64::try_from(snapshot.staleness(now).as_millis()).unwrap_or(u64::MAX),
            trouble: snapshot.outage.map(|outage| outage.why.to_string()),
            nodes: self.balancer.view(now),
        }
    }

    /// The service's hub; the first use starts its watch. None once the client is closed.
    pub(crate) fn hub(&self) -> Option<&Arc<Hub>> {
        if let Some(hub) = self.shared.hub.get() {
            return Some(hub);
        }
        let balancers = std::iter::once(&self.shared.whole).chain(self.shared.subsets.values());
        let hub = self.shared.client.hub(&self.shared.service, balancers).ok()?;
        Some(self.shared.hub.get_or_init(|| hub))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn balancer(&self) -> &Balancer<Link> {
        &self.balancer
    }

    pub(crate) fn waiting_limit(&self) -> usize {
        self.shared.client.config().waiting_calls
    }

    pub(crate) fn report(&self) -> Report {
        let snapshot = self.shared.hub.get().map(|hub| hub.subscription.snapshot()).unwrap_or_default();
        let mut report = Report {
            service: self.shared.service.to_string(),
            loaded: snapshot.synced,
            age: snapshot.staleness(now()),
            trouble: snapshot.outage.map(|outage| outage.why.to_string()),
            ..Report::default()
        };
        let mut last = None;
        for (peer, decision) in self.balancer.decisions() {
            report.count(decision);
            let status = peer.status();
            if let Some(failure) = status.last_failure
                && last.as_ref().is_none_or(|(since, _)| *since < status.since)
            {
                last = Some((status.since, failure));
            }
        }
        report.last_failure = last.map(|(_, failure)| failure.to_string());
        report
    }

    pub(crate) fn fail(&self, kind: FailureKind, start: Instant) -> CallError {
        CallError {
            kind,
            after: start.elapsed(),
            report: Box::new(self.report()),
            trail: waypost_core::attempt::Trail::default(),
        }
    }
}

pub(crate) fn now() -> Instant {
    Instant::now()
}
