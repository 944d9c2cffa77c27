//! Lists: all records of a range at one revision, in pages of about so many bytes. Each page is read as it comes, so that no more than one
//! is held as etcd sent it.

use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Entry;

use crate::members::Members;
use crate::records::Records;
use crate::space::Range;
use crate::trouble::Trouble;
use crate::wire::{KeyValue, RangeRequest};

/// How long a page should be; a hundredth of what a list may hold costs little, and a small page costs an old etcd a walk to the end.
const PAGE: usize = 8 << 20;
const SHORTEST_PAGE: i64 = 100;
const LONGEST_PAGE: i64 = 10_000;

/// The first page of a list, and of one that begins anew because its revision was compacted meanwhile; at last all in one, which
/// nothing can come between.
const FIRST_PAGES: [i64; 3] = [2_000, LONGEST_PAGE, ALL];
const ALL: i64 = 0;

/// What there was at one revision.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) revision: i64,
    pub(crate) entries: Vec<Entry>,
}

/// Whether a member may answer from what it has, without asking the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// What the cluster has agreed on.
    Agreed,
    /// What one member has: also while the cluster cannot agree.
    OneMembers,
}

/// Lists a service, or all; each page may take the timeout.
///
/// # Errors
/// The cluster does not answer, or refuses.
pub(crate) async fn list(
    members: &Members,
    records: &Records,
    service: Option<&str>,
    reading: Reading,
    timeout: Duration,
) -> Result<Listing, Trouble> {
    let range = records.space().range(service);
    let mut listed = Err(Trouble::Compacted("the list was compacted while it was read".to_owned()));
    for first in FIRST_PAGES {
        listed = list_from(members, records, &range, reading, timeout, first).await;
        if !matches!(listed, Err(Trouble::Compacted(_))) {
            break;
        }
    }
    listed
}

async fn list_from(
    members: &Members,
    records: &Records,
    range: &Range,
    reading: Reading,
    timeout: Duration,
    first: i64,
) -> Result<Listing, Trouble> {
    let mut listing = Listing::default();
    let (mut limit, mut longest) = (first, LONGEST_PAGE);
    let mut from = range.key.clone();
    loop {
        let question = RangeRequest {
            key: from.clone(),
            range_end: range.end.clone(),
            limit,
            revision: listing.revision,
            serializable: reading == Reading::OneMembers,
        };
        let answer = match members.ask(question, Instant::now() + timeout).await {
            Err(Trouble::TooLong(_)) if limit != 1 => {
                limit = shorter(limit).max(1);
                continue;
            }
            // The way there may be too slow for a page of that length.
            Err(Trouble::Silent(_)) if limit == ALL || limit > SHORTEST_PAGE => {
                longest = shorter(limit).max(SHORTEST_PAGE);
                limit = longest;
                continue;
            }
            answer => answer?,
        };
        if listing.revision == 0 {
            listing.revision = answer.header.map_or(0, |header| header.revision);
        }
        limit = next_limit(limit, &answer.kvs).min(longest);
        let last = answer.kvs.last().map(|kv| kv.key.clone());
        listing.entries.extend(records.entries(&answer.kvs));
        match last {
            Some(key) if answer.more => from = after(key),
            _ => return Ok(listing),
        }
    }
}

fn shorter(limit: i64) -> i64 {
    if limit == ALL { LONGEST_PAGE } else { limit / 8 }
}

/// The first key after this one.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// How many records make a page, going by the last.
fn next_limit(limit: i64, page: &[KeyValue]) -> i64 {
    if page.is_empty() {
        return limit;
    }
    let bytes: usize = page.iter().map(|kv| kv.key.len() + kv.value.len() + 32).sum();
    let fitting = i64::try_from(PAGE / (bytes / page.len()).max(1)).unwrap_or(LONGEST_PAGE);
    // A page of a few giants says that more may come.
    if limit < SHORTEST_PAGE { fitting.clamp(1, limit * 2) } else { fitting.clamp(SHORTEST_PAGE, LONGEST_PAGE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(records: usize, bytes: usize) -> Vec<KeyValue> {
        vec![KeyValue { value: vec![0; bytes], ..KeyValue::default() }; records]
    }

    #[test]
    fn pages_are_so_many_bytes() {
        assert_eq!(next_limit(2_000, &page(10, 500)), LONGEST_PAGE);
        assert_eq!(next_limit(2_000, &page(10, 8_000)), (PAGE / 8_032) as i64);
        assert_eq!(next_limit(2_000, &page(3, 1 << 20)), SHORTEST_PAGE);
        assert_eq!(next_limit(31, &page(31, 1 << 20)), 7);
        assert_eq!(next_limit(31, &page(31, 100)), 62);
    }
}
