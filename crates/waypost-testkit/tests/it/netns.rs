//! Hosts in network namespaces reach each other unless they are disconnected; skipped where the
//! machine has none.

use waypost_testkit::netns::Net;
use waypost_testkit::{Child, Program};

use crate::DEADLINE;

/// Connects from the first host to a port of the second that no process listens on; returns the
/// error text.
async fn answer(net: &Net) -> String {
    let connect = format!("exec 3<>/dev/tcp/{}/9", net.host(1).address());
    let program = Program::new("timeout").args(["1", "bash", "-c", &connect]);
    let mut child = Child::start("connect", &net.host(0).program(program)).expect("ip starts");
    child.wait(DEADLINE).await.expect("timeout ends it");
    child.stderr().concat()
}

#[tokio::test]
async fn hosts_reach_each_other_and_not_when_cut() {
    let net = match Net::start(2) {
        Ok(net) => net,
        Err(skip) => return eprintln!("{skip}"),
    };
    let refused = |answer: String| answer.contains("Connection refused");
    assert!(refused(answer(&net).await));
    net.cut(1).unwrap();
    assert!(!refused(answer(&net).await));
    net.join(1).unwrap();
    assert!(refused(answer(&net).await));
}

#[test]
fn nets_do_not_meet_and_leave_nothing() {
    let count = || {
        std::fs::read_dir("/run/netns").map_or(0, |names| names.flatten().filter(is_ours).count())
    };
    let (one, other) = match (Net::start(1), Net::start(1)) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(skip), _) | (_, Err(skip)) => return eprintln!("{skip}"),
    };
    assert_eq!(one.host(0).address(), other.host(0).address());
    assert!(count() >= 4);
    let before = count();
    drop((one, other));
    assert_eq!(count(), before - 4);
}

/// Returns true if the namespace belongs to this process.
fn is_ours(entry: &std::fs::DirEntry) -> bool {
    entry
        .file_name()
        .to_string_lossy()
        .starts_with(&format!("waypost-{}-", std::process::id()))
}
