//! The directory's watch of a service may end before the pool that uses it, with its task or its
//! runtime.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::net::{World, call};

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_pool_goes_on_when_the_runtime_of_the_watch_ends() {
    let (watching, calling) = (runtime(), runtime());
    let world = World::new();
    let subscription = watching.block_on(async {
        let mut subscription = world
            .client
            .directory()
            .subscribe(&"echo".parse().unwrap())
            .unwrap();
        assert!(subscription.synced().await);
        subscription
    });
    let sender = world.sender();
    let (first, under_way) = calling.block_on(async {
        let first = world.host("a").await;
        assert_eq!(call(&sender, "/look", "hi").await.unwrap().0, "a");
        let under_way = tokio::spawn({
            let sender = sender.clone();
            async move { call(&sender, "/act", "wait").await }
        });
        while first.requests.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (first, under_way)
    });
    drop(watching);
    assert!(subscription.is_closed());
    calling.block_on(async {
        let _second = world.host("b").await;
        let answered_by_second = async {
            while call(&sender, "/look", "hi").await.unwrap().0 != "b" {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), answered_by_second)
            .await
            .expect("the second node is never called");
        first.answers.notify_waiters();
        assert_eq!(
            under_way.await.unwrap().unwrap().0,
            "a",
            "the call under way is not disturbed"
        );
        world.client.close().await;
    });
}
