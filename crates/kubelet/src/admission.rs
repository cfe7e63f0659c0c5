//! Whether the node takes a Pod that has been bound to it. The scheduler has looked at the same things, but others may bind
//! Pods too, and the node may have changed meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Pod};
use skiff_base::Quantity;

use crate::config::resources::total;
use crate::evict::Pressure;
use crate::pod::spec::{containers, qos_class, spec};
use crate::pod::types::Eviction;

/// What decides beyond the Pods themselves.
#[derive(Debug, Clone, Copy)]
pub struct NodeState<'a> {
    /// What Pods can have in all.
    pub allocatable: &'a BTreeMap<String, Quantity>,
    /// The Node's labels, where they count.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// What it runs short of.
    pub pressures: &'a [Pressure],
    /// Whether the machine is being shut down.
    pub shutting_down: bool,
    /// Sysctls that may be set beyond the safe ones.
    pub unsafe_sysctls: &'a [String],
    /// Whether the kernel enforces AppArmor profiles.
    pub apparmor: bool,
}

/// Whether a Pod is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Taken,
    /// It is, and these others end for it, by UID.
    TakenInsteadOf(Vec<String>),
    /// It is not: status reason and message.
    Rejected(String, String),
}

/// How a Pod ends that makes room for a critical one.
pub fn preempted() -> Eviction {
    Eviction {
        reason: "Preempting".to_owned(),
        message: "Preempted in order to admit critical pod".to_owned(),
        grace_seconds: None,
    }
}

/// Whether the node takes a Pod; `others` are its active Pods.
pub fn admit(pod: &Pod, others: &[Arc<Pod>], node: &NodeState<'_>) -> Verdict {
    let rejected = |(reason, message): (String, String)| Verdict::Rejected(reason, message);
    if node.shutting_down {
        let message = "Pod was rejected as the node is shutting down.";
        return rejected(("NodeShutdown".to_owned(), message.to_owned()));
    }
    let refusal = under_pressure(pod, node.pressures)
        .or_else(|| sysctls(pod, node.unsafe_sysctls))
        .or_else(|| apparmor(pod).filter(|_| !node.apparmor));
    if let Some(refusal) = refusal {
        return rejected(refusal);
    }
    let Some(refusal) = reject(pod, others, node.allocatable, node.labels) else { return Verdict::Taken };
    let lacks = all_lacks(pod, others, node.allocatable);
    if lacks.is_empty() || !is_critical(pod) {
        return rejected(refusal);
    }
    match victims(pod, others, &lacks) {
        Some(victims) => Verdict::TakenInsteadOf(victims),
        None => rejected(refusal),
    }
}

/// A node that runs short takes no more than it must.
fn under_pressure(pod: &Pod, pressures: &[Pressure]) -> Option<(String, String)> {
    if pressures.is_empty() || is_critical(pod) {
        return None;
    }
    if pressures == [Pressure::Memory] {
        let mut tolerations = spec(pod).tolerations.iter().flatten();
        let tolerates = tolerations.any(|toleration| {
            toleration.key.as_deref().is_none_or(|key| key == "node.kubernetes.io/memory-pressure")
                && toleration.effect.as_deref().is_none_or(|effect| effect == "NoSchedule")
        });
        if qos_class(pod) != "BestEffort" || tolerates {
            return None;
        }
    }
    let names: Vec<_> = pressures.iter().map(|pressure| pressure.name()).collect();
    Some((crate::evict::REASON.to_owned(), format!("The node had condition: {names:?}. ").replace('"', "")))
}

/// Sysctls that are namespaced and cannot harm others.
/// See <https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/#safe-and-unsafe-sysctls>.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Pod, allowed: &[String]) -> Option<(String, String)> {
    let forbidden = |message: String| Some(("SysctlForbidden".to_owned(), message));
    let context = spec(pod).security_context.as_ref()?;
    for sysctl in context.sysctls.iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        };
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !allowed.iter().any(matches) {
            return forbidden(format!("forbidden sysctl: {name:?} not allowlisted"));
        }
        let (net, ipc) = (name.starts_with("net."), name.starts_with("kernel.") || name.starts_with("fs.mqueue."));
        if net && spec(pod).host_network == Some(true) {
            return forbidden(format!("forbidden sysctl: {name:?} not allowed with host net enabled"));
        }
        if ipc && spec(pod).host_ipc == Some(true) {
            return forbidden(format!("forbidden sysctl: {name:?} not allowed with host ipc enabled"));
        }
    }
    None
}

/// What a node without AppArmor tells a Pod that asks for a profile.
fn apparmor(pod: &Pod) -> Option<(String, String)> {
    let context = spec(pod).security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let mut profiles = containers(pod).into_iter().filter_map(|container| {
        let own = container.container.security_context.as_ref().and_then(|own| own.app_armor_profile.clone());
        own.or_else(|| context.cloned())
    });
    let wanted = profiles.any(|profile| profile.type_ != "Unconfined");
    let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
    wanted.then(|| ("AppArmor".to_owned(), message.to_owned()))
}

/// The Pods that end so that a critical one fits: as few as it takes, of the lowest classes and priorities; `None` where
/// that is not enough.
fn victims(pod: &Pod, others: &[Arc<Pod>], lacks: &[Lack]) -> Option<Vec<String>> {
    let own = spec(pod).priority.unwrap_or(0);
    let rank = |other: &Pod| match qos_class(other) {
        "BestEffort" => 0,
        "Burstable" => 1,
        _ => 2,
    };
    let lower = |other: &&Arc<Pod>| !is_critical(other) && (is_static(pod) || spec(other).priority.unwrap_or(0) < own);
    let mut candidates: Vec<_> = others.iter().filter(lower).collect();
    candidates.sort_by_key(|other| (rank(other), spec(other).priority.unwrap_or(0)));
    let mut missing: BTreeMap<&str, i64> =
        lacks.iter().map(|lack| (lack.name.as_str(), lack.requested + lack.used - lack.capacity)).collect();
    let mut chosen = Vec::new();
    for other in candidates {
        if missing.values().all(|missing| *missing <= 0) {
            break;
        }
        let mut helps = false;
        for (name, missing) in &mut missing {
            let held = match *name {
                "pods" => 1,
                "cpu" => total(other, false, name).map_or(0, |amount| amount.milli_value()),
                _ => total(other, false, name).map_or(0, |amount| amount.value()),
            };
            helps |= *missing > 0 && held > 0;
            *missing -= held;
        }
        if helps {
            chosen.push(crate::config::uid(other).to_owned());
        }
    }
    missing.values().all(|missing| *missing <= 0).then_some(chosen)
}

/// The status reason and message of a Pod that is not taken; `others` are the active Pods of the node.
pub fn reject(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Quantity>,
    labels: Option<&BTreeMap<String, String>>,
) -> Option<(String, String)> {
    if let Some(labels) = labels
        && !selects(pod, labels)
    {
        let message =
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Some(("NodeAffinity".to_owned(), message.to_owned()));
    }
    lacks(pod, others, allocatable)
        .map(|lack| (format!("OutOf{}", lack.name), format!("Pod was rejected: {}", lack.message())))
}

/// A resource of which there is too little for a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The resource.
    pub name: String,
    /// What the Pod asks for; of processors in thousandths, as the other numbers.
    pub requested: i64,
    /// What others have.
    pub used: i64,
    /// What there is in all.
    pub capacity: i64,
}

impl Lack {
    /// In upstream's words.
    pub fn message(&self) -> String {
        let Self { name, requested, used, capacity } = self;
        format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}")
    }
}

/// The first resource that the Pod asks more of than the others leave.
pub fn lacks(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, Quantity>) -> Option<Lack> {
    all_lacks(pod, others, allocatable).into_iter().next()
}

/// All resources that the Pod asks more of than the others leave.
pub fn all_lacks(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, Quantity>) -> Vec<Lack> {
    let mut lacks = Vec::new();
    for (name, capacity) in allocatable {
        let requested = if name == "pods" { count(1) } else { total(pod, false, name).unwrap_or(Quantity::ZERO) };
        // What the Pod does not ask for need not be added up over all the others.
        if requested.is_zero() {
            continue;
        }
        let used = if name == "pods" {
            count(others.len())
        } else {
            others.iter().filter_map(|other| total(other, false, name)).fold(Quantity::ZERO, Quantity::plus)
        };
        if used.plus(requested) > *capacity {
            let number = |quantity: &Quantity| if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            lacks.push(Lack {
                name: name.clone(),
                requested: number(&requested),
                used: number(&used),
                capacity: number(capacity),
            });
        }
    }
    lacks
}

/// Where a Pod comes from: absent or `api` for the API server, `file` or `http` for one that the node itself was given.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// On the API server's image of a static Pod: the hash of that Pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Pods with at least this priority (`system-cluster-critical`) are critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the node was given the Pod by a file or a URL.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api")
}

/// Whether the Pod is the API server's image of a static one.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// Whether the node keeps the Pod also where it must end others.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

fn count(number: usize) -> Quantity {
    Quantity::from_units(i64::try_from(number).unwrap_or(i64::MAX), skiff_base::quantity::Format::DecimalSi)
}

/// Whether the Pod's node selector and required node affinity (by labels) match.
fn selects(pod: &Pod, labels: &BTreeMap<String, String>) -> bool {
    let spec = spec(pod);
    let selector = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let affinity = required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            // Terms about fields name the node itself, which the binding has done already.
            let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
            let fields = term.match_fields.as_deref().unwrap_or(&[]);
            !(expressions.is_empty() && fields.is_empty())
                && expressions.iter().all(|requirement| holds(requirement, labels))
        })
    });
    selector && affinity
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let listed = |value: &String| requirement.values.iter().flatten().any(|listed| listed == value);
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = requirement.values.iter().flatten().next().and_then(number);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32, cpu: &str, more: &str) -> Arc<Pod> {
        let yaml = format!(
            "{{metadata: {{uid: {uid}}}, spec: {{priority: {priority}, {more}
               containers: [{{name: app, resources: {{requests: {{cpu: {cpu}}}}}}}]}}}}"
        );
        Arc::new(serde_saphyr::from_str(&yaml).expect("a valid Pod"))
    }

    fn check(pod: &Pod, others: &[Arc<Pod>], pressures: &[Pressure], expected: &str) {
        let allocatable = BTreeMap::from([("cpu".to_owned(), Quantity::from_millis(4000))]);
        let allowed = ["net.core.*".to_owned()];
        let node = NodeState {
            allocatable: &allocatable,
            labels: None,
            pressures,
            shutting_down: false,
            unsafe_sysctls: &allowed,
            apparmor: false,
        };
        let told = match admit(pod, others, &node) {
            Verdict::Taken => "taken".to_owned(),
            Verdict::TakenInsteadOf(victims) => format!("instead of {}", victims.join(", ")),
            Verdict::Rejected(reason, message) => format!("{reason}: {message}"),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn critical_pods_take_the_place_of_the_least() {
        let others = [pod("dear", 1000, "2", ""), pod("cheap", 0, "1500m", ""), pod("tiny", 0, "100m", "")];
        let lack = "Node didn't have enough resource: cpu, requested: 2000, used: 3600, capacity: 4000";
        check(&pod("p", 5000, "2", ""), &others, &[], &format!("OutOfcpu: Pod was rejected: {lack}"));
        check(&pod("p", CRITICAL_PRIORITY, "2", ""), &others, &[], "instead of cheap, tiny");
        check(&pod("p", CRITICAL_PRIORITY, "400m", ""), &others, &[], "taken");
        let critical = [pod("c", CRITICAL_PRIORITY + 1, "3", "")];
        let lack = "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000";
        check(&pod("p", CRITICAL_PRIORITY, "2", ""), &critical, &[], &format!("OutOfcpu: Pod was rejected: {lack}"));
    }

    #[test]
    fn a_node_that_runs_short_takes_only_what_it_must() {
        let (best_effort, burstable) = (pod("p", 0, "'0'", ""), pod("p", 0, "1", ""));
        check(&best_effort, &[], &[Pressure::Memory], "Evicted: The node had condition: [MemoryPressure]. ");
        check(&burstable, &[], &[Pressure::Memory], "taken");
        check(&burstable, &[], &[Pressure::Disk], "Evicted: The node had condition: [DiskPressure]. ");
        check(&pod("p", CRITICAL_PRIORITY, "1", ""), &[], &[Pressure::Disk], "taken");
        let tolerant =
            "tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists, effect: NoSchedule}],";
        check(&pod("p", 0, "'0'", tolerant), &[], &[Pressure::Memory], "taken");
    }

    #[test]
    fn sysctls_are_safe_or_allowed() {
        let with = |name: &str, host: bool| {
            let more = format!("hostNetwork: {host}, securityContext: {{sysctls: [{{name: {name}, value: '1'}}]}},");
            pod("p", 0, "1", &more)
        };
        check(&with("net.ipv4.tcp_syncookies", false), &[], &[], "taken");
        check(&with("net.core.somaxconn", false), &[], &[], "taken");
        check(
            &with("kernel.msgmax", false),
            &[],
            &[],
            "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        );
        check(
            &with("net.core.somaxconn", true),
            &[],
            &[],
            "SysctlForbidden: forbidden sysctl: \"net.core.somaxconn\" not allowed with host net enabled",
        );
    }

    #[test]
    fn profiles_of_apparmor_need_a_kernel_that_enforces_them() {
        let with = |kind: &str| {
            let more = format!("securityContext: {{appArmorProfile: {{type: {kind}, localhostProfile: p}}}},");
            pod("p", 0, "1", &more)
        };
        check(&with("Unconfined"), &[], &[], "taken");
        let refused = "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host";
        check(&with("RuntimeDefault"), &[], &[], refused);
        check(&with("Localhost"), &[], &[], refused);
    }
}
