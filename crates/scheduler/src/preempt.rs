//! Who would have to go to make room for a pod of higher priority.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>.

use std::sync::Arc;

use crate::cycle::{Unschedulable, filters};
use crate::plugins::Verdict;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// At most this many nodes are looked at closely; upstream looks at a tenth, at least a hundred.
const MAX_CANDIDATES: usize = 100;

/// What can be done for a pod that no node can take.
#[derive(Debug)]
pub enum Preemption {
    /// These pods, all on one node, are to be deleted.
    Victims {
        /// The node.
        node: String,
        /// The pods, all of lower priority.
        pods: Vec<Arc<PodInfo>>,
    },
    /// Pods of lower priority are already on their way out of a node that would do.
    Waiting,
    /// Nothing, and why.
    Pointless(String),
}

/// Looks for the node where making room hurts least.
pub fn preempt(pod: &PodInfo, snapshot: &Snapshot, failure: &Unschedulable) -> Preemption {
    let policy = pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Preemption::Pointless("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if failure.nodes == 0 {
        return Preemption::Pointless(String::new());
    }
    let lower = |name: &&String| {
        let node = snapshot.node(name);
        node.is_some_and(|node| node.load.pods.values().any(|other| other.priority < pod.priority))
    };
    let candidates: Vec<_> = failure.resolvable.iter().filter(lower).take(MAX_CANDIDATES).collect();
    if candidates.is_empty() {
        return Preemption::Pointless(pointless(failure));
    }
    let mut world = snapshot.clone();
    let mut best: Option<(Cost, &str, Vec<Arc<PodInfo>>)> = None;
    for node in candidates {
        let Some(victims) = victims(pod, &mut world, node) else { continue };
        if victims.iter().all(|victim| victim.pod.metadata.deletion_timestamp.is_some()) {
            return Preemption::Waiting;
        }
        let cost = cost(&victims);
        if best.as_ref().is_none_or(|(lowest, ..)| cost < *lowest) {
            best = Some((cost, node, victims));
        }
    }
    match best {
        Some((_, node, pods)) => Preemption::Victims { node: node.to_owned(), pods },
        None => Preemption::Pointless(pointless(failure)),
    }
}

fn pointless(failure: &Unschedulable) -> String {
    let resolvable = failure.resolvable.len();
    let mut parts = Vec::new();
    for (count, text) in [
        (resolvable, "No preemption victims found for incoming pod"),
        (failure.nodes - resolvable, "Preemption is not helpful for scheduling"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {text}"));
        }
    }
    parts.sort();
    format!("0/{} nodes are available: {}.", failure.nodes, parts.join(", "))
}

/// The fewest pods of lower priority without which the pod fits; the most important ones are spared first.
/// `world` is a copy of the cluster to try things on; it is left as it was.
fn victims(pod: &PodInfo, world: &mut Snapshot, node: &str) -> Option<Vec<Arc<PodInfo>>> {
    let pods = world.node(node)?.load.pods.values();
    let mut lower: Vec<_> = pods.filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    lower.sort_by_key(|other| (std::cmp::Reverse(other.priority), started(other), other.uid.clone()));
    for other in &lower {
        world.remove_pod(&other.uid);
    }
    let helps = fits(pod, world, node);
    let mut victims = Vec::new();
    for other in lower {
        world.set_pod(other.clone(), node);
        if helps && !fits(pod, world, node) {
            world.remove_pod(&other.uid);
            victims.push(other);
        }
    }
    for victim in &victims {
        world.set_pod(victim.clone(), node);
    }
    (!victims.is_empty()).then_some(victims)
}

fn fits(pod: &PodInfo, world: &Snapshot, node: &str) -> bool {
    let Some(node) = world.node(node) else { return false };
    filters(pod, world).iter().all(|(_, filter)| filter(node) == Verdict::Pass)
}

fn started(pod: &PodInfo) -> Option<skiff_base::Timestamp> {
    pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0)
}

/// Compared in order: the highest priority lost, the sum of priorities, the number of pods.
type Cost = (i32, i64, usize);

fn cost(victims: &[Arc<PodInfo>]) -> Cost {
    let highest = victims.iter().map(|victim| victim.priority).max().unwrap_or(i32::MIN);
    // Shifted to be positive, so that more victims never cost less.
    let sum = victims.iter().map(|victim| i64::from(victim.priority) - i64::from(i32::MIN)).sum();
    (highest, sum, victims.len())
}
