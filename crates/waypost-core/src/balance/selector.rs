//! go-micro's word for those who call in their own way: a thin face on the balancer, in which every node counts as ready.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Balancer, Candidate, Config, PickContext, Pickable};
use crate::directory::{Directory, Following};
use crate::peer::{Outcome, Peer, PeerId};
use crate::record::{Entry, NameError, Node, ServiceName};
use crate::registry::{AnyRegistry, Error, Registry};

/// How long a first `select` waits for the registry's first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// The name is none that can be registered.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The registry knows no node of the service that passes the filters. Wait for one, or look with `waypost list`.
    #[error("no node of {service:?} passes the filters; the registry knows {known}")]
    NoNode {
        /// The service.
        service: String,
        /// How many nodes there are in all.
        known: usize,
    },
    /// The registry could not be asked.
    #[error("the nodes of {service:?} are not known")]
    Registry {
        /// The service.
        service: String,
        /// Why.
        #[source]
        source: Error,
    },
}

/// Selects nodes for callers that connect on their own.
#[derive(Debug)]
pub struct Selector {
    source: Source,
    config: Config,
    services: Mutex<HashMap<ServiceName, Selected>>,
}

#[derive(Debug)]
enum Source {
    Cached(Directory),
    Uncached(AnyRegistry),
}

/// A node that counts as ready because it is listed.
#[derive(Debug)]
struct Listed(Arc<Peer>);

impl Pickable for Listed {
    fn peer(&self) -> &Arc<Peer> {
        &self.0
    }
}

#[derive(Debug)]
struct Selected {
    following: Option<Following>,
    generation: Option<u64>,
    peers: HashMap<PeerId, Arc<Listed>>,
    balancer: Arc<Balancer<Listed>>,
}

impl Selector {
    /// Reads the directory, so that a `select` of a known service does no I/O: the one to use.
    pub fn cached(directory: Directory, config: Config) -> Self {
        Self { source: Source::Cached(directory), config, services: Mutex::default() }
    }

    /// Asks the registry on each `select`, as go-micro's plain one does: for tools and tests.
    pub fn uncached(registry: AnyRegistry, config: Config) -> Self {
        Self { source: Source::Uncached(registry), config, services: Mutex::default() }
    }

    /// The nodes of a service, to be taken one by one.
    ///
    /// # Errors
    /// [`SelectError::NoNode`] if there is none that passes, [`SelectError::Registry`] if the registry could not be asked.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn select(&self, service: &str) -> Result<Next, SelectError> {
        let name: ServiceName = service.parse()?;
        let entries = match &self.source {
            Source::Cached(directory) => self.cached_entries(directory, &name).await?,
            Source::Uncached(registry) => Some((uncached_entries(registry, service).await?, None)),
        };
        let mut services = self.lock();
        let selected = services.entry(name).or_insert_with(|| Selected::new(&self.config));
        if let Some((entries, generation)) = entries {
            selected.update(&entries, generation);
        }
        let balancer = Arc::clone(&selected.balancer);
        if balancer.ready_count() == 0 {
            return Err(SelectError::NoNode { service: service.to_owned(), known: selected.peers.len() });
        }
        Ok(Next { balancer, tried: HashSet::new() })
    }

    /// The entries, if they are others than at the last select.
    async fn cached_entries(
        &self,
        directory: &Directory,
        name: &ServiceName,
    ) -> Result<Option<(Vec<Entry>, Option<u64>)>, SelectError> {
        let failed = |source| SelectError::Registry { service: name.to_string(), source };
        let mut following = self.following(directory, name).map_err(failed)?;
        let _ = tokio::time::timeout(FIRST_ANSWER, following.loaded()).await;
        let snapshot = following.snapshot();
        if !snapshot.loaded {
            return Err(failed(Error::Timeout { registry: directory.registry().name(), after: FIRST_ANSWER }));
        }
        let known = self.lock().get(name).and_then(|selected| selected.generation);
        if known == Some(snapshot.generation) {
            return Ok(None);
        }
        let suspects = snapshot.suspects.iter().map(|suspect| suspect.entry.clone());
        Ok(Some((snapshot.confirmed.iter().cloned().chain(suspects).collect(), Some(snapshot.generation))))
    }

    fn following(&self, directory: &Directory, name: &ServiceName) -> Result<Following, Error> {
        let mut services = self.lock();
        let selected = services.entry(name.clone()).or_insert_with(|| Selected::new(&self.config));
        match &selected.following {
            Some(following) => Ok(following.clone()),
            None => Ok(selected.following.insert(directory.follow(name)?).clone()),
        }
    }

    /// Feeds back how a call to a selected node ended: it is no longer in flight.
    pub fn mark(&self, service: &str, node: &Node, outcome: Outcome) {
        self.each_peer(service, |peer| {
            if peer.id().id == node.id {
                peer.meters().end(outcome);
            }
        });
    }

    /// Forgets the calls in flight of a service's nodes: for callers that do not mark.
    pub fn reset(&self, service: &str) {
        self.each_peer(service, |peer| peer.meters().reset());
    }

    fn each_peer(&self, service: &str, act: impl Fn(&Peer)) {
        let Ok(name) = service.parse::<ServiceName>() else { return };
        if let Some(selected) = self.lock().get(&name) {
            selected.peers.values().for_each(|peer| act(&peer.0));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceName, Selected>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn uncached_entries(registry: &AnyRegistry, service: &str) -> Result<Vec<Entry>, SelectError> {
    match registry.get_service(service).await {
        Ok(services) => {
            Ok(services.iter().flat_map(crate::record::Service::entries).filter(|entry| !entry.node.is_leaving()).collect())
        }
        Err(Error::NotFound { .. }) => Ok(Vec::new()),
        Err(source) => Err(SelectError::Registry { service: service.to_owned(), source }),
    }
}

impl Selected {
    fn new(config: &Config) -> Self {
        let balancer = Arc::new(Balancer::new(config.clone()));
        Self { following: None, generation: None, peers: HashMap::new(), balancer }
    }

    fn update(&mut self, entries: &[Entry], generation: Option<u64>) {
        let now = Instant::now();
        let mut old = std::mem::take(&mut self.peers);
        let verdicts = self.balancer.admit(entries.iter());
        let mut candidates = Vec::with_capacity(entries.len());
        for (entry, verdict) in entries.iter().zip(verdicts) {
            let peer =
                old.remove(&PeerId::of(entry)).unwrap_or_else(|| Arc::new(Listed(Arc::new(Peer::new(entry.clone(), now)))));
            peer.0.describe(entry);
            self.peers.insert(peer.0.id().clone(), Arc::clone(&peer));
            candidates.push(Candidate { item: peer, hindrance: verdict.err() });
        }
        self.balancer.publish(candidates);
        self.generation = generation;
    }
}

/// The nodes of one service, one by one.
#[derive(Debug)]
pub struct Next {
    balancer: Arc<Balancer<Listed>>,
    tried: HashSet<PeerId>,
}

impl Next {
    /// The next node, by the selector's strategy: each once before any comes again. It counts as in flight until it is
    /// [marked](Selector::mark). None if all nodes are gone.
    #[expect(clippy::should_implement_trait, reason = "go-micro's name; it never ends, so it is no iterator")]
    pub fn next(&mut self) -> Option<Arc<Node>> {
        let context = PickContext::default();
        let pick = self.balancer.pick(&context, |peer| !self.tried.contains(peer.0.id())).or_else(|| {
            self.tried.clear();
            self.balancer.pick(&context, |_| true)
        })?;
        let peer = Arc::clone(pick.item().peer());
        pick.leave_in_flight();
        self.tried.insert(peer.id().clone());
        Some(peer.node())
    }
}
