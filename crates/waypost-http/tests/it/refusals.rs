//! Refusals of a request by a server, and the number of times that the request is sent then.

use std::sync::atomic::Ordering::Relaxed;

use h2::Reason;
use http_body_util::BodyExt;

use crate::net::{Host, World, begin};
use crate::raw::Script;
use crate::raw::Step::{Close, Data, GoAway, GoAwayAll, Headers, Reset};
use crate::support::all_ready;

/// Makes one call to three nodes that all run `script`; returns how often it was received, and by
/// how many nodes.
async fn received(path: &str, script: Script) -> (usize, usize) {
    let world = World::new();
    let mut hosts = Vec::new();
    for name in ["a", "b", "c"] {
        let host = world.net.host_of(name);
        host.obey(script);
        world.register(name).await;
        hosts.push(host);
    }
    let sender = world.sender();
    all_ready(&sender).await;
    if let Ok(response) = begin(&sender, path, "hi", None).await {
        assert!(
            response.into_body().collect().await.is_err(),
            "{path} {script:?} was answered"
        );
    }
    let counts: Vec<usize> = hosts
        .iter()
        .map(|host: &Host| host.requests.load(Relaxed))
        .collect();
    (
        counts.iter().sum(),
        counts.iter().filter(|count| **count > 0).count(),
    )
}

const REFUSED: Reason = Reason::REFUSED_STREAM;
const NO_ERROR: Reason = Reason::NO_ERROR;
const CALM: Reason = Reason::ENHANCE_YOUR_CALM;

/// Response headers, whatever follows, prove that a node has processed the request.
#[tokio::test(start_paused = true)]
async fn a_request_whose_response_began_is_not_sent_again_if_it_may_not_be() {
    let scripts: [Script; 10] = [
        &[Headers, Reset(REFUSED)],
        &[Headers, Data, Reset(REFUSED)],
        &[Headers, GoAway(NO_ERROR, u32::MAX)],
        &[Headers, GoAway(NO_ERROR, u32::MAX), Close],
        &[Headers, GoAway(NO_ERROR, 2)],
        &[Headers, GoAway(NO_ERROR, 0), Close],
        &[Headers, GoAway(CALM, u32::MAX), Close],
        &[Headers, GoAway(CALM, 0), Close],
        &[Headers, GoAwayAll, Reset(REFUSED)],
        &[Headers, Close],
    ];
    for script in scripts {
        for path in ["/act", "/flow"] {
            assert_eq!(received(path, script).await, (1, 1), "{path} {script:?}");
        }
    }
}

/// Without headers, the last id of a GOAWAY and `REFUSED_STREAM` determine if a node may have
/// processed the request.
#[tokio::test(start_paused = true)]
async fn a_request_is_sent_again_only_where_the_server_states_that_it_was_not_looked_at() {
    let scripts: [(Script, bool); 12] = [
        (&[Reset(REFUSED)], true),
        (&[GoAway(NO_ERROR, u32::MAX)], true),
        (&[GoAway(NO_ERROR, u32::MAX), Close], true),
        (&[GoAway(NO_ERROR, 1), Close], true),
        (&[GoAway(NO_ERROR, 2), Close], true),
        (&[GoAwayAll, GoAway(NO_ERROR, 2), Close], true),
        (&[GoAwayAll, Reset(REFUSED)], true),
        (&[GoAway(NO_ERROR, 0), Close], false),
        (&[GoAwayAll, Close], false),
        (&[GoAway(CALM, 0), Close], false),
        (&[Close], false),
        (&[Reset(Reason::INTERNAL_ERROR)], false),
    ];
    for (script, again) in scripts {
        for path in ["/act", "/flow"] {
            let (times, nodes) = received(path, script).await;
            if again {
                assert!(
                    times > 1 && times <= 6 && nodes > 1,
                    "{path} {script:?}: {times} times at {nodes} nodes"
                );
            } else {
                assert_eq!((times, nodes), (1, 1), "{path} {script:?}");
            }
        }
    }
}
