//! Endpoints from a protobuf descriptor set, in the form in which go-micro's gRPC server describes
//! its generated Go structs.
//!
//! This file knows descriptors and the Go names that protoc-gen-go generates. It never sees a
//! server or a registry.

mod go;
mod types;

#[cfg(test)]
mod tests;

use prost::Message;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};
use waypost_core::record::{Endpoint, Metadata, NilableVec, Value, keys};

use types::Types;

/// Error of a descriptor set that does not describe a server's methods.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// Bytes that are not a `google.protobuf.FileDescriptorSet`.
    #[error(
        "not a FileDescriptorSet: give the bytes that tonic-prost-build's file_descriptor_set_path wrote"
    )]
    Decode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Message or enum that is used but missing from the set.
    #[error("the descriptor set lacks {name}, which {user} uses: write it with its imports")]
    Missing {
        /// Full name of the type.
        name: String,
        /// Full name of the method or message that uses it.
        user: String,
    },
}

/// Returns the public methods of all services in `descriptor_set`, in Go's order: by service, then
/// by method.
///
/// A name has the form `Greeter.Hello`. Request and response are trees of three levels. The
/// metadata has [`keys::PATH`], [`keys::IDEMPOTENT`] and [`keys::STREAM`]. Services of gRPC's
/// infrastructure (`grpc.health.v1`, `grpc.reflection`) are left out. Several sets can be joined by
/// concatenation.
///
/// ```
/// use waypost_core::record::keys;
/// use waypost_greeter::greeter;
/// use waypost_tonic::descriptor;
///
/// let endpoints = descriptor::endpoints(greeter::FILE_DESCRIPTOR_SET)?;
/// assert_eq!(endpoints[0].name, "Greeter.Hello");
/// assert_eq!(endpoints[0].metadata.get(keys::PATH), Some("/greeter.Greeter/Hello"));
/// assert_eq!(endpoints[0].metadata.get(keys::IDEMPOTENT), Some("true"));
/// # Ok::<(), descriptor::DescriptorError>(())
/// ```
///
/// # Errors
/// [`DescriptorError`] if the bytes are not a descriptor set, or if the set lacks its imports.
pub fn endpoints(descriptor_set: &[u8]) -> Result<Vec<Endpoint>, DescriptorError> {
    let mut files = FileDescriptorSet::decode(descriptor_set)
        .map_err(|error| DescriptorError::Decode(error.into()))?
        .file;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files.dedup_by(|a, b| a.name == b.name);
    let types = Types::of(&files);
    let described: Result<Vec<_>, _> = methods(&files)
        .map(|method| method.endpoint(&types))
        .collect();
    let mut described = described?;
    described.sort_by_cached_key(|endpoint| go_order(&endpoint.name));
    Ok(described)
}

/// Returns the sort key of an endpoint: handlers are sorted by name, then the methods of each.
fn go_order(name: &str) -> Option<(String, String)> {
    name.split_once('.')
        .map(|(service, method)| (service.to_owned(), method.to_owned()))
}

fn methods(files: &[FileDescriptorProto]) -> impl Iterator<Item = DescribedMethod<'_>> {
    files
        .iter()
        .filter(|file| !is_infrastructure(file.package()))
        .flat_map(|file| {
            let services = file.service.iter();
            services.flat_map(|service| {
                service.method.iter().map(|method| DescribedMethod {
                    package: file.package(),
                    service,
                    method,
                })
            })
        })
}

fn is_infrastructure(package: &str) -> bool {
    package == "grpc.health.v1" || package.starts_with("grpc.reflection.")
}

struct DescribedMethod<'a> {
    package: &'a str,
    service: &'a ServiceDescriptorProto,
    method: &'a MethodDescriptorProto,
}

impl DescribedMethod<'_> {
    fn endpoint(&self, types: &Types<'_>) -> Result<Endpoint, DescriptorError> {
        let (request, response) = self.shapes(types)?;
        let name = format!(
            "{}.{}",
            go::name(self.service.name()),
            go::name(self.method.name())
        );
        Ok(Endpoint {
            request: Some(request),
            response: Some(response),
            metadata: self.metadata(),
            name,
        })
    }

    fn shapes(&self, types: &Types<'_>) -> Result<(Value, Value), DescriptorError> {
        if self.streams() {
            return Ok((bare("Context"), bare("Stream")));
        }
        let path = self.path();
        Ok((
            types.message(self.method.input_type(), &path)?,
            types.message(self.method.output_type(), &path)?,
        ))
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::from([(keys::PATH, self.path())]);
        if self.is_idempotent() {
            metadata.insert(keys::IDEMPOTENT, "true");
        }
        if self.streams() {
            metadata.insert(keys::STREAM, "true");
        }
        metadata
    }

    fn streams(&self) -> bool {
        self.method.client_streaming() || self.method.server_streaming()
    }

    fn is_idempotent(&self) -> bool {
        let level = self
            .method
            .options
            .as_ref()
            .map(prost_types::MethodOptions::idempotency_level);
        matches!(
            level,
            Some(IdempotencyLevel::NoSideEffects | IdempotencyLevel::Idempotent)
        )
    }

    fn path(&self) -> String {
        let dot = if self.package.is_empty() { "" } else { "." };
        format!(
            "/{}{dot}{}/{}",
            self.package,
            self.service.name(),
            self.method.name()
        )
    }
}

/// Creates a value without fields, named after its Go type.
fn bare(kind: &str) -> Value {
    Value {
        name: kind.to_owned(),
        kind: kind.to_owned(),
        values: NilableVec::null(),
    }
}
