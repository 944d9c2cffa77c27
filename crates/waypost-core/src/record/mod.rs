//! The words: what a registry holds, in the shape go-micro gives it.
//!
//! [`Service`] is a record as people see it; [`Entry`] is what moves inside, one node with a [`Head`] shared by every record that says the
//! same. This room knows JSON and names, and never who stores a record or who reads it.

mod check;
mod json;
mod key_lists;
mod mend;
mod metadata;
mod methods;
mod names;
mod nilable_vec;
mod packed;
mod read;
mod write;

use std::sync::{Arc, OnceLock};

use serde::Serialize;

pub use check::RecordError;
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
    /// Node metadata: the random instance drawn once per registration; whose record it is.
    pub const INSTANCE: &str = "waypost.instance";
    /// Node metadata: set to [`LEAVING`] just before a deregistered record is deleted.
    pub const STATE: &str = "waypost.state";
    /// The value of [`STATE`] of a node that is going of its own accord.
    pub const LEAVING: &str = "leaving";
    /// Endpoint metadata: the full gRPC path, `/package.Service/Method`.
    pub const PATH: &str = "waypost.path";
    /// Endpoint metadata: `true` if the method may be sent twice.
    pub const IDEMPOTENT: &str = "waypost.idempotent";
    /// Endpoint metadata, go-micro's: `true` if either side streams.
    pub const STREAM: &str = "stream";
    /// Endpoint metadata, go-micro's: `true` if the endpoint takes messages of a topic and cannot be called.
    pub const SUBSCRIBER: &str = "subscriber";
    /// Node metadata, go-micro's: what the node speaks, such as `grpc`, `mucp` or `http`.
    pub const PROTOCOL: &str = "protocol";
    /// Node metadata: a whole number from 1 to 65 535 for strategies that weigh nodes.
    pub const WEIGHT: &str = "weight";
}

/// The version a service has unless it is given another, as in go-micro.
pub const DEFAULT_VERSION: &str = "latest";

/// A registry's record as people see it: one version of one service, and the nodes that run it.
///
/// The JSON is go-micro's, field for field; see [`Service::to_json`] and [`Service::from_json`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// What clients ask for. Checked when registered ([`ServiceName`]), taken as it stands when read.
    pub name: String,
    /// Free text; [`DEFAULT_VERSION`] unless given.
    pub version: String,
    /// Of the service; go-micro always writes `null`.
    pub metadata: Metadata,
    /// The public methods.
    pub endpoints: NilableVec<Endpoint>,
    /// The running instances.
    pub nodes: NilableVec<Node>,
}

/// One running instance of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// What the user and the server say of it: `protocol`, labels, [`keys::INSTANCE`].
    pub metadata: Metadata,
    /// `<service>-<id>`, the id a UUIDv4 unless given.
    pub id: String,
    /// `host:port`; IPv6 hosts in brackets.
    pub address: String,
}

/// One public method of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The shape of the request.
    pub request: Option<Value>,
    /// The shape of the response.
    pub response: Option<Value>,
    /// Such as [`keys::PATH`], [`keys::IDEMPOTENT`] and [`keys::STREAM`].
    pub metadata: Metadata,
    /// `Greeter.Hello`.
    pub name: String,
}

/// One field, or a whole message, of a request or response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Value {
    /// The field's name; of a whole message, its type.
    pub name: String,
    /// Go's name of the type: `string`, `int64`, `[]string`, `Address`; empty for maps.
    #[serde(rename = "type")]
    pub kind: String,
    /// The fields of a message, three levels deep.
    pub values: NilableVec<Value>,
}

impl Service {
    /// A service with the default version and nothing in it.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: DEFAULT_VERSION.to_owned(),
            endpoints: NilableVec::from(Vec::new()),
            ..Self::default()
        }
    }

    /// What all its nodes share.
    pub fn head(&self) -> Head {
        Head::new(self.name.clone(), self.version.clone(), self.metadata.clone(), self.endpoints.clone())
    }

    /// Its nodes, one entry each, sharing one head.
    pub fn entries(&self) -> Vec<Entry> {
        let head = Arc::new(self.head());
        self.nodes.iter().map(|node| Entry { head: Arc::clone(&head), node: Arc::new(node.clone()) }).collect()
    }
}

impl Node {
    /// A node called `<service>-<uuid>` at `address`.
    pub fn new(service: &str, address: impl Into<String>) -> Self {
        Self::with_id(service, &uuid::Uuid::new_v4().to_string(), address)
    }

    /// A node called `<service>-<id>` at `address`.
    pub fn with_id(service: &str, id: &str, address: impl Into<String>) -> Self {
        Self { metadata: Metadata::default(), id: format!("{service}-{id}"), address: address.into() }
    }

    /// Whether it says that it is going ([`keys::STATE`]).
    pub fn is_leaving(&self) -> bool {
        self.metadata.get(keys::STATE) == Some(keys::LEAVING)
    }

    /// The instance that owns the record, if a Waypost registrar wrote it.
    pub fn instance(&self) -> Option<&str> {
        self.metadata.get(keys::INSTANCE)
    }
}

/// What the records of one version of a service share: all but the node.
#[derive(Debug, Default)]
pub struct Head {
    /// The service's name.
    pub name: String,
    /// The service's version.
    pub version: String,
    /// The service's metadata.
    pub metadata: Metadata,
    /// The public methods.
    pub endpoints: NilableVec<Endpoint>,
    methods: OnceLock<Methods>,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.version == other.version
            && self.metadata == other.metadata
            && self.endpoints == other.endpoints
    }
}

impl Eq for Head {}

impl Head {
    /// A head of these parts.
    pub fn new(name: String, version: String, metadata: Metadata, endpoints: NilableVec<Endpoint>) -> Self {
        Self { name, version, metadata, endpoints, methods: OnceLock::new() }
    }

    /// Returns what the record says of the method at `path` (`/package.Service/Method`), or none if it does not name that method.
    ///
    /// An endpoint with [`keys::PATH`] is known by that path only. Any other is known by go-micro's name of it: `Greeter.Hello` is the method
    /// of `/any.package.Greeter/Hello`, unless several endpoints have that name.
    pub fn method(&self, path: &str) -> Option<Method> {
        self.methods.get_or_init(|| Methods::new(self.endpoints.as_slice())).get(path)
    }
}

/// One node of one service: what moves inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Shared by all entries whose records say the same.
    pub head: Arc<Head>,
    /// The node itself.
    pub node: Arc<Node>,
}

/// Which entry: a service's name and a node's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The service's name.
    pub service: String,
    /// The node's id.
    pub id: String,
}

impl Entry {
    /// Which entry it is.
    pub fn key(&self) -> Key {
        Key { service: self.head.name.clone(), id: self.node.id.clone() }
    }

    /// The record of this one node.
    pub fn to_service(&self) -> Service {
        Service {
            name: self.head.name.clone(),
            version: self.head.version.clone(),
            metadata: self.head.metadata.clone(),
            endpoints: self.head.endpoints.clone(),
            nodes: NilableVec::from(vec![(*self.node).clone()]),
        }
    }

    /// The records of many nodes as people see them: one per name and version, in that order, nodes by id.
    pub fn to_services<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Service> {
        let mut services = std::collections::BTreeMap::<(&str, &str), Service>::new();
        for entry in entries {
            let key = (entry.head.name.as_str(), entry.head.version.as_str());
            match services.entry(key) {
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(entry.to_service());
                }
                std::collections::btree_map::Entry::Occupied(mut slot) => slot.get_mut().nodes.push((*entry.node).clone()),
            }
        }
        let mut services: Vec<_> = services.into_values().collect();
        for service in &mut services {
            service.nodes.as_mut_slice().sort_by(|a, b| a.id.cmp(&b.id));
        }
        services
    }

    /// The same of entries that nobody else needs: a node that is not shared is not copied.
    pub fn into_services(mut entries: Vec<Self>) -> Vec<Service> {
        entries.sort_by(|a, b| (&a.head.name, &a.head.version, &a.node.id).cmp(&(&b.head.name, &b.head.version, &b.node.id)));
        let mut services = Vec::<Service>::new();
        for Self { head, node } in entries {
            let node = Arc::unwrap_or_clone(node);
            match services.last_mut() {
                Some(last) if last.name == head.name && last.version == head.version => last.nodes.push(node),
                _ => services.push(Service {
                    name: head.name.clone(),
                    version: head.version.clone(),
                    metadata: head.metadata.clone(),
                    endpoints: head.endpoints.clone(),
                    nodes: NilableVec::from(vec![node]),
                }),
            }
        }
        services
    }
}
