//! Integration tests of waypost-etcd against real etcd servers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod callers;
mod child;
mod conformance;
mod far;
mod faults;
mod hand;
mod herd;
mod leave;
mod missed;
mod owning;
mod property;
mod records;
mod report;
mod rest;
mod rig;
mod runtimes;
mod server;
mod wiped;

use std::io::Write;
use std::sync::{Mutex, OnceLock};

use waypost_core::record::Key;
use waypost_core::registry::Error;
use waypost_etcd::{EtcdOptions, EtcdRegistry};
use waypost_testkit::etcd::Binary;

/// Password that no log, error or `Debug` output may show.
const SECRET: &str = "tell-nobody-7f3a";

/// Prefix of the signed tokens that a login returns; they are as secret as the password.
const TOKEN: &str = "eyJhbGciOi";

/// Returns every etcd binary of this machine, oldest first.
fn binaries() -> Vec<Binary> {
    Binary::all().unwrap()
}

fn open(url: &str) -> EtcdRegistry {
    listen();
    let options = EtcdOptions::parse(url).unwrap();
    hear(&format!("opened with {options:?}"));
    EtcdRegistry::new(options).unwrap()
}

/// Returns the etcd key of a record.
fn path(key: &Key) -> Vec<u8> {
    format!("/micro/registry/{}/{}", key.service, key.id).into_bytes()
}

/// Log of this process at every level, with all other output: errors, states, `Debug` output.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Warnings of missed changes, kept when the log is checked and cleared.
static MISSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Set if the log is also printed as it is written, for debugging.
static TELL: OnceLock<()> = OnceLock::new();

struct ToLog;

impl Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        let line = String::from_utf8_lossy(bytes);
        if line.contains("relist found changes that the watch did not deliver") {
            MISSED.lock().unwrap().push(line.into_owned());
        }
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
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(|| ToLog)
            .init();
    });
}

/// Adds output that must not show the password.
fn hear(said: &str) {
    ToLog.write_all(format!("{said}\n").as_bytes()).unwrap();
}

/// Adds an error, in each of its forms.
fn hear_error(error: &Error) {
    hear(&format!("{error:?} {}", error.chain()));
}

/// Checks that no output since the last check, of any test, shows the password.
fn assert_secret_was_not_heard() {
    let heard = std::mem::take(&mut *LOG.lock().unwrap());
    assert_secret_is_not_in(&String::from_utf8_lossy(&heard));
}

#[track_caller]
fn assert_secret_is_not_in(text: &str) {
    let line = text
        .lines()
        .find(|line| line.contains(SECRET) || line.contains(TOKEN));
    assert!(line.is_none(), "a secret is shown: {line:?}");
}

/// The check of all tests finds the password.
#[test]
#[should_panic(expected = "a secret is shown")]
fn a_password_is_found_where_it_is() {
    assert_secret_is_not_in(&format!("opened\nas {SECRET}\n"));
}
