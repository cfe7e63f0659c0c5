//! CronJobs: a Job each time that a schedule is due.
//! The decision is [`decide::reconcile`]; this file gathers what it rests on.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/>.

mod decide;
mod times;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use skiff_base::Timestamp;
use skiff_client::{Change, Informer, ObjectKey};

use crate::meta::controller_key;
use crate::plan::Plan;
use crate::runner::{Controller, Failure, Setup};

/// What the decision rests on.
pub struct Observed {
    /// The CronJob.
    pub cron: Arc<CronJob>,
    /// The Jobs of its namespace.
    pub jobs: Vec<Arc<Job>>,
}

/// The controller.
pub struct CronJobs {
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
}

impl CronJobs {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        setup.for_each::<CronJob>();
        setup.on_change::<Job>(|change: &Change<Job>| {
            controller_key::<CronJob>(&change.object().metadata).into_iter().collect()
        });
        Arc::new(Self { crons: setup.informer(), jobs: setup.informer() })
    }
}

impl Controller for CronJobs {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(cron) = self.crons.by_key(key) else { return Plan::nothing() };
        let jobs = self.jobs.list_namespace(&key.namespace);
        decide::reconcile(&Observed { cron, jobs }, now)
    }
}
