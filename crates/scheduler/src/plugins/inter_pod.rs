//! Affinity and anti-affinity between pods, per topology domain.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>.

use std::collections::HashMap;

use super::{Event, Normalize, Plugin, Verdict};
use crate::pod::{AffinityTerm, PodInfo};
use crate::snapshot::{NodeInfo, Snapshot};

/// How many pods (or how much weight) are in each domain, a domain being a label key with its value.
type Domains<'a> = HashMap<(&'a str, &'a str), i64>;

/// Required and preferred affinity between pods.
pub const INTER_POD: Plugin = Plugin {
    name: "InterPodAffinity",
    check: None,
    filter: Some(|pod, snapshot| {
        if pod.required_affinity.is_empty() && pod.required_anti_affinity.is_empty() && !snapshot.has_anti_affinity() {
            return None;
        }
        let counts = Counts::of(pod, snapshot);
        Some(Box::new(move |node: &NodeInfo| counts.verdict(pod, node, snapshot)))
    }),
    score: Some((
        |pod, snapshot| {
            let weights = weights(pod, snapshot);
            (!weights.is_empty()).then(|| {
                Box::new(move |node: &NodeInfo| {
                    weights.iter().filter(|((key, value), _)| node.label(key) == Some(value)).map(|(_, w)| w).sum()
                }) as super::Score
            })
        },
        Normalize::Range,
        2,
    )),
    wakes_on: |pod, event, snapshot| match event {
        Event::Node(_) => true,
        Event::PodPlaced(other) => pod.required_affinity.iter().any(|term| term.matches(other, &snapshot.namespaces)),
        Event::PodGone(other, _) => {
            let namespaces = &snapshot.namespaces;
            pod.required_anti_affinity.iter().any(|term| term.matches(other, namespaces))
                || other.required_anti_affinity.iter().any(|term| term.matches(pod, namespaces))
        }
        Event::Storage => false,
    },
};

#[derive(Default)]
struct Counts<'a> {
    /// Domains that a pod already there refuses to share with this one.
    refused: Domains<'a>,
    /// Pods that all required affinity terms mean.
    wanted: Domains<'a>,
    /// Pods that a required anti-affinity term means.
    shunned: Domains<'a>,
}

impl<'a> Counts<'a> {
    fn of(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Self {
        let mut counts = Self::default();
        let namespaces = &snapshot.namespaces;
        let looks_around = !pod.required_affinity.is_empty() || !pod.required_anti_affinity.is_empty();
        for node in snapshot.nodes() {
            if !looks_around && node.load.with_anti_affinity == 0 {
                continue;
            }
            for other in node.load.pods.values() {
                let refusing = other.required_anti_affinity.iter().filter(|term| term.matches(pod, namespaces));
                refusing.for_each(|term| count(&mut counts.refused, term, node, 1));
                let affinity = &pod.required_affinity;
                if !affinity.is_empty() && affinity.iter().all(|term| term.matches(other, namespaces)) {
                    affinity.iter().for_each(|term| count(&mut counts.wanted, term, node, 1));
                }
                let shunning = pod.required_anti_affinity.iter().filter(|term| term.matches(other, namespaces));
                shunning.for_each(|term| count(&mut counts.shunned, term, node, 1));
            }
        }
        counts
    }

    fn verdict(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Verdict {
        if !self.affinity_holds(pod, node, snapshot) {
            return Verdict::RejectForGood(vec!["node(s) didn't match pod affinity rules".into()]);
        }
        let shunned = pod.required_anti_affinity.iter().any(|term| in_domain(&self.shunned, term, node));
        if shunned {
            return Verdict::pass_if(false, "node(s) didn't match pod anti-affinity rules");
        }
        let refused = self.refused.keys().any(|(key, value)| node.label(key) == Some(value));
        Verdict::pass_if(!refused, "node(s) didn't satisfy existing pods anti-affinity rules")
    }

    fn affinity_holds(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> bool {
        let terms = &pod.required_affinity;
        if terms.iter().any(|term| node.label(&term.topology_key).is_none()) {
            return false;
        }
        // The first pod of a group that wants to be together may go anywhere.
        terms.iter().all(|term| in_domain(&self.wanted, term, node))
            || self.wanted.is_empty() && terms.iter().all(|term| term.matches(pod, &snapshot.namespaces))
    }
}

fn count<'a>(domains: &mut Domains<'a>, term: &'a AffinityTerm, node: &'a NodeInfo, weight: i64) {
    if let Some(value) = node.label(&term.topology_key) {
        *domains.entry((term.topology_key.as_str(), value)).or_default() += weight;
    }
}

fn in_domain(domains: &Domains, term: &AffinityTerm, node: &NodeInfo) -> bool {
    node.label(&term.topology_key).is_some_and(|value| domains.contains_key(&(term.topology_key.as_str(), value)))
}

/// What a pod that is there already adds for its own required affinity, so that friends stay together.
const HARD_AFFINITY_WEIGHT: i64 = 1;

fn weights<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Domains<'a> {
    let mut domains = Domains::new();
    let namespaces = &snapshot.namespaces;
    for node in snapshot.nodes() {
        if pod.preferred_affinity.is_empty() && node.load.with_affinity == 0 {
            continue;
        }
        for other in node.load.pods.values() {
            let mine = pod.preferred_affinity.iter().filter(|term| term.matches(other, namespaces));
            mine.for_each(|term| count(&mut domains, term, node, term.weight));
            let theirs = other.preferred_affinity.iter().filter(|term| term.matches(pod, namespaces));
            theirs.for_each(|term| count(&mut domains, term, node, term.weight));
            let hard = other.required_affinity.iter().filter(|term| term.matches(pod, namespaces));
            hard.for_each(|term| count(&mut domains, term, node, HARD_AFFINITY_WEIGHT));
        }
    }
    domains.retain(|_, weight| *weight != 0);
    domains
}
