//! The decision about one Job. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use skiff_base::Timestamp;
use skiff_base::ids::Ids;

use super::tally::{End, Tally, end_of, index_of, is_indexed};
use super::{INDEX, Observed, TRACKING, let_go};
use crate::meta::{controller_reference, generated_name, nonzero, time};
use crate::plan::{Action, Note, Plan};
use crate::pods::{from_template, is_active, is_ready, is_terminating};

const DEFAULT_BACKOFF_LIMIT: i32 = 6;
/// A failed pod is followed by the next one after this long, twice as long each time.
const BACKOFF_INITIAL: Duration = Duration::from_secs(10);
const BACKOFF_CAP: Duration = Duration::from_secs(600);
/// The most pods that one plan creates; the rest follows when these are seen.
const BURST_PODS: usize = 500;
/// Jobs of another controller are not touched.
const OWN_NAME: &str = "kubernetes.io/job-controller";

/// How a Job ends, with the reason and the text of its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    success: bool,
    reason: String,
    message: String,
}

impl Outcome {
    fn failure(reason: &str, message: &str) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.to_owned() }
    }

    /// The condition that announces it, and the one that states it.
    fn conditions(&self) -> (&'static str, &'static str) {
        if self.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") }
    }
}

fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let conditions = status.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// When the Job ended, if it has.
pub fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let ended = condition(status, "Complete").or_else(|| condition(status, "Failed"))?;
    ended.last_transition_time.as_ref().map(|time| time.0)
}

/// What is to be done.
pub fn reconcile(observed: &Observed, now: Timestamp, ids: &Ids) -> Plan {
    let job = &*observed.job;
    let mut plan = Plan::nothing();
    let Some(spec) = job.spec.as_ref() else { return plan };
    let foreign = spec.managed_by.as_deref().is_some_and(|by| by != OWN_NAME);
    if foreign || job.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let tally = Tally::of(job, &observed.pods);
    let mut working = Working {
        job,
        spec,
        pods: &observed.pods,
        status: job.status.clone().unwrap_or_default(),
        tally,
        now,
        notes: Vec::new(),
    };
    let changes = working.decide(ids, &mut plan);
    working.finish(changes, &mut plan);
    plan
}

struct Working<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [Arc<Pod>],
    status: JobStatus,
    tally: Tally,
    now: Timestamp,
    notes: Vec<Note>,
}

impl Working<'_> {
    fn active(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| is_active(pod))
    }

    fn terminating(&self) -> usize {
        self.pods.iter().filter(|pod| is_terminating(pod) && end_of(pod).is_none()).count()
    }

    /// Creations and deletions of pods; the status is changed on the way.
    fn decide(&mut self, ids: &Ids, plan: &mut Plan) -> Vec<Action> {
        if finished_at(self.job).is_some() {
            return self.stop_all();
        }
        if let Some(outcome) = self.outcome(plan) {
            return self.conclude(&outcome);
        }
        if self.spec.suspend.unwrap_or(false) {
            return self.suspend();
        }
        self.resume();
        self.run(ids, plan)
    }

    fn outcome(&self, plan: &mut Plan) -> Option<Outcome> {
        for (success, kind) in [(true, "SuccessCriteriaMet"), (false, "FailureTarget")] {
            if let Some(told) = condition(&self.status, kind) {
                let (reason, message) = (told.reason.clone(), told.message.clone());
                return Some(Outcome {
                    success,
                    reason: reason.unwrap_or_default(),
                    message: message.unwrap_or_default(),
                });
            }
        }
        let limit = self.spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
        if self.tally.failed() > limit || self.restarts_exceed(limit) {
            return Some(Outcome::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        if let Some(left) = self.deadline_left() {
            if left.is_zero() {
                let text = "Job was active longer than specified deadline";
                return Some(Outcome::failure("DeadlineExceeded", text));
            }
            plan.look_again(left);
        }
        let done = match self.spec.completions {
            Some(completions) => self.tally.succeeded() >= completions,
            None => self.tally.succeeded() > 0 && self.active().next().is_none(),
        };
        done.then(|| Outcome {
            success: true,
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        })
    }

    /// Where containers are restarted in place their restarts count as failures do.
    fn restarts_exceed(&self, limit: i32) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let statuses = self.active().filter_map(|pod| pod.status.as_ref());
        let containers = statuses.flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            init.chain(status.container_statuses.iter().flatten())
        });
        let restarts: i32 = containers.map(|container| container.restart_count).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn deadline_left(&self) -> Option<Duration> {
        if self.spec.suspend.unwrap_or(false) {
            return None;
        }
        let (seconds, start) = (self.spec.active_deadline_seconds?, self.status.start_time.as_ref()?.0);
        let been = Duration::try_from(self.now.duration_since(start)).unwrap_or_default();
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(been))
    }

    fn conclude(&mut self, outcome: &Outcome) -> Vec<Action> {
        let (announced, stated) = outcome.conditions();
        self.set_condition(announced, "True", &outcome.reason, &outcome.message);
        let over = self.active().next().is_none() && self.terminating() == 0 && self.tally.is_settled();
        if !over {
            return self.stop_all();
        }
        self.set_condition(stated, "True", &outcome.reason, &outcome.message);
        if outcome.success {
            self.status.completion_time = Some(time(self.now));
            self.notes.push(Note::normal(self.job, "Completed", "Job completed"));
        } else {
            let reason = if outcome.reason == "DeadlineExceeded" { "DeadlineExceeded" } else { "BackoffLimitExceeded" };
            self.notes.push(Note::warning(self.job, reason, outcome.message.clone()));
        }
        Vec::new()
    }

    fn suspend(&mut self) -> Vec<Action> {
        if self.set_condition("Suspended", "True", "JobSuspended", "Job suspended") {
            self.notes.push(Note::normal(self.job, "Suspended", "Job suspended"));
        }
        self.status.start_time = None;
        self.stop_all()
    }

    fn resume(&mut self) {
        if condition(&self.status, "Suspended").is_some() {
            self.set_condition("Suspended", "False", "JobResumed", "Job resumed");
            self.notes.push(Note::normal(self.job, "Resumed", "Job resumed"));
        }
        if self.status.start_time.is_none() {
            self.status.start_time = Some(time(self.now));
            self.notes.extend(self.what_is_not_honoured());
        }
    }

    /// A Job that asks for more than is built here is told so when it starts.
    fn what_is_not_honoured(&self) -> Option<Note> {
        let asked = [
            ("podFailurePolicy", self.spec.pod_failure_policy.is_some()),
            ("successPolicy", self.spec.success_policy.is_some()),
            ("backoffLimitPerIndex", self.spec.backoff_limit_per_index.is_some()),
        ];
        let fields: Vec<_> = asked.iter().filter(|(_, set)| *set).map(|(field, _)| *field).collect();
        let text = format!("Not honoured yet: spec.{}", fields.join(", spec."));
        (!fields.is_empty()).then(|| Note::warning(self.job, "NotSupported", text))
    }

    fn run(&self, ids: &Ids, plan: &mut Plan) -> Vec<Action> {
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let active = self.active().count() as i32;
        let wanted = match self.spec.completions {
            Some(completions) => parallelism.min((completions - self.tally.succeeded()).max(0)),
            // A work queue: once one has succeeded no more are started.
            None if self.tally.succeeded() > 0 => active.min(parallelism),
            None => parallelism,
        };
        if active > wanted {
            let mut surplus: Vec<_> = self.active().collect();
            surplus.sort_by_key(|pod| {
                (is_ready(pod), std::cmp::Reverse(pod.metadata.creation_timestamp.as_ref().map(|t| t.0)))
            });
            return surplus.into_iter().take((active - wanted) as usize).map(|pod| self.deletion(pod)).collect();
        }
        let held =
            if self.spec.pod_replacement_policy.as_deref() == Some("Failed") { self.terminating() as i32 } else { 0 };
        let missing = usize::try_from(wanted - active - held).unwrap_or(0).min(BURST_PODS);
        let pause = self.backoff_left();
        if missing > 0 && !pause.is_zero() {
            plan.look_again(pause);
            return Vec::new();
        }
        self.creations(missing, ids)
    }

    /// How long the next pod has to wait after the last failure.
    fn backoff_left(&self) -> Duration {
        let failed = self.pods.iter().filter(|pod| end_of(pod) == Some(End::Failed));
        let Some(last) = failed.filter_map(|pod| ended_at(pod)).max() else { return Duration::ZERO };
        let doublings = u32::try_from(self.tally.failed() - 1).unwrap_or(0).min(16);
        let delay = BACKOFF_INITIAL.saturating_mul(1 << doublings).min(BACKOFF_CAP);
        delay.saturating_sub(Duration::try_from(self.now.duration_since(last)).unwrap_or_default())
    }

    fn creations(&self, missing: usize, ids: &Ids) -> Vec<Action> {
        if !is_indexed(self.job) {
            return (0..missing).map(|_| self.creation(None, ids)).collect();
        }
        let taken: BTreeSet<_> = self.active().filter_map(|pod| index_of(pod)).collect();
        let free = (0..self.spec.completions.unwrap_or(0))
            .filter(|index| !taken.contains(index) && !self.tally.completed.contains(index));
        free.take(missing).map(|index| self.creation(Some(index), ids)).collect()
    }

    fn creation(&self, index: Option<i32>, ids: &Ids) -> Action {
        let meta = &self.job.metadata;
        let job_name = meta.name.as_deref().unwrap_or_default();
        let base = index.map_or_else(|| format!("{job_name}-"), |index| format!("{job_name}-{index}-"));
        let name = generated_name(&base, ids);
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let owner = controller_reference(self.job);
        let mut pod = from_template(&self.spec.template, namespace, name.clone(), Some(base), owner);
        pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
        if let Some(index) = index {
            number(&mut pod, job_name, index);
        }
        Action::create(&pod)
            .and_tell(Note::normal(self.job, "SuccessfulCreate", format!("Created pod: {name}")))
            .or_tell(Note::warning(self.job, "FailedCreate", "Error creating: "))
    }

    fn deletion(&self, pod: &Pod) -> Action {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        Action::delete(pod)
            .and_tell(Note::normal(self.job, "SuccessfulDelete", format!("Deleted pod: {name}")))
            .or_tell(Note::warning(self.job, "FailedDelete", "Error deleting: "))
    }

    fn stop_all(&self) -> Vec<Action> {
        self.active().map(|pod| self.deletion(pod)).collect()
    }

    /// True where the condition says something new.
    fn set_condition(&mut self, kind: &str, value: &str, reason: &str, message: &str) -> bool {
        let conditions = self.status.conditions.get_or_insert_default();
        if conditions.iter().any(|condition| condition.type_ == kind && condition.status == value) {
            return false;
        }
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(time(self.now)),
            last_transition_time: Some(time(self.now)),
        });
        true
    }

    /// Status first, so that what has ended is noted before it is let go; then the pods.
    fn finish(mut self, changes: Vec<Action>, plan: &mut Plan) {
        let active = self.active().count() as i32;
        self.status.active = nonzero(active);
        self.status.ready = Some(self.active().filter(|pod| is_ready(pod)).count() as i32);
        self.status.terminating = Some(self.terminating() as i32);
        self.tally.write(&mut self.status, is_indexed(self.job));
        if self.job.status.as_ref() != Some(&self.status) {
            plan.then(Action::update_status(&Job { status: Some(self.status), ..self.job.clone() }));
        }
        for note in self.notes {
            plan.then(Action::tell(note));
        }
        plan.burst(self.tally.ended.iter().map(|pod| let_go(pod)).collect());
        plan.burst(changes);
    }
}

/// Gives a pod its number: by annotation, label, hostname and environment.
fn number(pod: &mut Pod, job_name: &str, index: i32) {
    let text = index.to_string();
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), text.clone());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), text);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{job_name}-{index}"));
    let source = EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            field_path: format!("metadata.labels['{INDEX}']"),
            ..ObjectFieldSelector::default()
        }),
        ..EnvVarSource::default()
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let variable =
            EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value_from: Some(source.clone()), ..EnvVar::default() };
        container.env.get_or_insert_default().push(variable);
    }
}

fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ends = statuses
        .into_iter()
        .flatten()
        .filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let last = ends.map(|time| time.0).max();
    last.or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;
    use crate::testing::{World, now, object};

    fn job(spec: &str) -> Job {
        object(&format!(
            "{{metadata: {{name: j, namespace: d, uid: u}}, spec: {{{spec}, template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}}}}}"
        ))
    }

    /// Plays a Job through: each of its pods gets the next of `ends`; what is told, and the status in the end.
    fn check(spec: &str, ends: &[&str], expected: Expect) {
        let (mut world, ids, mut told) = (World::default(), Ids::seeded(3), Vec::new());
        world.put(&job(spec));
        let mut ends = ends.iter();
        for _ in 0..60 {
            let observed = Observed { job: world.get("j").expect("it stays"), pods: world.list() };
            let plan = reconcile(&observed, now() + Duration::from_secs(10_000), &ids);
            told.extend(plan.actions().filter_map(|a| a.done.as_ref()).map(|n| n.reason));
            apply(&mut world, &plan);
            for pod in world.list::<Pod>() {
                advance(&mut world, &pod, &mut ends);
            }
        }
        let job = world.get::<Job>("j").expect("it stays");
        let status = job.status.clone().unwrap_or_default();
        let conditions: Vec<_> =
            status.conditions.iter().flatten().map(|c| format!("{}={}", c.type_, c.status)).collect();
        let last = format!(
            "{}\nsucceeded {} failed {} active {} completed {:?} uncounted {:?}\n{}",
            told.join(" "),
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0),
            status.active.unwrap_or(0),
            status.completed_indexes.unwrap_or_default(),
            status.uncounted_terminated_pods.map(|u| u.succeeded.iter().chain(&u.failed).flatten().count()),
            conditions.join(" ")
        );
        expected.assert_eq(&last);
    }

    fn apply(world: &mut World, plan: &Plan) {
        world.carry_out(plan);
        for action in plan.actions() {
            if let crate::plan::Write::Patch(target, _) = &action.write {
                let mut pod = (*world.get::<Pod>(&target.key.name).expect("it is there")).clone();
                pod.metadata.finalizers = None;
                world.put(&pod);
            }
        }
    }

    /// What a node's agent would do; a pod without an end runs on.
    fn advance<'a>(world: &mut World, pod: &Pod, ends: &mut impl Iterator<Item = &'a &'a str>) {
        let mut pod = pod.clone();
        let ended = crate::pods::is_terminal(&pod);
        if pod.metadata.deletion_timestamp.is_some() && !ended {
            pod.status = Some(serde_json::from_value(json!({"phase": "Failed"})).expect("a status"));
        } else if crate::pods::phase(&pod).is_empty() {
            let phase = ends.next().copied().unwrap_or("Running");
            pod.status = Some(serde_json::from_value(json!({"phase": phase})).expect("a status"));
        } else {
            return;
        }
        world.put(&pod);
    }

    #[test]
    fn pods_run_until_enough_have_succeeded() {
        check(
            "completions: 3, parallelism: 2",
            &["Succeeded", "Failed", "Succeeded", "Succeeded"],
            expect![[r#"
            SuccessfulCreate SuccessfulCreate SuccessfulCreate SuccessfulCreate Completed
            succeeded 3 failed 1 active 0 completed "" uncounted Some(0)
            SuccessCriteriaMet=True Complete=True"#]],
        );
    }

    #[test]
    fn too_many_failures_end_a_job() {
        check(
            "completions: 1, parallelism: 1, backoffLimit: 1",
            &["Failed", "Failed", "Failed"],
            expect![[r#"
            SuccessfulCreate SuccessfulCreate BackoffLimitExceeded
            succeeded 0 failed 2 active 0 completed "" uncounted Some(0)
            FailureTarget=True Failed=True"#]],
        );
    }

    #[test]
    fn each_number_succeeds_once() {
        let ends = ["Succeeded", "Failed", "Succeeded", "Succeeded", "Succeeded"];
        check(
            "completions: 4, parallelism: 2, completionMode: Indexed",
            &ends,
            expect![[r#"
            SuccessfulCreate SuccessfulCreate SuccessfulCreate SuccessfulCreate SuccessfulCreate Completed
            succeeded 4 failed 1 active 0 completed "0-3" uncounted Some(0)
            SuccessCriteriaMet=True Complete=True"#]],
        );
    }

    #[test]
    fn a_work_queue_is_done_when_its_workers_are() {
        check(
            "parallelism: 2",
            &["Succeeded", "Succeeded"],
            expect![[r#"
            SuccessfulCreate SuccessfulCreate Completed
            succeeded 2 failed 0 active 0 completed "" uncounted Some(0)
            SuccessCriteriaMet=True Complete=True"#]],
        );
    }

    #[test]
    fn a_suspended_job_runs_nothing() {
        check(
            "completions: 1, parallelism: 1, suspend: true",
            &[],
            expect![[r#"
            Suspended
            succeeded 0 failed 0 active 0 completed "" uncounted Some(0)
            Suspended=True"#]],
        );
    }
}
