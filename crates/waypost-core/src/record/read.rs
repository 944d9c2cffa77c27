//! Decoder of go-micro's JSON in one pass. Each value is decoded into its field, as Go's decoder
//! does.
//!
//! The type of a value is checked before the field changes: `null` clears the field, a value of the
//! wrong type leaves it unchanged. The decoder depends on the shape of a record, not on bytes or
//! characters.

use std::fmt;

use serde::Deserializer;
use serde::de::{Deserialize, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Endpoint, Metadata, NilableVec, Node, Service, Value};

/// Deepest level of nesting that is decoded. Deeper values are skipped without recursion;
/// serde_json rejects recursion at level 128.
const DEEPEST: u8 = 100;

pub(super) fn service(bytes: &[u8]) -> serde_json::Result<Service> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let service = json.deserialize_map(Whole)?;
    json.end()?;
    Ok(service)
}

/// Decodes a list of nodes and nothing else. Returns none if the value is not a list.
pub(super) fn nodes(bytes: &[u8]) -> serde_json::Result<Option<NilableVec<Node>>> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut nodes = NilableVec::null();
    let is_list = json.deserialize_any(Into(&mut nodes, DEEPEST))?;
    json.end()?;
    Ok(is_list.then_some(nodes))
}

/// Visitor of the record, which must be an object.
struct Whole;

impl<'de> Visitor<'de> for Whole {
    type Value = Service;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Service, A::Error> {
        let mut service = Service::default();
        service.object(map, DEEPEST)?;
        Ok(service)
    }
}

/// Target into which JSON is decoded. Each method returns true if the target accepts that type of
/// JSON; a rejected value changes nothing. `depth` is the number of levels that may still be
/// decoded below.
trait Place: Sized {
    fn null(&mut self) {}

    fn text(&mut self, _text: &str) -> bool {
        false
    }

    fn list<'de, A: SeqAccess<'de>>(&mut self, list: A, _depth: u8) -> Result<bool, A::Error> {
        skip_list(list)
    }

    fn object<'de, A: MapAccess<'de>>(&mut self, object: A, _depth: u8) -> Result<bool, A::Error> {
        skip_object(object)
    }
}

fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<bool, A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(false)
}

fn skip_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<bool, A::Error> {
    while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(false)
}

/// Seed that decodes a value into a target, with the number of levels that may be decoded below it.
struct Into<'a, T>(&'a mut T, u8);

impl<'de, T: Place> DeserializeSeed<'de> for Into<'_, T> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, T: Place> Visitor<'de> for Into<'_, T> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        self.0.null();
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(self.0.text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<bool, A::Error> {
        match self.1.checked_sub(1) {
            Some(depth) => self.0.list(list, depth),
            None => skip_list(list),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<bool, A::Error> {
        match self.1.checked_sub(1) {
            Some(depth) => self.0.object(object, depth),
            None => skip_object(object),
        }
    }
}

impl Place for String {
    fn text(&mut self, text: &str) -> bool {
        text.clone_into(self);
        true
    }
}

/// Pairs of a metadata before they are packed. They are packed once per outer object, even if that
/// repeats its `metadata`.
#[derive(Default)]
struct JsonPairs {
    text: String,
    /// End of each key and of each value in `text`.
    ends: Vec<(usize, usize)>,
}

impl Place for JsonPairs {
    fn object<'de, A: MapAccess<'de>>(
        &mut self,
        mut object: A,
        depth: u8,
    ) -> Result<bool, A::Error> {
        self.text.reserve(256);
        self.ends.reserve(8);
        while object.next_key_seed(Appended(&mut self.text))?.is_some() {
            let key_end = self.text.len();
            object.next_value_seed(Into(&mut Appended(&mut self.text), depth))?;
            self.ends.push((key_end, self.text.len()));
        }
        Ok(true)
    }
}

impl JsonPairs {
    fn pack(self) -> Metadata {
        Metadata::from_text(&self.text, &self.ends)
    }
}

/// Target that appends to a text: keys and values of metadata before they are packed.
struct Appended<'a>(&'a mut String);

impl Place for Appended<'_> {
    fn text(&mut self, text: &str) -> bool {
        self.0.push_str(text);
        true
    }
}

impl<'de> DeserializeSeed<'de> for Appended<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(mut self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(Into(&mut self, 0))
    }
}

impl<T: Place + Default> Place for NilableVec<T> {
    fn null(&mut self) {
        *self = Self::null();
    }

    /// Decodes the list without the items of the wrong type.
    fn list<'de, A: SeqAccess<'de>>(&mut self, mut list: A, depth: u8) -> Result<bool, A::Error> {
        let mut items = Vec::new();
        let mut item = T::default();
        while let Some(taken) = list.next_element_seed(Into(&mut item, depth))? {
            if taken {
                items.push(std::mem::take(&mut item));
            }
        }
        *self = Self::from(items);
        Ok(true)
    }
}

impl<T: Place + Default> Place for Option<T> {
    fn null(&mut self) {
        *self = None;
    }

    fn object<'de, A: MapAccess<'de>>(&mut self, object: A, depth: u8) -> Result<bool, A::Error> {
        self.get_or_insert_default().object(object, depth)
    }
}

macro_rules! object {
    ($type:ident { $($key:ident => $field:ident),* $(; $packed_key:ident => $packed:ident)? }) => {
        impl Place for $type {
            fn object<'de, A: MapAccess<'de>>(&mut self, mut object: A, depth: u8) -> Result<bool, A::Error> {
                $(let mut $packed = None::<JsonPairs>;)?
                while let Some(key) = object.next_key()? {
                    match key {
                        $(JsonKey::$key => { object.next_value_seed(Into(&mut self.$field, depth))?; })*
                        $(JsonKey::$packed_key => { object.next_value_seed(Into(&mut $packed, depth))?; })?
                        _ => { object.next_value::<IgnoredAny>()?; }
                    }
                }
                $(self.$packed = $packed.map_or_else(Metadata::null, JsonPairs::pack);)?
                Ok(true)
            }
        }
    };
}

object!(Service { Name => name, Version => version, Endpoints => endpoints, Nodes => nodes; Metadata => metadata });
object!(Node { Id => id, Address => address; Metadata => metadata });
object!(Endpoint { Request => request, Response => response, Name => name; Metadata => metadata });
object!(Value { Name => name, Type => kind, Values => values });

macro_rules! keys {
    ($($key:ident $text:literal),*) => {
        /// Keys of all objects of a record, in any letter case.
        #[derive(Clone, Copy)]
        enum JsonKey { $($key,)* Other }

        impl JsonKey {
            fn of(text: &str) -> Self {
                match text {
                    $($text => Self::$key,)*
                    $(_ if text.eq_ignore_ascii_case($text) => Self::$key,)*
                    _ => Self::Other,
                }
            }
        }
    };
}

keys!(
    Name "name", Type "type", Values "values", Metadata "metadata", Request "request", Response "response", Id "id", Address "address",
    Version "version", Endpoints "endpoints", Nodes "nodes"
);

impl<'de> Deserialize<'de> for JsonKey {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = JsonKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, text: &str) -> Result<JsonKey, E> {
                Ok(JsonKey::of(text))
            }
        }

        json.deserialize_identifier(Name)
    }
}
