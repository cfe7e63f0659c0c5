//! Topology spread constraints: an even number of like pods in each domain.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use skiff_object::LabelSelector;
use skiff_object::selector::Requirement;

use super::node_rules::{affinity_allows, is_tolerated, taints};
use super::{Event, Normalize, Plugin, Verdict};
use crate::pod::PodInfo;
use crate::selectors::{selector, selects};
use crate::snapshot::{NodeInfo, Snapshot};

/// Hard (`DoNotSchedule`) constraints filter, soft (`ScheduleAnyway`) ones score.
pub const SPREAD: Plugin = Plugin {
    name: "PodTopologySpread",
    check: None,
    filter: Some(|pod, snapshot| {
        let constraints = constraints(pod, "DoNotSchedule");
        if constraints.is_empty() {
            return None;
        }
        let counted: Vec<_> = constraints.iter().map(|c| c.count(pod, snapshot, &constraints)).collect();
        Some(Box::new(move |node: &NodeInfo| verdict(pod, node, &constraints, &counted)))
    }),
    score: Some((
        |pod, snapshot| {
            let constraints = constraints(pod, "ScheduleAnyway");
            if constraints.is_empty() {
                return None;
            }
            let counted: Vec<_> = constraints.iter().map(|c| c.count(pod, snapshot, &constraints)).collect();
            Some(Box::new(move |node: &NodeInfo| {
                let crowd = constraints.iter().zip(&counted).map(|(constraint, counts)| {
                    let here = node.label(&constraint.key).and_then(|value| counts.get(value));
                    // More domains make one pod more or less weigh more, as upstream scales it.
                    let weight = ((counts.len() + 2) as f64).ln();
                    (here.copied().unwrap_or(0) as f64 * weight + f64::from(constraint.max_skew - 1)).round() as i64
                });
                crowd.sum()
            }))
        },
        Normalize::ToMaxReversed,
        2,
    )),
    wakes_on: |pod, event, _| match event {
        Event::Node(_) => true,
        Event::PodGone(other, _) | Event::PodPlaced(other) => {
            other.namespace() == pod.namespace()
                && constraints(pod, "DoNotSchedule").iter().any(|c| selects(&c.selector, other.labels()))
        }
        Event::Storage => false,
    },
};

struct Constraint {
    key: String,
    max_skew: i32,
    min_domains: usize,
    selector: LabelSelector,
    honour_affinity: bool,
    honour_taints: bool,
}

fn constraints(pod: &PodInfo, when: &str) -> Vec<Constraint> {
    let all = pod.pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_ref());
    all.into_iter()
        .flatten()
        .filter(|raw| raw.when_unsatisfiable == when)
        .map(|raw| Constraint::new(pod, raw))
        .collect()
}

impl Constraint {
    fn new(pod: &PodInfo, raw: &TopologySpreadConstraint) -> Self {
        let mut requirements = selector(raw.label_selector.as_ref()).requirements().to_vec();
        for key in raw.match_label_keys.iter().flatten() {
            let value = pod.labels().and_then(|labels| labels.get(key)).cloned();
            requirements.extend(value.map(|value| Requirement::In(key.clone(), vec![value])));
        }
        let chosen =
            if raw.label_selector.is_some() { LabelSelector::of(requirements) } else { LabelSelector::nothing() };
        Self {
            key: raw.topology_key.clone(),
            max_skew: raw.max_skew,
            min_domains: raw.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            selector: chosen,
            honour_affinity: raw.node_affinity_policy.as_deref() != Some("Ignore"),
            honour_taints: raw.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    fn counts_node(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let hard = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
        (!self.honour_affinity || affinity_allows(pod, node))
            && (!self.honour_taints
                || taints(node).iter().filter(|t| hard(&t.effect)).all(|t| is_tolerated(t, pod.tolerations())))
    }

    /// Like pods in each domain; only nodes that have the keys of all constraints make domains.
    fn count<'a>(&self, pod: &PodInfo, snapshot: &'a Snapshot, all: &[Constraint]) -> HashMap<&'a str, i64> {
        let mut counts = HashMap::new();
        for node in snapshot.nodes() {
            if !all.iter().all(|other| node.label(&other.key).is_some()) || !self.counts_node(pod, node) {
                continue;
            }
            let Some(value) = node.label(&self.key) else { continue };
            let like = node.load.pods.values().filter(|other| {
                other.namespace() == pod.namespace()
                    && other.pod.metadata.deletion_timestamp.is_none()
                    && selects(&self.selector, other.labels())
            });
            *counts.entry(value).or_default() += like.count() as i64;
        }
        counts
    }
}

fn verdict(pod: &PodInfo, node: &NodeInfo, constraints: &[Constraint], counted: &[HashMap<&str, i64>]) -> Verdict {
    for (constraint, counts) in constraints.iter().zip(counted) {
        let Some(value) = node.label(&constraint.key) else {
            return Verdict::pass_or_for_good(
                false,
                "node(s) didn't match pod topology spread constraints (missing required label)",
            );
        };
        let lowest =
            if counts.len() < constraint.min_domains { 0 } else { counts.values().copied().min().unwrap_or(0) };
        let here = counts.get(value).copied().unwrap_or(0);
        let itself = i64::from(selects(&constraint.selector, pod.labels()));
        if here + itself - lowest > i64::from(constraint.max_skew) {
            return Verdict::pass_if(false, "node(s) didn't match pod topology spread constraints");
        }
    }
    Verdict::Pass
}
