//! Types of a registry's records, in go-micro's format.
//!
//! [`Service`] is the record as users see it. [`Entry`] is the internal form: one node with a
//! [`ServiceInfo`], which is shared by every record with the same one. This module handles JSON and names;
//! it does not depend on the storage or the readers of a record.

mod check;
mod json;
mod key_lists;
mod metadata;
mod methods;
mod names;
mod nilable_vec;
mod packed;
mod read;
mod repair;
mod write;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

pub use check::{RecordError, RecordLimits};
pub use json::DecodeError;
pub(crate) use json::nodes_at_end;
pub(crate) use key_lists::KeyLists;
pub use metadata::{Metadata, MetadataIter};
pub use methods::Method;
use methods::Methods;
pub use names::{Address, NameError, NodeId, ServiceName};
pub use nilable_vec::NilableVec;

/// Metadata keys that Waypost itself writes and reads.
pub mod keys {
    /// Node metadata: the random id of the instance that owns the record, drawn once per
    /// registration.
    pub const INSTANCE: &str = "waypost.instance";
    /// Node metadata: interval of the node's heartbeats in milliseconds, such as `5000ms`. A client
    /// keeps a lost node for at least two of them.
    pub const INTERVAL: &str = "waypost.interval";
    /// Node metadata: set to [`LEAVING`] just before a deregistered record is deleted.
    pub const STATE: &str = "waypost.state";
    /// Value of [`STATE`] of a node that shuts down gracefully.
    pub const LEAVING: &str = "leaving";
    /// Node metadata: `true` if the node speaks TLS, `false` if it does not. Without the key, it does
    /// not, unless the client is configured to assume TLS.
    pub const TLS: &str = "waypost.tls";
    /// Endpoint metadata: the full gRPC path, `/package.Service/Method`.
    pub const PATH: &str = "waypost.path";
    /// Endpoint metadata: `true` if the method may be sent twice.
    pub const IDEMPOTENT: &str = "waypost.idempotent";
    /// Endpoint metadata of go-micro: `true` if either side streams.
    pub const STREAM: &str = "stream";
    /// Endpoint metadata of go-micro: `true` if the endpoint consumes messages of a topic and
    /// cannot be called.
    pub const SUBSCRIBER: &str = "subscriber";
    /// Node metadata of go-micro: the node's protocol, such as `grpc`, `mucp` or `http`.
    pub const PROTOCOL: &str = "protocol";
    /// Node metadata: an integer from 1 to 65 535 for weighted strategies.
    pub const WEIGHT: &str = "weight";
}

/// Default version of a service, as in go-micro.
pub const DEFAULT_VERSION: &str = "latest";

/// A registry's record as users see it: one version of one service, and the nodes that run it.
///
/// The JSON format is go-micro's, field for field; see [`Service::to_json`] and
/// [`Service::from_json`].
///
/// ```
/// use waypost_core::record::{Node, Service};
///
/// let mut service = Service::new("greeter");
/// service.version = "1.4.0".to_owned();
/// let error = service.check().unwrap_err();
/// assert!(error.to_string().starts_with("service \"greeter\" has no node"));
///
/// service.nodes.push(Node::new("greeter", "10.0.0.7:9001"));
/// service.check()?;
/// # Ok::<(), waypost_core::record::RecordError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Name by which clients find the service. Checked on registration ([`ServiceName`]), not on
    /// reads.
    pub name: String,
    /// Version, as free text. Default [`DEFAULT_VERSION`].
    pub version: String,
    /// Metadata of the service. go-micro always writes `null`.
    pub metadata: Metadata,
    /// Public methods.
    pub endpoints: NilableVec<Endpoint>,
    /// Running instances.
    pub nodes: NilableVec<Node>,
}

/// One running instance of a service.
///
/// ```
/// use waypost_core::record::{Node, keys};
///
/// let mut node = Node::with_id("greeter", "a", "10.0.0.7:9001");
/// node.metadata.insert(keys::PROTOCOL, "grpc");
/// node.metadata.insert(keys::WEIGHT, "2");
/// assert_eq!(node.id, "greeter-a");
/// assert!(!node.is_leaving());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Metadata that the user and the server set: `protocol`, labels, [`keys::INSTANCE`].
    pub metadata: Metadata,
    /// Id in the form `<service>-<id>`. The default of `<id>` is a UUIDv4.
    pub id: String,
    /// Address as `host:port`. An IPv6 host is in brackets.
    pub address: String,
}

/// One public method of a service.
///
/// Clients read from an endpoint that its method may be sent twice:
///
/// ```
/// use waypost_core::record::{Endpoint, Metadata, Service, keys};
///
/// let mut service = Service::new("greeter");
/// service.endpoints.push(Endpoint {
///     name: "Greeter.Hello".to_owned(),
///     metadata: Metadata::from([(keys::PATH, "/greeter.Greeter/Hello"), (keys::IDEMPOTENT, "true")]),
///     ..Endpoint::default()
/// });
///
/// let method = service.info().method("/greeter.Greeter/Hello").expect("the record names the method");
/// assert!(method.idempotent && !method.streaming);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Schema of the request.
    pub request: Option<Value>,
    /// Schema of the response.
    pub response: Option<Value>,
    /// Metadata such as [`keys::PATH`], [`keys::IDEMPOTENT`] and [`keys::STREAM`].
    pub metadata: Metadata,
    /// Name in go-micro's form, such as `Greeter.Hello`.
    pub name: String,
}

/// Schema of a whole message, or of one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Value {
    /// Name of the field, or the type of a whole message.
    pub name: String,
    /// Go's name of the type: `string`, `int64`, `[]string`, `Address`. Empty for maps.
    #[serde(rename = "type")]
    pub kind: String,
    /// Fields of the message, up to three levels deep.
    pub values: NilableVec<Value>,
}

impl Service {
    /// Creates a service with the default version, no endpoints and no nodes.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: DEFAULT_VERSION.to_owned(),
            endpoints: NilableVec::from(Vec::new()),
            ..Self::default()
        }
    }

    /// Returns the part of the record that all its nodes share.
    pub fn info(&self) -> ServiceInfo {
        ServiceInfo::new(
            self.name.clone(),
            self.version.clone(),
            self.metadata.clone(),
            self.endpoints.clone(),
        )
    }

    /// Returns one entry per node. All share one info.
    pub fn entries(&self) -> Vec<Entry> {
        let info = Arc::new(self.info());
        self.nodes
            .iter()
            .map(|node| Entry {
                service: Arc::clone(&info),
                node: Arc::new(node.clone()),
            })
            .collect()
    }
}

impl Node {
    /// Creates a node with the id `<service>-<uuid>` at `address`.
    pub fn new(service: &str, address: impl Into<String>) -> Self {
        Self::with_id(service, &uuid::Uuid::new_v4().to_string(), address)
    }

    /// Creates a node with the id `<service>-<id>` at `address`.
    pub fn with_id(service: &str, id: &str, address: impl Into<String>) -> Self {
        Self {
            metadata: Metadata::default(),
            id: format!("{service}-{id}"),
            address: address.into(),
        }
    }

    /// Returns true if the node is marked as leaving ([`keys::STATE`]).
    pub fn is_leaving(&self) -> bool {
        self.metadata.get(keys::STATE) == Some(keys::LEAVING)
    }

    /// Returns the interval of the node's heartbeats ([`keys::INTERVAL`]), if its record contains it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use waypost_core::record::{Node, keys};
    ///
    /// let mut node = Node::new("greeter", "10.0.0.7:9001");
    /// assert_eq!(node.interval(), None);
    /// node.metadata.insert(keys::INTERVAL, "30000ms");
    /// assert_eq!(node.interval(), Some(Duration::from_secs(30)));
    /// ```
    pub fn interval(&self) -> Option<Duration> {
        let millis = self.metadata.get(keys::INTERVAL)?.strip_suffix("ms")?;
        millis.parse().ok().map(Duration::from_millis)
    }

    /// Returns the id of the instance that owns the record, if a Waypost registrar wrote it.
    pub fn instance(&self) -> Option<&str> {
        self.metadata.get(keys::INSTANCE)
    }
}

/// Part that the records of one version of a service share: everything but the node.
#[derive(Debug, Default)]
pub struct ServiceInfo {
    /// Name of the service.
    pub name: String,
    /// Version of the service.
    pub version: String,
    /// Metadata of the service.
    pub metadata: Metadata,
    /// Public methods.
    pub endpoints: NilableVec<Endpoint>,
    methods: OnceLock<Methods>,
}

impl PartialEq for ServiceInfo {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.version == other.version
            && self.metadata == other.metadata
            && self.endpoints == other.endpoints
    }
}

impl Eq for ServiceInfo {}

impl ServiceInfo {
    /// Creates the shared part of a record.
    pub fn new(
        name: String,
        version: String,
        metadata: Metadata,
        endpoints: NilableVec<Endpoint>,
    ) -> Self {
        Self {
            name,
            version,
            metadata,
            endpoints,
            methods: OnceLock::new(),
        }
    }

    /// Returns the properties of the method at `path` (`/package.Service/Method`), or none if the
    /// record does not name the method.
    ///
    /// An endpoint with [`keys::PATH`] matches that path only. Any other endpoint matches by
    /// go-micro's name: `Greeter.Hello` is the method of `/any.package.Greeter/Hello`, unless
    /// several endpoints have that name.
    pub fn method(&self, path: &str) -> Option<Method> {
        self.methods
            .get_or_init(|| Methods::new(self.endpoints.as_slice()))
            .get(path)
    }
}

/// One node of one service: the internal form of a record.
///
/// The entries of a service share everything but the node:
///
/// ```
/// use std::sync::Arc;
/// use waypost_core::record::{Entry, Node, Service};
///
/// let mut service = Service::new("greeter");
/// service.nodes.push(Node::with_id("greeter", "a", "10.0.0.7:9001"));
/// service.nodes.push(Node::with_id("greeter", "b", "10.0.0.8:9001"));
///
/// let entries = service.entries();
/// assert!(Arc::ptr_eq(&entries[0].service, &entries[1].service));
/// assert_eq!(Entry::to_services(&entries), [service]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Part that all entries with equal records share.
    pub service: Arc<ServiceInfo>,
    /// The node.
    pub node: Arc<Node>,
}

/// Identity of an entry: a service's name and a node's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Name of the service.
    pub service: String,
    /// Id of the node.
    pub id: String,
}

impl Entry {
    /// Returns the identity of the entry.
    pub fn key(&self) -> Key {
        Key {
            service: self.service.name.clone(),
            id: self.node.id.clone(),
        }
    }

    /// Returns the record of this node alone.
    pub fn to_service(&self) -> Service {
        Service {
            name: self.service.name.clone(),
            version: self.service.version.clone(),
            metadata: self.service.metadata.clone(),
            endpoints: self.service.endpoints.clone(),
            nodes: NilableVec::from(vec![(*self.node).clone()]),
        }
    }

    /// Merges entries into records as users see them: one per name and version, in that order, with
    /// nodes sorted by id.
    pub fn to_services<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Service> {
        let mut services = std::collections::BTreeMap::<(&str, &str), Service>::new();
        for entry in entries {
            let key = (entry.service.name.as_str(), entry.service.version.as_str());
            match services.entry(key) {
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(entry.to_service());
                }
                std::collections::btree_map::Entry::Occupied(mut slot) => {
                    slot.get_mut().nodes.push((*entry.node).clone());
                }
            }
        }
        let mut services: Vec<_> = services.into_values().collect();
        for service in &mut services {
            service.nodes.as_mut_slice().sort_by(|a, b| a.id.cmp(&b.id));
        }
        services
    }

    /// Merges owned entries as [`to_services`](Self::to_services) does. A node that is not shared
    /// is moved, not copied.
    pub fn into_services(mut entries: Vec<Self>) -> Vec<Service> {
        entries.sort_by(|a, b| {
            (&a.service.name, &a.service.version, &a.node.id).cmp(&(
                &b.service.name,
                &b.service.version,
                &b.node.id,
            ))
        });
        let mut services = Vec::<Service>::new();
        for Self {
            service: info,
            node,
        } in entries
        {
            let node = Arc::unwrap_or_clone(node);
            match services.last_mut() {
                Some(last) if last.name == info.name && last.version == info.version => {
                    last.nodes.push(node);
                }
                _ => services.push(Service {
                    name: info.name.clone(),
                    version: info.version.clone(),
                    metadata: info.metadata.clone(),
                    endpoints: info.endpoints.clone(),
                    nodes: NilableVec::from(vec![node]),
                }),
            }
        }
        services
    }
}
