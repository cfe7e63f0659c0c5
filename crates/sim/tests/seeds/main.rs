//! Many seeds, and any one again: `SKIFF_SIM_SEED=7 cargo test -p skiff-sim`, or another number of them with
//! `SKIFF_SIM_SEEDS=1000`. `cargo xtask test seeds` runs as many as issues ask for, as the release has the control plane.
//! Each has a process of its own, so that what happens in it follows from the seed alone; `SKIFF_SIM_CHANCE=2` lets the same
//! troubles meet with other turns of tasks.

mod chance;

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// As the program has it: a third of a run's time would else go into memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What fits into some seconds of a debug build.
const SEEDS: u64 = 8;
/// After how many of them it is told how far they are.
const SEEDS_TOLD: u64 = 100;
/// Processes at once; each has one thread.
const PROCESSES: usize = 2;
/// What a run has written comes behind this.
const DIGEST: &str = "digest of all writes: ";

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn whatever_goes_wrong_the_cluster_keeps_its_promises() {
    if let Some(seed) = setting("SKIFF_SIM_SEED") {
        chance::begin(seed ^ (setting("SKIFF_SIM_CHANCE").unwrap_or(0) << 32));
        // This thread has taken of its chance already.
        let run = std::thread::spawn(move || skiff_sim::run(seed)).join().expect("a run that panics has said why");
        println!("\n{DIGEST}{:016x}", run.digest);
        return run.outcome.unwrap_or_else(|why| panic!("{why}"));
    }
    let seeds = setting("SKIFF_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(1);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return failed;
            }
            if seed.is_multiple_of(SEEDS_TOLD) {
                println!("seed {seed} of {seeds}");
            }
            if let Err(why) = apart(seed) {
                failed.push(format!("seed {seed} (SKIFF_SIM_SEED={seed} cargo test -p skiff-sim): {why}"));
            }
        }
    };
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PROCESSES).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a run that panics has said why")).collect()
    });
    println!("{seeds} seeds ran, {} of them failed", failed.len());
    assert!(failed.is_empty(), "{} of {seeds} seeds:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_seed_is_run_again_as_it_was() {
    if setting("SKIFF_SIM_SEED").is_none() {
        assert_eq!(apart(1), apart(1), "the same seed writes something else");
    }
}

/// Runs one seed in a process of its own; gives the digest of what it wrote, or what it said.
fn apart(seed: u64) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut run = Command::new(program);
    run.args(["--exact", "whatever_goes_wrong_the_cluster_keeps_its_promises", "--nocapture"]);
    let output = run.env("SKIFF_SIM_SEED", seed.to_string()).output().map_err(|error| error.to_string())?;
    let (told, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let digest = told.lines().find_map(|line| line.strip_prefix(DIGEST));
    match digest.filter(|_| output.status.success()) {
        Some(digest) => Ok(digest.to_owned()),
        None => Err(why.into_owned()),
    }
}
