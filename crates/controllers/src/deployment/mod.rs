//! Deployments: rolling out a template through ReplicaSets, scaling them, and keeping their history.
//! The decision is [`rollout::reconcile`]; this file gathers what it rests on.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>.

mod numbers;
mod rollout;
#[cfg(test)]
mod simulation;
mod status;
mod template;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use skiff_base::Timestamp;
use skiff_client::{Change, Informer, ObjectKey};

use crate::claims::{Owned, owners_of};
use crate::meta::{controller_key, is_controlled_by, selector};
use crate::plan::Plan;
use crate::runner::{Controller, Failure, Setup};

/// The revision that a ReplicaSet stands for, and the newest that a Deployment had.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions that the same ReplicaSet stood for.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's `spec.replicas` when its ReplicaSet was last scaled.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with maxSurge.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells the pods of one template from those of another.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// What the decision rests on.
pub struct Observed {
    /// The Deployment.
    pub deployment: Arc<Deployment>,
    /// The ReplicaSets of its namespace that it controls, or might adopt.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// The ReplicaSet, whosever it is, that has the name which the next new one would get.
    pub namesake: Option<Arc<ReplicaSet>>,
    /// The pods of its ReplicaSets; looked at only where the strategy is Recreate.
    pub pods: Vec<Arc<Pod>>,
    /// What the last attempt met with.
    pub failure: Option<Failure>,
}

/// The controller.
pub struct Deployments {
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    owned: Owned<ReplicaSet>,
    pods: Owned<Pod>,
}

impl Deployments {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (deployments, sets) = (setup.informer::<Deployment>(), setup.informer::<ReplicaSet>());
        setup.for_each::<Deployment>();
        let known = deployments.clone();
        setup.on_change::<ReplicaSet>(move |change| {
            owners_of(change, &known, |deployment| selector(deployment.spec.as_ref().map(|spec| &spec.selector)))
        });
        let known = sets.clone();
        setup.on_change::<Pod>(move |change| key_of_lost_pod(change, &known));
        let (owned, pods) = (Owned::new(&sets), Owned::new(&setup.informer()));
        Arc::new(Self { deployments, sets, owned, pods })
    }

    fn observe(&self, key: &ObjectKey, failure: Option<&Failure>) -> Option<Observed> {
        let deployment = self.deployments.by_key(key)?;
        let sets = self.owned.of(&*deployment);
        let namesake = self.sets.get(&key.namespace, &template::set_name(&deployment));
        let mut pods = Vec::new();
        if numbers::is_recreate(&deployment) {
            let of_set = |set: &Arc<ReplicaSet>| self.pods.of_name::<ReplicaSet>(&ObjectKey::of(&set.metadata));
            pods = sets.iter().flat_map(of_set).collect();
            pods.retain(|pod| sets.iter().any(|set| is_controlled_by(&pod.metadata, set.metadata.uid.as_ref())));
        }
        Some(Observed { deployment, sets, namesake, pods, failure: failure.cloned() })
    }
}

impl Controller for Deployments {
    fn plan(&self, key: &ObjectKey, now: Timestamp, failure: Option<&Failure>) -> Plan {
        match self.observe(key, failure) {
            Some(observed) => rollout::reconcile(&observed, now),
            None => Plan::nothing(),
        }
    }
}

/// A pod that is gone lets a Deployment with the strategy Recreate go on.
fn key_of_lost_pod(change: &Change<Pod>, sets: &Informer<ReplicaSet>) -> Vec<ObjectKey> {
    let ended = match change {
        Change::Deleted(_) => true,
        Change::Updated { old, new } => !crate::pods::is_terminal(old) && crate::pods::is_terminal(new),
        Change::Added(_) => false,
    };
    if !ended {
        return Vec::new();
    }
    let set = controller_key::<ReplicaSet>(&change.object().metadata).and_then(|key| sets.by_key(&key));
    set.and_then(|set| controller_key::<Deployment>(&set.metadata)).into_iter().collect()
}
