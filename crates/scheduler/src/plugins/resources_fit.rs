//! Whether a node has room, and which node has the most room or the best balance of it.

use std::borrow::Cow;

use super::{Event, MAX_SCORE, Normalize, Plugin, Verdict};
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

/// Room for the pod's requests; scores the least allocated node best.
pub const FIT: Plugin = Plugin {
    name: "NodeResourcesFit",
    check: None,
    filter: Some(|pod, _| Some(Box::new(move |node: &NodeInfo| fits(pod, node)))),
    score: Some((|pod, _| Some(Box::new(move |node: &NodeInfo| least_allocated(pod, node))), Normalize::Not, 1)),
    wakes_on: |pod, event, _| match event {
        Event::Node(node) | Event::PodGone(_, Some(node)) => fits(pod, node) == Verdict::Pass,
        Event::PodGone(_, None) | Event::PodPlaced(_) | Event::Storage => false,
    },
};

fn fits(pod: &PodInfo, node: &NodeInfo) -> Verdict {
    let (wanted, used, has) = (&pod.requests, &node.load.requested, &node.allocatable);
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut for_good = false;
    if node.load.pods.len() as i64 + 1 > node.allowed_pods {
        reasons.push("Too many pods".into());
    }
    let mut check = |wanted: i64, used: i64, has: i64, reason: &dyn Fn() -> Cow<'static, str>| {
        if wanted > 0 && wanted > has - used {
            reasons.push(reason());
            for_good |= wanted > has;
        }
    };
    check(wanted.cpu_millis, used.cpu_millis, has.cpu_millis, &|| "Insufficient cpu".into());
    check(wanted.memory_bytes, used.memory_bytes, has.memory_bytes, &|| "Insufficient memory".into());
    check(wanted.storage_bytes, used.storage_bytes, has.storage_bytes, &|| "Insufficient ephemeral-storage".into());
    for (name, amount) in &wanted.others {
        let of = |resources: &crate::resources::Resources| resources.others.get(name).copied().unwrap_or(0);
        check(*amount, of(used), of(has), &|| format!("Insufficient {name}").into());
    }
    match (reasons.is_empty(), for_good) {
        (true, _) => Verdict::Pass,
        (false, false) => Verdict::Reject(reasons),
        (false, true) => Verdict::RejectForGood(reasons),
    }
}

fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let free = |used: i64, has: i64| if has == 0 || used > has { 0 } else { (has - used) * MAX_SCORE / has };
    let cpu = free(node.load.scored.0 + pod.scored.0, node.allocatable.cpu_millis);
    let memory = free(node.load.scored.1 + pod.scored.1, node.allocatable.memory_bytes);
    (cpu + memory) / 2
}

/// Favours nodes where CPU and memory would be used to the same degree.
pub const BALANCED: Plugin = Plugin {
    name: "NodeResourcesBalancedAllocation",
    check: None,
    filter: None,
    score: Some((
        |pod, _| {
            // A pod that asks for nothing changes no balance.
            let asks = pod.requests.cpu_millis != 0 || pod.requests.memory_bytes != 0;
            asks.then(|| Box::new(move |node: &NodeInfo| balance_gain(pod, node)) as super::Score)
        },
        Normalize::Not,
        1,
    )),
    wakes_on: |_, _, _| false,
};

/// How even the use would be with the pod: 100 where both are used to the same degree.
fn balance_gain(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let fraction = |used: i64, has: i64| if has == 0 { 1.0 } else { (used as f64 / has as f64).min(1.0) };
    let cpu = fraction(node.load.requested.cpu_millis + pod.requests.cpu_millis, node.allocatable.cpu_millis);
    let memory = fraction(node.load.requested.memory_bytes + pod.requests.memory_bytes, node.allocatable.memory_bytes);
    // With two resources the standard deviation is half their distance.
    ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
}
