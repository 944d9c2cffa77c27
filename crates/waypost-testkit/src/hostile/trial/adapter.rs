//! Adapter of the client under trial. No other file of the trial uses the client's own types.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tonic::{Code, Request};
use waypost::balance::Decision;
use waypost::record::Address;
use waypost::{AddressPolicy, AnyRegistry, Connect, TcpConnect};
use waypost_greeter::greeter::HelloRequest;
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_http::Connecting;

use super::Defect;
use super::plan::Plan;
use super::world::{SERVICE, VERSION, World};
use crate::Failure;

/// Client under trial, with one of its channels.
pub(super) struct Subject {
    client: waypost::Client,
    channel: waypost::Channel,
    calm: Arc<AtomicBool>,
}

impl Subject {
    pub(super) fn new(world: &World, plan: &Plan) -> Result<Self, Failure> {
        let calm = Arc::new(AtomicBool::new(false));
        let connect = PanickingConnect {
            percent: plan.panics_percent,
            seed: plan.seed,
            dials: AtomicU64::new(0),
            calm: Arc::clone(&calm),
        };
        let registry = AnyRegistry::new(world.registry.open());
        let client = waypost::Client::builder(registry).build_with(connect);
        let channel = client.channel_builder(SERVICE).version(VERSION).build();
        let channel = channel.map_err(|error| Failure::new(error.to_string()))?;
        Ok(Self {
            client,
            channel,
            calm,
        })
    }

    pub(super) fn caller(&self) -> TrialCaller {
        TrialCaller(GreeterClient::new(self.channel.clone()))
    }

    /// Ends the panics of the connector.
    pub(super) fn heal(&self) {
        self.calm.store(true, Relaxed);
    }

    /// Returns a description of each node with calls in flight.
    pub(super) fn in_flight(&self) -> Vec<String> {
        let nodes = self
            .channel
            .snapshot()
            .nodes
            .into_iter()
            .filter(|node| node.in_flight > 0);
        nodes
            .map(|node| format!("{}: {} calls", node.id, node.in_flight))
            .collect()
    }

    /// Returns the defect of each of these nodes, which do not respond: it depends on whether the
    /// client considers the node ready.
    pub(super) fn explain(&self, silent: &[String]) -> Vec<Defect> {
        let nodes = self.channel.snapshot().nodes;
        let defect = |id: &String| {
            let Some(node) = nodes.iter().find(|node| node.id == *id) else {
                return Defect::NeverConnected(format!("{id} is not known"));
            };
            let text = format!(
                "{id}: {}, {:?} for {} ms, {:?}",
                node.decision, node.connection, node.since_ms, node.last_failure
            );
            if node.decision == Decision::Picked {
                Defect::NeverAnswers(text)
            } else {
                Defect::NeverConnected(text)
            }
        };
        silent.iter().map(defect).collect()
    }

    pub(super) async fn close(self) {
        self.client.close().await;
    }
}

/// Caller on the channel under trial.
#[derive(Clone)]
pub(super) struct TrialCaller(GreeterClient<waypost::Channel>);

impl TrialCaller {
    /// Makes one call with this deadline; fails with the status code of the call.
    pub(super) async fn call(&mut self, deadline: Duration) -> Result<(), Code> {
        let mut request = Request::new(HelloRequest {
            name: "Ann".to_owned(),
        });
        request.set_timeout(deadline);
        self.0
            .hello(request)
            .await
            .map(drop)
            .map_err(|status| status.code())
    }
}

/// TCP connector that panics in some of its dials, without a message on stderr.
#[derive(Debug)]
struct PanickingConnect {
    percent: u8,
    seed: u64,
    dials: AtomicU64,
    calm: Arc<AtomicBool>,
}

impl Connect for PanickingConnect {
    fn connect<'a>(&'a self, address: &'a Address, policy: &'a AddressPolicy) -> Connecting<'a> {
        let dial = self.dials.fetch_add(1, Relaxed);
        let drawn = fastrand::Rng::with_seed(self.seed.wrapping_add(dial)).u8(0..100);
        if drawn < self.percent && !self.calm.load(Relaxed) {
            std::panic::resume_unwind(Box::new("the connector of a trial panics"));
        }
        TcpConnect.connect(address, policy)
    }
}
