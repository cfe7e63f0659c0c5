//! The API server under load, in a process of its own, with upstream's as the peer.

use super::{Group, upstream};
use crate::needs;
use crate::shell::{cargo, run};

pub const GROUP: Group = Group { names: &["api"], run: measure };

fn measure(_: &[&str]) -> Result<(), String> {
    let server = ["--release", "--package", "skiff-apiserver", "--example", "serve"];
    run(cargo(&["build", "--quiet"]).args(server))?;
    let bench = ["--release", "--package", "skiff-apiserver", "--example", "bench"];
    let mut bench_command = cargo(&["run", "--quiet"]);
    upstream::offer(bench_command.args(bench).env("PATH", needs::path()));
    run(&mut bench_command)
}
