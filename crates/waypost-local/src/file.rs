//! Open files, and their identity on the disk.

use std::fs::{File as Handle, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Identity of a file and time of its last write: equal stamps are the same record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    written: i128,
    length: u64,
}

impl Stamp {
    /// Returns the length of the file in bytes.
    pub(crate) fn length(&self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }
}

/// Opens a file for reading. Follows no symbolic link, and does not block on a pipe.
pub(crate) fn open(path: &Path) -> io::Result<Handle> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.cast_signed());
    }
    options.open(path)
}

/// Returns true if the path still refers to the open file.
pub(crate) fn is_same(file: &Handle, path: &Path) -> bool {
    let identity = |metadata: Metadata| stamp(&metadata).map(|stamp| (stamp.device, stamp.inode));
    let (open, there) = (
        file.metadata().ok().and_then(identity),
        std::fs::symlink_metadata(path).ok().and_then(identity),
    );
    open.is_some() && open == there
}

/// Returns the stamp of the regular file at `path`.
pub(crate) fn stamp_at(path: &Path) -> Option<Stamp> {
    stamp(&std::fs::symlink_metadata(path).ok()?)
}

/// Returns the stamp of a regular file.
#[cfg(unix)]
pub(crate) fn stamp(metadata: &Metadata) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let written = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    metadata.is_file().then(|| Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        written,
        length: metadata.len(),
    })
}

/// Returns the stamp of a regular file.
#[cfg(not(unix))]
pub(crate) fn stamp(metadata: &Metadata) -> Option<Stamp> {
    let written = metadata
        .modified()
        .ok()?
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?
        .as_nanos() as i128;
    metadata.is_file().then(|| Stamp {
        device: 0,
        inode: 0,
        written,
        length: metadata.len(),
    })
}
