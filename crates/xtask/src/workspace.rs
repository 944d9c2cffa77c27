//! Workspace: its location, its metadata from cargo and git, and the way in which cargo is called.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Result whose error is shown to the caller of `cargo xtask`.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Workspace that this tool was built in.
pub(crate) struct Workspace {
    root: PathBuf,
    cargo: OsString,
}

impl Workspace {
    /// Returns the workspace of the xtask that cargo runs.
    pub(crate) fn find() -> Result<Self> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .ok_or("call it as `cargo xtask`, so that cargo sets CARGO_MANIFEST_DIR")?;
        let root = Path::new(&package)
            .ancestors()
            .nth(2)
            .ok_or("xtask is not in crates/ of a workspace")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Ok(Self {
            root: root.to_owned(),
            cargo,
        })
    }

    /// Returns the folder of the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a cargo command in the root, without stdin.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        command
            .args(args)
            .current_dir(&self.root)
            .stdin(Stdio::null());
        command
    }

    /// Returns the text of a file; `path` is relative to the root.
    pub(crate) fn read(&self, path: &str) -> Result<String> {
        std::fs::read_to_string(self.root.join(path))
            .map_err(|error| format!("{path}: {error}").into())
    }

    /// Returns the output of `cargo metadata --no-deps`.
    pub(crate) fn metadata(&self) -> Result<Value> {
        let json = output(&mut self.cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
        Ok(serde_json::from_slice(&json)?)
    }

    /// Returns the files that git tracks, relative to the root.
    pub(crate) fn tracked(&self) -> Result<Vec<String>> {
        let list = output(
            Command::new("git")
                .args(["ls-files", "-z"])
                .current_dir(&self.root),
        )?;
        let names = list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }
}

/// Runs a command that must succeed, and returns its stdout.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", output.status).into());
    }
    Ok(output.stdout)
}
