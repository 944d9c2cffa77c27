//! Puts JSON in order that Go reads and serde_json does not: bytes that are no UTF-8, halves of surrogate pairs. This file knows characters and nothing of records.

/// How Go writes a byte that is no text; a U+FFFD that is text it leaves as it is.
pub(super) const REPLACEMENT: &str = "\\ufffd";
/// The same number of bytes once read, and told apart from U+FFFD.
pub(super) const STAND_IN: &str = "\\ufffe";

/// One U+FFFD for each byte that is no UTF-8, as Go does, where Rust's own lossy reading gives one for several.
pub(super) fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Writes each half of a surrogate pair as U+FFFD, and each escaped U+FFFD as `replacement`.
pub(super) fn mend_escapes(text: &str, replacement: &str) -> String {
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
