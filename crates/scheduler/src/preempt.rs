//! Who would have to go to make room for a pod of higher priority: the plain model, and what it has in common with the
//! fast search in [`crate::ranking`].
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/>.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use skiff_base::Timestamp;

use crate::budgets::Budgets;
use crate::cycle::{Unschedulable, first_verdict};
use crate::extender::Room;
use crate::plugins::{Ask, Verdict};
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::ranking::reasons;
use crate::snapshot::Snapshot;

/// The reason of nodes that have no pod of lower priority.
pub const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// The reason of nodes where no eviction would change anything.
pub const UNHELPFUL: &str = "Preemption is not helpful for scheduling";

/// A node by its name, and who would have to go from there; or why no eviction helps.
pub type Found = Result<(String, Vec<Arc<PodInfo>>), String>;

/// Why nothing is to be looked for at all; `None` where it is.
pub fn ineligible(pod: &PodInfo, profile: &Profile, nominated: Option<&str>, snapshot: &Snapshot) -> Option<String> {
    let policy = pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if !profile.preempts || snapshot.nodes().is_empty() {
        return Some(String::new());
    }
    let node = nominated.and_then(|node| snapshot.node(node))?;
    let leaves = |other: &Arc<PodInfo>| other.priority < pod.priority && snapshot.is_leaving(other);
    node.load.pods.iter().any(leaves).then(|| "not eligible due to a terminating pod on the nominated node.".to_owned())
}

/// Looks for the node where making room hurts least, by trying filters on the cluster without the pods in question.
/// The snapshot is left as it was.
pub fn preempt(pod: &Arc<PodInfo>, profile: &Profile, snapshot: &mut Snapshot, failure: &Unschedulable) -> Found {
    let (rooms, why) = rooms(pod, profile, snapshot, failure);
    best(rooms).ok_or(why)
}

/// The place where making room hurts least; the first of equals.
pub fn best(rooms: Vec<Room>) -> Option<(String, Vec<Arc<PodInfo>>)> {
    let best = rooms.into_iter().min_by_key(|room| cost(room.broken, &room.victims))?;
    Some((best.node, best.victims))
}

/// Where room could be made, and why nowhere else.
pub fn rooms(
    pod: &Arc<PodInfo>,
    profile: &Profile,
    snapshot: &mut Snapshot,
    failure: &Unschedulable,
) -> (Vec<Room>, String) {
    let mut told = BTreeMap::new();
    told.insert(UNHELPFUL.into(), failure.nodes - failure.resolvable.len());
    let (percent, least) = profile.candidates;
    let wanted = (failure.nodes * percent / 100).max(least);
    let mut found = Vec::new();
    for at in &failure.resolvable {
        let node = snapshot.nodes()[*at].name().to_owned();
        match victims(pod, profile, snapshot, &node) {
            Ok((broken, victims)) => found.push(Room { node, victims, broken }),
            Err(verdict) => {
                reasons(&verdict).iter().for_each(|reason| *told.entry(reason.clone()).or_default() += 1);
            }
        }
        if found.len() >= wanted {
            break;
        }
    }
    (found, pointless(failure.nodes, &told))
}

fn victims(
    pod: &Arc<PodInfo>,
    profile: &Profile,
    world: &mut Snapshot,
    node: &str,
) -> Result<(usize, Vec<Arc<PodInfo>>), Verdict> {
    let pods = world.node(node).map(|node| node.load.pods.clone()).unwrap_or_default();
    let mut lower: Vec<_> = pods.into_iter().filter(|other| other.priority < pod.priority).collect();
    if lower.is_empty() {
        return Err(Verdict::RejectForGood(vec![NO_VICTIMS.into()]));
    }
    let assumed: Vec<_> = lower.iter().map(|other| world.is_assumed(&other.uid)).collect();
    let were_there: Vec<_> = lower.iter().cloned().zip(assumed).collect();
    for other in &lower {
        world.remove_pod(&other.uid);
    }
    let verdict = verdict(pod, profile, world, node);
    let (mut victims, mut broken) = (Vec::new(), 0);
    if verdict == Verdict::Pass {
        for (other, breaks) in in_order_of_importance(&mut lower, &world.budgets) {
            world.set_pod(other.clone(), node);
            if self::verdict(pod, profile, world, node) != Verdict::Pass {
                world.remove_pod(&other.uid);
                broken += usize::from(breaks);
                victims.push(other);
            }
        }
    }
    for (other, assumed) in were_there {
        if assumed { world.assume(other, node) } else { world.set_pod(other, node) }
    }
    if verdict == Verdict::Pass { Ok((broken, victims)) } else { Err(verdict) }
}

fn verdict(pod: &PodInfo, profile: &Profile, world: &Snapshot, node: &str) -> Verdict {
    let ask = Ask { pod, snapshot: world, profile };
    world.node(node).map_or(Verdict::Pass, |node| first_verdict(&ask, node))
}

/// Those first whose going would break a budget, then the others; the most important ones first in each.
pub fn in_order_of_importance(pods: &mut [Arc<PodInfo>], budgets: &Budgets) -> Vec<(Arc<PodInfo>, bool)> {
    pods.sort_by(|a, b| {
        let key = |pod: &Arc<PodInfo>| (Reverse(pod.priority), started(pod));
        key(a).cmp(&key(b)).then_with(|| a.uid.cmp(&b.uid))
    });
    let broken = budgets.broken_by(pods.iter().map(|pod| &**pod));
    let mut all: Vec<_> = pods.iter().cloned().zip(broken).collect();
    all.sort_by_key(|(_, breaks)| !breaks);
    all
}

/// When a pod began.
pub fn started(pod: &PodInfo) -> Timestamp {
    let start = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    // What has not started is the youngest.
    start.map_or(Timestamp::MAX, |time| time.0)
}

/// Compared in order: budgets broken, the highest priority lost, the sum of priorities, the number of pods, and how long
/// the longest-running of the most important ones has run.
pub type Cost = (usize, i32, i64, usize, Reverse<Timestamp>);

/// What it costs that these pods go.
pub fn cost(broken: usize, victims: &[Arc<PodInfo>]) -> Cost {
    let highest = victims.iter().map(|victim| victim.priority).max().unwrap_or(i32::MIN);
    // Shifted to be positive, so that more victims never cost less.
    let sum = victims.iter().map(|victim| i64::from(victim.priority) - i64::from(i32::MIN)).sum();
    let of_highest = victims.iter().filter(|victim| victim.priority == highest);
    let earliest = of_highest.map(|victim| started(victim)).min().unwrap_or(Timestamp::MAX);
    (broken, highest, sum, victims.len(), Reverse(earliest))
}

/// Why no eviction helps, given how many nodes each reason holds for.
pub fn pointless(nodes: usize, told: &BTreeMap<Cow<'static, str>, usize>) -> String {
    let told = told.iter().filter(|(_, count)| **count > 0);
    let mut parts: Vec<_> = told.map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}
