//! Runs the programs of others that `cargo xtask test clients` has built, against an isolated node.
//!
//! What they try is written in their own languages: `go`, `python`, `javascript` beside this crate, and the operator in
//! `examples/operator`. A test here starts a node, runs one such program, and shows all it printed where it fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skiff_e2e::Cluster;

/// The folder of this crate, where the programs' sources lie.
pub fn sources() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The folder where the programs were built or installed.
pub fn built() -> PathBuf {
    PathBuf::from(
        std::env::var_os("SKIFF_CLIENTS")
            .expect("SKIFF_CLIENTS names the folder of built clients; cargo xtask test clients sets it"),
    )
}

/// A program that is told of the node by its kubeconfig.
pub fn program(cluster: &Cluster, path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig()).env("HOME", cluster.folder());
    command
}

/// Runs a program to its end, which must be a good one.
#[track_caller]
pub fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{}\n{}", output.status, said[0], said[1]);
}
