//! Run of one test on every etcd of the machine.

use tokio::task::JoinSet;

use super::Binary;

/// Runs a test on every etcd of this machine, concurrently, and returns its results in no
/// particular order.
///
/// # Panics
/// The test panics, or there is no etcd; the message then says what to do.
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
