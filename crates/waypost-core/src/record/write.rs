//! Encoder of go-micro's JSON. The output is that of Go's `encoding/json`: compact, fields in Go's
//! order, nil as `null`, strings safe inside HTML.

use super::{Endpoint, Metadata, NilableVec, Node, Service, Value};

pub(super) fn service(service: &Service) -> String {
    let mut json = String::with_capacity(1024);
    service.write(&mut json);
    json
}

/// Returns the length of a record's JSON without the content of its list of nodes.
pub(super) fn head_len(service: &Service) -> usize {
    let Service {
        name,
        version,
        metadata,
        endpoints,
        nodes: _,
    } = service;
    let parts: [&dyn Write; 4] = [name, version, metadata, endpoints];
    let keys = r#"{"name":,"version":,"metadata":,"endpoints":,"nodes":[]}"#;
    keys.len() + parts.into_iter().map(len).sum::<usize>()
}

/// Returns the length of the JSON of one node.
pub(super) fn node_len(node: &Node) -> usize {
    len(node)
}

fn len(value: &dyn Write) -> usize {
    let mut json = String::new();
    value.write(&mut json);
    json.len()
}

trait Write {
    fn write(&self, json: &mut String);
}

macro_rules! object {
    ($type:ident { $first_key:literal $first:ident $(, $key:literal $field:ident)* }) => {
        impl Write for $type {
            fn write(&self, json: &mut String) {
                json.push_str(concat!("{\"", $first_key, "\":"));
                self.$first.write(json);
                $(
                    json.push_str(concat!(",\"", $key, "\":"));
                    self.$field.write(json);
                )*
                json.push('}');
            }
        }
    };
}

object!(Service { "name" name, "version" version, "metadata" metadata, "endpoints" endpoints, "nodes" nodes });
object!(Node { "metadata" metadata, "id" id, "address" address });
object!(Endpoint { "request" request, "response" response, "metadata" metadata, "name" name });
object!(Value { "name" name, "type" kind, "values" values });

impl<T: Write> Write for Option<T> {
    fn write(&self, json: &mut String) {
        match self {
            Some(value) => value.write(json),
            None => json.push_str("null"),
        }
    }
}

impl<T: Write> Write for NilableVec<T> {
    fn write(&self, json: &mut String) {
        if self.is_null() {
            return json.push_str("null");
        }
        json.push('[');
        for (at, item) in self.iter().enumerate() {
            comma(json, at);
            item.write(json);
        }
        json.push(']');
    }
}

impl Write for Metadata {
    fn write(&self, json: &mut String) {
        if self.is_null() {
            return json.push_str("null");
        }
        json.push('{');
        for (at, (key, value, lost)) in self.iter_lost().enumerate() {
            comma(json, at);
            quoted(json, key, &[]);
            json.push(':');
            quoted(json, value, &lost);
        }
        json.push('}');
    }
}

impl Write for String {
    fn write(&self, json: &mut String) {
        quoted(json, self, &[]);
    }
}

fn comma(json: &mut String, at: usize) {
    if at > 0 {
        json.push(',');
    }
}

/// Writes `text` as a JSON string. `lost` has the positions in `text` where Go had bytes that are
/// not UTF-8, in ascending order.
fn quoted(json: &mut String, text: &str, lost: &[usize]) {
    json.push('"');
    let mut from = 0;
    for (at, character) in text
        .char_indices()
        .filter(|(at, character)| is_escaped(*character) || lost.binary_search(at).is_ok())
    {
        json.push_str(&text[from..at]);
        escaped(json, character);
        from = at + character.len_utf8();
    }
    json.push_str(&text[from..]);
    json.push('"');
}

fn is_escaped(character: char) -> bool {
    matches!(
        character,
        '\0'..' ' | '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}'
    )
}

fn escaped(json: &mut String, character: char) {
    use std::fmt::Write as _;
    match character {
        '"' => json.push_str("\\\""),
        '\\' => json.push_str("\\\\"),
        '\u{8}' => json.push_str("\\b"),
        '\u{c}' => json.push_str("\\f"),
        '\n' => json.push_str("\\n"),
        '\r' => json.push_str("\\r"),
        '\t' => json.push_str("\\t"),
        _ => _ = write!(json, "\\u{:04x}", u32::from(character)),
    }
}
