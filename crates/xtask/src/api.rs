//! `api`: the public signatures of the façade, read from rustdoc's JSON. Every type of ours in one of
//! them must have a name below `waypost`, and no type of a crate that is an implementation detail may
//! stand in one.
//!
//! Rustdoc's JSON needs a nightly toolchain. The names are kept in a test of the façade, which compiles
//! them on every toolchain.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::workspace::{Result, Workspace, output};

const FACADE: &str = "waypost";
/// Crates whose types the façade exports.
const CRATES: [&str; 6] = [
    FACADE,
    "waypost-core",
    "waypost-http",
    "waypost-tonic",
    "waypost-local",
    "waypost-etcd",
];
/// Crates whose types may change with any of our versions.
const HIDDEN: [&str; 5] = ["h2", "fastrand", "arc_swap", "rustix", "prost"];
/// Test of the façade that names every type.
const NAMES: &str = "crates/waypost/tests/it/names.rs";

/// Checks the façade; with `bless`, writes the test that names its types.
pub(crate) fn run(workspace: &Workspace, bless: bool) -> Result<bool> {
    let crates = Crates::document(workspace)?;
    let names = crates.names();
    let mut findings = crates.unnamed(&names);
    let expected = test(&names);
    if bless {
        std::fs::write(workspace.root().join(NAMES), &expected)?;
    } else if workspace.read(NAMES)? != expected {
        findings.insert(format!(
            "{NAMES} is not up to date: run `cargo xtask api --bless`"
        ));
    }
    findings.iter().for_each(|finding| println!("{finding}"));
    println!(
        "{} types of the façade have a name, {} findings",
        names.len(),
        findings.len()
    );
    Ok(findings.is_empty())
}

/// Rustdoc's JSON of each crate, by the crate's name in Rust.
struct Crates(BTreeMap<String, Value>);

/// Item of a crate.
#[derive(Clone, Copy)]
struct Item<'a> {
    of: &'a str,
    json: &'a Value,
}

impl Crates {
    fn document(workspace: &Workspace) -> Result<Self> {
        let mut crates = BTreeMap::new();
        for name in CRATES {
            let json = PathBuf::from("target/api");
            let mut command = Command::new("rustup");
            command.args([
                "run",
                "nightly",
                "cargo",
                "rustdoc",
                "--package",
                name,
                "--lib",
                "--all-features",
            ]);
            // The toolchain of this tool would win over the one that is asked for.
            command
                .env_remove("CARGO")
                .env_remove("RUSTC")
                .env_remove("RUSTUP_TOOLCHAIN");
            command
                .current_dir(workspace.root())
                .arg("--target-dir")
                .arg(&json);
            command.args([
                "--",
                "-Zunstable-options",
                "--output-format",
                "json",
                "--cap-lints",
                "allow",
            ]);
            output(&mut command)?;
            let name = name.replace('-', "_");
            let text = std::fs::read(
                workspace
                    .root()
                    .join(&json)
                    .join(format!("doc/{name}.json")),
            )?;
            crates.insert(name, serde_json::from_slice(&text)?);
        }
        Ok(Self(crates))
    }

    /// Returns the public names below the façade, by the path where each item is defined.
    fn names(&self) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        if let Some(root) = self.item(FACADE, &self.0[FACADE]["root"]) {
            self.walk(root, FACADE, &mut names);
        }
        names
    }

    fn item<'a>(&'a self, of: &'a str, id: &Value) -> Option<Item<'a>> {
        let json = self.0.get(of)?["index"].get(id.to_string())?;
        Some(Item { of, json })
    }

    /// Returns the path where an item is defined, seen from the crate `of`.
    fn path(&self, of: &str, id: &Value) -> Option<Vec<String>> {
        let path = self.0.get(of)?["paths"].get(id.to_string())?["path"].as_array()?;
        Some(
            path.iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Returns the item with this id, wherever it is defined.
    fn resolve<'a>(&'a self, of: &'a str, id: &Value) -> Option<Item<'a>> {
        self.item(of, id)
            .or_else(|| self.defined_at(&self.path(of, id)?.join("::")))
    }

    fn walk<'a>(&'a self, module: Item<'a>, name: &str, names: &mut BTreeMap<String, String>) {
        for id in module.json["inner"]["module"]["items"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let Some(item) = self
                .item(module.of, id)
                .filter(|item| item.json["visibility"] == "public")
            else {
                continue;
            };
            let used = &item.json["inner"]["use"];
            if used.is_null() {
                self.add(
                    item,
                    &format!("{name}::{}", text(&item.json["name"])),
                    names,
                );
            } else if let Some(target) = self.resolve(module.of, &used["id"]) {
                match used["is_glob"] == true {
                    true => self.walk(target, name, names),
                    false => self.add(target, &format!("{name}::{}", text(&used["name"])), names),
                }
            }
        }
    }

    fn add<'a>(&'a self, item: Item<'a>, name: &str, names: &mut BTreeMap<String, String>) {
        if item.json["inner"].get("module").is_some() {
            return self.walk(item, name, names);
        }
        if let Some(path) = self.path(item.of, &item.json["id"]) {
            let shortest = names
                .entry(path.join("::"))
                .or_insert_with(|| name.to_owned());
            if name.len() < shortest.len() {
                name.clone_into(shortest);
            }
        }
    }

    /// Returns what is wrong in the signatures of the named items.
    fn unnamed(&self, names: &BTreeMap<String, String>) -> BTreeSet<String> {
        let mut findings = BTreeSet::new();
        for (defined, name) in names {
            let Some(item) = self.defined_at(defined) else {
                continue;
            };
            let mut used = BTreeSet::new();
            self.signatures(item, &mut used);
            for path in used {
                let owner = path.split("::").next().unwrap_or_default();
                if self.0.contains_key(owner) && !names.contains_key(&path) {
                    findings.insert(format!(
                        "{name}: its signatures name {path}, which has no name below {FACADE}"
                    ));
                } else if HIDDEN.contains(&owner) {
                    findings.insert(format!(
                        "{name}: its signatures name {path}, a type of a hidden dependency"
                    ));
                }
            }
        }
        findings
    }

    fn defined_at(&self, path: &str) -> Option<Item<'_>> {
        let (owner, json) = self.0.get_key_value(path.split("::").next()?)?;
        let is_it = |entry: &Value| {
            entry["crate_id"] == 0
                && entry["path"]
                    .as_array()
                    .is_some_and(|found| joined(found) == path)
        };
        let (id, _) = json["paths"]
            .as_object()?
            .iter()
            .find(|(_, entry)| is_it(entry))?;
        Some(Item {
            of: owner,
            json: json["index"].get(id)?,
        })
    }

    /// Adds the paths of all types in the public signatures of an item and its members.
    fn signatures(&self, item: Item<'_>, used: &mut BTreeSet<String>) {
        let inner = &item.json["inner"];
        for kind in [
            "function",
            "type_alias",
            "constant",
            "struct_field",
            "assoc_type",
            "assoc_const",
        ] {
            self.types(item.of, &inner[kind], used);
        }
        let members = ["struct", "enum", "trait"].map(|kind| &inner[kind]);
        for member in members
            .into_iter()
            .flat_map(|kind| ["impls", "variants", "items", "kind"].map(|key| &kind[key]))
        {
            self.members(item.of, member, used);
        }
        self.members(item.of, &inner["variant"]["kind"], used);
    }

    /// Follows the ids of members: public fields and methods, variants, items of traits.
    fn members(&self, of: &str, ids: &Value, used: &mut BTreeSet<String>) {
        match ids {
            Value::Array(ids) => ids.iter().for_each(|id| self.members(of, id, used)),
            Value::Object(fields) => fields.values().for_each(|id| self.members(of, id, used)),
            Value::Number(_) => {
                let Some(item) = self.item(of, ids) else {
                    return;
                };
                let implemented = &item.json["inner"]["impl"];
                if implemented.is_object() {
                    // What a trait demands is not ours to name.
                    if implemented["trait"].is_null() {
                        self.members(of, &implemented["items"], used);
                    }
                } else if matches!(item.json["visibility"].as_str(), Some("public" | "default")) {
                    self.signatures(item, used);
                }
            }
            _ => {}
        }
    }

    fn types(&self, of: &str, json: &Value, used: &mut BTreeSet<String>) {
        match json {
            Value::Array(values) => values.iter().for_each(|value| self.types(of, value, used)),
            Value::Object(fields) => {
                if fields.contains_key("path") && fields.contains_key("args") {
                    used.extend(self.path(of, &fields["id"]).map(|path| path.join("::")));
                }
                fields
                    .values()
                    .for_each(|value| self.types(of, value, used));
            }
            _ => {}
        }
    }
}

fn text(name: &Value) -> &str {
    name.as_str().unwrap_or_default()
}

fn joined(path: &[Value]) -> String {
    path.iter().map(text).collect::<Vec<_>>().join("::")
}

/// Returns the source of the test that names every type.
fn test(names: &BTreeMap<String, String>) -> String {
    let names: BTreeSet<&String> = names.values().collect();
    let uses: String = names
        .into_iter()
        .map(|name| format!("use {name} as _;\n"))
        .collect();
    format!(
        "//! Every public name of the façade. Written by `cargo xtask api --bless`.\n\n\
         #![expect(unused_imports, reason = \"each is only named\")]\n\n{uses}"
    )
}
