//! The testkit under test: real processes, real sockets.

mod etcd;
mod fleet;
mod hostile;
mod netns;
mod paths;
mod proxy;

use std::time::Duration;

/// Long enough for anything here on a busy machine; nothing waits for it when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `there`, letting others run.
async fn eventually(mut there: impl FnMut() -> bool) {
    let wait = async {
        while !there() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("it happens in time");
}
