//! Records read: checked against the key they stand under, and their heads shared.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::record::{DecodeError, Entry, Head, Key, Service};

/// The longest record that is read, in bytes: 64 KiB, and 1 KiB more for the instance and the mark that are added to what was checked.
pub const LONGEST_RECORD: usize = 65 * 1024;

/// More heads than this of one version are not looked through; a hostile writer could make each look-up long.
const COMPARED: usize = 16;

/// Why the bytes under a key are no record of that key. It is skipped, counted, and hides no other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadRecord {
    /// The bytes are no record.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// It is longer than [`LONGEST_RECORD`].
    #[error("the record is {0} bytes long, more than the {LONGEST_RECORD} allowed")]
    TooLong(usize),
    /// It is a record of another service or node than its key says.
    #[error("the record names service {service:?}, or another node than its key")]
    Misplaced {
        /// The service it names.
        service: String,
    },
}

/// The heads in use, so that records that say the same share one.
#[derive(Debug, Default)]
pub struct Heads {
    known: HashMap<(String, String), Vec<Weak<Head>>>,
    prune_at: usize,
}

impl Heads {
    /// Reads the record that stands under `key`.
    ///
    /// # Errors
    /// [`BadRecord`] if it is none, or one of another key.
    pub fn decode(&mut self, key: &Key, bytes: &[u8]) -> Result<Entry, BadRecord> {
        if bytes.len() > LONGEST_RECORD {
            return Err(BadRecord::TooLong(bytes.len()));
        }
        let service = Service::from_json(bytes)?;
        let node = service.nodes.iter().find(|node| node.id == key.id).filter(|_| service.name == key.service);
        let Some(node) = node.cloned() else { return Err(BadRecord::Misplaced { service: service.name }) };
        Ok(Entry { head: self.share(service.head()), node: Arc::new(node) })
    }

    /// The nodes of `service`, one entry each, sharing a head with all that say the same.
    pub fn entries(&mut self, service: &Service) -> Vec<Entry> {
        let head = self.share(service.head());
        service.nodes.iter().map(|node| Entry { head: Arc::clone(&head), node: Arc::new(node.clone()) }).collect()
    }

    fn share(&mut self, head: Head) -> Arc<Head> {
        self.prune();
        let known = self.known.entry((head.name.clone(), head.version.clone())).or_default();
        known.retain(|head| head.strong_count() > 0);
        if let Some(same) = known.iter().rev().take(COMPARED).filter_map(Weak::upgrade).find(|known| **known == head) {
            return same;
        }
        let head = Arc::new(head);
        known.push(Arc::downgrade(&head));
        head
    }

    fn prune(&mut self) {
        if self.known.len() < self.prune_at.max(64) {
            return;
        }
        self.known.retain(|_, heads| heads.iter().any(|head| head.strong_count() > 0));
        self.prune_at = self.known.len() * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Node;

    fn service(name: &str) -> Service {
        let mut service = Service::new(name);
        service.nodes.push(Node::with_id(name, "1", "10.0.0.1:1"));
        service.nodes.push(Node::with_id(name, "2", "10.0.0.2:1"));
        service
    }

    #[test]
    fn equal_heads_are_one() {
        let mut heads = Heads::default();
        let (first, second) = (heads.entries(&service("a")), heads.entries(&service("a")));
        assert!(Arc::ptr_eq(&first[0].head, &second[1].head));
    }

    #[test]
    fn unused_heads_are_forgotten() {
        let mut heads = Heads::default();
        for number in 0..1_000 {
            heads.entries(&service(&format!("s{number}")));
        }
        assert!(heads.known.len() <= 64);
    }

    #[test]
    fn a_record_under_another_key_is_no_record() {
        let key = |service: &str, id: &str| Key { service: service.into(), id: id.into() };
        let bytes = service("a").to_json();
        let mut heads = Heads::default();
        assert_eq!(heads.decode(&key("a", "a-2"), bytes.as_bytes()).unwrap().node.address, "10.0.0.2:1");
        assert!(matches!(heads.decode(&key("b", "a-1"), bytes.as_bytes()), Err(BadRecord::Misplaced { .. })));
        assert!(matches!(heads.decode(&key("a", "a-3"), bytes.as_bytes()), Err(BadRecord::Misplaced { .. })));
        assert!(matches!(heads.decode(&key("a", "a-1"), b"{"), Err(BadRecord::Undecodable(_))));
        assert!(matches!(heads.decode(&key("a", "a-1"), &vec![b' '; LONGEST_RECORD + 1]), Err(BadRecord::TooLong(_))));
    }
}
