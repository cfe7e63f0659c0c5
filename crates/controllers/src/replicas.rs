//! ReplicaSet and ReplicationController: as many pods as wanted, no more and no fewer.
//! One decision for both; what differs between the kinds is behind [`ReplicaOwner`].
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use skiff_base::Timestamp;
use skiff_base::ids::Ids;
use skiff_client::{Informer, Kind, ObjectKey};
use skiff_object::LabelSelector;

use crate::claims::{Owned, claim, owners_of};
use crate::meta::{
    controller_of, controller_reference, generated_name, labels_selector, nonzero, selector, selects, time,
};
use crate::plan::{Action, Note, Plan};
use crate::pods::{
    Rank, available_in, cheaper_to_lose, from_template, is_active, is_available, is_ready, is_terminating,
};
use crate::runner::{Controller, Failure, Setup};

/// The most pods that one plan creates or deletes; the rest follows when these are seen.
const BURST_PODS: usize = 500;

/// A kind that keeps a number of equal pods.
pub trait ReplicaOwner: Kind + Clone {
    /// How many pods are wanted.
    fn wanted(&self) -> i32;
    /// How long a pod must be ready to be available.
    fn min_ready_seconds(&self) -> i32;
    /// Which pods are meant.
    fn selector(&self) -> LabelSelector;
    /// What its pods look like.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// What was last told of it.
    fn status(&self) -> ReplicaSetStatus;
    /// The same object telling something else.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl ReplicaOwner for ReplicaSet {
    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> LabelSelector {
        selector(self.spec.as_ref().map(|spec| &spec.selector))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl ReplicaOwner for ReplicationController {
    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> LabelSelector {
        match self.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|labels| !labels.is_empty()) {
            Some(labels) => labels_selector(Some(labels)),
            None => LabelSelector::nothing(),
        }
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> ReplicaSetStatus {
        convert(self.status.as_ref())
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        // The older kind has no word for pods on their way out.
        let status = ReplicaSetStatus { terminating_replicas: None, ..status };
        Self { status: Some(convert(Some(&status))), ..self.clone() }
    }
}

/// Both statuses have the same fields under the same names.
fn convert<A: serde::Serialize, B: serde::de::DeserializeOwned + Default>(status: Option<&A>) -> B {
    let value = status.and_then(|status| serde_json::to_value(status).ok());
    value.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
}

/// What the decision rests on.
pub struct Observed<K> {
    /// The owner.
    pub owner: Arc<K>,
    /// All pods of its namespace that it controls, or might adopt.
    pub pods: Vec<Arc<Pod>>,
    /// Active pods by node of all owners that share a controller with this one.
    pub crowds: HashMap<String, usize>,
    /// What the last attempt met with.
    pub failure: Option<Failure>,
}

/// What is to be done.
pub fn reconcile<K: ReplicaOwner>(observed: &Observed<K>, now: Timestamp, ids: &Ids) -> Plan {
    let mut plan = Plan::nothing();
    let owner = &*observed.owner;
    let mine = claim(owner, &owner.selector(), &observed.pods, is_active, &mut plan);
    if !plan.steps.is_empty() {
        // The pods will be seen again as they are then.
        return plan;
    }
    let active: Vec<_> = mine.iter().filter(|pod| is_active(pod)).cloned().collect();
    if owner.metadata().deletion_timestamp.is_none() {
        scale(observed, &active, ids, &mut plan);
    }
    let min_ready = owner.min_ready_seconds();
    let wait = active.iter().filter_map(|pod| available_in(pod, min_ready, now)).filter(|wait| !wait.is_zero()).min();
    if let Some(wait) = wait {
        plan.look_again(wait);
    }
    let old = owner.status();
    let new = status(observed, &mine, &active, &old, now);
    if new != old {
        plan.then(Action::update_status(&owner.with_status(new)));
    }
    plan
}

fn scale<K: ReplicaOwner>(observed: &Observed<K>, active: &[Arc<Pod>], ids: &Ids, plan: &mut Plan) {
    let wanted = usize::try_from(observed.owner.wanted()).unwrap_or(0);
    if active.len() < wanted {
        let missing = (wanted - active.len()).min(BURST_PODS);
        plan.burst((0..missing).filter_map(|_| creation(&*observed.owner, ids)).collect());
    } else if active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST_PODS);
        let victims = cheapest(active, &observed.crowds, surplus);
        plan.burst(victims.into_iter().map(|pod| deletion(&*observed.owner, pod)).collect());
    }
}

fn creation<K: ReplicaOwner>(owner: &K, ids: &Ids) -> Option<Action> {
    let meta = owner.metadata();
    let base = format!("{}-", meta.name.as_deref().unwrap_or_default());
    let name = generated_name(&base, ids);
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let pod = from_template(owner.template()?, namespace, name.clone(), Some(base), controller_reference(owner));
    Some(
        Action::create(&pod)
            .and_tell(Note::normal(owner, "SuccessfulCreate", format!("Created pod: {name}")))
            .or_tell(Note::warning(owner, "FailedCreate", "Error creating: ")),
    )
}

/// A Pod that is not ready is deleted only as long as it is not: one that has become ready meanwhile may be counted on.
fn deletion<K: ReplicaOwner>(owner: &K, pod: &Pod) -> Action {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let action = if is_ready(pod) { Action::delete(pod) } else { Action::delete_as_seen(pod) };
    let failed = Note::warning(owner, "FailedDelete", "Error deleting: ");
    action.and_tell(Note::normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"))).or_tell(failed)
}

fn cheapest<'a>(active: &'a [Arc<Pod>], crowds: &HashMap<String, usize>, count: usize) -> Vec<&'a Pod> {
    let mut ranked: Vec<(&Pod, Rank)> = active.iter().map(|pod| (&**pod, Rank { crowd: crowd(pod, crowds) })).collect();
    ranked.sort_by(|(a, rank_a), (b, rank_b)| cheaper_to_lose((a, rank_a), (b, rank_b)));
    ranked.into_iter().take(count).map(|(pod, _)| pod).collect()
}

fn crowd(pod: &Pod, crowds: &HashMap<String, usize>) -> usize {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    node.and_then(|node| crowds.get(node)).copied().unwrap_or(0)
}

fn status<K: ReplicaOwner>(
    observed: &Observed<K>,
    mine: &[Arc<Pod>],
    active: &[Arc<Pod>],
    old: &ReplicaSetStatus,
    now: Timestamp,
) -> ReplicaSetStatus {
    let owner = &*observed.owner;
    let template = owner.template().and_then(|template| template.metadata.as_ref());
    let template_labels = labels_selector(template.and_then(|meta| meta.labels.as_ref()));
    let count = |matches: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| matches(pod)).count() as i32;
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: nonzero(count(&|pod| selects(&template_labels, &pod.metadata))),
        ready_replicas: nonzero(count(&is_ready)),
        available_replicas: nonzero(count(&|pod| is_available(pod, owner.min_ready_seconds(), now))),
        terminating_replicas: terminating::<K>(mine),
        observed_generation: owner.metadata().generation.or(old.observed_generation),
        conditions: conditions(observed, active, old, now),
    }
}

fn terminating<K: ReplicaOwner>(mine: &[Arc<Pod>]) -> Option<i32> {
    let counted = <K as k8s_openapi::Resource>::KIND == <ReplicaSet as k8s_openapi::Resource>::KIND;
    counted.then(|| mine.iter().filter(|pod| is_terminating(pod)).count() as i32)
}

/// The only condition is ReplicaFailure, there while creating or deleting fails.
fn conditions<K: ReplicaOwner>(
    observed: &Observed<K>,
    active: &[Arc<Pod>],
    old: &ReplicaSetStatus,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const TYPE: &str = "ReplicaFailure";
    let mut conditions = old.conditions.clone().unwrap_or_default();
    match &observed.failure {
        None => conditions.retain(|condition| condition.type_ != TYPE),
        Some(failure) if conditions.iter().all(|condition| condition.type_ != TYPE) => {
            let too_few = (active.len() as i32) < observed.owner.wanted();
            conditions.push(ReplicaSetCondition {
                type_: TYPE.to_owned(),
                status: "True".to_owned(),
                reason: Some(if too_few { "FailedCreate" } else { "FailedDelete" }.to_owned()),
                message: Some(failure.message.clone()),
                last_transition_time: Some(time(now)),
            });
        }
        Some(_) => {}
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// The controller of one of the kinds.
pub struct Replicas<K: ReplicaOwner> {
    owners: Informer<K>,
    siblings: Owned<K>,
    pods: Owned<Pod>,
    ids: Arc<Ids>,
}

impl<K: ReplicaOwner> Replicas<K> {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let owners = setup.informer::<K>();
        setup.for_each::<K>();
        let known = owners.clone();
        setup.on_change::<Pod>(move |change| owners_of(change, &known, K::selector));
        let (siblings, pods) = (Owned::new(&owners), Owned::new(&setup.informer()));
        Arc::new(Self { owners, siblings, pods, ids: setup.ids.clone() })
    }

    fn observe(&self, key: &ObjectKey, failure: Option<&Failure>) -> Option<Observed<K>> {
        let owner = self.owners.by_key(key)?;
        let pods = self.pods.of(&*owner);
        let own = pods.iter().filter(|pod| is_active(pod) && controller_of(&pod.metadata).is_some()).count();
        // Looked at only by who chooses among its pods.
        let chooses = own > usize::try_from(owner.wanted()).unwrap_or(0);
        let crowds = if chooses { self.crowds(&*owner) } else { HashMap::new() };
        Some(Observed { owner, pods, crowds, failure: failure.cloned() })
    }

    /// The active pods by node of the owner and of those that have the same owner.
    fn crowds(&self, owner: &K) -> HashMap<String, usize> {
        let meta = owner.metadata();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let mut family = vec![ObjectKey::of(meta)];
        if let Some(parent) = controller_of(meta) {
            let siblings = self.siblings.of_controller(parent, namespace);
            family.extend(siblings.iter().map(|sibling| ObjectKey::of(sibling.metadata())));
            family.sort();
            family.dedup();
        }
        let mut crowds = HashMap::new();
        for pod in family.iter().flat_map(|key| self.pods.of_name::<K>(key)).filter(|pod| is_active(pod)) {
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
            *crowds.entry(node).or_default() += 1;
        }
        crowds
    }
}

impl<K: ReplicaOwner> Controller for Replicas<K> {
    fn plan(&self, key: &ObjectKey, now: Timestamp, failure: Option<&Failure>) -> Plan {
        match self.observe(key, failure) {
            Some(observed) => reconcile(&observed, now, &self.ids),
            None => Plan::nothing(),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde::Deserialize;

    use super::*;
    use crate::testing::{brief_pods, now, object};

    #[derive(Deserialize)]
    struct Case {
        replicas: i32,
        #[serde(default)]
        min_ready: i32,
        #[serde(default)]
        pods: Vec<String>,
        #[serde(default)]
        failure: String,
    }

    /// Pods are written `name state [key=value]`, see [`brief_pods`].
    fn check(yaml: &str, expected: Expect) {
        let case: Case = serde_saphyr::from_str(yaml).expect(yaml);
        let set: ReplicaSet = object(&format!(
            "{{metadata: {{name: web, namespace: d, uid: web-uid, generation: 1}}, spec: {{replicas: {}, minReadySeconds: {}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}}}",
            case.replicas, case.min_ready
        ));
        let failure = (!case.failure.is_empty()).then_some(Failure { reason: "FailedCreate", message: case.failure });
        let observed = Observed {
            pods: brief_pods(&case.pods, controller_reference(&set)),
            owner: Arc::new(set),
            crowds: HashMap::from([("n1".to_owned(), 2), ("n2".to_owned(), 1)]),
            failure,
        };
        expected.assert_eq(&reconcile(&observed, now(), &Ids::seeded(1)).to_string());
    }

    #[test]
    fn missing_pods_are_created_from_the_template() {
        check(
            "{replicas: 2, pods: [a ready]}",
            expect![[r#"
                create pods d/web-h8q24 {"metadata":{"generateName":"web-","labels":{"app":"web"},"ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"web","uid":"web-uid"}]},"spec":{"containers":[{"image":"i","name":"c"}]}} [SuccessfulCreate: Created pod: web-h8q24]
                update replicasets/status d/web {"availableReplicas":1,"fullyLabeledReplicas":1,"observedGeneration":1,"readyReplicas":1,"replicas":1,"terminatingReplicas":0}
            "#]],
        );
    }

    #[test]
    fn a_pod_that_is_not_ready_is_deleted_only_as_it_was_seen() {
        let set: ReplicaSet = object("{metadata: {name: web, namespace: d, uid: web-uid}}");
        let pods = brief_pods(&["a ready".to_owned(), "b running".to_owned()], controller_reference(&set));
        let version = |pod: &Arc<Pod>| {
            let mut pod = Pod::clone(pod);
            pod.metadata.resource_version = Some("7".to_owned());
            match deletion(&set, &pod).write {
                crate::plan::Write::Delete(_, deletion) => deletion.version,
                other => panic!("{other:?} is no deletion"),
            }
        };
        assert_eq!((version(&pods[0]), version(&pods[1]).as_deref()), (None, Some("7")));
    }

    #[test]
    fn the_pods_that_are_missed_least_go_first() {
        check(
            "{replicas: 1, pods: [a ready n1, b ready n2, c pending, d running n1]}",
            expect![[r#"
            delete pods d/c [SuccessfulDelete: Deleted pod: c]
            delete pods d/d [SuccessfulDelete: Deleted pod: d]
            delete pods d/a [SuccessfulDelete: Deleted pod: a]
            update replicasets/status d/web {"availableReplicas":2,"fullyLabeledReplicas":4,"observedGeneration":1,"readyReplicas":2,"replicas":4,"terminatingReplicas":0}
        "#]],
        );
        check(
            "{replicas: 1, pods: [a ready n1, b ready n2]}",
            expect![[r#"
            delete pods d/a [SuccessfulDelete: Deleted pod: a]
            update replicasets/status d/web {"availableReplicas":2,"fullyLabeledReplicas":2,"observedGeneration":1,"readyReplicas":2,"replicas":2,"terminatingReplicas":0}
        "#]],
        );
    }

    #[test]
    fn pods_on_their_way_out_and_at_their_end_do_not_count() {
        check(
            "{replicas: 1, pods: [a ready, b terminating, c failed]}",
            expect![[r#"
            update replicasets/status d/web {"availableReplicas":1,"fullyLabeledReplicas":1,"observedGeneration":1,"readyReplicas":1,"replicas":1,"terminatingReplicas":1}
        "#]],
        );
    }

    #[test]
    fn a_pod_is_available_when_it_has_been_ready_long_enough() {
        check(
            "{replicas: 1, min_ready: 30, pods: [a ready]}",
            expect![[r#"
            update replicasets/status d/web {"fullyLabeledReplicas":1,"observedGeneration":1,"readyReplicas":1,"replicas":1,"terminatingReplicas":0}
            look again in 20 s
        "#]],
        );
    }

    #[test]
    fn failure_is_told() {
        check(
            "{replicas: 1, pods: [a ready], failure: no quota}",
            expect![[r#"
            update replicasets/status d/web {"availableReplicas":1,"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"no quota","reason":"FailedDelete","status":"True","type":"ReplicaFailure"}],"fullyLabeledReplicas":1,"observedGeneration":1,"readyReplicas":1,"replicas":1,"terminatingReplicas":0}
        "#]],
        );
    }
}
