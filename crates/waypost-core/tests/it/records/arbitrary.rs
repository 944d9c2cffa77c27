//! Generators of arbitrary records for proptest.

use proptest::prelude::*;
use waypost_core::record::{Endpoint, Metadata, NilableVec, Node, Service, Value};

/// Generates text with all characters that Go escapes, and similar ones that it does not.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(
        "\0\u{7}\u{8}\t\n\u{b}\u{c}\r\u{1f} \"\\/<>&'\u{7f}\u{80}é\u{2027}\u{2028}\u{2029}日\u{feff}\u{fffd}\u{ffff}😀"
            .chars()
            .collect::<Vec<_>>(),
    );
    prop::collection::vec(
        prop_oneof![odd, any::<char>(), prop::char::range('a', 'z')],
        0..8,
    )
    .prop_map(String::from_iter)
}

fn list<T: std::fmt::Debug + Clone>(
    item: impl Strategy<Value = T>,
) -> impl Strategy<Value = NilableVec<T>> {
    prop::option::of(prop::collection::vec(item, 0..3))
        .prop_map(|items| items.map_or_else(NilableVec::null, NilableVec::from))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let pairs = prop::collection::btree_map(text(), text(), 0..3);
    prop::option::of(pairs).prop_map(|pairs| pairs.map_or_else(Metadata::null, Metadata::from_iter))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = (text(), text()).prop_map(|(name, kind)| Value {
        name,
        kind,
        values: NilableVec::null(),
    });
    leaf.prop_recursive(6, 12, 3, |inner| {
        (text(), text(), list(inner)).prop_map(|(name, kind, values)| Value { name, kind, values })
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let parts = (
        prop::option::of(value()),
        prop::option::of(value()),
        metadata(),
        text(),
    );
    parts.prop_map(|(request, response, metadata, name)| Endpoint {
        request,
        response,
        metadata,
        name,
    })
}

fn node() -> impl Strategy<Value = Node> {
    (metadata(), text(), text()).prop_map(|(metadata, id, address)| Node {
        metadata,
        id,
        address,
    })
}

pub(crate) fn service() -> impl Strategy<Value = Service> {
    let parts = (text(), text(), metadata(), list(endpoint()), list(node()));
    parts.prop_map(|(name, version, metadata, endpoints, nodes)| Service {
        name,
        version,
        metadata,
        endpoints,
        nodes,
    })
}
