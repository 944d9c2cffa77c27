//! Random operations on many handles, from a seed.

use fastrand::Rng;
use waypost_core::registry::Error;

use super::Verdict;
use crate::context::{Owner, Skip, TestContext, key};

const STEPS: usize = 150;

pub(crate) async fn the_node_set_equals_a_fresh_list(context: &TestContext) -> Verdict {
    let seed = Seed(context.seed);
    let mut rng = Rng::with_seed(seed.0);
    let mut owners = Vec::new();
    for handle in 0..3 {
        let registry = context.open().await;
        for number in 0..4 {
            owners.push(Owner::new(
                &registry,
                &format!("s{}", number % 2),
                &format!("{handle}-{number}"),
                "10.0.0.1:1",
            ));
        }
        owners.push(Owner::new(
            &registry,
            "s0",
            "wanted-by-all",
            &format!("10.0.0.{handle}:1"),
        ));
    }
    let watched = context.open().await;
    let mut checkers = vec![
        context.check(&watched).await,
        context.check_one(&watched, "s1").await,
    ];
    for _ in 0..STEPS {
        let owner = rng.usize(..owners.len());
        step(context, &mut rng, &mut owners[owner]).await;
        for checker in &mut checkers {
            checker.poke().await;
        }
    }
    checkers.push(context.check(&watched).await);
    for checker in &mut checkers {
        checker.until_equal(&watched).await;
    }
    for registry in owners.iter().map(|owner| &owner.registry) {
        assert_eq!(
            registry.list_services().await.expect("a list"),
            watched.list_services().await.expect("a list")
        );
    }
    Ok(())
}

async fn step(context: &TestContext, rng: &mut Rng, owner: &mut Owner) {
    match rng.u32(..20) {
        0..8 => heartbeat(owner).await,
        8..12 => {
            owner.set("step", &rng.u32(..).to_string());
            heartbeat(owner).await;
        }
        12..16 => deregister(owner).await,
        16 => ignore_unsupported(context.expire(&owner.key()).await),
        17 => ignore_unsupported(context.put_raw(owner.key(), b"garbage").await),
        18 => ignore_unsupported(context.put_raw(key("s0", "stray"), b"{").await),
        _ => ignore_unsupported(context.cut().await),
    }
}

async fn heartbeat(owner: &Owner) {
    match owner.heartbeat().await {
        Ok(()) | Err(Error::IdTaken { .. }) => {}
        Err(error) => panic!("{}", error.chain()),
    }
}

async fn deregister(owner: &Owner) {
    match owner.deregister().await {
        Ok(()) | Err(Error::IdTaken { .. }) => {}
        Err(error) => panic!("{}", error.chain()),
    }
}

/// Ignores a step that the backend does not support. The case is not skipped, since the other steps
/// are worth as much.
fn ignore_unsupported(_: Result<(), Skip>) {}

/// Guard that prints the seed when the case fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "this case began at seed {}: let Harness::seed return it",
                self.0
            );
        }
    }
}
