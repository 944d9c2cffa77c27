//! Lint of features: each published package that has some compiles without warnings with none, with
//! each alone, and with all. The build of the workspace enables all of them together.

use serde_json::Value;

use super::{Finding, cargo};
use crate::workspace::{Result, Workspace};

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for selection in selections(&workspace.metadata()?) {
        let selection: Vec<_> = selection.iter().map(String::as_str).collect();
        let args = [&["clippy"], &selection[..], &["--", "-D", "warnings"]].concat();
        findings.extend(cargo(workspace, &args)?);
    }
    Ok(findings)
}

/// Returns the arguments that select a package and some of its features.
fn selections(metadata: &Value) -> Vec<Vec<String>> {
    let mut selections = Vec::new();
    for package in super::published(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        let features = package["features"].as_object();
        let features: Vec<_> = features
            .into_iter()
            .flat_map(|features| features.keys())
            .filter(|feature| *feature != "default")
            .collect();
        if features.is_empty() {
            continue;
        }
        let select = |args: &[&str]| {
            let args = [&["-p", name], args].concat();
            args.into_iter().map(str::to_owned).collect()
        };
        selections.push(select(&["--no-default-features"]));
        for feature in features {
            selections.push(select(&["--no-default-features", "--features", feature]));
        }
        selections.push(select(&["--all-features"]));
    }
    selections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_each_and_all_are_selected() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "a", "publish": null, "features": { "default": ["x"], "x": [], "y": [] } },
            { "name": "b", "publish": null, "features": {} },
            { "name": "c", "publish": [], "features": { "x": [] } },
        ]});
        let selections: Vec<_> = selections(&metadata)
            .iter()
            .map(|args| args.join(" "))
            .collect();
        assert_eq!(
            selections,
            [
                "-p a --no-default-features",
                "-p a --no-default-features --features x",
                "-p a --no-default-features --features y",
                "-p a --all-features",
            ]
        );
    }
}
