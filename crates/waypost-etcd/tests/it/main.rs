//! Integration tests of waypost-etcd against real etcd servers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod callers;
mod child;
mod cleanup;
mod conformance;
mod ends;
mod faults;
mod gateway;
mod herd;
mod idle;
mod latency;
mod members;
mod missed;
mod ownership;
mod property;
mod records;
mod report;
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
const SECRET: &str = "do-not-log-7f3a";

/// Prefix of the signed tokens that a login returns; they are as secret as the password.
const TOKEN: &str = "eyJhbGciOi";

/// Returns every etcd binary of this machine, oldest first.
fn binaries() -> Vec<Binary> {
    Binary::all().unwrap()
}

fn open(url: &str) -> EtcdRegistry {
    init_log();
    let options = EtcdOptions::parse(url).unwrap();
    capture(&format!("opened with {options:?}"));
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
static PRINT_LOG: OnceLock<()> = OnceLock::new();

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        let line = String::from_utf8_lossy(bytes);
        if line.contains("relist found changes that the watch did not deliver") {
            MISSED.lock().unwrap().push(line.into_owned());
        }
        if PRINT_LOG.get().is_some() {
            eprint!("{}", String::from_utf8_lossy(bytes));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn init_log() {
    static INITIALIZED: OnceLock<()> = OnceLock::new();
    INITIALIZED.get_or_init(|| {
        if std::env::var_os("WAYPOST_TEST_LOG").is_some() {
            PRINT_LOG.get_or_init(|| ());
        }
        let level = tracing_subscriber::filter::LevelFilter::TRACE;
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(|| LogWriter)
            .init();
    });
}

/// Adds output that must not show the password.
fn capture(text: &str) {
    LogWriter.write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Adds an error, in each of its forms.
fn capture_error(error: &Error) {
    capture(&format!("{error:?} {}", error.chain()));
}

/// Returns the number of log lines that contain this text, since the last check for secrets.
fn logged(text: &str) -> usize {
    let log = LOG.lock().unwrap();
    String::from_utf8_lossy(&log)
        .lines()
        .filter(|line| line.contains(text))
        .count()
}

/// Checks that no output since the last check, of any test, shows the password.
fn assert_no_secret_in_log() {
    let log = std::mem::take(&mut *LOG.lock().unwrap());
    assert_secret_is_not_in(&String::from_utf8_lossy(&log));
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
fn a_password_in_the_log_is_found() {
    assert_secret_is_not_in(&format!("opened\nas {SECRET}\n"));
}
