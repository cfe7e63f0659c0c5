//! `cargo xtask tidy`: format, lints, and the rules of the house that a program can check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::shell::{self, cargo, output, root};
use crate::threats;

/// Longer files are hard to overlook; the limit leaves room for a file's tests.
const MAX_LINES: usize = 1000;

/// Checks everything.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn run() -> Result<(), String> {
    shell::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    shell::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    let problems = [edge_problems()?, file_problems(&root())?, threats::problems()?].concat();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// Crates that depend on what the table in `docs/ARCHITECTURE.md` does not allow.
fn edge_problems() -> Result<Vec<String>, String> {
    let table =
        fs::read_to_string(root().join("docs/ARCHITECTURE.md")).map_err(|error| format!("ARCHITECTURE: {error}"))?;
    let metadata = output(&mut cargo(&["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).map_err(|error| error.to_string())?;
    Ok(compare(&allowed_edges(&table), &actual_edges(&metadata)))
}

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Reads rows such as ``| `store` | ... | base |``.
fn allowed_edges(document: &str) -> Edges {
    let mut edges = Edges::new();
    for line in document.lines() {
        let cells: Vec<_> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [name, .., depends] = cells.as_slice() else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let depends = depends.split(',').map(|word| word.trim().trim_matches('`').to_owned());
        edges.insert(name.to_owned(), depends.filter(|word| !word.is_empty() && word != "-").collect());
    }
    edges
}

/// The edges between the crates of the workspace, tests' own dependencies left out.
fn actual_edges(metadata: &serde_json::Value) -> Edges {
    let short = |name: &str| name.strip_prefix("skiff-").unwrap_or(name).to_owned();
    let mut edges = Edges::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let in_crates = package["manifest_path"].as_str().is_some_and(|path| path.contains("/crates/"));
        let Some(name) = package["name"].as_str().filter(|_| in_crates) else { continue };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let ours = dependencies
            .filter(|dependency| dependency["kind"] != "dev" && dependency["path"].is_string())
            .filter_map(|dependency| dependency["name"].as_str().map(short));
        edges.insert(short(name), ours.collect());
    }
    edges
}

fn compare(allowed: &Edges, actual: &Edges) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in actual {
        match allowed.get(name) {
            None => problems.push(format!("crate {name} has no row in docs/ARCHITECTURE.md")),
            Some(may) if may.contains("all") => {}
            Some(may) => problems.extend(
                dependencies
                    .difference(may)
                    .map(|other| format!("crate {name} must not depend on {other} (docs/ARCHITECTURE.md)")),
            ),
        }
    }
    problems
}

/// Files without an opening `//!`, and files that are too long.
fn file_problems(folder: &Path) -> Result<Vec<String>, String> {
    let listed = output(crate::shell::command("git", &["ls-files", "*.rs"]).current_dir(folder))?;
    let mut problems = Vec::new();
    for file in listed.lines() {
        let Ok(text) = fs::read_to_string(folder.join(file)) else { continue };
        if !text.trim_start().starts_with("//!") {
            problems.push(format!("{file} does not open with //! and what lives there"));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            problems.push(format!("{file} has {lines} lines; {MAX_LINES} is the most"));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_edge_is_found() {
        let allowed =
            allowed_edges("| `store` | revisions | base |\n| `base` | clock | - |\n| `skiff` | binary | all |");
        let metadata = serde_json::json!({"packages": [
            {"name": "skiff-store", "manifest_path": "/x/crates/store/Cargo.toml", "dependencies": [
                {"name": "skiff-kinds", "path": "/x", "kind": null}, {"name": "skiff-base", "path": "/x", "kind": null},
                {"name": "skiff-sim", "path": "/x", "kind": "dev"}, {"name": "tokio", "kind": null}]},
            {"name": "skiff-base", "manifest_path": "/x/crates/base/Cargo.toml", "dependencies": []},
            {"name": "skiff", "manifest_path": "/x/crates/skiff/Cargo.toml", "dependencies": [
                {"name": "skiff-store", "path": "/x", "kind": null}]},
            {"name": "skiff-new", "manifest_path": "/x/crates/new/Cargo.toml", "dependencies": []},
        ]});
        assert_eq!(
            compare(&allowed, &actual_edges(&metadata)),
            [
                "crate new has no row in docs/ARCHITECTURE.md",
                "crate store must not depend on kinds (docs/ARCHITECTURE.md)"
            ]
        );
    }

    #[test]
    fn the_edges_of_the_workspace_are_those_of_the_table() {
        assert_eq!(edge_problems().expect("the table and cargo metadata can be read"), Vec::<String>::new());
    }
}
