//! One decision about all pods of a group that wait: they are placed one after the other in the snapshot, and as soon as
//! enough of them have a place, all that have one are bound. Otherwise the snapshot is put back as it was.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/gang-scheduling/>.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use skiff_client::Change;

use super::{Core, Placement, Step, key_of};
use crate::cycle::Unschedulable;
use crate::groups::{self, GroupKey};
use crate::plugins::Claim;
use crate::pod::PodInfo;
use crate::preempt::ineligible;
use crate::profile::Profile;

/// Pods that are held for less than this are not told so: mostly the rest of their group is on its way.
const TELL_AFTER: Duration = Duration::from_secs(3);

pub(super) const UNSCHEDULABLE: &str = "pod group is unschedulable";
const NO_QUORUM: &str = "pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod";
pub(super) const FOR_GROUPS: &str = "not eligible due to workload aware preemption enabled";
pub(super) const NO_EVICTIONS: &str = "not eligible due to placement-based pod group scheduling limitation";
const WAITS_FOR_VICTIMS: &str = "pod group is unschedulable, pod group is waiting for preemption to complete";

/// What is to be done about the pods of a group.
#[derive(Debug, Default)]
pub struct GroupStep {
    /// Those that were placed.
    pub placements: Vec<Placement>,
    /// Those that were not.
    pub refusals: Vec<Refusal>,
    /// Who has to go to make room for all of them.
    pub going: Vec<Arc<PodInfo>>,
    /// The UID of the group; empty where that is not known.
    pub uid: String,
    /// What is told of the group, where that is new.
    pub condition: Option<GroupCondition>,
    /// How it ended: `scheduled`, `unschedulable`, `waiting_on_preemption` or `error`.
    pub result: &'static str,
    /// The scheduler name of its pods.
    pub profile: String,
}

/// A pod that was not placed.
#[derive(Debug)]
pub struct Refusal {
    /// Whom.
    pub pod: Arc<PodInfo>,
    /// `Unschedulable` or `SchedulerError`.
    pub reason: &'static str,
    /// Why.
    pub message: String,
    /// Who has to go to make room for it.
    pub victims: Vec<Arc<PodInfo>>,
    /// The node that room is made on; empty where a former one is to be taken back, absent where nothing changes.
    pub nominated: Option<String>,
}

/// The condition PodGroupScheduled.
#[derive(Debug)]
pub struct GroupCondition {
    /// Of which group.
    pub group: Arc<PodGroup>,
    /// Whether it is scheduled.
    pub is_scheduled: bool,
    /// `Scheduled`, `Unschedulable` or `SchedulerError`.
    pub reason: &'static str,
    /// Why.
    pub message: String,
}

/// Where one pod of a group would go.
#[derive(Debug, Default)]
struct Try {
    /// The node that had room for it, or on which there will be room.
    node: Option<String>,
    claims: Vec<Claim>,
    /// Where room was made for it before.
    was_nominated: Option<String>,
    /// Whether that room is not free yet.
    waits: bool,
    failure: Unschedulable,
    /// Whether no node would take it as things are.
    is_refused: bool,
    /// Who has to go for it: each with its node, and whether its binding was on the way.
    victims: Vec<(Arc<PodInfo>, String, bool)>,
}

/// Where all pods of a group would go.
#[derive(Debug, Default)]
pub(super) struct Tried {
    tries: Vec<Try>,
    has_quorum: bool,
    evicts: bool,
    /// What is told of the group where it is not placed, if that is something particular.
    why: Option<String>,
    /// Who has to go for the group as a whole.
    going: Vec<Arc<PodInfo>>,
}

/// How room is made for the pods of a group.
#[derive(Debug, Clone, Copy)]
pub(super) enum Evictions {
    /// For each by itself.
    Each,
    /// Not; for this reason.
    Not(&'static str),
}

impl Tried {
    /// Whether all that have a place can be bound there.
    pub(super) fn is_bound(&self) -> bool {
        self.has_quorum && !self.evicts
    }

    /// How many pods have a place.
    pub(super) fn placed(&self) -> usize {
        self.tries.iter().filter(|one| one.node.is_some()).count()
    }

    /// Says in how many sets of nodes it was tried in vain.
    pub(super) fn tell_of_placements(&mut self, tried: usize) {
        if self.has_quorum {
            return;
        }
        let words = format!("0/{tried} placements are available, first placement status: {UNSCHEDULABLE}");
        self.why = Some(words);
    }

    /// Says why no room was made either.
    pub(super) fn add_reason(&mut self, why: &str) {
        let said = self.why.take().unwrap_or_else(|| UNSCHEDULABLE.to_owned());
        self.why = Some(format!("{said}, {why}"));
    }

    /// The same where there will be room, as it was tried without those who have to go.
    pub(super) fn with_room(mut self, placed: Self, going: Vec<Arc<PodInfo>>) -> Self {
        for (one, then) in self.tries.iter_mut().zip(placed.tries) {
            one.node = then.node;
        }
        Self { has_quorum: true, evicts: true, going, why: Some(UNSCHEDULABLE.to_owned()), ..self }
    }

    /// There is no set of nodes in which it could be tried.
    pub(super) fn nowhere(pods: &[Arc<PodInfo>], why: &str) -> Self {
        let failure = Unschedulable { whole: why.to_owned(), ..Unschedulable::default() };
        let one = || Try { failure: failure.clone(), ..Try::default() };
        Self { tries: pods.iter().map(|_| one()).collect(), why: Some(why.to_owned()), ..Self::default() }
    }
}

impl Core {
    /// A PodGroup changed; true where the loop should look.
    pub fn group_changed(&mut self, change: &Change<PodGroup>, now: Duration) -> bool {
        let key = key_of(&change.object().metadata);
        self.groups.set(&key, change);
        self.hold_or_release(&key, now);
        // Those who are held all the same are held for another reason.
        if self.groups.hold(&key).is_some() {
            let waiting = self.groups.members(&key).filter(|(_, is_placed)| !is_placed);
            self.held.extend(waiting.map(|(uid, _)| (now + TELL_AFTER, uid.to_owned())));
        }
        true
    }

    /// A pod of a group was seen.
    pub(super) fn join_group(&mut self, key: &GroupKey, uid: &str, is_placed: bool, now: Duration) {
        if !self.groups.join(key, uid, is_placed) {
            // Gates of its own may be gone, so that nothing but its group holds it.
            if !is_placed && self.groups.hold(key).is_some() {
                self.held.insert((now + TELL_AFTER, uid.to_owned()));
            }
            return;
        }
        self.hold_or_release(key, now);
        // One more may be what the others waited for.
        for (uid, _) in self.groups.members(key).filter(|(_, is_placed)| !is_placed) {
            self.queue.wake_one(uid, now);
        }
    }

    /// A pod of a group is gone, or done.
    pub(super) fn leave_group(&mut self, key: &GroupKey, uid: &str, now: Duration) {
        self.groups.leave(key, uid);
        self.hold_or_release(key, now);
    }

    fn hold_or_release(&mut self, key: &GroupKey, now: Duration) {
        let is_held = self.groups.hold(key).is_some();
        for (uid, _) in self.groups.members(key).filter(|(_, is_placed)| !is_placed) {
            if self.queue.hold(uid, is_held) {
                self.held.insert((now + TELL_AFTER, uid.to_owned()));
            }
        }
    }

    /// The next pod that is to be told why it is held.
    pub(super) fn next_notice(&mut self, now: Duration) -> Option<Step> {
        while let Some((_, uid)) = self.held.first().filter(|(at, _)| *at <= now).cloned() {
            self.held.pop_first();
            let Some(pod) = self.queue.held_pod(&uid) else { continue };
            let Some(key) = self.groups.key_of(&pod.pod) else { continue };
            if let Some(message) = self.groups.news(&key, &uid) {
                return Some(Step::Held { pod, message });
            }
        }
        None
    }

    /// Decides about a group of which one pod is to be tried now; `None` where the group is held after all.
    pub(super) fn step_group(&mut self, first: Arc<PodInfo>, key: &GroupKey, now: Duration) -> Option<Step> {
        let pods = self.waiting_pods(first, key);
        if self.groups.hold(key).is_some() {
            for pod in pods {
                self.queue.park(&pod.uid);
                self.held.insert((now + TELL_AFTER, pod.uid.clone()));
            }
            return None;
        }
        if let Some(message) = mixed_schedulers(&pods) {
            return Some(self.fail_group(&pods, &message, None, now));
        }
        let name = pods[0].scheduler_name();
        let profile = self.profiles.get(name).expect("only pods of a profile are queued").clone();
        let step = match self.try_all(&pods, &profile, key) {
            Ok(tried) if tried.is_bound() => self.bind_group(pods, tried, &profile, key, now),
            Ok(tried) => self.refuse_group(pods, tried, key, now),
            Err(why) => {
                let condition = self.condition(key, "SchedulerError", &why);
                return Some(self.fail_group(&pods, &why, condition, now));
            }
        };
        let uid = self.groups.object(key).and_then(|group| group.metadata.uid.clone()).unwrap_or_default();
        Some(Step::Group(Box::new(GroupStep { profile: profile.name.clone(), uid, ..step })))
    }

    /// Tries a group in all ways that the features which are on have.
    fn try_all(&mut self, pods: &[Arc<PodInfo>], profile: &Arc<Profile>, key: &GroupKey) -> Result<Tried, String> {
        let has_preemption = self.groups.have_preemption();
        let tried = if self.groups.has_placements() {
            self.try_placements(pods, profile, key)?
        } else {
            let evictions = if has_preemption { Evictions::Not(FOR_GROUPS) } else { Evictions::Each };
            self.try_group(pods, profile, key, Some(evictions))
        };
        if has_preemption && !tried.is_bound() {
            return Ok(self.make_group_room(pods, profile, key, tried));
        }
        Ok(tried)
    }

    /// Takes all pods of the group out of the queue that may be tried, the most important ones first.
    fn waiting_pods(&mut self, first: Arc<PodInfo>, key: &GroupKey) -> Vec<Arc<PodInfo>> {
        let others = self.groups.members(key).filter(|(uid, is_placed)| !is_placed && *uid != first.uid);
        let mut pods: Vec<_> = others.filter_map(|(uid, _)| self.queue.take(uid)).collect();
        pods.push(first);
        let since = |pod: &PodInfo| self.queue.history(&pod.uid).map(|(_, since)| since);
        pods.sort_by_cached_key(|pod| (Reverse(pod.priority), since(pod), pod.uid.clone()));
        pods
    }

    fn fail_group(
        &mut self,
        pods: &[Arc<PodInfo>],
        message: &str,
        condition: Option<GroupCondition>,
        now: Duration,
    ) -> Step {
        let refuse = |pod: &Arc<PodInfo>| Refusal {
            pod: pod.clone(),
            reason: "SchedulerError",
            message: message.to_owned(),
            victims: Vec::new(),
            nominated: None,
        };
        pods.iter().for_each(|pod| self.queue.failed(&pod.uid, now));
        let (refusals, profile) = (pods.iter().map(refuse).collect(), pods[0].scheduler_name().to_owned());
        Step::Group(Box::new(GroupStep { refusals, profile, condition, result: "error", ..GroupStep::default() }))
    }

    /// Places the pods one after the other. Where all that have a place can be bound they stay assumed there; otherwise
    /// the snapshot is as it was, but for room that was made for them.
    pub(super) fn try_group(
        &mut self,
        pods: &[Arc<PodInfo>],
        profile: &Arc<Profile>,
        key: &GroupKey,
        evictions: Option<Evictions>,
    ) -> Tried {
        let quorum = self.groups.quorum(key);
        let is_there = |(uid, is_placed): &(&str, bool)| *is_placed || self.snapshot.is_assumed(uid);
        let mut placed = self.groups.members(key).filter(is_there).count();
        let mut tried = Tried::default();
        for pod in pods {
            let one = self.try_one(pod, profile, evictions);
            if one.node.is_some() {
                placed += 1;
                tried.evicts |= !one.victims.is_empty();
                tried.has_quorum |= placed >= quorum;
            }
            tried.tries.push(one);
        }
        if !tried.is_bound() {
            self.take_back(pods, &tried);
        }
        tried
    }

    fn try_one(&mut self, pod: &Arc<PodInfo>, profile: &Arc<Profile>, evictions: Option<Evictions>) -> Try {
        let mut one = Try { was_nominated: self.snapshot.denominate(&pod.uid), ..Try::default() };
        match self.decide(pod, profile, one.was_nominated.as_deref()) {
            Ok(at) => one.node = Some(self.snapshot.nodes()[at].name().to_owned()),
            Err(failure) => {
                one.failure = failure;
                one.is_refused = true;
                match evictions {
                    Some(Evictions::Each) => self.try_to_make_room(pod, profile, &mut one),
                    Some(Evictions::Not(why)) => one.failure.preemption = why.to_owned(),
                    None => {}
                }
            }
        }
        self.take_place(pod, &mut one);
        one
    }

    fn take_place(&mut self, pod: &Arc<PodInfo>, one: &mut Try) {
        if let Some(node) = one.node.clone() {
            one.claims = self.reserve(pod, &node);
            self.snapshot.assume(pod.clone(), &node);
        }
    }

    /// Looks for pods that could go; those tried after this one see them gone.
    fn try_to_make_room(&mut self, pod: &Arc<PodInfo>, profile: &Arc<Profile>, one: &mut Try) {
        if let Some(why) = ineligible(pod, profile, one.was_nominated.as_deref(), &self.snapshot) {
            one.waits = one.was_nominated.is_some();
            one.failure.preemption = why;
            return;
        }
        match self.search_room(pod, profile, &one.failure) {
            Ok((node, victims)) => {
                for victim in victims {
                    let is_assumed = self.snapshot.is_assumed(&victim.uid);
                    if let Some(node) = self.snapshot.remove_pod(&victim.uid) {
                        one.victims.push((victim, node, is_assumed));
                    }
                }
                one.node = Some(node);
            }
            Err(why) => one.failure.preemption = why,
        }
    }

    /// Has the pods assumed where they were tried in another world.
    pub(super) fn settle(&mut self, pods: &[Arc<PodInfo>], tried: &mut Tried) {
        for (pod, one) in pods.iter().zip(&mut tried.tries) {
            self.snapshot.denominate(&pod.uid);
            self.take_place(pod, one);
        }
    }

    pub(super) fn take_back(&mut self, pods: &[Arc<PodInfo>], tried: &Tried) {
        for (pod, one) in pods.iter().zip(&tried.tries).rev() {
            if one.node.is_some() {
                self.snapshot.forget(&pod.uid);
                self.claims_failed(&one.claims);
            }
            self.put_back(&one.victims);
        }
    }

    fn bind_group(
        &mut self,
        pods: Vec<Arc<PodInfo>>,
        tried: Tried,
        profile: &Profile,
        key: &GroupKey,
        now: Duration,
    ) -> GroupStep {
        let mut step = GroupStep { result: "scheduled", ..GroupStep::default() };
        let volumes_limit = Duration::from_secs(profile.bind_volumes_seconds);
        let rejected_by = rejected_by(&tried);
        for (pod, one) in pods.into_iter().zip(tried.tries) {
            let Some(node) = one.node else {
                self.queue.unschedulable(&pod.uid, rejected_by.clone(), now);
                step.refusals.push(refusal(pod, one.failure.message(), None));
                continue;
            };
            let history = self.queue.history(&pod.uid).unwrap_or_default();
            step.placements.push(Placement { pod, node, claims: one.claims, volumes_limit, history });
        }
        step.condition = self.condition(key, "Scheduled", "");
        step
    }

    fn refuse_group(&mut self, pods: Vec<Arc<PodInfo>>, tried: Tried, key: &GroupKey, now: Duration) -> GroupStep {
        let waits = tried.has_quorum;
        let message =
            tried.why.clone().unwrap_or_else(|| if waits { WAITS_FOR_VICTIMS } else { UNSCHEDULABLE }.to_owned());
        let result = if waits { "waiting_on_preemption" } else { "unschedulable" };
        let mut step = GroupStep { result, ..GroupStep::default() };
        // While somebody waits for room that was made, the others keep theirs.
        let keeps_room = tried.tries.iter().any(|one| one.waits);
        let rejected_by = rejected_by(&tried);
        for victim in tried.going {
            if !self.snapshot.is_leaving(&victim) {
                self.snapshot.doom(&victim.uid, true);
                step.going.push(victim);
            }
        }
        for (pod, one) in pods.into_iter().zip(tried.tries) {
            self.queue.unschedulable(&pod.uid, rejected_by.clone(), now);
            let is_turned_down = one.node.is_none() || (waits && one.is_refused);
            let why = match is_turned_down {
                // Nothing was asked of any node.
                true if one.failure.nodes == 0 && !one.failure.whole.is_empty() => one.failure.whole.clone(),
                true => one.failure.message(),
                false if waits => message.clone(),
                false => NO_QUORUM.to_owned(),
            };
            if let Some(node) = one.node.as_ref().filter(|_| waits) {
                self.snapshot.nominate(pod.clone(), node);
            } else if let Some(node) = one.was_nominated.as_ref().filter(|_| keeps_room) {
                self.snapshot.nominate(pod.clone(), node);
            }
            let mut refusal = refusal(pod, why, one.node.filter(|_| waits));
            if keeps_room && !waits {
                refusal.nominated = None;
            }
            for (victim, ..) in one.victims.into_iter().filter(|_| waits) {
                self.snapshot.doom(&victim.uid, true);
                if !victim.is_terminating() {
                    refusal.victims.push(victim);
                }
            }
            step.refusals.push(refusal);
        }
        step.condition = self.condition(key, "Unschedulable", &message);
        step
    }

    /// What is to be told of a group. One that was scheduled once stays so, whatever becomes of pods that come later.
    fn condition(&self, key: &GroupKey, reason: &'static str, message: &str) -> Option<GroupCondition> {
        let group = self.groups.object(key)?.clone();
        let is_scheduled = reason == "Scheduled";
        let conditions = group.status.as_ref().and_then(|status| status.conditions.as_ref());
        let told = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodGroupScheduled");
        let was_scheduled = told.is_some_and(|told| told.status == "True");
        let is_told = told.is_some_and(|told| told.reason == reason && told.message == message);
        if is_told || (was_scheduled && !is_scheduled) {
            return None;
        }
        Some(GroupCondition { group, is_scheduled, reason, message: message.to_owned() })
    }
}

/// What the pods of a group have to have in common.
fn mixed_schedulers(pods: &[Arc<PodInfo>]) -> Option<String> {
    let first = pods[0].scheduler_name();
    let other = pods.iter().map(|pod| pod.scheduler_name()).find(|name| *name != first)?;
    let words = "all pods in a single pod group should have the same .spec.schedulerName set, got:";
    Some(format!("{words} {other:?} and {first:?}"))
}

/// Whatever lets any pod of the group go on is worth a try of all.
fn rejected_by(tried: &Tried) -> Vec<&'static str> {
    let mut all: Vec<_> = tried.tries.iter().flat_map(|one| one.failure.rejected_by.iter().copied()).collect();
    all.push(groups::NAME);
    all.sort_unstable();
    all.dedup();
    all
}

fn refusal(pod: Arc<PodInfo>, message: String, node: Option<String>) -> Refusal {
    let nominated = node.or_else(|| (!pod.nominated_node().is_empty()).then(String::new));
    Refusal { pod, reason: "Unschedulable", message, victims: Vec::new(), nominated }
}
