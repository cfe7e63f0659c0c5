//! Topology spread constraints as a pod states them, ready for counting.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.

use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use skiff_object::LabelSelector;
use skiff_object::selector::Requirement;

use crate::plugins::{Ask, affinity_allows, hard_taints_tolerated};
use crate::pod::PodInfo;
use crate::selectors::{selector, selects};
use crate::snapshot::NodeInfo;

/// One constraint.
#[derive(Debug, Clone)]
pub struct Constraint {
    /// The node label that makes a domain.
    pub key: String,
    /// How many more like pods a domain may have than the emptiest one.
    pub max_skew: i64,
    /// With fewer domains than this, the emptiest one counts as empty.
    pub min_domains: usize,
    /// Which pods are like it.
    pub selector: LabelSelector,
    honour_affinity: bool,
    honour_taints: bool,
}

impl Constraint {
    /// The constraints of a pod that say `when` of what cannot be satisfied.
    pub fn of(pod: &Pod, when: &str) -> Vec<Self> {
        let all = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_ref());
        all.into_iter().flatten().filter(|raw| raw.when_unsatisfiable == when).map(|raw| Self::new(pod, raw)).collect()
    }

    fn new(pod: &Pod, raw: &TopologySpreadConstraint) -> Self {
        let mut requirements = selector(raw.label_selector.as_ref()).requirements().to_vec();
        for key in raw.match_label_keys.iter().flatten() {
            let value = pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
            requirements.extend(value.map(|value| Requirement::In(key.clone(), vec![value])));
        }
        let chosen =
            if raw.label_selector.is_some() { LabelSelector::of(requirements) } else { LabelSelector::nothing() };
        Self::with_selector(raw, chosen)
    }

    /// The constraint with a selector of its own.
    pub fn with_selector(raw: &TopologySpreadConstraint, selector: LabelSelector) -> Self {
        Self {
            key: raw.topology_key.clone(),
            max_skew: i64::from(raw.max_skew),
            min_domains: raw.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            selector,
            honour_affinity: raw.node_affinity_policy.as_deref() != Some("Ignore"),
            honour_taints: raw.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// The constraints of pods that have none themselves but belong with others.
    pub fn by_default(selector: &LabelSelector) -> Vec<Self> {
        let soft = |key: &str, max_skew| {
            let raw = TopologySpreadConstraint { topology_key: key.to_owned(), max_skew, ..Default::default() };
            Self::with_selector(&raw, selector.clone())
        };
        vec![soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)]
    }

    /// Whether pods of the node count, as far as its affinity and taints are concerned.
    pub fn includes(&self, ask: &Ask, node: &NodeInfo) -> bool {
        (!self.honour_affinity || affinity_allows(ask.pod, node))
            && (!self.honour_taints || hard_taints_tolerated(ask.pod, node))
    }

    /// Whether `other` is like `pod`.
    pub fn means(&self, pod: &PodInfo, other: &PodInfo) -> bool {
        other.namespace() == pod.namespace() && !other.is_terminating() && selects(&self.selector, other.labels())
    }

    /// How many like pods are on a node.
    pub fn count_on(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        node.load.pods.iter().filter(|other| self.means(pod, other)).count() as i64
    }

    /// One more where the pod itself is meant.
    pub fn itself(&self, pod: &PodInfo) -> i64 {
        i64::from(selects(&self.selector, pod.labels()))
    }

    /// What `count` like pods in one of `domains` domains cost: fewer domains make each pod weigh less.
    pub fn cost(&self, count: i64, domains: usize) -> f64 {
        count as f64 * ((domains + 2) as f64).ln() + (self.max_skew - 1) as f64
    }
}

/// Whether a node is to be scored by soft constraints: by a pod's own only where it has all their labels.
pub fn is_scored(ask: &Ask, soft: &[Constraint], node: &NodeInfo) -> bool {
    ask.pod.soft_spread.is_empty() || has_all_keys(soft, node)
}

/// Whether the node has the labels of all constraints.
pub fn has_all_keys(constraints: &[Constraint], node: &NodeInfo) -> bool {
    constraints.iter().all(|constraint| node.label(&constraint.key).is_some())
}
