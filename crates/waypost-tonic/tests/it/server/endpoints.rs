//! Endpoints that a server registers: those of its own services, whatever their number.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, ServiceDescriptorProto,
};
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;
use waypost_core::memory::MemoryRegistry;
use waypost_core::record;
use waypost_core::registry::AnyRegistry;
use waypost_tonic::Server;

const SERVICES: usize = 40;
const METHODS: usize = 8;

/// Service of which only the name matters.
#[derive(Clone)]
struct Named<const N: usize>;

macro_rules! services {
    ($($n:literal)*) => {
        $(impl NamedService for Named<$n> {
            const NAME: &'static str = concat!("company.Service", stringify!($n));
        })*

        fn all(server: waypost_tonic::server::ServerBuilder) -> waypost_tonic::server::ServerBuilder {
            server$(.add_service(Named::<$n>))*
        }
    };
}

services!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);

impl<const N: usize> Service<http::Request<Body>> for Named<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        ready(Ok(http::Response::new(Body::empty())))
    }
}

/// A company's descriptor set: `SERVICES` services of `METHODS` methods with messages of 20 fields.
fn descriptor() -> Vec<u8> {
    let field = |i: i32| FieldDescriptorProto {
        name: Some(format!("field_{i}")),
        number: Some(i + 1),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::String.into()),
        ..FieldDescriptorProto::default()
    };
    let message = DescriptorProto {
        name: Some("Message".into()),
        field: (0..20).map(field).collect(),
        ..DescriptorProto::default()
    };
    let method = |i: usize| MethodDescriptorProto {
        name: Some(format!("Method{i}")),
        input_type: Some(".company.Message".into()),
        output_type: Some(".company.Message".into()),
        ..MethodDescriptorProto::default()
    };
    let service = |i: usize| ServiceDescriptorProto {
        name: Some(format!("Service{i}")),
        method: (0..METHODS).map(method).collect(),
        ..ServiceDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("company.proto".into()),
        package: Some("company".into()),
        message_type: vec![message],
        service: (0..SERVICES).map(service).collect(),
        syntax: Some("proto3".into()),
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

async fn registered(registry: &MemoryRegistry) -> record::Service {
    AnyRegistry::new(registry.open())
        .get_service("company")
        .await
        .unwrap()
        .remove(0)
}

#[tokio::test]
async fn a_server_of_forty_services_starts_and_registers_all_methods_without_their_schemas() {
    let registry = MemoryRegistry::new();
    let server = all(Server::builder("company", registry.open()).descriptor(&descriptor()));
    let mut handle = server.start().await.unwrap();
    handle.registered().await.unwrap();
    let service = registered(&registry).await;
    assert_eq!(service.endpoints.len(), SERVICES * METHODS);
    assert!(
        service
            .endpoints
            .iter()
            .all(|endpoint| endpoint.request.is_none() && endpoint.response.is_none())
    );
    handle.stop();
    handle.wait().await.unwrap();
}

#[tokio::test]
async fn only_services_that_were_added_are_registered_with_their_schemas() {
    let registry = MemoryRegistry::new();
    let server = Server::builder("company", registry.open())
        .descriptor(&descriptor())
        .add_service(Named::<7>);
    let mut handle = server.start().await.unwrap();
    handle.registered().await.unwrap();
    let service = registered(&registry).await;
    assert_eq!(service.endpoints.len(), METHODS);
    assert!(
        service
            .endpoints
            .iter()
            .all(|endpoint| endpoint.name.starts_with("Service7."))
    );
    let schema = service.endpoints[0].request.as_ref().unwrap();
    assert_eq!(schema.values.len(), 20);
    handle.stop();
    handle.wait().await.unwrap();
}
