//! Validation of a record before it is registered. Records that are read are not validated.

use super::{Address, Endpoint, Metadata, NameError, Node, NodeId, Service, ServiceName, write};

/// Maximum length of the JSON of a record with one node, in bytes.
const LONGEST: usize = 64 * 1024;
/// Maximum number of entries of one metadata map.
const MOST_METADATA: usize = 64;
/// Maximum number of endpoints of one service.
const MOST_ENDPOINTS: usize = 1024;

/// Error of a record that cannot be registered: the reason, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct RecordError {
    what: String,
    why: String,
}

impl RecordError {
    fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Returns the invalid part, such as `service name "a/b"`.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Returns the reason and the fix.
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl From<NameError> for RecordError {
    fn from(error: NameError) -> Self {
        Self::new(error.what(), error.why())
    }
}

impl Service {
    /// Checks that the service may be registered: a valid name, at least one node, valid ids and
    /// addresses, at most 1 024 endpoints, at most 64 entries in each metadata, and at most 64 KiB
    /// of JSON for each node's record.
    ///
    /// # Errors
    /// [`RecordError`] names the first invalid part and the fix. A retry does not help.
    pub fn check(&self) -> Result<(), RecordError> {
        self.name.parse::<ServiceName>()?;
        if self.nodes.is_empty() {
            return Err(RecordError::new(
                self.label(),
                "has no node: give it one with the address it serves at",
            ));
        }
        self.nodes.iter().try_for_each(check_node)?;
        check_metadata(&self.label(), &self.metadata)?;
        self.check_endpoints()?;
        self.check_length()
    }

    fn label(&self) -> String {
        format!("service {:?}", self.name)
    }

    fn check_endpoints(&self) -> Result<(), RecordError> {
        let count = self.endpoints.len();
        if count > MOST_ENDPOINTS {
            let why = format!(
                "has {count} endpoints: register at most {MOST_ENDPOINTS}, or split it into several services"
            );
            return Err(RecordError::new(self.label(), why));
        }
        self.endpoints.iter().try_for_each(|endpoint| {
            check_metadata(&format!("endpoint {:?}", endpoint.name), &endpoint.metadata)
        })
    }

    fn check_length(&self) -> Result<(), RecordError> {
        let length = self.record_len();
        if length > LONGEST {
            let why = format!(
                "has a record of {length} bytes: use at most {LONGEST}, with less metadata or fewer endpoints"
            );
            return Err(RecordError::new(self.label(), why));
        }
        Ok(())
    }

    /// Returns the length in bytes of the JSON of the longest record: the service with one node.
    fn record_len(&self) -> usize {
        let longest_node = self
            .nodes
            .iter()
            .map(write::node_len)
            .max()
            .unwrap_or_default();
        write::head_len(self) + longest_node
    }

    /// Removes the schemas (request and response) of all endpoints if a record would exceed 64 KiB.
    /// Names, paths and idempotency remain, which is all that callers need. Returns the
    /// length before, in bytes, if it did.
    pub fn trim(&mut self) -> Option<usize> {
        let length = self.record_len();
        (length > LONGEST).then(|| {
            let endpoints = self.endpoints.iter().cloned();
            let trimmed = endpoints.map(|endpoint| Endpoint {
                request: None,
                response: None,
                ..endpoint
            });
            self.endpoints = trimmed.collect::<Vec<_>>().into();
            length
        })
    }
}

fn check_node(node: &Node) -> Result<(), RecordError> {
    node.id.parse::<NodeId>()?;
    node.address.parse::<Address>()?;
    check_metadata(&format!("node {:?}", node.id), &node.metadata)
}

fn check_metadata(of: &str, metadata: &Metadata) -> Result<(), RecordError> {
    let count = metadata.len();
    if count > MOST_METADATA {
        return Err(RecordError::new(
            of,
            format!("has {count} metadata entries: use at most {MOST_METADATA}"),
        ));
    }
    Ok(())
}
