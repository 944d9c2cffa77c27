//! Lists: all records of a range at one revision, in pages limited by size. Each page is decoded as
//! it arrives, so that only one is held in encoded form.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::Entry;

use crate::cluster::Cluster;
use crate::error::EtcdError;
use crate::records::Records;
use crate::rpc::{KeyValue, RangeRequest};

/// Target size of a page in bytes. It is about a hundredth of the largest list, so that it costs
/// little memory. Smaller pages cost more, since an old etcd walks to the end of the range for each.
const PAGE_BYTES: usize = 8 << 20;
const MIN_PAGE: i64 = 100;
const MAX_PAGE: i64 = 10_000;

/// Limits of the first page: for the first try, when the size of the records is unknown, and for each
/// new one after the revision was compacted meanwhile. The last try is a single page, which no
/// compaction can interrupt.
const FIRST_LIMITS: [i64; 3] = [250, MAX_PAGE, ALL];
const ALL: i64 = 0;

/// Records at one revision.
#[derive(Debug, Default)]
pub(crate) struct RecordList {
    pub(crate) revision: i64,
    pub(crate) entries: Vec<Entry>,
}

/// Consistency of a range request, in etcd's words linearizable or serializable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// Linearizable: agreed by a quorum of the cluster.
    Linearizable,
    /// Serializable: the local data of one member, available without a quorum.
    Serializable,
}

/// Lists one service, or all; `timeout` applies to each page.
///
/// # Errors
/// The cluster does not respond, or denies the request.
pub(crate) async fn list(
    cluster: &Cluster,
    records: &Records,
    service: Option<&str>,
    consistency: Consistency,
    timeout: Duration,
) -> Result<RecordList, EtcdError> {
    let mut listed = Err(EtcdError::Compacted(
        "the list was compacted while it was read".to_owned(),
    ));
    for first_limit in FIRST_LIMITS {
        listed = list_from(cluster, records, service, consistency, timeout, first_limit).await;
        if !matches!(listed, Err(EtcdError::Compacted(_))) {
            break;
        }
    }
    listed
}

async fn list_from(
    cluster: &Cluster,
    records: &Records,
    service: Option<&str>,
    consistency: Consistency,
    timeout: Duration,
    first_limit: i64,
) -> Result<RecordList, EtcdError> {
    let range = records.key_space().range(service);
    let (mut listing, mut skipped) = (RecordList::default(), HashSet::new());
    let (mut limit, mut max_limit) = (first_limit, MAX_PAGE);
    let mut start = range.key.clone();
    loop {
        let request = RangeRequest {
            key: start.clone(),
            range_end: range.end.clone(),
            limit,
            revision: listing.revision,
            serializable: consistency == Consistency::Serializable,
        };
        let response = match cluster.call(request, Instant::now() + timeout).await {
            Err(EtcdError::TooLarge(_)) if limit != 1 => {
                limit = reduced(limit).max(1);
                continue;
            }
            // The connection may be too slow for a page of this size.
            Err(EtcdError::Timeout(_)) if limit == ALL || limit > MIN_PAGE => {
                max_limit = reduced(limit).max(MIN_PAGE);
                limit = max_limit;
                continue;
            }
            response => response?,
        };
        if listing.revision == 0 {
            listing.revision = response.header.map_or(0, |header| header.revision);
        }
        limit = next_limit(limit, &response.kvs).min(max_limit);
        let last = response.kvs.last().map(|kv| kv.key.clone());
        listing
            .entries
            .extend(records.entries(&response.kvs, &mut skipped));
        match last {
            Some(key) if response.more => start = after(key),
            _ => {
                records.listed(service, listing.revision, &skipped);
                return Ok(listing);
            }
        }
    }
}

fn reduced(limit: i64) -> i64 {
    if limit == ALL { MAX_PAGE } else { limit / 8 }
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
    let fitting = i64::try_from(PAGE_BYTES / (bytes / page.len()).max(1)).unwrap_or(MAX_PAGE);
    // Records in a page of a few large ones are followed by more of them: grow by a factor of two
    // only.
    if limit < MIN_PAGE {
        fitting.clamp(1, limit * 2)
    } else {
        fitting.clamp(MIN_PAGE, MAX_PAGE)
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
    fn the_limit_of_a_page_follows_the_size_of_the_records() {
        assert_eq!(next_limit(2_000, &page(10, 500)), MAX_PAGE);
        assert_eq!(
            next_limit(2_000, &page(10, 8_000)),
            (PAGE_BYTES / 8_032) as i64
        );
        assert_eq!(next_limit(2_000, &page(3, 1 << 20)), MIN_PAGE);
        assert_eq!(next_limit(31, &page(31, 1 << 20)), 7);
        assert_eq!(next_limit(31, &page(31, 100)), 62);
    }
}
