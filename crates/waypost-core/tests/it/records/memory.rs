//! Tests of the memory per node, since a client may hold 100 000 of them.

use allocation_counter::measure;
use waypost_core::record::{Entry, Key, Metadata, Node, Service, keys};
use waypost_core::registry::Interner;

const NODES: usize = 1_000;

/// Returns the record of a node with an id of 45 bytes, an address of 20 and four labels.
fn record(number: usize) -> (Key, String) {
    let mut service = Service::new("greeter1");
    let mut node = Node::with_id(
        &service.name,
        &format!("{number:036}"),
        format!("10.123.100.100:{number:05}"),
    );
    let labels = [
        (keys::PROTOCOL, "grpc"),
        ("server", "grpc"),
        ("transport", "grpc"),
    ];
    node.metadata = Metadata::from(labels);
    node.metadata
        .insert(keys::INSTANCE, format!("{number:032x}"));
    assert_eq!((node.id.len(), node.address.len()), (45, 20));
    let key = Key {
        service: service.name.clone(),
        id: node.id.clone(),
    };
    service.nodes.push(node);
    (key, service.to_json())
}

#[test]
fn a_node_takes_few_bytes() {
    let records: Vec<_> = (0..NODES).map(record).collect();
    let mut entries = Vec::<Entry>::with_capacity(NODES);
    let mut interner = Interner::default();
    let decoded = measure(|| {
        entries.extend(
            records
                .iter()
                .map(|(key, json)| interner.decode(key, json.as_bytes()).unwrap()),
        );
    });
    let bytes = decoded.bytes_current / NODES as i64;
    assert!(bytes <= 220, "a node takes {bytes} bytes");
    assert!(size_of::<Metadata>() <= 24);
    assert!(
        entries.iter().zip(&records).all(
            |(entry, (key, json))| entry.key() == *key && entry.to_service().to_json() == *json
        )
    );
}

/// A record of 64 KiB repeats its metadata 1 700 times. Packing each repetition would cost one pass
/// over all pairs each time.
#[test]
fn metadata_that_is_repeated_is_packed_once() {
    let pairs: Vec<_> = (0..3_600)
        .map(|number| format!(r#""{number:x}":"""#))
        .collect();
    let json = format!(
        r#"{{"metadata":{{{}}}{}}}"#,
        pairs.join(","),
        r#","metadata":{"":""}"#.repeat(1_700)
    );
    let mut read = Service::default();
    let allocated = measure(|| read = Service::from_json(json.as_bytes()).unwrap());
    assert_eq!(read.metadata.len(), 3_601);
    assert!(allocated.bytes_total < 2_000_000, "{allocated:?}");
}
