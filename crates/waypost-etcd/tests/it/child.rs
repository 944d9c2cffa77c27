//! Nodes in separate processes: this test binary, started again to run one hidden test.

use std::time::Duration;

use waypost_core::record::Node;
use waypost_core::registry::AnyRegistry;
use waypost_testkit::{Child, Program};

use super::rig::{PATIENCE, Rig};
use super::server::{address, registration, service};

const URL: &str = "WAYPOST_TEST_URL";
const NODE: &str = "WAYPOST_TEST_NODE";

/// Process with one node; killed on drop.
pub(crate) struct Process {
    child: Child,
    node: Node,
}

impl Process {
    /// Starts a process with a node of this id, at an address that no other node has.
    pub(crate) fn start(url: &str, id: &str, address: &str) -> Self {
        let args = [
            "--exact",
            "child::serves",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ];
        let program = Program::new(std::env::current_exe().unwrap()).args(args);
        let program = program
            .env(URL, url)
            .env(NODE, format!("{id} {address}"))
            .env("WAYPOST_TEST_LOG", "1");
        Self {
            child: Child::start(format!("node {id}"), &program).unwrap(),
            node: Node::with_id("greeter", id, address),
        }
    }

    /// Starts a process and adds its node to the rig; returns once it is registered and seen.
    pub(crate) async fn join(rig: &mut Rig, url: &str, id: &str) -> Self {
        let mut process = Self::start(url, id, &address(id));
        process.until_it_reports("Registered").await;
        rig.others.push(process.node());
        rig.begin().await;
        process
    }

    /// Returns the node expected in the registry.
    pub(crate) fn node(&self) -> Node {
        self.node.clone()
    }

    /// Waits until the registration reports this text, after the last one that was waited for.
    pub(crate) async fn until_it_reports(&mut self, text: &str) {
        let output = self
            .child
            .line_where(PATIENCE, |line| line.contains("= ") && line.contains(text))
            .await;
        output.unwrap_or_else(|failure| panic!("{text}: {failure}"));
    }

    /// Sends SIGSTOP; returns once the process is stopped.
    pub(crate) fn stop(&mut self) {
        self.child.sigstop().unwrap();
    }

    /// Sends SIGCONT.
    pub(crate) fn wake(&mut self) {
        self.child.sigcont().unwrap();
    }

    /// Sends SIGTERM, on which the process deregisters; returns once it has ended.
    pub(crate) async fn leave(mut self) {
        self.child.sigterm().unwrap();
        self.ended().await;
    }

    /// Sends SIGKILL; returns once the process has ended.
    pub(crate) async fn kill(mut self) {
        self.child.sigkill().unwrap();
        self.ended().await;
    }

    async fn ended(&mut self) {
        self.child.wait(Duration::from_secs(20)).await.unwrap();
        let output = [self.child.stdout(), self.child.stderr()].concat();
        assert!(
            output.iter().any(|line| line.contains("waypost_etcd")),
            "its log is captured"
        );
        super::capture(&output.join("\n"));
    }
}

/// Main function of such a process: registers, prints each state, and deregisters on SIGTERM.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn serves() {
    let Some((url, node)) = std::env::var_os(URL).zip(std::env::var_os(NODE)) else {
        return;
    };
    let (url, node) = (url.into_string().unwrap(), node.into_string().unwrap());
    let (id, address) = node.split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut terminated =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let registry = AnyRegistry::new(super::open(&url));
        let registration = registration(&registry, service(id, address));
        let mut states = registration.watch();
        loop {
            println!("= {:?} of {registry:?}", states.borrow_and_update().clone());
            tokio::select! {
                _ = states.changed() => {}
                _ = terminated.recv() => break,
            }
        }
        registration.close().await.unwrap();
        registry.close().await.unwrap();
    });
}
