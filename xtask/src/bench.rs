//! `cargo xtask bench`: the figures of `docs/BENCHMARKS.md`, as medians of several runs.

use crate::needs;
use crate::shell::{cargo, run as run_command};
use crate::test::build_binaries;

/// What can be measured.
const NAMES: [&str; 6] = ["store", "api", "up", "idle", "pods", "node"];
/// Those that need a whole node.
const OF_NODES: [&str; 4] = ["up", "idle", "pods", "node"];

/// Measures what is named, or all.
///
/// # Errors
/// A name is unknown, or something could not be built or measured.
pub fn run(arguments: &[&str]) -> Result<(), String> {
    if let Some(unknown) = arguments.iter().find(|name| !NAMES.contains(name)) {
        return Err(format!("no benchmark is called {unknown:?}; there are {}", NAMES.join(", ")));
    }
    needs::install()?;
    let wants = |name: &str| arguments.is_empty() || arguments.contains(&name);
    if wants("store") {
        run_command(&mut cargo(&[
            "run",
            "--release",
            "--quiet",
            "--package",
            "skiff-store",
            "--example",
            "store_bench",
        ]))?;
    }
    if wants("api") {
        let server = ["--release", "--package", "skiff-apiserver", "--example", "serve"];
        run_command(cargo(&["build", "--quiet"]).args(server))?;
        let bench = ["--release", "--package", "skiff-apiserver", "--example", "bench"];
        run_command(cargo(&["run", "--quiet"]).args(bench).env("PATH", needs::path()))?;
    }
    let of_nodes: Vec<_> = OF_NODES.iter().filter(|name| wants(name)).collect();
    if of_nodes.is_empty() {
        return Ok(());
    }
    let binaries = build_binaries()?;
    let mut bench = cargo(&["run", "--release", "--quiet", "--package", "skiff-e2e", "--bin", "bench", "--"]);
    bench.args(of_nodes);
    bench.env("SKIFF_BIN", &binaries.skiff).env("SKIFF_HELLO", &binaries.hello).env("PATH", needs::path());
    run_command(&mut bench)
}
