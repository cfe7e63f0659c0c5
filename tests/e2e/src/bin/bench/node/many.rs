//! What pods cost that only are there: memory and processor time of everything but their own programs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Node, pods};
use crate::traces::{Traces, cost};
use crate::{milliseconds, pod};

/// A few idle pods.
pub fn few(node: &Node<'_>) {
    let count = node.size.few;
    let held = hold(node, &pods("few", count));
    let text = format!("{:.1} MiB ({:.1} before), {:.2} %", held.memory, held.before, held.cpu);
    node.line(&format!("agent and runtime with {count} idle pods: memory, CPU"), &text);
    node.line(
        &format!("memory for each of {count} idle pods beyond the app (PSS)"),
        &format!("{:.2} MiB", held.each(count)),
    );
    held.tell_failure(node);
}

/// Idle pods whose probes are all that happens.
pub fn probed(node: &Node<'_>) {
    let count = node.size.probed;
    let probed: Vec<Value> = (0..count).map(one_probed).collect();
    let held = hold(node, &probed);
    node.line(
        &format!("CPU for {count} idle pods with default readiness and liveness probes"),
        &format!("{:.2} %", held.cpu),
    );
    held.tell_failure(node);
}

/// As many as the node is to hold.
pub fn held(node: &Node<'_>) {
    let count = node.size.held;
    if count == 0 {
        return;
    }
    let held = hold(node, &pods("held", count));
    let seconds = milliseconds(held.took) / 1000.0;
    node.line(&format!("{count} idle pods, the last one Running"), &format!("{seconds:.1} s"));
    node.line(
        &format!("memory for each of {count} idle pods beyond the app (PSS)"),
        &format!("{:.2} MiB", held.each(count)),
    );
    node.line(
        &format!("CPU for each 100 of {count} idle pods without probes"),
        &format!("{:.2} %", held.cpu * 100.0 / count as f64),
    );
    held.tell_failure(node);
}

/// What some pods cost.
struct Held {
    /// With them, in MiB.
    memory: f64,
    /// Before they came.
    before: f64,
    /// Percent of a core while they were there.
    cpu: f64,
    /// Until the last one ran.
    took: Duration,
    /// What did not go with them.
    left: Option<String>,
}

impl Held {
    fn each(&self, count: usize) -> f64 {
        (self.memory - self.before) / count as f64
    }

    /// The figures are good all the same.
    fn tell_failure(&self, node: &Node<'_>) {
        if let Some(left) = &self.left {
            node.line("what idle pods left on the node", left);
        }
    }
}

/// Runs pods for a while and removes them.
fn hold(node: &Node<'_>, pods: &[Value]) -> Held {
    let traces = Traces::before(node.cluster);
    let before = cost(node.cluster).memory_mib;
    let took = node.proxy.run_pods(pods);
    std::thread::sleep(node.size.settle);
    let (first, start) = (cost(node.cluster), Instant::now());
    std::thread::sleep(node.size.watch);
    let last = cost(node.cluster);
    let cpu = (last.cpu_seconds - first.cpu_seconds) / start.elapsed().as_secs_f64() * 100.0;
    node.proxy.delete_pods();
    let left = traces.wait_until_gone().err();
    Held { memory: last.memory_mib, before, cpu, took, left }
}

fn one_probed(index: usize) -> Value {
    let mut pod = pod(&format!("probed-{index}"));
    let probe = json!({"httpGet": {"path": "/", "port": 8080}});
    pod["spec"]["containers"][0] = json!({
        "name": "c", "image": "localhost:5000/hello:v1", "readinessProbe": probe, "livenessProbe": probe,
    });
    pod
}
