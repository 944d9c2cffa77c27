//! Decoding of records: validation against their key, and interning of their interner.
//!
//! The records of a service usually have the same bytes up to their nodes. If a record begins with
//! a interned prefix, only the rest is decoded.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Weak};

use super::skipped::Grouped;
use crate::record::{
    DecodeError, Entry, Key, KeyLists, NilableVec, Node, RecordLimits, Service, ServiceInfo,
    nodes_at_end,
};

/// Maximum number of [`ServiceInfo`]s of one service that are compared. The bound protects against a hostile
/// writer that makes each lookup long.
const COMPARED: usize = 16;

/// Bytes between the service info and its nodes if the nodes come last, as Go writes them.
const NODES: &[u8] = b",\"nodes\":";
/// Maximum number of occurrences of [`NODES`] that are tried. The bytes may also occur inside the
/// service info.
const PLACES: usize = 4;

/// Error of bytes that are not a record of their key. The record is skipped and counted
/// ([`SkipTable`](super::SkipTable)), and does not hide any other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadRecord {
    /// Error for bytes that are not a record.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// Error for a record longer than [`RecordLimits::read_bytes`].
    #[error("{} bytes, at most {}", Grouped(*.length), Grouped(*.max))]
    TooLong {
        /// Length of the record, in bytes.
        length: usize,
        /// Maximum length, in bytes.
        max: usize,
    },
    /// Error for a record of another service or node than that of its key.
    #[error("the record names service {service:?}, or another node than its key")]
    Misplaced {
        /// Service that the record names.
        service: String,
    },
}

/// Interner of [`ServiceInfo`]s: records with an equal one share it.
#[derive(Debug, Default)]
pub struct Interner {
    limits: RecordLimits,
    interned: HashMap<String, Vec<Interned>>,
    prune_at: usize,
    keys: KeyLists,
}

/// Interned service info.
#[derive(Debug)]
struct Interned {
    info: Weak<ServiceInfo>,
    prefix: Prefix,
}

/// Common prefix of the records with this info, up to the value of their nodes.
#[derive(Debug)]
enum Prefix {
    /// The info occurred once; its prefix is not computed yet.
    Once,
    Bytes(Box<[u8]>),
    /// The nodes do not come last, so there is no common prefix.
    Odd,
}

impl Interner {
    /// Creates an interner that decodes records within `limits`.
    pub fn new(limits: RecordLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Decodes the record of `key`.
    ///
    /// # Errors
    /// [`BadRecord`] if the bytes are not a record, or are the record of another key.
    pub fn decode(&mut self, key: &Key, bytes: &[u8]) -> Result<Entry, BadRecord> {
        let (length, max) = (bytes.len(), self.limits.read_bytes());
        if length > max {
            return Err(BadRecord::TooLong { length, max });
        }
        if let Some((info, node)) = self.decode_alike(key, bytes) {
            return Ok(self.entry(info, node));
        }
        let mut service = Service::from_json(bytes)?;
        let is_ours = service.name == key.service;
        let Some(node) = take(&mut service.nodes, &key.id).filter(|_| is_ours) else {
            return Err(BadRecord::Misplaced {
                service: service.name,
            });
        };
        let info = self.share(ServiceInfo::new(
            service.name,
            service.version,
            service.metadata,
            service.endpoints,
        ));
        self.learn(&info, bytes);
        Ok(self.entry(info, node))
    }

    /// Returns one entry per node of `service`. The info is shared with all equal records.
    pub fn entries(&mut self, service: &Service) -> Vec<Entry> {
        let info = self.share(service.info());
        service
            .nodes
            .iter()
            .map(|node| self.entry(Arc::clone(&info), node.clone()))
            .collect()
    }

    fn entry(&mut self, info: Arc<ServiceInfo>, mut node: Node) -> Entry {
        self.keys.share(&mut node.metadata);
        Entry {
            service: info,
            node: Arc::new(node),
        }
    }

    /// Decodes a record that begins with a interned prefix: the info is reused, and only the nodes are
    /// decoded.
    fn decode_alike(&self, key: &Key, bytes: &[u8]) -> Option<(Arc<ServiceInfo>, Node)> {
        let (info, rest) = self.newest(&key.service).find_map(|interned| {
            let Prefix::Bytes(prefix) = &interned.prefix else {
                return None;
            };
            Some((interned.info.upgrade()?, bytes.strip_prefix(&**prefix)?))
        })?;
        let node = take(&mut nodes_at_end(rest)?, &key.id)?;
        Some((info, node))
    }

    fn newest(&self, service: &str) -> impl Iterator<Item = &Interned> {
        self.interned
            .get(service)
            .into_iter()
            .flat_map(|interned| interned.iter().rev().take(COMPARED))
    }

    fn share(&mut self, info: ServiceInfo) -> Arc<ServiceInfo> {
        self.prune();
        if let Some(same) = self
            .newest(&info.name)
            .filter_map(|interned| interned.info.upgrade())
            .find(|interned| **interned == info)
        {
            return same;
        }
        let interned = self.interned.entry(info.name.clone()).or_default();
        interned.retain(|interned| interned.info.strong_count() > 0);
        let info = Arc::new(info);
        interned.push(Interned {
            info: Arc::downgrade(&info),
            prefix: Prefix::Once,
        });
        info
    }

    /// Computes the prefix when a second record with this info is decoded, since more may follow.
    fn learn(&mut self, info: &Arc<ServiceInfo>, bytes: &[u8]) {
        if Arc::strong_count(info) == 1 {
            return;
        }
        let interned = self.interned.get_mut(&info.name).into_iter().flatten();
        let is_this = |interned: &&mut Interned| interned.info.as_ptr() == Arc::as_ptr(info);
        if let Some(interned) = interned
            .rev()
            .take(COMPARED)
            .find(is_this)
            .filter(|interned| matches!(interned.prefix, Prefix::Once))
        {
            interned.prefix = prefix(info, bytes).map_or(Prefix::Odd, Prefix::Bytes);
        }
    }

    fn prune(&mut self) {
        if self.interned.len() < self.prune_at.max(64) {
            return;
        }
        self.interned.retain(|_, interner| {
            interner
                .iter()
                .any(|interned| interned.info.strong_count() > 0)
        });
        self.prune_at = self.interned.len() * 2;
    }
}

fn take(nodes: &mut NilableVec<Node>, id: &str) -> Option<Node> {
    nodes.iter_mut().find(|node| node.id == id).map(mem::take)
}

/// Returns the bytes up to the value of the nodes if they contain the whole info: completed with a
/// brace, they must decode to an equal info.
fn prefix(info: &ServiceInfo, bytes: &[u8]) -> Option<Box<[u8]>> {
    let is_whole = |at: &usize| {
        let closed = [&bytes[..*at], b"}"].concat();
        Service::from_json(&closed).is_ok_and(|service| service.info() == *info)
    };
    let places = bytes
        .windows(NODES.len())
        .enumerate()
        .filter(|(_, window)| *window == NODES)
        .map(|(at, _)| at);
    let at = places.take(PLACES).find(is_whole)?;
    Some(bytes[..at + NODES.len()].into())
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
        let mut interner = Interner::default();
        let (first, second) = (
            interner.entries(&service("a")),
            interner.entries(&service("a")),
        );
        assert!(Arc::ptr_eq(&first[0].service, &second[1].service));
    }

    #[test]
    fn unused_heads_are_forgotten() {
        let mut interner = Interner::default();
        for number in 0..1_000 {
            interner.entries(&service(&format!("s{number}")));
        }
        assert!(interner.interned.len() <= 64);
    }

    #[test]
    fn a_record_under_another_key_is_no_record() {
        let key = |service: &str, id: &str| Key {
            service: service.into(),
            id: id.into(),
        };
        let bytes = service("a").to_json();
        let mut interner = Interner::default();
        assert_eq!(
            interner
                .decode(&key("a", "a-2"), bytes.as_bytes())
                .unwrap()
                .node
                .address,
            "10.0.0.2:1"
        );
        assert!(matches!(
            interner.decode(&key("b", "a-1"), bytes.as_bytes()),
            Err(BadRecord::Misplaced { .. })
        ));
        assert!(matches!(
            interner.decode(&key("a", "a-3"), bytes.as_bytes()),
            Err(BadRecord::Misplaced { .. })
        ));
        assert!(matches!(
            interner.decode(&key("a", "a-1"), b"{"),
            Err(BadRecord::Undecodable(_))
        ));
        assert!(matches!(
            interner.decode(
                &key("a", "a-1"),
                &vec![b' '; RecordLimits::default().read_bytes() + 1]
            ),
            Err(BadRecord::TooLong { .. })
        ));
    }

    /// Records that are decoded from a interned prefix equal those that are decoded whole.
    #[test]
    fn records_that_begin_alike_are_read_alike() {
        let begin = r#"{"name":"a","version":"1","metadata":{"x":",\"nodes\":"},"endpoints":[{"name":"E","nodes":[]}]"#;
        let node = |id: &str| format!(r#"{{"metadata":{{"k":"v"}},"id":"{id}","address":"h:1"}}"#);
        let plain = |id: &str| format!(r#"{begin},"nodes":[{}]}}"#, node(id));
        let odd = [
            format!(r#"{begin},"nodes":[{},{}]}}"#, node("z"), node("a-3")),
            format!(r#"{begin},"nodes":[{}],"version":"2"}}"#, node("a-3")),
            format!(r#"{begin},"nodes":[{}],"nodes":[]}}"#, node("a-3")),
            format!(r#"{begin},"nodes":[{}]}} "#, node("a-3")),
            format!(r#"{begin},"nodes":[{}]}}}}"#, node("a-3")),
            format!(r#"{begin},"nodes":null}}"#),
            format!(r#"{begin},"nodes":[{{"id":"a-3","address":"\ufffd"}}]}}"#),
            format!(r#"{begin},"nodes":[{}]"#, node("a-3")),
            plain("other"),
        ];
        let key = |id: &str| Key {
            service: "a".into(),
            id: id.into(),
        };
        let shown = |entry: Result<Entry, BadRecord>| entry.map_err(|error| error.to_string());
        let mut interner = Interner::default();
        let first: Vec<_> = ["a-1", "a-2", "a-3"]
            .map(|id| interner.decode(&key(id), plain(id).as_bytes()).unwrap())
            .into();
        assert!(matches!(interner.interned["a"][0].prefix, Prefix::Bytes(_)));
        assert!(
            first
                .iter()
                .all(|entry| Arc::ptr_eq(&entry.service, &first[0].service))
        );
        assert_eq!(
            *first[2].node,
            Interner::default()
                .decode(&key("a-3"), plain("a-3").as_bytes())
                .map(|e| (*e.node).clone())
                .unwrap()
        );
        for bytes in odd {
            let (ours, whole) = (
                interner.decode(&key("a-3"), bytes.as_bytes()),
                Interner::default().decode(&key("a-3"), bytes.as_bytes()),
            );
            assert_eq!(shown(ours), shown(whole), "{bytes}");
        }
    }

    #[test]
    fn nodes_that_do_not_come_last_are_looked_for_once() {
        let record =
            |id: &str| format!(r#"{{"nodes":[{{"id":"{id}"}}],"name":"a","version":"1"}}"#);
        let mut interner = Interner::default();
        let read: Vec<_> = ["1", "2", "3"]
            .map(|id| {
                interner
                    .decode(
                        &Key {
                            service: "a".into(),
                            id: id.into(),
                        },
                        record(id).as_bytes(),
                    )
                    .unwrap()
            })
            .into();
        assert!(matches!(interner.interned["a"][0].prefix, Prefix::Odd));
        assert!(Arc::ptr_eq(&read[0].service, &read[2].service));
    }
}
