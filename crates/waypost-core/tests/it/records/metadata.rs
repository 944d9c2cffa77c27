//! Tests that metadata behaves as a sorted map that may be `null`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use waypost_core::record::{Metadata, Service};

use super::arbitrary::text;

/// Change of a map.
#[derive(Clone, Debug)]
enum Change {
    Insert(String, String),
    Remove(String),
    Extend(Vec<(String, String)>),
}

/// Generates keys from a small set, so that changes collide.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["", "a", "aa", "b", "\u{fffd}"]).prop_map(str::to_owned),
        text()
    ]
}

/// Generates values, long ones too: a length takes one digit up to 31 bytes, then more.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        text(),
        (30..35_usize).prop_map(|length| "x".repeat(length)),
        (2_040..2_060_usize).prop_map(|length| "x".repeat(length))
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| Change::Insert(key, value)),
        key().prop_map(Change::Remove),
        prop::collection::vec((key(), value()), 0..4).prop_map(Change::Extend),
    ]
}

fn apply(change: Change, metadata: &mut Metadata, map: &mut BTreeMap<String, String>) {
    match change {
        Change::Insert(key, value) => {
            metadata.insert(&key, &value);
            map.insert(key, value);
        }
        Change::Remove(key) => assert_eq!(metadata.remove(&key), map.remove(&key)),
        Change::Extend(pairs) => {
            metadata.extend(pairs.iter().map(|(key, value)| (key, value)));
            map.extend(pairs);
        }
    }
}

fn is_same(metadata: &Metadata, map: &BTreeMap<String, String>) {
    assert!(
        metadata.iter().eq(map
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))),
        "{metadata:?} {map:?}"
    );
    assert_eq!(
        (metadata.len(), metadata.is_empty()),
        (map.len(), map.is_empty())
    );
    assert!(
        map.iter()
            .all(|(key, value)| metadata.get(key) == Some(value) && metadata.contains_key(key))
    );
    assert_eq!(metadata.get("c"), map.get("c").map(String::as_str));
    if !metadata.is_null() {
        assert_eq!(*metadata, Metadata::from_iter(map));
        assert_eq!(format!("{metadata:?}"), format!("{map:?}"));
        assert_eq!(
            serde_json::to_string(metadata).unwrap(),
            serde_json::to_string(map).unwrap()
        );
    }
}

proptest! {
    #[test]
    fn metadata_is_a_sorted_map(changes in prop::collection::vec(change(), 0..12)) {
        let (mut metadata, mut map) = (Metadata::null(), BTreeMap::new());
        for change in changes {
            apply(change, &mut metadata, &mut map);
            is_same(&metadata, &map);
        }
    }
}

#[test]
fn null_and_empty_differ() {
    let (null, empty) = (Metadata::null(), Metadata::empty());
    assert_ne!(null, empty);
    assert_eq!(
        (null.len(), empty.len(), null.is_null(), empty.is_null()),
        (0, 0, true, false)
    );
    assert_eq!(
        (format!("{null:?}"), format!("{empty:?}")),
        ("null".to_owned(), "{}".to_owned())
    );
    assert_eq!((null.get("a"), empty.get("a")), (None, None));
    let mut emptied = Metadata::from([("a", "1")]);
    assert_eq!(emptied.remove("a").as_deref(), Some("1"));
    assert_eq!(emptied, empty);
    assert_eq!(
        (emptied.remove("a"), Metadata::null().remove("a")),
        (None, None)
    );
}

/// Marks for bytes that are not UTF-8 stay with their value when other values change.
#[test]
fn changes_keep_the_marks_of_other_values() {
    let json = r#"{"name":"","version":"","metadata":{"a":"1","b":"x\ufffdy\ufffd","c":"\ufffd","d":"2"},"endpoints":null,"nodes":null}"#;
    let mut service = Service::from_json(json.as_bytes()).unwrap();
    assert_eq!(service.to_json(), json);
    service.metadata.remove("a");
    service.metadata.insert("d", "3");
    service.metadata.insert("c", "\u{fffd}");
    let expected = json
        .replace(r#""a":"1","#, "")
        .replace(r#""d":"2""#, r#""d":"3""#)
        .replace(r#""c":"\ufffd""#, "\"c\":\"\u{fffd}\"");
    assert_eq!(service.to_json(), expected);
}
