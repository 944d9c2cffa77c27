//! Tests of the watch machine against a scripted etcd.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::{Entry, Key, Node, RecordLimits, Service};
use waypost_core::registry::{Broadcaster, Error, Event, WatchOptions, Watcher};

use super::OwnKeyEvent;
use super::machine::{Scope, WatchAction, WatchInput, WatchMachine};
use super::scope::Missed;
use crate::error::EtcdError;
use crate::keys::KeySpace;
use crate::list::RecordList;
use crate::records::Records;
use crate::rpc::{Header, KeyValue, WatchEvent, WatchRequest, WatchRequestUnion, WatchResponse};
use crate::timing::Timing;

/// Machine, one listener of a service, and the time.
struct Fixture {
    machine: WatchMachine,
    start: Instant,
    watcher: Watcher,
    broadcaster: Broadcaster,
}

fn scope() -> Scope {
    Some("s".to_owned())
}

fn entry(id: &str, address: &str) -> Entry {
    let mut service = Service::new("s");
    service.nodes.push(Node::with_id("s", id, address));
    service.entries().remove(0)
}

fn key(id: &str) -> Key {
    entry(id, "h:1").key()
}

fn kv(id: &str, address: &str, revision: i64) -> KeyValue {
    let value = entry(id, address).to_service().to_json().into_bytes();
    KeyValue {
        key: format!("/p/s/s-{id}").into_bytes(),
        mod_revision: revision,
        value,
        lease: 1,
    }
}

fn header(revision: i64) -> Option<Header> {
    Some(Header {
        cluster_id: 1,
        revision,
        raft_term: 2,
    })
}

fn created(watch_id: i64, revision: i64) -> WatchInput {
    WatchInput::Response(WatchResponse {
        header: header(revision),
        watch_id,
        created: true,
        ..WatchResponse::default()
    })
}

fn put(watch_id: i64, id: &str, revision: i64) -> WatchInput {
    let event = WatchEvent {
        kind: WatchEvent::PUT,
        kv: Some(kv(id, &format!("h:{revision}"), revision)),
    };
    WatchInput::Response(WatchResponse {
        header: header(revision),
        watch_id,
        events: vec![event],
        ..WatchResponse::default()
    })
}

fn progress(revision: i64) -> WatchInput {
    WatchInput::Response(WatchResponse {
        header: header(revision),
        watch_id: -1,
        ..WatchResponse::default()
    })
}

fn cancelled(watch_id: i64, compact_revision: i64, reason: &str) -> WatchInput {
    let cancel_reason = reason.to_owned();
    WatchInput::Response(WatchResponse {
        watch_id,
        canceled: true,
        compact_revision,
        cancel_reason,
        ..WatchResponse::default()
    })
}

fn broken() -> WatchInput {
    WatchInput::StreamBroken(EtcdError::Transport("broken".into()))
}

/// Returns the requests to etcd, in short form.
fn sent(actions: &[WatchAction]) -> Vec<String> {
    let shown = |request: &WatchRequest| match request.request_union.as_ref().unwrap() {
        WatchRequestUnion::Create(create) => {
            format!(
                "create {} {} from {}",
                create.watch_id,
                String::from_utf8_lossy(&create.key),
                create.start_revision
            )
        }
        WatchRequestUnion::Cancel(cancel) => format!("cancel {}", cancel.watch_id),
        WatchRequestUnion::Progress(_) => "progress".to_owned(),
    };
    let shown = |action: &WatchAction| match action {
        WatchAction::Send(request) => Some(shown(request)),
        WatchAction::OpenStream => Some("open".to_owned()),
        WatchAction::CloseStream(error) => Some(
            error
                .as_ref()
                .map_or("drop".to_owned(), |error| format!("close: {error}")),
        ),
        WatchAction::List(scope) => Some(format!("list {}", scope.as_deref().unwrap_or("all"))),
        _ => None,
    };
    actions.iter().filter_map(shown).collect()
}

impl Fixture {
    fn new() -> Self {
        let records = Arc::new(Records::new(KeySpace::new("/p"), RecordLimits::default()));
        let broadcaster = Broadcaster::default();
        let watcher = broadcaster.subscribe_to_fresh(&WatchOptions::service("s"));
        Self {
            machine: WatchMachine::new(records, Timing::default(), fastrand::Rng::with_seed(1)),
            start: Instant::now(),
            watcher,
            broadcaster,
        }
    }

    fn step(&mut self, ms: u64, event: WatchInput) -> Vec<WatchAction> {
        self.machine
            .step(self.start + Duration::from_millis(ms), event)
    }

    fn tick(&mut self, ms: u64) -> Vec<String> {
        sent(&self.step(ms, WatchInput::Tick))
    }

    fn listed(&mut self, ms: u64, revision: i64, entries: &[Entry]) -> Vec<WatchAction> {
        self.step(
            ms,
            WatchInput::Listed(
                scope(),
                Ok(RecordList {
                    revision,
                    entries: entries.to_vec(),
                }),
            ),
        )
    }

    /// Creates a fixture whose service is listed at revision 5 with one node, and watched.
    fn watching() -> Self {
        let mut fixture = Self::new();
        let broadcaster = fixture.broadcaster.clone();
        assert_eq!(
            sent(&fixture.step(0, WatchInput::Subscribe(scope(), broadcaster))),
            ["list s"]
        );
        assert_eq!(
            sent(&fixture.listed(1, 5, &[entry("1", "h:5")])),
            ["open", "create 1 /p/s/ from 5"]
        );
        fixture.step(2, created(1, 5));
        assert_eq!(
            fixture.received(),
            [Ok(Event::Reset(vec![entry("1", "h:5")]))]
        );
        fixture
    }

    fn received(&mut self) -> Vec<Result<Event, String>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut received = Vec::new();
        while let Poll::Ready(Some(item)) =
            futures_core::Stream::poll_next(std::pin::Pin::new(&mut self.watcher), &mut cx)
        {
            received.push(item.map_err(|error: Error| error.chain()));
        }
        received
    }

    /// Ticks until the service is listed, and answers progress requests at `revision`. Returns the
    /// time of the list.
    fn until_listed(&mut self, from: u64, revision: i64) -> u64 {
        let mut at = from;
        loop {
            at = self.deadline().max(at);
            let sent = self.tick(at);
            if sent.contains(&"list s".to_owned()) {
                return at;
            }
            self.step(at, progress(revision));
        }
    }

    fn deadline(&self) -> u64 {
        let deadline = self.machine.deadline().unwrap();
        u64::try_from((deadline - self.start).as_micros().div_ceil(1_000)).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_resumes_at_its_last_revision() {
    let mut fixture = Fixture::watching();
    fixture.step(10, put(1, "2", 7));
    assert_eq!(fixture.received(), [Ok(Event::Created(entry("2", "h:7")))]);
    assert_eq!(
        sent(&fixture.step(20, broken())),
        ["open", "create 2 /p/s/ from 7"]
    );
    fixture.step(30, created(2, 9));
    fixture.step(31, put(2, "2", 7));
    fixture.step(32, put(2, "3", 9));
    assert_eq!(
        fixture.received(),
        [Ok(Event::Created(entry("3", "h:9")))],
        "a repeated event is emitted once"
    );
    let relist = fixture.until_listed(33, 9);
    assert!(relist <= 3_031, "a list verifies it: {relist}");
}

#[tokio::test(start_paused = true)]
async fn progress_is_requested_every_ten_seconds() {
    let mut fixture = Fixture::watching();
    let mut before = 1;
    for _ in 0..5 {
        let at = fixture.deadline();
        assert!((8_000..=12_001).contains(&(at - before)), "{at}");
        assert_eq!(fixture.tick(at), ["progress"]);
        fixture.step(at + 10, progress(5));
        before = at;
    }
}

/// A slow etcd is not made slower: the timeout grows with each stream that ends by it, until one has
/// lasted for a minute.
#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_closed_after_a_timeout_that_grows() {
    let mut fixture = Fixture::watching();
    let asked = fixture.deadline();
    assert_eq!(fixture.tick(asked), ["progress"]);
    let mut opened = asked + 3_000;
    assert_eq!(
        fixture.tick(opened),
        [
            "close: no response within 3s",
            "open",
            "create 2 /p/s/ from 5"
        ]
    );
    let is_open = |sent: &[String]| sent.contains(&"open".to_owned());
    let mut watch = 2;
    for timeout in [6, 12, 24, 24] {
        let at = opened + timeout * 1_000;
        assert_eq!(fixture.tick(at - 1), [""; 0]);
        let sent = fixture.tick(at);
        let closed = format!("close: no response within {timeout}s");
        assert!(sent.contains(&closed), "{sent:?}");
        opened = at;
        // The next stream may wait for a backoff.
        let mut sent = sent;
        while !is_open(&sent) {
            opened = fixture.deadline();
            sent = fixture.tick(opened);
        }
        watch += 1;
    }
    fixture.step(opened + 1, created(watch, 5));
    let after_a_minute = opened + 60_001;
    let actions = fixture.step(after_a_minute, progress(5));
    assert!(
        sent(&actions).contains(&"progress".to_owned()),
        "it was due"
    );
    assert!(
        fixture
            .tick(after_a_minute + 3_000)
            .contains(&"close: no response within 3s".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_is_emitted_after_a_second_and_cleared_by_the_next_stream() {
    let mut fixture = Fixture::watching();
    assert_eq!(
        sent(&fixture.step(100, broken())),
        ["open", "create 2 /p/s/ from 5"],
        "at once"
    );
    assert_eq!(
        sent(&fixture.step(110, broken())),
        [""; 0],
        "the second failure backs off"
    );
    let opened = fixture.tick(210);
    assert!(
        opened.contains(&"create 3 /p/s/ from 5".to_owned()),
        "no longer than 100 ms: {opened:?}"
    );
    fixture.tick(1_099);
    assert_eq!(fixture.received(), []);
    assert_eq!(fixture.deadline(), 1_100);
    fixture.tick(1_100);
    assert_eq!(
        fixture.received(),
        [Err(
            "the etcd registry is unavailable: watching: broken".to_owned()
        )]
    );
    // The watch resumes at its last revision: nothing is missing, and no list is needed.
    assert_eq!(sent(&fixture.step(1_200, created(3, 8))), [""; 0]);
    assert_eq!(
        fixture.received(),
        [Ok(Event::Reset(vec![entry("1", "h:5")]))]
    );
    fixture.step(1_210, put(3, "2", 8));
    assert_eq!(fixture.received(), [Ok(Event::Created(entry("2", "h:8")))]);
}

/// The next stream reports a lower revision: changes may be missing until a list completes.
#[tokio::test(start_paused = true)]
async fn an_error_is_cleared_by_a_list_if_the_history_is_another() {
    let mut fixture = Fixture::watching();
    fixture.step(100, broken());
    fixture.tick(1_100);
    assert_eq!(fixture.received().len(), 1);
    let sent = sent(&fixture.step(1_200, created(2, 4)));
    assert!(sent.contains(&"list s".to_owned()), "{sent:?}");
    assert_eq!(fixture.received(), []);
    fixture.listed(1_201, 4, &[entry("1", "h:5")]);
    assert_eq!(
        fixture.received(),
        [Ok(Event::Reset(vec![entry("1", "h:5")]))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_wiped_etcd_is_detected_by_its_revision() {
    let mut fixture = Fixture::watching();
    fixture.step(10, put(1, "2", 50));
    fixture.received();
    fixture.step(20, broken());
    assert_eq!(sent(&fixture.step(30, created(2, 3))), ["list s"]);
    assert_eq!(
        sent(&fixture.listed(40, 3, &[])),
        ["cancel 2", "create 3 /p/s/ from 3"]
    );
    assert_eq!(fixture.received(), [Ok(Event::Reset(vec![]))]);
}

#[tokio::test(start_paused = true)]
async fn a_lower_revision_or_another_cluster_causes_a_list() {
    let mut fixture = Fixture::watching();
    assert_eq!(sent(&fixture.step(1_002, progress(9))), [""; 0]);
    assert_eq!(sent(&fixture.step(2_002, progress(8))), ["list s"]);
    let mut fixture = Fixture::watching();
    let mut other = WatchResponse {
        header: header(9),
        watch_id: -1,
        ..WatchResponse::default()
    };
    other.header.as_mut().unwrap().cluster_id = 77;
    assert_eq!(
        sent(&fixture.step(10, WatchInput::Response(other))),
        ["list s"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_compacted_watch_is_listed_and_emitted_as_a_gap() {
    let mut fixture = Fixture::watching();
    fixture.step(20, broken());
    fixture.step(30, created(2, 90));
    assert_eq!(sent(&fixture.step(60, cancelled(2, 80, ""))), ["list s"]);
    assert_eq!(
        sent(&fixture.listed(70, 90, &[entry("1", "h:5")])),
        ["create 3 /p/s/ from 90"]
    );
    assert_eq!(
        fixture.received(),
        [Ok(Event::Reset(vec![entry("1", "h:5")]))],
        "although no change is missing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_every_five_minutes_finds_missed_changes() {
    let mut fixture = Fixture::watching();
    let mut at = 3;
    let listed = loop {
        at = fixture.deadline().max(at);
        let sent = fixture.tick(at);
        if sent.contains(&"list s".to_owned()) {
            break at;
        }
        fixture.step(at, progress(9));
    };
    assert!((240_000..=360_000).contains(&listed), "{listed}");
    let actions = fixture.listed(listed + 1, 9, &[entry("2", "h:6")]);
    let first = vec!["deleted s/s-1".to_owned(), "created s/s-2".to_owned()];
    let missed = Missed {
        created: 1,
        updated: 0,
        deleted: 1,
        first,
    };
    assert!(
        actions.contains(&WatchAction::Missed(scope(), missed)),
        "{actions:?}"
    );
    assert_eq!(
        fixture.received(),
        [Ok(Event::Reset(vec![entry("2", "h:6")]))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_waits_until_the_watch_reaches_its_revision() {
    let mut fixture = Fixture::watching();
    let broadcaster = fixture.broadcaster.clone();
    assert_eq!(
        sent(&fixture.step(300, WatchInput::Subscribe(scope(), broadcaster))),
        ["list s"]
    );
    let actions = fixture.listed(310, 9, &[entry("1", "h:5"), entry("2", "h:9")]);
    assert_eq!(sent(&actions), ["progress"], "the watch is behind");
    assert_eq!(fixture.received(), []);
    fixture.step(311, put(1, "2", 9));
    assert_eq!(
        fixture.received(),
        [Ok(Event::Created(entry("2", "h:9")))],
        "an event, not a reset"
    );
    assert!(fixture.deadline() > 311, "it does not spin");
}

#[tokio::test(start_paused = true)]
async fn an_own_record_is_watched_after_the_first_event() {
    let mut fixture = Fixture::new();
    assert_eq!(
        sent(&fixture.step(0, WatchInput::AddOwnKey(key("1"), 5))),
        ["open", "create 1 /p/s/s-1 from 5"]
    );
    let own = |actions: Vec<WatchAction>| -> Vec<OwnKeyEvent> {
        actions
            .into_iter()
            .filter_map(|action| {
                if let WatchAction::OwnKey(_, own) = action {
                    Some(own)
                } else {
                    None
                }
            })
            .collect()
    };
    assert_eq!(own(fixture.step(1, created(1, 7))), []);
    assert_eq!(
        own(fixture.step(2, put(1, "1", 5))),
        [OwnKeyEvent::Watched, OwnKeyEvent::Changed(5)]
    );
    assert_eq!(
        own(fixture.step(3, put(1, "1", 8))),
        [OwnKeyEvent::Watched, OwnKeyEvent::Changed(8)]
    );
    assert!(
        fixture
            .step(10, broken())
            .contains(&WatchAction::OwnKeysUnwatched)
    );
    assert_eq!(
        own(fixture.step(12, cancelled(2, 30, ""))),
        [OwnKeyEvent::Lost]
    );
    assert_eq!(fixture.machine.deadline(), None, "no timer is left");
}

fn owns(actions: &[WatchAction]) -> Vec<OwnKeyEvent> {
    actions
        .iter()
        .filter_map(|action| {
            if let WatchAction::OwnKey(_, own) = action {
                Some(*own)
            } else {
                None
            }
        })
        .collect()
}

/// A watch at a future revision of the old history would wait for ever, and suppress etcd's
/// progress responses.
#[tokio::test(start_paused = true)]
async fn an_own_record_on_a_wiped_etcd_is_watched_from_its_new_revision() {
    let mut fixture = Fixture::new();
    fixture.step(0, WatchInput::AddOwnKey(key("1"), 1_000));
    fixture.step(1, created(1, 1_000));
    fixture.step(2, put(1, "1", 1_000));
    assert_eq!(
        sent(&fixture.step(10, broken())),
        ["open", "create 2 /p/s/s-1 from 1000"]
    );
    let wiped = fixture.step(11, created(2, 3));
    assert_eq!(
        (owns(&wiped), sent(&wiped)),
        (
            vec![OwnKeyEvent::Lost],
            vec!["cancel 2".to_owned(), "drop".to_owned()]
        )
    );
    let again = fixture.step(500, WatchInput::AddOwnKey(key("1"), 4));
    assert_eq!(sent(&again), ["open", "create 3 /p/s/s-1 from 4"]);
    assert_eq!(
        owns(&fixture.step(501, put(3, "1", 4))),
        [OwnKeyEvent::Watched, OwnKeyEvent::Changed(4)]
    );
}

/// The revision of the own record is compacted. It is watched from the compacted revision, and
/// earlier changes are unknown.
#[tokio::test(start_paused = true)]
async fn an_own_record_with_a_compacted_revision_is_watched() {
    let mut fixture = Fixture::watching();
    fixture.step(10, WatchInput::AddOwnKey(key("1"), 5));
    fixture.step(11, created(2, 90));
    assert_eq!(
        owns(&fixture.step(20, cancelled(2, 80, ""))),
        [OwnKeyEvent::Lost]
    );
    assert_eq!(
        sent(&fixture.step(30, WatchInput::AddOwnKey(key("1"), 5))),
        ["create 3 /p/s/s-1 from 80"]
    );
    assert_eq!(owns(&fixture.step(31, created(3, 90))), []);
    assert_eq!(
        owns(&fixture.step(211, WatchInput::Tick)),
        [],
        "the timer was that of the earlier watch"
    );
    assert_eq!(fixture.deadline(), 231);
    assert_eq!(
        owns(&fixture.step(231, WatchInput::Tick)),
        [OwnKeyEvent::Watched],
        "it had the time to deliver missed events"
    );
    assert_eq!(
        sent(&fixture.step(240, broken())),
        ["open", "create 4 /p/s/ from 5", "create 5 /p/s/s-1 from 80"]
    );
    fixture.step(241, created(5, 95));
    assert_eq!(
        owns(&fixture.step(500, WatchInput::Tick)),
        [],
        "it was not read since: the history may be another"
    );
    assert_eq!(
        owns(&fixture.step(510, WatchInput::AddOwnKey(key("1"), 5))),
        [OwnKeyEvent::Watched]
    );
}

/// Counts the requests of a kind in ten seconds, if each response comes a millisecond after its
/// request.
fn rate(
    fixture: &mut Fixture,
    what: &str,
    response: impl Fn(&WatchAction) -> Option<WatchInput>,
) -> usize {
    let (mut at, mut count) = (10, 0);
    let mut actions = fixture.step(at, broken());
    while at < 10_000 {
        at += 1;
        count += sent(&actions)
            .iter()
            .filter(|sent| sent.starts_with(what))
            .count();
        let responses: Vec<_> = actions.iter().filter_map(&response).collect();
        actions = responses
            .into_iter()
            .flat_map(|response| fixture.step(at, response))
            .collect();
        actions.extend(fixture.step(at, WatchInput::Tick));
    }
    count
}

fn is_create(action: &WatchAction) -> bool {
    matches!(
        action,
        WatchAction::Send(WatchRequest {
            request_union: Some(WatchRequestUnion::Create(_))
        })
    )
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_at_once_is_reopened_with_backoff() {
    let mut fixture = Fixture::watching();
    let opened = rate(&mut fixture, "open", |action| match action {
        action if is_create(action) => Some(cancelled(-1, 0, "etcdserver: invalid auth token")),
        WatchAction::List(scope) => Some(WatchInput::Listed(
            scope.clone(),
            Ok(RecordList {
                revision: 5,
                entries: Vec::new(),
            }),
        )),
        _ => None,
    });
    assert!((5..50).contains(&opened), "{opened} streams in 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_always_refused_is_retried_with_backoff() {
    for reason in ["etcdserver: permission denied", ""] {
        let mut fixture = Fixture::watching();
        let listed = rate(&mut fixture, "list", |action| match action {
            WatchAction::Send(request) => match request.request_union.as_ref().unwrap() {
                WatchRequestUnion::Create(create) => Some(cancelled(
                    create.watch_id,
                    i64::from(reason.is_empty()),
                    reason,
                )),
                _ => None,
            },
            WatchAction::List(scope) => Some(WatchInput::Listed(
                scope.clone(),
                Ok(RecordList {
                    revision: 5,
                    entries: Vec::new(),
                }),
            )),
            _ => None,
        });
        assert!(
            (5..50).contains(&listed),
            "{reason:?}: {listed} lists in 10 s"
        );
    }
}

/// Etcd sends `created` responses in an order of their own. They may overtake other responses, and
/// prove nothing about those.
#[tokio::test(start_paused = true)]
async fn a_created_response_may_overtake_events() {
    let mut fixture = Fixture::watching();
    let broadcaster = fixture.broadcaster.clone();
    fixture.step(300, WatchInput::Subscribe(scope(), broadcaster));
    fixture.step(301, WatchInput::AddOwnKey(key("9"), 9));
    assert_eq!(
        sent(&fixture.listed(302, 9, &[entry("1", "h:5"), entry("2", "h:9")])),
        ["progress"]
    );
    fixture.step(303, created(2, 9));
    assert_eq!(fixture.received(), [], "the list still waits for the event");
    assert_eq!(
        sent(&fixture.step(304, progress(8))),
        [""; 0],
        "nor did the revision go backwards"
    );
    fixture.step(305, put(1, "2", 9));
    assert_eq!(fixture.received(), [Ok(Event::Created(entry("2", "h:9")))]);
}

/// The response of a removed scope's list would be taken for that of its successor, which must not
/// get older nodes.
#[tokio::test(start_paused = true)]
async fn a_scope_is_not_removed_while_it_is_listed() {
    let mut fixture = Fixture::new();
    let broadcaster = fixture.broadcaster.clone();
    fixture.step(0, WatchInput::Subscribe(scope(), broadcaster));
    assert_eq!(fixture.machine.removable().count(), 0);
    fixture.listed(1, 5, &[]);
    assert_eq!(fixture.machine.removable().count(), 1);
}

/// Another etcd with a higher revision has replaced the old one: it accepts the watch, and does not
/// report the differences.
#[tokio::test(start_paused = true)]
async fn another_history_with_higher_revisions_is_found_by_a_list() {
    let mut fixture = Fixture::watching();
    fixture.step(10, broken());
    fixture.step(20, created(2, 900));
    let at = fixture.until_listed(20, 900);
    assert!(at <= 3_021, "{at}");
    fixture.step(at, progress(900));
    let mut found = fixture.listed(at + 1, 900, &[entry("2", "h:7")]);
    found.extend(fixture.step(at + 502, WatchInput::Tick));
    let first = vec!["deleted s/s-1".to_owned(), "created s/s-2".to_owned()];
    assert!(
        found.contains(&WatchAction::Missed(
            scope(),
            Missed {
                created: 1,
                updated: 0,
                deleted: 1,
                first
            }
        )),
        "{found:?}"
    );
    assert_eq!(
        fixture.received(),
        [Ok(Event::Reset(vec![entry("2", "h:7")]))]
    );
}

/// A name may hold any character.
#[tokio::test(start_paused = true)]
async fn the_first_five_missed_changes_are_named() {
    let mut fixture = Fixture::watching();
    let broadcaster = fixture.broadcaster.clone();
    fixture.step(300, WatchInput::Subscribe(scope(), broadcaster));
    let many: Vec<_> = (0..100)
        .map(|number| entry(&format!("\u{1b}{}", "x".repeat(1_000 + number)), "h:1"))
        .collect();
    fixture.listed(310, 9, &many);
    let found = fixture.step(811, WatchInput::Tick);
    let Some(WatchAction::Missed(_, missed)) = found
        .iter()
        .find(|action| matches!(action, WatchAction::Missed(..)))
    else {
        panic!("{found:?}")
    };
    assert_eq!(
        (
            missed.created,
            missed.updated,
            missed.deleted,
            missed.first.len()
        ),
        (100, 0, 1, 5)
    );
    assert!(
        missed.first.iter().all(|name| name.len() < 100),
        "{missed:?}"
    );
    assert!(
        !format!("{:?}", missed.first).contains('\u{1b}'),
        "what is logged is escaped"
    );
}

fn barrier(header: Option<Header>) -> WatchInput {
    WatchInput::Barrier(header.unwrap())
}

/// In an idle store, the revision of the keepalive stays the same, and costs no progress request.
#[tokio::test(start_paused = true)]
async fn a_barrier_requests_progress_only_for_a_new_revision() {
    let mut fixture = Fixture::watching();
    let start = fixture.step(200, barrier(header(7)));
    assert_eq!(sent(&start), ["progress"]);
    assert!(!start.contains(&WatchAction::Reached(7)), "{start:?}");
    let reached = fixture.step(202, progress(7));
    assert!(reached.contains(&WatchAction::Reached(7)), "{reached:?}");
    for heartbeat in 1..45 {
        let at = 200 + heartbeat * 5_000;
        let passed = fixture.step(at, barrier(header(7)));
        assert_eq!(sent(&passed), [""; 0], "at {at}");
        assert!(passed.contains(&WatchAction::Reached(7)), "{passed:?}");
        // Nothing else is due: neither the check of the stream, nor anything before the relist.
        if at < 220_000 {
            assert!(fixture.deadline() > at + 5_000);
        }
    }
    let moved = fixture.step(600_000, barrier(header(8)));
    assert!(sent(&moved).contains(&"progress".to_owned()), "{moved:?}");
}

#[tokio::test(start_paused = true)]
async fn a_barrier_fails_without_a_stream_and_in_another_history() {
    let failed = |actions: &[WatchAction]| actions.contains(&WatchAction::BarrierFailed);
    assert!(failed(&Fixture::new().step(0, barrier(header(5)))));
    let mut fixture = Fixture::watching();
    fixture.step(10, progress(5));
    for (cluster_id, raft_term) in [(9, 2), (1, 3), (1, 1)] {
        let other = Some(Header {
            cluster_id,
            revision: 5,
            raft_term,
        });
        assert!(failed(&fixture.step(20, barrier(other))));
    }
    fixture.step(30, barrier(header(6)));
    assert!(failed(&fixture.step(40, broken())));
}

#[tokio::test(start_paused = true)]
async fn a_refused_watch_is_reported_and_retried() {
    let mut fixture = Fixture::new();
    let broadcaster = fixture.broadcaster.clone();
    fixture.step(0, WatchInput::Subscribe(scope(), broadcaster));
    fixture.listed(1, 5, &[]);
    fixture.received();
    // etcd does not name the watch.
    fixture.step(2, cancelled(-1, 0, "etcdserver: permission denied"));
    assert_eq!(fixture.received().len(), 1);
    let at = fixture.deadline();
    assert!(at <= 52, "{at}");
    assert_eq!(fixture.tick(at), ["list s"]);
    let sent = sent(&fixture.listed(at + 1, 6, &[]));
    assert_eq!(sent, ["create 2 /p/s/ from 6"]);
    assert_eq!(fixture.received(), [Ok(Event::Reset(vec![]))]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_opens_another_stream() {
    let mut fixture = Fixture::watching();
    let actions = fixture.step(
        10,
        cancelled(-1, 0, "rpc error: etcdserver: invalid auth token"),
    );
    assert!(
        matches!(
            &actions[0],
            WatchAction::CloseStream(Some(EtcdError::InvalidToken(_)))
        ),
        "{actions:?}"
    );
    assert!(sent(&actions).contains(&"open".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_list_is_reported_and_repeated_as_serializable() {
    let mut fixture = Fixture::new();
    let broadcaster = fixture.broadcaster.clone();
    fixture.step(0, WatchInput::Subscribe(scope(), broadcaster));
    let busy = EtcdError::Unavailable("no leader".into());
    let actions = fixture.step(1, WatchInput::Listed(scope(), Err(busy.clone())));
    assert!(
        actions.contains(&WatchAction::ListSerializable(scope(), busy.clone())),
        "{actions:?}"
    );
    fixture.step(
        2,
        WatchInput::ListedSerializable(
            scope(),
            RecordList {
                revision: 5,
                entries: vec![entry("1", "h:1")],
            },
            busy,
        ),
    );
    let received = fixture.received();
    assert!(
        matches!(&received[..], [Ok(Event::Reset(entries)), Err(_)] if entries.len() == 1),
        "{received:?}"
    );
    let at = fixture.deadline();
    assert_eq!(fixture.tick(at), ["list s"]);
    fixture.listed(at + 1, 6, &[entry("1", "h:1")]);
    assert_eq!(
        fixture.received(),
        [Ok(Event::Reset(vec![entry("1", "h:1")]))]
    );
}

#[tokio::test(start_paused = true)]
async fn the_stream_is_closed_when_the_last_watcher_is_dropped() {
    let mut fixture = Fixture::watching();
    assert_eq!(
        sent(&fixture.step(10, WatchInput::Unsubscribe(vec![scope()]))),
        ["cancel 1", "drop"]
    );
    assert_eq!(fixture.machine.deadline(), None);
}
