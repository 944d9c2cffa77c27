//! Paths of this workspace's binaries, for tests of packages other than their own, where
//! `CARGO_BIN_EXE_…` is not set.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use crate::Failure;

/// Returns the path of the binary `name` of our package `package`, in the profile of the running
/// test. If the binary is missing or older than one of its sources, cargo builds it first. The
/// build blocks the thread; `cargo test --workspace` has already done it if the package has tests
/// of its own.
///
/// # Errors
/// Cargo cannot build the binary.
pub fn binary(package: &str, name: &str) -> Result<PathBuf, Failure> {
    let folder = profile_folder()?;
    let path = folder.join(name);
    if !is_fresh(&path, &root()) {
        build(package, name, &folder)?;
    }
    Ok(path)
}

/// Returns the path of the command-line program, `waypost`.
///
/// # Errors
/// Cargo cannot build the binary.
pub fn waypost() -> Result<PathBuf, Failure> {
    binary("waypost-cli", "waypost")
}

/// Returns the folder of the profile, `target/debug` or `target/release`: two levels above a test,
/// one above an ordinary binary.
fn profile_folder() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()
        .map_err(|error| Failure::new(format!("where is this test? {error}")))?;
    let folder = this.parent().unwrap_or(Path::new("."));
    let inner = folder
        .file_name()
        .is_some_and(|name| name == "deps" || name == "examples");
    Ok(if inner {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    }
    .to_owned())
}

/// Returns the root of the workspace, two levels above this package.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// Returns true if the binary exists and is not older than any source in the list that cargo keeps
/// beside it. A binary with sources outside `root` was built by another checkout that shares the
/// target folder; it is not fresh.
fn is_fresh(binary: &Path, root: &Path) -> bool {
    let (Some(built), Ok(list)) = (
        modified(binary),
        std::fs::read_to_string(binary.with_extension("d")),
    ) else {
        return false;
    };
    let is_older = |source: &PathBuf| {
        source.starts_with(root) && modified(source).is_some_and(|changed| changed <= built)
    };
    let sources = sources(&list);
    !sources.is_empty() && sources.iter().all(is_older)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

/// Parses the files after the colon of a `make` rule; a blank in a name is escaped.
fn sources(list: &str) -> Vec<PathBuf> {
    let Some((_, names)) = list.split_once(": ") else {
        return Vec::new();
    };
    let names = names.trim().replace("\\ ", "\0");
    names
        .split_whitespace()
        .map(|name| PathBuf::from(name.replace('\0', " ")))
        .collect()
}

fn build(package: &str, name: &str, profile_folder: &Path) -> Result<(), Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--package", package, "--bin", name])
        .stdin(Stdio::null())
        .current_dir(root());
    if profile_folder.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = profile_folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let output = command
        .output()
        .map_err(|error| Failure::new(format!("cargo does not start: {error}")))?;
    let failed = || {
        Failure::new(format!(
            "{command:?} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        ))
    };
    if output.status.success() {
        Ok(())
    } else {
        Err(failed())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, write};
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_list_of_sources_is_read() {
        assert_eq!(
            sources("a/waypost: a/lib.rs b\\ c/main.rs\n"),
            [Path::new("a/lib.rs"), Path::new("b c/main.rs")]
        );
    }

    #[test]
    fn a_binary_is_fresh_if_no_source_is_younger_or_from_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let [binary, source, list] = ["it", "it.rs", "it.d"].map(|name| folder.path().join(name));
        assert!(!is_fresh(&binary, folder.path()), "missing");
        write(&source, "").unwrap();
        write(&binary, "").unwrap();
        write(
            &list,
            format!("{}: {}\n", binary.display(), source.display()),
        )
        .unwrap();
        assert!(is_fresh(&binary, folder.path()));
        assert!(!is_fresh(&binary, Path::new("/elsewhere")));
        let later = modified(&binary).unwrap() + Duration::from_secs(1);
        File::options()
            .write(true)
            .open(&source)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert!(!is_fresh(&binary, folder.path()));
    }
}
