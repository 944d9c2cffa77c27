//! Decoding and encoding of go-micro's JSON.
//!
//! A record is decoded in one pass by [`read`](super::read). Two cases take a slower path, in which
//! [`repair`](super::repair) repairs the text before it is decoded again: the first pass failed, or the
//! record has Go's escape for bytes that are not UTF-8.

use super::repair::{REPLACEMENT, STAND_IN, repair_escapes, to_text, without_numbers};
use super::{Metadata, NilableVec, Node, Service, read, write};

/// Error of bytes that are not a record. Skip the record, count it, and continue with the others.
#[derive(Debug, thiserror::Error)]
#[error("not a go-micro record: {0}")]
pub struct DecodeError(String);

impl Service {
    /// Decodes a record as Go does. Keys match in any letter case, `null` is accepted for any
    /// value, and unknown fields are ignored. Of two equal keys the later one wins. A value of the
    /// wrong type is skipped and the rest is kept: a list loses the item, a map keeps its key with
    /// an empty text. Each byte that is not UTF-8, and each unpaired surrogate, becomes one U+FFFD.
    ///
    /// Numbers are skipped regardless of their size. Values nested deeper than 100 levels are
    /// skipped too; go-micro writes 8. Names are not checked: see [`Service::check`].
    ///
    /// ```
    /// use waypost_core::record::Service;
    ///
    /// let record = br#"{"name":"greeter","version":"latest","metadata":null,"endpoints":null,
    ///     "nodes":[{"metadata":{"protocol":"grpc"},"id":"greeter-a","address":"10.0.0.7:9001"}]}"#;
    /// let service = Service::from_json(record)?;
    /// assert_eq!(service.nodes[0].metadata.get("protocol"), Some("grpc"));
    /// assert!(service.endpoints.is_null());
    /// assert!(Service::from_json(b"no record").is_err());
    /// # Ok::<(), waypost_core::record::DecodeError>(())
    /// ```
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not exactly one JSON object.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DecodeError> {
        match read::service(bytes) {
            Ok(service) if !holds_replacement(bytes) => Ok(service),
            _ => from_odd_json(bytes).map_err(|error| DecodeError(error.to_string())),
        }
    }

    /// Encodes the record as Go's `encoding/json` does, byte for byte.
    ///
    /// ```
    /// use waypost_core::record::{Node, Service};
    ///
    /// let mut service = Service::new("greeter");
    /// service.nodes.push(Node::with_id("greeter", "a", "10.0.0.7:9001"));
    /// assert_eq!(
    ///     service.to_json(),
    ///     concat!(
    ///         r#"{"name":"greeter","version":"latest","metadata":null,"endpoints":[],"#,
    ///         r#""nodes":[{"metadata":null,"id":"greeter-a","address":"10.0.0.7:9001"}]}"#,
    ///     )
    /// );
    /// ```
    pub fn to_json(&self) -> String {
        write::service(self)
    }
}

/// Decodes the nodes of a record whose prefix is known; `rest` is the part from the value of the
/// nodes to the end. Returns none if another field follows the nodes, or if the slow path is
/// needed. The caller then decodes the whole record.
pub(crate) fn nodes_at_end(rest: &[u8]) -> Option<NilableVec<Node>> {
    let list = rest.strip_suffix(b"}")?;
    if list.contains(&b'\\') {
        None
    } else {
        read::nodes(list).ok()?
    }
}

fn holds_replacement(bytes: &[u8]) -> bool {
    bytes.contains(&b'\\')
        && bytes
            .windows(REPLACEMENT.len())
            .any(|window| window.eq_ignore_ascii_case(REPLACEMENT.as_bytes()))
}

/// Decodes the text twice, once with each `\ufffd` unchanged and once with another character in its
/// place. Where the two results differ, Go had bytes that are not UTF-8.
fn from_odd_json(bytes: &[u8]) -> serde_json::Result<Service> {
    let text = without_numbers(&to_text(bytes));
    let mut service = read::service(repair_escapes(&text, REPLACEMENT).as_bytes())?;
    let mut other = read::service(repair_escapes(&text, STAND_IN).as_bytes())?;
    for (ours, theirs) in metadata(&mut service).zip(metadata(&mut other)) {
        ours.mark_lost(theirs);
    }
    Ok(service)
}

fn metadata(service: &mut Service) -> impl Iterator<Item = &mut Metadata> {
    let endpoints = service
        .endpoints
        .iter_mut()
        .map(|endpoint| &mut endpoint.metadata);
    let nodes = service.nodes.iter_mut().map(|node| &mut node.metadata);
    std::iter::once(&mut service.metadata)
        .chain(endpoints)
        .chain(nodes)
}
