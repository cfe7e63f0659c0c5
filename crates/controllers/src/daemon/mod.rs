//! DaemonSets: one pod on every node that is meant, and a rolling update that goes from node to node.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/>.

mod decide;
#[cfg(test)]
mod simulation;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_base::Timestamp;
use skiff_base::ids::Ids;
use skiff_client::{Change, Informer, ObjectKey};
use skiff_object::LabelSelector;

use crate::meta::selector;
use crate::placement::taints;
use crate::plan::Plan;
use crate::revisions::{Belongings, Seen};
use crate::runner::{Controller, Failure, Setup};

/// What the decision rests on.
pub struct Observed {
    /// The DaemonSet.
    pub set: Arc<DaemonSet>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// The pods of its namespace that it controls, or might adopt.
    pub pods: Vec<Arc<Pod>>,
    /// The history of its template, and revisions of nobody that it might adopt.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The names of others' revisions in its namespace.
    pub foreign: Vec<String>,
}

/// The controller.
pub struct Daemons {
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    seen: Seen,
    ids: Arc<Ids>,
}

impl Daemons {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (sets, seen) = (setup.informer::<DaemonSet>(), Seen::new(setup, chosen));
        let known = sets.clone();
        setup.on_change::<Node>(move |change| all_if_node_matters(change, &known));
        Arc::new(Self { sets, seen, nodes: setup.informer(), ids: setup.ids.clone() })
    }

    fn observe(&self, key: &ObjectKey) -> Option<Observed> {
        let set = self.sets.by_key(key)?;
        let Belongings { pods, revisions, foreign } = self.seen.of(&*set);
        Some(Observed { nodes: self.nodes.list(), pods, revisions, foreign, set })
    }
}

impl Controller for Daemons {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.observe(key).map_or_else(Plan::nothing, |observed| decide::reconcile(&observed, now, &self.ids))
    }
}

fn all_if_node_matters(change: &Change<Node>, sets: &Informer<DaemonSet>) -> Vec<ObjectKey> {
    if let Change::Updated { old, new } = change
        && old.metadata.labels == new.metadata.labels
        && taints(old) == taints(new)
    {
        return Vec::new();
    }
    sets.list().iter().map(|set| ObjectKey::of(&set.metadata)).collect()
}

fn chosen(set: &DaemonSet) -> LabelSelector {
    selector(set.spec.as_ref().map(|spec| &spec.selector))
}
