//! Whole nodes: how fast they come up, what they cost while nothing happens, how fast Pods start.

use super::Group;
use crate::needs;
use crate::shell::{cargo, run};
use crate::test::build_binaries;

pub const GROUP: Group = Group {
    names: &["up", "idle", "pods", "agent", "node", "node-start", "node-many", "node-logs", "node-images"],
    run: measure,
};

/// Runs the driver of whole nodes for some of its names.
pub fn measure(names: &[&str]) -> Result<(), String> {
    let binaries = build_binaries()?;
    let mut bench = cargo(&["run", "--release", "--quiet", "--package", "skiff-e2e", "--bin", "bench", "--"]);
    bench.args(names);
    bench.env("SKIFF_BIN", &binaries.skiff).env("SKIFF_HELLO", &binaries.hello).env("PATH", needs::path());
    run(&mut bench)
}
