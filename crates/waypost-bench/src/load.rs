//! Closed loop of callers, and the results of their calls.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::{Request, Status};
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_testkit::report::{quantile, rounded};

use crate::cpu::thread_cpu;

/// Caller that makes one unary call after another, over any channel.
pub(crate) trait Caller: Clone + Send + 'static {
    fn hello(&mut self) -> impl Future<Output = Result<(), Status>> + Send;
}

impl<T> Caller for GreeterClient<T>
where
    T: GrpcService<tonic::body::Body, Future: Send, Error: Into<StdError>>
        + Clone
        + Send
        + Sync
        + 'static,
    T::ResponseBody: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    async fn hello(&mut self) -> Result<(), Status> {
        GreeterClient::hello(
            self,
            Request::new(HelloRequest {
                name: "Ann".to_owned(),
            }),
        )
        .await
        .map(drop)
    }
}

/// Calls of one loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    /// Latencies of all calls, in milliseconds.
    pub(crate) ms: Vec<f64>,
    pub(crate) failed: u64,
    /// CPU time of this thread.
    pub(crate) cpu: Duration,
    pub(crate) error: Option<String>,
}

impl Calls {
    pub(crate) fn add(&mut self, other: Self) {
        self.ms.extend(other.ms);
        self.failed += other.failed;
        self.cpu += other.cpu;
        self.error = self.error.take().or(other.error);
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.ms.len().max(1) as f64
    }

    pub(crate) fn shown(&self) -> String {
        let (p50, p99) = (quantile(&self.ms, 0.5), quantile(&self.ms, 0.99));
        let calls = self.ms.len();
        format!(
            "{calls:>7} calls {:>6} failed  p50 {p50:>7.1} ms  p99 {p99:>7.1} ms  {:>6.1} us CPU a call",
            self.failed,
            self.cpu_us()
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "calls": self.ms.len(), "failed": self.failed, "p50_ms": rounded(quantile(&self.ms, 0.5)),
            "p99_ms": rounded(quantile(&self.ms, 0.99)), "cpu_us": rounded(self.cpu_us()), "error": self.error,
        })
    }
}

/// Runs this many callers for `time`, and waits for their last calls.
pub(crate) async fn closed_loop(caller: &impl Caller, callers: usize, time: Duration) -> Calls {
    let stop = Arc::new(AtomicBool::new(false));
    let start = thread_cpu();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        tasks.spawn(call_on(caller.clone(), Arc::clone(&stop)));
    }
    sleep(time).await;
    stop.store(true, Relaxed);
    let mut sum = Calls::default();
    while let Some(ended) = tasks.join_next().await {
        sum.add(ended.unwrap_or_default());
    }
    sum.cpu = thread_cpu() - start;
    sum
}

async fn call_on(mut caller: impl Caller, stop: Arc<AtomicBool>) -> Calls {
    let mut calls = Calls::default();
    while !stop.load(Relaxed) {
        let start = Instant::now();
        let answer = caller.hello().await;
        calls.ms.push(start.elapsed().as_secs_f64() * 1e3);
        if let Err(status) = answer {
            calls.failed += 1;
            calls
                .error
                .get_or_insert_with(|| format!("{:?}: {}", status.code(), status.message()));
        }
    }
    calls
}
