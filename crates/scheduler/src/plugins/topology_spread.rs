//! An even number of like pods in each domain: hard (`DoNotSchedule`) constraints filter, soft (`ScheduleAnyway`) ones
//! score. See <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.

use std::collections::HashMap;

use super::{Ask, Event, Filter, MAX_SCORE, Plugin, Score, Verdict};
use crate::pod::PodInfo;
use crate::selectors::selects;
use crate::snapshot::{HOSTNAME, NodeInfo};
use crate::spread::{Constraint, has_all_keys, is_scored};

/// The reason of nodes that lack the label of a constraint.
pub const MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
/// The reason of nodes whose domain has too many like pods.
pub const SKEWED: &str = "node(s) didn't match pod topology spread constraints";

/// The plugin.
pub const SPREAD: Plugin = Plugin {
    name: "PodTopologySpread",
    check: None,
    filter: Filter::Cluster(|ask| {
        if ask.pod.hard_spread.is_empty() {
            return None;
        }
        let counted: Vec<_> = ask.pod.hard_spread.iter().map(|constraint| count(constraint, &ask)).collect();
        Some(Box::new(move |node: &NodeInfo| verdict(ask.pod, node, &counted)))
    }),
    score: Score::Cluster(scores),
    weight: 2,
    wakes_on: |ask, event| match event {
        Event::Node(_) => true,
        Event::PodGone(other, _) | Event::PodPlaced(other) => {
            other.namespace() == ask.pod.namespace()
                && ask.pod.hard_spread.iter().any(|constraint| selects(&constraint.selector, other.labels()))
        }
        Event::Storage => false,
    },
};

/// Like pods in each domain; only nodes that have the keys of all hard constraints make domains.
fn count<'a>(constraint: &Constraint, ask: &Ask<'a>) -> HashMap<&'a str, i64> {
    let mut counts = HashMap::new();
    for node in ask.snapshot.nodes() {
        if !has_all_keys(&ask.pod.hard_spread, node) || !constraint.includes(ask, node) {
            continue;
        }
        let Some(value) = node.label(&constraint.key) else { continue };
        *counts.entry(value).or_default() += constraint.count_on(ask.pod, node);
    }
    counts
}

fn verdict(pod: &PodInfo, node: &NodeInfo, counted: &[HashMap<&str, i64>]) -> Verdict {
    for (constraint, counts) in pod.hard_spread.iter().zip(counted) {
        let Some(value) = node.label(&constraint.key) else {
            return Verdict::pass_or_for_good(false, MISSING);
        };
        let lowest =
            if counts.len() < constraint.min_domains { 0 } else { counts.values().copied().min().unwrap_or(0) };
        let here = counts.get(value).copied().unwrap_or(0);
        if here + constraint.itself(pod) - lowest > constraint.max_skew {
            return Verdict::pass_if(false, SKEWED);
        }
    }
    Verdict::Pass
}

fn scores(ask: &Ask, feasible: &[&NodeInfo]) -> Option<Vec<i64>> {
    let constraints = ask.soft_spread();
    if constraints.is_empty() {
        return None;
    }
    let scored = |node: &NodeInfo| is_scored(ask, &constraints, node);
    let in_play = feasible.iter().filter(|node| scored(node)).count();
    let counted: Vec<_> = constraints
        .iter()
        .map(|constraint| {
            let mut counts: HashMap<&str, i64> = HashMap::new();
            for node in feasible.iter().filter(|node| scored(node)) {
                counts.insert(node.label(&constraint.key).unwrap_or_default(), 0);
            }
            for node in ask.snapshot.nodes().iter().filter(|node| scored(node) && constraint.includes(ask, node)) {
                if let Some(count) = counts.get_mut(node.label(&constraint.key).unwrap_or_default()) {
                    *count += constraint.count_on(ask.pod, node);
                }
            }
            counts
        })
        .collect();
    let raw = |node: &NodeInfo| {
        let mut cost = 0.0;
        for (constraint, counts) in constraints.iter().zip(&counted) {
            let Some(value) = node.label(&constraint.key) else { continue };
            cost += if constraint.key == HOSTNAME {
                constraint.cost(constraint.count_on(ask.pod, node), in_play)
            } else {
                constraint.cost(counts.get(value).copied().unwrap_or(0), counts.len())
            };
        }
        cost.round() as i64
    };
    let raw: Vec<_> = feasible.iter().map(|node| scored(node).then(|| raw(node))).collect();
    let lowest = raw.iter().flatten().copied().min().unwrap_or(0);
    let highest = raw.iter().flatten().copied().max().unwrap_or(0);
    Some(raw.into_iter().map(|raw| normalized(raw, lowest, highest)).collect())
}

/// The score of a node that costs `raw`; nodes left out score nothing.
pub fn normalized(raw: Option<i64>, lowest: i64, highest: i64) -> i64 {
    match raw {
        None => 0,
        Some(_) if highest == 0 => MAX_SCORE,
        Some(raw) => MAX_SCORE * (highest + lowest - raw) / highest,
    }
}
