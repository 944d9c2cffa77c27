//! Client in a `static`, used from many runtimes. Its tasks end with the runtime that started them,
//! and restart on another.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};
use waypost::{AnyRegistry, Channel, Client, MemoryRegistry, Server, connect};
use waypost_greeter::greeter::greeter_client::GreeterClient;
use waypost_greeter::greeter::greeter_server::{Greeter, GreeterServer};
use waypost_greeter::greeter::{FILE_DESCRIPTOR_SET, HelloRequest, HelloResponse};

const LONG: Duration = Duration::from_secs(10);

/// Greeter that answers with its name.
struct Named(&'static str);

#[tonic::async_trait]
impl Greeter for Named {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            message: self.0.to_owned(),
        }))
    }
}

/// Real server on a thread of its own, stopped when this is dropped.
struct Thread {
    address: String,
    _stop: oneshot::Sender<()>,
}

impl Thread {
    fn start(name: &'static str, registry: AnyRegistry) -> Self {
        let (started, address) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            runtime().block_on(async move {
                let server = Server::builder("greeter", registry)
                    .id(name)
                    .bind("127.0.0.1:0")
                    .descriptor(FILE_DESCRIPTOR_SET)
                    .add_service(GreeterServer::new(Named(name)))
                    .start()
                    .await
                    .unwrap();
                server.registered().await.unwrap();
                started.send(server.address().to_string()).unwrap();
                let _ = stopped.await;
            });
        });
        Self {
            address: address.recv().unwrap(),
            _stop: stop,
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Registry with one server, and a client that has made no call yet.
struct Town {
    /// Opens a handle of its own, as another process would have.
    registry: Box<dyn Fn() -> AnyRegistry + Send + Sync>,
    channel: Channel,
    /// Channel of the same client whose calls may not be sent twice.
    cautious: Channel,
    _server: Option<Thread>,
    _dir: Option<TempDir>,
}

impl Town {
    fn of(registry: impl Fn() -> AnyRegistry + Send + Sync + 'static) -> Self {
        let server = Thread::start("first", registry());
        Self {
            _server: Some(server),
            ..Self::without_server(registry)
        }
    }

    fn without_server(registry: impl Fn() -> AnyRegistry + Send + Sync + 'static) -> Self {
        let client = Client::new(registry());
        let builder = || {
            client
                .channel_builder("greeter")
                .descriptor(FILE_DESCRIPTOR_SET)
        };
        let channel = builder().build().unwrap();
        let cautious = builder()
            .not_idempotent("/greeter.Greeter/Hello")
            .build()
            .unwrap();
        Self {
            registry: Box::new(registry),
            channel,
            cautious,
            _server: None,
            _dir: None,
        }
    }

    fn memory() -> Self {
        let memory = MemoryRegistry::new();
        Self::of(move || AnyRegistry::new(memory.open()))
    }

    fn local() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("local://{}", dir.path().display());
        let town = Self::of(move || open(&url));
        Self {
            _dir: Some(dir),
            ..town
        }
    }

    fn fixed(address: &str) -> Self {
        let url = format!("static://{address}");
        Self::without_server(move || open(&url))
    }
}

/// Opens a registry on a runtime that has ended when this function returns.
fn open(url: &str) -> AnyRegistry {
    let url = url.to_owned();
    std::thread::spawn(move || runtime().block_on(connect(&url)).unwrap())
        .join()
        .unwrap()
}

async fn hello(channel: &Channel) -> Result<String, Status> {
    let answer = GreeterClient::new(channel.clone())
        .hello(HelloRequest::default())
        .await?;
    Ok(answer.into_inner().message)
}

static TOWNS: LazyLock<[Town; 3]> = LazyLock::new(|| {
    let memory = Town::memory();
    let fixed = Town::fixed(&memory._server.as_ref().unwrap().address);
    [memory, Town::local(), fixed]
});

/// Body of each of ten tests, some of which run concurrently.
async fn every_call_is_answered() {
    for _ in 0..30 {
        for town in &*TOWNS {
            assert_eq!(hello(&town.channel).await.unwrap(), "first");
        }
    }
}

macro_rules! tests {
    ($($name:ident)*) => {$(
        #[tokio::test]
        async fn $name() {
            every_call_is_answered().await;
        }
    )*};
}

mod ten_tests_share_a_client {
    use super::every_call_is_answered;

    tests!(a b c d e f g h i j);
}

/// Makes calls until `stop` is set, and returns the first error.
async fn callers(
    channel: &Channel,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Result<(), Status> {
    let mut callers = JoinSet::<Result<(), Status>>::new();
    for _ in 0..8 {
        let (channel, answered, stop) = (channel.clone(), Arc::clone(&answered), Arc::clone(&stop));
        callers.spawn(async move {
            while !stop.load(Relaxed) {
                hello(&channel).await?;
                answered.fetch_add(1, Relaxed);
            }
            Ok(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap()?;
    }
    Ok(())
}

fn until(what: &str, condition: impl Fn() -> bool) {
    runtime().block_on(async {
        let fulfilled = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, fulfilled)
            .await
            .unwrap_or_else(|_| panic!("{what}"));
    });
}

/// Ends the runtime of all tasks of the client repeatedly while another runtime makes calls.
fn runtimes_end_under_calls(town: &Town) {
    let mut first = runtime();
    first.block_on(hello(&town.channel)).unwrap();
    for _ in 0..5 {
        let second = runtime();
        let (answered, stop) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let calling = second.spawn({
            let (channel, answered, stop) = (
                town.channel.clone(),
                Arc::clone(&answered),
                Arc::clone(&stop),
            );
            async move { callers(&channel, answered, stop).await }
        });
        let more = |n: usize| {
            let before = answered.load(Relaxed);
            until("no call is answered", || {
                calling.is_finished() || answered.load(Relaxed) >= before + n
            });
        };
        more(50);
        drop(first);
        second.block_on(hello(&town.cautious)).unwrap();
        more(50);
        stop.store(true, Relaxed);
        second.block_on(calling).unwrap().unwrap();
        first = second;
    }
    // The registry is still watched.
    let _second = Thread::start("second", (town.registry)());
    let called = async { while hello(&town.channel).await.unwrap() != "second" {} };
    first
        .block_on(async { tokio::time::timeout(LONG, called).await })
        .expect("the second node is never called");
}

#[test]
fn runtimes_that_end_take_no_call_with_them_on_memory() {
    runtimes_end_under_calls(&Town::memory());
}

#[test]
fn runtimes_that_end_take_no_call_with_them_on_local() {
    runtimes_end_under_calls(&Town::local());
}

#[cfg(feature = "etcd")]
#[test]
fn runtimes_that_end_take_no_call_with_them_on_etcd() {
    use waypost_testkit::etcd::{Etcd, Options, each};

    let keeper = runtime();
    let etcds = keeper.block_on(each(async |binary| {
        Etcd::start(&binary, &Options::one()).await.unwrap()
    }));
    for etcd in &etcds {
        let url = format!("etcd://{}", etcd.addresses()[0]);
        runtimes_end_under_calls(&Town::of(move || open(&url)));
    }
}
