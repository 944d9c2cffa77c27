//! docs/first-service.md, followed step by step: its files in a fresh cargo project, and its commands.
//!
//! Two things differ from what a reader does: `waypost` is this workspace's instead of a published
//! version, and the project gets this workspace's lock file and target directory, so that little is
//! downloaded or built again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use waypost::registry::{NodeSet, WatchOptions};
use waypost_testkit::{Child, Program};

/// Long enough to build the project's dependencies on a busy machine.
const BUILD: Duration = Duration::from_secs(900);
/// Long enough for all else.
const LONG: Duration = Duration::from_secs(60);

/// The published version that the page depends on, once.
const PUBLISHED: &str = "\nwaypost = \"0.1\"\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Code block of the page.
struct Block<'a> {
    language: &'a str,
    /// First code span of the paragraph before the block: the file that the block is the content of.
    span: Option<&'a str>,
    code: &'a str,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut parts = page.split("```");
    let mut blocks = Vec::new();
    while let (Some(text), Some(block)) = (parts.next(), parts.next()) {
        let paragraph = text.trim_end().rsplit("\n\n").next().unwrap();
        let (language, code) = block.split_once('\n').unwrap();
        blocks.push(Block {
            language,
            span: paragraph.split('`').nth(1),
            code,
        });
    }
    blocks
}

/// Fresh project of the page.
struct Project {
    parent: tempfile::TempDir,
    commands: Vec<String>,
}

impl Project {
    /// Creates the project by the page's first command, and writes its files.
    async fn create(page: &str) -> Self {
        let (commands, files): (Vec<_>, Vec<_>) = blocks(page)
            .into_iter()
            .partition(|block| block.language == "sh");
        let project = Self {
            parent: tempfile::tempdir().unwrap(),
            commands: commands.iter().map(|block| block.code.to_owned()).collect(),
        };
        let path = project.parent.path();
        project.run(0, path, LONG).await;
        for file in files {
            let mut code = file.code.to_owned();
            if file.language == "toml" {
                assert_eq!(code.matches(PUBLISHED).count(), 1, "{code}");
                let ours = root().join("crates/waypost").canonicalize().unwrap();
                let ours = format!("\nwaypost = {{ path = {ours:?} }}\n");
                code = code.replace(PUBLISHED, &ours);
            }
            std::fs::write(project.folder().join(file.span.unwrap()), code).unwrap();
        }
        std::fs::copy(
            root().join("Cargo.lock"),
            project.folder().join("Cargo.lock"),
        )
        .unwrap();
        project
    }

    fn folder(&self) -> PathBuf {
        self.parent.path().join("stock")
    }

    /// Starts one of the page's commands in `folder`. Its registry is one of the project's own.
    fn start(&self, command: usize, folder: &Path) -> Child {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let script = format!("cd {}\n{}", folder.display(), self.commands[command]);
        let program = Program::new("bash")
            .args(["-euc", &script])
            .env("CARGO_TARGET_DIR", target)
            .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
            .env("XDG_RUNTIME_DIR", self.parent.path())
            .own_group();
        Child::start(self.commands[command].trim(), &program).unwrap()
    }

    /// Runs one of the page's commands to its end, and returns its output.
    async fn run(&self, command: usize, folder: &Path, within: Duration) -> Vec<String> {
        let mut child = self.start(command, folder);
        let status = child.wait(within).await.unwrap();
        assert!(
            status.success(),
            "{}: {status}\n{}\n{}",
            child.name(),
            child.stdout().join("\n"),
            child.stderr().join("\n")
        );
        child.stdout()
    }
}

#[tokio::test]
async fn every_step_of_the_page_does_what_it_describes() {
    let page = std::fs::read_to_string(root().join("docs/first-service.md")).unwrap();
    let project = Project::create(&page).await;
    let commands: Vec<_> = project.commands[1..].iter().map(|c| c.trim()).collect();
    assert_eq!(
        commands,
        [
            "cargo run --bin server",
            "cargo run --bin client",
            "cargo test"
        ]
    );
    let folder = project.folder();
    let tested = project.run(3, &folder, BUILD).await.join("\n");
    assert!(tested.contains("2 passed"), "{tested}");

    let url = format!("local://{}/waypost", project.parent.path().display());
    let registry = waypost::connect(&url).await.unwrap();
    let mut watcher = registry
        .watch(&WatchOptions::service("stock"))
        .await
        .unwrap();
    let mut servers = [project.start(1, &folder), project.start(1, &folder)];
    let mut nodes = NodeSet::default();
    let mut until = async |count| {
        let change = async {
            while nodes.len() != count {
                nodes.apply(watcher.next().await.unwrap().unwrap());
            }
        };
        tokio::time::timeout(BUILD, change).await.unwrap();
    };
    until(2).await;
    let called = project.run(2, &folder, BUILD).await;
    assert_eq!(called.len(), 20, "{called:?}");
    assert!(called.iter().all(|line| line.ends_with(": 12 items")));
    let nodes: BTreeSet<_> = called.iter().map(|line| line.split(':').next()).collect();
    assert_eq!(nodes.len(), 2, "{called:?}");

    for server in &mut servers {
        server.ctrl_c().unwrap();
    }
    until(0).await;
    for server in &mut servers {
        server.wait(LONG).await.unwrap();
    }
    registry.close().await.unwrap();
}
