use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Position, Positioned, SortedSet};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item(Arc<(String, u32)>);

impl Item {
    fn new(id: u32, value: u32) -> Self {
        Self(Arc::new((format!("{id:06}"), value)))
    }
}

impl Positioned for Item {
    fn position(&self) -> Position<'_> {
        ("s", &self.0.0)
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

type Model = BTreeMap<String, Item>;

fn model_diff(old: &Model, new: &Model) -> Vec<(Option<Item>, Option<Item>)> {
    let ids: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let both = ids
        .into_iter()
        .map(|id| (old.get(id).cloned(), new.get(id).cloned()));
    both.filter(|(old, new)| old != new).collect()
}

fn diff(old: &SortedSet<Item>, new: &SortedSet<Item>) -> Vec<(Option<Item>, Option<Item>)> {
    old.diff(new)
        .map(|(old, new)| (old.cloned(), new.cloned()))
        .collect()
}

fn assert_is(set: &SortedSet<Item>, model: &Model) {
    assert_eq!(set.len(), model.len());
    assert_eq!(set.iter().len(), model.len());
    assert!(set.iter().eq(model.values()));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, u32),
    Remove(u32),
    /// Removes a range, so that nodes are merged.
    RemoveFrom(u32, u32),
    /// Inserts a range in ascending order.
    Append(u32, u32),
    Keep,
    Rebuild,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0..3_000_u32;
    let step = prop_oneof![
        6 => (id.clone(), 0..3_u32).prop_map(|(id, value)| Step::Insert(id, value)),
        4 => id.clone().prop_map(Step::Remove),
        1 => (id.clone(), 1..800_u32).prop_map(|(id, count)| Step::RemoveFrom(id, count)),
        2 => (id, 1..800_u32).prop_map(|(id, count)| Step::Append(id, count)),
        1 => Just(Step::Keep),
        1 => Just(Step::Rebuild),
    ];
    proptest::collection::vec(step, 1..60)
}

fn insert(set: &mut SortedSet<Item>, model: &mut Model, id: u32, value: u32) {
    let item = Item::new(id, value);
    assert_eq!(
        set.insert(item.clone()),
        model.insert(item.0.0.clone(), item).is_none()
    );
}

fn remove(set: &mut SortedSet<Item>, model: &mut Model, id: u32) {
    let id = format!("{id:06}");
    assert_eq!(set.remove(("s", &id)), model.remove(&id));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After any edits the set equals a map with the same content, and so does every kept clone and
    /// every difference between two of them.
    #[test]
    fn a_set_is_a_map_and_its_clones_keep_what_they_were(steps in steps()) {
        let (mut set, mut model) = (SortedSet::default(), Model::new());
        let mut kept = vec![(set.clone(), model.clone())];
        for step in steps {
            match step {
                Step::Insert(id, value) => insert(&mut set, &mut model, id, value),
                Step::Remove(id) => remove(&mut set, &mut model, id),
                Step::RemoveFrom(id, count) => (id..id + count).for_each(|id| remove(&mut set, &mut model, id)),
                Step::Append(id, count) => (id..id + count).for_each(|id| insert(&mut set, &mut model, id, 9)),
                Step::Keep => kept.push((set.clone(), model.clone())),
                Step::Rebuild => set = set.iter().cloned().collect(),
            }
            let position = "001500";
            prop_assert_eq!(set.get(("s", position)), model.get(position));
            prop_assert!(set.iter_from(("s", position)).eq(model.range(position.to_owned()..).map(|(_, item)| item)));
        }
        kept.push((set, model));
        for (old, old_model) in &kept {
            assert_is(old, old_model);
            for (new, new_model) in &kept {
                prop_assert_eq!(diff(old, new), model_diff(old_model, new_model));
            }
        }
    }
}

/// Of several items at one position the last one wins.
#[test]
fn a_set_is_built_of_items_in_any_order() {
    let items =
        [(3, 0), (1, 0), (2, 0), (1, 1), (3, 1), (1, 2)].map(|(id, value)| Item::new(id, value));
    let set: SortedSet<_> = items.into_iter().collect();
    let values: Vec<_> = set
        .iter()
        .map(|item| (item.0.0.as_str(), item.0.1))
        .collect();
    assert_eq!(values, [("000001", 2), ("000002", 0), ("000003", 1)]);
}

/// One edit of a set of 100 000 items leaves all but one path shared, and a difference compares no
/// more than that path.
#[test]
fn a_difference_looks_only_at_what_is_not_shared() {
    use std::cell::Cell;

    thread_local!(static LOOKS: Cell<usize> = const { Cell::new(0) });

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Counted(Item);

    impl Positioned for Counted {
        fn position(&self) -> Position<'_> {
            LOOKS.set(LOOKS.get() + 1);
            self.0.position()
        }

        fn is_same(&self, other: &Self) -> bool {
            LOOKS.set(LOOKS.get() + 1);
            self.0.is_same(&other.0)
        }
    }

    let old: SortedSet<_> = (0..100_000)
        .map(|id| Counted(Item::new(2 * id, 0)))
        .collect();
    let edits: [fn(&mut SortedSet<Counted>) -> bool; 3] = [
        |set| set.insert(Counted(Item::new(70_000, 1))),
        |set| set.insert(Counted(Item::new(70_001, 0))),
        |set| set.remove(("s", "070000")).is_some(),
    ];
    for edit in edits {
        let mut new = old.clone();
        LOOKS.set(0);
        edit(&mut new);
        assert!(LOOKS.replace(0) <= 200, "an edit searches one path");
        assert_eq!(old.diff(&new).count(), 1);
        assert!(LOOKS.get() <= 200, "{} looks", LOOKS.get());
    }
}
