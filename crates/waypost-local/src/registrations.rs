//! Registrations of one handle: locks, records, tombstones. Blocking, and one operation at a time.
//!
//! The lock is taken before the record is written, and the record removed before the lock. A lock
//! is valid only while its path refers to the locked file.

use std::collections::{HashMap, HashSet};
use std::fs::{File as Handle, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use waypost_core::record::{Entry, Key};
use waypost_core::registry::{DeregisterOptions, Error, Instance, Interner, Result};

use crate::dir::{Dir, File};
use crate::lock::{self, Lock, probe};
use crate::reader::{Reader, Seen, read};
use crate::unavailable;

pub(crate) struct Registrations {
    dir: Dir,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    claims: HashMap<Key, Claim>,
    /// Instances that have registered a key here before: only the first write may take over a
    /// record.
    written: HashSet<(Key, Instance)>,
}

/// Id that is ours while the lock is held.
struct Claim {
    lock: Lock,
    instance: Instance,
    address: String,
}

/// Result of an attempt to register.
pub(crate) enum Claimed {
    Done,
    /// The lock is held; possibly for a moment only.
    Held(Error),
}

/// Maximum number of attempts to lock a path that is swept meanwhile.
const MAX_ATTEMPTS: usize = 16;

impl Registrations {
    pub(crate) fn new(dir: Dir) -> Self {
        Self {
            dir,
            state: Mutex::default(),
        }
    }

    /// Registers one node.
    pub(crate) fn register(&self, entry: &Entry, instance: &Instance) -> Result<Claimed> {
        let mut state = self.open()?;
        let key = entry.key();
        if !self.holds(&mut state, &key) {
            match self.lock(&key)? {
                Some(lock) => drop(
                    state
                        .claims
                        .insert(key.clone(), Claim::new(lock, entry, instance)),
                ),
                None => return Ok(Claimed::Held(self.taken(&key))),
            }
        }
        state.take_over(&key, entry, instance)?;
        state.written.insert((key.clone(), instance.clone()));
        self.write(&key, entry.to_service().to_json().as_bytes())?;
        Ok(Claimed::Done)
    }

    /// Deregisters one node, if the options allow it.
    pub(crate) fn deregister(
        &self,
        key: &Key,
        options: &DeregisterOptions,
        reader: &Reader,
    ) -> Result<()> {
        let mut state = self.open()?;
        if let Some(instance) = &options.instance {
            state.written.remove(&(key.clone(), instance.clone()));
        }
        if !self.holds(&mut state, key) {
            return self.remove_foreign(key, options, reader);
        }
        match state.claims.get(key) {
            Some(claim) if !options.force && options.instance.as_ref() != Some(&claim.instance) => {
                Err(claim.taken(key))
            }
            _ => {
                self.remove_with_tombstone(key)?;
                self.unlock(key, state.claims.remove(key));
                Ok(())
            }
        }
    }

    /// Releases all registrations. Readers see them as lost.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for (key, claim) in std::mem::take(&mut state.claims) {
            if claim.holds(&self.dir, &key) {
                drop(std::fs::remove_file(self.dir.file(&key, File::Record)));
                self.unlock(&key, Some(claim));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.closed {
            Err(Error::Closed)
        } else {
            Ok(state)
        }
    }

    /// Returns true if the id is ours. A lock whose path was removed or replaced is invalid, and is
    /// released.
    fn holds(&self, state: &mut State, key: &Key) -> bool {
        let holds = state
            .claims
            .get(key)
            .is_some_and(|claim| claim.holds(&self.dir, key));
        if !holds {
            state.claims.remove(key);
        }
        holds
    }

    /// Locks an id; none if another process holds it.
    fn lock(&self, key: &Key) -> Result<Option<Lock>> {
        let path = self.dir.file(key, File::Lock);
        for _ in 0..MAX_ATTEMPTS {
            // Probe first, since that has no side effects: each close of a writable handle wakes
            // every watcher.
            if probe(&path) == lock::State::Held {
                return Ok(None);
            }
            let Some(file) = self.open_lock(key, &path)? else {
                continue;
            };
            let locked = Lock::exclusive(file)
                .map_err(|error| unavailable(format!("locking {}", path.display()), error))?;
            match locked {
                Some(lock) if lock.is_at(&path) => return Ok(Some(lock)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Opens the lock file, and creates it if needed; none if its directory was removed meanwhile.
    fn open_lock(&self, key: &Key, path: &Path) -> Result<Option<Handle>> {
        let failed = |error| unavailable(format!("making {}", path.display()), error);
        self.dir.make()?;
        self.dir.make_service(&key.service).map_err(failed)?;
        match private().truncate(false).open(path) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => Err(Error::invalid(
                format!("node id {:?}", key.id),
                "is too long for a file name: use at most 250 characters",
            )),
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes the record by an atomic rename, unless it is unchanged.
    fn write(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let (record, draft) = (
            self.dir.file(key, File::Record),
            self.dir.file(key, File::Draft),
        );
        if read(&record, self.dir.limits()).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        let written = private()
            .truncate(true)
            .open(&draft)
            .and_then(|mut file| file.write_all(bytes));
        let placed = written.and_then(|()| std::fs::rename(&draft, &record));
        placed.map_err(|error| unavailable(format!("writing {}", record.display()), error))
    }

    /// Leaves a tombstone and removes the record: two steps, two events.
    fn remove_with_tombstone(&self, key: &Key) -> Result<()> {
        let (record, left) = (
            self.dir.file(key, File::Record),
            self.dir.file(key, File::Left),
        );
        match std::fs::rename(&record, &left).and_then(|()| std::fs::remove_file(&left)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(unavailable(format!("removing {}", record.display()), error))
            }
            _ => Ok(()),
        }
    }

    fn unlock(&self, key: &Key, claim: Option<Claim>) {
        drop(std::fs::remove_file(self.dir.file(key, File::Lock)));
        drop(claim);
        self.dir.tidy(&key.service);
    }

    /// Removes a record whose lock is not ours. The read removes the files of a dead owner.
    fn remove_foreign(
        &self,
        key: &Key,
        options: &DeregisterOptions,
        reader: &Reader,
    ) -> Result<()> {
        match reader.get(key, None) {
            Seen::Live(_, entry) if !options.may_remove(&entry.node.metadata) => {
                Err(taken(key, &holder(&entry)))
            }
            Seen::Live(..) => self.remove_with_tombstone(key),
            Seen::Invalid if options.force => self.remove_with_tombstone(key),
            _ => Ok(()),
        }
    }

    /// Returns the error for a held lock, with its holder if the record names one.
    fn taken(&self, key: &Key) -> Error {
        let limits = self.dir.limits();
        let bytes = read(&self.dir.file(key, File::Record), limits).unwrap_or_default();
        match Interner::new(limits).decode(key, &bytes) {
            Ok(entry) => taken(key, &holder(&entry)),
            Err(_) => taken(
                key,
                &format!(
                    "the process that locks {}",
                    self.dir.file(key, File::Lock).display()
                ),
            ),
        }
    }
}

impl State {
    /// Checks the holder within this handle. A new instance at the same address may take over.
    fn take_over(&mut self, key: &Key, entry: &Entry, instance: &Instance) -> Result<()> {
        let first = !self.written.contains(&(key.clone(), instance.clone()));
        let Some(claim) = self.claims.get_mut(key) else {
            return Ok(());
        };
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
        Self {
            lock,
            instance: instance.clone(),
            address: entry.node.address.clone(),
        }
    }

    fn holds(&self, dir: &Dir, key: &Key) -> bool {
        self.lock.is_at(&dir.file(key, File::Lock))
    }

    fn taken(&self, key: &Key) -> Error {
        taken(
            key,
            &format!("{} (instance {})", self.address, self.instance),
        )
    }
}

fn taken(key: &Key, holder: &str) -> Error {
    Error::IdTaken {
        id: key.id.clone(),
        holder: holder.to_owned(),
    }
}

fn holder(entry: &Entry) -> String {
    format!(
        "{} (instance {})",
        entry.node.address,
        entry.node.instance().unwrap_or("unknown")
    )
}

/// Returns options for a file accessible to its owner only.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
