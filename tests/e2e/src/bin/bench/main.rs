//! The benchmarks of a whole node, run by `cargo xtask bench`. Every figure is a median of several runs, and is
//! printed beside the target that it is held against.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

mod agent;
mod attempt;
mod net;
mod node;
mod probes;
mod proxy;
mod traces;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_e2e::Cluster;

use proxy::Proxy;
use traces::cost;

const UP_RUNS: usize = 7;
const POD_RUNS: usize = 40;
const BURST_RUNS: usize = 5;
const BURST_PODS: usize = 50;
const IDLE_RUNS: usize = 5;
const IDLE_SECONDS: u64 = 60;
/// What starting leaves to do is done after this time, and nothing is measured before.
const SETTLE: Duration = Duration::from_secs(10);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some((net::INSIDE, arguments)) = wanted.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return net::inside(arguments);
    }
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    if ["up", "idle", "pods", "agent", "probes"].into_iter().any(wants) {
        println!("| figure | target | median | min | max |\n|---|---|---|---|---|");
    }
    if wants("up") {
        up();
    }
    if wants("idle") {
        idle();
    }
    if wants("pods") {
        pods();
    }
    if wants("agent") {
        agent::agent();
    }
    if wants("probes") {
        probes::probes();
    }
    let parts: Vec<_> = node::PARTS.into_iter().filter(|part| wants("node") || wants(part.name)).collect();
    if !parts.is_empty() {
        node::node(&parts);
    }
    let parts: Vec<_> = net::PARTS.into_iter().filter(|part| wants("net") || wants(part.name)).collect();
    if !parts.is_empty() {
        net::net(&parts);
    }
}

/// The middle, smallest and largest of some figures.
fn report(name: &str, target: &str, unit: &str, mut figures: Vec<f64>) {
    figures.sort_by(f64::total_cmp);
    let at = |share: f64| figures[((figures.len() - 1) as f64 * share).round() as usize];
    println!("| {name} | {target} | {:.1} {unit} | {:.1} | {:.1} |", at(0.5), at(0.0), at(1.0));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn percentile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn up() {
    let mut times = Vec::new();
    for _ in 0..UP_RUNS {
        let cluster = Cluster::empty("bench-up");
        let start = Instant::now();
        cluster.skiff(&["up"]).ok();
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    report("`skiff up` to Ready node, empty state", "1000 ms", "ms", times);
}

/// What nodes use that nobody asks anything of: one node after the other, each from an empty state.
fn idle() {
    let (mut memory, mut processor, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..IDLE_RUNS {
        let cluster = Cluster::empty("bench-idle");
        cluster.skiff(&["up"]).ok();
        std::thread::sleep(SETTLE);
        let before = cost(&cluster);
        std::thread::sleep(Duration::from_secs(IDLE_SECONDS));
        let after = cost(&cluster);
        let seconds = IDLE_SECONDS as f64;
        memory.push(after.memory_mib);
        processor.push((after.cpu_seconds - before.cpu_seconds) / seconds * 100.0);
        disk.push((after.written_bytes - before.written_bytes) / seconds / 1000.0);
    }
    report("idle memory, all processes (PSS)", "64 MiB", "MiB", memory);
    report("idle CPU", "0.5 % of a core", "%", processor);
    report("idle disk writes", "5 KB/s", "KB/s", disk);
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "localhost:5000/hello:v1", "command": ["sleep", "100000"]}],
        },
    })
}

fn pods() {
    let cluster = Cluster::up("bench-pods");
    let proxy = Proxy::start(&cluster);
    let base = cost(&cluster).memory_mib;
    let mut times = Vec::new();
    // The first pods warm what is cached.
    for round in 0..POD_RUNS + 3 {
        let took = proxy.run_pods(&[pod(&format!("one-{round}"))]);
        if round >= 3 {
            times.push(took.as_secs_f64() * 1000.0);
        }
        proxy.delete_pods();
    }
    println!(
        "| one pod, create to Running seen by a watch, p50 / p99 | 50 / 90 ms | {:.1} / {:.1} ms | {:.1} | {:.1} |",
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        percentile(&times, 0.0),
        percentile(&times, 1.0)
    );
    let (mut bursts, mut first, mut further) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..BURST_RUNS {
        let names = |half: &str| -> Vec<Value> {
            (0..BURST_PODS).map(|index| pod(&format!("burst-{round}-{half}-{index}"))).collect()
        };
        let settled = || {
            std::thread::sleep(SETTLE / 2);
            cost(&cluster).memory_mib
        };
        bursts.push(proxy.run_pods(&names("a")).as_secs_f64() * 1000.0);
        let some = settled();
        first.push((some - base) / BURST_PODS as f64);
        // The first pods also bear what a node takes for the first time; further ones do not.
        proxy.run_pods(&names("b"));
        further.push((settled() - some) / BURST_PODS as f64);
        proxy.delete_pods();
    }
    report("50 pods at once, the last one Running", "1500 ms", "ms", bursts);
    report(
        "memory for each of the first 50 idle pods beyond the app (PSS), all that a node takes once among it",
        "-",
        "MiB",
        first,
    );
    report("memory for each further idle pod beyond the app (PSS)", "1 MiB", "MiB", further);
}
