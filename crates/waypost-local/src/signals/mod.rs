//! Signals of changes in the directory: inotify on Linux, none elsewhere. They are hints only; the
//! files are authoritative.

#[cfg(target_os = "linux")]
mod inotify;

use waypost_core::record::Key;
use waypost_core::registry::Result;

use crate::dir::Dir;

/// Hint of a change to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// A record was written, moved or removed.
    Record(Key),
    /// A tombstone was written.
    Left(Key),
    /// A lock was closed, replaced or removed.
    Lock(Key),
    /// The directory of a service was created or removed.
    Folders,
    /// The directory of the registry did not exist, and a part of its path was created: open the
    /// signals again. That is not a gap, since nothing was registered before.
    Root,
    /// Events were missed.
    Gap,
}

/// Source of signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalSource {
    #[cfg(target_os = "linux")]
    Inotify,
    #[cfg(any(test, not(target_os = "linux")))]
    Polled,
}

impl SignalSource {
    /// Returns the best kind for this system.
    pub(crate) fn best() -> Self {
        #[cfg(target_os = "linux")]
        return Self::Inotify;
        #[cfg(not(target_os = "linux"))]
        return Self::Polled;
    }
}

pub(crate) enum Signals {
    #[cfg(target_os = "linux")]
    Inotify(inotify::Inotify),
    /// No signals; the directory is scanned frequently instead.
    Polled,
}

impl Signals {
    /// Opens the signals. If the directory does not exist, its creation is a [`Hint::Root`]. Without
    /// inotify resources, the directory is polled.
    pub(crate) fn open(kind: SignalSource, dir: &Dir) -> Result<Self> {
        match kind {
            #[cfg(target_os = "linux")]
            SignalSource::Inotify => inotify::Inotify::open(dir)
                .map_or_else(inotify::poll_instead, |inotify| Ok(Self::Inotify(inotify))),
            #[cfg(any(test, not(target_os = "linux")))]
            SignalSource::Polled => Ok(Self::Polled),
        }
    }

    pub(crate) fn are_polled(&self) -> bool {
        matches!(self, Self::Polled)
    }

    /// Adds watches for the current service directories.
    pub(crate) fn watch_service_dirs(&mut self, dir: &Dir) -> Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Inotify(inotify) => inotify.watch_service_dirs(dir).map_err(inotify::failed),
            Self::Polled => {
                let _ = dir;
                Ok(())
            }
        }
    }

    /// Waits for the next hints, in order.
    ///
    /// # Cancel safety
    /// No hint is lost if it is dropped.
    pub(crate) async fn next(&mut self) -> Result<Vec<Hint>> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Inotify(inotify) => inotify.next().await.map_err(inotify::failed),
            Self::Polled => std::future::pending().await,
        }
    }
}
