//! One test on every etcd.

use tokio::task::JoinSet;

use super::Binary;

/// Runs a test on every etcd of this machine, side by side; what it came to on each, in no order.
///
/// # Panics
/// As the test does; or if there is no etcd, saying what to do.
pub async fn each<F, R, T>(test: F) -> Vec<T>
where
    F: Fn(Binary) -> R,
    R: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let binaries = Binary::all().unwrap_or_else(|failure| panic!("{failure}"));
    let running: JoinSet<T> = binaries.into_iter().map(test).collect();
    running.join_all().await
}
