//! Affinity and anti-affinity between pods, per topology domain.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>.

use std::collections::HashMap;

use super::{Ask, Event, Filter, MAX_SCORE, Plugin, Score, Verdict};
use crate::pod::{AffinityTerm, PodInfo};
use crate::snapshot::NodeInfo;

/// The reason of nodes where the pods it wants are not.
pub const LONELY: &str = "node(s) didn't match pod affinity rules";
/// The reason of nodes where pods are that it does not want.
pub const SHUNNED: &str = "node(s) didn't match pod anti-affinity rules";
/// The reason of nodes where pods are that do not want it.
pub const REFUSED: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// How many pods (or how much weight) are in each domain, a domain being a label key with its value.
type Domains<'a> = HashMap<(&'a str, &'a str), i64>;

/// Required and preferred affinity between pods.
pub const INTER_POD: Plugin = Plugin {
    name: "InterPodAffinity",
    check: None,
    filter: Filter::Cluster(|ask| {
        let pod = ask.pod;
        let looks_around = !pod.required_affinity.is_empty() || !pod.required_anti_affinity.is_empty();
        if !looks_around && !ask.snapshot.has_anti_affinity() {
            return None;
        }
        let counts = Counts::of(&ask);
        Some(Box::new(move |node: &NodeInfo| counts.verdict(&ask, node)))
    }),
    score: Score::Cluster(|ask, feasible| {
        let weights = weights(ask);
        if weights.is_empty() {
            return None;
        }
        let raw = |node: &&NodeInfo| -> i64 {
            weights.iter().filter(|((key, value), _)| node.label(key) == Some(value)).map(|(_, w)| w).sum()
        };
        let raw: Vec<_> = feasible.iter().map(raw).collect();
        let (lowest, highest) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
        Some(raw.into_iter().map(|score| normalized(score, lowest, highest)).collect())
    }),
    weight: 2,
    wakes_on: |ask, event| {
        let (pod, namespaces) = (ask.pod, &ask.snapshot.namespaces);
        match event {
            Event::Node(_) => true,
            Event::PodPlaced(other) => pod.required_affinity.iter().any(|term| term.matches(other, namespaces)),
            Event::PodGone(other, _) => {
                pod.required_anti_affinity.iter().any(|term| term.matches(other, namespaces))
                    || other.required_anti_affinity.iter().any(|term| term.matches(pod, namespaces))
            }
            Event::Storage => false,
        }
    },
};

/// The least becomes zero and the most the best.
pub fn normalized(score: i64, lowest: i64, highest: i64) -> i64 {
    if highest == lowest {
        return 0;
    }
    (MAX_SCORE as f64 * ((score - lowest) as f64 / (highest - lowest) as f64)) as i64
}

/// What pods on a node add to the attraction of each topology key for `ask.pod`.
pub fn attractions(ask: &Ask, node: &NodeInfo, mut add: impl FnMut(&str, i64)) {
    let (pod, namespaces) = (ask.pod, &ask.snapshot.namespaces);
    let mine = &pod.preferred_affinity;
    if mine.is_empty() && (node.load.with_affinity == 0 || ask.profile.ignore_preferred_of_others) {
        return;
    }
    for other in &node.load.pods {
        mine.iter().filter(|t| t.matches(other, namespaces)).for_each(|t| add(&t.topology_key, t.weight));
        if !other.has_affinity() {
            continue;
        }
        if ask.profile.hard_affinity_weight > 0 {
            let hard = other.required_affinity.iter().filter(|term| term.matches(pod, namespaces));
            hard.for_each(|term| add(&term.topology_key, ask.profile.hard_affinity_weight));
        }
        if !ask.profile.ignore_preferred_of_others {
            let theirs = other.preferred_affinity.iter().filter(|term| term.matches(pod, namespaces));
            theirs.for_each(|term| add(&term.topology_key, term.weight));
        }
    }
}

/// The topology keys of terms by which pods on a node refuse `ask.pod`.
pub fn refusals(ask: &Ask, node: &NodeInfo, mut add: impl FnMut(&str)) {
    if node.load.with_anti_affinity == 0 {
        return;
    }
    for term in node.load.pods.iter().flat_map(|other| &other.required_anti_affinity) {
        if term.matches(ask.pod, &ask.snapshot.namespaces) {
            add(&term.topology_key);
        }
    }
}

/// Whether all required affinity terms of a pod mean `other`.
pub fn is_wanted(ask: &Ask, other: &PodInfo) -> bool {
    ask.pod.required_affinity.iter().all(|term| term.matches(other, &ask.snapshot.namespaces))
}

#[derive(Default)]
struct Counts<'a> {
    /// Domains that a pod already there refuses to share with this one.
    refused: HashMap<(String, &'a str), i64>,
    /// Pods that all required affinity terms mean.
    wanted: Domains<'a>,
    /// Pods that a required anti-affinity term means.
    shunned: Domains<'a>,
}

impl<'a> Counts<'a> {
    fn of(ask: &Ask<'a>) -> Self {
        let mut counts = Self::default();
        let pod = ask.pod;
        for node in ask.snapshot.nodes() {
            refusals(ask, node, |key| {
                if let Some(value) = node.label(key) {
                    *counts.refused.entry((key.to_owned(), value)).or_default() += 1;
                }
            });
            if pod.required_affinity.is_empty() && pod.required_anti_affinity.is_empty() {
                continue;
            }
            for other in &node.load.pods {
                if !pod.required_affinity.is_empty() && is_wanted(ask, other) {
                    pod.required_affinity.iter().for_each(|term| count(&mut counts.wanted, term, node));
                }
                let anti = &pod.required_anti_affinity;
                let shunning = anti.iter().filter(|term| term.matches(other, &ask.snapshot.namespaces));
                shunning.for_each(|term| count(&mut counts.shunned, term, node));
            }
        }
        counts
    }

    fn verdict(&self, ask: &Ask, node: &NodeInfo) -> Verdict {
        if !self.affinity_holds(ask, node) {
            return Verdict::RejectForGood(vec![LONELY.into()]);
        }
        let shunned = ask.pod.required_anti_affinity.iter().any(|term| in_domain(&self.shunned, term, node));
        if shunned {
            return Verdict::pass_if(false, SHUNNED);
        }
        let refused = self.refused.keys().any(|(key, value)| node.label(key) == Some(value));
        Verdict::pass_if(!refused, REFUSED)
    }

    fn affinity_holds(&self, ask: &Ask, node: &NodeInfo) -> bool {
        let terms = &ask.pod.required_affinity;
        if terms.iter().any(|term| node.label(&term.topology_key).is_none()) {
            return false;
        }
        // The first pod of a group that wants to be together may go anywhere.
        terms.iter().all(|term| in_domain(&self.wanted, term, node))
            || self.wanted.is_empty() && is_wanted(ask, ask.pod)
    }
}

fn count<'a>(domains: &mut Domains<'a>, term: &'a AffinityTerm, node: &'a NodeInfo) {
    if let Some(value) = node.label(&term.topology_key) {
        *domains.entry((term.topology_key.as_str(), value)).or_default() += 1;
    }
}

fn in_domain(domains: &Domains, term: &AffinityTerm, node: &NodeInfo) -> bool {
    node.label(&term.topology_key).is_some_and(|value| domains.contains_key(&(term.topology_key.as_str(), value)))
}

fn weights<'a>(ask: &Ask<'a>) -> HashMap<(String, &'a str), i64> {
    let mut domains = HashMap::new();
    for node in ask.snapshot.nodes() {
        attractions(ask, node, |key, weight| {
            if let Some(value) = node.label(key) {
                *domains.entry((key.to_owned(), value)).or_default() += weight;
            }
        });
    }
    domains.retain(|_, weight| *weight != 0);
    domains
}
