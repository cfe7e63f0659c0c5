//! The Node object and its status as pure functions of what is known of the machine.
//! See <https://kubernetes.io/docs/reference/node/node-status/>.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use skiff_base::quantity::Format;
use skiff_base::{Quantity, Timestamp};

use super::facts::Machine;
use crate::evict::{Pressure, Signal};
use crate::options::Options;

/// The most images that a status lists, and the most names of each; upstream's numbers.
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// What the node is beyond its machine.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The name.
    pub name: String,
    /// Addresses.
    pub ips: Vec<String>,
    /// The ranges of its Pods, one of each family; none where a controller gives them.
    pub pod_cidrs: Vec<String>,
    /// `v1.36.0+skiff...`.
    pub version: String,
    /// Where the kubelet API listens.
    pub port: i32,
    /// What is reserved, and how many Pods it takes.
    pub options: Arc<Options>,
    /// Labels beyond the standard ones.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with.
    pub taints: Vec<Taint>,
}

/// What changes by itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    /// What the node runs short of.
    pub pressures: Vec<Pressure>,
    /// Why the runtime or its network is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// Devices of plugins by resource: all, and those that are well.
    pub devices: BTreeMap<String, (i64, i64)>,
    /// The attached volumes that the node uses.
    pub volumes_in_use: Vec<String>,
    /// Whether it may use others too, of which it does not know any more.
    pub may_use_more: bool,
    /// The runtime's name and version, `skiff://0.1.0`.
    pub runtime: String,
    /// The images on the node.
    pub images: Vec<ContainerImage>,
    /// Runtime handlers: name, recursive read-only mounts, user namespaces.
    pub handlers: Vec<(String, bool, bool)>,
    /// Whether the runtime follows supplementalGroupsPolicy.
    pub supplemental_groups_policy: bool,
}

/// The object that a node registers itself with.
pub fn node(identity: &Identity, machine: &Machine) -> Node {
    let standard = [
        ("kubernetes.io/hostname", identity.name.as_str()),
        ("kubernetes.io/arch", machine.architecture.as_str()),
        ("kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine.architecture.as_str()),
        ("beta.kubernetes.io/os", "linux"),
    ];
    let mut labels: BTreeMap<_, _> = standard.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    labels.extend(identity.labels.clone());
    let annotations = [("volumes.kubernetes.io/controller-managed-attach-detach", "true")];
    Node {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            labels: Some(labels),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: identity.pod_cidrs.first().cloned(),
            pod_cidrs: Some(identity.pod_cidrs.clone()).filter(|ranges| !ranges.is_empty()),
            taints: Some(identity.taints.clone()).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// What the node has for Pods.
pub fn capacity(machine: &Machine, options: &Options) -> BTreeMap<String, Quantity> {
    let bytes = |bytes: i64| Quantity::from_units(bytes / 1024 * 1024, Format::BinarySi);
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), Quantity::from_units(machine.cpus, Format::DecimalSi)),
        ("memory".to_owned(), bytes(machine.memory_bytes)),
        ("pods".to_owned(), Quantity::from_units(most_pods(machine, options), Format::DecimalSi)),
    ]);
    if let Some(disk) = machine.disk_bytes {
        capacity.insert("ephemeral-storage".to_owned(), bytes(disk));
    }
    for (size, total) in &machine.hugepages {
        capacity.insert(format!("hugepages-{size}"), bytes(*total));
    }
    capacity
}

fn most_pods(machine: &Machine, options: &Options) -> i64 {
    match options.pods_per_core {
        0 => options.max_pods,
        each => options.max_pods.min(each * machine.cpus),
    }
}

/// What Pods can have of it: without what is reserved for the machine, and what eviction keeps free.
pub fn allocatable(machine: &Machine, options: &Options) -> BTreeMap<String, Quantity> {
    let mut all = capacity(machine, options);
    for (name, amount) in &mut all {
        let kept = match name.as_str() {
            "memory" => options.kept_by_eviction(Signal::MemoryAvailable, amount.value()),
            "ephemeral-storage" => options.kept_by_eviction(Signal::NodeFsAvailable, amount.value()),
            _ => 0,
        };
        let kept = Quantity::from_units(kept, Format::BinarySi);
        *amount = amount.minus(options.reserved(name)).minus(kept).max(Quantity::ZERO);
        if name == "ephemeral-storage" {
            // Upstream tells it in plain bytes.
            *amount = Quantity::from_units(amount.value(), Format::DecimalSi);
        }
    }
    // Memory that lies in huge pages is of no other use.
    let huge = machine.hugepages.iter().fold(0, |sum, (_, bytes)| sum + bytes);
    if let Some(memory) = all.get_mut("memory") {
        *memory = memory.minus(Quantity::from_units(huge, Format::BinarySi)).max(Quantity::ZERO);
    }
    all
}

/// The status; conditions keep the times of `old` where they have not changed.
pub fn status(
    identity: &Identity,
    machine: &Machine,
    health: &Health,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let shown = |amounts: BTreeMap<String, Quantity>, devices: fn(&(i64, i64)) -> i64| {
        let devices = health.devices.iter().map(|(name, count)| (name.clone(), devices(count).to_string()));
        let amounts = amounts.into_iter().map(|(name, amount)| (name, amount.to_string()));
        amounts.chain(devices).map(|(name, amount)| (name, ApiQuantity(amount))).collect::<BTreeMap<_, _>>()
    };
    let capacity = shown(capacity(machine, &identity.options), |count| count.0);
    let allocatable = shown(allocatable(machine, &identity.options), |count| count.1);
    let ips = identity.ips.iter().map(|ip| address("InternalIP", ip));
    NodeStatus {
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        addresses: Some(ips.chain([address("Hostname", &identity.name)]).collect()),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: identity.port }) }),
        node_info: Some(info(identity, machine, health)),
        images: Some(images(health.images.clone())),
        conditions: Some(conditions(health, old, now)),
        volumes_in_use: volumes_in_use(health, old.and_then(|old| old.volumes_in_use.as_deref())),
        features: health.supplemental_groups_policy.then_some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        runtime_handlers: (!health.handlers.is_empty()).then(|| health.handlers.iter().map(handler).collect()),
        ..NodeStatus::default()
    }
}

/// What the node says it uses. What may be in use and is not named would be detached: where not all is known, what was told
/// is told on.
fn volumes_in_use(health: &Health, told: Option<&[String]>) -> Option<Vec<String>> {
    let mut now = health.volumes_in_use.clone();
    if health.may_use_more {
        let unnamed = |name: &&String| !health.volumes_in_use.contains(name);
        now.extend(told.unwrap_or_default().iter().filter(unnamed).cloned());
        now.sort();
    }
    // An empty list takes away the one that is told; without one there is nothing to say.
    Some(now).filter(|now| !now.is_empty() || told.is_some())
}

fn address(kind: &str, address: &str) -> NodeAddress {
    NodeAddress { type_: kind.to_owned(), address: address.to_owned() }
}

fn handler((name, read_only, users): &(String, bool, bool)) -> NodeRuntimeHandler {
    let features =
        NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(*read_only), user_namespaces: Some(*users) };
    NodeRuntimeHandler { name: Some(name.clone()), features: Some(features) }
}

fn info(identity: &Identity, machine: &Machine, health: &Health) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: machine.architecture.clone(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: health.runtime.clone(),
        kernel_version: machine.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: identity.version.clone(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        swap: (machine.swap_bytes > 0).then_some(NodeSwapStatus { capacity: Some(machine.swap_bytes) }),
        system_uuid: machine.system_uuid.clone(),
    }
}

/// The largest images first, each with a few names.
fn images(mut images: Vec<ContainerImage>) -> Vec<ContainerImage> {
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images.truncate(MAX_IMAGES);
    for names in images.iter_mut().filter_map(|image| image.names.as_mut()) {
        names.truncate(MAX_NAMES);
    }
    images
}

fn conditions(health: &Health, old: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let under = |pressure: Pressure| health.pressures.contains(&pressure);
    let ready = if health.not_ready.is_empty() {
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("Ready", "False", "KubeletNotReady", health.not_ready.join(", "))
    };
    let texts = [
        pressure(
            "MemoryPressure",
            under(Pressure::Memory),
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            under(Pressure::Disk),
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            under(Pressure::Pid),
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready,
    ];
    let before = old.and_then(|status| status.conditions.as_ref());
    let mut all: Vec<_> = texts
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let same = before.into_iter().flatten().find(|old| old.type_ == kind && old.status == status);
            let since = same.and_then(|old| old.last_transition_time.clone());
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(since.unwrap_or(Time(now))),
            }
        })
        .collect();
    // Conditions of other parts (of the network, say) stay.
    let own: Vec<_> = all.iter().map(|condition| condition.type_.clone()).collect();
    all.extend(before.into_iter().flatten().filter(|old| !own.contains(&old.type_)).cloned());
    all
}

type Text = (&'static str, &'static str);

fn pressure(
    kind: &'static str,
    holds: bool,
    yes: Text,
    no: Text,
) -> (&'static str, &'static str, &'static str, String) {
    let (status, (reason, message)) = if holds { ("True", yes) } else { ("False", no) };
    (kind, status, reason, message.to_owned())
}

/// Whether somebody has written that a condition of the node is not known. A node never says so of itself.
pub fn is_doubted(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

/// Whether two statuses say the same but for the time of the heartbeat.
pub fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            condition.last_transition_time = None;
        }
        // Other parts write these.
        status.volumes_attached = None;
        status.volumes_in_use = status.volumes_in_use.filter(|volumes| !volumes.is_empty());
        status.phase = None;
        status.config = None;
        status.declared_features = None;
        status
    };
    still(a) == still(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_stay_told_where_the_node_may_use_more_than_it_knows() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |knows: &[&str], may_use_more, told: Option<&[&str]>, expected: Option<&[&str]>| {
            let health = Health { volumes_in_use: list(knows), may_use_more, ..Health::default() };
            assert_eq!(volumes_in_use(&health, told.map(list).as_deref()), expected.map(list));
        };
        check(&[], false, None, None);
        check(&["a"], false, Some(&["b"]), Some(&["a"]));
        check(&[], false, Some(&["b"]), Some(&[]));
        check(&["b"], true, Some(&["a", "b"]), Some(&["a", "b"]));
        check(&[], true, None, None);
    }
}
