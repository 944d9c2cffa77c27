//! `size`: what the tree holds, counted from its source: lines, doc sentences, type names, module
//! cycles, examples.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

use crate::lint::hides_subject;
use crate::paths::{TEST_MODULE, TestFiles, is_test_module, module, uses};
use crate::source::{Token, code_lines, doc_comments, tokens};
use crate::workspace::{Result, Workspace};

/// Crates that no user builds.
const DEVELOPMENT: &[&str] = &[
    "waypost-testkit",
    "waypost-bench",
    "waypost-model",
    "bench",
    "xtask",
];

/// Type names that each crate or implementation may have for itself.
const SHARED_BY_RIGHT: &[&str] = &["Error", "Result", "Config"];

/// Prints the counts, as a table or as one JSON object.
pub(crate) fn run(workspace: &Workspace, as_json: bool) -> Result<bool> {
    let mut sources = Vec::new();
    for file in workspace.tracked()? {
        if rust_file(&file).is_some() {
            sources.push((file.clone(), workspace.read(&file)?));
        }
    }
    let counts = TreeCounts::of(&sources);
    if as_json {
        println!("{}", counts.json());
    } else {
        print!("{}", counts.table());
    }
    Ok(true)
}

/// Returns the crate of a Rust file and its path in the crate. Generated code has neither.
fn rust_file(file: &str) -> Option<(&str, &str)> {
    let (name, path) = file.strip_prefix("crates/")?.split_once('/')?;
    (path.ends_with(".rs") && !path.contains("/generated/")).then_some((name, path))
}

/// Lines of a kind: all of them, and those with code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    all: usize,
    code: usize,
}

impl Lines {
    fn add(&mut self, code: &[bool]) {
        self.all += code.len();
        self.code += code.iter().filter(|code| **code).count();
    }
}

#[derive(Default)]
struct TreeCounts {
    /// Lines of each crate: those of the product or tool, and those of its tests.
    lines: BTreeMap<String, [Lines; 2]>,
    doc_comments: usize,
    hidden_subjects: usize,
    /// Places where a type of each name is defined, outside tests.
    types: BTreeMap<String, Vec<String>>,
    /// Modules of each crate, and the modules that each uses.
    modules: BTreeMap<String, BTreeMap<Vec<String>, Vec<Vec<String>>>>,
    /// Compiled examples in doc comments of each crate.
    examples: BTreeMap<String, usize>,
}

impl TreeCounts {
    /// Counts the sources, each with its path from the root.
    fn of(sources: &[(String, String)]) -> Self {
        let tests = TestFiles::of(sources);
        let mut counts = Self::default();
        for (file, source) in sources {
            if let Some((name, path)) = rust_file(file) {
                let is_source = path.starts_with("src/") || path == "build.rs";
                counts.add(name, path, source, !is_source || tests.contains(file));
            }
        }
        counts
    }

    fn add(&mut self, name: &str, path: &str, source: &str, is_test_file: bool) {
        let code = code_lines(source);
        let all = tokens(source);
        let tests = if is_test_file {
            vec![(1, code.len())]
        } else {
            test_modules(&all)
        };
        let is_test = |line: usize| {
            tests
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&line))
        };
        let [product, test] = self.lines.entry(name.to_owned()).or_default();
        for (index, code) in code.iter().enumerate() {
            if is_test(index + 1) {
                test.add(&[*code]);
            } else {
                product.add(&[*code]);
            }
        }
        for comment in doc_comments(source) {
            self.doc_comments += 1;
            self.hidden_subjects += usize::from(hides_subject(&comment.text));
            *self.examples.entry(name.to_owned()).or_default() += examples(&comment.text);
        }
        let all: Vec<Token> = all
            .into_iter()
            .filter(|token| !is_test(token.line))
            .collect();
        for (name, line) in types(&all) {
            self.types
                .entry(name)
                .or_default()
                .push(format!("{path}:{line}"));
        }
        if let Some(file) = path.strip_prefix("src/").filter(|_| !is_test_file) {
            let module = module(file);
            let used = uses(&all, module.clone())
                .into_iter()
                .map(|used| used.path)
                .collect();
            self.modules
                .entry(name.to_owned())
                .or_default()
                .insert(module, used);
        }
    }

    fn sum(&self, wanted: impl Fn(&str, usize) -> bool) -> Lines {
        let mut sum = Lines::default();
        for (name, kinds) in &self.lines {
            for (kind, lines) in kinds.iter().enumerate() {
                if wanted(name, kind) {
                    sum.all += lines.all;
                    sum.code += lines.code;
                }
            }
        }
        sum
    }

    /// Returns the names that unrelated types share.
    fn shared_names(&self) -> Vec<&str> {
        let shared = self
            .types
            .iter()
            .filter(|(name, places)| places.len() > 1 && !is_by_right(name));
        shared.map(|(name, _)| name.as_str()).collect()
    }

    fn cycles(&self) -> Vec<String> {
        let of_crate = |(name, modules): (&String, &BTreeMap<_, _>)| {
            let cycles = cycles(modules).into_iter();
            cycles
                .map(|cycle| format!("{name}: {}", cycle.join(", ")))
                .collect::<Vec<_>>()
        };
        self.modules.iter().flat_map(of_crate).collect()
    }

    fn product_examples(&self) -> usize {
        let product = self
            .examples
            .iter()
            .filter(|(name, _)| !is_development(name));
        product.map(|(_, examples)| examples).sum()
    }

    fn totals(&self) -> [(&'static str, Lines); 3] {
        [
            (
                "product",
                self.sum(|name, kind| !is_development(name) && kind == 0),
            ),
            ("tests", self.sum(|_, kind| kind == 1)),
            (
                "development tools",
                self.sum(|name, kind| is_development(name) && kind == 0),
            ),
        ]
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{:<22} {:>8} {:>8} {:>8} {:>8}\n",
            "", "lines", "code", "tests", "code"
        );
        // Writing to a string does not fail.
        for (name, [product, tests]) in &self.lines {
            let (all, code) = (product.all, product.code);
            let _ = writeln!(
                table,
                "{name:<22} {all:>8} {code:>8} {:>8} {:>8}",
                tests.all, tests.code
            );
        }
        for (name, lines) in self.totals() {
            let _ = writeln!(table, "{name:<22} {:>8} {:>8}", lines.all, lines.code);
        }
        let (comments, hidden) = (self.doc_comments, self.hidden_subjects);
        let _ = writeln!(
            table,
            "doc comments {comments}, of which {hidden} ({}) begin with a question word or a pronoun",
            percent(hidden, comments)
        );
        let (names, shared) = (self.types.len(), self.shared_names());
        let share = percent(shared.len(), names);
        let _ = writeln!(
            table,
            "type names {names}, of which {} ({share}) are shared: {}",
            shared.len(),
            shared.join(" ")
        );
        let cycles = self.cycles();
        let _ = writeln!(table, "module cycles {}", cycles.len());
        for cycle in cycles {
            let _ = writeln!(table, "  {cycle}");
        }
        let _ = writeln!(table, "compiled examples {}", self.product_examples());
        table
    }

    fn json(&self) -> Value {
        let lines = |lines: &Lines| json!({ "lines": lines.all, "code": lines.code });
        let crates: serde_json::Map<String, Value> = self
            .lines
            .iter()
            .map(|(name, [product, tests])| {
                (
                    name.clone(),
                    json!({ "source": lines(product), "tests": lines(tests) }),
                )
            })
            .collect();
        let totals = self
            .totals()
            .map(|(name, sum)| json!({ "name": name, "lines": sum.all, "code": sum.code }));
        json!({
            "crates": crates,
            "totals": totals,
            "doc_comments": self.doc_comments,
            "hidden_subjects": self.hidden_subjects,
            "type_names": self.types.len(),
            "shared_type_names": self.shared_names(),
            "module_cycles": self.cycles(),
            "compiled_examples": self.product_examples(),
        })
    }
}

fn is_development(name: &str) -> bool {
    DEVELOPMENT.contains(&name)
}

fn is_by_right(name: &str) -> bool {
    SHARED_BY_RIGHT.contains(&name)
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

/// Returns the first and last line of each `#[cfg(test)] mod … { … }`.
fn test_modules(tokens: &[Token]) -> Vec<(usize, usize)> {
    let starts = tokens
        .windows(TEST_MODULE.len())
        .enumerate()
        .filter(|(_, window)| is_test_module(window));
    let starts = starts.map(|(at, _)| at).filter(|at| {
        tokens
            .get(at + TEST_MODULE.len() + 1)
            .is_some_and(|token| token.text == "{")
    });
    starts
        .map(|at| {
            let mut depth = 0_usize;
            let body = tokens[at..].iter().skip(TEST_MODULE.len() + 1);
            let end = body.take_while(|token| {
                match token.text.as_str() {
                    "{" => depth += 1,
                    "}" => depth = depth.saturating_sub(1),
                    ";" if depth == 0 => return false,
                    _ => {}
                }
                depth > 0
            });
            let last = end.last().map_or(tokens[at].line, |token| token.line + 1);
            (tokens[at].line, last)
        })
        .collect()
}

/// Returns the types that the tokens define, with their lines. Associated types are none.
fn types(tokens: &[Token]) -> Vec<(String, usize)> {
    let defines = |window: &[Token]| {
        let (word, name) = (window[0].text.as_str(), &window[1]);
        let is_definition = matches!(word, "struct" | "enum" | "trait");
        let is_name = name.text.starts_with(char::is_uppercase);
        (is_definition && is_name).then(|| (name.text.clone(), name.line))
    };
    tokens.windows(2).filter_map(defines).collect()
}

/// Returns the number of code blocks in a doc comment that rustdoc compiles.
fn examples(comment: &str) -> usize {
    let marks = comment
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("```"));
    let opening = marks.step_by(2);
    let is_compiled = |info: &str| {
        let words: BTreeSet<&str> = info
            .split([',', ' '])
            .filter(|word| !word.is_empty())
            .collect();
        words
            .iter()
            .all(|word| matches!(*word, "rust" | "no_run" | "should_panic" | "compile_fail"))
    };
    opening.filter(|info| is_compiled(info)).count()
}

/// Returns the groups of modules that use each other in a circle. Uses between a module and one inside
/// it do not count.
fn cycles(modules: &BTreeMap<Vec<String>, Vec<Vec<String>>>) -> Vec<Vec<String>> {
    let resolve = |path: &Vec<String>| {
        (1..=path.len())
            .rev()
            .map(|n| path[..n].to_vec())
            .find(|prefix| modules.contains_key(prefix))
    };
    let edges: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = modules
        .iter()
        .map(|(module, used)| {
            let used = used.iter().filter_map(resolve);
            let others = used.filter(|used| !used.starts_with(module) && !module.starts_with(used));
            (module, others.collect())
        })
        .collect();
    let reached = |from: &Vec<String>| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.clone()];
        while let Some(module) = open.pop() {
            for next in edges.get(&module).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = modules
        .keys()
        .map(|module| (module, reached(module)))
        .collect();
    let mut found = BTreeSet::new();
    for (module, reachable) in reach
        .iter()
        .filter(|(module, reachable)| reachable.contains(**module))
    {
        let back = reachable
            .iter()
            .filter(|other| reach.get(other).is_some_and(|back| back.contains(*module)));
        found.insert(back.map(|path| path.join("::")).collect::<Vec<_>>());
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sources: &[(&str, &str)]) -> TreeCounts {
        let sources: Vec<_> = sources
            .iter()
            .map(|(file, source)| (format!("crates/{file}"), (*source).to_owned()))
            .collect();
        TreeCounts::of(&sources)
    }

    #[test]
    fn lines_are_counted_by_kind() {
        let source = "//! Doc.\n\nstruct A;\n// note\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
        let counts = counts(&[
            ("waypost-core/src/a.rs", source),
            ("waypost-core/src/b/mod.rs", "#[cfg(test)]\nmod model;\n"),
            ("waypost-core/src/b/model.rs", "fn i() {}\n"),
            ("waypost-core/src/b/model/deep.rs", "fn j() {}\n"),
            ("waypost-core/tests/it/main.rs", "fn h() {}\n"),
        ]);
        let [product, tests] = counts.lines["waypost-core"];
        assert_eq!(
            (product, tests),
            (Lines { all: 8, code: 4 }, Lines { all: 7, code: 7 })
        );
    }

    #[test]
    fn a_name_is_shared_if_two_types_have_it() {
        let counts = counts(&[
            (
                "a/src/lib.rs",
                "pub struct Line; enum Error {} impl X { type Item = u8; }",
            ),
            (
                "b/src/lib.rs",
                "trait Line {} enum Error {}\n#[cfg(test)]\nmod tests { struct X; }",
            ),
        ]);
        assert_eq!(
            (counts.types.len(), counts.shared_names()),
            (2, vec!["Line"])
        );
    }

    #[test]
    fn modules_that_use_each_other_are_a_cycle_unless_one_is_inside_the_other() {
        let counts = counts(&[
            ("a/src/lib.rs", "mod x; mod y; mod z;"),
            ("a/src/x.rs", "use crate::y::Y; use super::z::deep;"),
            ("a/src/y.rs", "use crate::x::{self, X};"),
            ("a/src/z/mod.rs", "mod deep; use deep::D;"),
            ("a/src/z/deep.rs", "use super::Z;"),
        ]);
        assert_eq!(counts.cycles(), ["a: x, y"]);
    }

    #[test]
    fn only_examples_that_rustdoc_compiles_count() {
        let comment =
            "A.\n```\nlet a = 1;\n```\n```text\nb\n```\n```no_run\nc();\n```\n```ignore\n```";
        assert_eq!(examples(comment), 2);
    }
}
