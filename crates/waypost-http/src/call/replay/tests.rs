use std::collections::VecDeque;
use std::task::Waker;

use super::*;

#[derive(Debug, thiserror::Error)]
#[error("of the body's own")]
struct Own;

/// Body that follows a script.
struct Script(VecDeque<Step>);

enum Step {
    Data(&'static [u8]),
    Trailers,
    Pending,
    Fails,
    Panics,
}

fn script(steps: impl IntoIterator<Item = Step>) -> Script {
    Script(steps.into_iter().collect())
}

impl Body for Script {
    type Data = Bytes;
    type Error = Own;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Own>>> {
        Poll::Ready(match self.0.pop_front() {
            None => None,
            Some(Step::Data(data)) => Some(Ok(Frame::data(Bytes::from_static(data)))),
            Some(Step::Trailers) => Some(Ok(Frame::trailers(HeaderMap::default()))),
            Some(Step::Pending) => return Poll::Pending,
            Some(Step::Fails) => Some(Err(Own)),
            Some(Step::Panics) => panic!("the stream of {}", "requests"),
        })
    }
}

fn filled(body: Script, limit: usize) -> ReplayBody<Script> {
    let mut replay = ReplayBody::new(body, limit);
    replay.fill(&mut Context::from_waker(Waker::noop()));
    replay
}

#[test]
fn a_body_that_is_there_at_once_is_complete_however_large() {
    static LARGE: [u8; 100_000] = [7; 100_000];
    let mut replay = filled(script([Step::Data(&LARGE)]), 10);
    assert!(
        !replay.is_complete(),
        "one piece above the limit: its end was not looked for"
    );
    replay
        .poll_next(&mut Context::from_waker(Waker::noop()))
        .is_ready();
    assert!(replay.is_complete() && replay.can_replay());
    let replay = filled(
        script([Step::Data(b"hello"), Step::Data(b" you"), Step::Trailers]),
        100,
    );
    assert!(replay.is_complete() && replay.trailers().is_some());
    assert_eq!(
        (replay.kept_bytes(), replay.piece(1).unwrap().as_ref()),
        (9, b" you".as_ref())
    );
}

#[test]
fn a_body_that_waits_is_not_complete_and_its_beginning_is_kept() {
    let replay = filled(
        script([Step::Data(b"one"), Step::Pending, Step::Data(b"two")]),
        100,
    );
    assert!(!replay.is_complete() && replay.can_replay());
    assert_eq!(
        (replay.piece(0).unwrap().as_ref(), replay.piece(1)),
        (b"one".as_ref(), None)
    );
}

#[test]
fn a_body_that_fails_or_panics_at_once_is_an_error_of_the_request() {
    let mut replay = filled(script([Step::Data(b"x"), Step::Fails]), 100);
    assert!(replay.has_failed() && !replay.is_complete() && !replay.can_replay());
    let Some(RequestError::Body(source)) = replay.take_error() else {
        panic!("no error")
    };
    assert!(source.downcast_ref::<Own>().is_some());
    assert!(replay.take_error().is_none() && replay.has_failed());
    let error = filled(script([Step::Panics]), 100).take_error().unwrap();
    assert_eq!(
        error.to_string(),
        "request body panicked: the stream of requests"
    );
}

#[test]
fn endless_empty_or_tiny_pieces_are_bounded() {
    struct Endless(&'static [u8]);
    impl Body for Endless {
        type Data = Bytes;
        type Error = Own;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Own>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.0)))))
        }
    }
    for data in [b"".as_ref(), b"x"] {
        let mut replay = ReplayBody::new(Endless(data), 64 * 1024);
        replay.fill(&mut Context::from_waker(Waker::noop()));
        assert!(
            replay.kept_bytes() <= 64 * 1024 / LEAST_COST + 1,
            "{}",
            replay.kept_bytes()
        );
        assert!(replay.kept.iter().all(|data| !data.is_empty()));
    }
}

#[test]
fn a_body_whose_drop_panics_is_an_error_of_the_request() {
    struct Mine;
    impl Body for Mine {
        type Data = Bytes;
        type Error = Own;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Own>>> {
            Poll::Ready(None)
        }
    }
    impl Drop for Mine {
        fn drop(&mut self) {
            panic!("at the end");
        }
    }
    let mut replay = ReplayBody::new(Mine, 100);
    replay.fill(&mut Context::from_waker(Waker::noop()));
    assert_eq!(
        replay.take_error().unwrap().to_string(),
        "request body panicked: at the end"
    );
}
