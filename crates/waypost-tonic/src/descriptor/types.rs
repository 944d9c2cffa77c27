//! Messages and enums of a descriptor set by name, and the value trees that go-micro makes of them.

use std::collections::HashMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use waypost_core::record::{NilableVec, Value};

use super::{DescriptorError, bare, go};

/// First level on which messages are not expanded: levels 0 and 1 have fields, level 2 only names.
const CLOSED_LEVEL: u8 = 2;

/// All types of a set by full name, `.package.Outer.Inner`.
pub(super) struct Types<'a>(HashMap<String, Named<'a>>);

struct Named<'a> {
    go_name: String,
    /// Descriptor of a message; none for an enum.
    message: Option<&'a DescriptorProto>,
}

impl<'a> Types<'a> {
    pub(super) fn of(files: &'a [FileDescriptorProto]) -> Self {
        let mut types = Self(HashMap::new());
        for file in files {
            let package = if file.package().is_empty() {
                String::new()
            } else {
                format!(".{}", file.package())
            };
            types.add_enums(
                &package,
                "",
                file.enum_type
                    .iter()
                    .map(prost_types::EnumDescriptorProto::name),
            );
            types.add_messages(&package, "", &file.message_type);
        }
        types
    }

    fn add_messages(&mut self, package: &str, outer: &str, messages: &'a [DescriptorProto]) {
        for message in messages {
            let name = format!("{outer}{}", message.name());
            self.add(package, &name, Some(message));
            let inner = format!("{name}.");
            self.add_enums(
                package,
                &inner,
                message
                    .enum_type
                    .iter()
                    .map(prost_types::EnumDescriptorProto::name),
            );
            self.add_messages(package, &inner, &message.nested_type);
        }
    }

    fn add_enums<'b>(&mut self, package: &str, outer: &str, names: impl Iterator<Item = &'b str>) {
        for name in names {
            self.add(package, &format!("{outer}{name}"), None);
        }
    }

    fn add(&mut self, package: &str, name: &str, message: Option<&'a DescriptorProto>) {
        self.0.insert(
            format!("{package}.{name}"),
            Named {
                go_name: go::name(name),
                message,
            },
        );
    }

    fn get(&self, name: &str, user: &str) -> Result<&Named<'a>, DescriptorError> {
        let plain = |name: &str| name.trim_start_matches(['.', '/']).to_owned();
        self.0.get(name).ok_or_else(|| DescriptorError::Missing {
            name: plain(name),
            user: plain(user),
        })
    }

    /// Returns the tree of a whole request or response.
    pub(super) fn message(&self, name: &str, user: &str) -> Result<Value, DescriptorError> {
        let named = self.get(name, user)?;
        Ok(Value {
            values: self.fields(named, name, 0)?,
            ..bare(&named.go_name)
        })
    }

    /// Returns the fields of a type on `level`; null if there are none, as in Go.
    fn fields(
        &self,
        named: &Named<'_>,
        name: &str,
        level: u8,
    ) -> Result<NilableVec<Value>, DescriptorError> {
        let Some(message) = named.message.filter(|_| level < CLOSED_LEVEL) else {
            return Ok(NilableVec::null());
        };
        let mut values = NilableVec::null();
        for (at, field) in message.field.iter().enumerate() {
            match oneof(field) {
                Some(of)
                    if message.field[..at]
                        .iter()
                        .any(|earlier| oneof(earlier) == Some(of)) => {}
                Some(of) => values.push(bare(&oneof_type(named, message, of))),
                None => values.push(self.field(field, name, level + 1)?),
            }
        }
        Ok(values)
    }

    fn field(
        &self,
        field: &FieldDescriptorProto,
        user: &str,
        level: u8,
    ) -> Result<Value, DescriptorError> {
        let name = field.name().to_owned();
        let repeated = field.label() == Label::Repeated;
        let Some(scalar) = go::scalar(field.r#type()) else {
            let named = self.get(field.type_name(), user)?;
            return Ok(match repeated {
                true => Value {
                    name,
                    kind: list_of(named),
                    values: NilableVec::null(),
                },
                false => Value {
                    name,
                    kind: named.go_name.clone(),
                    values: self.fields(named, field.type_name(), level)?,
                },
            });
        };
        let kind = match (repeated, field.r#type()) {
            (true, Type::Bytes) => "[]".to_owned(),
            (true, _) => format!("[]{scalar}"),
            (false, _) => scalar.to_owned(),
        };
        Ok(Value {
            name,
            kind,
            values: NilableVec::null(),
        })
    }
}

/// Returns the Go type of a repeated field. A map is a repeated field too, and has no name in Go.
fn list_of(named: &Named<'_>) -> String {
    let options = named.message.and_then(|message| message.options.as_ref());
    if options.is_some_and(prost_types::MessageOptions::map_entry) {
        String::new()
    } else {
        format!("[]{}", named.go_name)
    }
}

/// Returns the index of the oneof that the field is part of. proto3's `optional` is a oneof in the
/// descriptor only.
fn oneof(field: &FieldDescriptorProto) -> Option<i32> {
    field.oneof_index.filter(|_| !field.proto3_optional())
}

/// Returns the Go type of a oneof. Go holds a whole oneof in one field of an interface type, which
/// go-micro uses as the field's name too.
fn oneof_type(named: &Named<'_>, message: &DescriptorProto, of: i32) -> String {
    let oneof = usize::try_from(of)
        .ok()
        .and_then(|at| message.oneof_decl.get(at));
    format!(
        "is{}_{}",
        named.go_name,
        go::name(oneof.map_or("", prost_types::OneofDescriptorProto::name))
    )
}
