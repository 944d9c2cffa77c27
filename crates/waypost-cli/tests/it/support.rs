//! Fresh directory with a registry in it, and the command line on it.

use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use waypost_testkit::etcd::{self, Binary, Etcd};
use waypost_testkit::{Child, Program};

/// Long enough for anything here on a busy machine. If all is well, nothing waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Returns the command line in the environment of a test.
pub(crate) fn waypost() -> Program {
    Program::new(env!("CARGO_BIN_EXE_waypost"))
        .env("WAYPOST_REGISTRY", "")
        .env("RUST_LOG", "")
        .env("ETCD_USERNAME", "")
        .env("ETCD_PASSWORD", "")
        .env("NO_COLOR", "")
}

/// Result of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) async fn run(program: &Program) -> Ended {
    end(&mut Child::start("waypost", program).unwrap()).await
}

/// Waits for the end of a command.
pub(crate) async fn end(child: &mut Child) -> Ended {
    let code = child.wait(DEADLINE).await.unwrap().code();
    Ended {
        code,
        stdout: child.stdout().join("\n"),
        stderr: child.stderr().join("\n"),
    }
}

/// Registry of its own, on this host or in an etcd.
pub(crate) struct Host {
    url: String,
    /// Address of the registry, and its replacement in snapshots.
    shown: (String, &'static str),
    /// Directory that exists as long as the registry is used.
    folder: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry").display().to_string();
        Self {
            url: format!("local://{path}"),
            shown: (path, "/here"),
            folder,
        }
    }

    /// Returns the registry in `etcd`. `rest` is a prefix and options.
    pub(crate) fn on(etcd: &Etcd, rest: &str) -> Self {
        let address = etcd.addresses()[0].to_string();
        let url = format!("etcd://{address}{rest}");
        Self {
            url,
            shown: (address, "ETCD"),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("registry")
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the command line on this registry.
    pub(crate) fn waypost(&self, args: &[&str]) -> Program {
        waypost().args(["--registry", &self.url]).args(args)
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ended {
        let ended = run(&self.waypost(args)).await;
        Ended {
            code: ended.code,
            stdout: self.settled(&ended.stdout),
            stderr: self.settled(&ended.stderr),
        }
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        Child::start(args.join(" "), &self.waypost(args)).unwrap()
    }

    /// Starts a node, and waits until it is registered.
    pub(crate) async fn node(&self, id: &str, more: &[&str]) -> Child {
        let address = format!("127.0.0.1:{}", 9000 + u16::from(id.as_bytes()[0]));
        let args = [
            "register",
            "--name",
            "greeter",
            "--id",
            id,
            "--address",
            &address,
        ];
        let mut child = self.start(&[&args, more].concat());
        assert_eq!(
            child.line(DEADLINE).await.unwrap(),
            format!("registered greeter-{id} at {address}")
        );
        child
    }

    /// Starts a greeter, and waits until it is registered.
    pub(crate) async fn greeter(&self, id: &str) -> Child {
        let mut child = self.start(&["demo", "server", "--id", id]);
        let registered: serde_json::Value =
            serde_json::from_str(&child.line(DEADLINE).await.unwrap()).unwrap();
        assert_eq!(
            (&registered["event"], &registered["id"]),
            (&"registered".into(), &format!("greeter-{id}").into())
        );
        child
    }

    /// Returns the output of `watch` in this format while one node leaves and another, registered
    /// with `more`, is killed. Nothing may be written to stderr.
    pub(crate) async fn watched(&self, format: &str, more: &[&str]) -> String {
        let mut a = self.node("a", more).await;
        let mut watch = self.start(&["watch", "greeter", "-o", format]);
        let has = |line: &str, id: &str| line.contains(&format!("greeter-{id}"));
        watch
            .line_where(DEADLINE, |line| has(line, "a"))
            .await
            .unwrap();
        let mut b = self.node("b", &[]).await;
        watch
            .line_where(DEADLINE, |line| has(line, "b"))
            .await
            .unwrap();
        b.sigterm().unwrap();
        for _ in ["leaving", "left"] {
            watch
                .line_where(DEADLINE, |line| has(line, "b"))
                .await
                .unwrap();
        }
        a.sigkill().unwrap();
        watch
            .line_where(DEADLINE, |line| has(line, "a"))
            .await
            .unwrap();
        watch.sigint().unwrap();
        let ended = end(&mut watch).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(130), ""));
        self.settled(&ended.stdout)
    }

    /// Returns the text without the parts that differ from run to run: this registry's address, and
    /// instances.
    pub(crate) fn settled(&self, text: &str) -> String {
        let text = text.replace(&self.shown.0, self.shown.1);
        let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let words = text.split_inclusive(|c| !is_hex(c)).map(|word| {
            let hex = word.trim_end_matches(|c| !is_hex(c));
            if hex.len() == 32 {
                word.replace(hex, "INSTANCE")
            } else {
                word.to_owned()
            }
        });
        words.collect()
    }
}

/// Returns the text with `DATE` and `HH:MM:SS.mmm` in place of times.
pub(crate) fn without_times(text: &str) -> String {
    let placeholder = |word: &str| {
        let shape: String = word
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        match shape.as_str() {
            "00:00:00.000" => "HH:MM:SS.mmm".to_owned(),
            "0000-00-00T00:00:00.000Z" => "DATETHH:MM:SS.mmmZ".to_owned(),
            _ => word.to_owned(),
        }
    };
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let bare = word.trim_end();
        placeholder(bare) + &word[bare.len()..]
    });
    words.collect()
}

/// Waits until `there` returns true, while other tasks run.
pub(crate) async fn eventually(mut there: impl FnMut() -> bool) {
    let wait = async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("it happens in time");
}

/// Runs a test on every etcd of this machine concurrently. The result must be the same on each.
pub(crate) async fn each<F, R, T>(test: F) -> T
where
    F: Fn(Binary) -> R,
    R: Future<Output = T> + Send + 'static,
    T: Debug + PartialEq + Send + 'static,
{
    let all = etcd::each(test).await;
    assert!(
        all.iter().all(|one| *one == all[0]),
        "two versions of etcd: {all:#?}"
    );
    all.into_iter().next().unwrap()
}
