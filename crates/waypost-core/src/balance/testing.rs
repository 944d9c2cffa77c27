//! Ready peers for the tests of this module.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Pickable, ReadySet};
use crate::peer::{LoadTable, Peer};
use crate::record::{Entry, Node, Service};

pub(super) struct Own(pub(super) Arc<Peer>);

impl Pickable for Own {
    fn peer(&self) -> &Arc<Peer> {
        &self.0
    }
}

pub(super) fn entries(n: usize) -> Vec<Entry> {
    let mut service = Service::new("greeter");
    for i in 0..n {
        service
            .nodes
            .push(Node::with_id("greeter", &i.to_string(), "127.0.0.1:1"));
    }
    service.entries()
}

pub(super) fn peers(n: usize, loads: &LoadTable) -> Vec<(Arc<Own>, Instant)> {
    let now = Instant::now();
    entries(n)
        .into_iter()
        .map(|entry| (Arc::new(Own(Arc::new(Peer::new(entry, loads, now)))), now))
        .collect()
}

pub(super) fn ready_set(n: usize) -> ReadySet {
    let loads = LoadTable::default();
    ReadySet::new(
        &loads,
        peers(n, &loads)
            .into_iter()
            .map(|(own, since)| (Arc::clone(&own.0), since)),
    )
}
