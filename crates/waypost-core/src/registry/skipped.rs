//! Skipped records: values under a record's key that are not a valid record. They are counted until
//! they are repaired or deleted, so that an error about their service can name them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::record::Key;

/// Maximum number of skipped records remembered: a hostile writer could create any number.
const REMEMBERED: usize = 10_000;

/// Interval in which at most [`SkippedRecords::NAMED`] skipped records are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum length of a reason in characters. A reason may quote the record.
const LONGEST_REASON: usize = 200;

/// Record that a registry handle has read and skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SkippedRecord {
    /// Service in the record's key.
    pub service: String,
    /// Node id in the record's key.
    pub id: String,
    /// Reason why it was skipped, such as `82 651 bytes, at most 66 560`.
    pub reason: String,
}

impl fmt::Display for SkippedRecord {
    /// Formats as `82 651 bytes, at most 66 560 (node "greeter-a")`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (node {:?})", self.reason, self.id)
    }
}

/// Records of one service, or of all, that a registry handle has read and skipped: their number,
/// and the first of them.
///
/// ```
/// use waypost_core::memory::MemoryRegistry;
/// use waypost_core::registry::Registry;
///
/// let registry = MemoryRegistry::new();
/// registry.faults().put_raw("greeter", "greeter-a", vec![b' '; 82_651]);
/// assert_eq!(
///     registry.skipped(Some("greeter")).to_string(),
///     r#"1 record skipped: 82 651 bytes, at most 66 560 (node "greeter-a")"#
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SkippedRecords {
    /// Number of skipped records, at most 10 000 for a handle.
    pub count: usize,
    /// First of them by service and id, at most [`NAMED`](Self::NAMED).
    pub first: Vec<SkippedRecord>,
}

impl SkippedRecords {
    /// Maximum number of records in [`first`](Self::first).
    pub const NAMED: usize = 8;

    /// Returns true if no record was skipped.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for SkippedRecords {
    /// Formats the number, and the reason of the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.count, self.first.first()) {
            (1, Some(record)) => write!(f, "1 record skipped: {record}"),
            (count, Some(record)) => write!(f, "{count} records skipped, the first: {record}"),
            (count, None) => write!(f, "{count} records skipped"),
        }
    }
}

/// Table of the records that one handle skips, each with the version that was read. A backend keeps
/// one beside its decoder, and reports it in [`Registry::skipped`](super::Registry::skipped).
///
/// The table holds 10 000 records. Further ones are skipped without being counted.
///
/// ```
/// use waypost_core::record::Key;
/// use waypost_core::registry::{Interner, SkipTable};
///
/// let (mut records, mut skipped) = (Interner::default(), SkipTable::default());
/// let key = Key { service: "greeter".to_owned(), id: "greeter-a".to_owned() };
/// let revision = 7;
/// let now = tokio::time::Instant::now();
/// if let Err(error) = records.decode(&key, b"{") {
///     assert!(skipped.insert(now, &key, revision, &error), "log it");
///     assert!(!skipped.insert(now, &key, revision, &error), "read again, and known");
/// }
/// assert_eq!(skipped.report(Some("greeter")).count, 1);
///
/// skipped.remove(&key); // repaired or deleted
/// assert!(skipped.report(None).is_empty());
/// ```
#[derive(Debug)]
pub struct SkipTable<V> {
    /// Skipped records by service and id. No service is empty.
    services: BTreeMap<String, BTreeMap<String, Slot<V>>>,
    len: usize,
    /// Start of the current [`LOG_INTERVAL`], and the records logged in it.
    logged_since: Option<Instant>,
    logged: usize,
    /// Records that were not logged, so that others can be.
    not_logged: usize,
}

#[derive(Debug)]
struct Slot<V> {
    version: V,
    reason: String,
}

impl<V> Default for SkipTable<V> {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            len: 0,
            logged_since: None,
            logged: 0,
            not_logged: 0,
        }
    }
}

impl<V: PartialEq> SkipTable<V> {
    /// Adds a skipped record, or its new version. Returns true if it should be logged: this version
    /// is new, and fewer than [`SkippedRecords::NAMED`] were logged within a minute.
    pub fn insert(
        &mut self,
        now: Instant,
        key: &Key,
        version: V,
        reason: &dyn fmt::Display,
    ) -> bool {
        let known = self
            .services
            .get_mut(&key.service)
            .and_then(|ids| ids.get_mut(&key.id));
        match known {
            Some(slot) if slot.version == version => return false,
            Some(slot) => *slot = Slot::new(version, reason),
            None if self.len >= REMEMBERED => {
                self.not_logged += 1;
                return false;
            }
            None => {
                let ids = self.services.entry(key.service.clone()).or_default();
                ids.insert(key.id.clone(), Slot::new(version, reason));
                self.len += 1;
            }
        }
        if self
            .logged_since
            .is_none_or(|since| now >= since + LOG_INTERVAL)
        {
            (self.logged_since, self.logged) = (Some(now), 0);
        }
        let is_logged = self.logged < SkippedRecords::NAMED;
        self.logged += usize::from(is_logged);
        self.not_logged += usize::from(!is_logged);
        is_logged
    }

    /// Returns the number of records that were skipped and not logged, and resets it.
    pub fn take_not_logged(&mut self) -> usize {
        std::mem::take(&mut self.not_logged)
    }

    /// Removes a record that was repaired or deleted.
    pub fn remove(&mut self, key: &Key) {
        let Some(ids) = self.services.get_mut(&key.service) else {
            return;
        };
        self.len -= usize::from(ids.remove(&key.id).is_some());
        if ids.is_empty() {
            self.services.remove(&key.service);
        }
    }

    /// Keeps those records of one service, or of all, for which `keep` returns true for service, id
    /// and version. After a list, keep those that it contained.
    pub fn retain(&mut self, service: Option<&str>, mut keep: impl FnMut(&str, &str, &V) -> bool) {
        let mut len = 0;
        self.services.retain(|name, ids| {
            if service.is_none_or(|service| service == name) {
                ids.retain(|id, slot| keep(name, id, &slot.version));
            }
            len += ids.len();
            !ids.is_empty()
        });
        self.len = len;
    }

    /// Returns the skipped records of one service, or of all. The cost does not depend on their
    /// number for one service.
    pub fn report(&self, service: Option<&str>) -> SkippedRecords {
        match service {
            Some(service) => {
                let ids = self.services.get_key_value(service);
                SkippedRecords {
                    count: ids.map_or(0, |(_, ids)| ids.len()),
                    first: first(ids.into_iter()),
                }
            }
            None => SkippedRecords {
                count: self.len,
                first: first(self.services.iter()),
            },
        }
    }
}

impl<V> Slot<V> {
    fn new(version: V, reason: &dyn fmt::Display) -> Self {
        let reason = reason.to_string().chars().take(LONGEST_REASON).collect();
        Self { version, reason }
    }
}

fn first<'a, V: 'a>(
    services: impl Iterator<Item = (&'a String, &'a BTreeMap<String, Slot<V>>)>,
) -> Vec<SkippedRecord> {
    let record = |(service, id, slot): (&String, &String, &Slot<V>)| SkippedRecord {
        service: service.clone(),
        id: id.clone(),
        reason: slot.reason.clone(),
    };
    services
        .flat_map(|(service, ids)| ids.iter().map(move |(id, slot)| (service, id, slot)))
        .take(SkippedRecords::NAMED)
        .map(record)
        .collect()
}

/// Number whose digits are grouped by three, such as `82 651`.
pub(super) struct Grouped(pub(super) usize);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            below @ 0..1_000 => write!(f, "{below}"),
            number => write!(f, "{} {:03}", Self(number / 1_000), number % 1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_by_its_number() {
        let (mut table, start) = (SkipTable::default(), Instant::now());
        let logged = |table: &mut SkipTable<i64>, after: u64, service: &str| {
            let now = start + Duration::from_secs(after);
            let inserted = (0..20_000).map(|number: i64| {
                table.insert(now, &key(service, &number.to_string()), 1, &"no JSON")
            });
            inserted.filter(|logged| *logged).count()
        };
        assert_eq!(logged(&mut table, 0, "a"), SkippedRecords::NAMED);
        assert_eq!(table.take_not_logged(), 20_000 - SkippedRecords::NAMED);
        assert_eq!(logged(&mut table, 1, "b"), 0, "the table is full");
        assert_eq!(table.take_not_logged(), 20_000);
        table.retain(None, |_, _, _| false);
        assert_eq!(logged(&mut table, 59, "a"), 0);
        table.retain(None, |_, _, _| false);
        assert_eq!(logged(&mut table, 60, "a"), SkippedRecords::NAMED);
    }

    fn key(service: &str, id: &str) -> Key {
        Key {
            service: service.into(),
            id: id.into(),
        }
    }

    fn counts(table: &SkipTable<u32>) -> [usize; 3] {
        [Some("a"), Some("b"), None].map(|service| table.report(service).count)
    }

    #[test]
    fn a_record_is_counted_from_its_first_version_until_it_is_removed() {
        let mut table = SkipTable::default();
        assert!(table.insert(Instant::now(), &key("a", "1"), 1, &"too long"));
        assert!(!table.insert(Instant::now(), &key("a", "1"), 1, &"too long"));
        assert!(table.insert(Instant::now(), &key("a", "1"), 2, &"no JSON"));
        assert!(table.insert(Instant::now(), &key("b", "1"), 2, &"no JSON"));
        assert_eq!(counts(&table), [1, 1, 2]);
        assert_eq!(table.report(Some("a")).first[0].reason, "no JSON");
        table.remove(&key("a", "2"));
        table.remove(&key("a", "1"));
        table.remove(&key("a", "1"));
        assert_eq!(counts(&table), [0, 1, 1]);
    }

    #[test]
    fn a_list_of_one_service_does_not_forget_those_of_another() {
        let mut table = SkipTable::default();
        for (service, id) in [("a", "1"), ("a", "2"), ("b", "1")] {
            table.insert(Instant::now(), &key(service, id), 1, &"no JSON");
        }
        table.retain(Some("a"), |_, id, _| id == "2");
        assert_eq!(counts(&table), [1, 1, 2]);
        table.retain(None, |_, _, version| *version > 1);
        assert_eq!(counts(&table), [0, 0, 0]);
        assert!(table.services.is_empty());
    }

    #[test]
    fn a_hostile_writer_costs_a_bounded_amount() {
        let mut table = SkipTable::default();
        for number in 0..=REMEMBERED {
            table.insert(
                Instant::now(),
                &key("a", &number.to_string()),
                1,
                &"x".repeat(10_000),
            );
        }
        let report = table.report(None);
        assert_eq!(
            (report.count, report.first.len()),
            (REMEMBERED, SkippedRecords::NAMED)
        );
        assert_eq!(report.first[0].reason.len(), LONGEST_REASON);
    }

    #[test]
    fn the_text_names_the_first() {
        let mut table = SkipTable::default();
        table.insert(Instant::now(), &key("a", "a-1\u{1b}"), 1, &"no JSON");
        assert_eq!(
            table.report(None).to_string(),
            r#"1 record skipped: no JSON (node "a-1\u{1b}")"#
        );
        table.insert(Instant::now(), &key("a", "a-2"), 1, &"no JSON");
        assert!(
            table
                .report(None)
                .to_string()
                .starts_with("2 records skipped, the first: ")
        );
    }

    #[test]
    fn digits_are_grouped_by_three() {
        let texts = [0, 999, 1_000, 66_560, 1_000_007].map(|number| Grouped(number).to_string());
        assert_eq!(texts, ["0", "999", "1 000", "66 560", "1 000 007"]);
    }
}
