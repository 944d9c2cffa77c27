//! How a reader hears that something changed: inotify on Linux, nothing elsewhere. Hints only; the files are the truth.

#[cfg(target_os = "linux")]
mod inotify;

use waypost_core::record::Key;
use waypost_core::registry::Result;

use crate::folder::Folder;

/// What is worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// A record was written, moved or removed.
    Record(Key),
    /// A record was marked as leaving.
    Left(Key),
    /// A lock was closed, replaced or removed.
    Lock(Key),
    /// The directory of a service came or went.
    Folders,
    /// Something was missed.
    Gap,
}

/// How to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    #[cfg(target_os = "linux")]
    Inotify,
    #[cfg(any(test, not(target_os = "linux")))]
    Polled,
}

impl Kind {
    /// The best this system has.
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
    /// Nothing is heard; everything is looked at often.
    Polled,
}

impl Signals {
    /// Opens, and makes the directory if it has gone. A host that has no more inotify to give is polled.
    pub(crate) fn open(kind: Kind, folder: &Folder) -> Result<Self> {
        folder.make()?;
        match kind {
            #[cfg(target_os = "linux")]
            Kind::Inotify => {
                inotify::Inotify::open(folder).map_or_else(inotify::poll_instead, |inotify| Ok(Self::Inotify(inotify)))
            }
            #[cfg(any(test, not(target_os = "linux")))]
            Kind::Polled => Ok(Self::Polled),
        }
    }

    pub(crate) fn are_polled(&self) -> bool {
        matches!(self, Self::Polled)
    }

    /// Follows the directories that are there now.
    pub(crate) fn follow_folders(&mut self, folder: &Folder) -> Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Inotify(inotify) => inotify.follow_folders(folder).map_err(inotify::failed),
            Self::Polled => {
                let _ = folder;
                Ok(())
            }
        }
    }

    /// What changed, in order.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(crate) async fn next(&mut self) -> Result<Vec<Hint>> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Inotify(inotify) => inotify.next().await.map_err(inotify::failed),
            Self::Polled => std::future::pending().await,
        }
    }
}
