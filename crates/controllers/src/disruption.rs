//! PodDisruptionBudgets: how many of the chosen pods may be evicted now. Pure, with thin observers.
//! See <https://kubernetes.io/docs/tasks/run-application/configure-pdb/>.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_client::{Change, Informer, ObjectKey, Patch};

use crate::meta::{controller_of, scaled, selector, selects, time};
use crate::plan::{Action, Note, Plan};
use crate::pods::{condition, is_ready, is_terminal};
use crate::runner::{Controller, Failure, Setup};

/// A pod that was to be evicted and is still there after this long is no longer taken for disrupted.
const STALE_AFTER: Duration = Duration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";
const TARGET: &str = "DisruptionTarget";

/// What the decision rests on.
pub struct Observed {
    /// The budget.
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods that it chooses.
    pub pods: Vec<Arc<Pod>>,
    /// How many pods each owner wants, by the UID of the pods' own controller; `None` where that has no size.
    pub scales: BTreeMap<String, Option<i32>>,
}

/// What a budget asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    expected: i32,
    healthy: i32,
    has_unmanaged: bool,
}

/// What is to be done about a budget.
pub fn reconcile(observed: &Observed, now: Timestamp) -> Plan {
    let budget = &*observed.budget;
    let mut plan = Plan::nothing();
    if budget.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    if observed.pods.is_empty() {
        plan.then(Action::tell(Note::normal(budget, "NoPods", "No matching pods found")));
    }
    let old = budget.status.clone().unwrap_or_default();
    let (status, verdict) = match wish(observed) {
        Ok(wish) => {
            if wish.has_unmanaged {
                plan.then(Action::tell(Note::warning(budget, "UnmanagedPods", unmanaged_text(budget))));
            }
            let disrupted = still_disrupted(observed, &old, now, &mut plan);
            let healthy = observed.pods.iter().filter(|pod| is_healthy(pod, &disrupted)).count() as i32;
            let spare = (healthy - wish.healthy).max(0);
            let allowed = if wish.expected > 0 { spare } else { 0 };
            let verdict = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            let status = PodDisruptionBudgetStatus {
                current_healthy: Some(healthy),
                desired_healthy: Some(wish.healthy),
                expected_pods: Some(wish.expected),
                disruptions_allowed: Some(allowed),
                disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
                observed_generation: budget.metadata.generation,
                conditions: old.conditions.clone(),
            };
            (status, (verdict.0, verdict.1, String::new()))
        }
        Err(fault) => {
            let text = format!("Failed to calculate the number of expected pods: {fault}");
            plan.then(Action::tell(Note::warning(budget, "CalculateExpectedPodCountFailed", text)));
            // Nothing may go while it is not known what is needed.
            let status = PodDisruptionBudgetStatus {
                disruptions_allowed: Some(0),
                observed_generation: budget.metadata.generation,
                ..old.clone()
            };
            (status, ("False", "SyncFailed", fault))
        }
    };
    let status = told(status, verdict, now);
    if status != old {
        plan.then(Action::update_status(&PodDisruptionBudget { status: Some(status), ..budget.clone() }));
    }
    plan
}

fn unmanaged_text(budget: &PodDisruptionBudget) -> String {
    let raw = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let chosen = serde_json::to_string(&raw).unwrap_or_default();
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {chosen}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
    )
}

fn wish(observed: &Observed) -> Result<Wish, String> {
    let spec = observed.budget.spec.clone().unwrap_or_default();
    if let Some(most) = &spec.max_unavailable {
        let (expected, has_unmanaged) = expected(observed)?;
        return Ok(Wish { expected, healthy: (expected - scaled(most, expected, true)).max(0), has_unmanaged });
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => {
            Ok(Wish { expected: observed.pods.len() as i32, healthy: *least, has_unmanaged: false })
        }
        Some(least) => {
            let (expected, has_unmanaged) = expected(observed)?;
            Ok(Wish { expected, healthy: scaled(least, expected, true), has_unmanaged })
        }
        None => Ok(Wish { expected: 0, healthy: 0, has_unmanaged: false }),
    }
}

/// How many pods the owners of the chosen pods want in all, and whether there are pods without an owner.
fn expected(observed: &Observed) -> Result<(i32, bool), String> {
    let (mut total, mut counted, mut has_unmanaged) = (0, BTreeSet::new(), false);
    for pod in &observed.pods {
        let Some(owner) = controller_of(&pod.metadata) else {
            has_unmanaged = true;
            continue;
        };
        if !counted.insert(&owner.uid) {
            continue;
        }
        match observed.scales.get(&owner.uid) {
            Some(Some(wanted)) => total += wanted,
            Some(None) => {
                let (group, _) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
                let resource = format!("{}s", owner.kind.to_lowercase());
                let resource = if group.is_empty() { resource } else { format!("{resource}.{group}") };
                return Err(format!("{resource} does not implement the scale subresource"));
            }
            None => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                return Err(format!("found no controllers for pod {name:?}"));
            }
        }
    }
    Ok((total, has_unmanaged))
}

/// Evictions that were granted and not yet seen; those that are overdue are told of and dropped.
fn still_disrupted(
    observed: &Observed,
    old: &PodDisruptionBudgetStatus,
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut disrupted = BTreeMap::new();
    let Some(granted) = &old.disrupted_pods else { return disrupted };
    for pod in observed.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(since) = granted.get(&name) else { continue };
        let left = STALE_AFTER.saturating_sub(Duration::try_from(now.duration_since(since.0)).unwrap_or_default());
        if left.is_zero() {
            let budget = ObjectKey::of(&observed.budget.metadata);
            let text = format!("Pod was expected by PDB {budget} to be deleted but it wasn't");
            plan.then(Action::tell(Note::warning(&**pod, "NotDeleted", text)));
        } else {
            plan.look_again(left);
            disrupted.insert(name, since.clone());
        }
    }
    disrupted
}

fn is_healthy(pod: &Pod, disrupted: &BTreeMap<String, Time>) -> bool {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(name) && is_ready(pod)
}

fn told(
    mut status: PodDisruptionBudgetStatus,
    (value, reason, message): (&str, &str, String),
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|condition| condition.type_ == ALLOWED);
    let since =
        old.map(|at| &conditions[at]).filter(|old| old.status == value).map(|old| old.last_transition_time.clone());
    let new = Condition {
        type_: ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: status.observed_generation,
        last_transition_time: since.unwrap_or_else(|| time(now)),
    };
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
    status
}

/// What is to be done about a pod: where an eviction was announced and did not happen, that is taken back.
pub fn forget_announcement(pod: &Pod, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let announced = condition(pod, TARGET).filter(|target| target.status == "True");
    let Some(since) = announced.and_then(|target| target.last_transition_time.as_ref()) else { return plan };
    if is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let left = STALE_AFTER.saturating_sub(Duration::try_from(now.duration_since(since.0)).unwrap_or_default());
    if !left.is_zero() {
        plan.look_again(left);
        return plan;
    }
    let patch = json!({
        "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
        "status": {"conditions": [{"type": TARGET, "status": "False", "reason": null, "message": null,
            "lastTransitionTime": rfc3339(now)}]},
    });
    plan.then(Action::patch_status::<Pod>(&pod.metadata, Patch::Strategic(patch)));
    plan
}

/// The controller of budgets.
pub struct Budgets {
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
}

impl Budgets {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let budgets = setup.informer::<PodDisruptionBudget>();
        setup.for_each::<PodDisruptionBudget>();
        let known = budgets.clone();
        setup.on_change::<Pod>(move |change| budgets_of(change, &known));
        Arc::new(Self {
            budgets,
            pods: setup.informer(),
            sets: setup.informer(),
            deployments: setup.informer(),
            stateful: setup.informer(),
            controllers: setup.informer(),
        })
    }

    /// How many pods the owner wants; `Some(None)` where it has no size, `None` where it is gone.
    fn scale(&self, owner: &OwnerReference, namespace: &str) -> Option<Option<i32>> {
        let is_same = |uid: Option<&String>| uid == Some(&owner.uid);
        match (owner.kind.as_str(), owner.api_version.split('/').next()) {
            ("ReplicaSet", Some("apps")) => {
                let set = self.sets.get(namespace, &owner.name).filter(|set| is_same(set.metadata.uid.as_ref()))?;
                match controller_of(&set.metadata).filter(|parent| parent.kind == "Deployment") {
                    Some(parent) => {
                        let deployment = self.deployments.get(namespace, &parent.name)?;
                        Some(Some(deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)))
                    }
                    None => Some(Some(set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))),
                }
            }
            ("StatefulSet", Some("apps")) => {
                let set = self.stateful.get(namespace, &owner.name).filter(|set| is_same(set.metadata.uid.as_ref()))?;
                Some(Some(set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)))
            }
            ("ReplicationController", Some("v1")) => {
                let found = self.controllers.get(namespace, &owner.name)?;
                Some(Some(found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)))
            }
            _ => Some(None),
        }
    }

    fn observe(&self, key: &ObjectKey) -> Option<Observed> {
        let budget = self.budgets.by_key(key)?;
        let chosen = selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| selects(&chosen, &pod.metadata));
        let owners = pods.iter().filter_map(|pod| controller_of(&pod.metadata));
        let scales = owners.filter_map(|owner| Some((owner.uid.clone(), self.scale(owner, &key.namespace)?)));
        Some(Observed { scales: scales.collect(), budget, pods })
    }
}

impl Controller for Budgets {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.observe(key).map_or_else(Plan::nothing, |observed| reconcile(&observed, now))
    }
}

fn budgets_of(change: &Change<Pod>, budgets: &Informer<PodDisruptionBudget>) -> Vec<ObjectKey> {
    let pod = change.object();
    let all = budgets.list_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
    let concerns = |budget: &PodDisruptionBudget| {
        let chosen = selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        let before = matches!(change, Change::Updated { old, .. } if selects(&chosen, &old.metadata));
        before || selects(&chosen, &pod.metadata)
    };
    all.iter().filter(|budget| concerns(budget)).map(|budget| ObjectKey::of(&budget.metadata)).collect()
}

/// The controller that takes announcements back.
pub struct Announcements {
    pods: Informer<Pod>,
}

impl Announcements {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        setup.on_change::<Pod>(|change| {
            let announced = condition(change.object(), TARGET).is_some_and(|target| target.status == "True");
            announced.then(|| ObjectKey::of(&change.object().metadata)).into_iter().collect()
        });
        Arc::new(Self { pods: setup.informer() })
    }
}

impl Controller for Announcements {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.pods.by_key(key).map_or_else(Plan::nothing, |pod| forget_announcement(&pod, now))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::meta::controller_reference;
    use crate::testing::{brief_pods, now, object};

    fn check(spec: &str, disrupted: &str, scale: Option<i32>, pods: &[&str], expected: Expect) {
        let budget: PodDisruptionBudget = object(&format!(
            "{{metadata: {{name: pdb, namespace: d, generation: 2}}, spec: {{{spec}, selector: {{matchLabels: {{app: web}}}}}}, status: {{disruptedPods: {{{disrupted}}}}}}}"
        ));
        let set: ReplicaSet = object("{metadata: {name: web, uid: web-uid}}");
        let texts: Vec<_> = pods.iter().map(|text| (*text).to_owned()).collect();
        let observed = Observed {
            budget: Arc::new(budget),
            pods: brief_pods(&texts, controller_reference(&set)),
            scales: BTreeMap::from([("web-uid".to_owned(), scale)]),
        };
        expected.assert_eq(&reconcile(&observed, now()).to_string());
    }

    #[test]
    fn what_may_go_follows_from_what_is_healthy() {
        check(
            "minAvailable: 1",
            "",
            None,
            &["a ready", "b ready", "c running", "e ready terminating"],
            expect![[r#"
            update poddisruptionbudgets/status d/pdb {"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"","observedGeneration":2,"reason":"SufficientPods","status":"True","type":"DisruptionAllowed"}],"currentHealthy":2,"desiredHealthy":1,"disruptionsAllowed":1,"expectedPods":4,"observedGeneration":2}
        "#]],
        );
        check(
            "maxUnavailable: 30%",
            "",
            Some(4),
            &["a ready", "b ready", "c ready", "e ready"],
            expect![[r#"
            update poddisruptionbudgets/status d/pdb {"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"","observedGeneration":2,"reason":"SufficientPods","status":"True","type":"DisruptionAllowed"}],"currentHealthy":4,"desiredHealthy":2,"disruptionsAllowed":2,"expectedPods":4,"observedGeneration":2}
        "#]],
        );
        check(
            "minAvailable: 50%",
            "",
            Some(3),
            &["a ready", "b orphan ready"],
            expect![[r#"
            tell [UnmanagedPods: Pods selected by this PodDisruptionBudget (selector: {"matchLabels":{"app":"web"}}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set ".spec.minAvailable" field of the PDB to an integer value.]
            update poddisruptionbudgets/status d/pdb {"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"","observedGeneration":2,"reason":"InsufficientPods","status":"False","type":"DisruptionAllowed"}],"currentHealthy":2,"desiredHealthy":2,"disruptionsAllowed":0,"expectedPods":3,"observedGeneration":2}
        "#]],
        );
        check(
            "maxUnavailable: 1",
            "",
            None,
            &["a ready"],
            expect![[r#"
            tell [CalculateExpectedPodCountFailed: Failed to calculate the number of expected pods: replicasets.apps does not implement the scale subresource]
            update poddisruptionbudgets/status d/pdb {"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"replicasets.apps does not implement the scale subresource","observedGeneration":2,"reason":"SyncFailed","status":"False","type":"DisruptionAllowed"}],"disruptedPods":{},"disruptionsAllowed":0,"observedGeneration":2}
        "#]],
        );
        check(
            "maxUnavailable: 1",
            "",
            None,
            &[],
            expect![[r#"
            tell [NoPods: No matching pods found]
            update poddisruptionbudgets/status d/pdb {"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"","observedGeneration":2,"reason":"InsufficientPods","status":"False","type":"DisruptionAllowed"}],"currentHealthy":0,"desiredHealthy":0,"disruptionsAllowed":0,"expectedPods":0,"observedGeneration":2}
        "#]],
        );
    }

    #[test]
    fn granted_evictions_count_until_they_are_overdue() {
        let disrupted = "a: '2026-01-31T11:59:00Z', b: '2026-01-31T11:00:00Z'";
        check(
            "minAvailable: 1",
            disrupted,
            None,
            &["a ready", "b ready", "c ready"],
            expect![[r#"
            tell [NotDeleted: Pod was expected by PDB d/pdb to be deleted but it wasn't]
            update poddisruptionbudgets/status d/pdb {"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"","observedGeneration":2,"reason":"SufficientPods","status":"True","type":"DisruptionAllowed"}],"currentHealthy":2,"desiredHealthy":1,"disruptedPods":{"a":"2026-01-31T11:59:00Z"},"disruptionsAllowed":1,"expectedPods":3,"observedGeneration":2}
            look again in 60 s
        "#]],
        );
    }

    #[test]
    fn an_eviction_that_did_not_happen_is_taken_back() {
        let pod = |since: &str| -> Pod {
            object(&format!(
                "{{metadata: {{name: a, namespace: d, uid: u, resourceVersion: '7'}}, status: {{phase: Running, conditions: [{{type: DisruptionTarget, status: 'True', lastTransitionTime: '{since}'}}]}}}}"
            ))
        };
        assert_eq!(forget_announcement(&pod("2026-01-31T11:59:00Z"), now()).to_string(), "look again in 60 s\n");
        expect![[r#"
            patch pods/status d/a {"metadata":{"resourceVersion":"7","uid":"u"},"status":{"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":null,"reason":null,"status":"False","type":"DisruptionTarget"}]}}
        "#]].assert_eq(&forget_announcement(&pod("2026-01-31T11:00:00Z"), now()).to_string());
    }
}
