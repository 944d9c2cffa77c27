//! go-micro's JSON: the two directions, and the bytes that need a second look.
//!
//! A record is read in one pass by [`read`](super::read). Only where that fails, or where Go left its mark for bytes that are no text, is it
//! put in order first and read again.

use super::{List, Metadata, Node, Service, read, write};

/// Bytes that are no record. Skip it, count it, and go on with the others.
#[derive(Debug, thiserror::Error)]
#[error("not a go-micro record: {0}")]
pub struct DecodeError(String);

impl Service {
    /// Reads a record as Go does: keys in any letter case, `null` for anything, unknown fields ignored, of two equal keys the later, and
    /// what has the wrong type skipped with the rest kept (a list loses the item, a map keeps its key with no text). A byte that is no
    /// UTF-8 and half of a surrogate pair become one U+FFFD each.
    ///
    /// Nothing is read that is nested deeper than 128 levels, where go-micro writes 8. Names are not checked: see [`Service::check`].
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
pub(crate) fn nodes_at_end(rest: &[u8]) -> Option<List<Node>> {
    let list = rest.strip_suffix(b"}")?;
    if list.contains(&b'\\') { None } else { read::nodes(list).ok()? }
}

/// How Go writes a byte that is no text; a U+FFFD that is text it leaves as it is.
const REPLACEMENT: &str = "\\ufffd";
/// The same number of bytes once read, and told apart from U+FFFD.
const STAND_IN: &str = "\\ufffe";

fn holds_replacement(bytes: &[u8]) -> bool {
    bytes.contains(&b'\\') && bytes.windows(REPLACEMENT.len()).any(|window| window.eq_ignore_ascii_case(REPLACEMENT.as_bytes()))
}

/// Reads twice, with each `\ufffd` as itself and as something else: where the two differ, Go had bytes that are no text.
fn from_odd_json(bytes: &[u8]) -> serde_json::Result<Service> {
    let text = to_text(bytes);
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

/// One U+FFFD for each byte that is no UTF-8, as Go does, where Rust's own lossy reading gives one for several.
fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Writes each half of a surrogate pair as U+FFFD, and each escaped U+FFFD as `replacement`.
fn mend_escapes(text: &str, replacement: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let (length, escape) = mend_escape(rest, replacement);
        mended.push_str(escape);
        rest = &rest[length..];
    }
    mended + rest
}

/// The length of the escape that `rest` begins with, and what to write for it.
fn mend_escape<'a>(rest: &'a str, replacement: &'a str) -> (usize, &'a str) {
    let same = |length: usize| (length, &rest[..length]);
    match code_unit(rest) {
        Some(0xd800..0xdc00) if code_unit(&rest[6..]).is_some_and(|low| (0xdc00..0xe000).contains(&low)) => same(12),
        Some(0xd800..0xe000) => (6, REPLACEMENT),
        Some(0xfffd) => (6, replacement),
        Some(_) => same(6),
        None => same(1 + rest.chars().nth(1).map_or(0, char::len_utf8)),
    }
}

fn code_unit(escape: &str) -> Option<u16> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}
