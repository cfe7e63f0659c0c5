//! The embedded store alone, against the disk's own rate.

use super::Group;
use crate::shell::{cargo, run};

pub const GROUP: Group = Group { names: &["store"], run: measure };

fn measure(_: &[&str]) -> Result<(), String> {
    let bench = ["--release", "--quiet", "--package", "skiff-store", "--example", "store_bench"];
    run(cargo(&["run"]).args(bench))
}
