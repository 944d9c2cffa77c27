//! Lint of outside crates: each has a line in `docs/dependencies.md` that names its users and the
//! reason; no line outlives its crate.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::layering::{Edge, edges, members};
use crate::workspace::{Result, Workspace};

const DOCUMENT: &str = "docs/dependencies.md";

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let metadata = workspace.metadata()?;
    Ok(check(
        &workspace.read(DOCUMENT)?,
        &members(&metadata),
        &edges(&metadata),
    ))
}

fn check(document: &str, members: &[String], edges: &[Edge]) -> Vec<Finding> {
    let users = users(members, edges);
    let rows = rows(document);
    let missing = users
        .iter()
        .filter(|(name, _)| !rows.contains_key(name.as_str()))
        .map(|(name, users)| {
            Finding::new(
                DOCUMENT,
                format!("no line for {name}"),
                format!("state why it is worth its weight: | `{name}` | {users} | … |"),
            )
        });
    let wrong = rows.iter().flat_map(|(name, row)| match users.get(*name) {
        None => Some(Finding::new(
            row.place(),
            format!("no crate uses {name}"),
            "remove the line",
        )),
        Some(users) if *users != row.users => {
            let what = format!("{name} is used by {users}, not by {}", row.users);
            Some(Finding::new(row.place(), what, "mend the second column"))
        }
        Some(_) if row.why.is_empty() => Some(Finding::new(
            row.place(),
            format!("no reason for {name}"),
            "fill the third column",
        )),
        Some(_) => None,
    });
    missing.chain(wrong).collect()
}

/// One line of the document's table.
struct Row<'a> {
    line: usize,
    users: &'a str,
    why: &'a str,
}

impl Row<'_> {
    fn place(&self) -> String {
        format!("{DOCUMENT}:{}", self.line)
    }
}

/// Parses the lines ``| `crate` | used by | why |``, by crate.
fn rows(document: &str) -> BTreeMap<&str, Row<'_>> {
    document
        .lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((
                name,
                Row {
                    line: index + 1,
                    users: cells.next()?,
                    why: cells.next()?,
                },
            ))
        })
        .collect()
}

/// Returns the users of each outside crate, as the document writes them:
/// `core, http; tests: local`.
fn users(members: &[String], edges: &[Edge]) -> BTreeMap<String, String> {
    let mut sets = BTreeMap::<&str, [BTreeSet<&str>; 2]>::new();
    for edge in edges.iter().filter(|edge| !members.contains(&edge.used)) {
        let short = edge.user.strip_prefix("waypost-").unwrap_or(&edge.user);
        sets.entry(&edge.used).or_default()[usize::from(edge.dev)].insert(short);
    }
    sets.into_iter()
        .map(|(name, [build, tests])| (name.to_owned(), written(&build, &tests)))
        .collect()
}

fn written(build: &BTreeSet<&str>, tests: &BTreeSet<&str>) -> String {
    let join =
        |names: &mut dyn Iterator<Item = &&str>| names.copied().collect::<Vec<_>>().join(", ");
    let build_names = join(&mut build.iter());
    let test_names = join(&mut tests.difference(build));
    match (build_names.is_empty(), test_names.is_empty()) {
        (_, true) => build_names,
        (true, false) => format!("tests: {test_names}"),
        (false, false) => format!("{build_names}; tests: {test_names}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: &str) -> Vec<String> {
        let edge = |user: &str, used: &str, dev| Edge {
            user: user.to_owned(),
            used: used.to_owned(),
            dev,
        };
        let members = ["waypost-core".to_owned(), "waypost-http".to_owned()];
        let edges = [
            edge("waypost-http", "waypost-core", false),
            edge("waypost-http", "h2", false),
            edge("waypost-core", "bytes", false),
            edge("waypost-http", "bytes", true),
        ];
        check(document, &members, &edges)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    const GOOD: &str = "| crate | used by | why |\n|---|---|---|\n| `bytes` | core; tests: http | buffers |\n| `h2` | http | HTTP/2 |\n";

    #[test]
    fn a_complete_document_passes() {
        assert_eq!(found(GOOD), [""; 0]);
    }

    #[test]
    fn a_missing_a_stale_and_a_wrong_line_are_reported() {
        assert_eq!(
            found(&GOOD.replace("h2", "hyper")),
            ["no line for h2", "no crate uses hyper"]
        );
        assert_eq!(
            found(&GOOD.replace("| http |", "| core |")),
            ["h2 is used by http, not by core"]
        );
        assert_eq!(found(&GOOD.replace("HTTP/2", "")), ["no reason for h2"]);
    }
}
