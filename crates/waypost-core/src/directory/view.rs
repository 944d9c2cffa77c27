//! The picture of one service, as a pure state machine.
//!
//! A node that says it is leaving goes at once. One that vanishes without a word is lost: it becomes a suspect, kept until it is confirmed
//! again, leaves, or its grace is over. Trouble with the registry changes nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Snapshot, Suspect, Trouble};
use crate::record::Entry;
use crate::registry::Event;

/// What is known of one service.
#[derive(Clone, Debug)]
pub struct View {
    grace: Duration,
    nodes: BTreeMap<String, Known>,
    loaded: bool,
    generation: u64,
    trouble: Option<Trouble>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    entry: Entry,
    missing_since: Option<Instant>,
}

impl Known {
    fn lose(&mut self, now: Instant) -> bool {
        let lost = self.missing_since.is_none();
        self.missing_since.get_or_insert(now);
        lost
    }
}

impl View {
    /// An empty view that keeps suspects for `grace`.
    pub fn new(grace: Duration) -> Self {
        Self { grace, nodes: BTreeMap::new(), loaded: false, generation: 0, trouble: None }
    }

    /// Takes an event of the registry. It ends any trouble.
    pub fn news(&mut self, now: Instant, event: Event) {
        self.trouble = None;
        let first = !std::mem::replace(&mut self.loaded, true);
        let changed = match event {
            Event::Reset(entries) => self.reset(now, entries),
            Event::Created(entry) | Event::Updated(entry) => self.confirm(entry),
            Event::Deleted(key) => self.nodes.get_mut(&key.id).is_some_and(|known| known.lose(now)),
        };
        self.generation += u64::from(first || changed);
    }

    fn reset(&mut self, now: Instant, entries: Vec<Entry>) -> bool {
        let present: HashSet<_> = entries.iter().map(|entry| entry.node.id.as_str()).collect();
        let mut changed = false;
        for (id, known) in &mut self.nodes {
            changed |= !present.contains(id.as_str()) && known.lose(now);
        }
        for entry in entries {
            changed |= self.confirm(entry);
        }
        changed
    }

    fn confirm(&mut self, entry: Entry) -> bool {
        if entry.node.is_leaving() {
            return self.nodes.remove(&entry.node.id).is_some();
        }
        let known = Known { entry, missing_since: None };
        match self.nodes.get_mut(&known.entry.node.id) {
            Some(old) if *old == known => false,
            Some(old) => {
                *old = known;
                true
            }
            None => self.nodes.insert(known.entry.node.id.clone(), known).is_none(),
        }
    }

    /// Takes trouble with the registry; its first moment is kept while it lasts.
    pub fn trouble(&mut self, now: Instant, why: &str) {
        let since = self.trouble.as_ref().map_or(now, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, why: why.into() });
    }

    /// Lets go of suspects whose grace is over.
    pub fn tick(&mut self, now: Instant) {
        let count = self.nodes.len();
        let grace = self.grace;
        self.nodes.retain(|_, known| known.missing_since.is_none_or(|since| now < since + grace));
        self.generation += u64::from(self.nodes.len() != count);
    }

    /// When to tick even if nothing happens.
    pub fn next_wake(&self) -> Option<Instant> {
        self.nodes.values().filter_map(|known| known.missing_since).min().map(|since| since + self.grace)
    }

    /// The picture now.
    pub fn snapshot(&self) -> Snapshot {
        let confirmed: Arc<[_]> =
            self.nodes.values().filter(|known| known.missing_since.is_none()).map(|known| known.entry.clone()).collect();
        let suspects: Arc<[_]> = self
            .nodes
            .values()
            .filter_map(|known| Some(Suspect { since: known.missing_since?, entry: known.entry.clone() }))
            .collect();
        Snapshot { loaded: self.loaded, confirmed, suspects, generation: self.generation, trouble: self.trouble.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Key, Node, Service, keys};

    fn entry(id: &str) -> Entry {
        let mut service = Service::new("greeter");
        service.nodes.push(Node::with_id("greeter", id, "127.0.0.1:1"));
        service.entries().remove(0)
    }

    fn leaving(id: &str) -> Entry {
        let mut service = entry(id).to_service();
        service.nodes[0].metadata.insert(keys::STATE, keys::LEAVING);
        service.entries().remove(0)
    }

    fn deleted(id: &str) -> Event {
        Event::Deleted(Key { service: "greeter".into(), id: format!("greeter-{id}") })
    }

    fn ids(view: &View) -> (Vec<String>, Vec<String>) {
        let snapshot = view.snapshot();
        let short = |entry: &Entry| entry.node.id.trim_start_matches("greeter-").to_owned();
        (snapshot.confirmed.iter().map(short).collect(), snapshot.suspects.iter().map(|s| short(&s.entry)).collect())
    }

    fn owned(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_leave_goes_at_once_and_a_loss_is_kept_for_its_grace() {
        let now = Instant::now();
        let mut view = View::new(Duration::from_secs(15));
        view.news(now, Event::Reset(vec![entry("a"), entry("b"), entry("c")]));
        view.news(now, Event::Updated(leaving("a")));
        view.news(now, deleted("a"));
        view.news(now, deleted("b"));
        assert_eq!(ids(&view), (owned(&["c"]), owned(&["b"])));
        assert_eq!(view.next_wake(), Some(now + Duration::from_secs(15)));
        view.tick(now + Duration::from_millis(14_999));
        assert_eq!(ids(&view).1, owned(&["b"]));
        view.tick(now + Duration::from_secs(15));
        assert_eq!(ids(&view), (owned(&["c"]), owned(&[])));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_reset_makes_suspects_and_a_return_confirms_them() {
        let now = Instant::now();
        let mut view = View::new(Duration::from_secs(15));
        view.news(now, Event::Reset(vec![entry("a"), entry("b")]));
        view.news(now, Event::Reset(vec![]));
        assert_eq!(ids(&view), (owned(&[]), owned(&["a", "b"])));
        view.news(now, Event::Created(entry("a")));
        assert_eq!(ids(&view), (owned(&["a"]), owned(&["b"])));
        view.news(now, Event::Updated(leaving("b")));
        assert_eq!(ids(&view), (owned(&["a"]), owned(&[])));
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_changes_no_node_and_only_ages_the_picture() {
        let now = Instant::now();
        let mut view = View::new(Duration::from_secs(15));
        view.news(now, Event::Reset(vec![entry("a")]));
        let before = view.snapshot();
        view.trouble(now, "gone");
        view.trouble(now + Duration::from_secs(3), "still gone");
        let after = view.snapshot();
        assert_eq!((&after.confirmed, after.generation), (&before.confirmed, before.generation));
        assert_eq!(after.age(now + Duration::from_secs(5)), Duration::from_secs(5));
        view.news(now + Duration::from_secs(6), Event::Reset(vec![entry("a")]));
        let mended = view.snapshot();
        assert_eq!((mended.generation, mended.age(now + Duration::from_secs(7))), (before.generation, Duration::ZERO));
    }
}
