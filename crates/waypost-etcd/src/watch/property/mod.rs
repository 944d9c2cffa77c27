//! Property test of the watch machine against a model of etcd, from seeds. After any mixture of
//! faults, every listener has the records of etcd.
//!
//! `etcd` is the model, `simulation` advances time and carries messages, `listener` checks the
//! events against the watcher's contract and the `write_log`, `own_records` maintains own records
//! as the record writer does, `faults` injects faults. This file schedules them.

mod etcd;
mod faults;
mod listener;
mod own_records;
mod simulation;
mod write_log;

use std::time::Duration;

use waypost_conformance::{CaseLog, seeds};

use simulation::Simulation;

/// Duration of the faults.
const FAULTS: Duration = Duration::from_secs(30);
/// Time within which all must have recovered: a silent stream is noticed within 12 s and 24 s, a
/// list follows within 60 s, and a failure is retried after 2 s at most.
const RECOVERY: Duration = Duration::from_secs(120);
/// Time within which changes that etcd itself has lost are found.
const DETECTION: Duration = Duration::from_secs(400);
/// Idle period in which no periodic list or read is due more than once.
const IDLE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn node_sets_converge_after_any_faults() {
    for seed in seeds(200) {
        run_case(seed);
    }
}

fn run_case(seed: u64) {
    let case_log = CaseLog::new("-p waypost-etcd --lib node_sets_converge", seed);
    let mut simulation = Simulation::new(case_log.clone(), fastrand::Rng::with_seed(seed));
    simulation.subscribe(Some("a".to_owned()));
    simulation.add_own_record();
    let end = simulation.now + FAULTS;
    while simulation.now < end {
        let pause = Duration::from_millis(simulation.rng.u64(0..400));
        simulation.run(pause);
        inject_fault(&mut simulation);
    }
    case_log.record(format!("{}: no more faults", simulation.time()));
    simulation.end_faults();
    simulation.run(if simulation.events_lost {
        DETECTION
    } else {
        RECOVERY
    });
    simulation.check_converged();
    simulation.stays_idle(IDLE);
}

fn inject_fault(simulation: &mut Simulation) {
    match simulation.rng.u32(..100) {
        0..45 => simulation.write(),
        45..49 => simulation.subscribe_any(),
        49..52 => simulation.drop_listener(),
        52..55 => simulation.add_own_record(),
        55..57 => simulation.remove_own_record(),
        57..61 => simulation.overwrite_own_record(),
        61..66 => simulation.break_stream(),
        66..69 => simulation.mute_stream(),
        69..73 => simulation.compact(),
        73..75 => simulation.cancel_one(),
        75..78 => simulation.restart(),
        78..80 => simulation.wipe(),
        80..82 => simulation.pause(),
        82..84 => simulation.kill(),
        84..88 => simulation.revive(),
        88..90 => simulation.lag(),
        90..92 => simulation.refuse(),
        92..93 => simulation.elect(),
        93..95 => simulation.repeat_events(),
        95..96 => simulation.lose_events(),
        96..97 => simulation.read_stale(),
        _ => simulation.change_behavior(),
    }
}
