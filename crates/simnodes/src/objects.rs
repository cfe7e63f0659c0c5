//! What simulated nodes write: their Nodes, Leases and the statuses of their Pods.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::{rfc3339, rfc3339_micro};

use crate::config::{Config, SIMULATED};
use crate::seen::Container;

/// Where Leases of nodes are.
pub const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// What everybody else takes a node to be gone after.
const LEASE_SECONDS: u32 = 40;
/// The address of all simulated nodes: this machine, at a port where nobody listens, so that asking one for logs or
/// figures is refused at once and no packet leaves.
const NODE_ADDRESS: &str = "127.0.0.1";
const NODE_PORT: u16 = 1;

/// What a Pod's status is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// The generation that the status is about.
    pub generation: i64,
    /// Containers that come first.
    pub init: Vec<Container>,
    /// Containers.
    pub containers: Vec<Container>,
    /// Whether others let it be ready.
    pub gates_open: bool,
    /// Its address.
    pub address: Option<Ipv4Addr>,
}

/// The name of a node.
pub fn node_name(config: &Config, index: u32) -> String {
    format!("{}-{index}", config.prefix)
}

/// The first address of a node's range.
pub fn node_base(config: &Config, index: u32) -> u32 {
    config.network.base + (index << config.range_bits())
}

/// A Node with its status, as it is first registered.
pub fn node(config: &Config, index: u32, now: Timestamp) -> Value {
    let name = node_name(config, index);
    let range = format!("{}/{}", Ipv4Addr::from(node_base(config, index)), 32 - config.range_bits());
    let mut labels = json!({
        SIMULATED: "true",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    });
    if !config.zones.is_empty() {
        let zone = &config.zones[index as usize % config.zones.len()];
        labels["topology.kubernetes.io/zone"] = json!(zone);
    }
    for (key, value) in &config.labels {
        labels[key] = json!(value);
    }
    let mut capacity = json!(config.capacity);
    capacity["pods"] = json!(config.pods.to_string());
    let mut status = node_status(now);
    status["capacity"] = capacity.clone();
    status["allocatable"] = capacity;
    status["addresses"] =
        json!([{"type": "InternalIP", "address": NODE_ADDRESS}, {"type": "Hostname", "address": name}]);
    status["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": NODE_PORT}});
    status["nodeInfo"] = json!({
        "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "simulated", "osImage": "simulated",
        "containerRuntimeVersion": "simulated://1", "kubeletVersion": config.version, "kubeProxyVersion": "",
        "operatingSystem": "linux", "architecture": "amd64",
    });
    let mut spec = json!({"podCIDR": range, "podCIDRs": [range]});
    if !config.taints.is_empty() {
        spec["taints"] = json!(config.taints);
    }
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec, "status": status,
    })
}

/// The conditions of a node that is well.
pub fn node_status(now: Timestamp) -> Value {
    let now = rfc3339(now);
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    json!({"conditions": [
        condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "the node is simulated"),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "the node is simulated"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "the node is simulated"),
        condition("Ready", "True", "KubeletReady", "the node is simulated"),
    ]})
}

/// A new Lease of a node.
pub fn lease(name: &str, node_uid: &str, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid},
        ]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": rfc3339_micro(now)},
    })
}

/// A heartbeat.
pub fn renewal(now: Timestamp) -> Value {
    json!({"spec": {"renewTime": rfc3339_micro(now)}})
}

/// That a Pod runs, and is ready where others let it.
pub fn running(uid: &str, about: &About, now: Timestamp) -> Value {
    let now = rfc3339(now);
    let state = json!({"running": {"startedAt": now}});
    let containers: Vec<_> = about.containers.iter().map(|c| container(uid, c, true, &state)).collect();
    let ended = terminated(0, "Completed", &now);
    let init = about.init.iter().map(|c| {
        let (ready, state) = (true, if c.is_sidecar() { &state } else { &ended });
        container(uid, c, ready, state)
    });
    let condition = |kind: &str| condition(kind, "True", about.generation, &now);
    let ready = if about.gates_open {
        condition("Ready")
    } else {
        let mut ready = self::condition("Ready", "False", about.generation, &now);
        ready["reason"] = json!("ReadinessGatesNotReady");
        ready
    };
    let mut status = json!({
        "phase": "Running", "startTime": now, "observedGeneration": about.generation,
        "hostIP": NODE_ADDRESS, "hostIPs": [{"ip": NODE_ADDRESS}],
        "conditions": [
            condition("PodReadyToStartContainers"), condition("Initialized"), ready, condition("ContainersReady"),
        ],
        "containerStatuses": containers,
    });
    if !about.init.is_empty() {
        status["initContainerStatuses"] = init.collect();
    }
    let address = about.address.map_or_else(|| NODE_ADDRESS.to_owned(), |address| address.to_string());
    status["podIP"] = json!(address);
    status["podIPs"] = json!([{"ip": address}]);
    json!({"metadata": {"uid": uid}, "status": status})
}

/// That a Pod's containers have ended.
pub fn ended(uid: &str, about: &About, exit_code: i32, now: Timestamp) -> Value {
    let now = rfc3339(now);
    let (phase, reason) = if exit_code == 0 { ("Succeeded", "Completed") } else { ("Failed", "Error") };
    let state = terminated(exit_code, reason, &now);
    let containers: Vec<_> = about.containers.iter().map(|c| container(uid, c, false, &state)).collect();
    let not = |kind: &str| {
        let mut condition = condition(kind, "False", about.generation, &now);
        condition["reason"] = json!(if exit_code == 0 { "PodCompleted" } else { "PodFailed" });
        condition
    };
    json!({"metadata": {"uid": uid}, "status": {
        "phase": phase, "observedGeneration": about.generation,
        "conditions": [not("Ready"), not("ContainersReady")],
        "containerStatuses": containers,
    }})
}

fn condition(kind: &str, status: &str, generation: i64, now: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": null, "lastProbeTime": null, "lastTransitionTime": now,
        "observedGeneration": generation,
    })
}

fn terminated(exit_code: i32, reason: &str, now: &str) -> Value {
    json!({"terminated": {"exitCode": exit_code, "reason": reason, "startedAt": now, "finishedAt": now}})
}

fn container(uid: &str, container: &Container, ready: bool, state: &Value) -> Value {
    json!({
        "name": container.name, "image": container.image, "imageID": container.image,
        "containerID": format!("simulated://{uid}/{}", container.name),
        "ready": ready, "started": state["running"].is_object(), "restartCount": 0, "state": state, "lastState": {},
    })
}
