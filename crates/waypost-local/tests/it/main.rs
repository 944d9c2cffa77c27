//! Integration tests of waypost-local.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(unix)]

mod child;
mod claims;
mod conformance;
mod files;
mod kills;

use std::path::Path;
use std::time::Duration;

use waypost_core::record::{Key, Node, Service};
use waypost_core::registry::{Instance, RegisterOptions};
use waypost_local::{LocalOptions, LocalRegistry};

fn open(dir: &Path) -> LocalRegistry {
    LocalRegistry::open(LocalOptions::new(dir)).unwrap()
}

fn service(id: &str, address: &str) -> Service {
    let mut service = Service::new("greeter");
    service.nodes.push(Node::with_id("greeter", id, address));
    service
}

fn key(id: &str) -> Key {
    Key {
        service: "greeter".to_owned(),
        id: format!("greeter-{id}"),
    }
}

fn owner() -> RegisterOptions {
    RegisterOptions {
        ttl: Duration::from_secs(15),
        instance: Instance::random(),
    }
}
