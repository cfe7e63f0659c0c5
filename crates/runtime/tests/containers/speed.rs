//! How fast pods start, what an idle one costs and how fast a container's lines reach its log, printed for a person to judge.
//! Not part of a test run: only `cargo test --test containers -- speed` measures.

use std::time::Instant;

use futures_util::FutureExt;

use crate::Test;
use crate::world::{World, script};

pub const TESTS: &[Test] = &[("speed_of_logs", || logs().boxed()), ("speed", || speed().boxed())];

/// A container writes this file so many times over.
const FILE_BYTES: u64 = 64 << 20;
const TIMES: u64 = 16;
const LINE: &str = "a line of a log that is as long as such lines are, with a word or two at its end to tell it by";

/// What the file system takes for the lines is known from a copy of as many bytes.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the machine's own clock")]
async fn logs() {
    let world = World::new().await;
    let lines = FILE_BYTES / (LINE.len() as u64 + 1);
    let text = format!(
        "yes '{LINE}' | head -n {lines} > /lines; touch /made; while [ ! -e /go ]; do sleep 0.01; done; i=0; while [ $i -lt {TIMES} ]; do cat /lines; i=$((i+1)); done"
    );
    let sandbox = world.sandbox(&world.sandbox_config()).await;
    let id = world.run(&sandbox, script("talker", &text)).await;
    while world.exec(&id, "test -e /made").await.0 != 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (before, start) = (shim_ticks(&world), Instant::now());
    assert_eq!(world.exec(&id, "touch /go").await.0, 0);
    let status = world.wait_exit(&id).await;
    let (seconds, ticks) = (start.elapsed().as_secs_f64(), shim_ticks(&world) - before);
    let log = std::fs::read(&status.log_path).expect("a log");
    let found =
        log.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"tell it by\n")).count() as u64;
    assert_eq!(found, lines * TIMES, "lines in the log");
    let megabytes = (FILE_BYTES * TIMES) as f64 / 1e6;
    // A tick is a hundredth of a second.
    let each = ticks as f64 / 100.0 / (megabytes / 1000.0);
    println!("log: {:.0} MB/s of output, {each:.2} s of the shim's processor time for each GB", megabytes / seconds);
    world.stop_and_remove(&sandbox).await;
}

/// The processor time of the world's shims.
fn shim_ticks(world: &World) -> u64 {
    let of_shim = |entry: std::fs::DirEntry| {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).ok();
        if !read("cmdline")?.starts_with("skiff-shim") || !read("cgroup")?.contains(&world.cgroup) {
            return None;
        }
        let stat = read("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    std::fs::read_dir("/proc").expect("processes").flatten().filter_map(of_shim).sum()
}

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
