//! Owners in separate processes: this test binary, started again to run one hidden test.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use waypost_core::registry::{DeregisterOptions, Error, RegisterOptions, Registry};
use waypost_local::LocalRegistry;

const DIR: &str = "WAYPOST_TEST_DIR";

/// Process that executes the commands on its input lines, killed on drop.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "child::executes_commands",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIR, dir);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            output: BufReader::new(output).lines(),
        }
    }

    /// Sends a command, and waits for its result.
    pub(crate) async fn call(&mut self, what: &str) -> String {
        self.send(what).await;
        self.response().await
    }

    pub(crate) async fn send(&mut self, what: &str) {
        self.input
            .write_all(format!("{what}\n").as_bytes())
            .await
            .unwrap();
    }

    pub(crate) async fn response(&mut self) -> String {
        loop {
            let line = self
                .output
                .next_line()
                .await
                .unwrap()
                .expect("the child lives");
            if let Some((_, response)) = line.split_once("= ") {
                return response.to_owned();
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(
            Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap(),
            signal,
        )
        .unwrap();
    }

    /// Sends SIGKILL; returns once the process has ended.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Main function of a child. Commands: `register ID`, `deregister`, `descriptors`.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn executes_commands() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let dir = Path::new(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut held = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let response = match line.split_once(' ') {
            Some(("register", id)) => runtime.block_on(register(dir, id, &mut held)),
            _ if line == "deregister" => runtime.block_on(deregister(held.take())),
            _ => runtime.block_on(descriptors(dir)),
        };
        println!("= {response}");
        std::io::stdout().flush().unwrap();
    }
}

type Held = Option<(LocalRegistry, String, RegisterOptions)>;

async fn register(dir: &Path, id: &str, held: &mut Held) -> String {
    let (registry, options) = (super::open(&dir.join("registry")), super::owner());
    match registry
        .register(&super::service(id, &address()), &options)
        .await
    {
        Ok(()) => {
            *held = Some((registry, id.to_owned(), options));
            "held".to_owned()
        }
        Err(Error::IdTaken { .. }) => "taken".to_owned(),
        Err(error) => error.chain(),
    }
}

async fn deregister(held: Held) -> String {
    let Some((registry, id, options)) = held else {
        return "nothing held".to_owned();
    };
    registry
        .deregister(
            &super::service(&id, &address()),
            &DeregisterOptions::ours(options.instance),
        )
        .await
        .unwrap();
    registry.close().await.unwrap();
    "left".to_owned()
}

/// Returns an address of this process only, so that no process takes over from another.
fn address() -> String {
    format!("127.0.0.1:{}", std::process::id() % 60_000 + 1)
}

/// Opens, registers, watches and closes. Returns the number of leaked descriptors.
async fn descriptors(dir: &Path) -> String {
    use waypost_core::registry::WatchOptions;
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    drop(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let before = count();
    let (registry, options) = (super::open(&dir.join("registry")), super::owner());
    registry
        .register(&super::service("fd", "127.0.0.1:1"), &options)
        .await
        .unwrap();
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    watcher.next().await.unwrap().unwrap();
    assert!(count() > before, "counts nothing");
    registry.close().await.unwrap();
    (count() - before).to_string()
}
