//! Allowed dependencies between our crates, as a table that is checked against `cargo metadata`.

use serde_json::Value;

use super::Finding;
use crate::workspace::{Result, Workspace};

/// Each crate, and the crates of ours that it may use. The table may list crates that do not exist
/// yet.
const TABLE: &[(&str, &[&str])] = &[
    ("waypost-core", &[]),
    ("waypost-conformance", &["waypost-core"]),
    ("waypost-local", &["waypost-core"]),
    ("waypost-http", &["waypost-core"]),
    ("waypost-tonic", &["waypost-core", "waypost-http"]),
    ("waypost-etcd", &["waypost-core", "waypost-http"]),
    // Without conformance: it is for tests, and a user of the façade must not build it.
    (
        "waypost",
        &[
            "waypost-core",
            "waypost-local",
            "waypost-http",
            "waypost-tonic",
            "waypost-etcd",
        ],
    ),
    ("waypost-greeter", &[]),
    ("waypost-etcd-binary", &[]),
    (
        "waypost-cli",
        &["waypost", "waypost-greeter", "waypost-etcd-binary"],
    ),
    (
        "waypost-testkit",
        &[
            "waypost-core",
            "waypost-conformance",
            "waypost-local",
            "waypost-http",
            "waypost-tonic",
            "waypost-etcd",
            "waypost",
            "waypost-greeter",
            "waypost-etcd-binary",
            "waypost-cli",
        ],
    ),
    (
        "waypost-bench",
        &[
            "waypost-core",
            "waypost-http",
            "waypost-etcd",
            "waypost",
            "waypost-greeter",
            "waypost-testkit",
        ],
    ),
    ("waypost-model", &[]),
    ("xtask", &["waypost-etcd-binary"]),
];

/// The only crate whose dev-dependencies are checked too: its tests must not depend on the crates
/// above it.
const CORE: &str = "waypost-core";
const CORE_TESTS_MAY_USE: &[&str] = &["waypost-conformance"];

/// One dependency, as `cargo metadata` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) user: String,
    pub(super) used: String,
    /// True if only tests, examples and benchmarks use it.
    pub(super) dev: bool,
}

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let metadata = workspace.metadata()?;
    Ok(check(&members(&metadata), &edges(&metadata)))
}

/// Returns the names of our crates.
pub(super) fn members(metadata: &Value) -> Vec<String> {
    packages(metadata)
        .map(|package| text(package, "name"))
        .collect()
}

/// Returns every dependency of our crates, on ours and on others.
pub(super) fn edges(metadata: &Value) -> Vec<Edge> {
    packages(metadata).flat_map(edges_of).collect()
}

fn edges_of(package: &Value) -> impl Iterator<Item = Edge> + use<'_> {
    let user = text(package, "name");
    let edge = move |used| Edge {
        user: user.clone(),
        used: text(used, "name"),
        dev: used["kind"].as_str() == Some("dev"),
    };
    list(package, "dependencies").map(edge)
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    list(metadata, "packages")
}

fn list<'a>(value: &'a Value, key: &'static str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[key].as_array().into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn check(members: &[String], edges: &[Edge]) -> Vec<Finding> {
    let unknown = members.iter().filter(|name| allowed(name).is_none()).map(|name| {
        Finding::new(
            manifest(name),
            format!("{name} is not in the table of crates"),
            "give it a row in crates/xtask/src/lint/layering.rs and in ARCHITECTURE.md: what it is, what it may use",
        )
    });
    let ours = edges.iter().filter(|edge| members.contains(&edge.used));
    let wrong = ours.filter(|edge| !is_allowed(edge)).map(|edge| {
        Finding::new(
            manifest(&edge.user),
            format!(
                "{} uses {}, which it must not know{}",
                edge.user,
                edge.used,
                if edge.dev { ", not even in tests" } else { "" }
            ),
            format!(
                "it may use: {}. Move the code to the crate that may know both, or turn the need into a trait below",
                shown(edge)
            ),
        )
    });
    unknown.chain(wrong).collect()
}

fn is_allowed(edge: &Edge) -> bool {
    let Some(uses) = allowed(&edge.user) else {
        return true;
    };
    match (edge.dev, edge.user == CORE) {
        (true, false) => true,
        (true, true) => CORE_TESTS_MAY_USE.contains(&edge.used.as_str()),
        (false, _) => uses.contains(&edge.used.as_str()),
    }
}

fn shown(edge: &Edge) -> String {
    let uses = if edge.dev {
        CORE_TESTS_MAY_USE
    } else {
        allowed(&edge.user).unwrap_or_default()
    };
    if uses.is_empty() {
        "none of ours".to_owned()
    } else {
        uses.join(", ")
    }
}

fn allowed(name: &str) -> Option<&'static [&'static str]> {
    TABLE
        .iter()
        .find(|(row, _)| *row == name)
        .map(|(_, uses)| *uses)
}

fn manifest(name: &str) -> String {
    format!("crates/{name}/Cargo.toml")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(dependencies: &[(&str, &str, Option<&str>)]) -> Vec<String> {
        let names = [
            "waypost-core",
            "waypost-conformance",
            "waypost-http",
            "waypost-tonic",
            "waypost",
        ];
        let packages: Vec<Value> = names
            .iter()
            .map(|name| {
                let of = dependencies.iter().filter(|(user, ..)| user == name);
                let used: Vec<Value> = of
                    .map(|(_, used, kind)| json!({"name": used, "kind": kind}))
                    .collect();
                json!({"name": name, "dependencies": used})
            })
            .collect();
        let metadata = json!({ "packages": packages });
        check(&members(&metadata), &edges(&metadata))
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn an_upward_import_is_reported() {
        assert_eq!(
            found(&[("waypost-core", "waypost-http", None)]),
            ["waypost-core uses waypost-http, which it must not know"]
        );
        assert_eq!(
            found(&[("waypost-http", "waypost-tonic", Some("build"))]).len(),
            1
        );
    }

    #[test]
    fn the_edges_of_the_table_and_outside_crates_pass() {
        let edges = [
            ("waypost-tonic", "waypost-http", None),
            ("waypost", "waypost-core", None),
            ("waypost-http", "h2", None),
        ];
        assert_eq!(found(&edges), [""; 0]);
    }

    #[test]
    fn tests_may_use_anything_but_those_of_core() {
        assert_eq!(found(&[("waypost-http", "waypost", Some("dev"))]), [""; 0]);
        assert_eq!(
            found(&[("waypost-core", "waypost-conformance", Some("dev"))]),
            [""; 0]
        );
        let upward = found(&[("waypost-core", "waypost", Some("dev"))]);
        assert_eq!(
            upward,
            ["waypost-core uses waypost, which it must not know, not even in tests"]
        );
    }

    #[test]
    fn a_crate_outside_the_table_is_reported() {
        let found = check(&["waypost-mdns".to_owned()], &[]);
        assert_eq!(found[0].what, "waypost-mdns is not in the table of crates");
    }

    #[test]
    fn the_table_has_no_circle() {
        let mut placed: Vec<&str> = Vec::new();
        while placed.len() < TABLE.len() {
            let ready = |(name, uses): &&(&str, &[&str])| {
                !placed.contains(name) && uses.iter().all(|used| placed.contains(used))
            };
            let (next, _) = TABLE
                .iter()
                .find(ready)
                .expect("a crate that uses only crates placed before it");
            placed.push(next);
        }
    }
}
