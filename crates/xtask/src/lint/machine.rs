//! Lint of paths: no tracked file names a path of one machine, or a file outside the project.

use super::Finding;
use crate::workspace::{Result, Workspace};

pub(super) fn run(workspace: &Workspace) -> Result<Vec<Finding>> {
    let patterns = patterns();
    let mut findings = Vec::new();
    for file in workspace.tracked()? {
        // A tracked file may be deleted in the work tree; of a link the target is checked.
        let path = workspace.root().join(&file);
        let bytes = match std::fs::read_link(&path) {
            Ok(target) => target.to_string_lossy().into_owned().into_bytes(),
            Err(_) => std::fs::read(&path).unwrap_or_default(),
        };
        findings.extend(check(&patterns, &file, &String::from_utf8_lossy(&bytes)));
    }
    Ok(findings)
}

/// Returns the forbidden strings. They are concatenated here, so that this file does not contain
/// them.
fn patterns() -> Vec<String> {
    let folders = ["root", "work", "home", "Users"].map(|folder| format!("/{folder}/"));
    let outside = [["..", "shared"].join("/")];
    folders.into_iter().chain(outside).collect()
}

fn check(patterns: &[String], file: &str, text: &str) -> Vec<Finding> {
    let lines = text.lines().enumerate();
    let found = lines.filter_map(|(index, line)| {
        Some((
            index + 1,
            patterns.iter().find(|pattern| names(line, pattern))?,
        ))
    });
    let finding = |(line, pattern): (usize, &String)| {
        let remedy = "name it from the project's root, use a temporary folder, or copy the file into the project";
        Finding::new(
            format!("{file}:{line}"),
            format!("{pattern} is a path of one machine"),
            remedy,
        )
    };
    found.map(finding).collect()
}

/// Returns true if the line has `pattern` as a path of its own, not inside a longer one such as
/// `src/work/`.
fn names(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        let before = &line[..at];
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "._-~/$}>".contains(c));
        let goes_on = line[at + pattern.len()..]
            .starts_with(|c: char| c.is_alphanumeric() || "._-/".contains(c));
        (begins || before.ends_with("://") || pattern.starts_with('.'))
            && (goes_on || !pattern.ends_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        check(&patterns(), "a.rs", text)
            .into_iter()
            .map(|finding| finding.place)
            .collect()
    }

    #[test]
    fn a_path_of_a_machine_is_reported() {
        for folder in ["root/x", "home/ann/x", "work/x", "Users/ann"] {
            assert_eq!(
                lines(&format!("ok\nlet x = \"/{folder}\";")),
                ["a.rs:2"],
                "{folder}"
            );
            assert_eq!(lines(&format!("file:///{folder}")), ["a.rs:1"], "{folder}");
        }
        assert_eq!(lines(&["see ..", "shared", "x"].join("/")), ["a.rs:1"]);
    }

    #[test]
    fn longer_paths_and_urls_are_not() {
        let texts = [
            "https://example.com/home/page",
            "src/work/mod.rs",
            "./root/x",
            "$HOME/root/x",
            "/tmp/x",
        ];
        assert_eq!(texts.map(lines), [const { Vec::<String>::new() }; 5]);
    }
}
