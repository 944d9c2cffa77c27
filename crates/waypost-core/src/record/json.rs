//! go-micro's JSON: the two directions, and the bytes that need a second look.
//!
//! A record is read in one pass by [`read`](super::read). Only where that fails, or where Go left its mark for bytes that are no text, is it
//! put in order by [`mend`](super::mend) first and read again.

use super::mend::{REPLACEMENT, STAND_IN, mend_escapes, to_text, without_numbers};
use super::{Metadata, NilableVec, Node, Service, read, write};

/// Bytes that are no record. Skip it, count it, and go on with the others.
#[derive(Debug, thiserror::Error)]
#[error("not a go-micro record: {0}")]
pub struct DecodeError(String);

impl Service {
    /// Reads a record as Go does: keys in any letter case, `null` for anything, unknown fields ignored, of two equal keys the later, and
    /// what has the wrong type skipped with the rest kept (a list loses the item, a map keeps its key with no text). A byte that is no
    /// UTF-8 and half of a surrogate pair become one U+FFFD each.
    ///
    /// A number is skipped whatever its size. What is nested deeper than 100 levels, where go-micro writes 8, is skipped too. Names are not
    /// checked: see [`Service::check`].
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are no JSON object, or more than one.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DecodeError> {
        match read::service(bytes) {
            Ok(service) if !holds_replacement(bytes) => Ok(service),
            _ => from_odd_json(bytes).map_err(|error| DecodeError(error.to_string())),
        }
    }

    /// Writes the record as Go's `encoding/json` does, byte for byte.
    pub fn to_json(&self) -> String {
        write::service(self)
    }
}

/// The nodes of a record whose bytes are known up to them, `rest` being those that follow. None if anything comes after the nodes, or a
/// second look is needed: then the record is read whole.
pub(crate) fn nodes_at_end(rest: &[u8]) -> Option<NilableVec<Node>> {
    let list = rest.strip_suffix(b"}")?;
    if list.contains(&b'\\') { None } else { read::nodes(list).ok()? }
}

fn holds_replacement(bytes: &[u8]) -> bool {
    bytes.contains(&b'\\') && bytes.windows(REPLACEMENT.len()).any(|window| window.eq_ignore_ascii_case(REPLACEMENT.as_bytes()))
}

/// Reads twice, with each `\ufffd` as itself and as something else: where the two differ, Go had bytes that are no text.
fn from_odd_json(bytes: &[u8]) -> serde_json::Result<Service> {
    let text = without_numbers(&to_text(bytes));
    let mut service = read::service(mend_escapes(&text, REPLACEMENT).as_bytes())?;
    let mut other = read::service(mend_escapes(&text, STAND_IN).as_bytes())?;
    for (ours, theirs) in metadata(&mut service).zip(metadata(&mut other)) {
        ours.mark_lost(theirs);
    }
    Ok(service)
}

fn metadata(service: &mut Service) -> impl Iterator<Item = &mut Metadata> {
    let endpoints = service.endpoints.iter_mut().map(|endpoint| &mut endpoint.metadata);
    let nodes = service.nodes.iter_mut().map(|node| &mut node.metadata);
    std::iter::once(&mut service.metadata).chain(endpoints).chain(nodes)
}
