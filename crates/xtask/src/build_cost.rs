//! `cargo xtask build-cost`: build cost of Waypost's default features for a user, beside bare
//! tonic.
//!
//! Two throw-away packages differ in one dependency. Both have the dependencies of a generated stub
//! (tonic's codegen, tonic-prost, prost) and tokio; one adds tonic's own channel, server and
//! router, the other Waypost. Versions are those of our lock file. Each is built cold, in debug, in
//! a target folder of its own. `packages` counts the normal and build dependencies for this host,
//! without the throw-away package itself; `cpu_s` is the user and system time of cargo and all its
//! child processes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::workspace::{Result, Workspace, output};

/// Output format of the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CostFormat {
    /// Text for people.
    Text,
    /// One JSON object.
    Json,
}

/// Build cost of one user.
#[derive(Debug)]
struct BuildCost {
    packages: usize,
    cpu_s: f64,
}

/// Builds both packages and prints the figures.
pub(crate) fn run(workspace: &Workspace, format: CostFormat) -> Result<bool> {
    let facade = workspace.root().join("crates/waypost");
    let waypost = cost(workspace, "waypost", &waypost_manifest(&facade))?;
    let tonic = cost(workspace, "tonic", &tonic_manifest())?;
    println!("{}", shown(&waypost, &tonic, format));
    Ok(true)
}

fn shown(waypost: &BuildCost, tonic: &BuildCost, format: CostFormat) -> String {
    let ratio = waypost.cpu_s / tonic.cpu_s;
    if format == CostFormat::Json {
        return json!({
            "schema": "waypost/1",
            "waypost": figures(waypost),
            "tonic": figures(tonic),
            "more_packages": waypost.packages as i64 - tonic.packages as i64,
            "cpu_ratio": round(ratio),
        })
        .to_string();
    }
    let line = |name: &str, cost: &BuildCost| {
        format!("{name:<22} {:>8} {:>11.1}", cost.packages, cost.cpu_s)
    };
    let more = waypost.packages as i64 - tonic.packages as i64;
    format!(
        "{:<22} packages CPU seconds\n{}\n{}\n{:<22} {more:>+8} {ratio:>10.2}x",
        "cold debug build of a",
        line("user of waypost", waypost),
        line("user of bare tonic", tonic),
        "difference",
    )
}

fn figures(cost: &BuildCost) -> Value {
    json!({ "packages": cost.packages, "cpu_s": round(cost.cpu_s) })
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Lines of `[dependencies]` that both users have.
const COMMON: &str = r#"prost = { version = "0.14", default-features = false, features = ["std", "derive"] }
tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "signal", "sync", "time"] }
tonic-prost = "0.14"
"#;

fn waypost_manifest(facade: &Path) -> String {
    let tonic =
        "tonic = { version = \"0.14\", default-features = false, features = [\"codegen\"] }";
    manifest(
        "waypost-user",
        &format!("{COMMON}{tonic}\nwaypost = {{ path = {facade:?} }}\n"),
    )
}

fn tonic_manifest() -> String {
    let features = r#"["channel", "codegen", "router", "server"]"#;
    manifest(
        "tonic-user",
        &format!(
            "{COMMON}tonic = {{ version = \"0.14\", default-features = false, features = {features} }}\n"
        ),
    )
}

fn manifest(name: &str, dependencies: &str) -> String {
    let package = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n"
    );
    format!("{package}\n[dependencies]\n{dependencies}\n[workspace]\n")
}

fn cost(workspace: &Workspace, name: &str, manifest: &str) -> Result<BuildCost> {
    let folder = package(workspace, name, manifest)?;
    let cargo = |args: &[&str]| {
        let mut command = workspace.cargo(args);
        command
            .current_dir(&folder)
            .env("CARGO_TARGET_DIR", folder.join("target"));
        // A cache around the compiler would hide the cost.
        command
            .env_remove("RUSTC_WRAPPER")
            .env_remove("CARGO_BUILD_RUSTC_WRAPPER");
        command
    };
    let tree = output(&mut cargo(&[
        "tree",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--no-dedupe",
        "--format",
        "{p}",
    ]))?;
    output(&mut cargo(&["fetch"]))?;
    let before = children_cpu_s()?;
    output(&mut cargo(&["build"]))?;
    Ok(BuildCost {
        packages: packages(&String::from_utf8_lossy(&tree)),
        cpu_s: children_cpu_s()? - before,
    })
}

/// Creates a fresh throw-away package below the target folder.
fn package(workspace: &Workspace, name: &str, manifest: &str) -> Result<PathBuf> {
    let metadata = workspace.metadata()?;
    let target = metadata["target_directory"]
        .as_str()
        .ok_or("cargo metadata names no target folder")?;
    let folder = Path::new(target).join("build-cost").join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(folder.join("src"))?;
    std::fs::write(folder.join("Cargo.toml"), manifest)?;
    std::fs::write(folder.join("src/main.rs"), "fn main() {}\n")?;
    std::fs::copy(
        workspace.root().join("Cargo.lock"),
        folder.join("Cargo.lock"),
    )?;
    Ok(folder)
}

/// Returns the number of packages that a `cargo tree` lists, without its root.
fn packages(tree: &str) -> usize {
    let lines: std::collections::BTreeSet<&str> =
        tree.lines().filter(|line| !line.is_empty()).collect();
    lines.len().saturating_sub(1)
}

/// Returns the CPU seconds of all child processes that this process has waited for, their own
/// children included.
fn children_cpu_s() -> Result<f64> {
    cpu_s(&std::fs::read_to_string("/proc/self/stat")?)
        .ok_or_else(|| "this system's /proc/self/stat is not Linux's".into())
}

/// Returns the sum of `cutime` and `cstime` in a line of `/proc/<pid>/stat`, in seconds; the line
/// counts in hundredths.
fn cpu_s(stat: &str) -> Option<f64> {
    // The second field, the program's name, may contain blanks; fields are counted from after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some(f64::from(ticks(13)? + ticks(14)?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted_once_and_without_the_root() {
        assert_eq!(
            packages(
                "user v0.0.0 (x)\ntokio v1.50.0\nmio v1.0.0\ntokio v1.50.0\n\nsyn v2.0.1\nsyn v3.0.1\n"
            ),
            4
        );
    }

    #[test]
    fn the_childrens_times_are_read_behind_the_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 200 0 0 11 12 250 50 20 0 1 0 99";
        assert_eq!(cpu_s(stat), Some(3.0));
        assert_eq!(cpu_s("7 (short) S 1"), None);
    }

    #[test]
    fn the_figures_are_shown_both_ways() {
        let (waypost, tonic) = (
            BuildCost {
                packages: 110,
                cpu_s: 26.0,
            },
            BuildCost {
                packages: 85,
                cpu_s: 20.0,
            },
        );
        let json: Value =
            serde_json::from_str(&shown(&waypost, &tonic, CostFormat::Json)).expect("JSON");
        assert_eq!(
            (&json["more_packages"], &json["cpu_ratio"]),
            (&json!(25), &json!(1.3))
        );
        assert!(shown(&waypost, &tonic, CostFormat::Text).ends_with("+25       1.30x"));
    }
}
