//! Handle used from many runtimes, such as one in a `static`: the runtimes shut down one after the
//! other, and the handle stays usable.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use waypost_core::record::Key;
use waypost_core::registry::{
    AnyRegistry, DeregisterOptions, Event, Instance, RegisterOptions, Result, WatchOptions, Watcher,
};
use waypost_testkit::Proxy;
use waypost_testkit::etcd::{Etcd, Options};

use super::rig::{PATIENCE, each, key, service, url};
use super::{gateway, path};

const TTL: Duration = Duration::from_secs(3);

/// Runtime that may be dropped anywhere.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.as_ref().unwrap().spawn(task)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        self.0
            .take()
            .into_iter()
            .for_each(Runtime::shutdown_background);
    }
}

fn runtime() -> OwnRuntime {
    OwnRuntime(Some(
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap(),
    ))
}

/// Two ways for a runtime to end.
#[derive(Clone, Copy)]
enum End {
    /// Drop: all tasks have ended when it returns.
    Dropped,
    /// Shutdown in the background: tasks end some time later.
    InBackground,
}

impl End {
    async fn of(self, mut runtime: OwnRuntime) {
        match self {
            Self::Dropped => spawn_blocking(move || drop(runtime.0.take()))
                .await
                .unwrap(),
            Self::InBackground => drop(runtime),
        }
    }
}

fn open(etcd: &Etcd) -> AnyRegistry {
    AnyRegistry::new(super::open(&url(&etcd.addresses())))
}

async fn watch(registry: AnyRegistry) -> Watcher {
    registry
        .watch(&WatchOptions::service("greeter"))
        .await
        .unwrap()
}

/// Returns the watcher once it has reported this node.
async fn until_created(mut watcher: Watcher, key: Key) -> Watcher {
    let created = async {
        loop {
            match watcher
                .next()
                .await
                .expect("the watcher ended")
                .expect("no error")
            {
                Event::Reset(entries) if entries.iter().any(|entry| entry.key() == key) => break,
                Event::Created(entry) if entry.key() == key => break,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, created)
        .await
        .unwrap_or_else(|_| panic!("the watcher never emits {key:?}"));
    watcher
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_continue_when_the_runtime_of_the_first_shuts_down() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let (reader, writer) = (open(&etcd), open(&etcd));
        let options = RegisterOptions {
            ttl: TTL * 10,
            instance: Instance::random(),
        };
        let mut first = runtime();
        let mut waiting = first.spawn(watch(reader.clone())).await.unwrap();
        let mut idle = first.spawn(watch(reader.clone())).await.unwrap();
        for (id, end) in [
            ("1", End::InBackground),
            ("2", End::Dropped),
            ("3", End::InBackground),
        ] {
            let second = runtime();
            let waits = second.spawn(until_created(waiting, key(id)));
            end.of(first).await;
            writer
                .register(&service(id, "10.0.0.1:1"), &options)
                .await
                .unwrap();
            waiting = waits.await.unwrap();
            idle = second.spawn(until_created(idle, key(id))).await.unwrap();
            let late = second.spawn(watch(reader.clone())).await.unwrap();
            second.spawn(until_created(late, key(id))).await.unwrap();
            first = second;
        }
        reader.close().await.unwrap();
        writer.close().await.unwrap();
        End::Dropped.of(first).await;
    })
    .await;
}

/// Registers repeatedly for this long, as a registrar does.
async fn heartbeats(
    registry: AnyRegistry,
    id: &'static str,
    options: RegisterOptions,
    every: Duration,
    lasts: Duration,
) -> Result<()> {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        registry
            .register(&service(id, "10.0.0.1:1"), &options)
            .await?;
        sleep(every).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_are_kept_when_the_runtime_of_the_first_shuts_down() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let (address, registry) = (etcd.addresses()[0], open(&etcd));
        let options = RegisterOptions {
            ttl: TTL,
            instance: Instance::random(),
        };
        let heartbeats =
            |id, every, lasts| heartbeats(registry.clone(), id, options.clone(), every, lasts);
        let (often, seldom) = (Duration::from_millis(20), TTL / 3);
        let written = async || {
            let (one, two) = (path(&key("1")), path(&key("2")));
            [
                gateway::written_at(address, &one).await,
                gateway::written_at(address, &two).await,
            ]
        };

        let first = runtime();
        for id in ["1", "2"] {
            first
                .spawn(heartbeats(id, often, often * 3))
                .await
                .unwrap()
                .unwrap();
        }
        let before = written().await;
        let second = runtime();
        let busy = second.spawn(heartbeats("1", often, TTL * 3 / 2));
        sleep(often * 5).await;
        End::InBackground.of(first).await;
        let quiet = second.spawn(heartbeats("2", seldom, TTL * 3 / 2));
        busy.await.unwrap().unwrap();
        quiet.await.unwrap().unwrap();
        assert_eq!(
            written().await,
            before,
            "a record was lost, or written again"
        );

        let third = runtime();
        End::Dropped.of(second).await;
        third
            .spawn(heartbeats("1", often, often * 10))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            written().await,
            before,
            "a record was lost, or written again"
        );
        let leave = DeregisterOptions::ours(options.instance.clone());
        let leaves = registry.clone();
        third
            .spawn(async move { leaves.deregister(&service("1", "10.0.0.1:1"), &leave).await })
            .await
            .unwrap()
            .unwrap();
        End::Dropped.of(third).await;
        registry.close().await.unwrap();
        assert_eq!(
            etcd.keys("/").await.unwrap(),
            [""; 0],
            "close leaves nothing"
        );
    })
    .await;
}

/// The runtime shuts down while the handle waits for etcd's handshake, and a watcher for its first
/// list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_and_a_list_that_ended_with_their_runtime_are_repeated() {
    each(async |binary| {
        let etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        let proxy = Proxy::start(etcd.addresses()[0]).await.unwrap();
        let (registry, writer) = (
            AnyRegistry::new(super::open(&url(&[proxy.address()]))),
            open(&etcd),
        );
        let list = || {
            let registry = registry.clone();
            async move { registry.list_services().await }
        };
        let options = RegisterOptions {
            ttl: TTL * 10,
            instance: Instance::random(),
        };
        writer
            .register(&service("1", "10.0.0.1:1"), &options)
            .await
            .unwrap();
        proxy.swallow(true);
        let first = runtime();
        let watcher = first.spawn(watch(registry.clone())).await.unwrap();
        let listing = first.spawn(list());
        while proxy.accepted() == 0 {
            tokio::task::yield_now().await;
        }
        End::InBackground.of(first).await;
        assert!(listing.await.unwrap_err().is_cancelled());
        proxy.swallow(false);
        let second = runtime();
        second.spawn(list()).await.unwrap().unwrap();
        second
            .spawn(until_created(watcher, key("1")))
            .await
            .unwrap();
        // The connection ends with its runtime, too.
        End::InBackground.of(second).await;
        let third = runtime();
        third.spawn(list()).await.unwrap().unwrap();
        End::Dropped.of(third).await;
        registry.close().await.unwrap();
        writer.close().await.unwrap();
    })
    .await;
}
