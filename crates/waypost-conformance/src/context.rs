//! Context of a case: handles, owners of records, and the abilities of the harness.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use waypost_core::record::{Key, Node, Service, keys};
use waypost_core::registry::{
    AnyRegistry, DeregisterOptions, Error, Instance, RegisterOptions, Result as RegistryResult,
    WatchOptions,
};

use crate::event_checker::EventChecker;
use crate::harness::{DynHarness, Harness, RawChange};
use crate::time::Time;

/// Reason for skipping a case.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl From<Error> for Skip {
    fn from(error: Error) -> Self {
        match error {
            Error::Unsupported { .. } => Self(error.to_string()),
            other => panic!("the harness failed: {}", other.chain()),
        }
    }
}

pub(crate) struct TestContext {
    harness: Box<dyn DynHarness>,
    opened: Mutex<Vec<AnyRegistry>>,
    /// True once the watchers were disconnected.
    pub(crate) cut: Arc<AtomicBool>,
    pub(crate) time: Time,
    pub(crate) seed: u64,
}

impl TestContext {
    pub(crate) fn new(harness: impl Harness, time: Time, seed: u64) -> Self {
        Self {
            harness: Box::new(harness),
            opened: Mutex::default(),
            cut: Arc::default(),
            time,
            seed,
        }
    }

    /// Opens a handle that is closed at the end of the case.
    pub(crate) async fn open(&self) -> AnyRegistry {
        let registry = self.open_doomed().await;
        self.opened
            .lock()
            .expect("no case panics while it holds the list")
            .push(registry.clone());
        registry
    }

    /// Opens a handle that the case drops or closes itself.
    pub(crate) async fn open_doomed(&self) -> AnyRegistry {
        self.harness
            .dyn_open()
            .await
            .unwrap_or_else(|error| panic!("no handle: {}", error.chain()))
    }

    pub(crate) async fn close(self) {
        let opened = std::mem::take(
            &mut *self
                .opened
                .lock()
                .expect("no case panics while it holds the list"),
        );
        for registry in opened {
            registry.close().await.expect("it closes");
        }
    }

    pub(crate) async fn batch(&self, changes: Vec<RawChange>) -> Result<(), Skip> {
        Ok(self.harness.dyn_batch(changes).await?)
    }

    pub(crate) async fn put_raw(&self, key: Key, bytes: &[u8]) -> Result<(), Skip> {
        self.batch(vec![(key, Some(bytes.to_vec()))]).await
    }

    pub(crate) async fn remove_raw(&self, key: Key) -> Result<(), Skip> {
        self.batch(vec![(key, None)]).await
    }

    pub(crate) async fn expire(&self, key: &Key) -> Result<(), Skip> {
        Ok(self.harness.dyn_expire(key).await?)
    }

    pub(crate) async fn cut(&self) -> Result<(), Skip> {
        self.cut.store(true, Relaxed);
        Ok(self.harness.dyn_cut().await?)
    }

    /// Returns true if a record without heartbeats ends after its TTL.
    pub(crate) fn expires(&self) -> bool {
        self.harness.dyn_expires()
    }

    /// Watches all services.
    pub(crate) async fn check(&self, registry: &AnyRegistry) -> EventChecker {
        EventChecker::open(
            registry,
            WatchOptions::all(),
            self.time,
            Arc::clone(&self.cut),
        )
        .await
    }

    /// Watches one service.
    pub(crate) async fn check_one(&self, registry: &AnyRegistry, service: &str) -> EventChecker {
        EventChecker::open(
            registry,
            WatchOptions::service(service),
            self.time,
            Arc::clone(&self.cut),
        )
        .await
    }
}

pub(crate) fn key(service: &str, id: &str) -> Key {
    Key {
        service: service.to_owned(),
        id: format!("{service}-{id}"),
    }
}

/// Creates a service with one node.
pub(crate) fn record(service: &str, id: &str, address: &str) -> Service {
    let mut node = Node::with_id(service, id, address);
    node.metadata.insert(keys::PROTOCOL, "grpc");
    let mut service = Service::new(service);
    service.nodes.push(node);
    service
}

/// Registration: a record and its owner's identity, on a handle.
pub(crate) struct Owner {
    pub(crate) registry: AnyRegistry,
    pub(crate) service: Service,
    pub(crate) options: RegisterOptions,
}

impl Owner {
    pub(crate) fn new(registry: &AnyRegistry, service: &str, id: &str, address: &str) -> Self {
        let options = RegisterOptions {
            ttl: Duration::from_secs(600),
            instance: Instance::random(),
        };
        Self {
            registry: registry.clone(),
            service: record(service, id, address),
            options,
        }
    }

    /// Creates an owner and registers its record.
    pub(crate) async fn registered(
        registry: &AnyRegistry,
        service: &str,
        id: &str,
        address: &str,
    ) -> Self {
        let owner = Self::new(registry, service, id, address);
        owner.must_heartbeat().await;
        owner
    }

    pub(crate) fn key(&self) -> Key {
        Key {
            service: self.service.name.clone(),
            id: self.service.nodes[0].id.clone(),
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.service.nodes[0].metadata.insert(name, value);
    }

    pub(crate) async fn heartbeat(&self) -> RegistryResult<()> {
        self.registry.register(&self.service, &self.options).await
    }

    pub(crate) async fn must_heartbeat(&self) {
        self.heartbeat()
            .await
            .unwrap_or_else(|error| panic!("not registered: {}", error.chain()));
    }

    pub(crate) async fn deregister(&self) -> RegistryResult<()> {
        self.registry
            .deregister(
                &self.service,
                &DeregisterOptions::ours(self.options.instance.clone()),
            )
            .await
    }

    pub(crate) async fn must_deregister(&self) {
        self.deregister()
            .await
            .unwrap_or_else(|error| panic!("not deregistered: {}", error.chain()));
    }
}
