//! `waypost demo` on an existing etcd, and on one of its own.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use serde_json::Value;
use waypost_testkit::etcd::{Binary, Etcd, Options};
use waypost_testkit::{Child, Program};

use crate::support::{DEADLINE, each, end, eventually, run, waypost};

const PASSWORD: &str = "correct-horse";

/// Returns a small demo on an etcd of its own, whose temporary directory is `folder`.
fn demo(binary: &Binary, folder: &Path, args: &[&str]) -> Program {
    let small = [
        "demo",
        "--etcd",
        "--servers",
        "3",
        "--rate",
        "100",
        "--phase",
        "1s",
    ];
    waypost()
        .env("WAYPOST_REGISTRY", "nowhere")
        .env("WAYPOST_ETCD", binary.path())
        .env("TMPDIR", folder)
        .args(small)
        .args(args)
}

/// Returns the command lines of the processes that name `folder`: the etcds with their data there.
fn etcds(folder: &Path) -> Vec<(i32, String)> {
    let folder = folder.display().to_string();
    command_lines()
        .into_iter()
        .filter(|(_, line)| line.contains(&folder))
        .collect()
}

fn command_lines() -> Vec<(i32, String)> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let line = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    };
    processes.filter_map(line).collect()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// Starts a demo, and waits until its restarts have begun.
async fn midst(program: &Program) -> Child {
    let demo = Child::start("demo", &program.clone().own_group()).unwrap();
    eventually(|| demo.stderr().iter().any(|line| line.contains("SIGTERM"))).await;
    demo
}

#[tokio::test]
async fn over_tls_no_call_fails_on_an_etcd_of_its_own() {
    each(async |binary| {
        let folder = tempfile::tempdir().unwrap();
        let ended = run(&demo(&binary, folder.path(), &["--tls", "--json"])).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        crate::demo::check_tls(&ended.stdout);
        assert!(is_empty(folder.path()) && etcds(folder.path()).is_empty());
    })
    .await;
}

#[tokio::test]
async fn no_call_fails_on_an_etcd_of_its_own_and_nothing_is_left() {
    each(async |binary| {
        let folder = tempfile::tempdir().unwrap();
        let ended = run(&demo(&binary, folder.path(), &["--json"])).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(
            (&summary["registry"], &summary["etcd"]),
            (&"etcd".into(), &binary.version().to_string().into())
        );
        assert_eq!(
            (summary["failed"].as_u64(), summary["servers"].as_u64()),
            (Some(0), Some(3))
        );
        assert!(summary["calls"].as_u64().unwrap() >= 380, "{summary}");
        assert!(is_empty(folder.path()) && etcds(folder.path()).is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_servers_of_a_demo_on_an_etcd_with_passwords_do_not_show_them() {
    each(async |binary| {
        let mut etcd = Etcd::start(&binary, &Options::one()).await.unwrap();
        etcd.enable_auth("waypost", Some(PASSWORD), "/micro/registry")
            .await
            .unwrap();
        let url = format!("etcd://waypost:{PASSWORD}@{}", etcd.addresses()[0]);
        let args = ["demo", "--servers", "2", "--rate", "50", "--phase", "1s"];
        let mut demo = midst(
            &waypost()
                .env("RUST_LOG", "debug")
                .args(["--registry", &url])
                .args(args),
        )
        .await;
        let pid = i32::try_from(demo.pid()).unwrap();
        // Each server has the demo's process id in its name.
        let is_ours = |line: &str| {
            line.contains("demo server") && line.trim_end().ends_with(&format!("-{pid}"))
        };
        let servers: Vec<_> = command_lines()
            .into_iter()
            .filter(|(_, line)| is_ours(line))
            .collect();
        assert!(
            !servers.is_empty() && !format!("{servers:?}").contains(PASSWORD),
            "{servers:?}"
        );
        let ended = end(&mut demo).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended
                .stderr
                .contains(&format!("in etcd://{}, 50 calls", etcd.addresses()[0])),
            "{}",
            ended.stderr
        );
        assert!(!format!("{ended:?}").contains(PASSWORD));
        // The killed server could not leave: its record stays until its lease expires.
        let killed = format!("/micro/registry/greeter/greeter-a2-{pid}");
        assert!(
            etcd.keys("/micro/")
                .await
                .unwrap()
                .iter()
                .all(|key| *key == killed)
        );
    })
    .await;
}

#[tokio::test]
async fn ctrl_c_and_sigterm_sum_up_and_leave_no_process_and_no_folder() {
    each(async |binary| {
        let folder = tempfile::tempdir().unwrap();
        for stop in [Child::ctrl_c, Child::sigterm] {
            let mut demo = midst(&demo(&binary, folder.path(), &[])).await;
            assert_eq!(etcds(folder.path()).len(), 1);
            stop(&mut demo).unwrap();
            let ended = end(&mut demo).await;
            assert_eq!(ended.code, Some(130), "{ended:?}");
            let sentence = ended.stdout.lines().last().unwrap();
            assert!(
                sentence.starts_with("Interrupted on etcd ")
                    && sentence.ends_with(", none failed."),
                "{ended:?}"
            );
            assert!(
                !demo.group_is_alive()
                    && is_empty(folder.path())
                    && etcds(folder.path()).is_empty()
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_demo_that_is_killed_takes_its_etcd_along() {
    each(async |binary| {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = midst(&demo(&binary, folder.path(), &[])).await;
        assert_eq!(
            (etcds(folder.path()).len(), is_empty(folder.path())),
            (1, false)
        );
        demo.sigkill().unwrap();
        assert_eq!(demo.wait(DEADLINE).await.unwrap().signal(), Some(9));
        eventually(|| {
            !demo.group_is_alive() && etcds(folder.path()).is_empty() && is_empty(folder.path())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_etcd_that_dies_ends_the_demo_with_its_output() {
    each(async |binary| {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = midst(&demo(&binary, folder.path(), &[])).await;
        let (etcd, _) = etcds(folder.path()).remove(0);
        let pid = rustix::process::Pid::from_raw(etcd).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let ended = end(&mut demo).await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(3), ""),
            "{ended:?}"
        );
        let why = format!(
            "error: etcd {} ({}) ended by itself: signal: 9",
            binary.version(),
            binary.path().display()
        );
        assert!(ended.stderr.contains(&why), "{}", ended.stderr);
        assert!(is_empty(folder.path()) && !demo.group_is_alive());
    })
    .await;
}

#[tokio::test]
async fn without_an_etcd_the_error_names_the_remedy() {
    let nowhere = waypost()
        .env("PATH", "/nowhere")
        .env("HOME", "/nowhere")
        .env("XDG_CACHE_HOME", "")
        .env("WAYPOST_ETCD", "");
    let ended = run(&nowhere.args(["demo", "--etcd"])).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""));
    insta::assert_snapshot!(ended.stderr, @r"
    error: this machine has no etcd: none is named in WAYPOST_ETCD, on the PATH or built
      get one: apt-get install etcd-server, or cargo xtask etcd; or name one: WAYPOST_ETCD=/path/to/etcd
    ");
    let ended = run(&waypost()
        .env("WAYPOST_ETCD", "/bin/echo")
        .args(["demo", "--etcd"]))
    .await;
    assert_eq!(ended.code, Some(3));
    insta::assert_snapshot!(ended.stderr, @r"
    error: /bin/echo is not an etcd: its output has no version of etcd
      get one: apt-get install etcd-server, or cargo xtask etcd; or name one: WAYPOST_ETCD=/path/to/etcd
    ");
    let ended = run(&waypost().args(["--registry", "local://", "demo", "--etcd"])).await;
    assert_eq!(ended.code, Some(2));
    insta::assert_snapshot!(ended.stderr, @"error: --etcd starts an etcd of its own, --registry names one: drop one of them");
}
