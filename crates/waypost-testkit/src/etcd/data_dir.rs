//! Data folder of one cluster: in memory where there is space, removed with its owner, or by the
//! next cluster if its owner was killed.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::options::{Options, Storage};

const PREFIX: &str = "waypost-etcd-";
/// File that is locked as long as the owner lives.
const LOCK: &str = "lock";
/// Memory file system, and the bytes that a member may need there: etcd preallocates two logs of 61
/// MiB, and tests fill a quota.
const MEMORY: &str = "/dev/shm";
const ROOM_BYTES: u64 = 512 << 20;

#[derive(Debug)]
pub(super) struct DataDir {
    data_dir: TempDir,
    in_memory: bool,
    _lock: File,
}

impl DataDir {
    /// Creates a fresh folder, in memory if the options say so and there is space.
    pub(super) fn new(options: &Options) -> io::Result<Self> {
        sweep(Path::new(MEMORY));
        let in_memory = options.storage == Storage::Memory
            && room_bytes(Path::new(MEMORY)) >= ROOM_BYTES * options.members as u64;
        if in_memory {
            Self::within(Path::new(MEMORY), true)
        } else {
            Self::within(&std::env::temp_dir(), false)
        }
    }

    fn within(base: &Path, in_memory: bool) -> io::Result<Self> {
        let data_dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
        let unlocked = data_dir.path().join("unlocked");
        let lock = File::create_new(&unlocked)?;
        lock.lock()?;
        // The file gets its final name once it is locked, so that under this name it is never
        // unlocked.
        fs::rename(unlocked, data_dir.path().join(LOCK))?;
        Ok(Self {
            data_dir,
            in_memory,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.data_dir.path()
    }

    pub(super) fn in_memory(&self) -> bool {
        self.in_memory
    }
}

/// Removes the folders of clusters whose owner was killed: memory is too scarce to keep them until
/// the machine restarts.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && is_abandoned(&entry.path()) {
            // Another process may be sweeping too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(data_dir: &Path) -> bool {
    File::open(data_dir.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

fn room_bytes(data_dir: &Path) -> u64 {
    rustix::fs::statvfs(data_dir).map_or(0, |room| room.f_bavail * room.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_owner_left_is_swept_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let alive = DataDir::within(base.path(), false).unwrap();
        let [dead, other, young] =
            ["waypost-etcd-dead", "other", "waypost-etcd-young"].map(|name| base.path().join(name));
        for data_dir in [&dead, &other, &young] {
            fs::create_dir(data_dir).unwrap();
        }
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(other.join(LOCK), "").unwrap();
        sweep(base.path());
        assert_eq!(
            [dead, other, young].map(|data_dir| data_dir.exists()),
            [false, true, true]
        );
        assert!(alive.path().exists());
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.exists());
    }
}
