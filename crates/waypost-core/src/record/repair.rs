//! Repair of JSON that Go accepts and serde_json rejects: bytes that are not UTF-8, unpaired
//! surrogates, numbers out of the range of an `f64`. The functions work on characters and do not
//! depend on the shape of a record.

use std::iter;

use serde::de::IgnoredAny;

/// Go's escape for a byte that is not UTF-8. Go writes a U+FFFD of the text itself without an
/// escape.
pub(super) const REPLACEMENT: &str = "\\ufffd";
/// Escape of another character with the same length in UTF-8, distinguishable from U+FFFD.
pub(super) const STAND_IN: &str = "\\ufffe";

/// Decodes text with one U+FFFD for each byte that is not UTF-8, as Go does. Rust's own lossy
/// decoding writes one for several bytes.
pub(super) fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Replaces each number by 0, since no field of a record is a number and serde_json rejects those
/// out of range. Invalid numbers are kept, so that the decoder rejects them. Spaces pad each 0, so
/// that the columns do not change.
pub(super) fn without_numbers(json: &str) -> String {
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(|character: char| character == '"' || is_of_number(character)) {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = if rest.starts_with('"') {
            string_len(rest)
        } else {
            number_len(rest)
        };
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
    json.find(|character| !is_of_number(character))
        .unwrap_or(json.len())
}

/// Returns the length of the string at the start of `json`, quotes included.
fn string_len(json: &str) -> usize {
    let mut is_escaped = false;
    let is_end = |byte: &u8| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    };
    json.as_bytes()
        .iter()
        .skip(1)
        .position(is_end)
        .map_or(json.len(), |at| at + 2)
}

fn is_number(token: &str) -> bool {
    token.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && serde_json::from_str::<IgnoredAny>(token).is_ok()
}

/// Replaces each unpaired surrogate by U+FFFD, and each escaped U+FFFD by `replacement`.
pub(super) fn repair_escapes(text: &str, replacement: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        mended.push_str(&rest[..at]);
        rest = &rest[at..];
        let (length, escape) = repair_escape(rest, replacement);
        mended.push_str(escape);
        rest = &rest[length..];
    }
    mended + rest
}

/// Returns the length of the escape at the start of `rest`, and its replacement.
fn repair_escape<'a>(rest: &'a str, replacement: &'a str) -> (usize, &'a str) {
    let same = |length: usize| (length, &rest[..length]);
    match code_unit(rest) {
        Some(0xd800..0xdc00)
            if code_unit(&rest[6..]).is_some_and(|low| (0xdc00..0xe000).contains(&low)) =>
        {
            same(12)
        }
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
