//! Paths in Rust source: the module that a file is, and what it names of its own crate.

use crate::source::{Token, tokens};

/// Returns the module that a file is: `registry/mod.rs` is `[registry]`, `lib.rs` the root.
pub(crate) fn module(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    path.split('/')
        .filter(|part| !matches!(*part, "mod" | "lib"))
        .map(str::to_owned)
        .collect()
}

/// The crate root as a whole: `use crate::*`, `use crate as x`.
pub(crate) const WHOLE: &str = "*";

/// Use of something by its path from the crate's root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Segments of the path; never empty.
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
}

impl Use {
    /// Returns the first segment: a module of the crate's root, or [`WHOLE`].
    pub(crate) fn room(&self) -> &str {
        self.path.first().map_or(WHOLE, String::as_str)
    }
}

/// Returns every path that these tokens of `module` name by `crate::`, `self::` or `super::`.
pub(crate) fn uses(tokens: &[Token], module: Vec<String>) -> Vec<Use> {
    let mut reader = PathReader {
        tokens,
        at: 0,
        module,
        inline: Vec::new(),
        depth: 0,
        found: Vec::new(),
    };
    while reader.at < tokens.len() {
        reader.step();
    }
    reader.found
}

struct PathReader<'a> {
    tokens: &'a [Token],
    at: usize,
    module: Vec<String>,
    /// The brace depth at which each inline module opened.
    inline: Vec<usize>,
    depth: usize,
    found: Vec<Use>,
}

impl PathReader<'_> {
    fn text(&self, ahead: usize) -> &str {
        self.tokens
            .get(self.at + ahead)
            .map_or("", |token| &token.text)
    }

    fn step(&mut self) {
        match (self.text(0), self.text(1), self.text(2)) {
            ("mod", name, "{") => {
                self.module.push(name.to_owned());
                self.inline.push(self.depth);
                self.depth += 1;
                self.at += 3;
            }
            ("{", ..) => {
                self.depth += 1;
                self.at += 1;
            }
            ("}", ..) => self.close(),
            ("crate" | "super" | "self", "::", _) => self.path(None),
            ("crate", "as", _) => self.take(vec![WHOLE.to_owned()]),
            _ => self.at += 1,
        }
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.inline.last() == Some(&self.depth) {
            self.inline.pop();
            self.module.pop();
        }
        self.at += 1;
    }

    /// Follows one path, or one branch of a `use` tree below `base`, to its end.
    fn path(&mut self, base: Option<Vec<String>>) {
        let mut base = base.unwrap_or_else(|| self.module.clone());
        loop {
            match self.text(0) {
                "crate" => base.clear(),
                "super" => drop(base.pop()),
                "self" => {}
                _ => break,
            }
            if self.text(1) != "::" {
                break;
            }
            self.at += 2;
        }
        while self.text(1) == "::" {
            base.push(self.text(0).to_owned());
            self.at += 2;
        }
        if self.text(0) == "{" {
            self.group(&base);
        } else {
            self.end(base);
        }
    }

    /// Ends a path with the word here.
    fn end(&mut self, mut path: Vec<String>) {
        match self.text(0) {
            "self" | "super" | "crate" | "*" if path.is_empty() => path.push(WHOLE.to_owned()),
            "self" | "super" | "crate" | "*" => {}
            word => path.push(word.to_owned()),
        }
        self.take(path);
    }

    fn take(&mut self, path: Vec<String>) {
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        self.found.push(Use { path, line });
        self.at += 1;
    }

    /// The branches of `{a, b::{c, d}}`, each from `base`.
    fn group(&mut self, base: &[String]) {
        self.at += 1;
        let mut first = true;
        let mut depth = 1;
        while depth > 0 && self.at < self.tokens.len() {
            match self.text(0) {
                "{" => (depth, self.at) = (depth + 1, self.at + 1),
                "}" => (depth, self.at) = (depth - 1, self.at + 1),
                "," => (first, self.at) = (first || depth == 1, self.at + 1),
                _ if first => {
                    first = false;
                    self.path(Some(base.to_vec()));
                }
                _ => self.at += 1,
            }
        }
    }
}

/// Files of modules that are compiled for tests only, by the paths of their modules.
pub(crate) struct TestFiles(Vec<String>);

impl TestFiles {
    /// Finds the test modules that the sources, each with its path, declare.
    pub(crate) fn of(sources: &[(String, String)]) -> Self {
        let declared = |(file, source): &(String, String)| {
            let folder = module_folder(file);
            test_files(&tokens(source))
                .into_iter()
                .map(|name| format!("{folder}/{name}"))
                .collect::<Vec<_>>()
        };
        Self(sources.iter().flat_map(declared).collect())
    }

    /// Returns true if the file is one of them, or a module inside one.
    pub(crate) fn contains(&self, file: &str) -> bool {
        let is_below = |test: &String| {
            file.strip_prefix(test.as_str())
                .is_some_and(|rest| rest.starts_with(['/', '.']))
        };
        self.0.iter().any(is_below)
    }
}

/// Returns the folder of the modules that a file declares: `a/src/x.rs` has them in `a/src/x`.
fn module_folder(file: &str) -> &str {
    let file = file.trim_end_matches(".rs");
    ["/mod", "/lib", "/main"]
        .into_iter()
        .find_map(|root| file.strip_suffix(root))
        .unwrap_or(file)
}

/// Returns the names of the modules in files of their own that are compiled for tests only.
fn test_files(tokens: &[Token]) -> Vec<&str> {
    let declared = tokens
        .windows(TEST_MODULE.len() + 2)
        .filter(|window| is_test_module(window) && window[9].text == ";");
    declared.map(|window| window[8].text.as_str()).collect()
}

pub(crate) const TEST_MODULE: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];

pub(crate) fn is_test_module(tokens: &[Token]) -> bool {
    tokens
        .iter()
        .take(TEST_MODULE.len())
        .map(|token| token.text.as_str())
        .eq(TEST_MODULE)
}
