//! What an agent with its runtime costs where the server is on another machine.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{kill, skiff_binary};

use crate::proxy::Proxy;
use crate::traces::{Cost, cost_of, processes_of};
use crate::{BURST_PODS, IDLE_SECONDS, SETTLE, pod};

/// A server and an agent that runs from a copy of the program, so that it shares no memory with the server, which stands
/// beside it here.
pub struct Apart {
    /// Both of them.
    pub cluster: Cluster,
    /// The agent's name.
    pub node: String,
    program: PathBuf,
}

impl Apart {
    /// Starts both.
    pub fn start(purpose: &str) -> Self {
        let cluster = Cluster::several(purpose, 1);
        let (node, program) = (cluster.agent(0), cluster.folder().join("skiff"));
        std::fs::copy(skiff_binary(), &program).expect("a writable folder");
        let apart = Self { cluster, node, program };
        apart.start_again();
        apart
    }

    /// Ends the agent's program and starts it again.
    pub fn start_again(&self) {
        let (folder, node) = (self.cluster.folder(), &self.node);
        kill(self.cluster.server_pid_of(node));
        let status = Command::new(&self.program).args(["up", "--isolated", node, "--data-dir"]).arg(folder).status();
        assert!(status.expect("the copy can be started").success(), "the agent does not come back");
    }

    /// What the agent's program has used.
    pub fn cost(&self) -> Cost {
        cost_of([self.cluster.server_pid_of(&self.node)])
    }
}

/// An agent with idle pods.
pub fn agent() {
    let apart = Apart::start("bench-agent");
    std::thread::sleep(SETTLE);
    let proxy = Proxy::start(&apart.cluster);
    tell("without pods", &apart);
    let pods = (0..BURST_PODS).map(|index| {
        let mut pod = pod(&format!("idle-{index}"));
        pod["spec"]["nodeName"] = apart.node.clone().into();
        pod
    });
    proxy.run_pods(&pods.collect::<Vec<_>>());
    std::thread::sleep(SETTLE);
    tell(&format!("with {BURST_PODS} idle pods"), &apart);
    proxy.delete_pods();
}

fn tell(when: &str, apart: &Apart) {
    let (cluster, node) = (&apart.cluster, &apart.node);
    let own = cluster.server_pid_of(node);
    let others = || {
        let all = processes_of(cluster.keeper_pid_of(node), node);
        cost_of(all.iter().filter(|one| !one.is_app && one.pid != own).map(|one| one.pid))
    };
    let (first, begun): (Cost, _) = (apart.cost(), Instant::now());
    std::thread::sleep(std::time::Duration::from_secs(IDLE_SECONDS));
    let (last, others) = (apart.cost(), others());
    let cpu = (last.cpu_seconds - first.cpu_seconds) / begun.elapsed().as_secs_f64() * 100.0;
    println!(
        "| agent and runtime {when} (PSS) | 30 MB with 50 | {:.1} MiB and {cpu:.2} % of a core; their other processes {:.1} MiB | | |",
        last.memory_mib, others.memory_mib
    );
}
