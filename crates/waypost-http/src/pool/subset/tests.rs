use std::collections::HashSet;

use waypost_core::record::{Node, Service};

use super::*;

struct World {
    subset: Subset,
    entries: Vec<Entry>,
    joined: HashSet<String>,
    now: Instant,
}

impl World {
    fn new(limit: usize, nodes: usize) -> Self {
        let mut service = Service::new("greeter");
        for i in 0..nodes {
            service
                .nodes
                .push(Node::with_id("greeter", &i.to_string(), "127.0.0.1:1"));
        }
        let entries = service.entries();
        let mut subset = Subset::new(limit, 7);
        entries.iter().for_each(|entry| subset.add(entry, true));
        let mut world = Self {
            subset,
            entries,
            joined: HashSet::new(),
            now: Instant::now(),
        };
        world.settle();
        world
    }

    /// Settles the subset; returns the numbers of nodes that joined and left.
    fn settle(&mut self) -> (usize, usize) {
        let entries = &self.entries;
        let (mut joins, mut leaves) = (0, 0);
        for change in self
            .subset
            .settle(self.now, || entries.iter().map(|entry| (entry, true)))
        {
            match change {
                Change::Join(entry) => {
                    joins += 1;
                    assert!(self.joined.insert(entry.node.id.clone()), "joined twice");
                }
                Change::Leave(id) => {
                    leaves += 1;
                    assert!(self.joined.remove(&*id), "left without joining");
                }
            }
        }
        assert_eq!(self.subset.joined(), self.joined.len());
        (joins, leaves)
    }

    fn place(&mut self, ids: impl IntoIterator<Item = String>, place: SlotState) {
        for id in ids {
            self.subset.set_slot(&id, place);
        }
    }

    fn all(&self) -> Vec<String> {
        self.joined.iter().cloned().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_service_is_taken_whole_and_a_large_one_in_part() {
    assert_eq!(World::new(100, 3).joined.len(), 3);
    let world = World::new(20, 300);
    assert_eq!((world.joined.len(), world.subset.passing()), (20, 300));
}

#[tokio::test(start_paused = true)]
async fn a_dead_share_is_replaced_until_places_are_filled() {
    let mut world = World::new(100, 300);
    let first = world.all();
    world.place(first.clone(), SlotState::Empty);
    assert_eq!(
        world.settle(),
        (100, 0),
        "the dead stay, and the next are connected beside them"
    );
    let second: Vec<_> = world
        .all()
        .into_iter()
        .filter(|id| !first.contains(id))
        .collect();
    world.place(second, SlotState::Ready);
    assert_eq!(
        world.settle(),
        (0, 0),
        "the dead rank before them, and are dialled on"
    );
    world.place(first, SlotState::Ready);
    assert_eq!(
        world.settle(),
        (0, 0),
        "back, they push out no node at once"
    );
    world.now = world.subset.next_wake().unwrap();
    assert_eq!(world.settle(), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn five_good_of_a_thousand_dead_are_found() {
    let mut world = World::new(100, 1_005);
    let good = |id: &String| {
        ["17", "400", "401", "800", "1004"]
            .iter()
            .any(|n| *id == format!("greeter-{n}"))
    };
    for _ in 0..20 {
        let (ready, dead): (Vec<_>, Vec<_>) = world.all().into_iter().partition(good);
        world.place(ready, SlotState::Ready);
        world.place(dead, SlotState::Empty);
        world.settle();
    }
    assert_eq!(world.all().iter().filter(|id| good(id)).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_node_gone_moves_one_and_a_node_back_moves_one_later() {
    let mut world = World::new(20, 300);
    world.place(world.all(), SlotState::Ready);
    assert_eq!(world.settle(), (0, 0));
    let best = world.subset.joined.first().unwrap().1.to_string();
    let entry = world
        .entries
        .iter()
        .find(|entry| *entry.node.id == *best)
        .unwrap()
        .clone();
    world.subset.remove(&best);
    assert_eq!(world.settle(), (1, 1));
    world.place(world.all(), SlotState::Ready);
    world.settle();
    world.subset.add(&entry, true);
    assert_eq!(
        world.settle(),
        (1, 0),
        "it is better than one that has joined"
    );
    world.place([best], SlotState::Ready);
    assert_eq!(world.settle(), (0, 0), "the surplus is kept for a while");
    world.now = world.subset.next_wake().unwrap();
    assert_eq!(world.settle(), (0, 1));
    assert_eq!(world.joined.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_without_a_connection_holds_no_place() {
    let mut world = World::new(20, 300);
    let ids = world.all();
    for id in &ids {
        world.subset.set_eligible(id, false);
    }
    assert_eq!(world.settle(), (20, 20));
    for id in &ids {
        world.subset.set_eligible(id, true);
    }
    assert_eq!(world.settle(), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn a_large_service_is_held_in_part_and_counted_whole() {
    let mut world = World::new(10, 5_000);
    assert!(
        world.subset.members.len() < 400,
        "{}",
        world.subset.members.len()
    );
    assert_eq!(world.subset.passing(), 5_000);
    for i in 0..4_000 {
        world.subset.remove(&format!("greeter-{i}"));
        world
            .entries
            .retain(|entry| *entry.node.id != *format!("greeter-{i}"));
        world.settle();
        world.place(world.all(), SlotState::Ready);
    }
    assert_eq!((world.subset.passing(), world.joined.len()), (1_000, 10));
    let mut ranked: Vec<_> = world
        .entries
        .iter()
        .map(|entry| world.subset.rank(&entry.node.id))
        .collect();
    ranked.sort();
    world.settle();
    let best: HashSet<String> = ranked[..10].iter().map(|(_, id)| id.to_string()).collect();
    assert_eq!(
        world.joined, best,
        "what is left is the best of those that are left"
    );
}

proptest::proptest! {
    /// After any changes, all counts agree with a recount. With every joined node ready, the subset
    /// is full or has all nodes.
    #[test]
    fn any_sequence_keeps_its_counts(steps in proptest::collection::vec((0u8..6, 0usize..60), 1..200), limit in 1usize..12) {
        let mut world = World::new(limit, 40);
        let spare: Vec<_> = { let more = World::new(1, 60).entries; more.into_iter().skip(40).collect() };
        let mut all: Vec<_> = world.entries.iter().chain(&spare).cloned().collect();
        all.sort_by_key(|entry| entry.node.id.clone());
        for (what, which) in steps {
            let entry = all[which].clone();
            let known = world.entries.iter().any(|other| other.node.id == entry.node.id);
            match what {
                0 if !known => { world.subset.add(&entry, true); world.entries.push(entry); }
                1 if known => { world.subset.remove(&entry.node.id); world.entries.retain(|other| other.node.id != entry.node.id); }
                2 => world.subset.set_slot(&entry.node.id, SlotState::Empty),
                3 => world.subset.set_slot(&entry.node.id, SlotState::Ready),
                4 => world.subset.set_slot(&entry.node.id, SlotState::Held),
                _ => world.now += Duration::from_secs(40),
            }
            world.settle();
            let subset = &world.subset;
            let count = |is: fn(SlotState) -> bool| subset.joined.iter().filter(|rank| is(subset.members[*rank].place)).count();
            proptest::prop_assert_eq!(subset.held, count(|place| place != SlotState::Empty));
            proptest::prop_assert_eq!(subset.ready, count(|place| place == SlotState::Ready));
            proptest::prop_assert_eq!(subset.passing(), world.entries.len());
            proptest::prop_assert!(subset.held >= limit.min(world.entries.len()) || subset.joined.len() == world.entries.len());
        }
    }
}
