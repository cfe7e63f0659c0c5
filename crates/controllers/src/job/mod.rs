//! Jobs: pods that run until enough of them have succeeded, each counted exactly once.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/job/>.

mod backoff;
mod decide;
mod gang;
mod indexes;
mod pods;
mod policy;
mod tally;
mod ttl;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1alpha2::{PodGroup, Workload};
use serde_json::json;
use skiff_base::Timestamp;
use skiff_base::ids::Ids;
use skiff_client::{Change, Informer, ObjectKey, Patch};

use crate::claims::Owned;
use crate::meta::{controller_key, controller_of, selector, selects};
use crate::plan::{Action, Plan};
use crate::runner::{Controller, Failure, Setup};

pub use decide::{Finish, finish_of};
use gang::Gang;
pub use ttl::FinishedJobs;

/// Keeps a pod until its Job has counted it.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The number of a pod of an indexed Job.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// How often the number of a pod had failed before it.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The same for failures that did not count.
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What the decision rests on.
pub struct Observed {
    /// The Job.
    pub job: Arc<Job>,
    /// The pods that it controls, and those that nobody does.
    pub pods: Vec<Arc<Pod>>,
    /// The group that its pods are in.
    pub group: Option<Arc<PodGroup>>,
}

/// The controller.
pub struct Jobs {
    jobs: Informer<Job>,
    pods: Owned<Pod>,
    ids: Arc<Ids>,
    gangs: Option<Gangs>,
}

/// The Workloads and PodGroups of Jobs.
struct Gangs {
    workloads: Informer<Workload>,
    groups: Informer<PodGroup>,
}

impl Gangs {
    fn new(setup: &mut Setup) -> Self {
        setup.on_change::<Workload>(|change| controller_key::<Job>(&change.object().metadata).into_iter().collect());
        setup.on_change::<PodGroup>(|change| controller_key::<Job>(&change.object().metadata).into_iter().collect());
        Self { workloads: setup.informer(), groups: setup.informer() }
    }

    fn of(&self, job: &Job, pods: &[Arc<Pod>]) -> Gang {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let mut workloads = self.workloads.list_namespace(namespace);
        workloads.retain(|workload| gang::job_of(workload) == job.metadata.name.as_deref());
        gang::gang(job, pods, &workloads, |workload| {
            let mut groups = self.groups.list_namespace(namespace);
            groups.retain(|group| gang::workload_of(group) == workload.metadata.name.as_deref());
            groups
        })
    }
}

impl Jobs {
    /// Sets up queue and caches; Jobs that start all their pods at once are given PodGroups where that is wanted.
    pub fn controller(setup: &mut Setup, with_groups: bool) -> Arc<dyn Controller> {
        let jobs = setup.informer::<Job>();
        setup.for_each::<Job>();
        let known = jobs.clone();
        setup.on_change::<Pod>(move |change| keys_of_pod(change, &known));
        let gangs = with_groups.then(|| Gangs::new(setup));
        Arc::new(Self { jobs, pods: Owned::new(&setup.informer()), ids: setup.ids.clone(), gangs })
    }

    /// The pods that concern the Job with this name, and those of an earlier one that is gone.
    fn pods_of(&self, key: &ObjectKey, job: Option<&Job>) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let uid = job.and_then(|job| job.metadata.uid.as_ref());
        let mut pods = self.pods.of_name::<Job>(key);
        if job.is_some() {
            pods.extend(self.pods.orphans(&key.namespace));
        }
        pods.into_iter().partition(|pod| controller_of(&pod.metadata).is_none_or(|owner| Some(&owner.uid) == uid))
    }
}

impl Jobs {
    fn plan_job(&self, job: Arc<Job>, pods: Vec<Arc<Pod>>, now: Timestamp) -> Plan {
        let group = match self.gangs.as_ref().map_or(Gang::None, |gangs| gangs.of(&job, &pods)) {
            Gang::None => None,
            Gang::Of(group) => Some(group),
            // Pods are made when it is there.
            Gang::Make(action) => {
                let mut plan = Plan::nothing();
                plan.then(*action);
                return plan;
            }
        };
        decide::reconcile(&Observed { job, pods, group }, now, &self.ids)
    }
}

impl Controller for Jobs {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let job = self.jobs.by_key(key);
        let (pods, lost) = self.pods_of(key, job.as_deref());
        let mut plan = match job {
            Some(job) => self.plan_job(job, pods, now),
            None => Plan::nothing(),
        };
        // Nobody counts the pods of a Job that is gone.
        plan.burst(lost.iter().filter(|pod| is_tracked(pod)).map(|pod| let_go(pod)).collect());
        plan
    }
}

/// The Jobs that a change of a pod concerns: the one that controls it now and before; for an orphan those that may adopt it.
fn keys_of_pod(change: &Change<Pod>, jobs: &Informer<Job>) -> Vec<ObjectKey> {
    let meta = &change.object().metadata;
    let mut keys: Vec<_> = controller_key::<Job>(meta).into_iter().collect();
    if let Change::Updated { old, .. } = change {
        keys.extend(controller_key::<Job>(&old.metadata).filter(|key| !keys.contains(key)));
    }
    if controller_of(meta).is_none() {
        let all = jobs.list_namespace(meta.namespace.as_deref().unwrap_or_default());
        let chosen = |job: &Job| selector(job.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        keys.extend(all.iter().filter(|job| selects(&chosen(job), meta)).map(|job| ObjectKey::of(&job.metadata)));
    }
    keys
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|name| name == TRACKING)
}

/// Takes the finalizer off a pod.
fn let_go(pod: &Pod) -> Action {
    let patch = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
    Action::patch::<Pod>(&pod.metadata, Patch::Strategic(patch))
}

/// Lets a pod go that the Job does not select, and does not count it.
fn release(pod: &Pod, owner: Option<&String>) -> Action {
    let patch = json!({"metadata": {
        "uid": pod.metadata.uid,
        "ownerReferences": [{"$patch": "delete", "uid": owner}],
        "$deleteFromPrimitiveList/finalizers": [TRACKING],
    }});
    Action::patch::<Pod>(&pod.metadata, Patch::Strategic(patch))
}

/// An adoption that also sees to it that the pod is counted.
fn tracked(adoption: Patch) -> Patch {
    match adoption {
        Patch::Strategic(mut body) => {
            body["metadata"]["finalizers"] = json!([TRACKING]);
            Patch::Strategic(body)
        }
        other => other,
    }
}
