//! Many seeds, and any one again: `SKIFF_SIM_SEED=7 cargo test -p skiff-sim`, or more of them with `SKIFF_SIM_SEEDS=1000`.
//! `cargo xtask test seeds` runs as many as issues ask for, as the release has the control plane.

use std::sync::atomic::{AtomicU64, Ordering};

/// What fits into a minute of two cores in a debug build.
const SEEDS: u64 = 64;
/// After how many of them it is told how far they are.
const SEEDS_TOLD: u64 = 100;
/// Threads that runs are spread over; each run is one thread's.
const THREADS: usize = 2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn whatever_goes_wrong_the_cluster_keeps_its_promises() {
    let (first, end) = match setting("SKIFF_SIM_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (1, 1 + setting("SKIFF_SIM_SEEDS").unwrap_or(SEEDS)),
    };
    let next = AtomicU64::new(first);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return failed;
            }
            if seed.is_multiple_of(SEEDS_TOLD) {
                println!("seed {seed} of {}", end - 1);
            }
            if let Err(why) = skiff_sim::run(seed) {
                failed.push(format!("seed {seed} (SKIFF_SIM_SEED={seed} cargo test -p skiff-sim): {why}"));
            }
        }
    };
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a run that panics has said why")).collect()
    });
    println!("{} seeds ran, {} of them failed", end - first, failed.len());
    assert!(failed.is_empty(), "{} of {} seeds:\n{}", failed.len(), end - first, failed.join("\n"));
}
