//! URLs, and what is said of wrong ones.

use waypost::{Registry, connect};

async fn error(url: &str) -> String {
    connect(url).await.unwrap_err().to_string()
}

#[tokio::test]
async fn good_urls_connect() {
    assert_eq!(connect("memory://").await.unwrap().name(), "memory");
    let fixed = connect("static://127.0.0.1:80,[::1]:81?protocol=http").await.unwrap();
    let nodes = &fixed.get_service("any").await.unwrap()[0].nodes;
    let shown: Vec<_> = nodes.iter().map(|node| (node.address.as_str(), node.metadata["protocol"].as_str())).collect();
    assert_eq!(shown, [("127.0.0.1:80", "http"), ("[::1]:81", "http")]);
    #[cfg(feature = "local")]
    {
        let dir = tempfile::tempdir().unwrap();
        let local = connect(&format!("local://{}", dir.path().join("fresh").display())).await.unwrap();
        assert_eq!(local.name(), "local");
        assert!(local.list_services().await.unwrap().is_empty());
        local.close().await.unwrap();
    }
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn an_etcd_is_not_connected_before_it_is_used() {
    let registry = connect("etcd://ann:secret@127.0.0.1:1,127.0.0.1:2/prefix?timeout=500ms").await.unwrap();
    assert_eq!((registry.name(), registry.options().prefix.as_str()), ("etcd", "/prefix"));
    assert_eq!(registry.options().addresses, ["127.0.0.1:1", "127.0.0.1:2"]);
    assert!(!format!("{registry:?}").contains("secret"));
    registry.close().await.unwrap();
}

#[cfg(all(feature = "local", not(feature = "etcd")))]
#[tokio::test]
async fn wrong_urls_are_told_which_part_is_wrong_and_what_would_be_right() {
    insta::assert_snapshot!(error("greeter").await, @r#"registry URL "greeter": it has no scheme; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir]"#);
    insta::assert_snapshot!(error("zookeeper://a:1").await, @r#"registry URL "zookeeper://a:1": the scheme "zookeeper" is not in this build; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir]"#);
    insta::assert_snapshot!(error("etcd://user:secret@a:2379/prefix").await, @r#"registry URL "etcd://…@a:2379/prefix": this build lacks the feature etcd; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir]"#);
    insta::assert_snapshot!(error("memory://x").await, @r#"registry URL "memory://x": nothing may follow memory://, not even "x"; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir]"#);
    insta::assert_snapshot!(error("static://").await, @r#"registry URL "static://": address "" has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir]"#);
    insta::assert_snapshot!(error("static://a:1,b").await, @r#"registry URL "static://a:1,b": address "b" has no port: give host:port, such as 10.0.0.7:8080 or [::1]:8080; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir]"#);
    insta::assert_snapshot!(error("static://a:1?weight=3").await, @r#"registry URL "static://a:1?weight=3": "weight=3" is no option of static://; the only one is protocol=NAME; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir]"#);
    insta::assert_snapshot!(error("local:///tmp/x?y").await, @r#"registry URL "local:///tmp/x?y": "y" is no option of local://, which has none; this build knows memory://, static://host:port[,host:port…][?protocol=grpc], local://[dir]"#);
}
