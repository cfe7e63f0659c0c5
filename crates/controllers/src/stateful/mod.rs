//! StatefulSets: pods with numbers, names and claims of their own, made, updated and removed in order.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/>.

mod claims;
mod decide;
#[cfg(test)]
mod simulation;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use skiff_base::Timestamp;
use skiff_client::{Change, Informer, ObjectKey};
use skiff_object::LabelSelector;

use crate::meta::selector;
use crate::plan::Plan;
use crate::revisions::{Belongings, Seen};
use crate::runner::{Controller, Failure, Setup};

/// What the decision rests on.
pub struct Observed {
    /// The StatefulSet.
    pub set: Arc<StatefulSet>,
    /// The pods of its namespace that it controls, or might adopt.
    pub pods: Vec<Arc<Pod>>,
    /// The claims of its namespace, by name.
    pub claims: HashMap<String, Arc<PersistentVolumeClaim>>,
    /// The history of its template, and revisions of nobody that it might adopt.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The names of others' revisions in its namespace.
    pub foreign: Vec<String>,
}

/// The controller.
pub struct StatefulSets {
    sets: Informer<StatefulSet>,
    claims: Informer<PersistentVolumeClaim>,
    seen: Seen,
}

impl StatefulSets {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (sets, seen) = (setup.informer::<StatefulSet>(), Seen::new(setup, chosen));
        let known = sets.clone();
        setup.on_change::<PersistentVolumeClaim>(move |change| keys_of_lost_claim(change, &known));
        Arc::new(Self { sets, seen, claims: setup.informer() })
    }

    fn observe(&self, key: &ObjectKey) -> Option<Observed> {
        let set = self.sets.by_key(key)?;
        let Belongings { pods, revisions, foreign } = self.seen.of(&*set);
        let claims = self.claims.list_namespace(&key.namespace);
        let claims = claims.into_iter().filter_map(|claim| Some((claim.metadata.name.clone()?, claim))).collect();
        Some(Observed { set, pods, claims, revisions, foreign })
    }
}

impl Controller for StatefulSets {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.observe(key).map_or_else(Plan::nothing, |observed| decide::reconcile(&observed, now))
    }
}

/// A claim that is gone is made anew for the pod that needs it.
fn keys_of_lost_claim(change: &Change<PersistentVolumeClaim>, sets: &Informer<StatefulSet>) -> Vec<ObjectKey> {
    let Change::Deleted(claim) = change else { return Vec::new() };
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let all = sets.list_namespace(claim.metadata.namespace.as_deref().unwrap_or_default());
    let owns = |set: &StatefulSet| {
        let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
        let set = set.metadata.name.as_deref().unwrap_or_default();
        let mut bases = templates.map(|t| format!("{}-{set}-", t.metadata.name.as_deref().unwrap_or_default()));
        bases.any(|base| name.starts_with(&base))
    };
    all.iter().filter(|set| owns(set)).map(|set| ObjectKey::of(&set.metadata)).collect()
}

fn chosen(set: &StatefulSet) -> LabelSelector {
    selector(set.spec.as_ref().map(|spec| &spec.selector))
}
