//! Records written by go-micro itself: the key on the first line, the value on the second.

use std::fs;
use std::path::Path;

use waypost_core::record::Service;

pub(crate) fn values() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| {
            (
                file.file_stem().unwrap().to_str().unwrap().to_owned(),
                value(file),
            )
        })
        .collect()
}

fn value(file: &Path) -> String {
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .nth(1)
        .unwrap()
        .to_owned()
}

#[test]
fn every_one_is_read_and_written_byte_for_byte() {
    let values = values();
    assert_eq!(values.len(), 22);
    for (name, json) in values {
        let service = Service::from_json(json.as_bytes()).unwrap();
        assert_eq!(service.to_json(), json, "{name}");
        assert!(!service.nodes.is_empty(), "{name}");
    }
}

#[test]
fn bytes_that_are_not_text_are_distinguished_from_a_replacement_character() {
    let json = values()
        .into_iter()
        .find(|(name, _)| name == "escapes")
        .unwrap()
        .1;
    let service = Service::from_json(json.as_bytes()).unwrap();
    let metadata = &service.nodes[0].metadata;
    assert_eq!(metadata.get("invalid-utf8"), Some("bad\u{fffd}\u{fffd}end"));
    assert_eq!(metadata.get("bmp-edge"), Some("\u{feff}\u{fffd}\u{ffff}"));
}

#[test]
fn a_value_set_again_is_written_as_text() {
    let json = r#"{"name":"","version":"","metadata":{"a":"\ufffd","b":"\ufffd"},"endpoints":null,"nodes":null}"#;
    let mut service = Service::from_json(json.as_bytes()).unwrap();
    service.metadata.insert("a", "\u{fffd}");
    assert_eq!(service.to_json(), json.replacen("\\ufffd", "\u{fffd}", 1));
}
