//! Checks of docs/etcd.md: its commands work on every etcd, and its quotes occur in the source.

use waypost_testkit::etcd::{Binary, each};
use waypost_testkit::{Child, Port, Program};

use crate::support::DEADLINE;

const CRATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn page() -> String {
    std::fs::read_to_string(format!("{CRATES}/../docs/etcd.md")).unwrap()
}

/// Returns the commands of the page, in order.
fn commands() -> String {
    let page = page();
    let blocks: Vec<_> = page
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    assert!(blocks.len() >= 4, "the page has lost its commands");
    blocks.concat()
}

/// Checks of the permissions that the page gives to the user.
const PROOF: &str = "
export ETCDCTL_CERT=waypost.crt ETCDCTL_KEY=waypost.key
etcdctl put /micro/registry/a/b c
if etcdctl put /elsewhere c; then echo may write everywhere; exit 9; fi
if etcdctl get --prefix /; then echo may read everything; exit 9; fi
";

async fn follows_the_page(binary: Binary) {
    let folder = tempfile::tempdir().unwrap();
    // The ports of the page are etcd's default ports, which may be in use.
    let ports = [Port::take().unwrap(), Port::take().unwrap()];
    let [client, peer] = ports
        .each_ref()
        .map(|port| port.address().port().to_string());
    let script = commands().replace("2379", &client).replace("2380", &peer);
    let begin = format!(
        "cd {}\ntrap 'kill $(jobs -p)' EXIT\n",
        folder.path().display()
    );
    let programs = [
        binary.path(),
        binary.etcdctl(),
        env!("CARGO_BIN_EXE_waypost").as_ref(),
    ]
    .map(|path| path.parent().unwrap());
    let path = std::env::join_paths(
        programs
            .into_iter()
            .map(Into::into)
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let program = Program::new("bash")
        .args(["-euc", &[&begin, &script, PROOF].concat()])
        .env("PATH", path.unwrap())
        .env("ETCDCTL_DIAL_TIMEOUT", "60s")
        .env("ETCDCTL_COMMAND_TIMEOUT", "60s")
        .env("RUST_LOG", "")
        .own_group();
    let mut child =
        Child::start(format!("the page on etcd {}", binary.version()), &program).unwrap();
    let status = child.wait(DEADLINE).await.unwrap();
    let (stdout, stderr) = (child.stdout().join("\n"), child.stderr().join("\n"));
    assert!(status.success(), "{status}\n{stdout}\n{stderr}");
    assert!(
        stdout.lines().any(|line| line.starts_with("greeter ")),
        "{stdout}"
    );
    assert!(stderr.matches("permission denied").count() >= 2, "{stderr}");
}

#[tokio::test]
async fn the_commands_of_the_page_work() {
    each(follows_the_page).await;
}

/// Appends the source files of a crate from which the page quotes.
fn sources(folder: &std::path::Path, text: &mut String) {
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

/// Returns the quotes in one column of the tables after a heading.
fn quoted<'a>(page: &'a str, heading: &str, column: usize) -> Vec<&'a str> {
    let (_, section) = page.split_once(heading).unwrap();
    let section = section
        .split_once("\n#")
        .map_or(section, |(section, _)| section);
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_start_matches("| ").split(" | ").nth(column));
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect()
}

#[test]
fn the_messages_of_the_page_are_those_of_the_log() {
    let page = page();
    let mut quoted = [
        quoted(&page, "## What may happen", 1),
        quoted(&page, "### It stays wrong", 0),
    ];
    assert!(quoted[0].len() >= 15 && quoted[1].len() >= 9, "{quoted:?}");
    let mut source = String::new();
    for name in ["waypost-core", "waypost-etcd", "waypost-http"] {
        sources(
            &std::path::Path::new(CRATES).join(name).join("src"),
            &mut source,
        );
    }
    for words in quoted.iter_mut().flatten() {
        // A figure is that of the one case that the page describes.
        let message = words.split(|c: char| c.is_ascii_digit()).next().unwrap();
        assert!(source.contains(message), "no source contains {words:?}");
    }
}
