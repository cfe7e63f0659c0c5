//! What an agent with its runtime costs where the server is on another machine.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{kill, skiff_binary};

use crate::proxy::Proxy;
use crate::traces::{Cost, cost_of, processes_of};
use crate::{BURST_PODS, IDLE_SECONDS, SETTLE, pod};

/// An agent with idle pods. It runs from a copy of the program, so that it shares no memory with the server, which stands
/// beside it here.
pub fn agent() {
    let cluster = Cluster::several("bench-agent", 1);
    let node = cluster.agent(0);
    let copy = cluster.folder().join("skiff");
    std::fs::copy(skiff_binary(), &copy).expect("a writable folder");
    kill(cluster.server_pid_of(&node));
    start(&copy, &node, cluster.folder());
    std::thread::sleep(SETTLE);
    let proxy = Proxy::start(&cluster);
    tell("without pods", &cluster, &node);
    let pods = (0..BURST_PODS).map(|index| {
        let mut pod = pod(&format!("idle-{index}"));
        pod["spec"]["nodeName"] = node.clone().into();
        pod
    });
    proxy.run_pods(&pods.collect::<Vec<_>>());
    std::thread::sleep(SETTLE);
    tell(&format!("with {BURST_PODS} idle pods"), &cluster, &node);
    proxy.delete_pods();
}

fn start(program: &Path, node: &str, folder: &Path) {
    let status = Command::new(program).args(["up", "--isolated", node, "--data-dir"]).arg(folder).status();
    assert!(status.expect("the copy can be started").success(), "the agent does not come back");
}

fn tell(when: &str, cluster: &Cluster, node: &str) {
    let own = cluster.server_pid_of(node);
    let others = || {
        let all = processes_of(cluster.keeper_pid_of(node), node);
        cost_of(all.iter().filter(|one| !one.is_app && one.pid != own).map(|one| one.pid))
    };
    let (first, begun): (Cost, _) = (cost_of([own]), Instant::now());
    std::thread::sleep(std::time::Duration::from_secs(IDLE_SECONDS));
    let (last, others) = (cost_of([own]), others());
    let cpu = (last.cpu_seconds - first.cpu_seconds) / begun.elapsed().as_secs_f64() * 100.0;
    println!(
        "| agent and runtime {when} (PSS) | 30 MB with 50 | {:.1} MiB and {cpu:.2} % of a core; their other processes {:.1} MiB | | |",
        last.memory_mib, others.memory_mib
    );
}
