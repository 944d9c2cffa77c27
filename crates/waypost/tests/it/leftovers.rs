//! Leak check: after everything is closed, no task, descriptor or file is left.

use std::time::Duration;

use tokio::runtime::Handle;
use tonic::{Request, Response, Status};
use waypost::{Client, Server, connect};
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest, HelloResponse};
use waypost_testkit::{Child, Program};

const LONG: Duration = Duration::from_secs(30);

struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse::default()))
    }
}

/// Returns the open descriptors of this process, except the one that lists them.
fn descriptors() -> Vec<String> {
    let mut open: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .filter(|target| !target.contains("/fd"))
        .collect();
    open.sort();
    open
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Runs one life cycle: a server registers, a client calls it, and all is closed.
async fn live(url: &str) {
    let ours = connect(url).await.unwrap();
    let theirs = connect(url).await.unwrap();
    let mut running = Server::builder("greeter", ours.clone())
        .descriptor(FILE_DESCRIPTOR_SET)
        .add_service(GreeterServer::new(Polite))
        .start()
        .await
        .unwrap();
    let client = Client::new(theirs.clone());
    let mut greeter = GreeterClient::new(client.channel("greeter").unwrap());
    for _ in 0..10 {
        greeter.hello(HelloRequest::default()).await.unwrap();
    }
    running.stop();
    running.wait().await.unwrap();
    client.close().await;
    ours.close().await.unwrap();
    theirs.close().await.unwrap();
}

/// Runs alone in a process, started by the test below, since other tests open descriptors too.
#[expect(
    clippy::disallowed_methods,
    reason = "a child is configured by its environment"
)]
#[ignore = "the child of the test below"]
#[tokio::test]
async fn child() {
    let dir = std::env::var("WAYPOST_TEST_DIR").unwrap();
    let url = format!("local://{dir}");
    // The first life cycle opens the descriptors that a runtime opens once and keeps.
    live(&url).await;
    let (descriptors_before, tasks_before) = (descriptors(), tasks());
    for _ in 0..5 {
        live(&url).await;
    }
    assert_eq!(descriptors(), descriptors_before);
    assert_eq!(tasks(), tasks_before);
    assert_eq!(tasks_before, 0);
    println!("nothing is left");
}

#[tokio::test]
async fn after_close_no_task_no_descriptor_and_no_file_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--exact", "leftovers::child", "--ignored", "--nocapture"];
    let program = Program::new(std::env::current_exe().unwrap())
        .args(args)
        .env("WAYPOST_TEST_DIR", dir.path());
    let mut child = Child::start("child", &program).unwrap();
    child
        .line_where(LONG, |line| line.contains("nothing is left"))
        .await
        .unwrap();
    assert!(child.wait(LONG).await.unwrap().success());
    let files = |path: &std::path::Path| -> Vec<_> {
        std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    for folder in files(dir.path()) {
        assert_eq!(files(&folder), [] as [std::path::PathBuf; 0]);
    }
}
