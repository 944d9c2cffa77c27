//! Validation of a record before it is registered. Records that are read are not validated.

use super::{Address, Endpoint, Metadata, NameError, Node, NodeId, Service, ServiceName, write};

/// Maximum size of one record. Writers check all three limits, readers the length only; a
/// [registry's options](crate::registry::Options::limits) hold them. etcd refuses requests of more
/// than 1.5 MiB.
///
/// ```
/// use waypost_core::record::{Node, RecordLimits, Service};
///
/// let mut service = Service::new("greeter");
/// service.nodes.push(Node::new("greeter", "10.0.0.7:9001"));
/// service.metadata = (0..100).map(|number| (format!("label-{number}"), "on")).collect();
/// assert!(service.check().is_err());
///
/// let mut limits = RecordLimits::default();
/// limits.metadata_entries = 100;
/// service.check_within(&limits)?;
/// # Ok::<(), waypost_core::record::RecordError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordLimits {
    /// Length of the JSON of a record with one node, in bytes. Default 64 KiB: each client of the
    /// service reads that for each node.
    pub bytes: usize,
    /// Entries of one metadata map. Default 64.
    pub metadata_entries: usize,
    /// Endpoints of one service. Default 1 024.
    pub endpoints: usize,
}

impl Default for RecordLimits {
    fn default() -> Self {
        Self {
            bytes: 64 * 1024,
            metadata_entries: 64,
            endpoints: 1024,
        }
    }
}

impl RecordLimits {
    /// Names of the options that [`set`](Self::set) knows.
    pub const OPTIONS: [&str; 3] = ["max_record_bytes", "max_metadata_entries", "max_endpoints"];

    /// Sets the limit that an option of a registry URL names. Returns false for any other name.
    ///
    /// # Errors
    /// The value is not a number; the text names the option.
    pub fn set(&mut self, option: &str, value: &str) -> Result<bool, String> {
        let limit = match option {
            "max_record_bytes" => &mut self.bytes,
            "max_metadata_entries" => &mut self.metadata_entries,
            "max_endpoints" => &mut self.endpoints,
            _ => return Ok(false),
        };
        *limit = value
            .parse()
            .map_err(|_| format!("{option}={value:?} must be a number, such as 131072"))?;
        Ok(true)
    }

    /// Returns the maximum length of a record that is read, in bytes: `bytes`, and 1 KiB for the
    /// instance and the leaving mark, which are added after the check.
    pub const fn read_bytes(&self) -> usize {
        self.bytes.saturating_add(1024)
    }
}

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
    /// Checks that the service may be registered, within the default limits. See
    /// [`check_within`](Self::check_within).
    ///
    /// # Errors
    /// [`RecordError`] names the first invalid part and the fix. A retry does not help.
    pub fn check(&self) -> Result<(), RecordError> {
        self.check_within(&RecordLimits::default())
    }

    /// Checks that the service may be registered: a valid name, at least one node, valid ids and
    /// addresses, and endpoints, metadata and JSON of each node's record within `limits`.
    ///
    /// # Errors
    /// [`RecordError`] names the first invalid part and the fix. A retry does not help.
    pub fn check_within(&self, limits: &RecordLimits) -> Result<(), RecordError> {
        self.name.parse::<ServiceName>()?;
        if self.nodes.is_empty() {
            return Err(RecordError::new(
                self.label(),
                "has no node: give it one with the address it serves at",
            ));
        }
        self.nodes
            .iter()
            .try_for_each(|node| check_node(node, limits))?;
        check_metadata(&self.label(), &self.metadata, limits)?;
        self.check_endpoints(limits)?;
        self.check_length(limits)
    }

    fn label(&self) -> String {
        format!("service {:?}", self.name)
    }

    fn check_endpoints(&self, limits: &RecordLimits) -> Result<(), RecordError> {
        let (count, most) = (self.endpoints.len(), limits.endpoints);
        if count > most {
            let why = format!(
                "has {count} endpoints: register at most {most}, or split it into several services"
            );
            return Err(RecordError::new(self.label(), why));
        }
        self.endpoints.iter().try_for_each(|endpoint| {
            let label = format!("endpoint {:?}", endpoint.name);
            check_metadata(&label, &endpoint.metadata, limits)
        })
    }

    fn check_length(&self, limits: &RecordLimits) -> Result<(), RecordError> {
        let (length, most) = (self.record_len(), limits.bytes);
        if length > most {
            let why = format!(
                "has a record of {length} bytes: use at most {most}, with less metadata or fewer endpoints"
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

    /// Removes the schemas (request and response) of all endpoints if a record would exceed
    /// `limits`.
    /// Names, paths and idempotency remain, which is all that callers need. Returns the
    /// length before, in bytes, if it did.
    pub fn trim(&mut self, limits: &RecordLimits) -> Option<usize> {
        let length = self.record_len();
        (length > limits.bytes).then(|| {
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

fn check_node(node: &Node, limits: &RecordLimits) -> Result<(), RecordError> {
    node.id.parse::<NodeId>()?;
    node.address.parse::<Address>()?;
    check_metadata(&format!("node {:?}", node.id), &node.metadata, limits)
}

fn check_metadata(of: &str, metadata: &Metadata, limits: &RecordLimits) -> Result<(), RecordError> {
    let (count, most) = (metadata.len(), limits.metadata_entries);
    if count > most {
        return Err(RecordError::new(
            of,
            format!("has {count} metadata entries: use at most {most}"),
        ));
    }
    Ok(())
}
