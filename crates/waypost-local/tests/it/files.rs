//! Files on disk: names, modes, leftovers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use waypost_core::registry::{DeregisterOptions, Error, Event, Registry, WatchOptions};

use super::child::Process;

/// Returns the number of files and directories below `dir`.
pub(crate) fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { 1 + count(&path) } else { 1 })
        .sum()
}

#[tokio::test]
async fn a_record_is_a_private_file_that_people_can_read() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, options) = (super::open(dir.path()), super::owner());
    registry
        .register(&super::service("1", "127.0.0.1:1"), &options)
        .await
        .unwrap();
    let service_dir = dir.path().join("greeter");
    let mut names: Vec<_> = fs::read_dir(&service_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["greeter-1.json", "greeter-1.lock"]);
    let json = fs::read_to_string(service_dir.join("greeter-1.json")).unwrap();
    assert_eq!(
        json,
        options.stamp(&super::service("1", "127.0.0.1:1")).to_json()
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        [
            mode(&service_dir),
            mode(&service_dir.join("greeter-1.json")),
            mode(&service_dir.join("greeter-1.lock"))
        ],
        [0o700, 0o600, 0o600]
    );
    registry
        .deregister(
            &super::service("1", "127.0.0.1:1"),
            &DeregisterOptions::ours(options.instance),
        )
        .await
        .unwrap();
    assert_eq!(count(dir.path()), 0);
}

#[tokio::test]
async fn no_file_is_left_after_close() {
    let dir = tempfile::tempdir().unwrap();
    let registry = super::open(dir.path());
    for id in ["1", "2"] {
        registry
            .register(&super::service(id, "127.0.0.1:1"), &super::owner())
            .await
            .unwrap();
    }
    registry.close().await.unwrap();
    assert_eq!(count(dir.path()), 0);
}

#[tokio::test]
async fn no_descriptor_is_left_after_close() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Process::start(dir.path()).call("descriptors").await, "0");
}

#[tokio::test]
async fn an_unchanged_heartbeat_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, options) = (super::open(dir.path()), super::owner());
    registry
        .register(&super::service("1", "127.0.0.1:1"), &options)
        .await
        .unwrap();
    let record = dir.path().join("greeter/greeter-1.json");
    let written = || {
        (
            fs::metadata(&record).unwrap().modified().unwrap(),
            std::os::unix::fs::MetadataExt::ino(&fs::metadata(&record).unwrap()),
        )
    };
    let before = written();
    for _ in 0..3 {
        registry
            .register(&super::service("1", "127.0.0.1:1"), &options)
            .await
            .unwrap();
    }
    assert_eq!(written(), before);
}

#[tokio::test]
async fn strange_files_are_skipped_counted_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let registry = super::open(dir.path());
    registry
        .register(&super::service("1", "127.0.0.1:1"), &super::owner())
        .await
        .unwrap();
    let service_dir = dir.path().join("greeter");
    fs::write(service_dir.join("greeter-garbage.json"), "{").unwrap();
    fs::write(
        service_dir.join("greeter-huge.json"),
        vec![b' '; 100 * 1024],
    )
    .unwrap();
    fs::copy(
        service_dir.join("greeter-1.json"),
        service_dir.join("greeter-copy.json"),
    )
    .unwrap();
    fs::create_dir(service_dir.join("greeter-folder.json")).unwrap();
    symlink("greeter-1.json", service_dir.join("greeter-link.json")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        service_dir.join("greeter-pipe.json"),
        rustix::fs::Mode::RWXU,
    )
    .unwrap();
    fs::write(service_dir.join("notes.txt"), "mine").unwrap();
    fs::write(dir.path().join("README"), "mine").unwrap();
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    let Event::Reset(entries) = watcher.next().await.unwrap().unwrap() else {
        panic!("no reset")
    };
    assert_eq!(entries.len(), 1);
    assert_eq!(registry.list_services().await.unwrap()[0].nodes.len(), 1);
    let skipped = registry.skipped(Some("greeter"));
    assert_eq!(skipped.count, 6);
    let reason = |id: &str| {
        let record = skipped.first.iter().find(|record| record.id == id);
        record.unwrap().reason.as_str()
    };
    assert_eq!(reason("greeter-huge"), "102 400 bytes, at most 66 560");
    assert_eq!(reason("greeter-folder"), "it is not a file");
    assert!(matches!(
        registry.get_service("other").await,
        Err(Error::NotFound { .. })
    ));
    assert_eq!(
        registry.skipped(None).count,
        6,
        "forgotten by a read of another service"
    );
    registry.close().await.unwrap();
    assert_eq!(count(dir.path()), 1 + 6 + 2);
}

#[tokio::test]
async fn leftovers_of_every_step_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let registry = super::open(dir.path());
    let service_dir = dir.path().join("greeter");
    fs::create_dir(&service_dir).unwrap();
    let record = super::owner()
        .stamp(&super::service("1", "127.0.0.1:1"))
        .to_json();
    // Owners that died after the lock, after the draft, after the record, and after the tombstone.
    for files in [
        &["lock"][..],
        &["lock", "tmp"],
        &["lock", "json"],
        &["lock", "left"],
    ] {
        for ending in files {
            fs::create_dir_all(&service_dir).unwrap();
            fs::write(service_dir.join(format!("greeter-1.{ending}")), &record).unwrap();
        }
        assert!(registry.list_services().await.unwrap().is_empty());
        assert_eq!(count(dir.path()), 0, "{files:?}");
    }
}

#[tokio::test]
async fn an_id_too_long_for_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = super::open(dir.path())
        .register(
            &super::service(&"x".repeat(245), "127.0.0.1:1"),
            &super::owner(),
        )
        .await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
}

#[tokio::test]
async fn readers_create_no_directory_and_see_the_first_registration_in_it() {
    let parent = tempfile::tempdir().unwrap();
    let reader = super::open(&parent.path().join("deep/registry"));
    let mut watcher = reader.watch(&WatchOptions::all()).await.unwrap();
    let first = watcher.next().await.unwrap().unwrap();
    assert_eq!(first, Event::Reset(Vec::new()));
    assert!(reader.list_services().await.unwrap().is_empty());
    assert!(matches!(
        reader.get_service("greeter").await,
        Err(Error::NotFound { .. })
    ));
    fs::create_dir(parent.path().join("other")).unwrap();
    assert_eq!(count(parent.path()), 1, "only the one made here");

    let owner = super::open(&parent.path().join("deep/registry"));
    let service = super::service("1", "127.0.0.1:1");
    owner.register(&service, &super::owner()).await.unwrap();
    let event = watcher.next().await.unwrap().unwrap();
    assert!(matches!(event, Event::Created(_)), "{event:?}");
}

#[tokio::test]
async fn a_registry_that_was_removed_by_hand_is_there_again_after_a_heartbeat() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("registry");
    let (registry, options) = (super::open(&root), super::owner());
    registry
        .register(&super::service("1", "127.0.0.1:1"), &options)
        .await
        .unwrap();
    let mut watcher = registry.watch(&WatchOptions::all()).await.unwrap();
    watcher.next().await.unwrap().unwrap();
    fs::remove_dir_all(&root).unwrap();
    registry
        .register(&super::service("1", "127.0.0.1:1"), &options)
        .await
        .unwrap();
    assert_eq!(registry.list_services().await.unwrap().len(), 1);
    let mut picture =
        waypost_core::registry::NodeSet::from_iter(super::service("1", "127.0.0.1:1").entries());
    let mut was_reset = false;
    while !was_reset || picture.is_empty() {
        let event = watcher.next().await.unwrap().unwrap();
        was_reset |= matches!(event, Event::Reset(_));
        picture.apply(event);
    }
}
