//! Snapshot of one service's nodes, and the difference between two snapshots.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::record::Entry;
use crate::registry::sorted_set::{Position, Positioned, SortedSet};
use crate::registry::{NodeChange, NodeSet};

/// Node that was lost without having left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suspect {
    /// Last known entry of the node.
    pub entry: Entry,
    /// Time of the loss.
    pub since: Instant,
}

impl Positioned for Suspect {
    fn position(&self) -> Position<'_> {
        self.entry.position()
    }

    fn is_same(&self, other: &Self) -> bool {
        self.since == other.since && self.entry.is_same(&other.entry)
    }
}

/// Outage of a registry, during which it cannot be watched. The nodes of a [`Snapshot`] do not
/// change; only its staleness grows.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// # use waypost_core::directory::{Config, Directory};
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Key, Node, Service};
/// # use waypost_core::registry::{Instance, RegisterOptions, Registry};
/// # let memory = MemoryRegistry::new();
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
/// # let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
/// # memory.register(&service, &options).await?;
/// # let directory = Directory::new(memory.open(), Config::default());
/// let mut greeter = directory.subscribe(&"greeter".parse()?)?;
/// greeter.synced().await;
///
/// memory.faults().set_unreachable(true);
/// while greeter.snapshot().outage.is_none() {
///     greeter.changed().await;
/// }
/// let snapshot = greeter.snapshot();
/// assert_eq!(snapshot.confirmed().len(), 1);
/// let later = tokio::time::Instant::now() + Duration::from_secs(60);
/// assert!(snapshot.staleness(later) >= Duration::from_secs(60));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// Time of the first error.
    pub since: Instant,
    /// Last error, with its causes.
    pub why: Arc<str>,
}

/// Immutable snapshot of one service's nodes. A clone is O(1).
///
/// A node whose record disappears is kept as a suspect, and clients still use it:
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// # use waypost_core::directory::{Config, Directory};
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Key, Node, Service};
/// # use waypost_core::registry::{Instance, RegisterOptions, Registry};
/// # let memory = MemoryRegistry::new();
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
/// # let options = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
/// # memory.register(&service, &options).await?;
/// # let directory = Directory::new(memory.open(), Config::default());
/// let mut greeter = directory.subscribe(&"greeter".parse()?)?;
/// greeter.synced().await;
///
/// memory.faults().expire(&service.entries()[0].key()); // the server has crashed
/// greeter.changed().await;
/// let snapshot = greeter.snapshot();
/// assert_eq!((snapshot.confirmed().len(), snapshot.suspects().len()), (0, 1));
/// assert!(snapshot.get("greeter-a").is_some_and(|member| member.is_suspect()));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// True after the registry has delivered the nodes. Before that, an empty snapshot does not
    /// mean that there are no nodes.
    pub synced: bool,
    /// Counter that increases when the nodes change or become synced, and at no other time.
    pub generation: u64,
    /// Current outage of the registry; none if there is no outage.
    pub outage: Option<Outage>,
    pub(super) service: Arc<str>,
    pub(super) confirmed: NodeSet,
    pub(super) suspects: SortedSet<Suspect>,
}

/// Node of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// A node that is registered and not leaving.
    Confirmed(Entry),
    /// A node that was lost and is kept for a grace period.
    Suspect(Suspect),
}

/// Difference of one node between two [`Snapshot`]s. At least one side is present.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberChange {
    /// Node in the older snapshot; none if it was added.
    pub before: Option<Member>,
    /// Node in the newer snapshot; none if it was removed.
    pub now: Option<Member>,
}

impl Snapshot {
    /// Iterates over the confirmed nodes, by id.
    pub fn confirmed(&self) -> impl ExactSizeIterator<Item = &Entry> + Clone {
        self.confirmed.iter()
    }

    /// Iterates over the suspects, by id.
    pub fn suspects(&self) -> impl ExactSizeIterator<Item = &Suspect> + Clone {
        self.suspects.iter()
    }

    /// Returns the number of nodes, suspects included.
    pub fn len(&self) -> usize {
        self.confirmed.len() + self.suspects.len()
    }

    /// Returns true if there is no node, neither confirmed nor suspect.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the node with this id.
    pub fn get(&self, id: &str) -> Option<Member> {
        let confirmed = || {
            self.confirmed
                .get_node(&self.service, id)
                .cloned()
                .map(Member::Confirmed)
        };
        let suspect = || {
            self.suspects
                .get((&self.service, id))
                .cloned()
                .map(Member::Suspect)
        };
        confirmed().or_else(suspect)
    }

    /// Returns the time since the start of the current outage; zero if there is no outage.
    pub fn staleness(&self, now: Instant) -> Duration {
        self.outage.as_ref().map_or(Duration::ZERO, |outage| {
            now.saturating_duration_since(outage.since)
        })
    }

    /// Iterates by id over the nodes that differ from those of an older snapshot of the same
    /// service. The cost is proportional to the difference for snapshots of one
    /// [`Directory`](super::Directory).
    pub fn changes_since<'a>(
        &'a self,
        old: &'a Self,
    ) -> impl Iterator<Item = MemberChange> + use<'a> {
        let confirmed = old.confirmed.diff(&self.confirmed).map(MemberChange::from);
        let suspects = old
            .suspects
            .diff(&self.suspects)
            .map(|(before, now)| MemberChange::of_suspect(before, now));
        Merged {
            confirmed: confirmed.peekable(),
            suspects: suspects.peekable(),
        }
    }
}

impl Member {
    /// Returns the node's entry; of a suspect, the last known one.
    pub fn entry(&self) -> &Entry {
        match self {
            Self::Confirmed(entry) => entry,
            Self::Suspect(suspect) => &suspect.entry,
        }
    }

    /// Returns true if the node is a suspect.
    pub fn is_suspect(&self) -> bool {
        matches!(self, Self::Suspect(_))
    }
}

impl MemberChange {
    /// Returns the node's id.
    pub fn id(&self) -> &str {
        self.now
            .as_ref()
            .or(self.before.as_ref())
            .map_or("", |member| &member.entry().node.id)
    }

    fn of_suspect(before: Option<&Suspect>, now: Option<&Suspect>) -> Self {
        Self {
            before: before.cloned().map(Member::Suspect),
            now: now.cloned().map(Member::Suspect),
        }
    }

    /// Merges the changes of one node in the confirmed set and in the suspects. A node is in one of
    /// the two at a time.
    fn merge(self, other: Self) -> Self {
        Self {
            before: self.before.or(other.before),
            now: self.now.or(other.now),
        }
    }
}

impl From<NodeChange<'_>> for MemberChange {
    fn from(change: NodeChange<'_>) -> Self {
        let (before, now) = match change {
            NodeChange::Added(now) => (None, Some(now)),
            NodeChange::Updated { before, now } => (Some(before), Some(now)),
            NodeChange::Removed(before) => (Some(before), None),
        };
        Self {
            before: before.cloned().map(Member::Confirmed),
            now: now.cloned().map(Member::Confirmed),
        }
    }
}

/// Iterator that merges the changes of the confirmed nodes and of the suspects by id.
struct Merged<C: Iterator, S: Iterator> {
    confirmed: Peekable<C>,
    suspects: Peekable<S>,
}

impl<C: Iterator<Item = MemberChange>, S: Iterator<Item = MemberChange>> Iterator for Merged<C, S> {
    type Item = MemberChange;

    fn next(&mut self) -> Option<MemberChange> {
        let order = match (self.confirmed.peek(), self.suspects.peek()) {
            (Some(confirmed), Some(suspect)) => confirmed.id().cmp(suspect.id()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => self.confirmed.next(),
            Ordering::Greater => self.suspects.next(),
            Ordering::Equal => Some(self.confirmed.next()?.merge(self.suspects.next()?)),
        }
    }
}
