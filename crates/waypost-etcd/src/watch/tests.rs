//! Tests of the watch machine against a scripted etcd.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use waypost_core::record::{Entry, Key, Node, Service};
use waypost_core::registry::{Broadcaster, Error, Event as News, WatchOptions, Watcher};

use super::Own;
use super::step::{Action, Event, Machine, Scope};
use super::track::{Listed, Missed};
use crate::records::Records;
use crate::space::Space;
use crate::trouble::Trouble;
use crate::wire::{Header, KeyValue, WatchAsk, WatchEvent, WatchRequest, WatchResponse};

/// Machine, one listener of a service, and the time.
struct Scene {
    machine: Machine,
    begun: Instant,
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

fn created(watch_id: i64, revision: i64) -> Event {
    Event::Heard(WatchResponse {
        header: header(revision),
        watch_id,
        created: true,
        ..WatchResponse::default()
    })
}

fn put(watch_id: i64, id: &str, revision: i64) -> Event {
    let event = WatchEvent {
        kind: WatchEvent::PUT,
        kv: Some(kv(id, &format!("h:{revision}"), revision)),
    };
    Event::Heard(WatchResponse {
        header: header(revision),
        watch_id,
        events: vec![event],
        ..WatchResponse::default()
    })
}

fn progress(revision: i64) -> Event {
    Event::Heard(WatchResponse {
        header: header(revision),
        watch_id: -1,
        ..WatchResponse::default()
    })
}

fn cancelled(watch_id: i64, compact_revision: i64, reason: &str) -> Event {
    let cancel_reason = reason.to_owned();
    Event::Heard(WatchResponse {
        watch_id,
        canceled: true,
        compact_revision,
        cancel_reason,
        ..WatchResponse::default()
    })
}

fn broken() -> Event {
    Event::Broke(Trouble::Link("broken".into()))
}

/// Returns the requests to etcd, in short form.
fn asked(actions: &[Action]) -> Vec<String> {
    let shown = |request: &WatchRequest| match request.ask.as_ref().unwrap() {
        WatchAsk::Create(create) => {
            format!(
                "create {} {} from {}",
                create.watch_id,
                String::from_utf8_lossy(&create.key),
                create.start_revision
            )
        }
        WatchAsk::Cancel(cancel) => format!("cancel {}", cancel.watch_id),
        WatchAsk::Progress(_) => "progress".to_owned(),
    };
    let shown = |action: &Action| match action {
        Action::Ask(request) => Some(shown(request)),
        Action::Open => Some("open".to_owned()),
        Action::Drop(why) => Some(
            why.as_ref()
                .map_or("drop".to_owned(), |why| format!("give up: {why}")),
        ),
        Action::List(scope) => Some(format!("list {}", scope.as_deref().unwrap_or("all"))),
        _ => None,
    };
    actions.iter().filter_map(shown).collect()
}

impl Scene {
    fn new() -> Self {
        let records = Arc::new(Records::new(Space::new("/p")));
        let broadcaster = Broadcaster::default();
        let watcher = broadcaster.subscribe_to_fresh(&WatchOptions::service("s"));
        Self {
            machine: Machine::new(records, fastrand::Rng::with_seed(1)),
            begun: Instant::now(),
            watcher,
            broadcaster,
        }
    }

    fn step(&mut self, ms: u64, event: Event) -> Vec<Action> {
        self.machine
            .step(self.begun + Duration::from_millis(ms), event)
    }

    fn tick(&mut self, ms: u64) -> Vec<String> {
        asked(&self.step(ms, Event::Tick))
    }

    fn listed(&mut self, ms: u64, revision: i64, entries: &[Entry]) -> Vec<Action> {
        self.step(
            ms,
            Event::Listed(
                scope(),
                Ok(Listed {
                    revision,
                    entries: entries.to_vec(),
                }),
            ),
        )
    }

    /// Creates a scene whose service is listed at revision 5 with one node, and watched.
    fn watching() -> Self {
        let mut scene = Self::new();
        let broadcaster = scene.broadcaster.clone();
        assert_eq!(
            asked(&scene.step(0, Event::Follow(scope(), broadcaster))),
            ["list s"]
        );
        assert_eq!(
            asked(&scene.listed(1, 5, &[entry("1", "h:5")])),
            ["open", "create 1 /p/s/ from 5"]
        );
        scene.step(2, created(1, 5));
        assert_eq!(scene.heard(), [Ok(News::Reset(vec![entry("1", "h:5")]))]);
        scene
    }

    fn heard(&mut self) -> Vec<Result<News, String>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut heard = Vec::new();
        while let Poll::Ready(Some(item)) =
            futures_core::Stream::poll_next(std::pin::Pin::new(&mut self.watcher), &mut cx)
        {
            heard.push(item.map_err(|error: Error| error.chain()));
        }
        heard
    }

    fn deadline(&self) -> u64 {
        let deadline = self.machine.deadline().unwrap();
        u64::try_from((deadline - self.begun).as_micros().div_ceil(1_000)).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_where_it_broke() {
    let mut scene = Scene::watching();
    scene.step(10, put(1, "2", 7));
    assert_eq!(scene.heard(), [Ok(News::Created(entry("2", "h:7")))]);
    assert_eq!(
        asked(&scene.step(20, broken())),
        ["open", "create 2 /p/s/ from 7"]
    );
    scene.step(30, created(2, 9));
    scene.step(31, put(2, "2", 7));
    scene.step(32, put(2, "3", 9));
    assert_eq!(
        scene.heard(),
        [Ok(News::Created(entry("3", "h:9")))],
        "what comes twice is told once"
    );
    let relist = scene.deadline();
    assert!(relist <= 3_020, "a list verifies it soon: {relist}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_asked_each_second_and_left_after_three() {
    let mut scene = Scene::watching();
    assert_eq!(scene.deadline(), 1_001);
    assert_eq!(scene.tick(1_001), ["progress"]);
    scene.step(1_010, progress(5));
    assert_eq!(scene.tick(2_001), ["progress"]);
    assert_eq!(scene.tick(3_001), ["progress"]);
    assert_eq!(
        scene.tick(4_010),
        [
            "give up: no response within 3s",
            "open",
            "create 2 /p/s/ from 5"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn trouble_is_told_after_a_second_and_ended_by_a_list() {
    let mut scene = Scene::watching();
    assert_eq!(
        asked(&scene.step(100, broken())),
        ["open", "create 2 /p/s/ from 5"],
        "at once"
    );
    assert_eq!(
        asked(&scene.step(110, broken())),
        [""; 0],
        "the second failure rests"
    );
    let opened = scene.tick(210);
    assert!(
        opened.contains(&"create 3 /p/s/ from 5".to_owned()),
        "no longer than 100 ms: {opened:?}"
    );
    let listing = opened.contains(&"list s".to_owned());
    scene.tick(1_099);
    assert_eq!(scene.heard(), []);
    assert_eq!(scene.deadline(), 1_100);
    scene.tick(1_100);
    assert_eq!(
        scene.heard(),
        [Err(
            "the etcd registry is unavailable: watching: broken".to_owned()
        )]
    );
    // The stream is up, but changes may be missing until the list completes.
    let asked = asked(&scene.step(1_200, created(3, 8)));
    assert!(listing || asked.contains(&"list s".to_owned()), "{asked:?}");
    scene.listed(1_201, 8, &[entry("1", "h:5")]);
    assert_eq!(scene.heard(), [Ok(News::Reset(vec![entry("1", "h:5")]))]);
}

#[tokio::test(start_paused = true)]
async fn a_wiped_etcd_is_seen_by_its_revision() {
    let mut scene = Scene::watching();
    scene.step(10, put(1, "2", 50));
    scene.heard();
    scene.step(20, broken());
    assert_eq!(asked(&scene.step(30, created(2, 3))), ["list s"]);
    assert_eq!(
        asked(&scene.listed(40, 3, &[])),
        ["cancel 2", "create 3 /p/s/ from 3"]
    );
    assert_eq!(scene.heard(), [Ok(News::Reset(vec![]))]);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_goes_back_or_another_cluster_is_doubted() {
    let mut scene = Scene::watching();
    scene.step(1_001, Event::Tick);
    assert_eq!(asked(&scene.step(1_002, progress(9))), [""; 0]);
    assert_eq!(
        asked(&scene.step(2_002, progress(8))),
        ["list s", "progress"]
    );
    let mut scene = Scene::watching();
    let mut other = WatchResponse {
        header: header(9),
        watch_id: -1,
        ..WatchResponse::default()
    };
    other.header.as_mut().unwrap().cluster_id = 77;
    assert_eq!(asked(&scene.step(10, Event::Heard(other))), ["list s"]);
}

#[tokio::test(start_paused = true)]
async fn a_compacted_watch_is_listed_and_told_as_a_gap() {
    let mut scene = Scene::watching();
    scene.step(20, broken());
    scene.step(30, created(2, 90));
    assert_eq!(asked(&scene.step(60, cancelled(2, 80, ""))), ["list s"]);
    assert_eq!(
        asked(&scene.listed(70, 90, &[entry("1", "h:5")])),
        ["create 3 /p/s/ from 90"]
    );
    assert_eq!(
        scene.heard(),
        [Ok(News::Reset(vec![entry("1", "h:5")]))],
        "though nothing is missing"
    );
}

#[tokio::test(start_paused = true)]
async fn every_five_minutes_a_list_looks_for_what_no_rule_foresaw() {
    let mut scene = Scene::watching();
    let mut at = 3;
    let listed = loop {
        at = scene.deadline().max(at);
        let asked = scene.tick(at);
        if asked.contains(&"list s".to_owned()) {
            break at;
        }
        scene.step(at, progress(9));
    };
    assert!((240_000..=360_000).contains(&listed), "{listed}");
    let actions = scene.listed(listed + 1, 9, &[entry("2", "h:6")]);
    let first = vec!["deleted s/s-1".to_owned(), "created s/s-2".to_owned()];
    let missed = Missed {
        created: 1,
        changed: 0,
        gone: 1,
        first,
    };
    assert!(
        actions.contains(&Action::Missed(scope(), missed)),
        "{actions:?}"
    );
    assert_eq!(scene.heard(), [Ok(News::Reset(vec![entry("2", "h:6")]))]);
}

#[tokio::test(start_paused = true)]
async fn a_list_waits_for_the_watch_to_get_as_far() {
    let mut scene = Scene::watching();
    let broadcaster = scene.broadcaster.clone();
    assert_eq!(
        asked(&scene.step(300, Event::Follow(scope(), broadcaster))),
        ["list s"]
    );
    let actions = scene.listed(310, 9, &[entry("1", "h:5"), entry("2", "h:9")]);
    assert_eq!(asked(&actions), ["progress"], "it is behind");
    assert_eq!(scene.heard(), []);
    scene.step(311, put(1, "2", 9));
    assert_eq!(
        scene.heard(),
        [Ok(News::Created(entry("2", "h:9")))],
        "an event, not a reset"
    );
    assert!(scene.deadline() > 311, "it does not spin");
}

#[tokio::test(start_paused = true)]
async fn an_own_record_is_watched_when_its_watch_has_told_it() {
    let mut scene = Scene::new();
    assert_eq!(
        asked(&scene.step(0, Event::Own(key("1"), 5))),
        ["open", "create 1 /p/s/s-1 from 5"]
    );
    let own = |actions: Vec<Action>| -> Vec<Own> {
        actions
            .into_iter()
            .filter_map(|action| {
                if let Action::Own(_, own) = action {
                    Some(own)
                } else {
                    None
                }
            })
            .collect()
    };
    assert_eq!(own(scene.step(1, created(1, 7))), []);
    assert_eq!(
        own(scene.step(2, put(1, "1", 5))),
        [Own::Watched, Own::Changed(5)]
    );
    assert_eq!(
        own(scene.step(3, put(1, "1", 8))),
        [Own::Watched, Own::Changed(8)]
    );
    assert!(scene.step(10, broken()).contains(&Action::OwnsUnwatched));
    assert_eq!(own(scene.step(12, cancelled(2, 30, ""))), [Own::Lost]);
    assert_eq!(scene.machine.deadline(), None, "nothing is left to do");
}

fn owns(actions: &[Action]) -> Vec<Own> {
    actions
        .iter()
        .filter_map(|action| {
            if let Action::Own(_, own) = action {
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
async fn an_own_record_on_a_wiped_etcd_is_watched_from_where_it_stands_now() {
    let mut scene = Scene::new();
    scene.step(0, Event::Own(key("1"), 1_000));
    scene.step(1, created(1, 1_000));
    scene.step(2, put(1, "1", 1_000));
    assert_eq!(
        asked(&scene.step(10, broken())),
        ["open", "create 2 /p/s/s-1 from 1000"]
    );
    let wiped = scene.step(11, created(2, 3));
    assert_eq!(
        (owns(&wiped), asked(&wiped)),
        (
            vec![Own::Lost],
            vec!["cancel 2".to_owned(), "drop".to_owned()]
        )
    );
    let again = scene.step(500, Event::Own(key("1"), 4));
    assert_eq!(asked(&again), ["open", "create 3 /p/s/s-1 from 4"]);
    assert_eq!(
        owns(&scene.step(501, put(3, "1", 4))),
        [Own::Watched, Own::Changed(4)]
    );
}

/// The revision of the own record is compacted. It is watched from the compacted revision, and
/// earlier changes are unknown.
#[tokio::test(start_paused = true)]
async fn an_own_record_older_than_etcds_memory_is_watched_all_the_same() {
    let mut scene = Scene::watching();
    scene.step(10, Event::Own(key("1"), 5));
    scene.step(11, created(2, 90));
    assert_eq!(owns(&scene.step(20, cancelled(2, 80, ""))), [Own::Lost]);
    assert_eq!(
        asked(&scene.step(30, Event::Own(key("1"), 5))),
        ["create 3 /p/s/s-1 from 80"]
    );
    assert_eq!(owns(&scene.step(31, created(3, 90))), []);
    assert_eq!(
        owns(&scene.step(211, Event::Tick)),
        [],
        "that was the watch before"
    );
    assert_eq!(scene.deadline(), 231);
    assert_eq!(
        owns(&scene.step(231, Event::Tick)),
        [Own::Watched],
        "it had the time to tell what it had missed"
    );
    assert_eq!(
        asked(&scene.step(240, broken())),
        ["open", "create 4 /p/s/ from 5", "create 5 /p/s/s-1 from 80"]
    );
    scene.step(241, created(5, 95));
    assert_eq!(
        owns(&scene.step(500, Event::Tick)),
        [],
        "nobody has looked at it since: the history may be another"
    );
    assert_eq!(
        owns(&scene.step(510, Event::Own(key("1"), 5))),
        [Own::Watched]
    );
}

/// Counts the requests of a kind in ten seconds, if each response comes a millisecond after its
/// request.
fn rate(scene: &mut Scene, what: &str, answer: impl Fn(&Action) -> Option<Event>) -> usize {
    let (mut at, mut count) = (10, 0);
    let mut actions = scene.step(at, broken());
    while at < 10_000 {
        at += 1;
        count += asked(&actions)
            .iter()
            .filter(|asked| asked.starts_with(what))
            .count();
        let answers: Vec<_> = actions.iter().filter_map(&answer).collect();
        actions = answers
            .into_iter()
            .flat_map(|answer| scene.step(at, answer))
            .collect();
        actions.extend(scene.step(at, Event::Tick));
    }
    count
}

fn creates(action: &Action) -> bool {
    matches!(
        action,
        Action::Ask(WatchRequest {
            ask: Some(WatchAsk::Create(_))
        })
    )
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_over_as_soon_as_it_is_open_is_opened_with_rests() {
    let mut scene = Scene::watching();
    let opened = rate(&mut scene, "open", |action| match action {
        action if creates(action) => Some(cancelled(-1, 0, "etcdserver: invalid auth token")),
        Action::List(scope) => Some(Event::Listed(
            scope.clone(),
            Ok(Listed {
                revision: 5,
                entries: Vec::new(),
            }),
        )),
        _ => None,
    });
    assert!((5..50).contains(&opened), "{opened} streams in 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_always_refused_is_tried_with_rests() {
    for reason in ["etcdserver: permission denied", ""] {
        let mut scene = Scene::watching();
        let listed = rate(&mut scene, "list", |action| match action {
            Action::Ask(request) => match request.ask.as_ref().unwrap() {
                WatchAsk::Create(create) => Some(cancelled(
                    create.watch_id,
                    i64::from(reason.is_empty()),
                    reason,
                )),
                _ => None,
            },
            Action::List(scope) => Some(Event::Listed(
                scope.clone(),
                Ok(Listed {
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
async fn a_yes_to_a_watch_overtakes_the_rest() {
    let mut scene = Scene::watching();
    let broadcaster = scene.broadcaster.clone();
    scene.step(300, Event::Follow(scope(), broadcaster));
    scene.step(301, Event::Own(key("9"), 9));
    assert_eq!(
        asked(&scene.listed(302, 9, &[entry("1", "h:5"), entry("2", "h:9")])),
        ["progress"]
    );
    scene.step(303, created(2, 9));
    assert_eq!(scene.heard(), [], "the list still waits for the event");
    assert_eq!(
        asked(&scene.step(304, progress(8))),
        [""; 0],
        "nor did the history go back"
    );
    scene.step(305, put(1, "2", 9));
    assert_eq!(scene.heard(), [Ok(News::Created(entry("2", "h:9")))]);
}

/// The response of a removed scope's list would be taken for that of its successor, which must not
/// get older nodes.
#[tokio::test(start_paused = true)]
async fn a_scope_is_not_let_go_while_it_is_listed() {
    let mut scene = Scene::new();
    let broadcaster = scene.broadcaster.clone();
    scene.step(0, Event::Follow(scope(), broadcaster));
    assert_eq!(scene.machine.followed().count(), 0);
    scene.listed(1, 5, &[]);
    assert_eq!(scene.machine.followed().count(), 1);
}

/// Another etcd with a higher revision has replaced the old one: it accepts the watch, and does not
/// report the differences.
#[tokio::test(start_paused = true)]
async fn another_history_that_is_ahead_is_found_by_a_list() {
    let mut scene = Scene::watching();
    scene.step(10, broken());
    // A list before the stream's first response does not show which etcd the stream will reach.
    let listing = (10..2_000).find(|at| scene.tick(*at).contains(&"list s".to_owned()));
    let at = listing.expect("a list follows a break");
    scene.listed(at + 1, 5, &[entry("1", "h:5")]);
    let opened = at + 502;
    scene.step(opened, created(2, 900));
    let listing =
        (opened..opened + 3_001).find(|at| scene.tick(*at).contains(&"list s".to_owned()));
    let at = listing.expect("a list follows the first word within 3 s");
    scene.step(at, progress(900));
    let found = scene.listed(at + 1, 900, &[entry("2", "h:7")]);
    let first = vec!["deleted s/s-1".to_owned(), "created s/s-2".to_owned()];
    assert!(
        found.contains(&Action::Missed(
            scope(),
            Missed {
                created: 1,
                changed: 0,
                gone: 1,
                first
            }
        )),
        "{found:?}"
    );
    assert_eq!(scene.heard(), [Ok(News::Reset(vec![entry("2", "h:7")]))]);
}

/// A name may hold any character.
#[tokio::test(start_paused = true)]
async fn of_much_that_was_missed_the_first_five_are_named() {
    let mut scene = Scene::watching();
    let broadcaster = scene.broadcaster.clone();
    scene.step(300, Event::Follow(scope(), broadcaster));
    let many: Vec<_> = (0..100)
        .map(|number| entry(&format!("\u{1b}{}", "x".repeat(1_000 + number)), "h:1"))
        .collect();
    scene.listed(310, 9, &many);
    let found = scene.step(811, Event::Tick);
    let Some(Action::Missed(_, missed)) = found
        .iter()
        .find(|action| matches!(action, Action::Missed(..)))
    else {
        panic!("{found:?}")
    };
    assert_eq!(
        (
            missed.created,
            missed.changed,
            missed.gone,
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

#[tokio::test(start_paused = true)]
async fn a_barrier_is_passed_by_an_answer_to_a_later_question() {
    let mut scene = Scene::new();
    assert!(
        scene
            .step(0, Event::Barrier)
            .contains(&Action::BarrierFailed),
        "there is no stream"
    );
    let mut scene = Scene::watching();
    let barrier = |actions: &[Action]| {
        actions
            .iter()
            .filter(|action| format!("{action:?}").starts_with("Barrier"))
            .count()
    };
    let begun = scene.step(200, Event::Barrier);
    assert!(begun.contains(&Action::BarrierBegun), "{begun:?}");
    assert_eq!(
        barrier(&scene.step(201, Event::Barrier)),
        0,
        "it waits for its own question"
    );
    assert!(
        scene
            .step(202, progress(5))
            .contains(&Action::BarrierPassed)
    );
    assert_eq!(scene.deadline(), 250);
    assert!(scene.step(250, Event::Tick).contains(&Action::BarrierBegun));
    assert!(scene.step(260, broken()).contains(&Action::BarrierFailed));
}

#[tokio::test(start_paused = true)]
async fn a_refused_watch_is_told_and_tried_again() {
    let mut scene = Scene::new();
    let broadcaster = scene.broadcaster.clone();
    scene.step(0, Event::Follow(scope(), broadcaster));
    scene.listed(1, 5, &[]);
    scene.heard();
    // etcd does not name the watch.
    scene.step(2, cancelled(-1, 0, "etcdserver: permission denied"));
    assert_eq!(scene.heard().len(), 1);
    let at = scene.deadline();
    assert!(at <= 52, "{at}");
    assert_eq!(scene.tick(at), ["list s"]);
    let asked = asked(&scene.listed(at + 1, 6, &[]));
    assert_eq!(asked, ["create 2 /p/s/ from 6"]);
    assert_eq!(scene.heard(), [Ok(News::Reset(vec![]))]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ran_out_opens_another_stream() {
    let mut scene = Scene::watching();
    let actions = scene.step(
        10,
        cancelled(-1, 0, "rpc error: etcdserver: invalid auth token"),
    );
    assert!(
        matches!(&actions[0], Action::Drop(Some(Trouble::Token(_)))),
        "{actions:?}"
    );
    assert!(asked(&actions).contains(&"open".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_first_list_that_fails_is_told_and_one_member_asked() {
    let mut scene = Scene::new();
    let broadcaster = scene.broadcaster.clone();
    scene.step(0, Event::Follow(scope(), broadcaster));
    let busy = Trouble::Busy("no leader".into());
    let actions = scene.step(1, Event::Listed(scope(), Err(busy.clone())));
    assert!(
        actions.contains(&Action::ListOfOne(scope(), busy.clone())),
        "{actions:?}"
    );
    scene.step(
        2,
        Event::ListedByOne(
            scope(),
            Listed {
                revision: 5,
                entries: vec![entry("1", "h:1")],
            },
            busy,
        ),
    );
    let heard = scene.heard();
    assert!(
        matches!(&heard[..], [Ok(News::Reset(entries)), Err(_)] if entries.len() == 1),
        "{heard:?}"
    );
    let at = scene.deadline();
    assert_eq!(scene.tick(at), ["list s"]);
    scene.listed(at + 1, 6, &[entry("1", "h:1")]);
    assert_eq!(scene.heard(), [Ok(News::Reset(vec![entry("1", "h:1")]))]);
}

#[tokio::test(start_paused = true)]
async fn nobody_follows_and_nothing_is_left() {
    let mut scene = Scene::watching();
    assert_eq!(
        asked(&scene.step(10, Event::Unfollow(vec![scope()]))),
        ["cancel 1", "drop"]
    );
    assert_eq!(scene.machine.deadline(), None);
}
