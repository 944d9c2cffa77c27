//! Processes: their output, their signals, their end.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use waypost_testkit::{Child, Fleet, Program};

use crate::{DEADLINE, eventually};

const SHORT: Duration = Duration::from_millis(50);

fn shell(script: &str) -> Program {
    Program::new("sh").args(["-c", script])
}

fn sleeper() -> Program {
    Program::new("sleep").arg("600")
}

/// Returns the state letter of a process in Linux: `S`, `T` stopped, `Z` dead and not reaped;
/// `None` if there is no such process.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[tokio::test]
async fn lines_come_in_order_and_then_the_end() {
    let program = shell("echo one; echo $WORD; echo oops >&2; exit 3").env("WORD", "two");
    let mut child = Child::start("talker", &program).unwrap();
    assert_eq!(child.line(DEADLINE).await.unwrap(), "one");
    assert_eq!(
        child
            .line_where(DEADLINE, |line| line.starts_with('t'))
            .await
            .unwrap(),
        "two"
    );
    assert_eq!(child.wait(DEADLINE).await.unwrap().code(), Some(3));
    assert_eq!(
        (child.stdout(), child.stderr()),
        (
            vec!["one".to_owned(), "two".to_owned()],
            vec!["oops".to_owned()]
        )
    );
    assert!(
        child
            .line(DEADLINE)
            .await
            .unwrap_err()
            .to_string()
            .contains("prints no more lines")
    );
}

#[tokio::test]
async fn a_failure_shows_what_the_child_printed() {
    let mut child = Child::start(
        "greeter-1",
        &shell("echo hello; echo oops >&2; exec sleep 600"),
    )
    .unwrap();
    child.line(DEADLINE).await.unwrap();
    eventually(|| !child.stderr().is_empty()).await;
    let pid = child.pid();
    let silent = child.line(SHORT).await.unwrap_err().to_string();
    assert_eq!(
        silent,
        format!(
            "greeter-1 (process {pid}) printed no line within 50ms\nstdout:\n  hello\nstderr:\n  oops"
        )
    );
    let running = child.wait(SHORT).await.unwrap_err().to_string();
    assert!(
        running.starts_with(&format!(
            "greeter-1 (process {pid}) did not end within 50ms"
        )),
        "{running}"
    );
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failure() {
    let failure = Child::start("ghost", &Program::new("./no-such-program")).unwrap_err();
    assert!(
        failure
            .to_string()
            .starts_with("ghost does not start: No such file"),
        "{failure}"
    );
}

#[tokio::test]
async fn signals_arrive() {
    let trap = "trap 'echo term; exit 7' TERM; trap 'echo int; exit 8' INT; echo ready; while :; do sleep 0.01; done";
    for (signal, word, code) in [
        (Child::sigterm as fn(&mut Child) -> _, "term", 7),
        (Child::sigint, "int", 8),
    ] {
        let mut child = Child::start("trapper", &shell(trap)).unwrap();
        assert_eq!(child.line(DEADLINE).await.unwrap(), "ready");
        signal(&mut child).unwrap();
        assert_eq!(child.line(DEADLINE).await.unwrap(), word);
        assert_eq!(child.wait(DEADLINE).await.unwrap().code(), Some(code));
    }
    let mut child = Child::start("sleeper", &sleeper()).unwrap();
    child.sigkill().unwrap();
    assert_eq!(child.wait(DEADLINE).await.unwrap().signal(), Some(9));
    assert!(
        child
            .sigterm()
            .unwrap_err()
            .to_string()
            .contains("has ended already")
    );
}

#[tokio::test]
async fn a_stopped_child_is_alive_and_goes_on() {
    let mut child = Child::start("sleeper", &sleeper()).unwrap();
    child.sigstop().unwrap();
    assert_eq!(state(child.pid()), Some('T'));
    child.assert_alive();
    child.sigcont().unwrap();
    child.sigterm().unwrap();
    assert_eq!(child.wait(DEADLINE).await.unwrap().signal(), Some(15));
}

#[tokio::test]
#[should_panic(expected = "is dead")]
async fn a_dead_child_fails_the_test() {
    let mut child = Child::start("short", &shell("exit 0")).unwrap();
    child.wait(DEADLINE).await.unwrap();
    child.assert_alive();
}

#[tokio::test]
async fn a_dropped_fleet_leaves_no_process_not_even_a_stopped_one() {
    let mut fleet = Fleet::new();
    let pids: Vec<u32> = (0..3)
        .map(|number| fleet.start(format!("s{number}"), &sleeper()).unwrap().pid())
        .collect();
    fleet.child("s1").sigstop().unwrap();
    fleet.assert_alive();
    drop(fleet);
    assert_eq!(pids.into_iter().map(state).collect::<Vec<_>>(), [None; 3]);
}

#[tokio::test]
async fn a_group_dies_with_its_child() {
    let mut child =
        Child::start("parent", &shell("sleep 600 & echo $!; wait").own_group()).unwrap();
    let grandchild: u32 = child.line(DEADLINE).await.unwrap().parse().unwrap();
    assert!(child.group_is_alive());
    drop(child);
    // The new parent process reaps it at a later time.
    eventually(|| matches!(state(grandchild), None | Some('Z'))).await;
}

#[tokio::test]
async fn ctrl_c_reaches_the_whole_group() {
    let inner = "trap 'echo inner; exit' INT; echo ready; while :; do sleep 0.01; done";
    let script = format!("trap 'exit 5' INT; sh -c \"{inner}\"");
    let mut child = Child::start("parent", &shell(&script).own_group()).unwrap();
    assert_eq!(child.line(DEADLINE).await.unwrap(), "ready");
    child.ctrl_c().unwrap();
    assert_eq!(child.line(DEADLINE).await.unwrap(), "inner");
    assert_eq!(child.wait(DEADLINE).await.unwrap().code(), Some(5));
    assert!(!child.group_is_alive());
}

#[tokio::test]
async fn a_fleet_stops_in_order_and_reports_who_does_not() {
    let mut fleet = Fleet::new();
    fleet.start("good", &sleeper()).unwrap();
    fleet.stop(DEADLINE).await.unwrap();
    assert!(!fleet.child("good").is_alive());
    let stubborn = fleet
        .start(
            "stubborn",
            &shell("trap '' TERM; echo ready; exec sleep 600"),
        )
        .unwrap();
    stubborn.line(DEADLINE).await.unwrap();
    let failure = fleet.stop(SHORT).await.unwrap_err();
    assert!(failure.to_string().starts_with("stubborn "), "{failure}");
}
