//! etcd programs of this machine. Starts no server; `cargo xtask etcd` installs and builds the
//! programs.

use std::path::{Path, PathBuf};

use waypost_etcd_binary::{Candidates, EtcdBinary, Version};

use crate::Failure;

/// Environment variable in which `cargo xtask test` lists every etcd, in the format of `PATH`.
const ALL: &str = "WAYPOST_ETCDS";
const REMEDY: &str = "run `cargo xtask etcd`, or name one in WAYPOST_ETCD";

/// etcd program that responded to `--version`, and its etcdctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    etcd: EtcdBinary,
    etcdctl: PathBuf,
}

impl Binary {
    /// Returns the etcd at `path`; its etcdctl is the one beside it, else the one on the `PATH`.
    ///
    /// # Errors
    /// The program does not run or does not print its version, or there is no etcdctl.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self, Failure> {
        let etcd =
            EtcdBinary::at(path).map_err(|error| Failure::new(format!("{error}: {REMEDY}")))?;
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let etcdctl = etcd.etcdctl(&folders).ok_or_else(|| {
            Failure::new(format!(
                "there is no etcdctl, neither beside {} nor on the PATH: {REMEDY}",
                etcd.path.display()
            ))
        })?;
        Ok(Self { etcd, etcdctl })
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
        found.sort_by_key(Self::version);
        found.dedup_by_key(|binary| binary.version());
        if found.is_empty() {
            Err(Failure::new(format!("no etcd to test with: {REMEDY}")))
        } else {
            Ok(found)
        }
    }

    /// Returns the path of the program.
    pub fn path(&self) -> &Path {
        &self.etcd.path
    }

    /// Returns the path of its etcdctl.
    pub fn etcdctl(&self) -> &Path {
        &self.etcdctl
    }

    /// Returns the version that the program reports.
    pub fn version(&self) -> Version {
        self.etcd.version
    }

    /// Returns true if the program accepts `--unsafe-no-fsync`.
    pub(super) fn can_skip_fsync(&self) -> bool {
        (self.version().major, self.version().minor) >= (3, 5)
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(list) = std::env::var_os(ALL) {
        return std::env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
    }
    Candidates::of(|name| std::env::var_os(name)).all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_no_etcd_is_refused_with_what_to_do() {
        let failure = Binary::at("/bin/echo").unwrap_err().to_string();
        assert_eq!(
            failure,
            format!("/bin/echo is not an etcd: its output has no version of etcd: {REMEDY}")
        );
    }
}
