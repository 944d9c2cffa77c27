//! Search for an etcd on this machine. It starts no server.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::error::CliError;

/// Maximum time for etcd to print its version.
const ANSWER: Duration = Duration::from_secs(10);

const REMEDY: &str = "get one: apt-get install etcd-server, or cargo xtask etcd; or name one: WAYPOST_ETCD=/path/to/etcd";

/// etcd binary of a known version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EtcdBinary {
    pub(super) path: PathBuf,
    /// Version, such as 3.4.23.
    pub(super) version: String,
}

impl fmt::Display for EtcdBinary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd {} ({})", self.version, self.path.display())
    }
}

/// Finds etcd: `$WAYPOST_ETCD`, else the one on the `PATH`, else the newest that `cargo xtask etcd`
/// has built.
///
/// # Errors
/// [`CliError`] if there is none, or it does not run; the text says what to do.
pub(super) async fn etcd() -> Result<EtcdBinary, CliError> {
    let none = || {
        CliError::registry(
            "this machine has no etcd: none is named in WAYPOST_ETCD, on the PATH or built",
        )
        .next(REMEDY)
    };
    let path = choose(|name| std::env::var_os(name)).ok_or_else(none)?;
    let failed = |why: &str| {
        CliError::registry(format!("{} is not an etcd: {why}", path.display())).next(REMEDY)
    };
    let mut command = Command::new(&path);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(ANSWER, command.output())
        .await
        .map_err(|_| failed("it does not say its version"))?;
    let output = output.map_err(|error| failed(&error.to_string()))?;
    let version = version(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| failed("its output has no version of etcd"))?;
    Ok(EtcdBinary { path, version })
}

fn choose(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let of = |name| variable(name).filter(|value| !value.is_empty());
    of("WAYPOST_ETCD")
        .map(PathBuf::from)
        .or_else(|| of("PATH").and_then(|path| on_path(&path)))
        .or_else(|| {
            let home = || Some(PathBuf::from(of("HOME")?).join(".cache"));
            let cache = of("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
            newest(&cache.join("waypost/etcd"))
        })
}

fn on_path(folders: &OsString) -> Option<PathBuf> {
    std::env::split_paths(folders)
        .map(|folder| folder.join("etcd"))
        .find(|path| path.is_file())
}

/// Returns the newest etcd in a directory with one subdirectory per version.
fn newest(folder: &Path) -> Option<PathBuf> {
    let built = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| entry.path().join("etcd").is_file());
    let newest = built.max_by_key(|entry| numbers(&entry.file_name().to_string_lossy()))?;
    Some(newest.path().join("etcd"))
}

/// Parses 3.6.16 as `[3, 6, 16]`. Any other name sorts before all versions.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .unwrap_or_default()
}

/// Returns the version in `etcd Version: 3.4.23`, the first line of `etcd --version`.
fn version(output: &str) -> Option<String> {
    let version = output
        .lines()
        .next()?
        .strip_prefix("etcd Version: ")?
        .trim();
    version
        .starts_with(|c: char| c.is_ascii_digit())
        .then(|| crate::escape::text(version))
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
        put(&home.path().join(".cache/waypost/etcd/3.6.9"));
        put(&home.path().join(".cache/waypost/etcd/unfinished"));
        let newest = put(&home.path().join(".cache/waypost/etcd/3.6.16"));
        let elsewhere = put(&home.path().join("cache/waypost/etcd/3.5.0"));
        let chosen = |named: &str, path: &str, cache: &str| {
            choose(|name| match name {
                "WAYPOST_ETCD" => Some(named.into()),
                "PATH" => Some(home.path().join(path).into()),
                "XDG_CACHE_HOME" if !cache.is_empty() => Some(home.path().join(cache).into()),
                "HOME" => Some(home.path().into()),
                _ => None,
            })
        };
        assert_eq!(chosen("/named", "bin", ""), Some("/named".into()));
        assert_eq!(chosen("", "bin", ""), Some(on_path));
        assert_eq!(chosen("", "none", ""), Some(newest));
        assert_eq!(chosen("", "none", "cache"), Some(elsewhere));
        assert_eq!(chosen("", "none", "none"), None);
    }

    #[test]
    fn the_version_is_that_of_the_first_line() {
        assert_eq!(
            version("etcd Version: 3.4.23\nGit SHA: x\n").as_deref(),
            Some("3.4.23")
        );
        assert_eq!(
            (version("etcdctl version: 3.4.23\n"), version("")),
            (None, None)
        );
    }
}
