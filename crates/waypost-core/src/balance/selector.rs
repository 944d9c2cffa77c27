//! Selector in the sense of go-micro, for callers that connect on their own: a thin layer over the
//! balancer, in which every node counts as ready.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Balancer, Config, Pick, PickContext, Pickable, subset};
use crate::directory::{Directory, Member, Snapshot, Subscription};
use crate::peer::{AttemptEnd, Finished, LoadTable, Peer, PeerId};
use crate::record::{Entry, NameError, Node, Service, ServiceName};
use crate::registry::{AnyRegistry, Error, NodeChange, NodeSet, SkippedRecords};

/// Maximum time that a first `select` waits for the first response of the registry.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Time after which a filter that panicked on a node is evaluated again, at the next `select`.
const RECHECK_AFTER: Duration = Duration::from_secs(1);

/// Error of a selection without a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// Error for an invalid service name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Error for a service without a node that passes the filters. Wait for one, or list the nodes
    /// with `waypost list`.
    #[error(
        "no node of {service:?} passes the filters; the registry knows {known}{}",
        and(skipped)
    )]
    NoNode {
        /// Name of the service.
        service: String,
        /// Number of all nodes of the service.
        known: usize,
        /// Records of the service that the registry has skipped. Their nodes are not known.
        skipped: SkippedRecords,
    },
    /// Error for a registry that could not be queried.
    #[error("the nodes of {service:?} are not known")]
    Registry {
        /// Name of the service.
        service: String,
        /// Cause.
        #[source]
        source: Error,
    },
}

fn and(skipped: &SkippedRecords) -> String {
    match skipped.is_empty() {
        true => String::new(),
        false => format!("; {skipped}"),
    }
}

/// Selector of nodes of a service, for callers with a transport of their own.
///
/// Every registered node counts as ready, suspects included: no connection is checked.
/// `Config::default()` filters no protocol; add [`Filter::Protocol`](super::Filter::Protocol). Take
/// [`cached`](Self::cached), except in tools and tests.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use waypost_core::balance::{Config, Selector};
/// use waypost_core::peer::AttemptEnd;
/// use waypost_core::static_list::StaticRegistry;
///
/// let nodes = ["127.0.0.1:9001".parse()?, "127.0.0.1:9002".parse()?];
/// let selector = Selector::uncached(StaticRegistry::new(nodes, "http"), Config::default());
/// let selected = selector.select("greeter").await?.next().ok_or("no node")?;
/// let url = format!("http://{}/hello", selected.node().address);
/// // … call it, and report the end. A selected node that is dropped counts as cancelled.
/// selected.finish(AttemptEnd::Answered);
/// # assert!(url.starts_with("http://127.0.0.1:900"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Selector {
    source: Source,
    config: Config,
    services: Mutex<HashMap<ServiceName, Selected>>,
    seed: u64,
}

#[derive(Debug)]
enum Source {
    Cached(Directory),
    Uncached(AnyRegistry),
}

/// Listed node, which counts as ready.
#[derive(Debug)]
struct Listed(Arc<Peer>);

impl Pickable for Listed {
    fn peer(&self) -> &Arc<Peer> {
        &self.0
    }
}

#[derive(Debug)]
struct Selected {
    subscription: Option<Subscription>,
    listing: Listing,
    /// Nodes by id.
    peers: BTreeMap<String, KnownNode>,
    loads: LoadTable,
    balancer: Arc<Balancer<Listed>>,
    seed: u64,
    /// Time of the next evaluation of the filters for nodes on which one panicked.
    recheck_at: Option<Instant>,
}

/// Listed node with the result of its filters.
#[derive(Debug)]
struct KnownNode {
    listed: Arc<Listed>,
    /// Result of the filters; none if one panicked.
    passes: Option<bool>,
}

/// Nodes of a service as its source lists them.
#[derive(Debug)]
enum Listing {
    Cached(Snapshot),
    Uncached(NodeSet),
}

impl Selector {
    /// Creates a selector that reads the directory, so that a `select` of a known service does no
    /// I/O. The recommended selector.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use waypost_core::balance::{Config, Selector};
    /// use waypost_core::directory::{self, Directory};
    /// # use waypost_core::static_list::StaticRegistry;
    /// # let registry = StaticRegistry::new(["10.0.0.7:9001".parse()?, "10.0.0.8:9001".parse()?], "http");
    ///
    /// let directory = Directory::new(registry, directory::Config::default());
    /// let selector = Selector::cached(directory.clone(), Config::default());
    /// let selected = selector.select("greeter").await?.next().ok_or("no node")?;
    /// assert!(selected.node().address.starts_with("10.0.0."));
    /// directory.close().await;
    /// # Ok(()) }
    /// ```
    pub fn cached(directory: Directory, config: Config) -> Self {
        Self {
            source: Source::Cached(directory),
            config,
            services: Mutex::default(),
            seed: fastrand::u64(..),
        }
    }

    /// Creates a selector that queries the registry on each `select`, as go-micro's selector
    /// without a cache does. Intended for tools and tests.
    pub fn uncached(registry: impl Into<AnyRegistry>, config: Config) -> Self {
        Self {
            source: Source::Uncached(registry.into()),
            config,
            services: Mutex::default(),
            seed: fastrand::u64(..),
        }
    }

    /// Returns the nodes of a service, to be taken one by one.
    ///
    /// # Errors
    /// [`SelectError::NoNode`] if no node passes the filters, [`SelectError::Registry`] if the
    /// registry could not be queried, [`SelectError::Name`] if the name is invalid.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn select(&self, service: &str) -> Result<NodeIter, SelectError> {
        let name: ServiceName = service.parse()?;
        let listing = match &self.source {
            Source::Cached(directory) => {
                Listing::Cached(self.current_snapshot(directory, &name).await?)
            }
            Source::Uncached(registry) => Listing::Uncached(uncached(registry, service).await?),
        };
        let mut services = self.lock();
        let selected = services
            .entry(name)
            .or_insert_with(|| Selected::new(&self.config, self.seed));
        selected.update(listing);
        let balancer = Arc::clone(&selected.balancer);
        if balancer.ready_count() == 0 {
            return Err(SelectError::NoNode {
                service: service.to_owned(),
                known: selected.peers.len(),
                skipped: self.registry().skipped(Some(service)),
            });
        }
        Ok(NodeIter {
            balancer,
            tried: HashSet::new(),
        })
    }

    async fn current_snapshot(
        &self,
        directory: &Directory,
        name: &ServiceName,
    ) -> Result<Snapshot, SelectError> {
        let failed = |source| SelectError::Registry {
            service: name.to_string(),
            source,
        };
        let mut subscription = self.subscription(directory, name).map_err(failed)?;
        let _ = tokio::time::timeout(FIRST_ANSWER, subscription.synced()).await;
        let snapshot = subscription.snapshot();
        if !snapshot.synced {
            return Err(failed(Error::Timeout {
                registry: directory.registry().name(),
                after: FIRST_ANSWER,
            }));
        }
        Ok(snapshot)
    }

    /// Returns the subscription to a service. Subscribes again if its task or runtime has ended.
    fn subscription(
        &self,
        directory: &Directory,
        name: &ServiceName,
    ) -> Result<Subscription, Error> {
        let mut services = self.lock();
        let selected = services
            .entry(name.clone())
            .or_insert_with(|| Selected::new(&self.config, self.seed));
        match selected
            .subscription
            .as_ref()
            .filter(|subscription| !subscription.is_closed())
        {
            Some(subscription) => Ok(subscription.clone()),
            None => Ok(selected
                .subscription
                .insert(directory.subscribe(name)?)
                .clone()),
        }
    }

    fn registry(&self) -> &AnyRegistry {
        match &self.source {
            Source::Cached(directory) => directory.registry(),
            Source::Uncached(registry) => registry,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceName, Selected>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn uncached(registry: &AnyRegistry, service: &str) -> Result<NodeSet, SelectError> {
    match registry.get_service(service).await {
        Ok(services) => {
            let entries = services.iter().flat_map(Service::entries);
            Ok(entries.filter(|entry| !entry.node.is_leaving()).collect())
        }
        Err(Error::NotFound { .. }) => Ok(NodeSet::default()),
        Err(source) => Err(SelectError::Registry {
            service: service.to_owned(),
            source,
        }),
    }
}

impl Selected {
    fn new(config: &Config, seed: u64) -> Self {
        let loads = LoadTable::default();
        let balancer = Arc::new(Balancer::new(config.clone(), loads.clone()));
        let listing = Listing::Cached(Snapshot::default());
        Self {
            subscription: None,
            listing,
            peers: BTreeMap::new(),
            loads,
            balancer,
            seed,
            recheck_at: None,
        }
    }

    /// Updates the nodes to those of the listing. A listing without a difference costs nothing.
    fn update(&mut self, listing: Listing) {
        let now = Instant::now();
        let mut changes = listing.changes_since(&self.listing);
        self.listing = listing;
        if self.recheck_at.is_some_and(|at| at <= now) {
            self.recheck_at = None;
            let unknown = self
                .peers
                .iter()
                .filter(|(_, known)| known.passes.is_none());
            changes.extend(unknown.map(|(id, _)| (id.clone(), self.listing.get(id))));
        }
        if changes.is_empty() {
            return;
        }
        changes
            .into_iter()
            .for_each(|(id, entry)| self.apply(now, id, entry));
        self.publish(now);
    }

    /// Updates, adds or removes one node. Its peer is kept as long as the address is the same.
    fn apply(&mut self, now: Instant, id: String, entry: Option<Entry>) {
        let Some(entry) = entry else {
            self.peers.remove(&id);
            return;
        };
        let known = self
            .peers
            .get(&id)
            .filter(|known| *known.listed.0.id() == PeerId::of(&entry));
        let listed = match known {
            Some(known) => Arc::clone(&known.listed),
            None => Arc::new(Listed(Arc::new(Peer::new(entry.clone(), &self.loads, now)))),
        };
        listed.0.describe(&entry);
        let passes = self
            .balancer
            .config()
            .filters
            .try_check(&entry)
            .map(|checked| checked.is_ok());
        if let Err(panicked) = &passes {
            tracing::warn!(node = %entry.node.id, %panicked, "filter panicked; node excluded until the next evaluation");
            self.recheck_at = now.checked_add(RECHECK_AFTER);
        }
        self.peers.insert(
            id,
            KnownNode {
                listed,
                passes: passes.ok(),
            },
        );
    }

    /// Publishes the nodes that pass the filters, up to this client's subset.
    fn publish(&self, now: Instant) {
        let config = self.balancer.config();
        let passing = self
            .peers
            .values()
            .filter(|known| known.passes == Some(true));
        let mut ready: Vec<_> = passing
            .map(|known| (Arc::clone(&known.listed), now))
            .collect();
        if ready.len() > config.max_peers {
            ready.sort_by_cached_key(|(listed, _)| subset::rank(self.seed, &listed.0.id().id));
            ready.truncate(config.max_peers);
        }
        if let Err(panicked) = self.balancer.publish(now, ready) {
            tracing::warn!(strategy = config.strategy.name(), %panicked, "strategy panicked; nodes are picked at random");
        }
    }
}

impl Listing {
    fn get(&self, id: &str) -> Option<Entry> {
        match self {
            Self::Cached(snapshot) => snapshot.get(id).map(|member| member.entry().clone()),
            Self::Uncached(nodes) => nodes.iter().find(|entry| entry.node.id == id).cloned(),
        }
    }

    /// Returns the nodes that differ, with their current entries.
    fn changes_since(&self, old: &Self) -> Vec<(String, Option<Entry>)> {
        match (self, old) {
            (Self::Cached(new), Self::Cached(old)) => new
                .changes_since(old)
                .map(|change| {
                    (
                        change.id().to_owned(),
                        change.now.as_ref().map(Member::entry).cloned(),
                    )
                })
                .collect(),
            (Self::Uncached(new), Self::Uncached(old)) => changes(old, new),
            (Self::Uncached(new), Self::Cached(_)) => changes(&NodeSet::default(), new),
            // A selector has only one source.
            (Self::Cached(_), Self::Uncached(_)) => Vec::new(),
        }
    }
}

fn changes(old: &NodeSet, new: &NodeSet) -> Vec<(String, Option<Entry>)> {
    let now = |change: NodeChange<'_>| match change {
        NodeChange::Added(now) | NodeChange::Updated { now, .. } => {
            (now.node.id.clone(), Some(now.clone()))
        }
        NodeChange::Removed(before) => (before.node.id.clone(), None),
    };
    old.diff(new).map(now).collect()
}

/// Nodes of one service, returned one at a time.
///
/// Each attempt of a call takes the next node:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use waypost_core::balance::{Config, Selector};
/// use waypost_core::peer::AttemptEnd;
/// # use waypost_core::static_list::StaticRegistry;
/// # let registry = StaticRegistry::new(["10.0.0.7:9001".parse()?, "10.0.0.8:9001".parse()?], "http");
/// # let selector = Selector::uncached(registry, Config::default());
/// # let mut called = Vec::new();
/// # let mut call = async |address: &str| {
/// #     called.push(address.to_owned());
/// #     if called.len() == 1 { Err("refused") } else { Ok(()) }
/// # };
///
/// let mut nodes = selector.select("greeter").await?;
/// for _ in 0..3 {
///     let selected = nodes.next().ok_or("no node")?;
///     if call(&selected.node().address).await.is_ok() {
///         selected.finish(AttemptEnd::Answered);
///         break;
///     }
///     selected.finish(AttemptEnd::Lost);
/// }
/// # assert!(called.len() == 2 && called[0] != called[1]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct NodeIter {
    balancer: Arc<Balancer<Listed>>,
    tried: HashSet<PeerId>,
}

impl NodeIter {
    /// Returns the next node by the selector's strategy. Each node is returned once before any is
    /// repeated. Returns none if all nodes have been removed.
    #[expect(
        clippy::should_implement_trait,
        reason = "go-micro's name; it never ends, so it is not an iterator"
    )]
    pub fn next(&mut self) -> Option<SelectedNode> {
        let context = PickContext::new("", Instant::now());
        let pick = self
            .balancer
            .pick(&context, |peer| !self.tried.contains(peer.0.id()))
            .or_else(|| {
                self.tried.clear();
                self.balancer.pick(&context, |_| true)
            })?;
        let peer = pick.item().peer();
        self.tried.insert(peer.id().clone());
        Some(SelectedNode {
            node: peer.node(),
            pick,
            since: context.now,
            end: AttemptEnd::Cancelled,
        })
    }
}

/// Selected node, which counts as in flight until this is [finished](Self::finish) or dropped.
#[derive(Debug)]
#[must_use = "the call to the node ends when this is dropped"]
pub struct SelectedNode {
    node: Arc<Node>,
    pick: Pick<Listed>,
    since: Instant,
    end: AttemptEnd,
}

impl SelectedNode {
    /// Returns the node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Reports the end of the call to the node. Strategies and the node's stats learn of it. If this
    /// is dropped instead, the call counts as [`AttemptEnd::Cancelled`].
    pub fn finish(mut self, end: AttemptEnd) {
        self.end = end;
    }
}

impl Drop for SelectedNode {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut finished = Finished::new(self.since, now, self.end);
        // A caller that connects on its own reports the end only.
        finished.head_at = (self.end == AttemptEnd::Answered).then_some(now);
        self.pick.finish(&finished);
    }
}
