//! Linux's inotify: one watch on the directory, and one on that of each service. While the directory
//! does not exist, one watch on its nearest ancestor, until the next part of the path is there.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, Event, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use waypost_core::record::Key;
use waypost_core::registry::{Error, Result};

use super::{Hint, Signals};
use crate::dir::{Dir, File};
use crate::unavailable;

/// Maximum number of hints in a batch; the others come with the next.
const BATCH: usize = 4_096;

pub(crate) struct Inotify {
    events: AsyncFd<OwnedFd>,
    watches: Watches,
}

/// Watched directories, by the ids of their watches.
struct Watches {
    /// Directory of the registry, or its nearest ancestor.
    root: i32,
    /// Name in the ancestor whose creation is awaited; none if the directory exists.
    awaited: Option<OsString>,
    services: HashMap<i32, String>,
}

impl Inotify {
    pub(crate) fn open(dir: &Dir) -> io::Result<Self> {
        #[allow(
            deprecated,
            reason = "what replaces it is unsafe; an OwnedFd is open for as long as it is registered"
        )]
        let events = AsyncFd::new(init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?)?;
        let (root, awaited) = watch_root(&events, dir.root())?;
        let watches = Watches {
            root,
            awaited,
            services: HashMap::new(),
        };
        let mut inotify = Self { events, watches };
        inotify.watch_service_dirs(dir)?;
        Ok(inotify)
    }

    /// Adds watches for all service directories. A second watch on the same directory has no
    /// effect, so all are added each time.
    pub(crate) fn watch_service_dirs(&mut self, dir: &Dir) -> io::Result<()> {
        let of_service =
            WatchFlags::CLOSE_WRITE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ONLYDIR;
        for service in dir.services()? {
            match add_watch(&self.events, dir.service(&service), of_service) {
                Ok(watch) => drop(self.watches.services.insert(watch, service)),
                // The directory was removed meanwhile, which has an event of its own.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(crate) async fn next(&mut self) -> io::Result<Vec<Hint>> {
        loop {
            let mut ready = self.events.readable().await?;
            let hints = read(ready.get_inner(), &mut self.watches)?;
            if hints.len() < BATCH {
                ready.clear_ready();
            }
            drop(ready);
            if !hints.is_empty() {
                return Ok(hints);
            }
        }
    }
}

/// Reads until no event is left, or the batch is full and the buffer empty.
fn read(events: &OwnedFd, watches: &mut Watches) -> io::Result<Vec<Hint>> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut reader = Reader::new(events, &mut buffer);
    let mut hints = Vec::new();
    while hints.len() < BATCH || !reader.is_buffer_empty() {
        match reader.next() {
            Ok(event) => hints.extend(watches.hint(&event)),
            Err(Errno::WOULDBLOCK) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(hints)
}

/// Watches the directory, or its nearest ancestor and the name in it that is awaited.
fn watch_root(events: &AsyncFd<OwnedFd>, root: &Path) -> io::Result<(i32, Option<OsString>)> {
    let flags = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    let mut awaited: Option<&Path> = None;
    for dir in root.ancestors() {
        // The ancestor of a relative path is the current directory.
        let path = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        match (add_watch(events, path, flags), awaited) {
            // It was created meanwhile, perhaps before the watch.
            (Ok(_), Some(next)) if next.exists() => return watch_root(events, root),
            (Ok(watch), next) => {
                let name = next.and_then(Path::file_name).map(OsStr::to_owned);
                return Ok((watch, name));
            }
            (Err(Errno::NOENT), _) => awaited = Some(dir),
            (Err(error), _) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

impl Watches {
    fn hint(&mut self, event: &Event<'_>) -> Option<Hint> {
        let what = event.events();
        let gone =
            ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
        let (is_root, is_gone) = (event.wd() == self.root, what.intersects(gone));
        let name = || Some(OsStr::from_bytes(event.file_name()?.to_bytes()));
        if let Some(awaited) = &self.awaited {
            let is_there = what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
                && name().is_some_and(|name| name == awaited);
            let is_lost = what.contains(ReadFlags::QUEUE_OVERFLOW) || is_root && is_gone;
            return (is_there || is_lost).then_some(Hint::Root);
        }
        if what.contains(ReadFlags::QUEUE_OVERFLOW) || is_root && is_gone {
            return Some(Hint::Gap);
        }
        if is_root {
            return what.contains(ReadFlags::ISDIR).then_some(Hint::Folders);
        }
        if what.contains(ReadFlags::IGNORED) {
            self.services.remove(&event.wd());
            return None;
        }
        let service = self.services.get(&event.wd())?;
        let (id, file) = File::parse(name()?)?;
        let key = Key {
            service: service.clone(),
            id: id.to_owned(),
        };
        match file {
            File::Record => Some(Hint::Record(key)),
            File::Left => what
                .contains(ReadFlags::MOVED_TO)
                .then_some(Hint::Left(key)),
            File::Lock => Some(Hint::Lock(key)),
            File::Draft => None,
        }
    }
}

pub(super) fn failed(error: io::Error) -> Error {
    unavailable("listening to its directory".to_owned(), error)
}

/// Falls back to polling if the host's limit of inotify instances or watches is reached.
pub(super) fn poll_instead(error: io::Error) -> Result<Signals> {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::NOSYS) => {
            tracing::warn!(%error, "inotify unavailable; polling every second (see fs.inotify.max_user_instances)");
            Ok(Signals::Polled)
        }
        _ => Err(failed(error)),
    }
}
