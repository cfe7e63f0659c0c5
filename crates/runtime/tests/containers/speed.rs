//! How fast pods start and what an idle one costs, printed for a person to judge. Not part of a test run:
//! only `cargo test --test containers -- speed` measures.

use std::time::Instant;

use futures_util::FutureExt;

use crate::Test;
use crate::world::{World, script};

pub const TESTS: &[Test] = &[("speed", || speed().boxed())];

#[expect(clippy::disallowed_methods, reason = "a measurement reads the machine's own clock")]
async fn speed() {
    let world = World::new().await;
    for round in 0..15 {
        let start = Instant::now();
        let sandbox = world.sandbox(&world.sandbox_config()).await;
        let made = Instant::now();
        let id = world.create(&sandbox, script("app", "sleep 1000")).await.expect("is made");
        let created = Instant::now();
        world.start_container(&id).await.expect("starts");
        let started = Instant::now();
        println!(
            "round {round}: sandbox {:?}, create {:?}, start {:?}, all {:?}",
            made - start,
            created - made,
            started - created,
            started - start
        );
    }
    let start = Instant::now();
    let pods = (0..50).map(|_| async {
        let sandbox = world.sandbox(&world.sandbox_config()).await;
        world.run(&sandbox, script("app", "sleep 1000")).await;
    });
    futures_util::future::join_all(pods).await;
    println!("50 pods at once: {:?}", start.elapsed());
    let (mut count, mut pss, mut private) = (0, 0, 0);
    for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
        let comm = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let own = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if comm.starts_with("skiff-shim") && own.contains(&world.cgroup) {
            let memory = std::fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
            let value = |key: &str| {
                memory
                    .lines()
                    .filter(|line| line.starts_with(key))
                    .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
                    .sum::<u64>()
            };
            count += 1;
            pss += value("Pss:");
            private += value("Private_Dirty:");
        }
    }
    println!("{count} shims: {} kB PSS, {} kB private dirty each", pss / count.max(1), private / count.max(1));
    let start = Instant::now();
    let sandboxes = world.runtime();
    let list = skiff_cri::RuntimeService::list_pod_sandbox(sandboxes, Default::default()).await.expect("a list").items;
    futures_util::future::join_all(list.iter().map(|sandbox| world.stop_and_remove(&sandbox.id))).await;
    println!("{} pods stopped and removed at once: {:?}", list.len(), start.elapsed());
    assert_eq!(world.traces(), Vec::<String>::new());
}
