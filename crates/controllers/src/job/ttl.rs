//! Jobs that have ended are removed after the time that they say.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/>.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use skiff_base::Timestamp;
use skiff_client::{Informer, ObjectKey};

use super::decide::finished_at;
use crate::plan::{Action, Plan};
use crate::runner::{Controller, Failure, Setup};

/// What is to be done about a Job.
pub fn reconcile(job: &Job, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let (Some(ttl), Some(finished)) = (ttl, finished_at(job)) else { return plan };
    if job.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let been = Duration::try_from(now.duration_since(finished)).unwrap_or_default();
    let left = Duration::from_secs(ttl.unsigned_abs().into()).saturating_sub(been);
    if left.is_zero() {
        plan.then(Action::delete(job).with_propagation("Foreground"));
    } else {
        plan.look_again(left);
    }
    plan
}

/// The controller.
pub struct FinishedJobs {
    jobs: Informer<Job>,
}

impl FinishedJobs {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        setup.for_each::<Job>();
        Arc::new(Self { jobs: setup.informer() })
    }
}

impl Controller for FinishedJobs {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.jobs.by_key(key).map_or_else(Plan::nothing, |job| reconcile(&job, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, object};

    #[test]
    fn an_ended_job_goes_after_its_time() {
        let job = |ttl: i32, kind: &str| -> Job {
            object(&format!(
                "{{metadata: {{name: j, namespace: d, uid: u}}, spec: {{ttlSecondsAfterFinished: {ttl}, template: {{}}}}, status: {{conditions: [{{type: {kind}, status: 'True', lastTransitionTime: '2026-01-31T11:59:00Z'}}]}}}}"
            ))
        };
        assert_eq!(reconcile(&job(60, "Complete"), now()).to_string(), "delete jobs d/j\n");
        assert_eq!(reconcile(&job(90, "Failed"), now()).to_string(), "look again in 30 s\n");
        assert_eq!(reconcile(&job(0, "Suspended"), now()).to_string(), "");
    }
}
