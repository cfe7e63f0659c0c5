//! Snapshot and queue together: what a change of the cluster means, and what is to be done next. Pure.

mod group_cycle;
mod group_preemption;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod group_worlds;
mod placements;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as RawSelector, ObjectMeta};
use skiff_client::Change;
use skiff_client::volumes::is_bound;
use skiff_object::LabelSelector;

use crate::config::Config;
use crate::cycle::{Turn, Unschedulable, candidates, check, decide, first_verdict, totals};
use crate::extender::{self, Extender, Opinion, Room};
use crate::groups::{self, Groups};
use crate::plugins::{Ask, Claim, Event, Verdict, plugin};
use crate::pod::PodInfo;
use crate::preempt::{best, ineligible, preempt, rooms};
use crate::profile::Profile;
use crate::queue::Queue;
use crate::ranking::Rankings;
use crate::selectors::selector;
use crate::snapshot::{Snapshot, is_terminal};

pub use group_cycle::{GroupCondition, GroupStep, Refusal};

/// Everything that decisions rest on.
pub struct Core {
    profiles: HashMap<String, Arc<Profile>>,
    snapshot: Snapshot,
    rankings: Rankings,
    queue: Queue,
    turn: Turn,
    extenders: Vec<Extender>,
    groups: Groups,
    /// Pods that are held for the sake of their groups, and when they are told so.
    held: BTreeSet<(Duration, String)>,
}

/// Where a pod goes; it is assumed to be there already.
#[derive(Debug)]
pub struct Placement {
    /// Whom.
    pub pod: Arc<PodInfo>,
    /// Where to.
    pub node: String,
    /// What has to be written about its claims first.
    pub claims: Vec<Claim>,
    /// How long their volumes may take.
    pub volumes_limit: Duration,
    /// How often it was tried, and since when it is known.
    pub history: (u32, Duration),
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Post this binding.
    Bind(Placement),
    /// Post the bindings of some pods of a group, and tell of the others.
    Group(Box<GroupStep>),
    /// Tell that a pod is not tried yet.
    Held {
        /// Whom.
        pod: Arc<PodInfo>,
        /// Why.
        message: String,
    },
    /// Tell that no node can take the pod, and delete the victims that make room for it.
    Unschedulable {
        /// Whom.
        pod: Arc<PodInfo>,
        /// Why.
        message: String,
        /// Who has to go.
        victims: Vec<Arc<PodInfo>>,
        /// The node that they make room on; empty where a former one is to be taken back, absent where nothing changes.
        nominated: Option<String>,
    },
    /// Ask the extenders which of these nodes the pod may go to, then [`Core::consulted`].
    Consult(Box<Consultation>),
    /// Ask the extenders where room may be made for the pod, then [`Core::rooms_consulted`].
    ConsultRooms(Box<Rooms>),
    /// Tell that something went wrong that is no word about the nodes; it is tried again.
    Failed {
        /// Whom.
        pod: Arc<PodInfo>,
        /// What.
        message: String,
    },
    /// Wait for a change, or until the given monotonic time.
    Idle {
        /// When the next timer ends.
        until: Option<Duration>,
    },
}

/// What extenders are asked about a pod.
#[derive(Debug)]
pub struct Consultation {
    /// Whom.
    pub pod: Arc<PodInfo>,
    /// The nodes that plugins found good.
    pub nodes: Vec<Arc<Node>>,
    scores: HashMap<String, i64>,
    profile: Arc<Profile>,
    nominated: Option<String>,
    failure: Unschedulable,
    /// Nodes that plugins turned down, where evicting pods might help; positions may change meanwhile.
    resolvable: Vec<String>,
}

/// Where room could be made for a pod.
#[derive(Debug)]
pub struct Rooms {
    /// For whom.
    pub pod: Arc<PodInfo>,
    /// Where, and who would have to go.
    pub rooms: Vec<Room>,
    failure: Unschedulable,
    why: String,
}

impl Core {
    /// Nothing known, nothing queued.
    pub fn new(config: Config) -> Self {
        let (profiles, seed) = (config.profiles.into_iter(), config.seed);
        Self {
            profiles: profiles.map(|profile| (profile.name.clone(), Arc::new(profile))).collect(),
            snapshot: Snapshot::default(),
            rankings: Rankings::default(),
            queue: Queue::new(config.backoff),
            turn: Turn::seeded(seed),
            extenders: config.extenders,
            groups: Groups::new(config.groups),
            held: BTreeSet::new(),
        }
    }

    /// Takes the next pod and decides.
    pub fn step(&mut self, now: Duration) -> Step {
        let (pod, profile) = loop {
            if let Some(step) = self.next_notice(now) {
                return step;
            }
            let Some((pod, profile)) = self.next(now) else { return self.idle() };
            let Some(key) = self.groups.key_of(&pod.pod) else { break (pod, profile) };
            if let Some(step) = self.step_group(pod, &key, now) {
                return step;
            }
        };
        // Room that was made for it is its own.
        let nominated = self.snapshot.denominate(&pod.uid);
        if self.extenders.iter().any(|extender| extender.chooses_for(&pod)) {
            return self.consult(pod, profile, nominated, now);
        }
        match self.decide(&pod, &profile, nominated.as_deref()) {
            Ok(at) => {
                let node = self.snapshot.nodes()[at].name().to_owned();
                self.take(pod, node, &profile)
            }
            Err(failure) => self.make_room(pod, &profile, nominated, failure, now),
        }
    }

    fn take(&mut self, pod: Arc<PodInfo>, node: String, profile: &Profile) -> Step {
        let claims = self.reserve(&pod, &node);
        self.snapshot.assume(pod.clone(), &node);
        let volumes_limit = Duration::from_secs(profile.bind_volumes_seconds);
        let history = self.queue.history(&pod.uid).unwrap_or_default();
        Step::Bind(Placement { pod, node, claims, volumes_limit, history })
    }

    fn idle(&self) -> Step {
        let notice = self.held.first().map(|(at, _)| *at);
        Step::Idle { until: self.queue.next_timer().into_iter().chain(notice).min() }
    }

    /// How many pods wait in which part of the queue.
    pub fn pending(&self) -> [(&'static str, usize); 4] {
        self.queue.pending()
    }

    /// Finds the nodes that extenders are to be asked about.
    fn consult(&mut self, pod: Arc<PodInfo>, profile: Arc<Profile>, nominated: Option<String>, now: Duration) -> Step {
        let Self { snapshot, turn, .. } = self;
        let ask = Ask { pod: &pod, snapshot, profile: &profile };
        let (mut found, failure) = match candidates(&ask, turn) {
            Ok((found, failure)) if !found.is_empty() => (found, failure),
            Ok((_, failure)) | Err(failure) => return self.make_room(pod, &profile, nominated, failure, now),
        };
        // Room that was made for it is its own, if that is still good.
        let own = nominated.as_deref().and_then(|node| snapshot.position(node)).filter(|at| !found.contains(at));
        found.extend(own.filter(|at| first_verdict(&ask, &snapshot.nodes()[*at]) == Verdict::Pass));
        let name = |at: &usize| snapshot.nodes()[*at].name().to_owned();
        let scores = found.iter().map(name).zip(totals(&ask, &found)).collect();
        let nodes = found.iter().map(|at| snapshot.nodes()[*at].node.clone()).collect();
        let resolvable = failure.resolvable.iter().map(name).collect();
        Step::Consult(Box::new(Consultation { pod, nodes, scores, profile, nominated, failure, resolvable }))
    }

    /// Extenders have had their say: the nodes that are left, what each of them counts more for it, and why others are not.
    pub fn consulted(&mut self, asked: Consultation, said: Result<Opinion, String>, now: Duration) -> Step {
        let Consultation { pod, scores, profile, nominated, mut failure, mut resolvable, .. } = asked;
        let said = match said {
            Ok(said) => said,
            Err(message) => {
                self.queue.failed(&pod.uid, now);
                nominated.iter().for_each(|node| self.snapshot.nominate(pod.clone(), node));
                return Step::Failed { pod, message };
            }
        };
        // A node may have gone while they were asked.
        let left: Vec<&String> = said.left.iter().filter(|node| self.snapshot.node(node).is_some()).collect();
        let total = |node: &String| {
            scores.get(node).copied().unwrap_or(0).saturating_add(said.scores.get(node).copied().unwrap_or(0))
        };
        let own = nominated.as_ref().and_then(|own| left.iter().find(|node| **node == own));
        let top = left.iter().map(|node| total(node)).max();
        let ties: Vec<_> = left.iter().filter(|node| Some(total(node)) == top).collect();
        let tie = |random: u64| ties.get((random % ties.len().max(1) as u64) as usize).copied();
        if let Some(node) = own.or_else(|| tie(self.turn.next_random())) {
            let node = (*node).clone();
            return self.take(pod, node, &profile);
        }
        failure.note_extenders(&said.failed, &said.unresolvable);
        resolvable.extend(said.failed.into_keys());
        failure.resolvable = resolvable.iter().filter_map(|node| self.snapshot.position(node)).collect();
        self.make_room(pod, &profile, nominated, failure, now)
    }

    /// Extenders have said where room may be made: the rest of what they were asked about.
    pub fn rooms_consulted(&mut self, asked: Rooms, left: Result<Vec<Room>, String>, now: Duration) -> Step {
        let Rooms { pod, failure, why, .. } = asked;
        let found = left.and_then(|rooms| {
            let there = rooms.into_iter().filter(|room| self.snapshot.node(&room.node).is_some());
            best(there.collect()).ok_or(why)
        });
        self.made_room(pod, failure, found, now)
    }

    fn next(&mut self, now: Duration) -> Option<(Arc<PodInfo>, Arc<Profile>)> {
        let pod = self.queue.pop(now)?;
        let profile = self.profiles.get(pod.scheduler_name()).expect("only pods of a profile are queued");
        Some((pod, profile.clone()))
    }

    fn decide(
        &mut self,
        pod: &Arc<PodInfo>,
        profile: &Arc<Profile>,
        nominated: Option<&str>,
    ) -> Result<usize, Unschedulable> {
        let Self { snapshot, rankings, turn, .. } = self;
        let ask = Ask { pod, snapshot, profile };
        let nominated = nominated.and_then(|node| snapshot.position(node));
        // Volumes are chosen for each pod by itself: such pods are never alike.
        if !pod.has_claims
            && let Some(ranking) = rankings.of(pod, profile, snapshot, nominated.is_some())
        {
            if let Some(at) = nominated.filter(|at| ranking.takes(*at, snapshot)) {
                return Ok(at);
            }
            let at = ranking.choose(snapshot, turn.next_random())?;
            // Rules between pods may concern those that room was made for, whom the ranking knows by their size alone.
            let node = &snapshot.nodes()[at];
            if ranking.looks_around() && !node.nominated.is_empty() && first_verdict(&ask, node) != Verdict::Pass {
                return decide(&ask, turn);
            }
            return Ok(at);
        }
        let takes = |at: &usize| first_verdict(&ask, &snapshot.nodes()[*at]) == Verdict::Pass;
        match nominated.filter(|_| check(&ask).is_ok()).filter(takes) {
            Some(at) => Ok(at),
            None => decide(&ask, turn),
        }
    }

    /// Looks for pods of lower priority that could go, and parks the pod until things change.
    fn make_room(
        &mut self,
        pod: Arc<PodInfo>,
        profile: &Arc<Profile>,
        nominated: Option<String>,
        mut failure: Unschedulable,
        now: Duration,
    ) -> Step {
        if let Some(why) = ineligible(&pod, profile, nominated.as_deref(), &self.snapshot) {
            failure.preemption = why;
            nominated.iter().for_each(|node| self.snapshot.nominate(pod.clone(), node));
            let message = failure.message();
            self.queue.unschedulable(&pod.uid, failure.rejected_by, now);
            return Step::Unschedulable { pod, message, victims: Vec::new(), nominated: None };
        }
        if self.extenders.iter().any(|extender| extender.preempts_for(&pod)) {
            if failure.resolvable.is_empty() {
                // The fast search does not tell on which nodes evictions might help.
                failure.resolvable = (0..self.snapshot.nodes().len()).collect();
            }
            let (rooms, why) = rooms(&pod, profile, &mut self.snapshot, &failure);
            if !rooms.is_empty() {
                return Step::ConsultRooms(Box::new(Rooms { pod, rooms, failure, why }));
            }
            return self.made_room(pod, failure, Err(why), now);
        }
        let found = self.search_room(&pod, profile, &failure);
        self.made_room(pod, failure, found, now)
    }

    fn made_room(
        &mut self,
        pod: Arc<PodInfo>,
        mut failure: Unschedulable,
        found: Result<(String, Vec<Arc<PodInfo>>), String>,
        now: Duration,
    ) -> Step {
        let (mut victims, set) = match found {
            Ok((node, found)) => {
                found.iter().for_each(|victim| self.snapshot.doom(&victim.uid, true));
                self.snapshot.nominate(pod.clone(), &node);
                (found, Some(node))
            }
            Err(why) => {
                failure.preemption = why;
                (Vec::new(), (!pod.nominated_node().is_empty()).then(String::new))
            }
        };
        victims.retain(|victim| !victim.is_terminating());
        let message = failure.message();
        self.queue.unschedulable(&pod.uid, failure.rejected_by, now);
        Step::Unschedulable { pod, message, victims, nominated: set }
    }

    fn search_room(
        &mut self,
        pod: &Arc<PodInfo>,
        profile: &Arc<Profile>,
        failure: &Unschedulable,
    ) -> Result<(String, Vec<Arc<PodInfo>>), String> {
        let Self { snapshot, rankings, turn, .. } = self;
        if pod.has_claims || self.extenders.iter().any(|extender| extender.chooses_for(pod)) {
            return preempt(pod, profile, snapshot, failure);
        }
        let ranking = rankings.of(pod, profile, snapshot, true).expect("it is made where there is none");
        let (at, victims) = ranking.make_room(snapshot, turn.next_random())?;
        Ok((snapshot.nodes()[at].name().to_owned(), victims))
    }

    fn reserve(&mut self, pod: &PodInfo, node: &str) -> Vec<Claim> {
        let mut storage = std::mem::take(&mut self.snapshot.storage);
        let claims = self.snapshot.node(node).map(|node| storage.reserve(pod, node)).unwrap_or_default();
        self.snapshot.storage = storage;
        claims
    }

    /// Whether all claims have their volumes now.
    pub fn are_bound(&self, claims: &[Claim]) -> bool {
        claims.iter().all(|(Claim::Take(claim, _) | Claim::Make(claim) | Claim::Wait(claim))| {
            let key = key_of(&claim.metadata);
            self.snapshot.storage.claims.get(&key).is_some_and(|claim| is_bound(claim))
        })
    }

    /// A claim changed; true where the loop should look.
    pub fn claim_changed(&mut self, change: &Change<PersistentVolumeClaim>, now: Duration) -> bool {
        let claim = change.object();
        let storage = &mut self.snapshot.storage;
        let gone = matches!(change, Change::Deleted(_));
        if gone || is_bound(claim) {
            storage.release(claim.metadata.uid.as_ref());
        }
        if gone {
            storage.claims.remove(&key_of(&claim.metadata));
        } else {
            storage.claims.insert(key_of(&claim.metadata), claim.clone());
        }
        self.storage_changed(now)
    }

    /// A volume changed; true where the loop should look.
    pub fn volume_changed(&mut self, change: &Change<PersistentVolume>, now: Duration) -> bool {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        match change {
            Change::Deleted(_) => self.snapshot.storage.volumes.remove(&name),
            _ => self.snapshot.storage.volumes.insert(name, change.object().clone()),
        };
        self.storage_changed(now)
    }

    /// A class changed; true where the loop should look.
    pub fn class_changed(&mut self, change: &Change<StorageClass>, now: Duration) -> bool {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        match change {
            Change::Deleted(_) => self.snapshot.storage.classes.remove(&name),
            _ => self.snapshot.storage.classes.insert(name, change.object().clone()),
        };
        self.storage_changed(now)
    }

    fn storage_changed(&mut self, now: Duration) -> bool {
        self.wake(&Event::Storage, now);
        true
    }

    /// The volumes were not bound in time, or not at all: others may have them.
    pub fn claims_failed(&mut self, claims: &[Claim]) {
        for Claim::Take(claim, _) | Claim::Make(claim) | Claim::Wait(claim) in claims {
            self.snapshot.storage.release(claim.metadata.uid.as_ref());
        }
    }

    /// The server did not take the binding.
    pub fn bind_failed(&mut self, uid: &str, now: Duration) {
        self.snapshot.forget(uid);
        self.queue.failed(uid, now);
    }

    /// A namespace changed; true where the loop should look.
    pub fn namespace_changed(&mut self, change: &Change<Namespace>, _now: Duration) -> bool {
        let meta = &change.object().metadata;
        let name = meta.name.clone().unwrap_or_default();
        let labels = || meta.labels.clone().unwrap_or_default();
        self.snapshot.set_namespace(name, (!matches!(change, Change::Deleted(_))).then(labels));
        false
    }

    /// A disruption budget changed; true where the loop should look.
    pub fn budget_changed(&mut self, change: &Change<PodDisruptionBudget>, _now: Duration) -> bool {
        let changed = self.snapshot.budgets.set(change.object(), matches!(change, Change::Deleted(_)));
        if !changed.is_empty() {
            self.snapshot.touch_where(|pod| changed.iter().any(|budget| budget.covers(pod)));
        }
        false
    }

    /// A Service changed.
    pub fn service_changed(&mut self, change: &Change<Service>, _now: Duration) -> bool {
        let (space, name) = key_of(&change.object().metadata);
        let chosen = change.object().spec.as_ref().and_then(|spec| spec.selector.clone());
        let chosen = chosen.filter(|_| !matches!(change, Change::Deleted(_)));
        self.snapshot.owners.set_service(&space, &name, chosen);
        false
    }

    /// A ReplicaSet changed.
    pub fn replica_set_changed(&mut self, change: &Change<ReplicaSet>, _now: Duration) -> bool {
        let raw = change.object().spec.as_ref().map(|spec| &spec.selector);
        self.set_changed("ReplicaSet", change, raw.map(|raw| selector(Some(raw))))
    }

    /// A StatefulSet changed.
    pub fn stateful_set_changed(&mut self, change: &Change<StatefulSet>, _now: Duration) -> bool {
        let raw = change.object().spec.as_ref().map(|spec| &spec.selector);
        self.set_changed("StatefulSet", change, raw.map(|raw| selector(Some(raw))))
    }

    /// A ReplicationController changed.
    pub fn controller_changed(&mut self, change: &Change<ReplicationController>, _now: Duration) -> bool {
        let chosen = change.object().spec.as_ref().and_then(|spec| spec.selector.clone());
        let raw = RawSelector { match_labels: chosen, ..RawSelector::default() };
        self.set_changed("ReplicationController", change, Some(selector(Some(&raw))))
    }

    fn set_changed<K: Metadata<Ty = ObjectMeta>>(
        &mut self,
        kind: &'static str,
        change: &Change<K>,
        chosen: Option<LabelSelector>,
    ) -> bool {
        let chosen = chosen.filter(|_| !matches!(change, Change::Deleted(_)));
        self.snapshot.owners.set_owner(kind, key_of(change.object().metadata()), chosen);
        false
    }

    /// A victim could not be evicted.
    pub fn evict_failed(&mut self, uid: &str) {
        self.snapshot.doom(uid, false);
    }

    /// A node changed; true where the loop should look.
    pub fn node_changed(&mut self, change: &Change<Node>, now: Duration) -> bool {
        let node = change.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Change::Deleted(_) = change {
            self.snapshot.remove_node(&name);
            return false;
        }
        self.snapshot.set_node(node.clone());
        if let Change::Updated { old, new } = change
            && !matters(old, new)
        {
            return false;
        }
        let Self { snapshot, queue, profiles, .. } = self;
        let Some(node) = snapshot.node(&name) else { return false };
        wake(queue, snapshot, profiles, &Event::Node(node), now);
        true
    }

    /// A pod changed; true where the loop should look.
    pub fn pod_changed(&mut self, change: &Change<Pod>, now: Duration) -> bool {
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let group = self.groups.key_of(pod);
        if matches!(change, Change::Deleted(_)) || is_terminal(pod) {
            self.queue.remove(uid);
            group.iter().for_each(|key| self.leave_group(key, uid, now));
            return self.pod_gone(pod, now);
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if !node.is_empty() {
            self.queue.remove(uid);
            group.iter().for_each(|key| self.join_group(key, uid, true, now));
            return self.pod_placed(change, node, now);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(uid);
            self.snapshot.denominate(uid);
            return false;
        }
        if self.snapshot.is_assumed(uid) {
            return false;
        }
        let info = Arc::new(PodInfo::new(pod.clone()));
        if !self.profiles.contains_key(info.scheduler_name()) {
            return false;
        }
        self.note_nomination(change, &info);
        self.queue.set(info.clone(), now);
        group.iter().for_each(|key| self.join_group(key, &info.uid, false, now));
        true
    }

    /// Somebody, maybe the scheduler itself, wrote which node room is made on for a pod.
    fn note_nomination(&mut self, change: &Change<Pod>, pod: &Arc<PodInfo>) {
        let of = |pod: &Pod| pod.status.as_ref().and_then(|status| status.nominated_node_name.clone());
        let before = if let Change::Updated { old, .. } = change { of(old).unwrap_or_default() } else { String::new() };
        let now = pod.nominated_node();
        if now == before || self.snapshot.nomination(&pod.uid).unwrap_or_default() == now {
            return;
        }
        if now.is_empty() {
            self.snapshot.denominate(&pod.uid);
        } else {
            self.snapshot.nominate(pod.clone(), now);
        }
    }

    fn pod_gone(&mut self, pod: &Arc<Pod>, now: Duration) -> bool {
        let info = PodInfo::new(pod.clone());
        let Self { snapshot, queue, profiles, .. } = self;
        snapshot.denominate(&info.uid);
        snapshot.doom(&info.uid, false);
        let Some(node) = snapshot.remove_pod(&info.uid) else { return false };
        wake(queue, snapshot, profiles, &Event::PodGone(&info, snapshot.node(&node)), now);
        true
    }

    fn pod_placed(&mut self, change: &Change<Pod>, node: &str, now: Duration) -> bool {
        let info = Arc::new(PodInfo::new(change.object().clone()));
        self.snapshot.denominate(&info.uid);
        self.snapshot.set_pod(info.clone(), node);
        let news = match change {
            Change::Updated { old, new } => {
                let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
                !placed(old) || old.metadata.labels != new.metadata.labels
            }
            _ => true,
        };
        if news {
            self.wake(&Event::PodPlaced(&info), now);
        }
        news
    }

    fn wake(&mut self, event: &Event, now: Duration) {
        wake(&mut self.queue, &self.snapshot, &self.profiles, event, now);
    }
}

fn key_of(meta: &ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Whether a changed node may take pods that it would not take before; heartbeats do not matter.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}

type Profiles = HashMap<String, Arc<Profile>>;

fn wake(queue: &mut Queue, snapshot: &Snapshot, profiles: &Profiles, event: &Event, now: Duration) {
    queue.wake(now, |pod, rejected_by| {
        let Some(profile) = profiles.get(pod.scheduler_name()) else { return false };
        let ask = Ask { pod, snapshot, profile };
        // A pod turned down when there was no node at all waits for any node.
        rejected_by.is_empty() && matches!(event, Event::Node(_))
            // A group may have a place for one pod by what does not concern that pod itself.
            || rejected_by.contains(&groups::NAME) && !matches!(event, Event::PodPlaced(_))
            // What extenders wait for is not known.
            || rejected_by.contains(&extender::NAME)
            || rejected_by.iter().filter_map(|name| plugin(name)).any(|plugin| (plugin.wakes_on)(&ask, event))
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, pod};

    const SECOND: Duration = Duration::from_secs(1);

    fn core() -> Core {
        Core::new(Config::default())
    }

    fn node(yaml: &str) -> Arc<Node> {
        cluster(&format!("{{nodes: [{yaml}], pod: {{name: p}}}}")).0.nodes()[0].node.clone()
    }

    fn told(step: Step) -> String {
        match step {
            Step::Bind(Placement { pod, node, .. }) => format!("bind {} to {node}", pod.name()),
            Step::Unschedulable { pod, message, .. } => format!("{}: {message}", pod.name()),
            Step::Idle { until } => format!("idle until {until:?}"),
            Step::Failed { pod, message } => format!("{} failed: {message}", pod.name()),
            Step::Consult(_) | Step::ConsultRooms(_) => "extenders are to be asked".to_owned(),
            Step::Group(_) | Step::Held { .. } => "there are no groups here".to_owned(),
        }
    }

    #[test]
    fn a_node_that_comes_wakes_the_pods_that_wait_for_one() {
        let mut core = core();
        core.pod_changed(&Change::Added(pod("{name: p}").pod.clone()), SECOND);
        assert_eq!(told(core.step(SECOND)), "p: no nodes available to schedule pods");
        core.node_changed(&Change::Added(node("{name: a}")), SECOND * 5);
        assert_eq!(told(core.step(SECOND * 5)), "bind p to a");
    }

    /// An extender that answers as told, by the last word of the URL.
    fn extender(answer: fn(&str, serde_json::Value) -> serde_json::Value) -> Extender {
        let post: crate::Post = Arc::new(move |url, body| {
            let body = serde_json::from_slice(&body).expect("JSON");
            let answer = answer(url.rsplit('/').next().unwrap_or_default(), body);
            let code = if answer.is_null() { 500 } else { 200 };
            Box::pin(async move { Ok((code, answer.to_string().into_bytes())) })
        });
        let verb = str::to_owned;
        Extender {
            url_prefix: "http://e".into(),
            filter_verb: verb("filter"),
            prioritize_verb: verb("prioritize"),
            preempt_verb: verb("preempt"),
            bind_verb: verb("bind"),
            weight: 1,
            timeout: SECOND,
            node_cache_capable: true,
            post: Some(post),
            ..Extender::default()
        }
    }

    /// What is done about a pod in the end, its extenders asked.
    async fn settled(core: &mut Core, now: Duration) -> String {
        let extenders = core.extenders.clone();
        let mut step = core.step(now);
        loop {
            step = match step {
                Step::Consult(asked) => {
                    let said = extender::consult(&extenders, &asked.pod, &asked.nodes).await;
                    core.consulted(*asked, said, now)
                }
                Step::ConsultRooms(asked) => {
                    let left = extender::consult_rooms(&extenders, &asked.pod, asked.rooms.clone()).await;
                    core.rooms_consulted(*asked, left, now)
                }
                Step::Bind(Placement { pod, node, .. }) => {
                    let bound = extender::bind(&extenders, &pod, &node).await;
                    return format!("bind {} to {node}, bound by an extender: {bound:?}", pod.name());
                }
                Step::Unschedulable { victims, nominated, message, .. } if !victims.is_empty() => {
                    let names: Vec<_> = victims.iter().map(|victim| victim.name()).collect();
                    return format!("{message} evict {} for {nominated:?}", names.join(" "));
                }
                other => return told(other),
            };
        }
    }

    fn with_extender(extender: Extender) -> Core {
        let mut core = Core::new(Config { extenders: vec![extender], ..Config::default() });
        for name in ["a", "b", "c"] {
            core.node_changed(&Change::Added(node(&format!("{{name: {name}, cpu: '1'}}"))), SECOND);
        }
        core
    }

    #[tokio::test]
    async fn extenders_have_a_say_in_where_a_pod_goes() {
        let mut core = with_extender(extender(|verb, body| match verb {
            "filter" => json!({"NodeNames": ["a", "b"], "FailedNodes": {"c": "too hot"}}),
            "prioritize" => {
                assert_eq!(body["NodeNames"], json!(["a", "b"]));
                json!([{"Host": "b", "Score": 10}])
            }
            _ => json!({}),
        }));
        core.pod_changed(&Change::Added(pod("{name: p, cpu: 100m}").pod.clone()), SECOND);
        assert_eq!(settled(&mut core, SECOND).await, "bind p to b, bound by an extender: Ok(true)");
    }

    #[tokio::test]
    async fn what_extenders_say_against_nodes_is_told() {
        let mut core = with_extender(extender(|verb, _| match verb {
            "filter" => {
                json!({"NodeNames": [], "FailedNodes": {"a": "too hot", "b": "too hot"}, "FailedAndUnresolvableNodes": {"c": "gone"}})
            }
            _ => json!({}),
        }));
        core.pod_changed(&Change::Added(pod("{name: p}").pod.clone()), SECOND);
        let told = settled(&mut core, SECOND).await;
        assert!(told.starts_with("p: 0/3 nodes are available: 1 gone, 2 too hot."), "{told}");
        core.pod_changed(&Change::Added(pod("{name: q, node: a}").pod.clone()), SECOND * 9);
        assert!(settled(&mut core, SECOND * 9).await.starts_with("p: 0/3"), "any change may matter to them");
    }

    #[tokio::test]
    async fn one_that_does_not_answer_holds_pods_up_unless_it_is_ignorable() {
        let silent = || extender(|_, _| serde_json::Value::Null);
        let mut core = with_extender(silent());
        core.pod_changed(&Change::Added(pod("{name: p}").pod.clone()), SECOND);
        assert_eq!(
            settled(&mut core, SECOND).await,
            "p failed: failed filter with extender at URL http://e/filter, code 500"
        );
        let mut core = with_extender(Extender { ignorable: true, ..silent() });
        core.pod_changed(&Change::Added(pod("{name: p}").pod.clone()), SECOND);
        assert!(settled(&mut core, SECOND).await.ends_with("bound by an extender: Ok(false)"));
    }

    #[tokio::test]
    async fn they_are_asked_who_has_to_go() {
        let mut core = with_extender(Extender {
            filter_verb: String::new(),
            prioritize_verb: String::new(),
            ..extender(|verb, body| match verb {
                "preempt" => {
                    let offered = &body["NodeNameToMetaVictims"];
                    json!({"NodeNameToMetaVictims": {"b": offered["b"]}})
                }
                _ => json!({}),
            })
        });
        for name in ["a", "b", "c"] {
            let low = pod(&format!("{{name: low-{name}, node: {name}, cpu: '1'}}")).pod.clone();
            core.pod_changed(&Change::Added(low), SECOND);
        }
        core.pod_changed(&Change::Added(pod("{name: high, cpu: '1', priority: 5}").pod.clone()), SECOND);
        let told = settled(&mut core, SECOND).await;
        assert!(told.ends_with("evict low-b for Some(\"b\")"), "{told}");
    }

    #[test]
    fn an_assumed_pod_takes_room_until_its_binding_fails() {
        let mut core = core();
        core.node_changed(&Change::Added(node("{name: a, cpu: '1'}")), SECOND);
        core.pod_changed(&Change::Added(pod("{name: p, cpu: '1'}").pod.clone()), SECOND);
        core.pod_changed(&Change::Added(pod("{name: q, cpu: '1'}").pod.clone()), SECOND * 2);
        assert_eq!(told(core.step(SECOND * 2)), "bind p to a");
        assert!(told(core.step(SECOND * 2)).starts_with("q: 0/1 nodes are available: 1 Insufficient cpu."));
        core.bind_failed("p", SECOND * 2);
        assert_eq!(told(core.step(SECOND * 3)), "bind p to a");
    }

    #[test]
    fn pods_that_are_alike_do_not_share_a_host_port() {
        let mut core = core();
        for name in ["a", "b", "c"] {
            core.node_changed(&Change::Added(node(&format!("{{name: {name}}}"))), SECOND);
        }
        for at in 0..4u32 {
            let pod = pod(&format!("{{name: p{at}, port: 80}}")).pod.clone();
            core.pod_changed(&Change::Added(pod), SECOND + SECOND * at);
        }
        let told: Vec<_> = (0..3).map(|_| told(core.step(SECOND * 9))).collect();
        let mut nodes: Vec<_> = told.iter().map(|told| told.rsplit(' ').next()).collect();
        nodes.sort();
        assert_eq!(nodes, [Some("a"), Some("b"), Some("c")], "{told:?}");
        assert!(
            self::told(core.step(SECOND * 9)).starts_with("p3: 0/3 nodes are available: 3 node(s) didn't have free")
        );
    }

    #[test]
    fn room_that_was_made_is_kept_for_whom_it_was_made() {
        let mut core = core();
        core.node_changed(&Change::Added(node("{name: a, cpu: '1'}")), SECOND);
        let low = pod("{name: low, node: a, cpu: '1'}").pod.clone();
        core.pod_changed(&Change::Added(low.clone()), SECOND);
        core.pod_changed(&Change::Added(pod("{name: high, cpu: '1', priority: 5}").pod.clone()), SECOND);
        let Step::Unschedulable { victims, nominated, .. } = core.step(SECOND) else { panic!("there is no room") };
        assert_eq!((victims.len(), nominated.as_deref()), (1, Some("a")));
        core.pod_changed(&Change::Deleted(low), SECOND * 2);
        core.pod_changed(&Change::Added(pod("{name: later, cpu: '1', priority: 5}").pod.clone()), SECOND * 2);
        core.pod_changed(&Change::Added(pod("{name: least, cpu: '1'}").pod.clone()), SECOND * 2);
        let told: Vec<_> = (0..3).map(|_| told(core.step(SECOND * 3))).collect();
        assert_eq!(told[0], "bind high to a", "{told:?}");
        assert!(told[1].starts_with("later: 0/1") && told[2].starts_with("least: 0/1"), "{told:?}");
    }

    #[test]
    fn a_pod_that_ends_makes_room() {
        let mut core = core();
        core.node_changed(&Change::Added(node("{name: a, cpu: '1'}")), SECOND);
        let running = pod("{name: x, node: a, cpu: '1'}").pod.clone();
        core.pod_changed(&Change::Added(running.clone()), SECOND);
        core.pod_changed(&Change::Added(pod("{name: p, cpu: '1'}").pod.clone()), SECOND);
        assert!(told(core.step(SECOND)).starts_with("p: 0/1"));
        assert!(core.pod_changed(&Change::Deleted(running), SECOND * 9));
        assert_eq!(told(core.step(SECOND * 9)), "bind p to a");
    }

    #[test]
    fn a_heartbeat_wakes_nobody() {
        let mut core = core();
        let (old, new) = (node("{name: a}"), node("{name: a}"));
        core.node_changed(&Change::Added(old.clone()), SECOND);
        assert!(!core.node_changed(&Change::Updated { old, new }, SECOND));
    }

    #[test]
    fn pods_fill_a_node_in_the_order_in_which_they_came() {
        let mut core = core();
        core.node_changed(&Change::Added(node("{name: a, pods: 2000}")), SECOND);
        for at in 0..2001u32 {
            core.pod_changed(&Change::Added(pod(&format!("{{name: p{at:04}}}")).pod.clone()), SECOND + SECOND * at);
        }
        for at in 0..2000 {
            assert_eq!(told(core.step(SECOND * 3000)), format!("bind p{at:04} to a"));
        }
        assert!(told(core.step(SECOND * 3000)).starts_with("p2000: 0/1 nodes are available: 1 Too many pods."));
    }
}
