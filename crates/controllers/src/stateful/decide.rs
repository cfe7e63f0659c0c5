//! The decision about one StatefulSet. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use skiff_base::Timestamp;

use super::Observed;
use super::claims::claim_name;
use crate::claims::claim;
use crate::meta::{controller_reference, nonzero, scaled, selector};
use crate::plan::{Action, Note, Plan};
use crate::pods::{available_in, from_template, is_active, is_available, is_ready, is_terminal};
use crate::revisions::{self, DEFAULT_HISTORY, History, REVISION_HASH, STATEFUL_HASH};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// What is to be done.
pub fn reconcile(observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let set = &*observed.set;
    let Some(spec) = set.spec.as_ref() else { return plan };
    if selector(Some(&spec.selector)).is_everything() {
        let text = "This StatefulSet is selecting all pods. A non-empty selector is required.";
        plan.then(Action::tell(Note::warning(set, "SelectingAll", text)));
        return plan;
    }
    let chosen = selector(Some(&spec.selector));
    let candidates: Vec<_> = observed.pods.iter().filter(|pod| ordinal_of(set, pod).is_some()).cloned().collect();
    let mine = claim(set, &chosen, &candidates, is_active, &mut plan);
    let revisions = claim(set, &chosen, &observed.revisions, |_| true, &mut plan);
    if !plan.steps.is_empty() || set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let history = History { mine: &revisions, foreign: &observed.foreign, hash_label: STATEFUL_HASH };
    let (update, collisions) = history.sync(set, &spec.template, collisions, &mut plan);
    let told = set.status.as_ref().and_then(|status| status.current_revision.as_ref());
    let current = revisions.iter().find(|revision| revision.metadata.name.as_ref() == told);
    let current = current.map_or_else(|| update.clone(), |revision| (**revision).clone());
    let stateful = Stateful { observed, set, spec, pods: by_ordinal(set, &mine), update, current, collisions, now };
    stateful.act(&mut plan);
    stateful.tell(&mine, &mut plan);
    let used = |revision: &ControllerRevision| {
        let name = revision.metadata.name.as_ref();
        name == stateful.update.metadata.name.as_ref()
            || name == stateful.current.metadata.name.as_ref()
            || mine.iter().any(|pod| revision_of(pod) == name)
    };
    let limit = spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
    revisions::clean_up(&revisions, used, limit, &mut plan);
    plan
}

/// The number that a pod's name ends with, if it is of this set.
fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, number) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    (Some(parent) == set.metadata.name.as_deref()).then(|| number.parse().ok()).flatten()
}

fn by_ordinal(set: &StatefulSet, pods: &[Arc<Pod>]) -> BTreeMap<i32, Arc<Pod>> {
    pods.iter().filter_map(|pod| Some((ordinal_of(set, pod)?, pod.clone()))).collect()
}

fn revision_of(pod: &Pod) -> Option<&String> {
    pod.metadata.labels.as_ref()?.get(REVISION_HASH)
}

/// A decision under way.
pub struct Stateful<'a> {
    /// What it rests on.
    pub observed: &'a Observed,
    /// The set.
    pub set: &'a StatefulSet,
    /// Its spec.
    pub spec: &'a StatefulSetSpec,
    /// Its pods by number.
    pub pods: BTreeMap<i32, Arc<Pod>>,
    update: ControllerRevision,
    current: ControllerRevision,
    collisions: Option<i32>,
    now: Timestamp,
}

impl Stateful<'_> {
    /// The set's name.
    pub fn name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    /// The wanted numbers.
    pub fn ordinals(&self) -> std::ops::Range<i32> {
        let start = self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        start..start + self.spec.replicas.unwrap_or(1)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_active(pod) && is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    /// Pods from this number on are updated.
    fn partition(&self) -> i32 {
        let strategy = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        self.ordinals().start + strategy.and_then(|rolling| rolling.partition).unwrap_or(0)
    }

    fn is_rolling(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    fn act(&self, plan: &mut Plan) {
        self.keep_claims(plan);
        if !self.complete(plan) || !self.shrink(plan) || !self.is_rolling() {
            return;
        }
        self.roll(plan);
    }

    /// Creates what is missing and replaces what has ended; false where, in order, something has to be waited for first.
    fn complete(&self, plan: &mut Plan) -> bool {
        let mut creations = Vec::new();
        for ordinal in self.ordinals() {
            match self.pods.get(&ordinal) {
                None => {
                    self.make_claims(ordinal, plan);
                    creations.push(self.creation(ordinal));
                    if self.is_ordered() {
                        break;
                    }
                }
                Some(pod) if is_terminal(pod) && pod.metadata.deletion_timestamp.is_none() => {
                    plan.then(self.deletion(pod));
                    if self.is_ordered() {
                        return false;
                    }
                }
                Some(pod) if pod.metadata.deletion_timestamp.is_none() && self.lacks_claims(ordinal) => {
                    self.make_claims(ordinal, plan);
                    if self.is_ordered() && !self.is_available(pod) {
                        return self.is_stuck(ordinal, pod);
                    }
                }
                Some(pod) if self.is_ordered() && !self.is_available(pod) => {
                    // A pod of an old template that does not become available is replaced by the update below.
                    return self.is_stuck(ordinal, pod);
                }
                Some(_) => {}
            }
        }
        let waits = self.is_ordered() && !creations.is_empty();
        plan.burst(creations);
        !waits
    }

    /// Whether a pod that is not available is outdated, so that waiting for it would be for ever.
    fn is_stuck(&self, ordinal: i32, pod: &Pod) -> bool {
        let outdated = self.is_outdated(pod);
        let higher = self.pods.range(ordinal + 1..).all(|(_, pod)| self.is_available(pod));
        self.is_rolling() && ordinal >= self.partition() && outdated && higher && is_active(pod)
    }

    /// Removes what is beyond the wanted numbers, highest first; false where something has to be waited for first.
    fn shrink(&self, plan: &mut Plan) -> bool {
        let wanted = self.ordinals();
        let mut condemned: Vec<_> = self.pods.iter().filter(|(ordinal, _)| !wanted.contains(ordinal)).collect();
        condemned.reverse();
        let mut deletions = Vec::new();
        let some = !condemned.is_empty();
        for (_, pod) in condemned {
            if pod.metadata.deletion_timestamp.is_none() {
                deletions.push(self.deletion(pod));
            }
            if self.is_ordered() {
                break;
            }
        }
        plan.burst(deletions);
        !some
    }

    /// Replaces outdated pods, highest first, as many at a time as may be unavailable.
    fn roll(&self, plan: &mut Plan) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let wanted = self.spec.replicas.unwrap_or(1);
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let most = most.map_or(1, |value| scaled(value, wanted, true)).max(1) as usize;
        let is_available = |ordinal: &i32| self.pods.get(ordinal).is_some_and(|pod| self.is_available(pod));
        let mut unavailable = self.ordinals().filter(|ordinal| !is_available(ordinal)).count();
        // Those that are on their way to the new template: the next ones wait for them.
        let mut under_way = 0;
        for ordinal in self.ordinals().rev() {
            if ordinal < self.partition() || under_way >= most {
                return;
            }
            match self.pods.get(&ordinal) {
                Some(pod) if self.is_outdated(pod) && pod.metadata.deletion_timestamp.is_none() => {
                    if self.is_available(pod) {
                        if unavailable >= most {
                            return;
                        }
                        unavailable += 1;
                    }
                    plan.then(self.deletion(pod));
                    under_way += 1;
                }
                Some(pod) if self.is_available(pod) => {}
                _ => under_way += 1,
            }
        }
    }

    fn is_outdated(&self, pod: &Pod) -> bool {
        revision_of(pod) != self.update.metadata.name.as_ref()
    }

    /// The revision that a new pod of this number comes of.
    fn revision_for(&self, ordinal: i32) -> &ControllerRevision {
        if self.is_rolling() && ordinal < self.partition() { &self.current } else { &self.update }
    }

    fn template_of(&self, revision: &ControllerRevision) -> PodTemplateSpec {
        if revision.metadata.name == self.update.metadata.name {
            return self.spec.template.clone();
        }
        revisions::template_of(revision).unwrap_or_else(|| self.spec.template.clone())
    }

    fn creation(&self, ordinal: i32) -> Action {
        let name = format!("{}-{ordinal}", self.name());
        let revision = self.revision_for(ordinal);
        let namespace = self.set.metadata.namespace.as_deref().unwrap_or_default();
        let base = format!("{}-", self.name());
        let owner = controller_reference(self.set);
        let mut pod = from_template(&self.template_of(revision), namespace, name.clone(), Some(base), owner);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(POD_NAME.to_owned(), name.clone());
        labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
        labels.insert(REVISION_HASH.to_owned(), revision.metadata.name.clone().unwrap_or_default());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name.clone());
        spec.subdomain = self.spec.service_name.clone().filter(|service| !service.is_empty());
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let volume = template.metadata.name.clone().unwrap_or_default();
            let claim_name = claim_name(self.set, template, ordinal);
            let volumes = spec.volumes.get_or_insert_default();
            volumes.retain(|other| other.name != volume);
            let source = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
            volumes.push(Volume { name: volume, persistent_volume_claim: Some(source), ..Volume::default() });
        }
        let set = self.name();
        Action::create(&pod)
            .and_tell(self.note("SuccessfulCreate", format!("create Pod {name} in StatefulSet {set} successful")))
            .or_tell(Note::warning(
                self.set,
                "FailedCreate",
                format!("create Pod {name} in StatefulSet {set} failed error: "),
            ))
    }

    fn note(&self, reason: &'static str, text: String) -> Note {
        Note::normal(self.set, reason, text)
    }

    fn deletion(&self, pod: &Pod) -> Action {
        let (name, set) = (pod.metadata.name.as_deref().unwrap_or_default(), self.name());
        Action::delete(pod)
            .and_tell(self.note("SuccessfulDelete", format!("delete Pod {name} in StatefulSet {set} successful")))
            .or_tell(Note::warning(
                self.set,
                "FailedDelete",
                format!("delete Pod {name} in StatefulSet {set} failed error: "),
            ))
    }

    fn tell(&self, mine: &[Arc<Pod>], plan: &mut Plan) {
        let old = self.set.status.clone().unwrap_or_default();
        let there: Vec<_> = mine.iter().filter(|pod| !is_terminal(pod)).collect();
        let count = |holds: &dyn Fn(&Pod) -> bool| there.iter().filter(|pod| holds(pod)).count() as i32;
        let of = |revision: &ControllerRevision| {
            count(&|pod| is_active(pod) && revision_of(pod) == revision.metadata.name.as_ref())
        };
        let (ready, updated) = (count(&is_ready), of(&self.update));
        let wanted = self.spec.replicas.unwrap_or(1);
        let mut status = StatefulSetStatus {
            replicas: there.len() as i32,
            ready_replicas: nonzero(ready),
            available_replicas: Some(count(&|pod| self.is_available(pod))),
            current_replicas: nonzero(of(&self.current)),
            updated_replicas: nonzero(updated),
            current_revision: self.current.metadata.name.clone(),
            update_revision: self.update.metadata.name.clone(),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(self.collisions.unwrap_or(0)),
            conditions: old.conditions.clone(),
        };
        // The update is complete: what was the update is what is current.
        if self.is_rolling() && updated == wanted && ready == wanted && status.replicas == wanted {
            status.current_revision = status.update_revision.clone();
            status.current_replicas = status.updated_replicas;
        }
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        let waits = there.iter().filter_map(|pod| available_in(pod, min_ready, self.now)).filter(|w| !w.is_zero());
        if let Some(wait) = waits.min() {
            plan.look_again(wait);
        }
        if status != old {
            plan.then(Action::update_status(&StatefulSet { status: Some(status), ..self.set.clone() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{brief_pods, now, object, owned};

    /// Pods as in [`brief_pods`], `old` for those of another template.
    fn check(spec: &str, pods: &[&str], expected: Expect) {
        let set: StatefulSet = object(&format!(
            "{{metadata: {{name: db, namespace: d, uid: u, generation: 1}}, spec: {{{spec}, serviceName: db, selector: {{matchLabels: {{app: web}}}}, volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{}}}}], template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}}}"
        ));
        let template = &set.spec.as_ref().expect("a spec").template;
        let history = History { mine: &[], foreign: &[], hash_label: STATEFUL_HASH };
        let (revision, _) = history.sync(&set, template, None, &mut Plan::nothing());
        let texts: Vec<_> = pods.iter().map(|text| text.replace(" old", "")).collect();
        let mut all = brief_pods(&texts, controller_reference(&set));
        for (pod, text) in all.iter_mut().zip(pods) {
            let name = revision.metadata.name.clone().expect("a name");
            let hash = if text.contains(" old") { "old".to_owned() } else { name };
            Arc::make_mut(pod).metadata.labels.get_or_insert_default().insert(REVISION_HASH.to_owned(), hash);
        }
        // Each pod has its claim; besides there is one of number 1.
        let numbers = all.iter().filter_map(|pod| ordinal_of(&set, pod)).chain([1]);
        let claims = numbers.map(|number| {
            let name = format!("data-db-{number}");
            (name.clone(), Arc::new(object(&format!("{{metadata: {{name: {name}, namespace: d}}}}"))))
        });
        let observed = Observed {
            claims: claims.collect(),
            pods: all,
            revisions: vec![Arc::new(owned(revision, &set))],
            foreign: Vec::new(),
            set: Arc::new(set),
        };
        let plan = reconcile(&observed, now()).to_string();
        let lines = plan.lines().filter(|line| !line.starts_with("update statefulsets")).map(|line| {
            if let Some(claim) = line.strip_prefix("update persistentvolumeclaims ") {
                let owner = if claim.contains("StatefulSet") { "the set" } else { "the pod" };
                let name = claim.split(' ').next().unwrap_or_default();
                return format!("{name} goes with {owner}");
            }
            let mut words = line.split_whitespace();
            let note = line.rsplit_once(" [").map_or("", |(_, note)| note);
            format!("{} {} [{note}", words.next().unwrap_or(""), words.nth(1).unwrap_or(""))
        });
        expected.assert_eq(&lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn pods_are_made_one_after_the_other() {
        check(
            "replicas: 3",
            &[],
            expect![[r#"
            create d/data-db-0 [SuccessfulCreate: create Claim data-db-0 Pod db-0 in StatefulSet db success]
            create d/db-0 [SuccessfulCreate: create Pod db-0 in StatefulSet db successful]"#]],
        );
        check("replicas: 3", &["db-0 running"], expect![]);
        check(
            "replicas: 3",
            &["db-0 ready"],
            expect!["create d/db-1 [SuccessfulCreate: create Pod db-1 in StatefulSet db successful]"],
        );
        check(
            "replicas: 3, podManagementPolicy: Parallel",
            &["db-1 running"],
            expect![[r#"
            create d/data-db-0 [SuccessfulCreate: create Claim data-db-0 Pod db-0 in StatefulSet db success]
            create d/data-db-2 [SuccessfulCreate: create Claim data-db-2 Pod db-2 in StatefulSet db success]
            create d/db-0 [SuccessfulCreate: create Pod db-0 in StatefulSet db successful]
            create d/db-2 [SuccessfulCreate: create Pod db-2 in StatefulSet db successful]"#]],
        );
        check(
            "replicas: 1, ordinals: {start: 5}",
            &[],
            expect![[r#"
            create d/data-db-5 [SuccessfulCreate: create Claim data-db-5 Pod db-5 in StatefulSet db success]
            create d/db-5 [SuccessfulCreate: create Pod db-5 in StatefulSet db successful]"#]],
        );
    }

    #[test]
    fn pods_are_removed_from_the_highest() {
        check(
            "replicas: 1",
            &["db-0 ready", "db-1 ready", "db-2 ready"],
            expect!["delete d/db-2 [SuccessfulDelete: delete Pod db-2 in StatefulSet db successful]"],
        );
        check("replicas: 1", &["db-0 ready", "db-1 ready", "db-2 terminating"], expect![]);
        check(
            "replicas: 0, podManagementPolicy: Parallel",
            &["db-0 ready", "db-1 ready"],
            expect![[r#"
            delete d/db-1 [SuccessfulDelete: delete Pod db-1 in StatefulSet db successful]
            delete d/db-0 [SuccessfulDelete: delete Pod db-0 in StatefulSet db successful]"#]],
        );
    }

    #[test]
    fn updates_go_down_from_the_highest() {
        check(
            "replicas: 2",
            &["db-0 ready old", "db-1 ready old"],
            expect!["delete d/db-1 [SuccessfulDelete: delete Pod db-1 in StatefulSet db successful]"],
        );
        check("replicas: 2", &["db-0 ready old", "db-1 running"], expect![]);
        check(
            "replicas: 2",
            &["db-0 ready old", "db-1 ready"],
            expect!["delete d/db-0 [SuccessfulDelete: delete Pod db-0 in StatefulSet db successful]"],
        );
        check(
            "replicas: 2, updateStrategy: {rollingUpdate: {partition: 1}}",
            &["db-0 ready old", "db-1 ready"],
            expect![],
        );
        check("replicas: 2, updateStrategy: {type: OnDelete}", &["db-0 ready old", "db-1 ready old"], expect![]);
        check(
            "replicas: 2",
            &["db-0 ready", "db-1 failed"],
            expect!["delete d/db-1 [SuccessfulDelete: delete Pod db-1 in StatefulSet db successful]"],
        );
    }

    #[test]
    fn claims_follow_the_retention_policy() {
        let policy = |deleted: &str, scaled: &str| {
            format!(
                "replicas: 1, persistentVolumeClaimRetentionPolicy: {{whenDeleted: {deleted}, whenScaled: {scaled}}}"
            )
        };
        let pods = ["db-0 ready", "db-1 ready"];
        check(
            &policy("Retain", "Retain"),
            &pods,
            expect!["delete d/db-1 [SuccessfulDelete: delete Pod db-1 in StatefulSet db successful]"],
        );
        check(
            &policy("Delete", "Retain"),
            &pods,
            expect![[r#"
            d/data-db-0 goes with the set
            d/data-db-1 goes with the set
            delete d/db-1 [SuccessfulDelete: delete Pod db-1 in StatefulSet db successful]"#]],
        );
        check(
            &policy("Retain", "Delete"),
            &pods,
            expect![[r#"
            d/data-db-1 goes with the pod
            delete d/db-1 [SuccessfulDelete: delete Pod db-1 in StatefulSet db successful]"#]],
        );
        check(
            &policy("Delete", "Delete"),
            &pods,
            expect![[r#"
            d/data-db-0 goes with the set
            d/data-db-1 goes with the pod
            delete d/db-1 [SuccessfulDelete: delete Pod db-1 in StatefulSet db successful]"#]],
        );
    }

    #[test]
    fn an_outdated_pod_that_never_gets_ready_is_replaced() {
        check(
            "replicas: 1",
            &["db-0 running old"],
            expect!["delete d/db-0 [SuccessfulDelete: delete Pod db-0 in StatefulSet db successful]"],
        );
    }
}
