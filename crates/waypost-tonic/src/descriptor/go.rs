//! Go names as protoc-gen-go generates them.

use prost_types::field_descriptor_proto::Type;

/// Returns the Go name of a protobuf name without its package: words joined in camel case, and
/// `Outer_Inner` for nested types.
pub(super) fn name(proto: &str) -> String {
    let mut go = String::with_capacity(proto.len());
    let mut before = '.';
    let mut letters = proto.chars().peekable();
    while let Some(letter) = letters.next() {
        let lower_next = letters.peek().is_some_and(char::is_ascii_lowercase);
        match letter {
            '_' if before == '.' => go.push('X'),
            '.' | '_' if lower_next => {}
            '.' => go.push('_'),
            _ if !before.is_ascii_alphabetic() => go.push(letter.to_ascii_uppercase()),
            _ => go.push(letter),
        }
        before = letter;
    }
    go
}

/// Returns the Go type of a scalar, or none for messages and enums, which have names of their own.
pub(super) const fn scalar(kind: Type) -> Option<&'static str> {
    Some(match kind {
        Type::Double => "float64",
        Type::Float => "float32",
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => "int64",
        Type::Uint64 | Type::Fixed64 => "uint64",
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => "int32",
        Type::Uint32 | Type::Fixed32 => "uint32",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Bytes => "[]uint8",
        Type::Group | Type::Message | Type::Enum => return None,
    })
}
