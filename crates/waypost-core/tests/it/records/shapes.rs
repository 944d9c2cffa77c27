//! Tests of all shapes of JSON that go-micro decodes, and of those that it rejects.

use waypost_core::record::{Endpoint, Metadata, NilableVec, Node, Service, Value};

fn read(json: &str) -> Service {
    Service::from_json(json.as_bytes()).unwrap()
}

fn named(name: &str) -> Service {
    Service {
        name: name.to_owned(),
        ..Service::default()
    }
}

#[test]
fn what_is_missing_or_null_is_empty() {
    let null = r#"{"name":null,"version":null,"metadata":null,"endpoints":null,"nodes":null}"#;
    for json in ["{}", " \t\r\n{ } \n", null] {
        let service = read(json);
        assert_eq!(service, Service::default(), "{json}");
        assert_eq!(
            service.to_json(),
            r#"{"name":"","version":"","metadata":null,"endpoints":null,"nodes":null}"#
        );
    }
}

#[test]
fn null_is_taken_for_anything_inside() {
    let json = r#"{"metadata":{"a":null},"endpoints":[{"request":null,"response":{"name":null,"type":null,"values":null},"metadata":null,"name":null}],"nodes":[{"metadata":null,"id":null,"address":null}]}"#;
    let endpoint = Endpoint {
        response: Some(Value::default()),
        ..Endpoint::default()
    };
    let service = Service {
        metadata: Metadata::from([("a", "")]),
        endpoints: NilableVec::from(vec![endpoint]),
        nodes: NilableVec::from(vec![Node::default()]),
        ..Service::default()
    };
    assert_eq!(read(json), service);
}

#[test]
fn null_and_empty_are_distinguished() {
    for json in [
        r#"{"name":"","version":"","metadata":{},"endpoints":[],"nodes":[]}"#,
        r#"{"name":"","version":"","metadata":null,"endpoints":null,"nodes":null}"#,
        r#"{"name":"","version":"","metadata":{},"endpoints":[{"request":null,"response":{"name":"","type":"","values":[]},"metadata":{},"name":""}],"nodes":[{"metadata":{},"id":"","address":""}]}"#,
    ] {
        assert_eq!(read(json).to_json(), json);
    }
}

#[test]
fn keys_come_in_any_letter_case() {
    let json = r#"{"NAME":"n","Version":"v","metaData":{"Key":"kept"},"ENDPOINTS":[{"Request":{"NAME":"r","TYPE":"t","Values":[]},"nAmE":"e"}],"Nodes":[{"ID":"i","ADDRESS":"a","Metadata":{}}]}"#;
    let plain = r#"{"name":"n","version":"v","metadata":{"Key":"kept"},"endpoints":[{"request":{"name":"r","type":"t","values":[]},"response":null,"metadata":null,"name":"e"}],"nodes":[{"metadata":{},"id":"i","address":"a"}]}"#;
    assert_eq!(read(json).to_json(), plain);
}

#[test]
fn of_two_keys_the_later_wins() {
    assert_eq!(read(r#"{"name":"a","name":"b"}"#), named("b"));
    assert_eq!(read(r#"{"name":"a","NAME":"b"}"#), named("b"));
    assert_eq!(read(r#"{"NAME":"a","name":"b"}"#), named("b"));
    assert_eq!(
        read(r#"{"name":"a","name":null}"#),
        named("a"),
        "null leaves a text as it is, as in Go"
    );
    assert_eq!(
        read(r#"{"nodes":[{"id":"a"},{"id":"b"}],"nodes":[{"id":"c"}]}"#)
            .nodes
            .len(),
        1
    );
    assert_eq!(
        read(r#"{"nodes":[{"id":"a"}],"nodes":null}"#).nodes,
        NilableVec::null()
    );
    assert_eq!(
        read(r#"{"metadata":{"a":"1","b":"2"},"metadata":{"a":"3"}}"#).metadata,
        Metadata::from([("a", "3"), ("b", "2")])
    );
    assert_eq!(
        read(r#"{"metadata":{"a":"1","a":"2"}}"#).metadata,
        Metadata::from([("a", "2")])
    );
    assert_eq!(
        read(r#"{"metadata":{"a":"1"},"metadata":null,"metadata":{"b":"2"}}"#).metadata,
        Metadata::from([("b", "2")])
    );
    assert_eq!(
        read(r#"{"metadata":{"a":"1"},"metadata":7,"metadata":{}}"#).metadata,
        Metadata::from([("a", "1")])
    );
    assert_eq!(
        read(r#"{"metadata":{"a":"1"},"metadata":null}"#).metadata,
        Metadata::null()
    );
}

#[test]
fn unknown_keys_are_ignored() {
    let json = r#"{"id":"x","":1,"nested":{"name":[{"name":"y"}]},"name":"n","big":1e999,"list":[[],{},null,true,-0.5e-3]}"#;
    assert_eq!(read(json), named("n"));
}

#[test]
fn what_has_the_wrong_type_is_skipped_and_the_rest_kept() {
    for wrong in ["1", "-1", "1.5", "true", r#"["n"]"#, r#"{"name":"n"}"#] {
        assert_eq!(
            read(&format!(r#"{{"name":{wrong},"version":"v"}}"#)).version,
            "v",
            "{wrong}"
        );
        assert_eq!(
            read(&format!(r#"{{"version":"v","name":{wrong}}}"#)).name,
            "",
            "{wrong}"
        );
    }
    for wrong in ["1", r#""text""#, "false", r#"["n"]"#] {
        let json = format!(
            r#"{{"name":"n","metadata":{wrong},"endpoints":[{{"request":{wrong},"name":"e"}}]}}"#
        );
        let endpoint = Endpoint {
            name: "e".to_owned(),
            ..Endpoint::default()
        };
        assert_eq!(
            read(&json),
            Service {
                endpoints: NilableVec::from(vec![endpoint]),
                ..named("n")
            },
            "{wrong}"
        );
    }
    for wrong in ["1", r#""text""#, "false", r#"{"id":"i"}"#] {
        assert_eq!(
            read(&format!(
                r#"{{"nodes":{wrong},"endpoints":{wrong},"name":"n"}}"#
            )),
            named("n"),
            "{wrong}"
        );
    }
}

#[test]
fn a_list_keeps_what_it_can_and_a_map_its_keys() {
    let nodes = read(r#"{"nodes":[null,{"id":"a"},1,"x",[],{"id":2,"address":"b"}]}"#).nodes;
    let ids: Vec<_> = nodes
        .iter()
        .map(|node| (node.id.as_str(), node.address.as_str()))
        .collect();
    assert_eq!(ids, [("a", ""), ("", "b")]);
    let metadata = read(r#"{"metadata":{"a":1,"b":"2","c":null,"d":{}}}"#).metadata;
    assert_eq!(
        metadata,
        Metadata::from([("a", ""), ("b", "2"), ("c", ""), ("d", "")])
    );
}

#[test]
fn what_is_not_text_becomes_replacement_characters() {
    let cases: &[(&[u8], &str)] = &[
        (b"a\xffb", "a\u{fffd}b"),
        (b"\xe2\x82", "\u{fffd}\u{fffd}"),
        (b"\xf0\x9f\x98x", "\u{fffd}\u{fffd}\u{fffd}x"),
        (b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"\xc0\x80", "\u{fffd}\u{fffd}"),
        (br"\ud800", "\u{fffd}"),
        (br"\udc00x", "\u{fffd}x"),
        (br"\ud800\ud800", "\u{fffd}\u{fffd}"),
        (br"\ud800\n", "\u{fffd}\n"),
        (br"\ud800\ud83d\ude00", "\u{fffd}\u{1f600}"),
        (br"\uD83D\uDE00\uFFFD", "\u{1f600}\u{fffd}"),
        (br"\\ud800\\", "\\ud800\\"),
    ];
    for (bytes, name) in cases {
        let json = [br#"{"name":""#.as_slice(), bytes, br#""}"#].concat();
        assert_eq!(
            Service::from_json(&json).unwrap(),
            named(name),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn text_is_written_as_go_writes_it() {
    let name = "\u{0}\u{7}\u{8}\t\n\u{b}\u{c}\r\u{1f}\"\\/<>&\u{7f}\u{2028}\u{2029}é\u{fffd}😀";
    let json = r#"\u0000\u0007\b\t\n\u000b\f\r\u001f\"\\/\u003c\u003e\u0026"#.to_owned()
        + "\u{7f}"
        + r"\u2028\u2029"
        + "é\u{fffd}😀";
    assert_eq!(
        named(name).to_json(),
        format!(
            r#"{{"name":"{json}","version":"","metadata":null,"endpoints":null,"nodes":null}}"#
        )
    );
}

#[test]
fn a_value_that_is_not_an_object_is_an_error() {
    let cases = [
        "",
        " ",
        "null",
        "1",
        r#""x""#,
        "[1]",
        "[{}]",
        "true",
        "{",
        "{}}",
        "{}{}",
        "{} x",
        "{,}",
        r#"{"name"}"#,
        "{'name':1}",
    ];
    let broken = [
        r#"{"name":"a}"#,
        r#"{"name":"a",}"#,
        "{\"name\":\"a\nb\"}",
        r#"{"name":"\x"}"#,
        r#"{"name":"\u12"}"#,
        r#"{"name":01}"#,
    ];
    for json in cases.into_iter().chain(broken) {
        assert!(Service::from_json(json.as_bytes()).is_err(), "{json:?}");
    }
    assert!(
        Service::from_json(b"\xef\xbb\xbf{}").is_err(),
        "a byte order mark"
    );
    assert!(Service::from_json(b"{}\0").is_err());
}

#[test]
fn the_error_states_what_was_found() {
    let error = |json: &str| Service::from_json(json.as_bytes()).unwrap_err().to_string();
    insta::assert_snapshot!(error("[1]"), @"not a go-micro record: invalid type: sequence, expected a JSON object at line 1 column 0");
    insta::assert_snapshot!(error(r#"{"name":"a"} x"#), @"not a go-micro record: trailing characters at line 1 column 14");
    insta::assert_snapshot!(error(r#"{"version":1234567,"name":x}"#), @"not a go-micro record: expected value at line 1 column 27");
    insta::assert_snapshot!(error(r#"{"name":"#), @"not a go-micro record: EOF while parsing a value at line 1 column 8");
}

#[test]
fn nothing_is_nested_too_deep_for_the_stack() {
    let deep = 100_000;
    for open in [
        "[",
        r#"{"values":["#,
        r#"{"endpoints":[{"request":{"values":["#,
        r#"{"unknown":["#,
        r#"{"metadata":{"a":["#,
    ] {
        let nested = open.to_owned() + &"[".repeat(deep) + &"]".repeat(deep);
        assert!(Service::from_json(nested.as_bytes()).is_err(), "{open}");
        assert!(
            Service::from_json(open.repeat(deep).as_bytes()).is_err(),
            "{open}"
        );
    }
    let values = r#"{"values":["#.repeat(deep) + &"]}".repeat(deep);
    assert_eq!(
        read(&format!(
            r#"{{"name":"n","endpoints":[{{"request":{values}}}]}}"#
        ))
        .name,
        "n"
    );
}

/// Go decodes up to 10 000 levels.
#[test]
fn what_is_nested_too_deep_is_skipped_and_the_rest_kept() {
    let lists = "[".repeat(9_000) + &"]".repeat(9_000);
    let objects = r#"{"a":"#.repeat(9_000) + "1" + &"}".repeat(9_000);
    let values = r#"{"name":"v","values":["#.repeat(4_000) + &"]}".repeat(4_000);
    for wrong in [&lists, &objects, &values] {
        for place in ["unknown", "version", "metadata", "endpoints", "nodes"] {
            assert_eq!(
                read(&format!(r#"{{"{place}":{wrong},"name":"n"}}"#)).name,
                "n",
                "{place}"
            );
        }
        let json = format!(
            r#"{{"metadata":{{"a":{wrong},"b":"2"}},"nodes":[{{"id":{wrong},"address":"a"}}],"name":"n"}}"#
        );
        let service = read(&json);
        assert_eq!(service.metadata, Metadata::from([("a", ""), ("b", "2")]));
        assert_eq!(
            (service.name.as_str(), service.nodes[0].address.as_str()),
            ("n", "a")
        );
    }
    let json = format!(r#"{{"endpoints":[{{"request":{values},"name":"e"}}],"name":"n"}}"#);
    let service = read(&json);
    assert_eq!(
        (service.name.as_str(), service.endpoints[0].name.as_str()),
        ("n", "e")
    );
    let levels = std::iter::successors(service.endpoints[0].request.as_ref(), |value| {
        value.values.first()
    })
    .count();
    assert!((40..100).contains(&levels), "{levels} levels are read");
}

#[test]
fn a_number_of_any_size_is_skipped_and_the_rest_kept() {
    let long = "9".repeat(400);
    for number in [
        "1e999",
        "-1e999",
        "1E+99999999999999999999",
        "1e-99999999999999999999",
        "0e999",
        "18446744073709551616.5",
        &long,
    ] {
        let place = |json: &str| read(&json.replace('#', number));
        assert_eq!(
            place(r##"{"name":#,"version":"v"}"##).version,
            "v",
            "{number}"
        );
        assert_eq!(
            place(r##"{"metadata":#,"endpoints":#,"nodes":#,"name":"n"}"##),
            named("n"),
            "{number}"
        );
        assert_eq!(
            place(r##"{"metadata":{"a":#,"b":"2"}}"##).metadata,
            Metadata::from([("a", ""), ("b", "2")]),
            "{number}"
        );
        let service = place(
            r##"{"nodes":[#,{"id":#,"address":"a"}],"endpoints":[{"request":#,"name":"e"}],"name":"1e999\"-1e999"}"##,
        );
        let seen = (
            service.nodes[0].address.as_str(),
            service.endpoints[0].name.as_str(),
            service.nodes.len(),
        );
        assert_eq!(seen, ("a", "e", 1), "{number}");
        assert_eq!(service.name, "1e999\"-1e999", "text is not a number");
    }
    for wrong in [
        "01e999",
        "+1e999",
        "1.e999",
        ".1e999",
        "1e999.0",
        "1e",
        "-",
        "1e999-",
        "e999",
        "1e9991e999",
    ] {
        assert!(
            Service::from_json(format!(r#"{{"version":{wrong}}}"#).as_bytes()).is_err(),
            "{wrong}"
        );
    }
}
