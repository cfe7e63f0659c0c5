//! The decision about one Deployment: which ReplicaSets to create, scale and delete, and what to tell.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use skiff_base::Timestamp;

use super::numbers::{
    available, is_recreate, max_surge, max_unavailable, new_size, noted, present, proportion, size, wanted,
};
use super::status::{
    PAUSED, PROGRESSING, RESUMED, TIMED_OUT, condition, counted, deadline, is_complete, judge, next_look, set_condition,
};
use super::template::{hash, is_current, set_name};
use super::{DESIRED_REPLICAS, MAX_REPLICAS, Observed, REVISION, REVISION_HISTORY, TEMPLATE_HASH};
use crate::claims::claim;
use crate::meta::{annotation, controller_reference, is_controlled_by, selector};
use crate::plan::{Action, Note, Plan};
use crate::pods::is_terminal;

/// How many old ReplicaSets are kept where the spec does not say.
const DEFAULT_HISTORY: i32 = 10;

/// What is to be done.
pub fn reconcile(observed: &Observed, now: Timestamp) -> Plan {
    let deployment = &*observed.deployment;
    if deployment.spec.as_ref().is_none_or(|spec| selector(Some(&spec.selector)).is_everything()) {
        let text = "This deployment is selecting all pods. A non-empty selector is required.";
        let mut plan = Plan::nothing();
        plan.then(Action::tell(Note::warning(deployment, "SelectingAll", text)));
        return plan;
    }
    let mut plan = Plan::nothing();
    let chosen = selector(deployment.spec.as_ref().map(|spec| &spec.selector));
    let mut mine: Vec<_> =
        claim(deployment, &chosen, &observed.sets, |_| true, &mut plan).iter().map(|set| (**set).clone()).collect();
    mine.sort_by_key(age);
    if !plan.steps.is_empty() {
        // The ReplicaSets will be seen again as they are then.
        return plan;
    }
    let mut rollout = Rollout::new(observed, mine, now);
    rollout.decide();
    rollout.plan
}

fn age(set: &ReplicaSet) -> (Option<Timestamp>, Option<String>) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone())
}

fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The state of a decision: the ReplicaSets as they will be, and the plan so far.
struct Rollout<'a> {
    observed: &'a Observed,
    deployment: &'a Deployment,
    /// All ReplicaSets, oldest first, as they will be after the plan.
    sets: Vec<ReplicaSet>,
    /// Which of them is of the present template.
    new: Option<usize>,
    status: DeploymentStatus,
    /// The revision that the Deployment is to carry from now on.
    published: Option<String>,
    now: Timestamp,
    plan: Plan,
}

impl<'a> Rollout<'a> {
    fn new(observed: &'a Observed, sets: Vec<ReplicaSet>, now: Timestamp) -> Self {
        let deployment = &*observed.deployment;
        let new = sets.iter().position(|set| is_current(deployment, set));
        let status = deployment.status.clone().unwrap_or_default();
        Self { observed, deployment, sets, new, status, published: None, now, plan: Plan::nothing() }
    }

    fn decide(&mut self) {
        let spec = self.deployment.spec.as_ref();
        let paused = spec.and_then(|spec| spec.paused).unwrap_or(false);
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return self.tell_counts();
        }
        self.note_pause(paused);
        if paused || self.is_resized() {
            self.sync_revision();
            self.rescale();
            if paused {
                self.clean_up();
            }
            return self.tell_counts();
        }
        if is_recreate(self.deployment) {
            self.recreate()
        } else {
            self.roll()
        }
        self.tell_progress();
    }

    fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|at| Some(*at) != self.new).collect()
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(size).sum()
    }

    /// Unlike [`Rollout::total`] this counts the pods that a shrunk ReplicaSet has not deleted yet,
    /// so that there are never more than maxSurge allows, not even for an instant.
    fn present(&self) -> i32 {
        self.sets.iter().map(present).sum()
    }

    /// Lest a pause is taken for a lack of progress.
    fn note_pause(&mut self, paused: bool) {
        if deadline(self.deployment).is_none() {
            return;
        }
        let reason = condition(&self.status, PROGRESSING).and_then(|condition| condition.reason.as_deref());
        let noted = reason == Some(PAUSED);
        if reason == Some(TIMED_OUT) {
            return;
        }
        if paused && !noted {
            let text = "Deployment is paused".to_owned();
            set_condition(&mut self.status, PROGRESSING, "Unknown", PAUSED, text, self.now);
        } else if !paused && noted {
            let text = "Deployment is resumed".to_owned();
            set_condition(&mut self.status, PROGRESSING, "Unknown", RESUMED, text, self.now);
        }
    }

    /// Whether `spec.replicas` was changed since the ReplicaSets were last scaled.
    fn is_resized(&self) -> bool {
        let wanted = wanted(self.deployment);
        self.sets.iter().filter(|set| size(set) > 0).any(|set| noted(set).0.is_some_and(|noted| noted != wanted))
    }

    /// Makes the revision of the new ReplicaSet the highest, and the Deployment's the same.
    fn sync_revision(&mut self) {
        let newest = self.old().into_iter().map(|at| revision(&self.sets[at].metadata)).max().unwrap_or(0) + 1;
        let Some(at) = self.new else { return };
        let mut set = self.sets[at].clone();
        self.annotate(&mut set.metadata, newest, true);
        if let Some(spec) = &mut set.spec {
            spec.min_ready_seconds = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        }
        if !is_same_but_status(&set, &self.sets[at]) {
            self.plan.then(Action::update(&set));
            self.sets[at] = set;
        }
        let text = revision(&self.sets[at].metadata).to_string();
        self.publish_revision(text);
        if deadline(self.deployment).is_some() && condition(&self.status, PROGRESSING).is_none() {
            let text = format!("Found new replica set {:?}", self.name(at));
            set_condition(&mut self.status, PROGRESSING, "True", "FoundNewReplicaSet", text, self.now);
        }
    }

    /// The revision goes to the Deployment with its status: that write takes annotations along.
    fn publish_revision(&mut self, text: String) {
        if annotation(&self.deployment.metadata, REVISION) != Some(text.as_str()) {
            self.published = Some(text);
        }
    }

    fn annotate(&self, meta: &mut ObjectMeta, newest: i64, exists: bool) {
        let mut changed = false;
        let annotations = meta.annotations.get_or_insert_default();
        for (key, value) in self.deployment.metadata.annotations.iter().flatten() {
            if is_copied(key) && annotations.get(key) != Some(value) {
                annotations.insert(key.clone(), value.clone());
                changed = true;
            }
        }
        let old = annotations.get(REVISION).cloned();
        let number = old.as_deref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        if number < newest {
            annotations.insert(REVISION.to_owned(), newest.to_string());
            changed = true;
        }
        // A ReplicaSet that comes back with a new number keeps the numbers that it had.
        if let Some(old) = old.filter(|_| changed && number < newest) {
            let history = annotations.get(REVISION_HISTORY).filter(|history| !history.is_empty());
            let history = history.map_or_else(|| old.clone(), |history| format!("{history},{old}"));
            annotations.insert(REVISION_HISTORY.to_owned(), history);
        }
        if !exists {
            let wanted = wanted(self.deployment);
            annotations.insert(DESIRED_REPLICAS.to_owned(), wanted.to_string());
            annotations.insert(MAX_REPLICAS.to_owned(), (wanted + max_surge(self.deployment)).to_string());
        }
    }

    /// Makes sure that there is a ReplicaSet of the present template; false where its name is taken by another.
    fn ensure_new(&mut self) -> bool {
        self.sync_revision();
        if self.new.is_some() {
            return true;
        }
        if self.observed.namesake.is_some() {
            self.status.collision_count = Some(self.status.collision_count.unwrap_or(0) + 1);
            return false;
        }
        let newest = self.sets.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0) + 1;
        let mut set = self.fresh_set();
        self.annotate(&mut set.metadata, newest, false);
        let known = self.sets.iter().all(has_observed);
        let replicas = if known { new_size(self.deployment, 0, self.present()) } else { 0 };
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(replicas);
        }
        let name = set.metadata.name.clone().unwrap_or_default();
        let mut action = Action::create(&set);
        if replicas > 0 {
            action = action.and_tell(self.scaling(&name, 0, replicas));
        }
        let failed = format!("Failed to create new replica set {name:?}: ");
        self.plan.then(action.or_tell(Note::warning(self.deployment, "ReplicaSetCreateError", failed.clone())));
        if deadline(self.deployment).is_some() {
            let text = format!("Created new replica set {name:?}");
            set_condition(&mut self.status, PROGRESSING, "True", "NewReplicaSetCreated", text, self.now);
        }
        self.new = Some(self.sets.len());
        self.sets.push(set);
        self.publish_revision(newest.to_string());
        true
    }

    fn fresh_set(&self) -> ReplicaSet {
        let hash = hash(self.deployment);
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let mut template = spec.template;
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(TEMPLATE_HASH.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut match_labels = spec.selector.match_labels.unwrap_or_default();
        match_labels.insert(TEMPLATE_HASH.to_owned(), hash);
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(set_name(self.deployment)),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference(self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: None,
                min_ready_seconds: spec.min_ready_seconds,
                selector: LabelSelector { match_labels: Some(match_labels), ..spec.selector },
                template: Some(template),
            }),
            status: None,
        }
    }

    fn name(&self, at: usize) -> String {
        self.sets[at].metadata.name.clone().unwrap_or_default()
    }

    fn scaling(&self, name: &str, from: i32, to: i32) -> Note {
        let direction = if to > from { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {name} from {from} to {to}");
        Note::normal(self.deployment, "ScalingReplicaSet", text)
    }

    /// Gives a ReplicaSet a size and notes the numbers that it was derived from; false where nothing had to change.
    fn scale(&mut self, at: usize, to: i32) -> bool {
        let (from, wanted) = (size(&self.sets[at]), wanted(self.deployment));
        let largest = wanted + max_surge(self.deployment);
        if from == to && noted(&self.sets[at]) == (Some(wanted), Some(largest)) {
            return false;
        }
        let set = &mut self.sets[at];
        let annotations = set.metadata.annotations.get_or_insert_default();
        annotations.insert(DESIRED_REPLICAS.to_owned(), wanted.to_string());
        annotations.insert(MAX_REPLICAS.to_owned(), largest.to_string());
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(to);
        }
        let mut action = Action::update(&*set);
        if from != to {
            action = action.and_tell(self.scaling(&self.name(at), from, to));
        }
        self.plan.then(action);
        from != to
    }

    fn roll(&mut self) {
        if !self.ensure_new() || self.grow_new() || self.shrink_old() {
            return;
        }
        if is_complete(self.deployment, &self.status) {
            self.clean_up();
        }
    }

    fn grow_new(&mut self) -> bool {
        let Some(at) = self.new else { return false };
        let (current, wanted) = (size(&self.sets[at]), wanted(self.deployment));
        match current.cmp(&wanted) {
            std::cmp::Ordering::Equal => false,
            std::cmp::Ordering::Greater => self.scale(at, wanted),
            // A ReplicaSet that has not seen its own size yet may have more pods than it tells.
            std::cmp::Ordering::Less if !self.sets.iter().all(has_observed) => false,
            std::cmp::Ordering::Less => self.scale(at, new_size(self.deployment, current, self.present())),
        }
    }

    /// Shrinks old ReplicaSets as far as enough pods stay available; those that are not go first.
    fn shrink_old(&mut self) -> bool {
        let old: Vec<_> = self.old().into_iter().filter(|at| size(&self.sets[*at]) > 0).collect();
        // One that shrank and grows again may tell of pods that it is deleting, until it has seen its new size.
        if old.is_empty() || !self.sets.iter().all(has_observed) {
            return false;
        }
        let least = wanted(self.deployment) - max_unavailable(self.deployment);
        // A ReplicaSet's count may be older than its size: it never has more available pods than it is to keep.
        let available = |set: &ReplicaSet| available(set).min(size(set));
        let new_unavailable = self.new.map_or(0, |at| size(&self.sets[at]) - available(&self.sets[at]));
        let mut spare = self.total() - least - new_unavailable;
        if spare <= 0 {
            return false;
        }
        let mut changed = false;
        for at in &old {
            let (size, broken) = (size(&self.sets[*at]), size(&self.sets[*at]) - available(&self.sets[*at]));
            let fewer = spare.min(broken);
            if fewer > 0 {
                changed |= self.scale(*at, size - fewer);
                spare -= fewer;
            }
        }
        let mut spare = self.sets.iter().map(available).sum::<i32>() - least;
        for at in old {
            let size = size(&self.sets[at]);
            let fewer = spare.min(size);
            if fewer > 0 {
                changed |= self.scale(at, size - fewer);
                spare -= fewer;
            }
        }
        changed
    }

    fn recreate(&mut self) {
        self.sync_revision();
        let mut shrunk = false;
        for at in self.old() {
            if size(&self.sets[at]) > 0 {
                shrunk |= self.scale(at, 0);
            }
        }
        if shrunk || self.old_pods_run() || !self.ensure_new() {
            return;
        }
        if let Some(at) = self.new {
            self.scale(at, wanted(self.deployment));
        }
        if is_complete(self.deployment, &self.status) {
            self.clean_up();
        }
    }

    fn old_pods_run(&self) -> bool {
        let new = self.new.and_then(|at| self.sets[at].metadata.uid.as_ref());
        let is_old = |meta: &ObjectMeta| new.is_none() || !is_controlled_by(meta, new);
        self.observed.pods.iter().any(|pod| is_old(&pod.metadata) && !is_terminal(pod))
            || self.old().into_iter().any(|at| self.sets[at].status.as_ref().is_some_and(|status| status.replicas > 0))
    }

    /// Follows a change of `spec.replicas`: one active ReplicaSet takes it all, several share it in proportion.
    fn rescale(&mut self) {
        let wanted = wanted(self.deployment);
        let active: Vec<_> = (0..self.sets.len()).filter(|at| size(&self.sets[*at]) > 0).collect();
        if active.len() <= 1 {
            if let Some(at) = active.first().copied().or(self.new).or_else(|| self.sets.len().checked_sub(1)) {
                self.scale(at, wanted);
            }
            return;
        }
        if self.new.is_some_and(|at| self.is_saturated(at)) {
            for at in self.old() {
                if size(&self.sets[at]) > 0 {
                    self.scale(at, 0);
                }
            }
            return;
        }
        if !is_recreate(self.deployment) {
            self.rescale_in_proportion(active);
        }
    }

    fn is_saturated(&self, at: usize) -> bool {
        let (set, wanted) = (&self.sets[at], wanted(self.deployment));
        size(set) == wanted && noted(set).0 == Some(wanted) && available(set) == wanted
    }

    fn rescale_in_proportion(&mut self, mut active: Vec<usize>) {
        let wanted = wanted(self.deployment);
        let allowed = if wanted > 0 { wanted + max_surge(self.deployment) } else { 0 };
        let to_add = allowed - self.total();
        // The largest takes the remainder; among equals the newest grows first and the oldest shrinks first.
        active.sort_by_key(|at| {
            let order = *at as i64;
            (-i64::from(size(&self.sets[*at])), if to_add > 0 { -order } else { order })
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for at in &active {
            let share = proportion(&self.sets[*at], self.deployment, to_add, added);
            sizes.push(size(&self.sets[*at]) + share);
            added += share;
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (at, to) in active.into_iter().zip(sizes) {
            self.scale(at, to);
        }
    }

    /// Deletes the oldest of the empty ReplicaSets beyond the history that is to be kept.
    fn clean_up(&mut self) {
        let kept =
            self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(DEFAULT_HISTORY);
        if kept == i32::MAX {
            return;
        }
        let mut old: Vec<_> =
            self.old().into_iter().filter(|at| self.sets[*at].metadata.deletion_timestamp.is_none()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(kept).unwrap_or(0));
        old.sort_by_key(|at| revision(&self.sets[*at].metadata));
        for at in old.into_iter().take(surplus) {
            let set = &self.sets[at];
            let status = set.status.as_ref();
            let empty = size(set) == 0 && status.is_none_or(|status| status.replicas == 0);
            if empty && has_observed(set) {
                self.plan.then(Action::delete(set));
            }
        }
    }

    fn tell_counts(&mut self) {
        let new = self.new.map(|at| &self.sets[at]);
        let status = counted(self.deployment, &self.status, &self.sets, new, self.now);
        self.tell(status);
    }

    fn tell_progress(&mut self) {
        let new = self.new.map(|at| &self.sets[at]);
        let mut status = counted(self.deployment, &self.status, &self.sets, new, self.now);
        judge(self.deployment, &self.status, &mut status, &self.sets, new, self.now);
        if let Some(failure) =
            self.observed.failure.as_ref().filter(|failure| failure.reason == "ReplicaSetCreateError")
        {
            let text = format!("Failed to create new replica set {:?}: {}", set_name(self.deployment), failure.message);
            set_condition(&mut status, PROGRESSING, "False", failure.reason, text, self.now);
        }
        if let Some(delay) = next_look(self.deployment, &status, self.now) {
            self.plan.look_again(delay);
        }
        self.tell(status);
    }

    fn tell(&mut self, status: DeploymentStatus) {
        if self.deployment.status.as_ref() == Some(&status) && self.published.is_none() {
            return;
        }
        let mut deployment = Deployment { status: Some(status), ..self.deployment.clone() };
        if let Some(text) = self.published.take() {
            deployment.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), text);
        }
        self.plan.then(Action::update_status(&deployment));
    }
}

fn has_observed(set: &ReplicaSet) -> bool {
    set.status.as_ref().and_then(|status| status.observed_generation) >= set.metadata.generation
}

fn is_same_but_status(a: &ReplicaSet, b: &ReplicaSet) -> bool {
    a.spec == b.spec && a.metadata == b.metadata
}

/// Annotations that describe the Deployment itself are not its ReplicaSets'.
fn is_copied(key: &str) -> bool {
    let own = ["kubectl.kubernetes.io/last-applied-configuration", "deprecated.deployment.rollback.to"];
    let computed = [REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS];
    !own.contains(&key) && !computed.contains(&key)
}
