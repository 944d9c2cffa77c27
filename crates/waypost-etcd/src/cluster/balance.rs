//! Even spread of the handles of a fleet over the members: return to the first member after a
//! failure, and the end of connections that are no longer used.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{MutexGuard, PoisonError};

use tokio::time::Instant;

use super::{Cluster, now};

/// Rebalance interval against the time after which a connection that nothing uses is closed: a
/// minute by default.
const REBALANCE_PER_IDLE: u32 = 5;

impl Cluster {
    /// Schedules the return to the first member, after a failover or the opening of a stream on
    /// another member. Also if the first is current again: streams may be open on the others.
    pub(super) fn schedule_return(&self) {
        let delay = self.timing.rebalance_in(&mut fastrand::Rng::new());
        *self.return_at() = Some(now() + delay);
    }

    fn return_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.return_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the first member current again, if that is due and it can be reached. Returns true if
    /// it did: the streams on other members should move there.
    pub(crate) async fn rebalance(&self) -> bool {
        if self.return_at().is_none_or(|at| now() < at) {
            return false;
        }
        let deadline = now() + self.timing.request_timeout;
        let is_connected = self.connect_member(0, true, deadline).await.is_some();
        match is_connected {
            true => {
                *self.return_at() = None;
                self.current.store(0, Relaxed);
                tracing::debug!(member = %self.members[0].address, "returning to etcd member");
            }
            false => self.schedule_return(),
        }
        is_connected
    }

    /// Closes the connections to other members than the current one that nothing has used for
    /// some time.
    pub(crate) fn close_idle(&self) {
        let current = self.current.load(Relaxed);
        let timeout = self.timing.rebalance_interval / REBALANCE_PER_IDLE;
        for (index, member) in self.members.iter().enumerate() {
            member.state().close_idle(now(), index == current, timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::sleep;
    use waypost_http::TcpConnect;
    use waypost_testkit::etcd::{Binary, Etcd, Options};

    use super::*;
    use crate::cluster::BidiStream;
    use crate::rpc::{WatchCreateRequest, WatchRequest, WatchRequestUnion};
    use crate::timing::Timing;

    const REBALANCE: Duration = Duration::from_millis(200);

    /// A failover may end at the first member while a stream is open on another.
    #[tokio::test]
    async fn a_stream_elsewhere_returns_although_the_first_member_is_current() {
        let binary = Binary::all().unwrap().remove(0);
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        // Two addresses of one member serve as two members.
        let port = etcd.addresses()[0].port();
        let addresses = ["127.0.0.1", "localhost"].map(|host| format!("{host}:{port}"));
        let addresses = addresses.map(|address| address.parse().unwrap()).into();
        let timing = Timing {
            rebalance_interval: REBALANCE,
            ..Timing::default()
        };
        let cluster = Cluster::new(addresses, Arc::new(TcpConnect), None, timing);
        let (cluster, deadline) = (Arc::new(cluster), now() + Duration::from_secs(5));

        let first = cluster.connection(true, deadline).await.unwrap();
        assert!(!first.is_elsewhere() && cluster.rotate(&first));
        let mut stream = BidiStream::<WatchRequest>::new(&cluster, 1, deadline);
        let create = WatchCreateRequest {
            key: b"/a".to_vec(),
            ..WatchCreateRequest::default()
        };
        let create = WatchRequestUnion::Create(create).into();
        assert!(stream.try_send(create).is_ok());
        assert!(stream.next().await.unwrap().created && stream.is_elsewhere());
        let second = cluster.connection(true, deadline).await.unwrap();
        assert!(second.is_elsewhere() && cluster.rotate(&second));
        let current = cluster.connection(true, deadline).await.unwrap();
        assert!(!current.is_elsewhere(), "the first member is current again");

        sleep(REBALANCE * 2).await;
        assert!(cluster.rebalance().await, "the stream stays elsewhere");
        assert!(!cluster.rebalance().await, "once is enough");
        cluster.close().await;
    }
}
