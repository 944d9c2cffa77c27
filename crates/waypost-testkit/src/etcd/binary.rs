//! etcd programs of this machine. Starts no server; `cargo xtask etcd` installs and builds the
//! programs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;

/// Environment variable in which `cargo xtask test` lists every etcd, in the format of `PATH`.
const ALL: &str = "WAYPOST_ETCDS";
/// Environment variable in which a user names the one etcd to use.
const ONE: &str = "WAYPOST_ETCD";
const REMEDY: &str = "run `cargo xtask etcd`, or name one in WAYPOST_ETCD";

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

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// etcd program that responded to `--version`, and its etcdctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    etcd: PathBuf,
    etcdctl: PathBuf,
    version: Version,
}

impl Binary {
    /// Returns the etcd at `path`; its etcdctl is the one beside it, else the one on the `PATH`.
    ///
    /// # Errors
    /// The program does not run or does not print its version, or there is no etcdctl.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self, Failure> {
        let etcd = path.into();
        let failed = |why: &str| {
            Failure::new(format!(
                "{} is no etcd to test with: {why}: {REMEDY}",
                etcd.display()
            ))
        };
        let output = Command::new(&etcd)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|error| failed(&error.to_string()))?;
        let version = version(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| failed("its output has no version"))?;
        let beside = etcd.with_file_name("etcdctl");
        let etcdctl = if beside.is_file() {
            Some(beside)
        } else {
            on_path("etcdctl")
        };
        let etcdctl = etcdctl
            .ok_or_else(|| failed("there is no etcdctl, neither beside it nor on the PATH"))?;
        Ok(Self {
            etcd,
            etcdctl,
            version,
        })
    }

    /// Returns every etcd to test with, one of each version, oldest first: those of
    /// `$WAYPOST_ETCDS` (`cargo xtask test` sets it), else `$WAYPOST_ETCD`, else the one on the
    /// `PATH` and those that `cargo xtask etcd` has built.
    ///
    /// # Errors
    /// There is none, or one that is named does not run; the text says what to do.
    pub fn all() -> Result<Vec<Self>, Failure> {
        let mut found = candidates()
            .into_iter()
            .map(Self::at)
            .collect::<Result<Vec<_>, _>>()?;
        found.sort_by_key(|binary| binary.version);
        found.dedup_by_key(|binary| binary.version);
        if found.is_empty() {
            Err(Failure::new(format!("no etcd to test with: {REMEDY}")))
        } else {
            Ok(found)
        }
    }

    /// Returns the path of the program.
    pub fn path(&self) -> &Path {
        &self.etcd
    }

    /// Returns the path of its etcdctl.
    pub fn etcdctl(&self) -> &Path {
        &self.etcdctl
    }

    /// Returns the version that the program reports.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns true if the program accepts `--unsafe-no-fsync`.
    pub(super) fn can_skip_fsync(&self) -> bool {
        (self.version.major, self.version.minor) >= (3, 5)
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os(ALL) {
        return std::env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
    }
    if let Some(one) = std::env::var_os(ONE) {
        return vec![one.into()];
    }
    on_path("etcd").into_iter().chain(built()).collect()
}

/// Returns the first file of that name in the folders of `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|data_dir| data_dir.join(name))
        .find(|path| path.is_file())
}

/// Returns the programs that `cargo xtask etcd` has built, in `waypost/etcd/<version>/etcd` of the
/// user's cache.
fn built() -> Vec<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let Some(cache) = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
    else {
        return Vec::new();
    };
    let versions = std::fs::read_dir(cache.join("waypost/etcd"))
        .into_iter()
        .flatten()
        .flatten();
    versions
        .map(|version| version.path().join("etcd"))
        .filter(|path| path.is_file())
        .collect()
}

/// Parses the version in `etcd Version: 3.4.23`, the first line of `etcd --version`.
fn version(output: &str) -> Option<Version> {
    let text = output.lines().next()?.strip_prefix("etcd Version: ")?;
    let mut numbers = text.split(['.', '-', '+']).map(str::parse::<u32>);
    let mut number = || numbers.next()?.ok();
    Some(Version {
        major: number()?,
        minor: number()?,
        patch: number()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_etcd_prints() {
        let shown = |output| version(output).map(|version| version.to_string());
        assert_eq!(
            shown("etcd Version: 3.4.23\nGit SHA: x\n").as_deref(),
            Some("3.4.23")
        );
        assert_eq!(
            shown("etcd Version: 3.6.0-rc.1\n").as_deref(),
            Some("3.6.0")
        );
        assert_eq!(shown("etcdctl version: 3.4.23\n"), None);
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let at = |minor, patch| Version {
            major: 3,
            minor,
            patch,
        };
        assert!(at(4, 9) < at(4, 23) && at(4, 23) < at(6, 1));
    }

    #[test]
    fn a_program_that_is_no_etcd_is_told_with_what_to_do() {
        let failure = Binary::at("/bin/echo").unwrap_err().to_string();
        assert_eq!(
            failure,
            format!("/bin/echo is no etcd to test with: its output has no version: {REMEDY}")
        );
    }
}
