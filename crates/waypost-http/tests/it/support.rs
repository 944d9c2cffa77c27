//! Helpers for clients, used by several test files.

use std::time::Duration;

use waypost_core::balance::Decision;
use waypost_http::ServiceChannel;

use crate::net::call;

/// Waits until every node is picked.
pub(crate) async fn all_ready(sender: &ServiceChannel) {
    sender.ready(Duration::from_secs(5)).await.unwrap();
    while sender
        .snapshot()
        .nodes
        .iter()
        .any(|node| node.decision != Decision::Picked)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until every node is picked, and has responded.
pub(crate) async fn all_used(sender: &ServiceChannel) {
    all_ready(sender).await;
    while sender.snapshot().nodes.iter().any(|node| node.calls == 0) {
        call(sender, "/act", "hi").await.unwrap();
    }
}
