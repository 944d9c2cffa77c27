//! Server as a child process, stopped by real signals. The child is this test binary, run with one
//! test that is marked as the child.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use waypost_core::memory::MemoryRegistry;
use waypost_core::registrar::Config;
use waypost_core::registry::{AnyRegistry, Event, Registry, WatchOptions};
use waypost_tonic::server::{Server, ServerBuilder};

use super::echo::{self, BidiStream, HANG, word};

const SOON: Duration = Duration::from_secs(20);

/// Prints an event for the parent, on a line that the test harness may have begun.
pub(super) fn print(what: &str) {
    println!("@{what}");
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Returns the number of sockets that the process has open.
fn sockets() -> usize {
    let open = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    open.filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Child: an echo server that reports its registration, its deregistration, and the sockets left
/// open.
#[tokio::test]
#[ignore = "the child of the tests below; alone it ends by itself after 20 s"]
async fn child() {
    run_child(|server| server).await;
}

/// Child whose `after_start` hook reports that it runs, and never ends.
#[tokio::test]
#[ignore = "the child of a test below; alone it ends by itself after 20 s"]
async fn child_that_never_starts() {
    let hook = || async {
        print("hook");
        std::future::pending().await
    };
    run_child(|server| server.after_start(hook)).await;
}

/// Child whose `after_start` hook uses up the descriptors at SIGUSR1, and frees them at the next.
/// It prints the server's log.
#[tokio::test]
#[ignore = "the child of a test below; alone it ends by itself after 20 s"]
async fn child_without_descriptors() {
    let _log = tracing::subscriber::set_default(super::log::Told);
    let mut signal =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1()).unwrap();
    let hook = || async move {
        signal.recv().await;
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(128),
                ..getrlimit(Resource::Nofile)
            },
        )?;
        let held: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        print("full");
        signal.recv().await;
        drop(held);
        Ok(())
    };
    run_child(|server| server.after_start(hook)).await;
}

async fn run_child(change: impl FnOnce(ServerBuilder) -> ServerBuilder) {
    let registry = MemoryRegistry::new();
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    let (service, _) = echo::service();
    let mut config = Config::default();
    config.drain_delay = Duration::from_millis(300);
    let server = Server::builder("echo", AnyRegistry::new(registry.open()))
        .register(config)
        .add_service(service);
    let server = change(server);
    let _signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
    let before = (tasks(), sockets());
    let events = async {
        while let Some(Ok(event)) = watcher.next().await {
            match event {
                Event::Created(entry) => print(&format!("ready {}", entry.node.address)),
                Event::Deleted(_) => print("left"),
                Event::Reset(_) | Event::Updated(_) => {}
            }
        }
    };
    let serve = async {
        timeout(SOON, server.serve())
            .await
            .expect("a stop signal")
            .unwrap();
    };
    tokio::select! {
        () = serve => {}
        () = events => unreachable!("the registry stays open"),
    }
    while tasks() > before.0 {
        tokio::task::yield_now().await;
    }
    print(&format!("done, {} sockets left", sockets() - before.1));
}

/// ServerHandle child, killed when dropped.
struct Echo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Echo {
    fn start() -> Self {
        Self::start_as("child")
    }

    fn start_as(child: &str) -> Self {
        let child = format!("server::signals::{child}");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            &child,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for the next event of the child that begins with `what`, and returns what follows.
    async fn line_after(&mut self, what: &str) -> String {
        let printed = async {
            loop {
                let line = self
                    .lines
                    .next_line()
                    .await
                    .unwrap()
                    .expect("the child lives");
                if let Some((_, rest)) = line.split_once(&format!("@{what}")) {
                    return rest.trim().to_owned();
                }
            }
        };
        timeout(SOON, printed).await.expect("in time")
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .expect("it runs");
        kill_process(pid, signal).unwrap();
    }

    async fn ends(mut self) {
        assert!(
            timeout(SOON, self.child.wait())
                .await
                .expect("in time")
                .unwrap()
                .success()
        );
    }
}

#[tokio::test]
async fn sigterm_leaves_drains_and_leaves_nothing_behind() {
    let mut server = Echo::start();
    let address = server.line_after("ready ").await;
    let mut client = echo::client(&address).await;
    let mut stream = BidiStream::begin(&mut client).await;
    server.signal(Signal::TERM);
    server.line_after("left").await;
    assert_eq!(
        client
            .unary_echo(word("late"))
            .await
            .unwrap()
            .into_inner()
            .text,
        "late"
    );
    echo::refuses(&address).await;
    assert_eq!(stream.exchange("still here").await.unwrap(), "still here");
    assert_eq!(stream.close().await.unwrap(), None);
    assert_eq!(server.line_after("done, ").await, "0 sockets left");
    server.ends().await;
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let mut server = Echo::start();
    let address = server.line_after("ready ").await;
    let mut client = echo::client(&address).await;
    let stream = BidiStream::begin(&mut client).await;
    let mut other = echo::client(&address).await;
    let hanging =
        tokio::task::JoinSet::from_iter([async move { other.unary_echo(word(HANG)).await }]);
    server.signal(Signal::INT);
    server.line_after("left").await;
    server.signal(Signal::TERM);
    assert!(
        timeout(Duration::from_secs(5), stream.ends())
            .await
            .expect("cut")
            .is_err()
    );
    assert!(
        timeout(Duration::from_secs(5), hanging.join_all())
            .await
            .expect("cut")
            .remove(0)
            .is_err()
    );
    assert_eq!(server.line_after("done, ").await, "0 sockets left");
    server.ends().await;
}

#[tokio::test]
async fn a_signal_during_the_after_start_hook_leaves_and_drains() {
    let mut server = Echo::start_as("child_that_never_starts");
    let address = server.line_after("ready ").await;
    let mut client = echo::client(&address).await;
    let mut stream = BidiStream::begin(&mut client).await;
    server.signal(Signal::TERM);
    server.line_after("left").await;
    echo::refuses(&address).await;
    assert_eq!(stream.exchange("still here").await.unwrap(), "still here");
    assert_eq!(stream.close().await.unwrap(), None);
    assert_eq!(server.line_after("done, ").await, "0 sockets left");
    server.ends().await;
}

#[tokio::test]
async fn a_server_without_descriptors_reports_it_once_and_when_it_accepts_again() {
    let mut server = Echo::start_as("child_without_descriptors");
    let address = server.line_after("ready ").await;
    server.signal(Signal::USR1);
    server.line_after("full").await;
    let waiting = tokio::net::TcpStream::connect(&address).await.unwrap();
    assert_eq!(
        server.line_after("log ").await,
        "WARN cannot accept connections; retrying"
    );
    // Long enough for several more failures, which are not logged.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.signal(Signal::USR1);
    assert_eq!(
        server.line_after("log ").await,
        "INFO accepting connections again"
    );
    drop(waiting);
    assert_eq!(
        echo::client(&address)
            .await
            .unary_echo(word("hello"))
            .await
            .unwrap()
            .into_inner()
            .text,
        "hello"
    );
    server.signal(Signal::TERM);
    assert_eq!(server.line_after("log ").await, "INFO stop signal received");
    assert_eq!(server.line_after("done, ").await, "0 sockets left");
    server.ends().await;
}
