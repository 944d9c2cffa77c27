//! Methods of a service by gRPC path, from the endpoints of its record.

use std::collections::HashMap;

use super::{Endpoint, keys};

/// Properties of one method, as its record states them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// True if the method may be sent twice ([`keys::IDEMPOTENT`]).
    pub idempotent: bool,
    /// True if either side streams ([`keys::STREAM`]).
    pub streaming: bool,
}

/// Index of the methods of a service. A look-up allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Methods {
    by_path: HashMap<String, Method>,
}

impl Methods {
    pub(super) fn new(endpoints: &[Endpoint]) -> Self {
        let path = |endpoint: &Endpoint| Some((endpoint.metadata.get(keys::PATH)?.to_owned(), method(endpoint)));
        Self { by_path: endpoints.iter().filter_map(path).collect() }
    }

    pub(super) fn get(&self, path: &str) -> Option<Method> {
        self.by_path.get(path).copied()
    }
}

fn method(endpoint: &Endpoint) -> Method {
    Method { idempotent: is(endpoint, keys::IDEMPOTENT), streaming: is(endpoint, keys::STREAM) }
}

fn is(endpoint: &Endpoint, key: &str) -> bool {
    endpoint.metadata.get(key) == Some("true")
}
