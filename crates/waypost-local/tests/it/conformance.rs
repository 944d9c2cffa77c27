//! Conformance suite, on real files. Direct changes are files put in place under a lock of the
//! harness, like those of another owner.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Mutex;
use std::{fs, io};

use tempfile::TempDir;
use waypost_conformance::{Harness, RawChange, Time};
use waypost_core::record::Key;
use waypost_core::registry::{AnyRegistry, Result};

struct Local {
    parent: TempDir,
    held: Mutex<HashMap<Key, File>>,
}

impl Local {
    fn new() -> Self {
        Self {
            parent: tempfile::tempdir().unwrap(),
            held: Mutex::default(),
        }
    }

    fn root(&self) -> PathBuf {
        self.parent.path().join("registry")
    }

    fn file(&self, key: &Key, ending: &str) -> PathBuf {
        self.root()
            .join(&key.service)
            .join(format!("{}.{ending}", key.id))
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(self.root().join(&key.service))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.file(key, "lock"))?;
        if lock.try_lock().is_ok() {
            self.held.lock().unwrap().insert(key.clone(), lock);
        }
        let draft = self.parent.path().join("draft");
        fs::write(&draft, bytes)?;
        fs::rename(draft, self.file(key, "json"))
    }

    fn remove(&self, key: &Key) {
        drop(fs::remove_file(self.file(key, "json")));
        if let Some(_held) = self.held.lock().unwrap().remove(key) {
            drop(fs::remove_file(self.file(key, "lock")));
        }
    }
}

impl Harness for Local {
    async fn open(&self) -> Result<AnyRegistry> {
        Ok(AnyRegistry::new(super::open(&self.root())))
    }

    async fn batch(&self, changes: Vec<RawChange>) -> Result<()> {
        for (key, bytes) in changes {
            match bytes {
                Some(bytes) => self.put(&key, &bytes).unwrap(),
                None => self.remove(&key),
            }
        }
        Ok(())
    }

    /// Replaces the owner's lock file by one that is not locked.
    async fn expire(&self, key: &Key) -> Result<()> {
        self.held.lock().unwrap().remove(key);
        if self.file(key, "lock").exists() {
            let free = self.parent.path().join("free");
            File::create(&free).unwrap();
            drop(fs::rename(free, self.file(key, "lock")));
        }
        Ok(())
    }

    /// Moves the directory away and back.
    async fn cut(&self) -> Result<()> {
        let away = self.parent.path().join("away");
        fs::rename(self.root(), &away).unwrap();
        fs::rename(&away, self.root()).unwrap();
        Ok(())
    }

    fn expires(&self) -> bool {
        false
    }

    fn may_skip(&self) -> bool {
        false
    }
}

waypost_conformance::suite!(Time::Real, Local::new);
