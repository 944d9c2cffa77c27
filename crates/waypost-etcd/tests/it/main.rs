//! What waypost-etcd promises, against real etcds.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod conformance;
mod faults;
mod hand;
mod members;
mod owning;
mod records;
mod rig;

use std::io::Write;
use std::sync::{Mutex, OnceLock};

use waypost_core::record::Key;
use waypost_etcd::{EtcdOptions, EtcdRegistry};
use waypost_testkit::etcd::Binary;

/// A password that no log, error or `Debug` output may show.
const SECRET: &str = "tell-nobody-7f3a";

/// Every etcd of this machine, oldest first.
fn binaries() -> Vec<Binary> {
    Binary::all().unwrap()
}

fn open(url: &str) -> EtcdRegistry {
    listen();
    EtcdRegistry::new(EtcdOptions::parse(url).unwrap()).unwrap()
}

/// Where a record stands.
fn path(key: &Key) -> Vec<u8> {
    format!("/micro/registry/{}/{}", key.service, key.id).into_bytes()
}

/// All that was logged in this process, at every level.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Set, the log is told as it comes: for the eyes of those who look for a fault.
static TELL: OnceLock<()> = OnceLock::new();

struct ToLog;

impl Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        if TELL.get().is_some() {
            eprint!("{}", String::from_utf8_lossy(bytes));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn listen() {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        if std::env::var_os("WAYPOST_TEST_LOG").is_some() {
            TELL.get_or_init(|| ());
        }
        let level = tracing_subscriber::filter::LevelFilter::TRACE;
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(|| ToLog).init();
    });
}

fn log() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned()
}

#[track_caller]
fn assert_secret_is_not_in(text: &str) {
    let line = text.lines().find(|line| line.contains(SECRET));
    assert!(line.is_none(), "the password is shown: {line:?}");
}
