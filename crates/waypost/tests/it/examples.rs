//! Examples, run as a reader would run them.

use std::path::PathBuf;
use std::time::Duration;

use waypost::record::Service;
use waypost::{AnyRegistry, connect};
use waypost_testkit::{Child, Program};

const LONG: Duration = Duration::from_secs(30);

/// Returns the path of an example, built next to this test by the same `cargo test`.
fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(name)
}

fn start(name: &str, arg: &str) -> Child {
    Child::start(name, &Program::new(example(name)).arg(arg)).unwrap()
}

async fn registered(registry: &AnyRegistry, name: &str) -> Service {
    let mut watcher = registry
        .watch(&waypost::registry::WatchOptions::service(name))
        .await
        .unwrap();
    let found = async {
        loop {
            watcher.next().await.unwrap().unwrap();
            if let Ok(mut services) = registry.get_service(name).await {
                return services.remove(0);
            }
        }
    };
    tokio::time::timeout(LONG, found).await.unwrap()
}

#[tokio::test]
async fn the_greeters_find_each_other_and_own_registry_finds_them_too() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("local://{}", dir.path().display());
    let registry = connect(&url).await.unwrap();
    let mut server = start("greeter_server", &url);
    let service = registered(&registry, "greeter").await;
    let node = &service.nodes[0];

    let mut client = start("greeter_client", &url);
    assert!(client.wait(LONG).await.unwrap().success());
    let answers = ["Ann", "Bob", "Eve"].map(|name| format!("Hello {name} (from {})", node.id));
    assert_eq!(client.stdout(), answers);

    let hosts = dir.path().join("hosts.txt");
    std::fs::write(&hosts, format!("greeter one {}\nnonsense\n", node.address)).unwrap();
    let mut own = start("own_registry", &hosts.display().to_string());
    assert!(own.wait(LONG).await.unwrap().success());
    assert_eq!(own.stdout(), ["Hello Ann"]);

    server.sigterm().unwrap();
    assert!(server.wait(LONG).await.unwrap().success());
    assert_eq!(server.stdout(), ["serving", "left"]);
    assert!(registry.list_services().await.unwrap().is_empty());
    registry.close().await.unwrap();
}

#[cfg(feature = "args")]
#[tokio::test]
async fn the_greeter_with_flags_obeys_the_flag_the_environment_and_the_code() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("local://{}", dir.path().display());
    let registry = connect(&url).await.unwrap();
    let program = Program::new(example("args_server"))
        .env("WAYPOST_REGISTRY", &url)
        .env("MICRO_REGISTRY", "consul");
    let program = program
        .env("MICRO_REGISTER_TTL", "60")
        .env("MICRO_SERVER_NAME", "by-micro");
    let args = [
        "--server-name",
        "by-flag",
        "--server-metadata",
        "zone=eu-1,rack=7",
        "--greeting",
        "Ahoy",
    ];
    let mut server = Child::start("args_server", &program.args(args)).unwrap();
    let service = registered(&registry, "by-flag").await;
    assert_eq!(service.version, "1", "as in the code");
    let metadata = &service.nodes[0].metadata;
    assert_eq!(
        (metadata.get("zone"), metadata.get("rack")),
        (Some("eu-1"), Some("7"))
    );
    server.sigterm().unwrap();
    assert!(server.wait(LONG).await.unwrap().success());
    assert_eq!(server.stdout(), ["left"]);
    registry.close().await.unwrap();
}

#[tokio::test]
async fn the_axum_service_registers_and_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("local://{}", dir.path().display());
    let registry = connect(&url).await.unwrap();
    let mut server = start("axum_drain", &url);
    let service = registered(&registry, "users").await;
    assert_eq!(service.nodes[0].metadata.get("protocol"), Some("http"));
    server.sigterm().unwrap();
    assert!(server.wait(LONG).await.unwrap().success());
    assert_eq!(server.stdout().last().unwrap(), "left");
    assert!(registry.list_services().await.unwrap().is_empty());
    registry.close().await.unwrap();
}

#[cfg(all(feature = "args", feature = "axum"))]
#[tokio::test]
async fn the_axum_server_registers_answers_and_leaves() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    let url = format!("local://{}", dir.path().display());
    let registry = connect(&url).await.unwrap();
    let program = Program::new(example("axum_server"))
        .env("WAYPOST_REGISTRY", &url)
        .args(["--server-id", "one"]);
    let mut server = Child::start("axum_server", &program).unwrap();
    let node = registered(&registry, "users").await.nodes[0].clone();
    assert_eq!(node.id, "users-one");
    assert_eq!(node.metadata.get("protocol"), Some("http"));
    let mut stream = tokio::net::TcpStream::connect(&node.address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: users\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("hello\n"), "{response}");
    server.sigterm().unwrap();
    assert!(server.wait(LONG).await.unwrap().success());
    assert_eq!(server.stdout(), ["left"]);
    assert!(registry.list_services().await.unwrap().is_empty());
    registry.close().await.unwrap();
}
