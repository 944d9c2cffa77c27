//! What a registry is made with, and what its calls take.

use std::fmt;
use std::time::Duration;

use crate::record::{Metadata, Service, keys};

/// What a registry was made with: for logs, `Debug` and the command line. Never holds a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Where it is: `host:port` of each member, or a folder.
    pub addresses: Vec<String>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The prefix of its keys, where it has keys.
    pub prefix: String,
    /// Whether everybody who reads it is on this host, so that a loopback address means the same to all of them. Default no.
    pub on_this_host: bool,
}

impl Options {
    /// Options with a timeout of 2 s and nothing else.
    pub fn new() -> Self {
        Self { timeout: Duration::from_secs(2), ..Self::default() }
    }
}

/// Whose record it is: random, drawn once per registration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance(String);

impl Instance {
    /// A new one: 128 random bits.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The instance as it stands in a record.
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

/// How to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterOptions {
    /// How long the record stays unless refreshed; at least 1 s. A registration without one cannot be expressed.
    pub ttl: Duration,
    /// Whose record it is.
    pub instance: Instance,
}

impl RegisterOptions {
    /// The record to write: `service` with the instance in the metadata of each node.
    pub fn stamp(&self, service: &Service) -> Service {
        let mut service = service.clone();
        for node in &mut service.nodes {
            node.metadata.insert(keys::INSTANCE, self.instance.as_str());
        }
        service
    }
}

/// How to deregister.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeregisterOptions {
    /// Remove only records of this instance.
    pub instance: Option<Instance>,
    /// Remove it whoever owns it: for the command line. A live owner will be back at its next beat.
    pub force: bool,
}

impl DeregisterOptions {
    /// Removes what is ours by `instance`.
    pub fn ours(instance: Instance) -> Self {
        Self { instance: Some(instance), force: false }
    }

    /// Removes it whoever owns it.
    pub fn force() -> Self {
        Self { instance: None, force: true }
    }

    /// Whether a record with this node metadata may be removed.
    pub fn may_remove(&self, metadata: &Metadata) -> bool {
        let owner = metadata.get(keys::INSTANCE);
        self.force || owner == self.instance.as_ref().map(Instance::as_str)
    }
}

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// One service, or all if none.
    pub service: Option<String>,
}

impl WatchOptions {
    /// All services.
    pub fn all() -> Self {
        Self::default()
    }

    /// One service.
    pub fn service(name: impl Into<String>) -> Self {
        Self { service: Some(name.into()) }
    }

    /// Whether records of `service` are watched.
    pub fn covers(&self, service: &str) -> bool {
        self.service.as_deref().is_none_or(|name| name == service)
    }
}
