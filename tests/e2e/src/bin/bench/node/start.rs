//! How fast pods come and go, and commands run in them.

use std::time::{Duration, Instant};

use skiff_e2e::socket::Socket;

use super::{Node, pods};
use crate::proxy::Proxy;
use crate::traces::Traces;
use crate::{milliseconds, percentile, pod};

const WARM_UP: usize = 3;
/// What is left to do after a burst is done after this time.
const SETTLE: Duration = Duration::from_secs(3);

fn middle_and_worst(times: &[f64]) -> String {
    format!("{:.1} / {:.1} ms", percentile(times, 0.5), percentile(times, 0.99))
}

/// Pods that come one after the other.
pub fn one_pod(node: &Node<'_>) {
    let mut times = Vec::new();
    for round in 0..node.size.one_pods + WARM_UP {
        let took = node.proxy.run_pods(&[pod(&format!("one-{round}"))]);
        if round >= WARM_UP {
            times.push(milliseconds(took));
        }
        node.proxy.delete_pods();
    }
    node.line("one pod, create to Running, p50 / p99", &middle_and_worst(&times));
}

/// Pods that come and go together.
pub fn burst(node: &Node<'_>, which: usize) {
    let count = node.size.bursts[which];
    let (mut up, mut names, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let mut failure = None;
    for round in 0..node.size.burst_runs[which] {
        let traces = Traces::before(node.cluster);
        up.push(milliseconds(node.proxy.run_pods(&pods(&format!("burst-{count}-{round}"), count))));
        std::thread::sleep(SETTLE);
        let start = Instant::now();
        node.proxy.delete_pods();
        names.push(milliseconds(start.elapsed()));
        match traces.wait_until_gone() {
            Ok(()) => all.push(milliseconds(start.elapsed())),
            Err(left) => failure = Some(left),
        }
        if failure.is_some() {
            break;
        }
        std::thread::sleep(SETTLE);
    }
    let middle = |figures: &[f64]| format!("{:.0} ms", percentile(figures, 0.5));
    node.line(&format!("{count} pods at once, the last one Running"), &middle(&up));
    node.line(&format!("deleting {count} pods (grace 0) until their names are free"), &middle(&names));
    let gone = failure.map_or_else(|| middle(&all), |left| format!("failed: {left}"));
    node.line(&format!("deleting {count} pods (grace 0) until nothing of them is left on the node"), &gone);
}

/// Commands in a pod.
pub fn exec(node: &Node<'_>) {
    node.proxy.run_pods(&[pod("exec")]);
    let times: Vec<f64> = (0..node.size.execs).map(|_| milliseconds(round_trip(&node.proxy, "exec", "true"))).collect();
    node.line("exec round trip through the API, p50 / p99", &middle_and_worst(&times));
    node.proxy.delete_pods();
}

/// Runs a command in a pod over a WebSocket: the time from the first byte to its exit status.
fn round_trip(proxy: &Proxy, pod: &str, command: &str) -> Duration {
    let path = format!("/api/v1/namespaces/default/pods/{pod}/exec?command={command}&stdout=true&stderr=true");
    let start = Instant::now();
    let mut socket = Socket::open(proxy.address(), &path, "v4.channel.k8s.io").expect("a command starts");
    // The status comes as JSON on a channel of its own.
    loop {
        match socket.receive().expect("a message is whole") {
            Some(said) if said.windows(9).any(|part| part == b"\"Success\"") => return start.elapsed(),
            Some(_) => {}
            None => panic!("exec ended without its status"),
        }
    }
}
