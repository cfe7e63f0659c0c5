//! Making room for a group as a whole: what is less important goes in thought, all of it, and then as much of it stays as
//! leaves room for the group. Groups that are to be disrupted as one go or stay as one.
//! See <https://github.com/kubernetes/enhancements/tree/master/keps/sig-scheduling/5710-workload-aware-preemption>.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use skiff_base::Timestamp;

use super::Core;
use super::group_cycle::Tried;
use crate::groups::GroupKey;
use crate::pod::PodInfo;
use crate::preempt::started;
use crate::profile::Profile;

/// Pods that go or stay together.
struct Unit {
    /// Each with its node, and whether its binding is on the way.
    pods: Vec<(Arc<PodInfo>, String, bool)>,
    priority: i32,
    is_group: bool,
    /// Whether all of them are on their way out already.
    is_leaving: bool,
}

impl Unit {
    /// Less is more important: priority, whole groups, their size, and age.
    fn rank(&self) -> (Reverse<i32>, bool, Reverse<usize>, Timestamp) {
        let size = if self.is_group { self.pods.len() } else { 0 };
        let first = self.pods.iter().map(|(pod, ..)| started(pod)).min();
        (Reverse(self.priority), !self.is_group, Reverse(size), first.unwrap_or(Timestamp::MAX))
    }
}

impl Core {
    /// Looks for what could go to make room for a group that found none. What was tried is told as it was; where room can
    /// be made it is told where, and who has to go.
    pub(super) fn make_group_room(
        &mut self,
        pods: &[Arc<PodInfo>],
        profile: &Arc<Profile>,
        key: &GroupKey,
        tried: Tried,
    ) -> Tried {
        let refuse = |why: &str, mut tried: Tried| {
            tried.add_reason(why);
            tried
        };
        if self.groups.topology(key).flatten().is_some() {
            let why = "workload aware preemption is not supported for pod groups with scheduling constraints";
            return refuse(why, tried);
        }
        let policy = |pod: &Arc<PodInfo>| pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.clone());
        if pods.iter().any(|pod| policy(pod).as_deref() == Some("Never")) {
            return refuse("not eligible due to preemptionPolicy=Never.", tried);
        }
        let units = self.less_important(key);
        if units.is_empty() {
            return refuse("No preemption victims found for incoming preemptor", tried);
        }
        let world = self.snapshot.clone();
        match self.in_world(world, |core| core.least_to_go(units, pods, profile, key)) {
            Some((placed, going)) => tried.with_room(placed, going),
            None => refuse(super::group_cycle::UNSCHEDULABLE, tried),
        }
    }

    /// What is placed and of less priority than a group, of which nobody gives way to the others.
    fn less_important(&self, own: &GroupKey) -> Vec<Unit> {
        let mut groups: BTreeMap<GroupKey, Unit> = BTreeMap::new();
        let mut units = Vec::new();
        for node in self.snapshot.nodes() {
            for pod in &node.load.pods {
                let placed = (pod.clone(), node.name().to_owned(), self.snapshot.is_assumed(&pod.uid));
                let is_leaving = self.snapshot.is_leaving(pod);
                let key = self.groups.key_of(&pod.pod);
                if key.as_ref() == Some(own) {
                    continue;
                }
                let Some(key) = key.filter(|key| self.groups.is_disrupted_as_one(key)) else {
                    let (pods, priority) = (vec![placed], pod.priority);
                    units.push(Unit { pods, priority, is_group: false, is_leaving });
                    continue;
                };
                let priority = self.groups.priority(&key);
                let none = || Unit { pods: Vec::new(), priority, is_group: true, is_leaving: true };
                let unit = groups.entry(key).or_insert_with(none);
                unit.pods.push(placed);
                unit.is_leaving &= is_leaving;
            }
        }
        units.extend(groups.into_values());
        units.retain(|unit| unit.priority < self.groups.priority(own));
        units
    }

    /// Takes all units out of this world and puts back what leaves room: where the group would go then, and who is left
    /// to go. Nothing, if there is no room even so.
    fn least_to_go(
        &mut self,
        mut units: Vec<Unit>,
        pods: &[Arc<PodInfo>],
        profile: &Arc<Profile>,
        key: &GroupKey,
    ) -> Option<(Tried, Vec<Arc<PodInfo>>)> {
        units.iter().for_each(|unit| self.take_out(unit));
        let mut placed = self.try_in_thought(pods, profile, key)?;
        units.sort_by_cached_key(Unit::rank);
        let all = units.iter().flat_map(|unit| &unit.pods).map(|(pod, ..)| &**pod);
        let mut broken = self.snapshot.budgets.broken_by(all).into_iter();
        let mut ranked: Vec<(bool, Unit)> = Vec::new();
        for unit in units {
            let breaks = broken.by_ref().take(unit.pods.len()).fold(false, |any, breaks| any | breaks);
            ranked.push((breaks, unit));
        }
        ranked.sort_by_key(|(breaks, _)| !breaks);
        let mut going = Vec::new();
        for (_, unit) in ranked {
            // Who leaves anyway is not kept.
            if !unit.is_leaving {
                self.put_back(&unit.pods);
                if let Some(tried) = self.try_in_thought(pods, profile, key) {
                    placed = tried;
                    continue;
                }
                self.take_out(&unit);
            }
            going.extend(unit.pods.into_iter().map(|(pod, ..)| pod));
        }
        Some((placed, going))
    }

    /// Where the group would go; this world is as it was afterwards.
    fn try_in_thought(&mut self, pods: &[Arc<PodInfo>], profile: &Arc<Profile>, key: &GroupKey) -> Option<Tried> {
        let tried = self.try_group(pods, profile, key, None);
        if !tried.is_bound() {
            return None;
        }
        self.take_back(pods, &tried);
        Some(tried)
    }

    fn take_out(&mut self, unit: &Unit) {
        for (pod, ..) in &unit.pods {
            self.snapshot.remove_pod(&pod.uid);
        }
    }

    /// Puts pods back that were taken out in thought: each with its node, and whether its binding is on the way.
    pub(super) fn put_back(&mut self, pods: &[(Arc<PodInfo>, String, bool)]) {
        for (pod, node, is_assumed) in pods {
            match is_assumed {
                true => self.snapshot.assume(pod.clone(), node),
                false => self.snapshot.set_pod(pod.clone(), node),
            }
        }
    }
}
