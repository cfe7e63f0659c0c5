//! The scheduler alone: changes in, decisions out.

use super::Group;
use crate::shell::{cargo, run};

pub const GROUP: Group = Group { names: &["sched"], run: measure };

fn measure(_: &[&str]) -> Result<(), String> {
    let bench = ["--release", "--quiet", "--package", "skiff-scheduler", "--example", "sched_bench"];
    run(cargo(&["run"]).args(bench))
}
