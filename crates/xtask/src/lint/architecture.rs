//! Lint of ARCHITECTURE.md: the crates of its table and the rooms of its list are those of the
//! tree, in both directions.

use std::collections::BTreeSet;
use std::path::Path;

use super::Finding;
use crate::workspace::{Result, Workspace};

/// Folder of the rooms.
pub(super) const SOURCES: &str = "crates/waypost-core/src";
pub(super) const DOCUMENT: &str = "ARCHITECTURE.md";

const CRATES: &str = "## Crates";
const ROOMS: &str = "## Rooms of waypost-core";

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let document = workspace.read(DOCUMENT)?;
    let crates = names(&workspace.root().join("crates"))?;
    let rooms = names(&workspace.root().join(SOURCES))?.into_iter().filter(|name| name != "lib").collect();
    let mut findings = check("crate", CRATES, &listed(&document, CRATES, "| "), &crates);
    findings.extend(check("room", ROOMS, &self::rooms(&document), &rooms));
    Ok(findings)
}

/// Returns the rooms in their order.
pub(super) fn rooms(document: &str) -> Vec<String> {
    listed(document, ROOMS, ". ")
}

/// Returns the names in backquotes that come first after `mark` on the lines of a section.
fn listed(document: &str, section: &str, mark: &str) -> Vec<String> {
    let lines = document.lines().skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with("## "));
    lines.filter_map(|line| Some(line.split_once(mark)?.1.strip_prefix('`')?.split_once('`')?.0.to_owned())).collect()
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
        Finding::new(&place, format!("the {kind} {name} is named but not there"), "remove its line, or make the thing")
    });
    let unnamed = there.difference(&named).map(|name| {
        Finding::new(
            &place,
            format!("the {kind} {name} is there but not named"),
            "say in one line what it is and what it must not know",
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
        assert_eq!(rooms(SAMPLE), ["record", "registry"]);
    }

    #[test]
    fn what_is_only_named_and_what_is_only_there_are_reported() {
        let found = check("room", ROOMS, &rooms(SAMPLE), &BTreeSet::from(["record".to_owned(), "peer".to_owned()]));
        let found: Vec<_> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(found, ["the room registry is named but not there", "the room peer is there but not named"]);
    }
}
