//! StatefulSets: pods with numbers, names and claims of their own, made, updated and removed in order.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/>.

mod decide;

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use skiff_base::Timestamp;
use skiff_client::{Change, Informer, ObjectKey};

use crate::meta::{controller_key, controller_of, is_controlled_by, selector, selects};
use crate::plan::Plan;
use crate::runner::{Controller, Failure, Setup};

/// What the decision rests on.
pub struct Observed {
    /// The StatefulSet.
    pub set: Arc<StatefulSet>,
    /// The pods of its namespace that it controls, or might adopt.
    pub pods: Vec<Arc<Pod>>,
    /// The names of the claims of its namespace.
    pub claims: HashSet<String>,
    /// The history of its template.
    pub revisions: Vec<Arc<ControllerRevision>>,
}

/// The controller.
pub struct StatefulSets {
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
}

impl StatefulSets {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let sets = setup.informer::<StatefulSet>();
        setup.for_each::<StatefulSet>();
        let known = sets.clone();
        setup.on_change::<Pod>(move |change| sets_of_pod(change, &known));
        setup.on_change::<ControllerRevision>(|change| {
            controller_key::<StatefulSet>(&change.object().metadata).into_iter().collect()
        });
        Arc::new(Self { sets, pods: setup.informer(), claims: setup.informer(), revisions: setup.informer() })
    }

    fn observe(&self, key: &ObjectKey) -> Option<Observed> {
        let set = self.sets.by_key(key)?;
        let uid = set.metadata.uid.as_ref();
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| controller_of(&pod.metadata).is_none_or(|controller| Some(&controller.uid) == uid));
        let mut revisions = self.revisions.list_namespace(&key.namespace);
        revisions.retain(|revision| is_controlled_by(&revision.metadata, uid));
        let claims = self.claims.list_namespace(&key.namespace);
        let claims = claims.iter().filter_map(|claim| claim.metadata.name.clone()).collect();
        Some(Observed { set, pods, claims, revisions })
    }
}

impl Controller for StatefulSets {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.observe(key).map_or_else(Plan::nothing, |observed| decide::reconcile(&observed, now))
    }
}

fn sets_of_pod(change: &Change<Pod>, sets: &Informer<StatefulSet>) -> Vec<ObjectKey> {
    let meta = &change.object().metadata;
    if controller_of(meta).is_some() {
        return controller_key::<StatefulSet>(meta).into_iter().collect();
    }
    let all = sets.list_namespace(meta.namespace.as_deref().unwrap_or_default());
    let willing = all.iter().filter(|set| selects(&selector(set.spec.as_ref().map(|spec| &spec.selector)), meta));
    willing.map(|set| ObjectKey::of(&set.metadata)).collect()
}
