//! Tests of the testkit, with real processes and real sockets.

mod etcd;
mod fleet;
mod hostile;
mod netns;
mod paths;
mod proxy;

use std::time::Duration;

/// Timeout for anything here on a busy machine; it costs no time when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `there` returns true, and lets other tasks run meanwhile.
async fn eventually(mut there: impl FnMut() -> bool) {
    let wait = async {
        while !there() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("it happens in time");
}
