use std::collections::HashSet;

use waypost_core::record::{Node, Service};

use super::*;

struct World {
    share: Share,
    entries: Vec<Entry>,
    joined: HashSet<String>,
    now: Instant,
}

impl World {
    fn new(limit: usize, nodes: usize) -> Self {
        let mut service = Service::new("greeter");
        for i in 0..nodes {
            service.nodes.push(Node::with_id("greeter", &i.to_string(), "127.0.0.1:1"));
        }
        let entries = service.entries();
        let mut share = Share::new(limit, 7);
        entries.iter().for_each(|entry| share.add(entry, true));
        let mut world = Self { share, entries, joined: HashSet::new(), now: Instant::now() };
        world.settle();
        world
    }

    /// Settles the share; returns the numbers of nodes that joined and left.
    fn settle(&mut self) -> (usize, usize) {
        let entries = &self.entries;
        let (mut joins, mut leaves) = (0, 0);
        for change in self.share.settle(self.now, || entries.iter().map(|entry| (entry, true))) {
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
        assert_eq!(self.share.joined(), self.joined.len());
        (joins, leaves)
    }

    fn place(&mut self, ids: impl IntoIterator<Item = String>, place: Place) {
        for id in ids {
            self.share.set_place(&id, place);
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
    assert_eq!((world.joined.len(), world.share.passing()), (20, 300));
}

#[tokio::test(start_paused = true)]
async fn a_dead_share_is_replaced_until_places_are_filled() {
    let mut world = World::new(100, 300);
    let first = world.all();
    world.place(first.clone(), Place::Empty);
    assert_eq!(world.settle(), (100, 0), "the dead stay, and the next are connected beside them");
    let second: Vec<_> = world.all().into_iter().filter(|id| !first.contains(id)).collect();
    world.place(second, Place::Ready);
    assert_eq!(world.settle(), (0, 0), "the dead rank before them, and are dialled on");
    world.place(first, Place::Ready);
    assert_eq!(world.settle(), (0, 0), "back, they push nobody out at once");
    world.now = world.share.next_wake().unwrap();
    assert_eq!(world.settle(), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn five_good_of_a_thousand_dead_are_found() {
    let mut world = World::new(100, 1_005);
    let good = |id: &String| ["17", "400", "401", "800", "1004"].iter().any(|n| *id == format!("greeter-{n}"));
    for _ in 0..20 {
        let (ready, dead): (Vec<_>, Vec<_>) = world.all().into_iter().partition(good);
        world.place(ready, Place::Ready);
        world.place(dead, Place::Empty);
        world.settle();
    }
    assert_eq!(world.all().iter().filter(|id| good(id)).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_node_gone_moves_one_and_a_node_back_moves_one_later() {
    let mut world = World::new(20, 300);
    world.place(world.all(), Place::Ready);
    assert_eq!(world.settle(), (0, 0));
    let best = world.share.joined.first().unwrap().1.to_string();
    let entry = world.entries.iter().find(|entry| *entry.node.id == *best).unwrap().clone();
    world.share.remove(&best);
    assert_eq!(world.settle(), (1, 1));
    world.place(world.all(), Place::Ready);
    world.settle();
    world.share.add(&entry, true);
    assert_eq!(world.settle(), (1, 0), "it is better than one that has joined");
    world.place([best], Place::Ready);
    assert_eq!(world.settle(), (0, 0), "the surplus is kept for a while");
    world.now = world.share.next_wake().unwrap();
    assert_eq!(world.settle(), (0, 1));
    assert_eq!(world.joined.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_without_a_connection_holds_no_place() {
    let mut world = World::new(20, 300);
    let ids = world.all();
    for id in &ids {
        world.share.set_eligible(id, false);
    }
    assert_eq!(world.settle(), (20, 20));
    for id in &ids {
        world.share.set_eligible(id, true);
    }
    assert_eq!(world.settle(), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn a_large_service_is_held_in_part_and_counted_whole() {
    let mut world = World::new(10, 5_000);
    assert!(world.share.members.len() < 400, "{}", world.share.members.len());
    assert_eq!(world.share.passing(), 5_000);
    for i in 0..4_000 {
        world.share.remove(&format!("greeter-{i}"));
        world.entries.retain(|entry| *entry.node.id != *format!("greeter-{i}"));
        world.settle();
        world.place(world.all(), Place::Ready);
    }
    assert_eq!((world.share.passing(), world.joined.len()), (1_000, 10));
    let mut ranked: Vec<_> = world.entries.iter().map(|entry| world.share.rank(&entry.node.id)).collect();
    ranked.sort();
    world.settle();
    let best: HashSet<String> = ranked[..10].iter().map(|(_, id)| id.to_string()).collect();
    assert_eq!(world.joined, best, "what is left is the best of those that are left");
}

proptest::proptest! {
    /// After any changes, all counts agree with a recount. With every joined node ready, the share
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
                0 if !known => { world.share.add(&entry, true); world.entries.push(entry); }
                1 if known => { world.share.remove(&entry.node.id); world.entries.retain(|other| other.node.id != entry.node.id); }
                2 => world.share.set_place(&entry.node.id, Place::Empty),
                3 => world.share.set_place(&entry.node.id, Place::Ready),
                4 => world.share.set_place(&entry.node.id, Place::Held),
                _ => world.now += Duration::from_secs(40),
            }
            world.settle();
            let share = &world.share;
            let count = |is: fn(Place) -> bool| share.joined.iter().filter(|rank| is(share.members[*rank].place)).count();
            proptest::prop_assert_eq!(share.held, count(|place| place != Place::Empty));
            proptest::prop_assert_eq!(share.ready, count(|place| place == Place::Ready));
            proptest::prop_assert_eq!(share.passing(), world.entries.len());
            proptest::prop_assert!(share.held >= limit.min(world.entries.len()) || share.joined.len() == world.entries.len());
        }
    }
}
