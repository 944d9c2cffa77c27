use std::collections::BTreeMap;

use fastrand::Rng;
use std::sync::Arc;

use super::*;
use crate::directory::{Member, MemberChange};
use crate::record::{Key, Node, Service, keys};

const GRACE: Duration = Duration::from_secs(15);

fn entry_at(id: &str, address: &str) -> Entry {
    let mut service = Service::new("greeter");
    service.nodes.push(Node::with_id("greeter", id, address));
    service.entries().remove(0)
}

fn entry(id: &str) -> Entry {
    entry_at(id, "127.0.0.1:1")
}

fn leaving(id: &str) -> Entry {
    let mut service = Service::new("greeter");
    let mut node = Node::with_id("greeter", id, "127.0.0.1:1");
    node.metadata.insert(keys::STATE, keys::LEAVING);
    service.nodes.push(node);
    service.entries().remove(0)
}

fn deleted(id: &str) -> Event {
    Event::Deleted(Key {
        service: "greeter".into(),
        id: format!("greeter-{id}"),
    })
}

fn cache(grace: Duration) -> ServiceCache {
    ServiceCache::new(&"greeter".parse().unwrap(), grace)
}

fn ids(cache: &ServiceCache) -> (Vec<String>, Vec<String>) {
    let snapshot = cache.snapshot();
    let short = |entry: &Entry| entry.node.id.trim_start_matches("greeter-").to_owned();
    (
        snapshot.confirmed().map(short).collect(),
        snapshot
            .suspects()
            .map(|suspect| short(&suspect.entry))
            .collect(),
    )
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_leave_goes_at_once_and_a_loss_is_kept_for_its_grace() {
    let now = Instant::now();
    let mut cache = cache(GRACE);
    cache.on_event(now, Event::Reset(vec![entry("a"), entry("b"), entry("c")]));
    cache.on_event(now, Event::Updated(leaving("a")));
    cache.on_event(now, deleted("a"));
    cache.on_event(now, deleted("b"));
    assert_eq!(ids(&cache), (owned(&["c"]), owned(&["b"])));
    assert_eq!(cache.next_wake(), Some(now + GRACE));
    cache.on_tick(now + Duration::from_millis(14_999));
    assert_eq!(ids(&cache).1, owned(&["b"]));
    cache.on_tick(now + GRACE);
    assert_eq!(ids(&cache), (owned(&["c"]), owned(&[])));
}

#[tokio::test(start_paused = true)]
async fn an_empty_reset_makes_suspects_and_a_return_confirms_them() {
    let now = Instant::now();
    let mut cache = cache(GRACE);
    cache.on_event(now, Event::Reset(vec![entry("a"), entry("b")]));
    cache.on_event(now, Event::Reset(vec![]));
    assert_eq!(ids(&cache), (owned(&[]), owned(&["a", "b"])));
    cache.on_event(now, Event::Created(entry("a")));
    assert_eq!(ids(&cache), (owned(&["a"]), owned(&["b"])));
    cache.on_event(now, Event::Reset(vec![entry("a"), leaving("b")]));
    assert_eq!(ids(&cache), (owned(&["a"]), owned(&[])));
}

#[tokio::test(start_paused = true)]
async fn an_outage_changes_no_node_and_only_ages_the_snapshot() {
    let now = Instant::now();
    let mut cache = cache(GRACE);
    cache.on_event(now, Event::Reset(vec![entry("a")]));
    let before = cache.snapshot().clone();
    cache.on_outage(now, "gone");
    cache.on_outage(now + Duration::from_secs(3), "still gone");
    let during = cache.snapshot().clone();
    assert_eq!(
        (&*during.outage.clone().unwrap().why, during.generation),
        ("still gone", before.generation)
    );
    assert_eq!(during.changes_since(&before).count(), 0);
    assert_eq!(
        during.staleness(now + Duration::from_secs(5)),
        Duration::from_secs(5)
    );
    cache.on_event(now + Duration::from_secs(6), Event::Reset(vec![entry("a")]));
    let after = cache.snapshot();
    assert_eq!(
        (
            after.generation,
            after.staleness(now + Duration::from_secs(7))
        ),
        (before.generation, Duration::ZERO)
    );
}

/// Nodes whose leases etcd revoked before it went down are suspects at the start of the outage. They
/// cannot register again before its end.
#[tokio::test(start_paused = true)]
async fn no_suspect_expires_during_an_outage_or_within_a_grace_after_it() {
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    let mut cache = cache(GRACE);
    cache.on_event(
        begun,
        Event::Reset(vec![entry("a"), entry("b"), entry("c")]),
    );
    cache.on_event(begun, deleted("a"));
    cache.on_event(at(1), deleted("b"));
    cache.on_outage(at(2), "no leader");
    assert_eq!(cache.next_wake(), None);
    cache.on_tick(at(600));
    assert_eq!(ids(&cache), (owned(&["c"]), owned(&["a", "b"])));
    cache.on_event(at(600), Event::Reset(vec![entry("c")]));
    assert_eq!(cache.next_wake(), Some(at(615)));
    cache.on_event(at(610), Event::Created(entry("a")));
    cache.on_tick(at(614));
    assert_eq!(ids(&cache), (owned(&["a", "c"]), owned(&["b"])));
    cache.on_tick(at(615));
    assert_eq!(ids(&cache), (owned(&["a", "c"]), owned(&[])));
    cache.on_event(at(700), deleted("a"));
    assert_eq!(cache.next_wake(), Some(at(715)), "as before the outage");
}

#[tokio::test(start_paused = true)]
async fn a_grace_without_end_keeps_a_suspect_until_it_is_back() {
    let now = Instant::now();
    let mut cache = cache(Duration::MAX);
    cache.on_event(now, Event::Reset(vec![entry("a")]));
    cache.on_event(now, deleted("a"));
    assert_eq!((cache.next_wake(), ids(&cache).1), (None, owned(&["a"])));
    cache.on_tick(now + Duration::from_secs(1_000_000));
    assert_eq!(ids(&cache).1, owned(&["a"]));
    cache.on_event(now, Event::Created(entry("a")));
    assert_eq!(ids(&cache), (owned(&["a"]), owned(&[])));
}

/// Each loss starts its own grace period. The expiry of an earlier one does not end it, and a
/// flapping node does not grow the heap.
#[tokio::test(start_paused = true)]
async fn each_loss_has_a_grace_of_its_own() {
    let mut now = Instant::now();
    let mut cache = cache(GRACE);
    for _ in 0..1_000 {
        cache.on_event(now, Event::Created(entry("a")));
        now += Duration::from_millis(10);
        cache.on_event(now, deleted("a"));
    }
    assert!(cache.expiries.len() <= 2 + SPARE_EXPIRIES);
    cache.on_tick(now + GRACE - Duration::from_millis(1));
    assert_eq!(ids(&cache).1, owned(&["a"]));
    cache.on_tick(now + GRACE);
    assert_eq!(ids(&cache).1, owned(&[]));
}

#[tokio::test(start_paused = true)]
async fn nodes_of_other_services_are_ignored() {
    let (now, mut cache) = (Instant::now(), cache(GRACE));
    let mut other = Service::new("other");
    other
        .nodes
        .push(Node::with_id("greeter", "a", "127.0.0.1:1"));
    let other = other.entries().remove(0);
    cache.on_event(now, Event::Reset(vec![entry("a"), other.clone()]));
    cache.on_event(now, Event::Created(other.clone()));
    cache.on_event(now, Event::Deleted(other.key()));
    assert_eq!(ids(&cache), (owned(&["a"]), owned(&[])));
}

/// Model of the cache, a plain implementation of its rules.
#[derive(Default)]
struct Model(BTreeMap<String, (Entry, Option<Instant>)>);

impl Model {
    fn apply(&mut self, now: Instant, event: Event) {
        match event {
            Event::Reset(entries) => {
                for (id, known) in &mut self.0 {
                    if !entries.iter().any(|entry| entry.node.id == *id) {
                        known.1.get_or_insert(now);
                    }
                }
                entries.into_iter().for_each(|entry| self.put(entry));
            }
            Event::Created(entry) | Event::Updated(entry) => self.put(entry),
            Event::Deleted(key) => {
                if let Some(known) = self.0.get_mut(&key.id) {
                    known.1.get_or_insert(now);
                }
            }
        }
    }

    fn put(&mut self, entry: Entry) {
        let id = entry.node.id.clone();
        match entry.node.is_leaving() {
            true => self.0.remove(&id),
            false => self.0.insert(id, (entry, None)),
        };
    }

    fn tick(&mut self, now: Instant) {
        self.0
            .retain(|_, (_, lost)| lost.is_none_or(|since| now < since + GRACE));
    }

    fn members(&self) -> BTreeMap<String, Member> {
        let member = |(entry, lost): &(Entry, Option<Instant>)| match *lost {
            Some(since) => Member::Suspect(Suspect {
                entry: entry.clone(),
                since,
            }),
            None => Member::Confirmed(entry.clone()),
        };
        self.0
            .iter()
            .map(|(id, known)| (id.clone(), member(known)))
            .collect()
    }
}

fn members(snapshot: &Snapshot) -> BTreeMap<String, Member> {
    let confirmed = snapshot.confirmed().cloned().map(Member::Confirmed);
    let members = confirmed.chain(snapshot.suspects().cloned().map(Member::Suspect));
    let members: BTreeMap<_, _> = members
        .map(|member| (member.entry().node.id.clone(), member))
        .collect();
    assert_eq!(
        members.len(),
        snapshot.len(),
        "a node is confirmed and suspect at once"
    );
    members
}

fn replay(
    mut members: BTreeMap<String, Member>,
    changes: impl Iterator<Item = MemberChange>,
) -> BTreeMap<String, Member> {
    for change in changes {
        let id = change.id().to_owned();
        assert_ne!(change.before, change.now, "a change that is none");
        let before = match change.now {
            Some(now) => members.insert(id, now),
            None => members.remove(&id),
        };
        assert_eq!(before, change.before);
    }
    members
}

fn any_event(rng: &mut Rng, nodes: u32) -> Event {
    let id = |rng: &mut Rng| rng.u32(..nodes).to_string();
    let any = |rng: &mut Rng| match rng.u32(..10) {
        0 => leaving(&id(rng)),
        address => entry_at(&id(rng), &format!("127.0.0.1:{}", 1 + address % 3)),
    };
    match rng.u32(..20) {
        0 => {
            let some: BTreeMap<_, _> = (0..rng.u32(..nodes * 2))
                .map(|_| any(rng))
                .map(|entry| (entry.key(), entry))
                .collect();
            Event::Reset(some.into_values().collect())
        }
        1..12 => Event::Updated(any(rng)),
        _ => deleted(&id(rng)),
    }
}

/// After any events in any order, the snapshot equals that of the model. Its generation increases
/// if and only if its nodes change. The changes since any older snapshot lead from that one to the
/// current one.
#[tokio::test(start_paused = true)]
async fn any_events_add_up_to_what_the_rules_require() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let nodes = *[3, 20, 300].get(rng.usize(..3)).unwrap();
        let (mut now, mut cache, mut model) = (Instant::now(), cache(GRACE), Model::default());
        let mut kept = vec![cache.snapshot().clone()];
        for _ in 0..200 {
            let before = cache.snapshot().clone();
            now += Duration::from_millis(rng.u64(..1_000));
            cache.on_tick(now);
            model.tick(now);
            let event = any_event(&mut rng, nodes);
            cache.on_event(now, event.clone());
            model.apply(now, event);
            let snapshot = cache.snapshot();
            assert_eq!(members(snapshot), model.members(), "seed {seed}");
            let is_same = before.synced && snapshot.changes_since(&before).next().is_none();
            assert_eq!(
                before.generation == snapshot.generation,
                is_same,
                "seed {seed}"
            );
            if rng.u32(..20) == 0 {
                kept.push(snapshot.clone());
            }
        }
        for old in &kept {
            for new in &kept {
                assert_eq!(
                    replay(members(old), new.changes_since(old)),
                    members(new),
                    "seed {seed}"
                );
            }
        }
    }
}

/// A node whose interval is 30 s, as in go-micro, is registered again within that.
#[tokio::test(start_paused = true)]
async fn a_grace_is_never_shorter_than_two_intervals_of_the_registration() {
    let with_interval = |id: &str, interval: &str| {
        let mut entry = entry(id);
        let node = Arc::make_mut(&mut entry.node);
        node.metadata.insert(keys::INTERVAL, interval);
        entry
    };
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let mut cache = cache(GRACE);
    cache.on_event(
        now,
        Event::Reset(vec![
            entry("short"),
            with_interval("long", "30000ms"),
            with_interval("hostile", "99999999999999999ms"),
            with_interval("wrong", "30"),
        ]),
    );
    cache.on_event(now, Event::Reset(Vec::new()));
    let suspects = |cache: &mut ServiceCache, at| {
        cache.on_tick(at);
        ids(cache).1
    };
    assert_eq!(
        suspects(&mut cache, now + GRACE),
        owned(&["hostile", "long"])
    );
    assert_eq!(suspects(&mut cache, after(59)), owned(&["hostile", "long"]));
    assert_eq!(suspects(&mut cache, after(60)), owned(&["hostile"]));
    // Nothing expires within the longest grace after an outage.
    cache.on_event(after(61), Event::Created(with_interval("long", "30000ms")));
    cache.on_event(after(61), deleted("long"));
    cache.on_outage(after(62), "down");
    cache.on_event(after(200), Event::Reset(Vec::new()));
    assert_eq!(
        suspects(&mut cache, after(259)),
        owned(&["hostile", "long"])
    );
    assert_eq!(suspects(&mut cache, after(800)), owned(&[]));
}
