//! Advertised addresses on hosts of every kind: a server in one network namespace, etcd and a reader
//! in another. The children are this test binary, run with a test that is marked as one. Skipped
//! where the machine has no network namespaces.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypost::record::Service;
use waypost::registry::WatchOptions;
use waypost::{AnyRegistry, Registration, Server, connect};
use waypost_testkit::etcd::Binary;
use waypost_testkit::netns::{Net, Skip};
use waypost_testkit::{Child, Program, Proxy};

const LONG: Duration = Duration::from_secs(60);

/// Host of the server, and host of etcd and the reader.
const SERVER: usize = 0;
const ETCD: usize = 1;

#[expect(
    clippy::disallowed_methods,
    reason = "a child is configured by its environment"
)]
fn variable(variable: &str) -> String {
    std::env::var(variable).unwrap()
}

fn log() {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stdout)
        .init();
}

fn web() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

/// Child: an axum service by the server's builder.
#[tokio::test]
#[ignore = "a child of the tests below"]
async fn served() {
    log();
    let registry = connect(&variable("WAYPOST_TEST_URL")).await.unwrap();
    let server = Server::builder("web", registry)
        .bind(variable("WAYPOST_TEST_BIND"))
        .router(web());
    match server.start().await {
        Err(error) => println!("\nerror: {error}"),
        Ok(server) => {
            println!("\nadvertised {}", server.advertised());
            std::future::pending::<()>().await;
        }
    }
}

/// Child: an axum service with a listener, a server and a registration of its own.
#[tokio::test]
#[ignore = "a child of the tests below"]
async fn registered() {
    log();
    let registry = connect(&variable("WAYPOST_TEST_URL")).await.unwrap();
    let listener = waypost::server::listen(&variable("WAYPOST_TEST_BIND"))
        .await
        .unwrap();
    let bound = listener.local_addr().unwrap();
    let registration = Registration::builder(registry, Service::new("web"))
        .start_on(bound)
        .await;
    let registration = registration.unwrap();
    println!("\nadvertised {}", registration.service().nodes[0].address);
    axum::serve(listener, web()).await.unwrap();
}

/// Child: an axum service whose registry is reached through a forwarder on its host.
#[tokio::test]
#[ignore = "a child of the tests below"]
async fn behind_a_forwarder() {
    log();
    let etcd = variable("WAYPOST_TEST_URL")
        .trim_start_matches("etcd://")
        .parse()
        .unwrap();
    let forwarder = Proxy::start(etcd).await.unwrap();
    let registry = connect(&format!("etcd://{}", forwarder.address()))
        .await
        .unwrap();
    let server = Server::builder("web", registry)
        .bind(variable("WAYPOST_TEST_BIND"))
        .router(web());
    let server = server.start().await.unwrap();
    server.registered().await.unwrap();
    println!("\nadvertised {}", server.advertised());
    std::future::pending::<()>().await;
}

/// Child: calls the first node of the service at the address that the registry has.
#[tokio::test]
#[ignore = "a child of the tests below"]
async fn reader() {
    let registry = connect(&variable("WAYPOST_TEST_URL")).await.unwrap();
    let address = node(&registry).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("hello"), "{response}");
    println!("\nreached {address}");
}

async fn node(registry: &AnyRegistry) -> String {
    let mut watcher = registry.watch(&WatchOptions::service("web")).await.unwrap();
    loop {
        watcher.next().await.unwrap().unwrap();
        if let Ok(services) = registry.get_service("web").await {
            return services[0].nodes[0].address.clone();
        }
    }
}

/// Two hosts with an etcd on the second.
struct Hosts {
    net: Net,
    _etcd: Child,
    _data: tempfile::TempDir,
    url: String,
}

impl Hosts {
    /// Prepares the hosts' links and starts etcd, to be reached at this host from the server's.
    async fn start(
        etcd: &str,
        prepare: impl FnOnce(&Net) -> Result<(), Skip>,
    ) -> Result<Self, Skip> {
        let net = Net::start(2)?;
        prepare(&net)?;
        let data = tempfile::tempdir().unwrap();
        let binary = Binary::all().unwrap().pop().unwrap();
        let url = format!("http://{etcd}:2379");
        let program = Program::new(binary.path()).args([
            format!("--data-dir={}", data.path().display()),
            format!("--listen-client-urls={url},http://127.0.0.1:2379"),
            format!("--advertise-client-urls={url}"),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--initial-cluster=default=http://127.0.0.1:2380".to_owned(),
            "--logger=zap".to_owned(),
            "--log-outputs=stdout".to_owned(),
        ]);
        let mut child = Child::start("etcd", &net.host(ETCD).program(program)).unwrap();
        let serving = |line: &str| line.contains("serving client traffic");
        child.line_where(LONG, serving).await.unwrap();
        Ok(Self {
            net,
            _etcd: child,
            _data: data,
            url: format!("etcd://{etcd}:2379"),
        })
    }

    fn child(&self, test: &str, host: usize, url: &str, bind: &str) -> Child {
        let name = format!("advertise::{test}");
        let program = Program::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--ignored", "--nocapture"])
            .env("WAYPOST_TEST_URL", url)
            .env("WAYPOST_TEST_BIND", bind);
        Child::start(test, &self.net.host(host).program(program)).unwrap()
    }

    /// Starts a server on its host; returns it, and the line that says what it advertises.
    async fn server(&self, test: &str, bind: &str) -> (Child, String) {
        let mut child = self.child(test, SERVER, &self.url, bind);
        let is_output = |line: &str| line.starts_with("advertised ") || line.starts_with("error: ");
        let line = child.line_where(LONG, is_output).await.unwrap();
        (child, line)
    }

    /// Returns the address at which the reader has reached the server.
    async fn reached(&self) -> String {
        let mut reader = self.child("reader", ETCD, "etcd://127.0.0.1:2379", "");
        let reached = |line: &str| line.starts_with("reached ");
        let line = reader.line_where(LONG, reached).await.unwrap();
        line.trim_start_matches("reached ").to_owned()
    }
}

/// Returns the host of the `advertised HOST:PORT`, and checks that the log says so at this level.
fn host(child: &Child, line: &str, level: &str, message: &str) -> String {
    let address = line.strip_prefix("advertised ").expect(line);
    let log = child.stdout();
    let is_output = log.iter().any(|line| {
        line.contains(level)
            && line.contains(message)
            && line.contains(&format!("address={address}"))
    });
    assert!(is_output, "{level} {message} {address}: {log:#?}");
    address.rsplit_once(':').unwrap().0.to_owned()
}

const BY_ROUTE: &str = "advertising this host's address on the route to the registry";

/// Adds a network with the default route, in which no reader is.
fn second_network(net: &Net) -> Result<(), Skip> {
    let server = net.host(SERVER);
    server.ip("link add eth1 type veth peer name other")?;
    server.ip("link set other up")?;
    server.ip("address add 203.0.113.7/24 dev eth1")?;
    server.ip("link set eth1 up")?;
    server.ip("route add default via 203.0.113.1 dev eth1")
}

/// Gives both hosts an IPv6 address, and leaves IPv4 to their loopback.
fn ipv6_only(net: &Net) -> Result<(), Skip> {
    for (host, address) in [(SERVER, "fd77::1"), (ETCD, "fd77::2")] {
        let host = net.host(host);
        host.ip("-4 address flush dev eth0")?;
        host.ip(&format!("address add {address}/64 dev eth0 nodad"))?;
    }
    Ok(())
}

fn ipv4_only(net: &Net) -> Result<(), Skip> {
    net.host(SERVER).ip("-6 address flush dev eth0")?;
    net.host(SERVER).ip("-6 address flush dev lo")
}

/// Starts the hosts, or ends the test where there can be none.
macro_rules! hosts {
    ($etcd:expr, $prepare:expr) => {
        match Hosts::start($etcd, $prepare).await {
            Ok(hosts) => hosts,
            Err(skip) => return eprintln!("{skip}"),
        }
    };
}

#[tokio::test]
async fn of_two_networks_the_one_of_the_registry_is_advertised() {
    let hosts = hosts!("10.77.0.2", second_network);
    let (child, line) = hosts.server("served", "0.0.0.0:0").await;
    assert_eq!(host(&child, &line, "INFO", BY_ROUTE), "10.77.0.1");
    assert_eq!(line, format!("advertised {}", hosts.reached().await));
}

#[tokio::test]
async fn a_server_of_another_kind_is_advertised_in_the_network_of_the_registry_too() {
    let hosts = hosts!("10.77.0.2", second_network);
    let (child, line) = hosts.server("registered", "0.0.0.0:0").await;
    assert_eq!(host(&child, &line, "INFO", BY_ROUTE), "10.77.0.1");
    assert_eq!(line, format!("advertised {}", hosts.reached().await));
}

#[tokio::test]
async fn without_a_default_route_the_route_to_the_registry_is_enough() {
    let hosts = hosts!("10.77.0.2", |_| Ok(()));
    let (child, line) = hosts.server("served", "0.0.0.0:0").await;
    assert_eq!(host(&child, &line, "INFO", BY_ROUTE), "10.77.0.1");
    assert_eq!(line, format!("advertised {}", hosts.reached().await));
}

#[tokio::test]
async fn on_a_host_with_ipv6_alone_a_port_alone_is_enough_and_an_ipv4_listener_an_error() {
    let hosts = hosts!("[fd77::2]", ipv6_only);
    let (child, line) = hosts.server("served", ":0").await;
    assert_eq!(host(&child, &line, "INFO", BY_ROUTE), "[fd77::1]");
    assert_eq!(line, format!("advertised {}", hosts.reached().await));
    let (_, line) = hosts.server("served", "0.0.0.0:8080").await;
    assert!(
        line.starts_with(
            "error: cannot advertise 0.0.0.0:8080: it accepts IPv4 only, and this host reaches the etcd registry from \
             fd77::1; listen on [::]:8080 with .bind(..), --server-address or WAYPOST_SERVER_ADDRESS, or give"
        ),
        "{line}"
    );
}

#[tokio::test]
async fn on_a_host_with_ipv4_alone_the_ipv6_wildcard_is_advertised_in_ipv4() {
    let hosts = hosts!("10.77.0.2", ipv4_only);
    let (child, line) = hosts.server("served", "[::]:0").await;
    assert_eq!(host(&child, &line, "INFO", BY_ROUTE), "10.77.0.1");
    assert_eq!(line, format!("advertised {}", hosts.reached().await));
}

#[tokio::test]
async fn behind_a_forwarder_on_this_host_loopback_is_advertised_with_a_warning() {
    let hosts = hosts!("10.77.0.2", |_| Ok(()));
    let (child, line) = hosts.server("behind_a_forwarder", "0.0.0.0:0").await;
    let warning = "registry is reached through loopback; advertising loopback, which clients on other hosts cannot reach";
    assert_eq!(host(&child, &line, "WARN", warning), "127.0.0.1");
    let how = "--server-advertise or WAYPOST_SERVER_ADVERTISE";
    assert!(
        child.stdout().iter().any(|line| line.contains(how)),
        "how to choose another"
    );
}
