//! Counting the pods of a Job: each first noted as uncounted, then let go, then counted. A crash between any two of
//! these steps counts none twice and loses none. Pure.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-tracking-with-finalizers>.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use super::policy::{Verdict, verdict};
use super::{FAILURES, INDEX, is_tracked};
use crate::meta::{annotation, nonzero};
use crate::pods::phase;

/// The most pods that are noted as uncounted at once; it bounds the size of the status.
const MAX_UNCOUNTED: usize = 500;

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It did what it was for.
    Succeeded,
    /// It did not.
    Failed,
}

/// Whether pods are replaced only once they have failed, not while they are on their way out.
pub fn only_replaces_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// How a pod ended, if it has. One that is being deleted has failed, unless the Job waits for its real end.
pub fn end_of(spec: &JobSpec, pod: &Pod) -> Option<End> {
    match phase(pod) {
        "Succeeded" => Some(End::Succeeded),
        "Failed" => Some(End::Failed),
        _ => (pod.metadata.deletion_timestamp.is_some() && !only_replaces_failed(spec)).then_some(End::Failed),
    }
}

/// The number of a pod of an indexed Job.
pub fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

/// How often the pod's number had failed before it.
pub fn failures_before(pod: &Pod) -> i32 {
    annotation(&pod.metadata, FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether each pod of the Job has a number.
pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Which pods are let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those that have ended.
    Ended,
    /// All: the Job is going, or is content.
    All,
    /// All, and what has not ended has failed with the Job.
    AllFailed,
}

/// The counts as they are to be told.
#[derive(Debug, Default)]
pub struct Tally {
    succeeded: i32,
    failed: i32,
    uncounted_succeeded: Vec<String>,
    uncounted_failed: Vec<String>,
    /// Numbers of an indexed Job that are done.
    pub completed: Indexes,
    /// Numbers that are not tried again; only where failures are limited per number.
    pub given_up: Option<Indexes>,
    /// Pods that are noted, or will be by the next status, or need not be, and can be let go then.
    pub let_go: Vec<Arc<Pod>>,
    full: bool,
}

impl Tally {
    /// Counts on from what was told last.
    pub fn of(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>]) -> Self {
        let old = job.status.clone().unwrap_or_default();
        let noted = old.uncounted_terminated_pods.unwrap_or_default();
        let held = |uid: &String| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid) && is_tracked(pod));
        let (uncounted_succeeded, gone): (Vec<_>, Vec<_>) =
            noted.succeeded.unwrap_or_default().into_iter().partition(&held);
        let (uncounted_failed, lost): (Vec<_>, Vec<_>) = noted.failed.unwrap_or_default().into_iter().partition(&held);
        let limit = spec.completions.unwrap_or(0);
        let given_up = spec.backoff_limit_per_index.map(|most| {
            let mut given_up = Indexes::parse(old.failed_indexes.as_deref().unwrap_or_default(), limit);
            let hopeless = |pod: &&Arc<Pod>| end_of(spec, pod) == Some(End::Failed) && is_hopeless(spec, pod, most);
            let newly = pods.iter().filter(|pod| is_tracked(pod)).filter(hopeless).filter_map(|pod| index_of(pod));
            newly.filter(|index| *index < limit).for_each(|index| given_up.add(index));
            given_up
        });
        let mut tally = Self {
            succeeded: old.succeeded.unwrap_or(0) + gone.len() as i32,
            failed: old.failed.unwrap_or(0) + lost.len() as i32,
            uncounted_succeeded,
            uncounted_failed,
            completed: Indexes::parse(old.completed_indexes.as_deref().unwrap_or_default(), limit),
            given_up,
            let_go: Vec::new(),
            full: false,
        };
        if is_indexed(spec) {
            let done = pods.iter().filter(|pod| is_tracked(pod) && end_of(spec, pod) == Some(End::Succeeded));
            let newly = done.filter_map(|pod| index_of(pod)).filter(|index| *index < limit);
            newly.for_each(|index| tally.completed.add(index));
        }
        tally
    }

    /// Notes the pods that have ended. `keep` tells which failed ones are still needed while the Job goes on.
    pub fn note_ended(&mut self, spec: &JobSpec, pods: &[Arc<Pod>], scope: Scope, keep: impl Fn(&Pod) -> bool) {
        for pod in pods.iter().filter(|pod| is_tracked(pod)) {
            if self.uncounted_succeeded.len() + self.uncounted_failed.len() >= MAX_UNCOUNTED {
                self.full = true;
                return;
            }
            let end = end_of(spec, pod);
            let stays = end.is_none() || (end == Some(End::Failed) && keep(pod));
            if scope == Scope::Ended && stays {
                continue;
            }
            self.let_go.push(pod.clone());
            match end {
                Some(End::Succeeded) => self.note_success(spec, pod),
                Some(End::Failed) => self.note_failure(spec, pod),
                None if scope == Scope::AllFailed => self.note_failure(spec, pod),
                None => {}
            }
        }
    }

    fn note_success(&mut self, spec: &JobSpec, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        // An indexed Job needs no UIDs: a number can be done only once.
        if !is_indexed(spec) && !self.uncounted_failed.contains(&uid) && !self.uncounted_succeeded.contains(&uid) {
            self.uncounted_succeeded.push(uid);
        }
    }

    fn note_failure(&mut self, spec: &JobSpec, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let is_valid = !is_indexed(spec) || index_of(pod).is_some_and(|index| index < spec.completions.unwrap_or(0));
        let noted = self.uncounted_failed.contains(&uid) || self.uncounted_succeeded.contains(&uid);
        if is_valid && !noted && verdict(spec, pod) != Verdict::Ignore {
            self.uncounted_failed.push(uid);
        }
    }

    /// How many have succeeded, counted or not.
    pub fn succeeded(&self, spec: &JobSpec, pods: &[Arc<Pod>]) -> i32 {
        if is_indexed(spec) {
            return self.completed.len();
        }
        self.succeeded
            + self.uncounted_succeeded.len() as i32
            + self.fresh(pods, &self.uncounted_succeeded, |pod| end_of(spec, pod) == Some(End::Succeeded))
    }

    /// How many failures count, noted or not.
    pub fn failed(&self, spec: &JobSpec, pods: &[Arc<Pod>]) -> i32 {
        self.failed
            + self.uncounted_failed.len() as i32
            + self.fresh(pods, &self.uncounted_failed, |pod| {
                end_of(spec, pod) == Some(End::Failed) && verdict(spec, pod) != Verdict::Ignore
            })
    }

    fn fresh(&self, pods: &[Arc<Pod>], noted: &[String], ended: impl Fn(&Pod) -> bool) -> i32 {
        let is_new = |pod: &Pod| pod.metadata.uid.as_ref().is_none_or(|uid| !noted.contains(uid));
        pods.iter().filter(|pod| is_tracked(pod) && is_new(pod) && ended(pod)).count() as i32
    }

    /// Whether all that have ended are counted.
    pub fn is_settled(&self) -> bool {
        !self.full && self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty()
    }

    /// Writes the counts.
    pub fn write(&self, status: &mut JobStatus, spec: &JobSpec) {
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let succeeded = if is_indexed(spec) { self.completed.len() } else { self.succeeded };
        status.succeeded = nonzero(succeeded);
        status.failed = nonzero(self.failed);
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: some(&self.uncounted_succeeded),
            failed: some(&self.uncounted_failed),
        });
        if is_indexed(spec) {
            status.completed_indexes = self.completed.written();
            // Told even where none has failed: it says that numbers fail on their own.
            status.failed_indexes = self.given_up.as_ref().map(ToString::to_string);
        }
    }
}

/// Whether after this failure its number is not tried again.
fn is_hopeless(spec: &JobSpec, pod: &Pod, most: i32) -> bool {
    match verdict(spec, pod) {
        Verdict::FailIndex => true,
        Verdict::Ignore => false,
        Verdict::Count | Verdict::FailJob(_) => failures_before(pod) >= most,
    }
}
