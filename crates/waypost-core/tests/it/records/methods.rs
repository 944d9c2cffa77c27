//! Tests of methods by path, and by go-micro's name if it is unambiguous.

use waypost_core::record::{Endpoint, Metadata, Method, NilableVec, Service, ServiceInfo, keys};

use super::golden;

const UNARY: Option<Method> = Some(Method {
    idempotent: false,
    streaming: false,
});
const STREAMING: Option<Method> = Some(Method {
    idempotent: false,
    streaming: true,
});

fn endpoint<const N: usize>(name: &str, metadata: [(&str, &str); N]) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        metadata: Metadata::from(metadata),
        ..Endpoint::default()
    }
}

fn info(endpoints: Vec<Endpoint>) -> ServiceInfo {
    Service {
        endpoints: NilableVec::from(endpoints),
        ..Service::new("greeter")
    }
    .info()
}

#[test]
fn methods_of_go_micro_are_known_by_name() {
    let people = golden::values()
        .into_iter()
        .find(|(name, _)| name == "grpc-multi")
        .unwrap()
        .1;
    let info = Service::from_json(people.as_bytes()).unwrap().info();
    assert_eq!(info.method("/greeter.v1.Greeter/Hello"), UNARY);
    assert_eq!(info.method("/Greeter/Hello"), UNARY);
    assert_eq!(info.method("/people.People/Find"), UNARY);
    assert_eq!(info.method("/people.People/Chat"), STREAMING);
    for unknown in [
        "/people.People/Func",
        "/people.Func",
        "Func",
        "/Func",
        "//Func",
        "/people.People/find",
        "/people.OtherPeople/Find",
    ] {
        assert_eq!(info.method(unknown), None, "{unknown}");
    }
    for wrong in [
        "",
        "/",
        "//",
        "people.People/Find",
        "/people.People/Find/",
        "/people.People",
        "/people.People.Find",
        "/Find",
    ] {
        assert_eq!(info.method(wrong), None, "{wrong}");
    }
}

#[test]
fn an_ambiguous_name_has_no_method() {
    let twice = info(vec![
        endpoint("Greeter.Hello", []),
        endpoint("Greeter.Hello", [(keys::STREAM, "true")]),
    ]);
    assert_eq!(twice.method("/v1.Greeter/Hello"), None);
    let by_path = [
        (keys::PATH, "/v2.Greeter/Hello"),
        (keys::IDEMPOTENT, "true"),
    ];
    for endpoints in [
        vec![endpoint("Greeter.Hello", by_path)],
        vec![
            endpoint("Greeter.Hello", []),
            endpoint("Greeter.Hello", by_path),
        ],
        vec![
            endpoint("Greeter.Hello", by_path),
            endpoint("Greeter.Hello", []),
        ],
    ] {
        let info = info(endpoints);
        assert_eq!(info.method("/v1.Greeter/Hello"), None);
        assert_eq!(
            info.method("/v2.Greeter/Hello"),
            Some(Method {
                idempotent: true,
                streaming: false
            })
        );
    }
}

#[test]
fn a_name_is_idempotent_only_where_the_record_reports_it() {
    let info = info(vec![
        endpoint("Greeter.Get", []),
        endpoint("Greeter.Put", [(keys::IDEMPOTENT, "true")]),
    ]);
    assert_eq!(info.method("/greeter.Greeter/Get"), UNARY);
    assert_eq!(
        info.method("/greeter.Greeter/Put"),
        Some(Method {
            idempotent: true,
            streaming: false
        })
    );
}

#[test]
fn a_subscriber_is_no_method() {
    let subscriber = endpoint(
        "Greeter.Hello",
        [(keys::SUBSCRIBER, "true"), ("topic", "hello")],
    );
    assert_eq!(
        info(vec![subscriber.clone()]).method("/v1.Greeter/Hello"),
        None
    );
    assert_eq!(
        info(vec![subscriber, endpoint("Greeter.Hello", [])]).method("/v1.Greeter/Hello"),
        UNARY
    );
}
