//! Pods by the thousand through the API of a control plane alone, on simulated nodes, with upstream's as the peer.

use super::{Group, upstream};
use crate::shell::{cargo, run};
use crate::test::build_binaries;

pub const GROUP: Group = Group { names: &["churn"], run: measure };

fn measure(_: &[&str]) -> Result<(), String> {
    let binaries = build_binaries()?;
    let mut bench = cargo(&["run", "--release", "--quiet", "--package", "skiff-simnodes", "--example", "churn", "--"]);
    upstream::offer(bench.arg(std::env::temp_dir()).env("SKIFF_BIN", &binaries.skiff));
    run(&mut bench)
}
