//! Node with a handle and a registration of its own, as in a process.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use waypost_core::record::{Key, Node, Service};
use waypost_core::registrar::{Registration, State};
use waypost_core::registry::AnyRegistry;

use super::rig::PATIENCE;

pub(crate) const TTL: Duration = Duration::from_secs(5);
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn service(id: &str, address: &str) -> Service {
    let mut service = Service::new("greeter");
    service.nodes.push(Node::with_id("greeter", id, address));
    service
}

pub(crate) fn key(id: &str) -> Key {
    Key {
        service: "greeter".to_owned(),
        id: format!("greeter-{id}"),
    }
}

/// Returns the address of the node with this id.
pub(crate) fn address(id: &str) -> String {
    format!("127.0.0.1:{}", 10 + id.parse().unwrap_or(90))
}

/// Starts the registration of a node, without waiting for it.
pub(crate) fn registration(registry: &AnyRegistry, record: Service) -> Registration {
    Registration::builder(registry.clone(), record)
        .ttl(TTL)
        .interval(INTERVAL)
        .start()
        .unwrap()
}

/// One node, with the handle that a process of its own would have.
pub(crate) struct Server {
    pub(crate) registry: AnyRegistry,
    pub(crate) registration: Registration,
    _capturing: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(url: &str, id: &str) -> Self {
        let server = Self::begin(url, id);
        timeout(PATIENCE, server.registration.registered())
            .await
            .unwrap()
            .unwrap();
        server
    }

    /// Starts without waiting for the registration.
    pub(crate) fn begin(url: &str, id: &str) -> Self {
        Self::at(url, id, &address(id))
    }

    /// Starts at another address, without waiting for the registration.
    pub(crate) fn at(url: &str, id: &str, address: &str) -> Self {
        let registry = AnyRegistry::new(super::open(url));
        let registration = registration(&registry, service(id, address));
        let (mut states, mut capturing) = (registration.watch(), JoinSet::new());
        capturing.spawn(async move {
            while states.changed().await.is_ok() {
                super::capture(&format!("{:?}", states.borrow_and_update()));
            }
        });
        Self {
            registry,
            registration,
            _capturing: capturing,
        }
    }

    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut states = self.registration.watch();
        let reached = timeout(PATIENCE, states.wait_for(|state| wanted(state))).await;
        assert!(reached.is_ok(), "{what}: {:?}", self.registration.state());
    }

    /// Waits until the registration fails with a reason that contains this text.
    pub(crate) async fn until_it_reports(&self, text: &str) {
        self.until(
            text,
            |state| matches!(state, State::Failing { why, .. } if why.contains(text)),
        )
        .await;
    }

    /// Returns the node expected in the registry.
    pub(crate) fn node(&self) -> Node {
        self.registration.service().nodes[0].clone()
    }

    pub(crate) async fn close(self) {
        self.registration.close().await.unwrap();
        self.registry.close().await.unwrap();
    }
}
