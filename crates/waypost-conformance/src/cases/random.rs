//! Random operations on many handles, from a seed.

use fastrand::Rng;
use waypost_core::registry::Error;

use super::Verdict;
use crate::context::{Owner, Skip, TestContext, key};

const STEPS: usize = 150;

pub(crate) async fn the_picture_equals_a_fresh_list(stage: &TestContext) -> Verdict {
    let seed = Seed(stage.seed);
    let mut chance = Rng::with_seed(seed.0);
    let mut owners = Vec::new();
    for handle in 0..3 {
        let registry = stage.open().await;
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
    let watched = stage.open().await;
    let mut followers = vec![
        stage.follow(&watched).await,
        stage.follow_one(&watched, "s1").await,
    ];
    for _ in 0..STEPS {
        let owner = chance.usize(..owners.len());
        act(stage, &mut chance, &mut owners[owner]).await;
        for follower in &mut followers {
            follower.poke().await;
        }
    }
    followers.push(stage.follow(&watched).await);
    for follower in &mut followers {
        follower.until_equal(&watched).await;
    }
    for registry in owners.iter().map(|owner| &owner.registry) {
        assert_eq!(
            registry.list_services().await.expect("a list"),
            watched.list_services().await.expect("a list")
        );
    }
    Ok(())
}

async fn act(stage: &TestContext, chance: &mut Rng, owner: &mut Owner) {
    match chance.u32(..20) {
        0..8 => heartbeat(owner).await,
        8..12 => {
            owner.set("step", &chance.u32(..).to_string());
            heartbeat(owner).await;
        }
        12..16 => leave(owner).await,
        16 => whatever(stage.expire(&owner.key()).await),
        17 => whatever(stage.put_raw(owner.key(), b"garbage").await),
        18 => whatever(stage.put_raw(key("s0", "stray"), b"{").await),
        _ => whatever(stage.cut().await),
    }
}

async fn heartbeat(owner: &Owner) {
    match owner.heartbeat().await {
        Ok(()) | Err(Error::IdTaken { .. }) => {}
        Err(error) => panic!("{}", error.chain()),
    }
}

async fn leave(owner: &Owner) {
    match owner.leave().await {
        Ok(()) | Err(Error::IdTaken { .. }) => {}
        Err(error) => panic!("{}", error.chain()),
    }
}

/// Ignores a step that the backend does not support. The case is not skipped, since the other steps
/// are worth as much.
fn whatever(_: Result<(), Skip>) {}

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
