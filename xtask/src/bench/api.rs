//! The API server under load, in a process of its own.

use super::Group;
use crate::needs;
use crate::shell::{cargo, run};

pub const GROUP: Group = Group { names: &["api"], run: measure };

fn measure(_: &[&str]) -> Result<(), String> {
    let server = ["--release", "--package", "skiff-apiserver", "--example", "serve"];
    run(cargo(&["build", "--quiet"]).args(server))?;
    let bench = ["--release", "--package", "skiff-apiserver", "--example", "bench"];
    run(cargo(&["run", "--quiet"]).args(bench).env("PATH", needs::path()))
}
