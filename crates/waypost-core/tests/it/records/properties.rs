//! Properties that hold for every record and for arbitrary bytes.

use proptest::prelude::*;
use waypost_core::record::Service;

use super::arbitrary::{service, text};
use super::golden;

/// Generates a golden value with some bytes replaced, removed or duplicated.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let values: Vec<_> = golden::values()
        .into_iter()
        .map(|(_, value)| value.into_bytes())
        .collect();
    let change = (any::<prop::sample::Index>(), 0..4_u8, any::<u8>());
    (
        prop::sample::select(values),
        prop::collection::vec(change, 1..6),
    )
        .prop_map(|(mut bytes, changes)| {
            for (at, what, byte) in changes {
                let at = at.index(bytes.len());
                match what {
                    0 => bytes[at] = byte,
                    1 => bytes[at] = b"{}[]\":,\\un0"[usize::from(byte) % 11],
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, bytes[at]),
                }
            }
            bytes
        })
}

/// Asserts that a record decoded from any bytes is the same, to the byte, after it is encoded and
/// decoded again.
fn reads_safely(bytes: &[u8]) {
    if let Ok(service) = Service::from_json(bytes) {
        let json = service.to_json();
        let again = Service::from_json(json.as_bytes()).unwrap();
        assert_eq!(again, service);
        assert_eq!(again.to_json(), json);
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(service in service()) {
        let json = service.to_json();
        prop_assert_eq!(Service::from_json(json.as_bytes()).unwrap(), service);
    }

    #[test]
    fn what_is_written_is_what_any_json_reader_reads(service in service()) {
        let ours: serde_json::Value = serde_json::from_str(&service.to_json()).unwrap();
        prop_assert_eq!(ours, serde_json::to_value(&service).unwrap());
    }

    #[test]
    fn any_bytes_are_safe_to_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        reads_safely(&bytes);
    }

    #[test]
    fn any_bytes_in_a_record_are_safe_to_read(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        reads_safely(&[br#"{"name":"#.as_slice(), &bytes, b"}"].concat());
        reads_safely(&[br#"{"metadata":{""#.as_slice(), &bytes, br#"":"\ufffd\ud800"}}"#].concat());
    }

    #[test]
    fn mutated_records_are_safe_to_read(bytes in mutated()) {
        reads_safely(&bytes);
    }

    #[test]
    fn escaped_or_raw_text_reads_the_same(name in text()) {
        let escaped: String = name.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        let service = Service::from_json(format!(r#"{{"name":"{escaped}"}}"#).as_bytes()).unwrap();
        prop_assert_eq!(service.name, name);
    }
}
