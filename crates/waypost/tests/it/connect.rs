//! URLs of registries, and the errors of invalid ones.

use waypost::connect;

async fn error(url: &str) -> String {
    connect(url).await.unwrap_err().to_string()
}

/// Returns the error without the schemes of this build.
async fn wrong(url: &str) -> String {
    error(url)
        .await
        .split("; this build knows ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn good_urls_connect() {
    assert_eq!(connect("memory://").await.unwrap().name(), "memory");
    let fixed = connect("static://127.0.0.1:80,[::1]:81?protocol=http")
        .await
        .unwrap();
    let nodes = &fixed.get_service("any").await.unwrap()[0].nodes;
    let shown: Vec<_> = nodes
        .iter()
        .map(|node| (node.address.as_str(), node.metadata.get("protocol")))
        .collect();
    assert_eq!(
        shown,
        [("127.0.0.1:80", Some("http")), ("[::1]:81", Some("http"))]
    );
    #[cfg(feature = "local")]
    {
        let dir = tempfile::tempdir().unwrap();
        let local = connect(&format!("local://{}", dir.path().join("fresh").display()))
            .await
            .unwrap();
        assert_eq!(local.name(), "local");
        assert!(local.list_services().await.unwrap().is_empty());
        local.close().await.unwrap();
    }
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn an_etcd_is_not_connected_before_it_is_used() {
    let registry = connect("etcd://ann:secret@127.0.0.1:1,127.0.0.1:2/prefix?timeout=500ms")
        .await
        .unwrap();
    assert_eq!(
        (registry.name(), registry.options().prefix.as_str()),
        ("etcd", "/prefix")
    );
    assert_eq!(registry.options().addresses, ["127.0.0.1:1", "127.0.0.1:2"]);
    assert!(!format!("{registry:?}").contains("secret"));
    registry.close().await.unwrap();
}

#[tokio::test]
async fn wrong_urls_are_rejected_with_the_wrong_part_and_the_remedy() {
    insta::assert_snapshot!(wrong("greeter").await, @r#"registry URL "greeter": it has no scheme"#);
    insta::assert_snapshot!(wrong("zookeeper://a:1").await, @r#"registry URL "zookeeper://a:1": the scheme "zookeeper" is not in this build"#);
    #[cfg(not(feature = "etcd"))]
    insta::assert_snapshot!(wrong("etcd://user:secret@a:2379/prefix").await, @r#"registry URL "etcd://…@a:2379/prefix": this build lacks the feature etcd"#);
    insta::assert_snapshot!(wrong("memory://x").await, @r#"registry URL "memory://x": nothing may follow memory://"#);
    insta::assert_snapshot!(wrong("user:secret@a:2379").await, @r#"registry URL "…@a:2379": it has no scheme"#);
    insta::assert_snapshot!(wrong("static://user:secret@a:1").await, @r#"registry URL "static://…@a:1": static:// takes no user: give host:port only"#);
    insta::assert_snapshot!(wrong("static://").await, @r#"registry URL "static://": address "" has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080"#);
    insta::assert_snapshot!(wrong("static://a:1,b").await, @r#"registry URL "static://a:1,b": address "b" has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080"#);
    insta::assert_snapshot!(wrong("static://a:1?weight=3").await, @r#"registry URL "static://a:1?weight=3": "weight=3" is not an option of static://; the only one is protocol=NAME"#);
    #[cfg(feature = "local")]
    insta::assert_snapshot!(wrong("local:///tmp/x?y").await, @r#"registry URL "local:///tmp/x?y": "y" is not an option of local://; the options are max_record_bytes, max_metadata_entries, max_endpoints"#);
}

/// A record of 80 kB is registered and read where the limits are raised.
#[cfg(feature = "local")]
#[tokio::test]
async fn limits_of_a_record_are_options_of_the_url() {
    use std::time::Duration;
    use waypost::record::{Node, Service};
    use waypost::registry::{Instance, RegisterOptions};

    let dir = tempfile::tempdir().unwrap();
    let url = format!("local://{}", dir.path().display());
    let (default, raised) = (url.clone(), format!("{url}?max_record_bytes=131072"));
    let default = connect(&default).await.unwrap();
    let raised = connect(&raised).await.unwrap();
    let mut service = Service::new("greeter");
    service.nodes.push(Node::new("greeter", "127.0.0.1:1"));
    service.metadata.insert("padding", "x".repeat(80_000));
    let options = RegisterOptions {
        ttl: Duration::from_secs(15),
        instance: Instance::random(),
    };
    let error = default.register(&service, &options).await.unwrap_err();
    assert!(error.to_string().contains("at most 65536"), "{error}");
    raised.register(&service, &options).await.unwrap();
    assert_eq!(raised.get_service("greeter").await.unwrap().len(), 1);
    assert!(default.get_service("greeter").await.is_err());
    assert_eq!(default.skipped(Some("greeter")).count, 1);
}

#[tokio::test]
async fn a_wrong_url_is_rejected_with_the_schemes_of_this_build() {
    let mut known = vec![
        "memory://",
        "static://host:port[,host:port…][?protocol=grpc]",
    ];
    if cfg!(feature = "local") {
        known.push("local://[dir][?option=value&…]");
    }
    if cfg!(feature = "etcd") {
        known.push("etcd[s]://[user:pass@]host:port[,host:port…][/prefix][?option=value&…]");
    }
    assert!(
        error("greeter")
            .await
            .ends_with(&format!("; this build knows {}", known.join(", ")))
    );
}
