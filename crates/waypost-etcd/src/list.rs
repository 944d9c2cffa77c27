//! Lists: all records of a range at one revision, in pages limited by size. Each page is decoded as
//! it arrives, so that only one is held in encoded form.

use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Entry;

use crate::members::Members;
use crate::records::Records;
use crate::space::Range;
use crate::trouble::Trouble;
use crate::wire::{KeyValue, RangeRequest};

/// Target size of a page in bytes. It is about a hundredth of the largest list, so that it costs
/// little memory. Smaller pages cost more, since an old etcd walks to the end of the range for each.
const PAGE: usize = 8 << 20;
const SHORTEST_PAGE: i64 = 100;
const LONGEST_PAGE: i64 = 10_000;

/// Limits of the first page: for the first try, and for each new one after the revision was
/// compacted meanwhile. The last try is a single page, which no compaction can interrupt.
const FIRST_PAGES: [i64; 3] = [2_000, LONGEST_PAGE, ALL];
const ALL: i64 = 0;

/// Records at one revision.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) revision: i64,
    pub(crate) entries: Vec<Entry>,
}

/// Consistency of a range request, in etcd's words linearizable or serializable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Linearizable: agreed by a quorum of the cluster.
    Agreed,
    /// Serializable: the local data of one member, available without a quorum.
    OneMembers,
}

/// Lists one service, or all; `timeout` applies to each page.
///
/// # Errors
/// The cluster does not respond, or denies the request.
pub(crate) async fn list(
    members: &Members,
    records: &Records,
    service: Option<&str>,
    reading: Reading,
    timeout: Duration,
) -> Result<Listing, Trouble> {
    let range = records.space().range(service);
    let mut listed = Err(Trouble::Compacted(
        "the list was compacted while it was read".to_owned(),
    ));
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
            // The connection may be too slow for a page of this size.
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
    if limit == ALL {
        LONGEST_PAGE
    } else {
        limit / 8
    }
}

/// Returns the first key after this one.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// Returns the number of records of the next page, from the size of the last one.
fn next_limit(limit: i64, page: &[KeyValue]) -> i64 {
    if page.is_empty() {
        return limit;
    }
    let bytes: usize = page
        .iter()
        .map(|kv| kv.key.len() + kv.value.len() + 32)
        .sum();
    let fitting = i64::try_from(PAGE / (bytes / page.len()).max(1)).unwrap_or(LONGEST_PAGE);
    // Records in a page of a few large ones are followed by more of them: grow by a factor of two
    // only.
    if limit < SHORTEST_PAGE {
        fitting.clamp(1, limit * 2)
    } else {
        fitting.clamp(SHORTEST_PAGE, LONGEST_PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(records: usize, bytes: usize) -> Vec<KeyValue> {
        vec![
            KeyValue {
                value: vec![0; bytes],
                ..KeyValue::default()
            };
            records
        ]
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
