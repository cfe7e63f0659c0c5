//! Jobs: pods that run until enough of them have succeeded, each counted exactly once.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/job/>.

mod decide;
mod tally;
mod ttl;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use skiff_base::Timestamp;
use skiff_base::ids::Ids;
use skiff_client::{Change, Informer, ObjectKey, Patch};

use crate::meta::{controller_key, controller_of};
use crate::plan::{Action, Plan};
use crate::runner::{Controller, Failure, Setup};

pub use ttl::FinishedJobs;

/// Keeps a pod until its Job has counted it.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The number of a pod of an indexed Job.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// What the decision rests on.
pub struct Observed {
    /// The Job.
    pub job: Arc<Job>,
    /// The pods that it controls.
    pub pods: Vec<Arc<Pod>>,
}

/// The controller.
pub struct Jobs {
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    ids: Arc<Ids>,
}

impl Jobs {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let jobs = setup.informer::<Job>();
        setup.for_each::<Job>();
        setup.on_change::<Pod>(|change: &Change<Pod>| {
            controller_key::<Job>(&change.object().metadata).into_iter().collect()
        });
        Arc::new(Self { jobs, pods: setup.informer(), ids: setup.ids.clone() })
    }

    /// The pods of the Job with this name, and those of an earlier one that is gone.
    fn pods_of(&self, key: &ObjectKey, job: Option<&Job>) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let uid = job.and_then(|job| job.metadata.uid.as_ref());
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| controller_key::<Job>(&pod.metadata).as_ref() == Some(key));
        pods.into_iter().partition(|pod| controller_of(&pod.metadata).map(|owner| &owner.uid) == uid)
    }
}

impl Controller for Jobs {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let job = self.jobs.by_key(key);
        let (pods, lost) = self.pods_of(key, job.as_deref());
        let mut plan = match job {
            Some(job) => decide::reconcile(&Observed { job, pods }, now, &self.ids),
            None => Plan::nothing(),
        };
        // Nobody counts the pods of a Job that is gone.
        plan.burst(lost.iter().filter(|pod| is_tracked(pod)).map(|pod| let_go(pod)).collect());
        plan
    }
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|name| name == TRACKING)
}

/// Takes the finalizer off a pod.
fn let_go(pod: &Pod) -> Action {
    let patch = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
    Action::patch::<Pod>(&pod.metadata, Patch::Strategic(patch))
}
