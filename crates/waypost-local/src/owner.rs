//! The registrations of one handle: locks held, records written, leaves marked. Blocking, and one at a time.
//!
//! Lock before record, record removed before lock. A lock counts only while its path still is the file that was locked.

use std::collections::{HashMap, HashSet};
use std::fs::{File as Handle, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use waypost_core::record::{Entry, Key};
use waypost_core::registry::{DeregisterOptions, Error, Heads, Instance, Result};

use crate::folder::{File, Folder};
use crate::lock::{self, Lock, probe};
use crate::reader::{Reader, Seen, read};
use crate::trouble;

pub(crate) struct Owner {
    folder: Folder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    claims: HashMap<Key, Claim>,
    /// Who has registered what here before: only a first write may take over.
    written: HashSet<(Key, Instance)>,
}

/// An id that is ours for as long as the lock is held.
struct Claim {
    lock: Lock,
    instance: Instance,
    address: String,
}

/// How an attempt to register ended.
pub(crate) enum Claimed {
    Done,
    /// Somebody holds the lock; it may be for a moment only.
    Held(Error),
}

/// A lock whose path is swept while we lock it is tried again this often.
const TRIES: usize = 16;

impl Owner {
    pub(crate) fn new(folder: Folder) -> Self {
        Self { folder, state: Mutex::default() }
    }

    /// Makes the record of one node so.
    pub(crate) fn register(&self, entry: &Entry, instance: &Instance) -> Result<Claimed> {
        let mut state = self.open()?;
        let key = entry.key();
        if !self.holds(&mut state, &key) {
            match self.lock(&key)? {
                Some(lock) => drop(state.claims.insert(key.clone(), Claim::new(lock, entry, instance))),
                None => return Ok(Claimed::Held(self.taken(&key))),
            }
        }
        state.take_over(&key, entry, instance)?;
        state.written.insert((key.clone(), instance.clone()));
        self.write(&key, entry.to_service().to_json().as_bytes())?;
        Ok(Claimed::Done)
    }

    /// Removes the record of one node, if that is allowed.
    pub(crate) fn deregister(&self, key: &Key, options: &DeregisterOptions, reader: &Reader) -> Result<()> {
        let mut state = self.open()?;
        if let Some(instance) = &options.instance {
            state.written.remove(&(key.clone(), instance.clone()));
        }
        if !self.holds(&mut state, key) {
            return self.remove_foreign(key, options, reader);
        }
        match state.claims.get(key) {
            Some(claim) if !options.force && options.instance.as_ref() != Some(&claim.instance) => Err(claim.taken(key)),
            _ => {
                self.leave(key)?;
                self.unlock(key, state.claims.remove(key));
                Ok(())
            }
        }
    }

    /// Lets go of everything; what others read is a loss.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for (key, claim) in std::mem::take(&mut state.claims) {
            if claim.holds(&self.folder, &key) {
                drop(std::fs::remove_file(self.folder.file(&key, File::Record)));
                self.unlock(&key, Some(claim));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.closed { Err(Error::Closed) } else { Ok(state) }
    }

    /// Whether the id is ours. A lock whose path was removed or replaced is none, and is let go.
    fn holds(&self, state: &mut State, key: &Key) -> bool {
        let holds = state.claims.get(key).is_some_and(|claim| claim.holds(&self.folder, key));
        if !holds {
            state.claims.remove(key);
        }
        holds
    }

    /// Locks an id; none if somebody else holds it.
    fn lock(&self, key: &Key) -> Result<Option<Lock>> {
        let path = self.folder.file(key, File::Lock);
        for _ in 0..TRIES {
            // Asked without a trace first: each closing of a writable handle wakes every watcher.
            if probe(&path) == lock::State::Held {
                return Ok(None);
            }
            let Some(file) = self.open_lock(key, &path)? else { continue };
            let locked = Lock::exclusive(file).map_err(|error| trouble(format!("locking {}", path.display()), error))?;
            match locked {
                Some(lock) if lock.is_at(&path) => return Ok(Some(lock)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The lock file, made if it is not there; none if its directory was removed meanwhile.
    fn open_lock(&self, key: &Key, path: &Path) -> Result<Option<Handle>> {
        let failed = |error| trouble(format!("making {}", path.display()), error);
        if !self.folder.root().exists() {
            self.folder.make()?;
        }
        self.folder.make_service(&key.service).map_err(failed)?;
        match private().truncate(false).open(path) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                Err(Error::invalid(format!("node id {:?}", key.id), "is too long for a file name: use at most 250 characters"))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes the record by an atomic rename, unless it says so already.
    fn write(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let (record, draft) = (self.folder.file(key, File::Record), self.folder.file(key, File::Draft));
        if read(&record).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        let written = private().truncate(true).open(&draft).and_then(|mut file| file.write_all(bytes));
        let placed = written.and_then(|()| std::fs::rename(&draft, &record));
        placed.map_err(|error| trouble(format!("writing {}", record.display()), error))
    }

    /// Marks and removes the record: two steps, two events.
    fn leave(&self, key: &Key) -> Result<()> {
        let (record, left) = (self.folder.file(key, File::Record), self.folder.file(key, File::Left));
        match std::fs::rename(&record, &left).and_then(|()| std::fs::remove_file(&left)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(trouble(format!("removing {}", record.display()), error))
            }
            _ => Ok(()),
        }
    }

    fn unlock(&self, key: &Key, claim: Option<Claim>) {
        drop(std::fs::remove_file(self.folder.file(key, File::Lock)));
        drop(claim);
        self.folder.tidy(&key.service);
    }

    /// A record that is not ours by its lock. What the dead left is swept by looking at it.
    fn remove_foreign(&self, key: &Key, options: &DeregisterOptions, reader: &Reader) -> Result<()> {
        match reader.look(key, None) {
            Seen::Live(_, entry) if !options.may_remove(&entry.node.metadata) => Err(taken(key, &holder(&entry))),
            Seen::Live(..) => self.leave(key),
            Seen::Garbage if options.force => self.leave(key),
            _ => Ok(()),
        }
    }

    /// Who holds the lock, as far as the record tells.
    fn taken(&self, key: &Key) -> Error {
        let bytes = read(&self.folder.file(key, File::Record)).unwrap_or_default();
        match Heads::default().decode(key, &bytes) {
            Ok(entry) => taken(key, &holder(&entry)),
            Err(_) => taken(key, &format!("the process that locks {}", self.folder.file(key, File::Lock).display())),
        }
    }
}

impl State {
    /// Within one handle an id has one holder too; a new instance at the same address is its heir.
    fn take_over(&mut self, key: &Key, entry: &Entry, instance: &Instance) -> Result<()> {
        let first = !self.written.contains(&(key.clone(), instance.clone()));
        let Some(claim) = self.claims.get_mut(key) else { return Ok(()) };
        if claim.instance != *instance && !(first && claim.address == entry.node.address) {
            return Err(claim.taken(key));
        }
        claim.instance = instance.clone();
        claim.address.clone_from(&entry.node.address);
        Ok(())
    }
}

impl Claim {
    fn new(lock: Lock, entry: &Entry, instance: &Instance) -> Self {
        Self { lock, instance: instance.clone(), address: entry.node.address.clone() }
    }

    fn holds(&self, folder: &Folder, key: &Key) -> bool {
        self.lock.is_at(&folder.file(key, File::Lock))
    }

    fn taken(&self, key: &Key) -> Error {
        taken(key, &format!("{} (instance {})", self.address, self.instance))
    }
}

fn taken(key: &Key, holder: &str) -> Error {
    Error::IdTaken { id: key.id.clone(), holder: holder.to_owned() }
}

fn holder(entry: &Entry) -> String {
    format!("{} (instance {})", entry.node.address, entry.node.instance().unwrap_or("unknown"))
}

/// A file for its owner alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
