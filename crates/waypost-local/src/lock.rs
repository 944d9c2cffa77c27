//! File locks: held by an owner, probed by readers. No operation waits.

use std::fs::{File as Handle, TryLockError};
use std::io;
use std::path::Path;

use crate::file::{is_same, open};

/// State of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Held,
    Free,
    Missing,
}

/// Lock held until dropped.
///
/// It is unlocked explicitly, not only closed: a forked child of this process that has not yet
/// called exec holds a copy of the open file, and the lock with it.
#[derive(Debug)]
pub(crate) struct Lock(Handle);

impl Lock {
    /// Takes an exclusive lock; none if it is held.
    pub(crate) fn exclusive(file: Handle) -> io::Result<Option<Self>> {
        taken(file.try_lock(), file)
    }

    fn shared(file: Handle) -> io::Result<Option<Self>> {
        taken(file.try_lock_shared(), file)
    }

    /// Returns true if the path still refers to the locked file.
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

/// Returns the state of a lock without side effects: the file is opened read-only, so that its
/// close wakes no watcher. On an error the owner counts as alive.
pub(crate) fn probe(path: &Path) -> State {
    match open(path).and_then(Lock::shared) {
        Ok(Some(_)) => State::Free,
        Err(error) if error.kind() == io::ErrorKind::NotFound => State::Missing,
        Ok(None) | Err(_) => State::Held,
    }
}
