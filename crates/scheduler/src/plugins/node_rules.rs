//! Rules that look at one node's own properties: name, taints, labels, ports, images.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Ask, Event, Filter, Normalize, OfNode, Plugin, Score, Verdict};
use crate::pod::PodInfo;
use crate::selectors::{node_matches, node_matches_any};
use crate::snapshot::{NodeInfo, Snapshot, normalized_image};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// A changed node is worth a try where the plugin would let the pod on it.
fn on_node_change(ask: &Ask, event: &Event, rule: OfNode<Verdict>) -> bool {
    matches!(event, Event::Node(node) if rule(ask, node) == Verdict::Pass)
}

/// Keeps pods off cordoned nodes.
pub const UNSCHEDULABLE: Plugin = Plugin {
    name: "NodeUnschedulable",
    check: None,
    filter: Filter::Node(not_cordoned),
    score: Score::None,
    weight: 0,
    wakes_on: |ask, event| on_node_change(ask, event, not_cordoned),
};

fn not_cordoned(ask: &Ask, node: &NodeInfo) -> Verdict {
    let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let cordon = || Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
    let fine = !cordoned || is_tolerated(&cordon(), ask.pod.tolerations());
    Verdict::pass_or_for_good(fine, "node(s) were unschedulable")
}

/// Honours a node that the pod names itself.
pub const NAME: Plugin = Plugin {
    name: "NodeName",
    check: None,
    filter: Filter::Node(is_named),
    score: Score::None,
    weight: 0,
    wakes_on: |ask, event| on_node_change(ask, event, is_named),
};

fn is_named(ask: &Ask, node: &NodeInfo) -> Verdict {
    let wanted = ask.pod.node_name();
    Verdict::pass_or_for_good(
        wanted.is_empty() || node.name() == wanted,
        "node(s) didn't match the requested node name",
    )
}

/// Taints and tolerations.
pub const TAINTS: Plugin = Plugin {
    name: "TaintToleration",
    check: None,
    filter: Filter::Node(untainted),
    score: Score::Node(soft_taints, Normalize::ToMaxReversed),
    weight: 3,
    wakes_on: |ask, event| on_node_change(ask, event, untainted),
};

fn untainted(ask: &Ask, node: &NodeInfo) -> Verdict {
    Verdict::pass_or_for_good(hard_taints_tolerated(ask.pod, node), "node(s) had untolerated taint(s)")
}

/// Whether the pod tolerates all taints of the node that keep pods away.
pub fn hard_taints_tolerated(pod: &PodInfo, node: &NodeInfo) -> bool {
    let forbids = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    taints(node).iter().filter(forbids).all(|taint| is_tolerated(taint, pod.tolerations()))
}

/// How many taints there are that the pod had better avoid.
fn soft_taints(ask: &Ask, node: &NodeInfo) -> i64 {
    let for_soft = |toleration: &&Toleration| {
        toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == "PreferNoSchedule")
    };
    let avoided = |taint: &&Taint| {
        let mut tolerations = ask.pod.tolerations().iter().filter(for_soft);
        taint.effect == "PreferNoSchedule" && !tolerations.any(|toleration| tolerates(toleration, taint))
    };
    taints(node).iter().filter(avoided).count() as i64
}

/// The taints of a node.
pub(super) fn taints(node: &NodeInfo) -> &[Taint] {
    node.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether one of the tolerations covers the taint.
pub(super) fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if given(&toleration.key).is_some_and(|key| key != taint.key) {
        return false;
    }
    let value = taint.value.as_deref().unwrap_or_default();
    let other = toleration.value.as_deref().unwrap_or_default();
    let numbers = || value.parse::<i64>().ok().zip(other.parse::<i64>().ok());
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => given(&toleration.key).is_some() && value == other,
        "Exists" => true,
        "Gt" => numbers().is_some_and(|(value, other)| value > other),
        "Lt" => numbers().is_some_and(|(value, other)| value < other),
        _ => false,
    }
}

/// Node selector and node affinity.
pub const AFFINITY: Plugin = Plugin {
    name: "NodeAffinity",
    check: None,
    filter: Filter::Node(has_affinity),
    score: Score::Node(preference, Normalize::ToMax),
    weight: 2,
    wakes_on: |ask, event| on_node_change(ask, event, has_affinity),
};

fn has_affinity(ask: &Ask, node: &NodeInfo) -> Verdict {
    let added = ask.profile.added_affinity.as_ref();
    let required = added.and_then(|added| added.required_during_scheduling_ignored_during_execution.as_ref());
    if required.is_some_and(|required| !node_matches_any(&required.node_selector_terms, &node.node)) {
        return Verdict::pass_or_for_good(false, "node(s) didn't match scheduler-enforced node affinity");
    }
    Verdict::pass_or_for_good(affinity_allows(ask.pod, node), "node(s) didn't match Pod's node affinity/selector")
}

fn preference(ask: &Ask, node: &NodeInfo) -> i64 {
    let added = ask.profile.added_affinity.as_ref();
    let added = added.and_then(|added| added.preferred_during_scheduling_ignored_during_execution.as_deref());
    let terms = added.unwrap_or_default().iter().chain(ask.pod.preferred_node_terms());
    let hit = terms.filter(|term| term.weight != 0 && node_matches(&term.preference, &node.node));
    hit.map(|term| i64::from(term.weight)).sum()
}

/// Whether node selector and required node affinity let the pod on the node.
pub fn affinity_allows(pod: &PodInfo, node: &NodeInfo) -> bool {
    let labels = pod.pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    labels.into_iter().flatten().all(|(key, value)| node.label(key) == Some(value))
        && pod.required_node_terms().is_none_or(|terms| node_matches_any(terms, &node.node))
}

/// Ports on the node's own addresses.
pub const PORTS: Plugin = Plugin {
    name: "NodePorts",
    check: None,
    filter: Filter::Load(has_free_ports),
    score: Score::None,
    weight: 0,
    wakes_on: |ask, event| match event {
        Event::Node(_) => on_node_change(ask, event, has_free_ports),
        Event::PodGone(other, _) => {
            other.host_ports.iter().any(|port| ask.pod.host_ports.iter().any(|p| p.conflicts(port)))
        }
        Event::PodPlaced(_) | Event::Storage => false,
    },
};

fn has_free_ports(ask: &Ask, node: &NodeInfo) -> Verdict {
    let wanted = &ask.pod.host_ports;
    if wanted.is_empty() {
        return Verdict::Pass;
    }
    let mut taken = node.load.pods.iter().flat_map(|other| &other.host_ports);
    let free = !taken.any(|port| wanted.iter().any(|wanted| wanted.conflicts(port)));
    Verdict::pass_if(free, "node(s) didn't have free ports for the requested pod ports")
}

const IMAGE_MIN_BYTES: i64 = 23 * 1024 * 1024;
const IMAGE_MAX_BYTES_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

/// Favours nodes that have the pod's images already.
pub const IMAGES: Plugin = Plugin {
    name: "ImageLocality",
    check: None,
    filter: Filter::None,
    score: Score::Node(images_there, Normalize::Not),
    weight: 1,
    wakes_on: |_, _| false,
};

/// On how many nodes each image of the pod is, and how many nodes there are: what the scores depend on beside the node.
pub fn image_counts(pod: &PodInfo, snapshot: &Snapshot) -> Vec<usize> {
    let mut counts: Vec<_> = images(pod).map(|image| snapshot.nodes_with_image(&normalized_image(image))).collect();
    if counts.iter().all(|count| *count == 0) {
        return Vec::new();
    }
    counts.push(snapshot.nodes().len());
    counts
}

fn images(pod: &PodInfo) -> impl Iterator<Item = &str> {
    let spec = pod.pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.map(|container| container.image.as_deref().unwrap_or_default())
}

fn images_there(ask: &Ask, node: &NodeInfo) -> i64 {
    if node.images.is_empty() {
        return 0;
    }
    let nodes = ask.snapshot.nodes().len() as f64;
    let (mut sum, mut containers) = (0, 0);
    for image in images(ask.pod) {
        containers += 1;
        let image = normalized_image(image);
        if let Some(size) = node.images.get(&image) {
            // An image that few nodes have counts less, lest they are flooded with pods.
            let spread = ask.snapshot.nodes_with_image(&image) as f64 / nodes;
            sum += (*size as f64 * spread) as i64;
        }
    }
    let limit = IMAGE_MAX_BYTES_PER_CONTAINER * containers;
    super::MAX_SCORE * (sum.clamp(IMAGE_MIN_BYTES, limit) - IMAGE_MIN_BYTES) / (limit - IMAGE_MIN_BYTES)
}
