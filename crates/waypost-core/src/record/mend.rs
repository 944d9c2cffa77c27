//! Puts JSON in order that Go reads and serde_json does not: bytes that are no UTF-8, halves of surrogate pairs, numbers out of the range of
//! an `f64`. This file knows characters and nothing of records.

use std::iter;

use serde::de::IgnoredAny;

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

/// Writes each number as 0, since no record has a number and serde_json refuses those out of range. What is no number stays to be refused,
/// and spaces keep all else in its column.
pub(super) fn without_numbers(json: &str) -> String {
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(|character: char| character == '"' || is_of_number(character)) {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = if rest.starts_with('"') { string_len(rest) } else { number_len(rest) };
        let (token, after) = rest.split_at(length);
        match is_number(token) {
            true => mended.extend(iter::once('0').chain(iter::repeat_n(' ', length - 1))),
            false => mended.push_str(token),
        }
        rest = after;
    }
    mended + rest
}

fn is_of_number(character: char) -> bool {
    matches!(character, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')
}

fn number_len(json: &str) -> usize {
    json.find(|character| !is_of_number(character)).unwrap_or(json.len())
}

/// Returns the length of the string that `json` begins with, quotes included.
fn string_len(json: &str) -> usize {
    let mut is_escaped = false;
    let is_end = |byte: &u8| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    };
    json.as_bytes().iter().skip(1).position(is_end).map_or(json.len(), |at| at + 2)
}

fn is_number(token: &str) -> bool {
    token.starts_with(|first: char| first == '-' || first.is_ascii_digit()) && serde_json::from_str::<IgnoredAny>(token).is_ok()
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
