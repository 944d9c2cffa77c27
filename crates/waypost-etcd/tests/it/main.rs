//! What waypost-etcd promises, against real etcds.

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

/// A password that no log, error or `Debug` output may show.
const SECRET: &str = "tell-nobody-7f3a";

/// How each signed token begins that a login may yield; as secret as the password.
const TOKEN: &str = "eyJhbGciOi";

/// Every etcd of this machine, oldest first.
fn binaries() -> Vec<Binary> {
    Binary::all().unwrap()
}

fn open(url: &str) -> EtcdRegistry {
    listen();
    let options = EtcdOptions::parse(url).unwrap();
    hear(&format!("opened with {options:?}"));
    EtcdRegistry::new(options).unwrap()
}

/// Where a record stands.
fn path(key: &Key) -> Vec<u8> {
    format!("/micro/registry/{}/{}", key.service, key.id).into_bytes()
}

/// All that was logged in this process, at every level, and all else that was said: errors, states, `Debug` output.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The warnings of what a watch had missed, kept when the rest was looked at.
static MISSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Set, the log is told as it comes: for the eyes of those who look for a fault.
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
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(|| ToLog).init();
    });
}

/// Something was said that must not show the password.
fn hear(said: &str) {
    ToLog.write_all(format!("{said}\n").as_bytes()).unwrap();
}

/// An error, in each of its forms.
fn hear_error(error: &Error) {
    hear(&format!("{error:?} {}", error.chain()));
}

/// All that was heard since it was looked at last, in whichever test, must not show the password.
fn assert_secret_was_not_heard() {
    let heard = std::mem::take(&mut *LOG.lock().unwrap());
    assert_secret_is_not_in(&String::from_utf8_lossy(&heard));
}

#[track_caller]
fn assert_secret_is_not_in(text: &str) {
    let line = text.lines().find(|line| line.contains(SECRET) || line.contains(TOKEN));
    assert!(line.is_none(), "a secret is shown: {line:?}");
}

/// What all tests rely on.
#[test]
#[should_panic(expected = "a secret is shown")]
fn a_password_is_found_where_it_is() {
    assert_secret_is_not_in(&format!("opened\nas {SECRET}\n"));
}
