//! Client against hostile peers over real sockets: a sample of the seeds of
//! `cargo xtask bench hostile`.

use waypost_testkit::hostile::trial::{self, Panics};

/// Number of concurrent trials; each of them mostly waits.
const AT_ONCE: usize = 8;

#[test]
fn every_node_answers_again_after_each_of_forty_trials_with_hostile_peers() {
    let seeds: Vec<u64> = (1..=40).collect();
    let (mut answered, mut failed) = (0, Vec::new());
    trial::run_all(&seeds, Panics::Drawn, AT_ONCE, |verdict| {
        match &verdict.found {
            Ok(passed) => answered += usize::from(passed.answered > 0),
            Err(defects) => failed.push(format!("{}: {defects:?}", verdict.plan)),
        }
    })
    .expect("the machine has sockets and threads");
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(answered, seeds.len(), "each trial made calls");
}
