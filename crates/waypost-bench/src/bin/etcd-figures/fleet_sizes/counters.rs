//! Counters of one etcd, all members together.

use std::time::Duration;

use tokio::time::Instant;
use waypost_testkit::etcd::Etcd;
use waypost_testkit::report::Result;

use crate::usage;

/// Counters since the start of each member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    at: Instant,
    /// Messages received from clients.
    pub(crate) messages: f64,
    /// Range requests received.
    pub(crate) lists: f64,
    /// Watch streams that have ended.
    pub(crate) streams_ended: f64,
    pub(crate) cpu: Duration,
    pub(crate) memory_mib: f64,
}

/// Growth per second between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) messages: f64,
    pub(crate) lists: f64,
    pub(crate) streams_ended: f64,
    /// Cores in use.
    pub(crate) cores: f64,
}

impl Counters {
    /// Reads the counters of the members that are up.
    pub(crate) async fn at(etcd: &mut Etcd) -> Result<Self> {
        let mut sum = Self {
            at: Instant::now(),
            messages: 0.0,
            lists: 0.0,
            streams_ended: 0.0,
            cpu: Duration::ZERO,
            memory_mib: 0.0,
        };
        for index in 0..etcd.size() {
            let member = etcd.member(index);
            let Some(pid) = member.pid().filter(|_| member.is_up()) else {
                continue;
            };
            let metrics = member.metrics().await?;
            let count = |name, labels: &[&str]| metrics.get(name, labels).unwrap_or(0.0);
            sum.messages += count("grpc_server_msg_received_total", &[]);
            sum.lists += count(
                "grpc_server_started_total",
                &["\"etcdserverpb.KV\"", "\"Range\""],
            );
            sum.streams_ended += count("grpc_server_handled_total", &["\"etcdserverpb.Watch\""]);
            sum.cpu += usage::cpu(pid)?;
            sum.memory_mib += usage::resident_mib(pid)?;
        }
        sum.at = Instant::now();
        Ok(sum)
    }

    /// Returns the rates since an earlier moment. A member that was restarted since counts from
    /// zero; its rates are those of its own life.
    pub(crate) fn since(&self, before: &Self) -> Rates {
        let seconds = (self.at - before.at).as_secs_f64();
        let rate = |now: f64, before: f64| if now < before { now } else { now - before } / seconds;
        Rates {
            messages: rate(self.messages, before.messages),
            lists: rate(self.lists, before.lists),
            streams_ended: rate(self.streams_ended, before.streams_ended),
            cores: rate(self.cpu.as_secs_f64(), before.cpu.as_secs_f64()),
        }
    }
}
