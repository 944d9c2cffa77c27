//! Lint of ARCHITECTURE.md: the crates of its table and the rooms of its list are those of the
//! tree, in both directions.

use std::collections::BTreeSet;
use std::path::Path;

use super::Finding;
use crate::workspace::{Result, Workspace};

/// Crates whose top-level modules ("rooms") have an order.
pub(super) const ORDERED: [&str; 3] = ["waypost-core", "waypost-http", "waypost-etcd"];
pub(super) const DOCUMENT: &str = "ARCHITECTURE.md";

const CRATES: &str = "## Crates";

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let document = workspace.read(DOCUMENT)?;
    let crates = names(&workspace.root().join("crates"))?;
    let mut findings = check("crate", CRATES, &listed(&document, CRATES, "| "), &crates);
    for name in ORDERED {
        let rooms = names(&workspace.root().join(sources(name)))?
            .into_iter()
            .filter(|name| name != "lib")
            .collect();
        findings.extend(check(
            "room",
            &section(name),
            &self::rooms(&document, name),
            &rooms,
        ));
    }
    Ok(findings)
}

/// Returns the folder of a crate's sources.
pub(super) fn sources(name: &str) -> String {
    format!("crates/{name}/src")
}

fn section(name: &str) -> String {
    format!("## Rooms of {name}")
}

/// Returns the rooms of a crate in their order.
pub(super) fn rooms(document: &str, name: &str) -> Vec<String> {
    listed(document, &section(name), ". ")
}

/// Returns the names in backquotes that come first after `mark` on the lines of a section.
fn listed(document: &str, section: &str, mark: &str) -> Vec<String> {
    let lines = document
        .lines()
        .skip_while(|line| *line != section)
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    lines
        .filter_map(|line| {
            Some(
                line.split_once(mark)?
                    .1
                    .strip_prefix('`')?
                    .split_once('`')?
                    .0
                    .to_owned(),
            )
        })
        .collect()
}

/// Returns the names of the folders and Rust files in a folder, without extension.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            found.insert(name);
        } else if let Some(room) = name.strip_suffix(".rs") {
            found.insert(room.to_owned());
        }
    }
    Ok(found)
}

fn check(kind: &str, section: &str, listed: &[String], there: &BTreeSet<String>) -> Vec<Finding> {
    let place = format!("{DOCUMENT}, {section}");
    let named: BTreeSet<_> = listed.iter().cloned().collect();
    let gone = named.difference(there).map(|name| {
        Finding::new(
            &place,
            format!("the {kind} {name} is named but not there"),
            "remove its line, or make the thing",
        )
    });
    let unnamed = there.difference(&named).map(|name| {
        Finding::new(
            &place,
            format!("the {kind} {name} is there but not named"),
            "state in one line what it is and what it must not know",
        )
    });
    gone.chain(unnamed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "# A\n\n## Crates\n\n| crate | what |\n|---|---|\n| `a` | uses `z` |\n| `b` | . |\n\n\
                          ## Rooms of waypost-core\n\n1. `record`: `words`\n2. `registry`: more\n\n## More\n\n3. `other`: no\n";

    #[test]
    fn crates_and_rooms_are_read_in_order() {
        assert_eq!(listed(SAMPLE, CRATES, "| "), ["a", "b"]);
        assert_eq!(rooms(SAMPLE, "waypost-core"), ["record", "registry"]);
    }

    #[test]
    fn what_is_only_named_and_what_is_only_there_are_reported() {
        let found = check(
            "room",
            "",
            &rooms(SAMPLE, "waypost-core"),
            &BTreeSet::from(["record".to_owned(), "peer".to_owned()]),
        );
        let found: Vec<_> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            found,
            [
                "the room registry is named but not there",
                "the room peer is there but not named"
            ]
        );
    }
}
