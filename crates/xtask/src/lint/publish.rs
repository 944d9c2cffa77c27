//! Lint of published packages: what crates.io and docs.rs show of each is there. `cargo publish`
//! itself requires only a description and a licence.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Finding, published};
use crate::workspace::{Result, Workspace};

/// Keys of `[package]` that must not be empty.
const KEYS: [&str; 7] = [
    "description",
    "repository",
    "readme",
    "license",
    "keywords",
    "categories",
    "rust_version",
];

/// Files beside the manifest. Without them in the package, its users get no licence text.
const FILES: [&str; 3] = ["README.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// Attribute by which docs.rs shows the feature that an item needs.
const DOC_CFG: &str = "#![cfg_attr(docsrs, feature(doc_cfg))]";

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let metadata = workspace.metadata()?;
    let mut findings = Vec::new();
    for package in published(&metadata) {
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let folder = Path::new(manifest).parent().unwrap_or(Path::new("."));
        findings.extend(check(package, |file| {
            std::fs::read_to_string(folder.join(file)).ok()
        }));
    }
    Ok(findings)
}

/// Target directory of `cargo publish --dry-run`.
pub(super) const TARGET: &str = "target/publish";

/// Removes what an earlier `cargo publish --dry-run` has built, and the sources that it has unpacked
/// into cargo's home. Cargo unpacks and builds a version once, and would verify the new packages
/// against the old ones. The folders of such registries, which have no host, begin with a dash.
pub(super) fn remove_earlier(workspace: &Workspace) -> Result<()> {
    remove(&workspace.root().join(TARGET))?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.unwrap_or_default().join("registry/src");
    let metadata = workspace.metadata()?;
    for registry in std::fs::read_dir(sources).into_iter().flatten().flatten() {
        if !registry.file_name().as_encoded_bytes().starts_with(b"-") {
            continue;
        }
        for package in published(&metadata) {
            let part = |key: &str| package[key].as_str().unwrap_or_default();
            let folder = format!("{}-{}", part("name"), part("version"));
            remove(&registry.path().join(folder))?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Checks one package; `read` returns the text of a file beside its manifest.
fn check(package: &Value, read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let name = package["name"].as_str().unwrap_or_default();
    let place = format!("crates/{name}/Cargo.toml");
    let lacks = |key: &str| match &package[key] {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    };
    let keys = KEYS.iter().filter(|key| lacks(key)).map(|key| {
        Finding::new(
            &place,
            format!("no {key}"),
            "crates.io shows it: add it to [package]",
        )
    });
    let files = FILES
        .iter()
        .filter(|file| read(file).is_none())
        .map(|file| {
            Finding::new(
                format!("crates/{name}/{file}"),
                "no such file",
                format!("link it: ln -s ../../{file} crates/{name}/{file}"),
            )
        });
    let docs = package["metadata"]["docs"]["rs"]["all-features"] != Value::Bool(true);
    let docs = docs.then(|| {
        Finding::new(
            &place,
            "docs.rs would show the default features only",
            "add [package.metadata.docs.rs] with all-features = true",
        )
    });
    let has_features = package["features"]
        .as_object()
        .is_some_and(|features| !features.is_empty());
    let marks = read("src/lib.rs").is_none_or(|text| text.contains(DOC_CFG));
    let marked = (has_features && !marks).then(|| {
        Finding::new(
            format!("crates/{name}/src/lib.rs"),
            "docs.rs would not show which feature an item needs",
            format!("add {DOC_CFG}"),
        )
    });
    keys.chain(files).chain(docs).chain(marked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Value {
        serde_json::json!({
            "name": "a",
            "description": "A", "repository": "https://a", "readme": "README.md", "license": "MIT",
            "keywords": ["a"], "categories": ["b"], "rust_version": "1.89",
            "features": { "x": [] },
            "metadata": { "docs": { "rs": { "all-features": true } } },
        })
    }

    fn found(package: &Value, missing: &str) -> Vec<String> {
        let read = |file: &str| (file != missing).then(|| format!("//! A.\n{DOC_CFG}\n"));
        check(package, read)
            .iter()
            .map(|finding| format!("{}: {}", finding.place, finding.what))
            .collect()
    }

    #[test]
    fn a_complete_package_is_fine() {
        assert_eq!(found(&package(), ""), [""; 0]);
    }

    #[test]
    fn each_missing_part_is_found() {
        let mut bare = package();
        bare["keywords"] = serde_json::json!([]);
        bare["repository"] = Value::Null;
        bare["metadata"] = Value::Null;
        assert_eq!(
            found(&bare, "LICENSE-MIT"),
            [
                "crates/a/Cargo.toml: no repository",
                "crates/a/Cargo.toml: no keywords",
                "crates/a/LICENSE-MIT: no such file",
                "crates/a/Cargo.toml: docs.rs would show the default features only",
            ]
        );
        let unmarked = check(&package(), |_| Some("//! A.".to_owned()));
        assert_eq!(unmarked[0].place, "crates/a/src/lib.rs");
    }
}
