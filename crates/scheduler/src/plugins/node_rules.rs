//! Rules that look at one node's own properties: name, taints, labels, ports, images.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Event, Normalize, Plugin, Verdict};
use crate::pod::PodInfo;
use crate::selectors::{node_matches, node_matches_any};
use crate::snapshot::{NodeInfo, Snapshot, normalized_image};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

fn on_node_change(pod: &PodInfo, event: &Event, snapshot: &Snapshot, plugin: &Plugin) -> bool {
    let (Event::Node(node), Some(make)) = (event, plugin.filter) else { return false };
    make(pod, snapshot).is_none_or(|filter| filter(node) == Verdict::Pass)
}

/// Keeps pods off cordoned nodes.
pub const UNSCHEDULABLE: Plugin = Plugin {
    name: "NodeUnschedulable",
    check: None,
    filter: Some(|pod, _| {
        let cordon = Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
        let tolerated = pod.tolerations().iter().any(|toleration| tolerates(toleration, &cordon));
        (!tolerated).then(|| {
            Box::new(|node: &NodeInfo| {
                let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
                Verdict::pass_or_for_good(!cordoned, "node(s) were unschedulable")
            }) as super::Filter
        })
    }),
    score: None,
    wakes_on: |pod, event, snapshot| on_node_change(pod, event, snapshot, &UNSCHEDULABLE),
};

/// Honours a node that the pod names itself.
pub const NAME: Plugin = Plugin {
    name: "NodeName",
    check: None,
    filter: Some(|pod, _| {
        let wanted = pod.node_name();
        (!wanted.is_empty()).then(|| {
            Box::new(move |node: &NodeInfo| {
                Verdict::pass_or_for_good(node.name() == wanted, "node(s) didn't match the requested node name")
            }) as super::Filter
        })
    }),
    score: None,
    wakes_on: |pod, event, snapshot| on_node_change(pod, event, snapshot, &NAME),
};

/// Taints and tolerations.
pub const TAINTS: Plugin = Plugin {
    name: "TaintToleration",
    check: None,
    filter: Some(|pod, _| {
        let tolerations = pod.tolerations();
        Some(Box::new(move |node: &NodeInfo| {
            let forbids = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
            let fine = taints(node).iter().filter(forbids).all(|taint| is_tolerated(taint, tolerations));
            Verdict::pass_or_for_good(fine, "node(s) had untolerated taint(s)")
        }))
    }),
    score: Some((
        |pod, snapshot| {
            let soft = |taint: &Taint| taint.effect == "PreferNoSchedule";
            if !snapshot.nodes().iter().any(|node| taints(node).iter().any(soft)) {
                return None;
            }
            let tolerations: Vec<_> = pod
                .tolerations()
                .iter()
                .filter(|t| t.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == "PreferNoSchedule"))
                .cloned()
                .collect();
            Some(Box::new(move |node: &NodeInfo| {
                taints(node).iter().filter(|taint| soft(taint) && !is_tolerated(taint, &tolerations)).count() as i64
            }))
        },
        Normalize::ToMaxReversed,
        3,
    )),
    wakes_on: |pod, event, snapshot| on_node_change(pod, event, snapshot, &TAINTS),
};

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
    filter: Some(|pod, _| {
        let labels = pod.pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
        let terms = pod.required_node_terms();
        if labels.is_none_or(|labels| labels.is_empty()) && terms.is_none() {
            return None;
        }
        Some(Box::new(move |node: &NodeInfo| {
            let fine = labels.into_iter().flatten().all(|(key, value)| node.label(key) == Some(value))
                && terms.is_none_or(|terms| node_matches_any(terms, &node.node));
            Verdict::pass_or_for_good(fine, "node(s) didn't match Pod's node affinity/selector")
        }))
    }),
    score: Some((
        |pod, _| {
            let terms = pod.preferred_node_terms();
            (!terms.is_empty()).then(|| {
                Box::new(move |node: &NodeInfo| {
                    let hit =
                        terms.iter().filter(|term| term.weight != 0 && node_matches(&term.preference, &node.node));
                    hit.map(|term| i64::from(term.weight)).sum()
                }) as super::Score
            })
        },
        Normalize::ToMax,
        2,
    )),
    wakes_on: |pod, event, snapshot| on_node_change(pod, event, snapshot, &AFFINITY),
};

/// Whether node selector and required node affinity let the pod on the node.
pub(super) fn affinity_allows(pod: &PodInfo, node: &NodeInfo) -> bool {
    let labels = pod.pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    labels.into_iter().flatten().all(|(key, value)| node.label(key) == Some(value))
        && pod.required_node_terms().is_none_or(|terms| node_matches_any(terms, &node.node))
}

/// Ports on the node's own addresses.
pub const PORTS: Plugin = Plugin {
    name: "NodePorts",
    check: None,
    filter: Some(|pod, _| {
        (!pod.host_ports.is_empty()).then(|| {
            Box::new(move |node: &NodeInfo| {
                let mut taken =
                    node.load.pods.values().filter(|o| o.uid != pod.uid).flat_map(|other| &other.host_ports);
                let free = !taken.any(|port| pod.host_ports.iter().any(|wanted| wanted.conflicts(port)));
                Verdict::pass_if(free, "node(s) didn't have free ports for the requested pod ports")
            }) as super::Filter
        })
    }),
    score: None,
    wakes_on: |pod, event, snapshot| match event {
        Event::Node(_) => on_node_change(pod, event, snapshot, &PORTS),
        Event::PodGone(other, _) => {
            other.host_ports.iter().any(|port| pod.host_ports.iter().any(|p| p.conflicts(port)))
        }
        Event::PodPlaced(_) | Event::Storage => false,
    },
};

const IMAGE_MIN_BYTES: i64 = 23 * 1024 * 1024;
const IMAGE_MAX_BYTES_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

/// Favours nodes that have the pod's images already.
pub const IMAGES: Plugin = Plugin {
    name: "ImageLocality",
    check: None,
    filter: None,
    score: Some((
        |pod, snapshot| {
            let spec = pod.pod.spec.as_ref()?;
            let containers: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
            let nodes = snapshot.nodes().len() as i64;
            if nodes < 2 {
                return None;
            }
            let spread = |image: &str| snapshot.nodes().iter().filter(|n| n.images.contains_key(image)).count() as i64;
            let images: Vec<_> = containers
                .iter()
                .filter_map(|container| container.image.as_deref().map(normalized_image))
                .map(|image| (spread(&image), image))
                .filter(|(count, _)| *count > 0)
                .collect();
            if images.is_empty() {
                return None;
            }
            let limit = IMAGE_MAX_BYTES_PER_CONTAINER * containers.len() as i64;
            Some(Box::new(move |node: &NodeInfo| {
                let present =
                    |(count, image): &(i64, String)| node.images.get(image).map_or(0, |size| size * count / nodes);
                let sum: i64 = images.iter().map(present).sum();
                super::MAX_SCORE * (sum.clamp(IMAGE_MIN_BYTES, limit) - IMAGE_MIN_BYTES) / (limit - IMAGE_MIN_BYTES)
            }))
        },
        Normalize::Not,
        1,
    )),
    wakes_on: |_, _, _| false,
};
