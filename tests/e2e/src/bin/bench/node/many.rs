//! What pods cost that only are there: memory and processor time of everything but their own programs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Node, pods};
use crate::traces::{Traces, cost};
use crate::{milliseconds, pod};

const FEW: usize = 50;
const PROBED: usize = 100;
/// What the node is to hold. Each of containerd's pods takes ten times the memory: a tenth of them tells enough.
const HELD: usize = 1000;
const HELD_BY_PEER: usize = 100;
const SECONDS: u64 = 60;
/// What starting pods leaves to do is done after this time.
const SETTLE: Duration = Duration::from_secs(20);

/// 50 idle pods, 100 probed ones, and as many as the node is to hold.
pub fn measure(node: &Node<'_>) {
    let (memory, base_memory, cpu, _) = hold(node, &pods("few", FEW));
    node.line(
        &format!("agent and runtime with {FEW} idle pods: memory, CPU"),
        &format!("{memory:.1} MiB ({base_memory:.1} before), {cpu:.2} %"),
    );
    let probed: Vec<Value> = (0..PROBED).map(probed).collect();
    let (_, _, cpu, _) = hold(node, &probed);
    node.line("CPU for 100 idle pods with default readiness and liveness probes", &format!("{cpu:.2} %"));
    let held = if node.is_embedded() { HELD } else { HELD_BY_PEER };
    let (memory, base_memory, cpu, took) = hold(node, &pods("held", held));
    node.line(&format!("{held} idle pods, the last one Running"), &format!("{:.1} s", milliseconds(took) / 1000.0));
    let each = (memory - base_memory) / held as f64;
    node.line(&format!("memory for each of {held} idle pods beyond the app (PSS)"), &format!("{each:.2} MiB"));
    node.line(
        &format!("CPU for each 100 of {held} idle pods without probes"),
        &format!("{:.2} %", cpu * 100.0 / held as f64),
    );
}

/// Runs pods for a while and removes them: memory with and before them (MiB), processor time meanwhile (percent of a core),
/// and how long they took to come.
fn hold(node: &Node<'_>, pods: &[Value]) -> (f64, f64, f64, Duration) {
    let traces = Traces::before(node.cluster);
    let before = cost(node.cluster).memory_mib;
    let took = node.proxy.run_pods(pods);
    std::thread::sleep(SETTLE);
    let (first, start) = (cost(node.cluster), Instant::now());
    std::thread::sleep(Duration::from_secs(SECONDS));
    let last = cost(node.cluster);
    let cpu = (last.cpu_seconds - first.cpu_seconds) / start.elapsed().as_secs_f64() * 100.0;
    node.proxy.delete_pods();
    traces.wait_until_gone();
    (last.memory_mib, before, cpu, took)
}

fn probed(index: usize) -> Value {
    let mut pod = pod(&format!("probed-{index}"));
    let probe = json!({"httpGet": {"path": "/", "port": 8080}});
    pod["spec"]["containers"][0] = json!({
        "name": "c", "image": "localhost:5000/hello:v1", "readinessProbe": probe, "livenessProbe": probe,
    });
    pod
}
