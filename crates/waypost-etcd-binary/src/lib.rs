//! The etcd programs of this machine: for the demo, the tests and `cargo xtask etcd`. This crate
//! starts no server and installs nothing.
//!
//! ```
//! use waypost_etcd_binary::{Candidates, EtcdBinary};
//!
//! if let Some(path) = Candidates::of(|name| std::env::var_os(name)).first() {
//!     match EtcdBinary::at(path) {
//!         Ok(etcd) => println!("etcd {} at {}", etcd.version, etcd.path.display()),
//!         Err(error) => println!("{error}"),
//!     }
//! }
//! ```

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Environment variable that names the one etcd to use.
pub const VARIABLE: &str = "WAYPOST_ETCD";

/// Maximum time for a program to print its version.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of the printed version that is read, in bytes.
const LONGEST: u64 = 4 * 1024;

/// Version that an etcd reports, such as 3.4.23; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major version: the 3 of 3.4.23.
    pub major: u32,
    /// Minor version: the 4 of 3.4.23.
    pub minor: u32,
    /// Patch version: the 23 of 3.4.23. A suffix such as `-rc.1` is dropped.
    pub patch: u32,
}

impl Version {
    /// Parses a version such as `3.4.23` or `3.6.0-rc.1`.
    ///
    /// ```
    /// use waypost_etcd_binary::Version;
    ///
    /// let version = Version::parse("3.6.0-rc.1").expect("a version");
    /// assert_eq!(version.to_string(), "3.6.0");
    /// assert!(Version::parse("3.6").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split(['.', '-', '+']).map(str::parse::<u32>);
        let mut number = || numbers.next()?.ok();
        Some(Self {
            major: number()?,
            minor: number()?,
            patch: number()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Paths at which an etcd may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Program named by [`VARIABLE`].
    pub named: Option<PathBuf>,
    /// First program on the `PATH`.
    pub on_path: Option<PathBuf>,
    /// Programs that `cargo xtask etcd` has built, in `waypost/etcd/<version>` of the user's cache
    /// directory, oldest version first.
    pub built: Vec<PathBuf>,
}

impl Candidates {
    /// Searches by these environment variables. An empty variable counts as unset.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        Self {
            named: variable(VARIABLE).map(PathBuf::from),
            on_path: variable("PATH").and_then(|folders| on_path("etcd", &folders)),
            built: cache(variable).map_or_else(Vec::new, |folder| built(&folder)),
        }
    }

    /// Returns the program to use: the named one, else the one on the `PATH`, else the newest built.
    pub fn first(self) -> Option<PathBuf> {
        let Self {
            named,
            on_path,
            mut built,
        } = self;
        named.or(on_path).or_else(|| built.pop())
    }

    /// Returns all programs to use: the named one alone, else the one on the `PATH` and all that were built.
    pub fn all(self) -> Vec<PathBuf> {
        match self.named {
            Some(named) => vec![named],
            None => self.on_path.into_iter().chain(self.built).collect(),
        }
    }
}

/// Returns the first file called `name` in `folders`, a list in the format of `PATH`.
pub fn on_path(name: &str, folders: &OsString) -> Option<PathBuf> {
    std::env::split_paths(folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Returns the directory in which `cargo xtask etcd` builds, with one subdirectory for each version:
/// `waypost/etcd` in `XDG_CACHE_HOME`, else in `.cache` of `HOME`.
pub fn cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = || Some(PathBuf::from(variable("HOME")?).join(".cache"));
    let cache = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)?;
    Some(cache.join("waypost/etcd"))
}

fn built(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let version = Version::parse(entry.file_name().to_str()?)?;
            Some((version, entry.path().join("etcd")))
        })
        .filter(|(_, path)| path.is_file())
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// etcd program that printed its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdBinary {
    /// Path of the program.
    pub path: PathBuf,
    /// Version that the program reports.
    pub version: Version,
}

impl EtcdBinary {
    /// Runs `path --version`, for at most 10 s.
    ///
    /// # Errors
    /// [`NoEtcd`] if the program does not run or prints no version of etcd.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self, NoEtcd> {
        let path = path.into();
        let printed = printed_version(&path).map_err(|error| error.to_string());
        let version = printed.and_then(|text| {
            version(&text).ok_or_else(|| "its output has no version of etcd".to_owned())
        });
        match version {
            Ok(version) => Ok(Self { path, version }),
            Err(why) => Err(NoEtcd { path, why }),
        }
    }

    /// Returns the etcdctl beside the program, else the one in `folders`, a list in the format of
    /// `PATH`.
    pub fn etcdctl(&self, folders: &OsString) -> Option<PathBuf> {
        let beside = self.path.with_file_name("etcdctl");
        let beside = Some(beside).filter(|path| path.is_file());
        beside.or_else(|| on_path("etcdctl", folders))
    }
}

impl fmt::Display for EtcdBinary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd {} ({})", self.version, self.path.display())
    }
}

/// Error of a program that is not an etcd that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoEtcd {
    path: PathBuf,
    why: String,
}

impl fmt::Display for NoEtcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not an etcd: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for NoEtcd {}

/// Returns the version in `etcd Version: 3.4.23`, the first line of `etcd --version`.
fn version(printed: &str) -> Option<Version> {
    Version::parse(printed.lines().next()?.strip_prefix("etcd Version: ")?)
}

fn printed_version(path: &Path) -> io::Result<String> {
    let child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut child = KillOnDrop(child);
    let (send, printed) = mpsc::channel();
    if let Some(stdout) = child.0.stdout.take() {
        // Ends at the latest with the program, which is killed.
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = stdout.take(LONGEST).read_to_end(&mut text);
            let _ = send.send(read.map(|_| text));
        });
    }
    match printed.recv_timeout(TIMEOUT) {
        Ok(text) => Ok(String::from_utf8_lossy(&text?).into_owned()),
        Err(_) => Err(io::Error::other("it does not print its version")),
    }
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Fails if the program has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(folder: &Path) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("etcd"), "").unwrap();
        folder.join("etcd")
    }

    #[test]
    fn the_one_that_is_named_then_that_on_the_path_then_the_newest_built() {
        let home = tempfile::tempdir().unwrap();
        let on_path = put(&home.path().join("bin"));
        let older = put(&home.path().join(".cache/waypost/etcd/3.6.9"));
        put(&home.path().join(".cache/waypost/etcd/unfinished"));
        fs::create_dir_all(home.path().join(".cache/waypost/etcd/3.7.0")).unwrap();
        let newest = put(&home.path().join(".cache/waypost/etcd/3.6.16"));
        let elsewhere = put(&home.path().join("cache/waypost/etcd/3.5.0"));
        let found = |named: &str, path: &str, cache: &str| {
            Candidates::of(|name| match name {
                VARIABLE => Some(named.into()),
                "PATH" => Some(home.path().join(path).into()),
                "XDG_CACHE_HOME" if !cache.is_empty() => Some(home.path().join(cache).into()),
                "HOME" => Some(home.path().into()),
                _ => None,
            })
        };
        let first = |named, path, cache| found(named, path, cache).first();
        assert_eq!(first("/named", "bin", ""), Some("/named".into()));
        assert_eq!(first("", "bin", ""), Some(on_path.clone()));
        assert_eq!(first("", "none", ""), Some(newest.clone()));
        assert_eq!(first("", "none", "cache"), Some(elsewhere));
        assert_eq!(first("", "none", "none"), None);
        assert_eq!(found("", "bin", "").all(), [on_path, older, newest]);
        assert_eq!(found("/named", "bin", "").all(), [PathBuf::from("/named")]);
    }

    #[test]
    fn the_version_is_that_of_the_first_line() {
        let shown = |printed| version(printed).map(|version| version.to_string());
        assert_eq!(
            shown("etcd Version: 3.4.23\nGit SHA: x\n").as_deref(),
            Some("3.4.23")
        );
        assert_eq!(
            shown("etcd Version: 3.6.0-rc.1\n").as_deref(),
            Some("3.6.0")
        );
        assert_eq!(
            (shown("etcdctl version: 3.4.23\n"), shown("")),
            (None, None)
        );
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let at = |text| Version::parse(text).unwrap();
        assert!(at("3.4.9") < at("3.4.23") && at("3.4.23") < at("3.6.1"));
    }

    #[test]
    fn a_program_that_is_no_etcd_is_refused() {
        let refused = |path: &str| EtcdBinary::at(path).unwrap_err().to_string();
        assert_eq!(
            refused("/bin/echo"),
            "/bin/echo is not an etcd: its output has no version of etcd"
        );
        assert_eq!(
            refused("/none/etcd"),
            "/none/etcd is not an etcd: No such file or directory (os error 2)"
        );
    }
}
