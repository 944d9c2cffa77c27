//! Records of a large service: six endpoints that all nodes share, and for each node the metadata
//! that a Waypost server writes and four labels.

use waypost::record::{Endpoint, Key, Node, Service, Value, keys};

/// Name of the service.
pub(crate) const SERVICE: &str = "greeter";
/// Label of the nodes that a benchmark's channel uses, if it does not use all.
pub(crate) const POOL: &str = "pool";

/// Template for the records of one service.
#[derive(Clone, Debug)]
pub(crate) struct RecordSet {
    template: Service,
}

impl RecordSet {
    pub(crate) fn new() -> Self {
        let mut template = Service::new(SERVICE);
        (0..6).for_each(|number| template.endpoints.push(endpoint(number)));
        Self { template }
    }

    /// Returns the key of a node's record.
    pub(crate) fn key(node: &str) -> Key {
        Key {
            service: SERVICE.to_owned(),
            id: node.to_owned(),
        }
    }

    /// Returns a node's record as go-micro writes it.
    pub(crate) fn json(&self, node: &str, address: &str, metadata: &[(&str, &str)]) -> String {
        let mut service = self.template.clone();
        let mut written = Node {
            id: node.to_owned(),
            address: address.to_owned(),
            ..Node::default()
        };
        for (key, value) in [
            ("registry", "etcd"),
            ("server", "grpc"),
            ("transport", "grpc"),
            (keys::PROTOCOL, "grpc"),
        ] {
            written.metadata.insert(key, value);
        }
        // The hash of the id, twice: 32 digits, as in an instance, and always the same for one
        // node.
        written
            .metadata
            .insert(keys::INSTANCE, format!("{0:016x}{0:016x}", hash(node)));
        for (key, value) in [
            ("zone", "eu-central-1a"),
            ("rack", "r17"),
            ("build", "2026.11.28"),
            (POOL, "all"),
        ] {
            written.metadata.insert(key, value);
        }
        metadata
            .iter()
            .for_each(|(key, value)| written.metadata.insert(*key, *value));
        service.nodes.push(written);
        service.to_json()
    }
}

/// Returns the id of a node, as long as one with a UUID.
pub(crate) fn id(number: usize, generation: u32) -> String {
    format!("{SERVICE}-{generation:08x}-0000-4000-8000-{number:012x}")
}

fn endpoint(number: usize) -> Endpoint {
    let value = |name: &str, kind: &str, values: Vec<Value>| Value {
        name: name.to_owned(),
        kind: kind.to_owned(),
        values: values.into(),
    };
    let fields = vec![
        value("name", "string", Vec::new()),
        value("count", "int64", Vec::new()),
    ];
    let name = if number == 0 {
        "Hello".to_owned()
    } else {
        format!("Hello{number}")
    };
    let mut endpoint = Endpoint {
        name: format!("Greeter.{name}"),
        request: Some(value("HelloRequest", "HelloRequest", fields.clone())),
        response: Some(value("HelloResponse", "HelloResponse", fields)),
        ..Endpoint::default()
    };
    endpoint
        .metadata
        .insert(keys::PATH, format!("/greeter.Greeter/{name}"));
    endpoint.metadata.insert(keys::IDEMPOTENT, "true");
    endpoint
}

/// Returns the FNV-1a hash of `text`.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
