//! Whether the tests that `docs/SECURITY.md` names for its threats are there.

use std::fs;
use std::path::Path;

use crate::shell::root;

/// The section of the threats.
const SECTION: &str = "## What they could try";

/// Rows that name no test, or one that is not there.
///
/// # Errors
/// A file cannot be read.
pub fn problems() -> Result<Vec<String>, String> {
    let document =
        fs::read_to_string(root().join("docs/SECURITY.md")).map_err(|error| format!("docs/SECURITY.md: {error}"))?;
    let mut files = Vec::new();
    for folder in ["crates", "tests", "fuzz"] {
        sources(&root().join(folder), &mut files)?;
    }
    Ok(check(&document, &files))
}

/// All files of Rust below a folder, as path and text.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).map_err(failed)?));
        }
    }
    Ok(())
}

fn check(document: &str, files: &[(String, String)]) -> Vec<String> {
    let section = document.split(SECTION).nth(1).unwrap_or("").split("\n## ").next().unwrap_or("");
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.flat_map(|row| row_problems(row, files)).collect()
}

/// A row's last cell names tests as `` `FILE: TEST` ``, further ones of the same file as `` `TEST` ``, and whole files.
fn row_problems(row: &str, files: &[(String, String)]) -> Vec<String> {
    let cells: Vec<&str> = row.trim().trim_matches('|').split('|').map(str::trim).collect();
    let [threat, .., tests] = cells.as_slice() else { return vec![format!("{row}: no cells")] };
    let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
    if named.is_empty() {
        return vec![format!("docs/SECURITY.md: {threat}: no test is named")];
    }
    let mut problems = Vec::new();
    let mut texts: Vec<&str> = Vec::new();
    for name in named {
        let (file, test) = match name.split_once(": ") {
            Some((file, test)) => (Some(file), Some(test)),
            None if name.ends_with(".rs") => (Some(name), None),
            None => (None, Some(name)),
        };
        if let Some(file) = file {
            let end = format!("/{}", file.replace("api/", "tests/api/"));
            texts = files.iter().filter(|(path, _)| path.ends_with(&end)).map(|(_, text)| text.as_str()).collect();
            if texts.is_empty() {
                problems.push(format!("docs/SECURITY.md: {threat}: there is no file {file}"));
                continue;
            }
        }
        let is_there = |test: &str| texts.iter().any(|text| text.contains(&format!("fn {test}(")));
        if let Some(test) = test.filter(|test| !is_there(test)) {
            problems.push(format!("docs/SECURITY.md: {threat}: there is no test {test}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_there_is_found() {
        let files = [("/crates/apiserver/tests/api/a.rs".to_owned(), "async fn held() {}\nfn kept() {}".to_owned())];
        let rows = "| threat | what | test |\n|---|---|---|\n| **A** | x | `api/a.rs: held`, `kept` |\n\
            | **B** | x | `api/a.rs: hel` |\n| **C** | x | not tried |\n| **D** | x | `api/b.rs: held` |";
        let document = format!("# Security\n{SECTION}\n\n{rows}\n\n## What to know\n| **E** | x | - |\n");
        let expected = [
            "docs/SECURITY.md: **B**: there is no test hel",
            "docs/SECURITY.md: **C**: no test is named",
            "docs/SECURITY.md: **D**: there is no file api/b.rs",
        ];
        assert_eq!(check(&document, &files), expected);
    }

    #[test]
    fn every_test_that_a_threat_names_is_there() {
        assert_eq!(problems().expect("the sources can be read"), Vec::<String>::new());
    }
}
