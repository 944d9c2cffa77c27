//! Order of the top-level modules ("rooms") of a crate: each may use only `crate::<room before it>`.
//! The orders are ARCHITECTURE.md's lists.

use std::path::Path;

use super::Finding;
use super::architecture::{self, ORDERED};
use crate::paths::{TestFiles, WHOLE, module, uses};
use crate::source::tokens;
use crate::workspace::{Result, Workspace};

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let document = workspace.read(architecture::DOCUMENT)?;
    let mut findings = Vec::new();
    for name in ORDERED {
        let (rooms, sources) = (
            architecture::rooms(&document, name),
            architecture::sources(name),
        );
        let read = |file: String| {
            let source = workspace.read(&format!("{sources}/{file}"))?;
            Ok((file, source))
        };
        let files = files(&workspace.root().join(&sources), "")?
            .into_iter()
            .map(read)
            .collect::<Result<Vec<_>>>()?;
        let tests = TestFiles::of(&files);
        for (file, source) in files.iter().filter(|(file, _)| !tests.contains(file)) {
            findings.extend(check(&rooms, &sources, file, source));
        }
    }
    Ok(findings)
}

/// The Rust files below `folder`, as `registry/mod.rs`.
fn files(folder: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path(), &format!("{name}/"))?);
        } else if name.ends_with(".rs") {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns what the file `file` (from `src`) uses and may not use. The crate root may use every room.
fn check(rooms: &[String], sources: &str, file: &str, source: &str) -> Vec<Finding> {
    let module = module(file);
    let Some(room) = module.first().cloned() else {
        return Vec::new();
    };
    let place = |line| format!("{sources}/{file}:{line}");
    let Some(position) = rooms.iter().position(|name| *name == room) else {
        let what = format!("the room {room} is not in {}", architecture::DOCUMENT);
        return vec![Finding::new(
            place(1),
            what,
            "give it its place in the list of rooms there",
        )];
    };
    let before = &rooms[..position];
    let remedy = if before.is_empty() {
        "it is the first room and uses none".to_owned()
    } else {
        format!("it may use: {}", before.join(", "))
    };
    let used = uses(&tokens(source), module)
        .into_iter()
        .map(|used| (used.room().to_owned(), used.line));
    let wrong = used.filter(|(used, _)| *used != room && !before.contains(used));
    wrong
        .map(|(used, line)| {
            Finding::new(
                place(line),
                format!("the room {room} {}", complaint(rooms, &used)),
                remedy.clone(),
            )
        })
        .collect()
}

fn complaint(rooms: &[String], used: &str) -> String {
    match used {
        WHOLE => "takes in the whole crate; name the room".to_owned(),
        used if rooms.iter().any(|name| name == used) => format!("uses the later room {used}"),
        used => format!("uses crate::{used}, which is not a room; name the room it comes from"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, source: &str) -> Vec<String> {
        let rooms = ["record", "registry", "directory", "peer"].map(str::to_owned);
        check(&rooms, "src", file, source)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn an_upward_import_is_reported_with_its_line() {
        let rooms = ["record", "registry"].map(str::to_owned);
        let found = check(
            &rooms,
            "src",
            "record/json.rs",
            "use std::fmt;\nuse crate::registry::Event;\n",
        );
        assert_eq!(found[0].place, "src/record/json.rs:2");
        assert_eq!(
            found[0].what,
            "the room record uses the later room registry"
        );
    }

    #[test]
    fn earlier_rooms_and_the_own_one_pass() {
        assert_eq!(
            found(
                "directory.rs",
                "use crate::record::Entry; use crate::registry::{Error, Event}; use crate::directory::X;"
            ),
            NONE
        );
        assert_eq!(found("lib.rs", "pub use crate::peer::Peer;"), NONE);
    }

    #[test]
    fn every_way_to_write_it_is_seen() {
        let upward = ["the room registry uses the later room peer"];
        assert_eq!(
            found(
                "registry/mod.rs",
                "use crate::{record::{Entry, Key}, peer::Peer};"
            ),
            upward
        );
        assert_eq!(found("registry/mod.rs", "use super::peer::Peer;"), upward);
        assert_eq!(
            found("registry/event.rs", "fn f(x: super::super::peer::Peer) {}"),
            upward
        );
        assert_eq!(
            found("registry/event.rs", "use super::{Error, super::peer};"),
            upward
        );
        assert_eq!(
            found("registry/event.rs", "type X = self::super::super::peer::X;"),
            upward
        );
        assert_eq!(
            found(
                "registry/event.rs",
                "macro_rules! m { () => { $crate::peer::X } }"
            ),
            upward
        );
        assert_eq!(
            found(
                "registry/event.rs",
                "mod tests { use super::super::super::peer::X; }"
            ),
            upward
        );
        assert_eq!(
            found("registry/event.rs", "fn f() { crate :: peer\n::X }"),
            upward
        );
    }

    #[test]
    fn the_whole_crate_and_unknown_names_are_reported() {
        let whole = ["the room registry takes in the whole crate; name the room"];
        assert_eq!(found("registry.rs", "use crate::*;"), whole);
        assert_eq!(found("registry.rs", "use crate as all;"), whole);
        assert_eq!(found("registry.rs", "use crate::{self as all};"), whole);
        assert_eq!(found("registry.rs", "use super::*;"), whole);
        assert_eq!(
            found("registry.rs", "use crate::Error;"),
            [
                "the room registry uses crate::Error, which is not a room; name the room it comes from"
            ]
        );
        assert_eq!(
            found("helper.rs", ""),
            ["the room helper is not in ARCHITECTURE.md"]
        );
    }

    #[test]
    fn comments_strings_and_visibility_are_no_use() {
        let source = "//! See [`crate::peer`].\n/* crate::peer */ pub(crate) const X: &str = \"crate::peer\"; pub(in crate::record) fn f() {}";
        assert_eq!(found("record/mod.rs", source), NONE);
    }

    #[test]
    fn inline_modules_and_their_ends_are_followed() {
        let source = "mod tests { use super::*; fn f() { if true { } } } use super::record::Key; mod more { mod deep { use super::super::X; } }";
        assert_eq!(found("registry.rs", source), NONE);
        assert_eq!(
            found("registry.rs", "mod a { fn f() {} } use super::peer::X;"),
            ["the room registry uses the later room peer"]
        );
    }
}
