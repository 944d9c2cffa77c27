//! Endpoints from a protobuf descriptor set, told the way go-micro's gRPC server tells them of its generated Go structs.
//!
//! This file knows descriptors and the Go names that protoc-gen-go gives; it never sees a server or a registry.

mod go;
mod types;

#[cfg(test)]
mod tests;

use prost::Message;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use waypost_core::record::{Endpoint, Metadata, NilableVec, Value, keys};

use types::Types;

/// Why a descriptor set does not say what a server's methods are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescribeError {
    /// The bytes are no `google.protobuf.FileDescriptorSet`.
    #[error("this is no FileDescriptorSet: give the bytes that tonic-prost-build's file_descriptor_set_path wrote")]
    Decode(#[from] prost::DecodeError),
    /// A message or enum is used and not there.
    #[error("the descriptor set lacks {name}, which {user} uses: write it with its imports")]
    Missing {
        /// The type, by its full name.
        name: String,
        /// The method or message that uses it, by its full name.
        user: String,
    },
}

/// The public methods of all services in `descriptor_set`, in Go's order: by service, then by method.
///
/// `Greeter.Hello`, with request and response as trees of three levels, and [`keys::PATH`], [`keys::IDEMPOTENT`] and [`keys::STREAM`] as
/// metadata. The services that gRPC servers bring themselves (`grpc.health.v1`, `grpc.reflection`) are left out. Sets may be joined by
/// writing one after the other.
///
/// # Errors
/// [`DescribeError`] if it is no descriptor set, or one without its imports.
pub fn endpoints(descriptor_set: &[u8]) -> Result<Vec<Endpoint>, DescribeError> {
    let mut files = FileDescriptorSet::decode(descriptor_set)?.file;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files.dedup_by(|a, b| a.name == b.name);
    let types = Types::of(&files);
    let described: Result<Vec<_>, _> = methods(&files).map(|method| method.endpoint(&types)).collect();
    let mut described = described?;
    described.sort_by_cached_key(|endpoint| go_order(&endpoint.name));
    Ok(described)
}

/// Handlers are sorted by name, and each one's methods then.
fn go_order(name: &str) -> Option<(String, String)> {
    name.split_once('.').map(|(service, method)| (service.to_owned(), method.to_owned()))
}

fn methods(files: &[FileDescriptorProto]) -> impl Iterator<Item = Method<'_>> {
    files.iter().filter(|file| !is_infrastructure(file.package())).flat_map(|file| {
        let services = file.service.iter();
        services.flat_map(|service| service.method.iter().map(|method| Method { package: file.package(), service, method }))
    })
}

fn is_infrastructure(package: &str) -> bool {
    package == "grpc.health.v1" || package.starts_with("grpc.reflection.")
}

struct Method<'a> {
    package: &'a str,
    service: &'a ServiceDescriptorProto,
    method: &'a MethodDescriptorProto,
}

impl Method<'_> {
    fn endpoint(&self, types: &Types<'_>) -> Result<Endpoint, DescribeError> {
        let (request, response) = self.shapes(types)?;
        let name = format!("{}.{}", go::name(self.service.name()), go::name(self.method.name()));
        Ok(Endpoint { request: Some(request), response: Some(response), metadata: self.metadata(), name })
    }

    fn shapes(&self, types: &Types<'_>) -> Result<(Value, Value), DescribeError> {
        if self.streams() {
            return Ok((bare("Context"), bare("Stream")));
        }
        let path = self.path();
        Ok((types.message(self.method.input_type(), &path)?, types.message(self.method.output_type(), &path)?))
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
        let level = self.method.options.as_ref().map(prost_types::MethodOptions::idempotency_level);
        matches!(level, Some(IdempotencyLevel::NoSideEffects | IdempotencyLevel::Idempotent))
    }

    fn path(&self) -> String {
        let dot = if self.package.is_empty() { "" } else { "." };
        format!("/{}{dot}{}/{}", self.package, self.service.name(), self.method.name())
    }
}

/// A value that Go sees nothing in.
fn bare(kind: &str) -> Value {
    Value { name: kind.to_owned(), kind: kind.to_owned(), values: NilableVec::null() }
}
