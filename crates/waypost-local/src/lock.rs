//! Locks on files: held by an owner, probed by readers. No operation waits.

use std::fs::{File as Handle, TryLockError};
use std::io;
use std::path::Path;

use crate::reader::{is_same, open};

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Held,
    Free,
    Missing,
}

/// A lock held until dropped.
///
/// It is unlocked and not only closed: a child that this process has forked and that has not yet become another program holds a copy of
/// the open file, and the lock with it.
#[derive(Debug)]
pub(crate) struct Lock(Handle);

impl Lock {
    /// Locks against everybody; none if somebody holds it.
    pub(crate) fn exclusive(file: Handle) -> io::Result<Option<Self>> {
        taken(file.try_lock(), file)
    }

    fn shared(file: Handle) -> io::Result<Option<Self>> {
        taken(file.try_lock_shared(), file)
    }

    /// Whether the path still is the file that was locked.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        is_same(&self.0, path)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.0.unlock());
    }
}

fn taken(result: Result<(), TryLockError>, file: Handle) -> io::Result<Option<Lock>> {
    match result {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Asks who holds a lock, without a trace: read-only, so that closing it wakes no watcher. Who cannot be asked is taken for alive.
pub(crate) fn probe(path: &Path) -> State {
    match open(path).and_then(Lock::shared) {
        Ok(Some(_)) => State::Free,
        Err(error) if error.kind() == io::ErrorKind::NotFound => State::Missing,
        Ok(None) | Err(_) => State::Held,
    }
}
