//! Property test of the watch machine against a model of etcd, from seeds. After any mixture of
//! faults, every listener has the records of etcd.
//!
//! `etcd` is the model, `world` advances time and carries messages, `listener` checks the events
//! against the watcher's contract and the `truth`, `owner` maintains own records like the real one,
//! `faults` injects faults. This file schedules them.

mod etcd;
mod faults;
mod listener;
mod owner;
mod truth;
mod world;

use std::time::Duration;

use waypost_conformance::{CaseLog, seeds};

use world::World;

/// Duration of the faults.
const TROUBLE: Duration = Duration::from_secs(30);
/// Time within which all must have recovered: a list follows a disconnect within 3 s, a failure is
/// retried after 2 s at most, and either may take 2 s to fail.
const WELL_AGAIN: Duration = Duration::from_secs(15);
/// Time within which changes that etcd itself has lost are found.
const FOUND: Duration = Duration::from_secs(400);
/// Idle period in which no periodic list or read is due more than once.
const REST: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_picture_is_what_stands() {
    for seed in seeds(200) {
        play(seed);
    }
}

fn play(seed: u64) {
    let story = CaseLog::new("-p waypost-etcd --lib whatever_happens", seed);
    let mut world = World::new(story.clone(), fastrand::Rng::with_seed(seed));
    world.follow(Some("a".to_owned()));
    world.own();
    let end = world.now + TROUBLE;
    while world.now < end {
        let rest = Duration::from_millis(world.rng.u64(0..400));
        world.run(rest);
        happen(&mut world);
    }
    story.tell(format!("{}: no more faults", world.time()));
    world.faults_end();
    world.run(if world.lied { FOUND } else { WELL_AGAIN });
    world.is_well();
    world.rests(REST);
}

fn happen(world: &mut World) {
    match world.rng.u32(..100) {
        0..45 => world.write(),
        45..49 => world.follow_any(),
        49..52 => world.unfollow_one(),
        52..55 => world.own(),
        55..57 => world.disown_one(),
        57..61 => world.meddle(),
        61..66 => world.break_stream(),
        66..69 => world.mute_stream(),
        69..73 => world.compact(),
        73..75 => world.cancel_one(),
        75..78 => world.restart(),
        78..80 => world.wipe(),
        80..82 => world.pause(),
        82..84 => world.kill(),
        84..88 => world.revive(),
        88..90 => world.lag(),
        90..92 => world.refuse(),
        92..93 => world.elect(),
        93..95 => world.go_back(),
        95..96 => world.lose_events(),
        96..97 => world.read_stale(),
        _ => world.change_manners(),
    }
}
