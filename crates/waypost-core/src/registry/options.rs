//! Options of a registry and of its operations.

use std::fmt;
use std::time::Duration;

use crate::record::{Metadata, RecordLimits, Service, keys};

/// Options with which a registry was created, for logs, `Debug` and the command line. They contain
/// no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Addresses: `host:port` of each member, or a directory.
    pub addresses: Vec<String>,
    /// Timeout of one request.
    pub timeout: Duration,
    /// True if the connection is encrypted.
    pub tls: bool,
    /// Prefix of the keys, if the backend has keys.
    pub prefix: String,
    /// True if all readers of the registry are on this host, so that a loopback address is valid
    /// for all of them. Default false.
    pub on_this_host: bool,
    /// Maximum size of a record that is registered or read.
    pub limits: RecordLimits,
}

impl Options {
    /// Creates options with a timeout of 2 s and no other value.
    pub fn new() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            ..Self::default()
        }
    }
}

/// Random id of the owner of a record, drawn once per registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance(String);

impl Instance {
    /// Draws a new id of 128 bits.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Returns the id in the form that the record stores.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Instance {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Options of a registration.
///
/// The owner of a record repeats `register` as its heartbeat; another instance cannot take a live
/// record over.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// # use waypost_core::memory::MemoryRegistry;
/// # use waypost_core::record::{Node, Service};
/// use waypost_core::registry::{Error, Instance, RegisterOptions, Registry};
/// # let registry = MemoryRegistry::new();
/// # let mut service = Service::new("greeter");
/// # service.nodes.push(Node::with_id("greeter", "a", "127.0.0.1:9001"));
///
/// let ours = RegisterOptions { ttl: Duration::from_secs(15), instance: Instance::random() };
/// registry.register(&service, &ours).await?;
/// registry.register(&service, &ours).await?; // a heartbeat
///
/// let other = RegisterOptions { instance: Instance::random(), ..ours };
/// service.nodes[0].address = "127.0.0.1:9002".to_owned();
/// assert!(matches!(registry.register(&service, &other).await, Err(Error::IdTaken { .. })));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterOptions {
    /// Lifetime of the record unless refreshed; at least 1 s. A registration without a TTL cannot
    /// be expressed.
    pub ttl: Duration,
    /// Owner of the record.
    pub instance: Instance,
}

impl RegisterOptions {
    /// Returns the record to be written: `service` with the instance in the metadata of each node.
    pub fn stamp(&self, service: &Service) -> Service {
        let mut service = service.clone();
        for node in &mut service.nodes {
            node.metadata.insert(keys::INSTANCE, self.instance.as_str());
        }
        service
    }
}

/// Options of a deregistration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeregisterOptions {
    /// Owner whose records are removed.
    pub instance: Option<Instance>,
    /// True to remove the record of any owner, for the command line. A live owner registers again
    /// at its next heartbeat.
    pub force: bool,
}

impl DeregisterOptions {
    /// Creates options that remove only the records of `instance`.
    pub fn ours(instance: Instance) -> Self {
        Self {
            instance: Some(instance),
            force: false,
        }
    }

    /// Creates options that remove the record of any owner.
    pub fn force() -> Self {
        Self {
            instance: None,
            force: true,
        }
    }

    /// Returns true if a record with this node metadata may be removed.
    pub fn may_remove(&self, metadata: &Metadata) -> bool {
        let owner = metadata.get(keys::INSTANCE);
        self.force || owner == self.instance.as_ref().map(Instance::as_str)
    }
}

/// Options of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Watched service; all services if none.
    pub service: Option<String>,
}

impl WatchOptions {
    /// Creates options that watch all services.
    pub fn all() -> Self {
        Self::default()
    }

    /// Creates options that watch one service.
    pub fn service(name: impl Into<String>) -> Self {
        Self {
            service: Some(name.into()),
        }
    }

    /// Returns true if records of `service` are watched.
    pub fn covers(&self, service: &str) -> bool {
        self.service.as_deref().is_none_or(|name| name == service)
    }
}
