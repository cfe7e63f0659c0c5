//! Bringing together where several kinds of parts can come from, so that they come from one place.
//! See <https://kubernetes.io/docs/tasks/administer-cluster/topology-manager/>.

use std::collections::{BTreeMap, BTreeSet};

/// The most NUMA nodes for which every combination is looked at; upstream's number.
const MOST_NODES: usize = 8;

/// A place that would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hint {
    /// NUMA nodes; none where any would do.
    pub nodes: BTreeSet<u32>,
    /// Whether there is no smaller place that could do.
    pub preferred: bool,
}

/// How strictly a place is kept to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Not at all.
    None,
    /// Where it is possible.
    BestEffort,
    /// Pods that cannot have the smallest place are not taken.
    Restricted,
    /// Pods that need more than one NUMA node are not taken.
    SingleNumaNode,
}

impl Policy {
    /// By its name in the configuration, which has been checked.
    pub fn parse(name: &str) -> Self {
        match name {
            "best-effort" => Self::BestEffort,
            "restricted" => Self::Restricted,
            "single-numa-node" => Self::SingleNumaNode,
            _ => Self::None,
        }
    }

    /// Whether a Pod is taken for whose parts this is the best place.
    pub fn admits(self, best: &Hint) -> bool {
        match self {
            Self::None | Self::BestEffort => true,
            Self::Restricted => best.preferred,
            Self::SingleNumaNode => best.preferred && best.nodes.len() <= 1,
        }
    }
}

/// All combinations of NUMA nodes, the smallest first.
fn combinations(nodes: &[u32]) -> Vec<BTreeSet<u32>> {
    let nodes = &nodes[..nodes.len().min(MOST_NODES)];
    let mut all: Vec<BTreeSet<u32>> = (1..1u32 << nodes.len())
        .map(|mask| nodes.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, node)| *node).collect())
        .collect();
    all.sort_by_key(|set: &BTreeSet<u32>| (set.len(), set.clone()));
    all
}

/// The places where so much is free. The smallest that could hold it at all are preferred.
pub fn hints(free: &BTreeMap<u32, i64>, all: &BTreeMap<u32, i64>, wanted: i64) -> Vec<Hint> {
    let sum = |amounts: &BTreeMap<u32, i64>, set: &BTreeSet<u32>| {
        set.iter().filter_map(|node| amounts.get(node)).sum::<i64>()
    };
    let nodes: Vec<u32> = all.keys().copied().collect();
    let combinations = combinations(&nodes);
    let smallest = combinations.iter().filter(|set| sum(all, set) >= wanted).map(BTreeSet::len).min();
    let fitting = combinations.into_iter().filter(|set| sum(free, set) >= wanted);
    fitting.map(|nodes| Hint { preferred: Some(nodes.len()) == smallest, nodes }).collect()
}

/// The best place for all: where the hints of every kind overlap, preferred ones first, the smallest first.
pub fn merge(kinds: &[Vec<Hint>], nodes: &[u32]) -> Hint {
    let everywhere: BTreeSet<u32> = nodes.iter().copied().collect();
    if kinds.is_empty() {
        return Hint { nodes: BTreeSet::new(), preferred: true };
    }
    let mut merged = vec![Hint { nodes: everywhere.clone(), preferred: true }];
    for hints in kinds {
        let mut next: Vec<Hint> = Vec::new();
        for (a, b) in merged.iter().flat_map(|a| hints.iter().map(move |b| (a, b))) {
            let nodes: BTreeSet<u32> = a.nodes.intersection(&b.nodes).copied().collect();
            let hint = Hint { nodes, preferred: a.preferred && b.preferred };
            if !hint.nodes.is_empty() && !next.contains(&hint) {
                next.push(hint);
            }
        }
        merged = next;
    }
    let best = merged.into_iter().min_by_key(|hint| (!hint.preferred, hint.nodes.len(), hint.nodes.clone()));
    best.unwrap_or(Hint { nodes: everywhere, preferred: false })
}
