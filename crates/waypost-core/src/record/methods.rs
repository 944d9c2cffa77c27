//! Methods of a service by gRPC path, from the endpoints of its record.

use std::cmp::Ordering;

use super::{Endpoint, keys};

/// Properties of one method, from the metadata of its endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// True if the method is idempotent and may be sent twice ([`keys::IDEMPOTENT`]).
    pub idempotent: bool,
    /// True if either side streams ([`keys::STREAM`]).
    pub streaming: bool,
}

/// Index of the methods of a service. A lookup does not allocate.
#[derive(Debug, Default)]
pub(super) struct Methods {
    /// Methods sorted by path. A few comparisons cost less than a hash, which every call would pay.
    by_path: Vec<(String, Method)>,
    /// Methods sorted by name. None for a name that does not identify a method: it is ambiguous, or
    /// the endpoint has a path.
    by_name: Vec<(String, Option<Method>)>,
}

impl Methods {
    pub(super) fn new(endpoints: &[Endpoint]) -> Self {
        Self {
            by_path: by_path(endpoints),
            by_name: by_name(endpoints),
        }
    }

    pub(super) fn get(&self, path: &str) -> Option<Method> {
        match self
            .by_path
            .binary_search_by(|(known, _)| known.as_str().cmp(path))
        {
            Ok(at) => Some(self.by_path[at].1),
            Err(_) => self.get_by_name(path),
        }
    }

    fn get_by_name(&self, path: &str) -> Option<Method> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = service.rsplit('.').next()?;
        let at = self
            .by_name
            .binary_search_by(|(name, _)| compare(name, [service, ".", method]))
            .ok()?;
        self.by_name[at].1
    }
}

/// Returns the methods sorted by path. Of two endpoints with the same path the later one wins.
fn by_path(endpoints: &[Endpoint]) -> Vec<(String, Method)> {
    let path = |endpoint: &Endpoint| {
        Some((
            endpoint.metadata.get(keys::PATH)?.to_owned(),
            method(endpoint),
        ))
    };
    let mut paths: Vec<_> = endpoints.iter().rev().filter_map(path).collect();
    paths.sort_by(|(a, _), (b, _)| a.cmp(b));
    paths.dedup_by(|(path, _), (kept, _)| path == kept);
    paths
}

fn by_name(endpoints: &[Endpoint]) -> Vec<(String, Option<Method>)> {
    let named = |endpoint: &Endpoint| {
        let is_by_path = endpoint.metadata.contains_key(keys::PATH);
        (
            endpoint.name.clone(),
            (!is_by_path).then(|| method(endpoint)),
        )
    };
    let mut names: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| !is(endpoint, keys::SUBSCRIBER))
        .map(named)
        .collect();
    names.sort_by(|(a, _), (b, _)| a.cmp(b));
    names.dedup_by(|(name, _), (earlier, method)| {
        let is_ambiguous = name == earlier;
        if is_ambiguous {
            *method = None;
        }
        is_ambiguous
    });
    names
}

fn method(endpoint: &Endpoint) -> Method {
    Method {
        idempotent: is(endpoint, keys::IDEMPOTENT),
        streaming: is(endpoint, keys::STREAM),
    }
}

fn is(endpoint: &Endpoint, key: &str) -> bool {
    endpoint.metadata.get(key) == Some("true")
}

/// Compares `name` with the concatenation of `parts`.
fn compare(name: &str, parts: [&str; 3]) -> Ordering {
    name.bytes().cmp(parts.into_iter().flat_map(str::bytes))
}
