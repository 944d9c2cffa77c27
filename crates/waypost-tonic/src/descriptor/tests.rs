use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use waypost_core::record::{Endpoint, Metadata, NilableVec, Node, Service, Value, keys};
use waypost_greeter::{echo, greeter};

use super::{DescriptorError, endpoints, go};

/// Proto file as text.
struct Source(&'static str);

impl FileResolver for Source {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "test.proto" {
            File::from_source(name, self.0)
        } else {
            Err(protox::Error::file_not_found(name))
        }
    }
}

fn compile(source: &'static str, imports: bool) -> Vec<u8> {
    let mut files = ChainFileResolver::new();
    files.add(Source(source));
    files.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler
        .include_imports(imports)
        .open_file("test.proto")
        .unwrap()
        .encode_file_descriptor_set()
}

fn describe(source: &'static str) -> Vec<Endpoint> {
    endpoints(&compile(source, true)).unwrap()
}

/// Returns the endpoints as go-micro has them, without the metadata that only Waypost writes.
fn without_ours(mut described: Vec<Endpoint>) -> Vec<Endpoint> {
    for endpoint in &mut described {
        endpoint.metadata.remove(keys::PATH);
        endpoint.metadata.remove(keys::IDEMPOTENT);
    }
    described
}

fn golden(value: &str) -> Service {
    Service::from_json(value.lines().nth(1).unwrap().as_bytes()).unwrap()
}

/// Returns the methods of a golden record, without its subscribers and the metadata that its user
/// added.
fn golden_methods(value: &str) -> Vec<Endpoint> {
    let mut methods: Vec<_> = golden(value)
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.response.is_some())
        .cloned()
        .collect();
    for method in &mut methods {
        method.metadata.remove("auth");
    }
    methods
}

fn field(name: &str, kind: &str) -> Value {
    Value {
        name: name.to_owned(),
        kind: kind.to_owned(),
        values: NilableVec::null(),
    }
}

fn names(described: &[Endpoint]) -> Vec<&str> {
    described
        .iter()
        .map(|endpoint| endpoint.name.as_str())
        .collect()
}

#[test]
fn the_demo_is_the_golden_record() {
    let mut golden = golden(include_str!("../../../waypost-core/tests/golden/grpc.kv"));
    golden.nodes[0].metadata.remove("broker").unwrap();
    let mut demo = Service::new("greeter");
    demo.endpoints = NilableVec::from(without_ours(
        endpoints(greeter::FILE_DESCRIPTOR_SET).unwrap(),
    ));
    let metadata = Metadata::from([
        ("server", "grpc"),
        ("protocol", "grpc"),
        ("transport", "grpc"),
        ("registry", "etcd"),
    ]);
    demo.nodes.push(Node {
        metadata,
        ..golden.nodes[0].clone()
    });
    assert_eq!(demo.to_json(), golden.to_json());
}

#[test]
fn a_field_of_every_kind_is_reported_as_in_the_golden_record() {
    let golden = golden_methods(include_str!(
        "../../../waypost-core/tests/golden/grpc-multi.kv"
    ));
    assert_eq!(golden.len(), 5);
    let set = [
        greeter::FILE_DESCRIPTOR_SET,
        &compile(include_str!("people.proto"), true),
    ]
    .concat();
    assert_eq!(without_ours(endpoints(&set).unwrap()), golden);
}

#[test]
fn messages_are_opened_as_deep_as_in_the_golden_record() {
    let golden = golden_methods(include_str!(
        "../../../waypost-core/tests/golden/grpc-plain-structs.kv"
    ));
    let described = describe(
        r#"syntax = "proto3"; package catalog;
        service Catalog { rpc Abc(Deep1) returns (Deep1); }
        message Deep1 { Deep2 deep2 = 1; Deep1 self = 2; }
        message Deep2 { Deep3 deep3 = 1; }
        message Deep3 { string deepest = 1; }"#,
    );
    assert_eq!(without_ours(described), golden[..1]);
}

#[test]
fn the_metadata_states_path_idempotency_and_stream() {
    let described = endpoints(echo::FILE_DESCRIPTOR_SET).unwrap();
    let metadata: Vec<_> = described
        .iter()
        .map(|endpoint| (endpoint.name.as_str(), endpoint.metadata.clone()))
        .collect();
    let stream = |path| Metadata::from([(keys::PATH, path), (keys::STREAM, "true")]);
    assert_eq!(
        metadata,
        [
            (
                "Echo.BidirectionalStreamingEcho",
                stream("/echo.Echo/BidirectionalStreamingEcho")
            ),
            (
                "Echo.ClientStreamingEcho",
                stream("/echo.Echo/ClientStreamingEcho")
            ),
            (
                "Echo.IdempotentEcho",
                Metadata::from([
                    (keys::PATH, "/echo.Echo/IdempotentEcho"),
                    (keys::IDEMPOTENT, "true")
                ])
            ),
            (
                "Echo.ServerStreamingEcho",
                stream("/echo.Echo/ServerStreamingEcho")
            ),
            (
                "Echo.UnaryEcho",
                Metadata::from([(keys::PATH, "/echo.Echo/UnaryEcho")])
            ),
        ]
    );
    let hello = endpoints(greeter::FILE_DESCRIPTOR_SET).unwrap().remove(0);
    assert_eq!(
        hello.metadata,
        Metadata::from([
            (keys::PATH, "/greeter.Greeter/Hello"),
            (keys::IDEMPOTENT, "true")
        ])
    );
}

#[test]
fn what_has_no_name_in_go_has_none_here() {
    let described = describe(
        r#"syntax = "proto3"; package odd.v1;
        import "google/protobuf/timestamp.proto";
        service odd_service { rpc do_it(Request) returns (Empty); }
        message Empty {}
        message Request {
          message inner { message Deeper { enum kind { A = 0; } } }
          repeated bytes blobs = 1;
          repeated inner.Deeper.kind kinds = 2;
          google.protobuf.Timestamp when = 3;
          inner inner_field = 4;
          oneof either_way { int32 left = 5; int32 right = 7; }
          sfixed64 between = 6;
          float ratio = 8;
          fixed32 count = 9;
          fixed64 total = 10;
        }"#,
    );
    let endpoint = &described[0];
    assert_eq!(endpoint.name, "OddService.DoIt");
    assert_eq!(
        endpoint.metadata.get(keys::PATH),
        Some("/odd.v1.odd_service/do_it")
    );
    assert_eq!(endpoint.response, Some(field("Empty", "Empty")));
    let when = Value {
        values: NilableVec::from(vec![field("seconds", "int64"), field("nanos", "int32")]),
        ..field("when", "Timestamp")
    };
    let fields = vec![
        field("blobs", "[]"),
        field("kinds", "[]RequestInner_DeeperKind"),
        when,
        field("inner_field", "RequestInner"),
        field("isRequest_EitherWay", "isRequest_EitherWay"),
        field("between", "int64"),
        field("ratio", "float32"),
        field("count", "uint32"),
        field("total", "uint64"),
    ];
    assert_eq!(
        endpoint.request,
        Some(Value {
            values: NilableVec::from(fields),
            ..field("Request", "Request")
        })
    );
}

#[test]
fn go_names() {
    let cases = [
        ("Greeter", "Greeter"),
        ("greeter", "Greeter"),
        ("hello_request", "HelloRequest"),
        ("HTTPServer", "HTTPServer"),
        ("Hello_Request", "Hello_Request"),
        ("_hidden", "XHidden"),
        ("a_1b", "A_1B"),
        ("v1beta", "V1Beta"),
        ("Outer.Inner", "Outer_Inner"),
        ("Outer._inner", "Outer_XInner"),
        ("Outer.inner", "OuterInner"),
        ("trailing_", "Trailing_"),
        ("a__b", "A_B"),
    ];
    for (proto, go_name) in cases {
        assert_eq!(go::name(proto), go_name, "{proto}");
    }
}

#[test]
fn services_come_in_gos_order_and_without_infrastructure() {
    let described = describe(
        r#"syntax = "proto3"; package z;
        service B { rpc Z(M) returns (M); rpc A(M) returns (M); }
        service AB { rpc A(M) returns (M); }
        service A { rpc Z(M) returns (M); }
        message M {}"#,
    );
    assert_eq!(names(&described), ["A.Z", "AB.A", "B.A", "B.Z"]);
    for infrastructure in [
        r#"syntax = "proto3"; package grpc.health.v1; service Health { rpc Check(M) returns (M); } message M {}"#,
        r#"syntax = "proto3"; package grpc.reflection.v1alpha; service R { rpc Info(M) returns (M); } message M {}"#,
    ] {
        assert_eq!(describe(infrastructure), []);
    }
    let ours = r#"syntax = "proto3"; package grpc.healthy; service Health { rpc Check(M) returns (M); } message M {}"#;
    assert_eq!(
        describe(ours)[0].metadata.get(keys::PATH),
        Some("/grpc.healthy.Health/Check")
    );
}

#[test]
fn a_service_needs_no_package_and_a_set_may_come_twice() {
    let set = compile(
        r#"syntax = "proto3"; service S { rpc Do(M) returns (M); } message M { M again = 1; }"#,
        true,
    );
    let described = endpoints(&set.repeat(2)).unwrap();
    assert_eq!(names(&described), ["S.Do"]);
    assert_eq!(described[0].metadata.get(keys::PATH), Some("/S/Do"));
    assert_eq!(endpoints(&[]).unwrap(), []);
}

#[test]
fn errors_state_what_to_do() {
    let broken = endpoints(b"no set").unwrap_err();
    assert!(matches!(broken, DescriptorError::Decode(_)));
    insta::assert_snapshot!(broken, @"not a FileDescriptorSet: give the bytes that tonic-prost-build's file_descriptor_set_path wrote");
    let needs_imports = r#"syntax = "proto3"; package p; import "google/protobuf/empty.proto"; import "google/protobuf/any.proto";
        service S { rpc Do(M) returns (google.protobuf.Empty); } message M { google.protobuf.Any any = 1; }"#;
    insta::assert_snapshot!(endpoints(&compile(needs_imports, false)).unwrap_err(), @"the descriptor set lacks google.protobuf.Any, which p.M uses: write it with its imports");
    let in_method = r#"syntax = "proto3"; package p; import "google/protobuf/empty.proto";
        service S { rpc Do(google.protobuf.Empty) returns (google.protobuf.Empty); }"#;
    insta::assert_snapshot!(endpoints(&compile(in_method, false)).unwrap_err(), @"the descriptor set lacks google.protobuf.Empty, which p.S/Do uses: write it with its imports");
}
