//! `cargo xtask etcd`: finds every etcd to test with, and installs those it can: Debian's by apt, a
//! newer one built by Go from its published module (`tools/etcd`). Starts no etcd.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use waypost_etcd_binary::{self as binary, Candidates, EtcdBinary};

use crate::workspace::{Result, Workspace, output};

/// Environment variable in which the testkit reads the list of [`variable`].
pub(crate) const VARIABLE: &str = "WAYPOST_ETCDS";

const SOURCE: &str = "tools/etcd";
const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];
const NONE: &str = "there is no etcd to test with. One of these helps:
  install one with its etcdctl (Debian: apt-get install etcd-server etcd-client)
  install Go, so that `cargo xtask etcd` builds one
  set WAYPOST_ETCD to the path of one";

/// Output format of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EtcdFormat {
    /// Text for people.
    Text,
    /// One JSON object.
    Json,
}

/// One etcd and its etcdctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundEtcd {
    etcd: EtcdBinary,
    etcdctl: PathBuf,
}

/// Prints the list of etcds.
pub(crate) fn run(workspace: &Workspace, format: EtcdFormat) -> Result<bool> {
    println!("{}", shown(&ensure(workspace)?, format));
    Ok(true)
}

/// Returns every etcd, installed first if need be: `$WAYPOST_ETCD` alone if it is set, else the one
/// on the `PATH` (Debian's, installed by root if there is none) and the one that Go builds. A
/// failure to get one of them is reported on stderr.
///
/// # Errors
/// There is none; the text says what to do.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Vec<FoundEtcd>> {
    if let Some(path) = candidates().named {
        let found = probe(&path).map_err(|why| format!("{}: {why}", binary::VARIABLE))?;
        return Ok(vec![found]);
    }
    let tried = [
        ("etcd on the PATH", system()),
        ("etcd by Go", built(workspace)),
    ];
    let mut found: Vec<FoundEtcd> = Vec::new();
    for (what, one) in tried {
        match one {
            Ok(one)
                if found
                    .iter()
                    .any(|other| other.etcd.version == one.etcd.version) => {}
            Ok(one) => found.push(one),
            Err(why) => eprintln!("no {what}: {why}"),
        }
    }
    if found.is_empty() {
        Err(NONE.into())
    } else {
        Ok(found)
    }
}

/// Returns the versions that the etcds report.
pub(crate) fn versions(etcds: &[FoundEtcd]) -> Vec<String> {
    let version = |etcd: &FoundEtcd| etcd.etcd.version.to_string();
    etcds.iter().map(version).collect()
}

/// Returns the value of [`VARIABLE`].
///
/// # Errors
/// A path contains a colon.
pub(crate) fn variable(etcds: &[FoundEtcd]) -> Result<std::ffi::OsString> {
    Ok(std::env::join_paths(
        etcds.iter().map(|etcd| &etcd.etcd.path),
    )?)
}

fn shown(etcds: &[FoundEtcd], format: EtcdFormat) -> String {
    if format == EtcdFormat::Json {
        let list: Vec<Value> = etcds.iter().map(figures).collect();
        return json!({ "schema": "waypost/1", "etcds": list }).to_string();
    }
    let line = |etcd: &FoundEtcd| {
        format!(
            "{:<10} {}  {}",
            etcd.etcd.version.to_string(),
            etcd.etcd.path.display(),
            etcd.etcdctl.display()
        )
    };
    etcds.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn figures(etcd: &FoundEtcd) -> Value {
    let (version, path) = (etcd.etcd.version.to_string(), &etcd.etcd.path);
    json!({ "version": version, "etcd": path, "etcdctl": etcd.etcdctl })
}

/// Returns the etcd at `path` with the version that it reports, and the etcdctl beside it or on the
/// `PATH`.
fn probe(path: &Path) -> Result<FoundEtcd> {
    let etcd = EtcdBinary::at(path)?;
    let etcdctl = etcd
        .etcdctl(&std::env::var_os("PATH").unwrap_or_default())
        .ok_or("there is no etcdctl, neither beside it nor on the PATH")?;
    Ok(FoundEtcd { etcd, etcdctl })
}

fn candidates() -> Candidates {
    Candidates::of(|name| std::env::var_os(name))
}

fn on_path(name: &str) -> Option<PathBuf> {
    binary::on_path(name, &std::env::var_os("PATH")?)
}

/// Returns the etcd on the `PATH`; installs Debian's if there is none.
fn system() -> Result<FoundEtcd> {
    if on_path("etcd").is_none() || on_path("etcdctl").is_none() {
        install()?;
    }
    probe(&on_path("etcd").ok_or("it is not there, though it was installed")?)
}

/// Installs Debian's packages, and prevents them from starting a server of their own.
fn install() -> Result<()> {
    on_path("apt-get").ok_or("this system has no apt-get")?;
    if output(Command::new("id").arg("-u"))? != b"0\n" {
        return Err(format!(
            "only root may install it: apt-get install {}",
            PACKAGES.join(" ")
        )
        .into());
    }
    let _policy = EtcdPolicy::forbid_starts()?;
    eprintln!("installing {}", PACKAGES.join(" "));
    let install = [
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
        PACKAGES[0],
        PACKAGES[1],
    ];
    // The package lists may be missing or too old.
    apt(&install).or_else(|_| apt(&["update", "--quiet"]).and_then(|()| apt(&install)))
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    succeed(&mut command)
}

/// Runs a command whose output all goes to stderr.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdout(std::io::stderr()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} failed: {status}").into())
    }
}

/// Program that Debian runs to decide if a package may start its service; exit code 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const FORBIDDEN: i32 = 101;

/// Guard that prevents packages from starting services while it lives.
struct EtcdPolicy {
    ours: bool,
}

impl EtcdPolicy {
    fn forbid_starts() -> Result<Self> {
        match File::options().write(true).create_new(true).open(POLICY) {
            Ok(file) => {
                let policy = Self { ours: true };
                file.set_permissions(fs::Permissions::from_mode(0o755))?;
                drop(file);
                fs::write(POLICY, format!("#!/bin/sh\nexit {FORBIDDEN}\n"))?;
                Ok(policy)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::of_the_machine(),
            Err(error) => Err(format!("{POLICY}: {error}").into()),
        }
    }

    /// Uses the policy that the machine already has, which we may run but not change.
    fn of_the_machine() -> Result<Self> {
        let answer = Command::new(POLICY)
            .args(["etcd", "start"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        if answer.code() == Some(FORBIDDEN) {
            return Ok(Self { ours: false });
        }
        Err(format!(
            "{POLICY} would let the package start an etcd of its own; apt-get install {} yourself",
            PACKAGES.join(" ")
        )
        .into())
    }
}

impl Drop for EtcdPolicy {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Returns the etcd that Go builds, once for each version, into `waypost/etcd/<version>` of the
/// user's cache.
fn built(workspace: &Workspace) -> Result<FoundEtcd> {
    let version = required(&workspace.read(&format!("{SOURCE}/go.mod"))?)
        .ok_or("tools/etcd/go.mod requires no etcd")?;
    let cache = binary::cache(|name| std::env::var_os(name));
    let folder = cache
        .ok_or("neither XDG_CACHE_HOME nor HOME is set, which name the directory to build it in")?
        .join(&version);
    if !folder.join("etcd").is_file() {
        build(&workspace.root().join(SOURCE), &folder)?;
    }
    let found = probe(&folder.join("etcd"))?;
    if found.etcd.version.to_string() == version {
        Ok(found)
    } else {
        Err(format!("{} is {}", folder.display(), found.etcd.version).into())
    }
}

/// Builds beside `folder` and moves the result there once it is complete, since another process may
/// build at the same time.
fn build(source: &Path, folder: &Path) -> Result<()> {
    let go = on_path("go").ok_or("Go is not installed")?;
    eprintln!(
        "building etcd into {} (about two minutes)",
        folder.display()
    );
    let unfinished = folder.with_extension(format!("{}.unfinished", std::process::id()));
    fs::create_dir_all(&unfinished)?;
    let mut command = Command::new(go);
    command
        .args([
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-mod=readonly",
            "-o",
        ])
        .arg(unfinished.join(""))
        .args([".", "./etcdctl"]);
    let built = succeed(command.current_dir(source).stdin(Stdio::null()));
    let moved = built.and_then(|()| Ok(fs::rename(&unfinished, folder)?));
    let _ = fs::remove_dir_all(&unfinished);
    if folder.join("etcd").is_file() {
        Ok(())
    } else {
        moved
    }
}

/// Returns the version of etcd's server that a `go.mod` requires, without its `v`.
fn required(module: &str) -> Option<String> {
    let line = module
        .lines()
        .find_map(|line| line.trim().strip_prefix("go.etcd.io/etcd/server/v3 v"))?;
    line.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use waypost_etcd_binary::Version;

    use super::*;

    fn etcd(version: &str, folder: &str) -> FoundEtcd {
        let at = |name| Path::new(folder).join(name);
        FoundEtcd {
            etcd: EtcdBinary {
                path: at("etcd"),
                version: Version::parse(version).expect("a version"),
            },
            etcdctl: at("etcdctl"),
        }
    }

    #[test]
    fn the_version_is_that_of_go_mod() {
        let module = "module x\n\nrequire (\n\tgo.etcd.io/etcd/etcdctl/v3 v3.6.1\n\tgo.etcd.io/etcd/server/v3 v3.6.16 // why\n)\n";
        assert_eq!(required(module).as_deref(), Some("3.6.16"));
        assert_eq!(required("module x\n"), None);
    }

    #[test]
    fn the_list_is_shown_both_ways_and_passed_on() {
        let etcds = [etcd("3.4.23", "/usr/bin"), etcd("3.6.16", "/cache/3.6.16")];
        assert_eq!(
            variable(&etcds).expect("no colon"),
            "/usr/bin/etcd:/cache/3.6.16/etcd"
        );
        assert!(
            shown(&etcds, EtcdFormat::Text)
                .starts_with("3.4.23     /usr/bin/etcd  /usr/bin/etcdctl\n3.6.16 ")
        );
        let json: Value = serde_json::from_str(&shown(&etcds, EtcdFormat::Json)).expect("JSON");
        assert_eq!(
            json["etcds"][1],
            json!({"version": "3.6.16", "etcd": "/cache/3.6.16/etcd", "etcdctl": "/cache/3.6.16/etcdctl"})
        );
    }

    #[test]
    fn a_program_that_is_no_etcd_is_refused() {
        let why = probe(Path::new("/bin/echo"))
            .expect_err("echo is not etcd")
            .to_string();
        assert_eq!(
            why,
            "/bin/echo is not an etcd: its output has no version of etcd"
        );
    }
}
