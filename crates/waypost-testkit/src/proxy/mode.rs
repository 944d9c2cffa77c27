//! Current faults of the proxy; every connection watches them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;

/// Switches of the proxy. `cuts` and `half_opens` are counters: a connection is affected once the
/// number differs from the one at its start.
#[derive(Clone, Debug)]
pub(super) struct Mode {
    pub(super) target: SocketAddr,
    pub(super) delay: Duration,
    pub(super) refuse: bool,
    pub(super) frozen: bool,
    pub(super) swallow_to_target: bool,
    pub(super) swallow_to_client: bool,
    pub(super) cuts: u64,
    pub(super) half_opens: u64,
}

impl Mode {
    pub(super) fn new(target: SocketAddr) -> Self {
        Self {
            target,
            delay: Duration::ZERO,
            refuse: false,
            frozen: false,
            swallow_to_target: false,
            swallow_to_client: false,
            cuts: 0,
            half_opens: 0,
        }
    }

    pub(super) fn swallows(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToTarget => self.swallow_to_target,
            Direction::ToClient => self.swallow_to_client,
        }
    }
}

/// Direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToTarget,
    ToClient,
}

/// Waits until `wanted` returns true; never returns if the proxy is gone, since its tasks end with
/// it.
pub(super) async fn until(mode: &watch::Receiver<Mode>, wanted: impl FnMut(&Mode) -> bool) {
    if mode.clone().wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}
