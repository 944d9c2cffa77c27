//! Commands on a terminal of their own (a pseudoterminal), in several widths.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::Host;

/// Runs a command on a terminal of this width, and returns what it draws there.
fn on_terminal(host: &Host, args: &[&str], columns: u16) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, size).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let program = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command
        .args(["--registry", host.url()])
        .args(args)
        .env("NO_COLOR", "1")
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(program.try_clone().unwrap())
        .stderr(program);
    let mut child = command.spawn().unwrap();
    // The command holds the program's side of the terminal; reading ends when the child has.
    drop(command);
    let mut drawn = Vec::new();
    let mut terminal = File::from(terminal);
    // Linux reports the end of the other side as an error (EIO).
    let _ended = terminal.read_to_end(&mut drawn);
    assert!(child.wait().unwrap().success());
    host.settled(&String::from_utf8(drawn).unwrap().replace("\r\n", "\n"))
}

#[tokio::test]
async fn a_narrow_terminal_shows_every_value_on_a_line_of_its_own() {
    let host = Host::new();
    let _node = host
        .node(
            "a",
            &["--metadata", "protocol=grpc", "--metadata", "zone=eu-1"],
        )
        .await;
    let wide = on_terminal(&host, &["get", "greeter"], 200);
    insta::assert_snapshot!(wide, @r"
    NODE       ADDRESS         VERSION  PROTOCOL  MEMBERSHIP  METADATA
    greeter-a  127.0.0.1:9097  latest   grpc      confirmed   zone=eu-1
    ");
    let narrow = on_terminal(&host, &["get", "greeter"], 40);
    insta::assert_snapshot!(narrow, @r"
    NODE        greeter-a
    ADDRESS     127.0.0.1:9097
    VERSION     latest
    PROTOCOL    grpc
    MEMBERSHIP  confirmed
    METADATA    zone=eu-1
    ");
}

#[tokio::test]
async fn the_demo_on_a_narrow_terminal_cuts_no_address() {
    let host = Host::new();
    let demo = ["demo", "--servers", "1", "--rate", "20", "--phase", "600ms"];
    let drawn = tokio::task::spawn_blocking(move || on_terminal(&host, &demo, 30))
        .await
        .unwrap();
    let frames: Vec<_> = drawn
        .split("\u{1b}[?7l")
        .skip(1)
        .map(|frame| frame.split_once("\u{1b}[?7h").unwrap().0)
        .collect();
    let is_narrow = |frame: &&str| frame.lines().all(|line| line.chars().count() <= 30);
    assert!(
        !frames.is_empty() && frames.iter().all(is_narrow),
        "{drawn}"
    );
    let parts = ["CONNECTION", "127.0.0.1:", "ready", "picked", "p99"];
    let is_whole = |frame: &&str| {
        let joined = frame.replace('\n', "");
        parts.iter().all(|part| joined.contains(part))
    };
    assert!(frames.iter().any(is_whole), "{drawn}");
    assert!(drawn.contains("PHASE        rolling-restart\n"), "{drawn}");
}
