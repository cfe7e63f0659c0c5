//! Requests and limits as the kernel takes them, and the cgroup that a Pod's containers live in.
//! See <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use skiff_base::Quantity;
use skiff_cri::{HugepageLimit, LinuxContainerResources};

use super::NodeFacts;
use crate::pod::spec::{qos_class, quantity, spec};

/// The period over which a CPU quota counts, in microseconds.
pub const CPU_PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// Pods with at least this priority (`system-node-critical`) are the last to be killed for memory.
const NODE_CRITICAL_PRIORITY: i32 = 2_000_001_000;

/// The amount of a resource that a container asks for or is limited to.
pub fn amount(resources: Option<&ResourceRequirements>, limits: bool, name: &str) -> Option<Quantity> {
    let list = if limits { resources?.limits.as_ref() } else { resources?.requests.as_ref() };
    list?.get(name).map(quantity)
}

/// The limits of one container.
pub fn container(pod: &Pod, container: &Container, node: &NodeFacts) -> LinuxContainerResources {
    let resources = container.resources.as_ref();
    let mut linux = of(resources);
    linux.oom_score_adj = oom_score_adj(pod, resources, node.memory_bytes);
    if !node.cpu_quota {
        (linux.cpu_quota, linux.cpu_period) = (0, 0);
    }
    for (name, page_size) in crate::cgroups::huge_sizes(node) {
        let limit = amount(resources, true, &name).or_else(|| amount(resources, false, &name));
        let limit = limit.map_or(0, |bytes| u64::try_from(bytes.value()).unwrap_or(0));
        linux.hugepage_limits.push(HugepageLimit { page_size, limit });
    }
    if node.memory_qos {
        linux.unified = memory_qos(pod, resources, node);
    }
    linux
}

/// Files of the unified hierarchy: what was asked for is protected, and beyond it memory slows down before it is out.
/// See <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/#memory-qos-with-cgroup-v2>.
fn memory_qos(
    pod: &Pod,
    resources: Option<&ResourceRequirements>,
    node: &NodeFacts,
) -> std::collections::HashMap<String, String> {
    /// What the kernel rounds to.
    const PAGE: i64 = 4096;
    let class = qos_class(pod);
    let bytes = |limits: bool| amount(resources, limits, "memory").map(|memory| memory.value()).filter(|n| *n > 0);
    let (request, limit) = (bytes(false), bytes(true));
    let mut files = std::collections::HashMap::new();
    if let Some(request) = request {
        let file = if class == "Guaranteed" { "memory.min" } else { "memory.low" };
        files.insert(file.to_owned(), request.to_string());
    }
    if class == "Burstable" {
        let allocatable = node.allocatable.get("memory").map_or(node.memory_bytes, |memory| memory.value());
        let (low, high) = (request.unwrap_or(0), limit.unwrap_or(allocatable));
        let throttle = low + ((high - low) as f64 * node.memory_throttling) as i64;
        if throttle > low {
            files.insert("memory.high".to_owned(), (throttle / PAGE * PAGE).to_string());
        }
    }
    files
}

fn of(resources: Option<&ResourceRequirements>) -> LinuxContainerResources {
    let cpu_limit = amount(resources, true, "cpu").map(|cpu| cpu.milli_value()).filter(|cpu| *cpu > 0);
    let cpu_request = amount(resources, false, "cpu").map(|cpu| cpu.milli_value()).or(cpu_limit);
    let memory_limit = amount(resources, true, "memory").map_or(0, |memory| memory.value());
    LinuxContainerResources {
        cpu_period: if cpu_limit.is_some() { CPU_PERIOD } else { 0 },
        cpu_quota: cpu_limit.map_or(0, |millis| (millis * CPU_PERIOD / 1000).max(MIN_QUOTA)),
        cpu_shares: (cpu_request.unwrap_or(0) * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES),
        memory_limit_in_bytes: memory_limit,
        memory_swap_limit_in_bytes: memory_limit,
        ..LinuxContainerResources::default()
    }
}

/// Amounts as limits.
pub fn of_limits(
    limits: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
) -> LinuxContainerResources {
    of(Some(&ResourceRequirements { claims: None, limits: Some(limits), requests: None }))
}

/// The limits of the Pod as a whole: the sum of its containers' where each has one.
pub fn pod(pod: &Pod) -> LinuxContainerResources {
    if let Some(whole) = &spec(pod).resources {
        return of(Some(whole));
    }
    let totals = |limits: bool| {
        let names = ["cpu", "memory"].into_iter();
        let known = names.filter_map(|name| Some((name.to_owned(), total(pod, limits, name)?)));
        let quantities = known
            .map(|(name, amount)| (name, k8s_openapi::apimachinery::pkg::api::resource::Quantity(amount.to_string())));
        Some(quantities.collect::<BTreeMap<_, _>>())
    };
    of(Some(&ResourceRequirements { claims: None, limits: totals(true), requests: totals(false) }))
}

/// What the Pod asks for in all (or is limited to, if every container is): the sum of its containers and sidecars, or
/// the largest init container with the sidecars before it, whichever is more; and the overhead.
pub fn total(pod: &Pod, limits: bool, name: &str) -> Option<Quantity> {
    let spec = spec(pod);
    let of = |container: &Container| amount(container.resources.as_ref(), limits, name);
    let mut running = Quantity::ZERO;
    let mut peak = Quantity::ZERO;
    let mut any = false;
    for container in spec.init_containers.iter().flatten() {
        let wanted = of(container);
        if limits && wanted.is_none() {
            return None;
        }
        any |= wanted.is_some();
        let with = running.plus(wanted.unwrap_or(Quantity::ZERO));
        peak = peak.max(with);
        if container.restart_policy.as_deref() == Some("Always") {
            running = with;
        }
    }
    for container in &spec.containers {
        let wanted = of(container);
        if limits && wanted.is_none() {
            return None;
        }
        any |= wanted.is_some();
        running = running.plus(wanted.unwrap_or(Quantity::ZERO));
    }
    let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(name)).map(quantity);
    any.then(|| running.max(peak).plus(overhead.unwrap_or(Quantity::ZERO)))
}

/// How readily the kernel kills a container when memory runs out.
fn oom_score_adj(pod: &Pod, resources: Option<&ResourceRequirements>, node_bytes: i64) -> i64 {
    if spec(pod).priority.is_some_and(|priority| priority >= NODE_CRITICAL_PRIORITY) {
        return -997;
    }
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = amount(resources, false, "memory").map_or(0, |memory| memory.value());
            let share = i128::from(request) * 1000 / i128::from(node_bytes.max(1));
            (1000 - share).clamp(3, 999) as i64
        }
    }
}

/// The cgroup in which the Pod's containers get theirs.
pub fn cgroup_parent(pod: &Pod, systemd: bool) -> String {
    let uid = super::uid(pod);
    let class = match qos_class(pod) {
        "BestEffort" => "besteffort",
        "Burstable" => "burstable",
        _ => "",
    };
    match (systemd, class) {
        (false, "") => format!("/kubepods/pod{uid}"),
        (false, class) => format!("/kubepods/{class}/pod{uid}"),
        (true, "") => format!("/kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_")),
        (true, class) => {
            let uid = uid.replace('-', "_");
            format!("/kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{uid}.slice")
        }
    }
}
