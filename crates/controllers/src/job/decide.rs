//! The decision about one Job. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use skiff_base::Timestamp;
use skiff_base::ids::Ids;

use super::pods::{Making, surplus};
use super::policy::{Verdict, content, verdict};
use super::tally::{End, Scope, Tally, end_of, index_of, is_indexed, only_replaces_failed};
use super::{Observed, backoff, is_tracked, let_go, release};
use crate::meta::{adoption, controller_of, is_controlled_by, nonzero, selector, selects, time};
use crate::plan::{Action, Note, Plan};
use crate::pods::{is_active, is_ready, is_terminating};

const DEFAULT_BACKOFF_LIMIT: i32 = 6;
/// The most pods that one plan creates or deletes; the rest follows when these are seen.
const BURST_PODS: usize = 500;
/// Jobs of another controller are not touched.
const OWN_NAME: &str = "kubernetes.io/job-controller";

/// How a Job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It did what it was for.
    Complete,
    /// It did not.
    Failed,
}

impl Finish {
    /// The condition that states it.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Failed => "Failed",
        }
    }

    /// The condition that announces it, while pods are still on their way out.
    fn announcement(self) -> &'static str {
        match self {
            Self::Complete => "SuccessCriteriaMet",
            Self::Failed => "FailureTarget",
        }
    }
}

/// How a Job ends, with the reason and the text of its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    finish: Finish,
    reason: String,
    message: String,
}

impl Outcome {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { finish: Finish::Failed, reason: reason.to_owned(), message: message.into() }
    }

    fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { finish: Finish::Complete, reason: reason.to_owned(), message: message.into() }
    }
}

fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let conditions = status.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

fn ending(job: &Job) -> Option<(Finish, &JobCondition)> {
    let status = job.status.as_ref()?;
    let all = [Finish::Complete, Finish::Failed];
    all.into_iter().find_map(|finish| Some((finish, condition(status, finish.condition())?)))
}

/// How the Job ended, if it has.
pub fn finish_of(job: &Job) -> Option<Finish> {
    ending(job).map(|(finish, _)| finish)
}

/// When the Job ended, if it has.
pub fn finished_at(job: &Job) -> Option<Timestamp> {
    ending(job).and_then(|(_, condition)| condition.last_transition_time.as_ref()).map(|time| time.0)
}

/// What is to be done.
pub fn reconcile(observed: &Observed, now: Timestamp, ids: &Ids) -> Plan {
    let job = &*observed.job;
    let mut plan = Plan::nothing();
    let Some(spec) = job.spec.as_ref() else { return plan };
    if spec.managed_by.as_deref().is_some_and(|by| by != OWN_NAME) {
        return plan;
    }
    let pods = claim(observed, &mut plan);
    if !plan.steps.is_empty() {
        // The pods will be seen again as they are then.
        return plan;
    }
    if finish_of(job).is_some() {
        plan.burst(pods.iter().filter(|pod| is_tracked(pod)).map(|pod| let_go(pod)).collect());
        return plan;
    }
    let tally = Tally::of(job, spec, &pods);
    let status = job.status.clone().unwrap_or_default();
    let delayed = delayed(spec, &pods, &tally);
    let group = observed.group.as_deref();
    let mut working = Working { job, spec, group, pods: &pods, delayed, status, tally, now, notes: Vec::new() };
    let changes = working.decide(ids, &mut plan);
    working.finish(changes, &mut plan);
    plan
}

/// The pods that are the Job's own; plans to adopt and to let go where labels say so.
fn claim(observed: &Observed, plan: &mut Plan) -> Vec<Arc<Pod>> {
    let job = &*observed.job;
    let uid = job.metadata.uid.as_ref();
    let spec_selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let chosen = selector(spec_selector);
    let deleting = job.metadata.deletion_timestamp.is_some();
    let mut mine = Vec::new();
    for pod in &observed.pods {
        let matches = selects(&chosen, &pod.metadata);
        if is_controlled_by(&pod.metadata, uid) {
            if matches || deleting || spec_selector.is_none() {
                mine.push(pod.clone());
            } else {
                plan.then(release(pod, uid));
            }
        } else if controller_of(&pod.metadata).is_none() && matches && !deleting && is_active(pod) {
            let adoption = super::tracked(adoption(job, pod.metadata.uid.as_ref()));
            plan.then(Action::patch::<Pod>(&pod.metadata, adoption).only_while(job));
        }
    }
    mine
}

/// The last failed pod of each number that may be tried again: it is kept until the next one carries its count.
fn delayed(spec: &JobSpec, pods: &[Arc<Pod>], tally: &Tally) -> BTreeMap<i32, Arc<Pod>> {
    let mut delayed: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    let Some(given_up) = &tally.given_up else { return delayed };
    let running: Vec<_> = pods.iter().filter(|pod| is_active(pod)).filter_map(|pod| index_of(pod)).collect();
    let rank = |pod: &Pod| (super::tally::failures_before(pod), backoff::ended_at(pod));
    for pod in pods.iter().filter(|pod| is_tracked(pod) && end_of(spec, pod) == Some(End::Failed)) {
        let Some(index) = index_of(pod).filter(|index| *index < spec.completions.unwrap_or(0)) else { continue };
        if running.contains(&index) || tally.completed.has(index) || given_up.has(index) {
            continue;
        }
        if delayed.get(&index).is_none_or(|known| rank(known) <= rank(pod)) {
            delayed.insert(index, pod.clone());
        }
    }
    delayed
}

struct Working<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    group: Option<&'a PodGroup>,
    pods: &'a [Arc<Pod>],
    /// The last failed pod of each number that waits to be tried again.
    delayed: BTreeMap<i32, Arc<Pod>>,
    status: JobStatus,
    tally: Tally,
    now: Timestamp,
    notes: Vec<Note>,
}

impl Working<'_> {
    fn active(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| is_active(pod))
    }

    fn terminating(&self) -> i32 {
        self.pods.iter().filter(|pod| is_terminating(pod)).count() as i32
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend.unwrap_or(false)
    }

    /// Creations and deletions of pods; the status is changed on the way.
    fn decide(&mut self, ids: &Ids, plan: &mut Plan) -> Vec<Action> {
        if self.job.metadata.deletion_timestamp.is_some() {
            self.tally.note_ended(self.spec, self.pods, Scope::All, |_| false);
            return Vec::new();
        }
        if let Some(outcome) = self.outcome(plan) {
            return self.conclude(&outcome);
        }
        let delayed: Vec<_> = self.delayed.values().map(|pod| pod.metadata.uid.clone()).collect();
        self.tally.note_ended(self.spec, self.pods, Scope::Ended, |pod| delayed.contains(&pod.metadata.uid));
        if self.is_suspended() {
            return self.suspend();
        }
        self.resume();
        self.run(ids, plan)
    }

    fn outcome(&self, plan: &mut Plan) -> Option<Outcome> {
        self.announced()
            .or_else(|| self.failed_by_policy())
            .or_else(|| self.failed_too_often())
            .or_else(|| self.out_of_time(plan))
            .or_else(|| self.failed_by_number())
            .or_else(|| self.succeeded())
    }

    /// What was announced is not judged again.
    fn announced(&self) -> Option<Outcome> {
        [Finish::Complete, Finish::Failed].into_iter().find_map(|finish| {
            let told = condition(&self.status, finish.announcement())?;
            let (reason, message) = (told.reason.clone(), told.message.clone());
            Some(Outcome { finish, reason: reason.unwrap_or_default(), message: message.unwrap_or_default() })
        })
    }

    fn failed_by_policy(&self) -> Option<Outcome> {
        self.spec.pod_failure_policy.as_ref()?;
        let mut failed = self.pods.iter().filter(|pod| end_of(self.spec, pod) == Some(End::Failed));
        failed.find_map(|pod| match verdict(self.spec, pod) {
            Verdict::FailJob(message) => Some(Outcome::failure("PodFailurePolicy", message)),
            _ => None,
        })
    }

    fn failed_too_often(&self) -> Option<Outcome> {
        let default = if self.spec.backoff_limit_per_index.is_some() { i32::MAX } else { DEFAULT_BACKOFF_LIMIT };
        let limit = self.spec.backoff_limit.unwrap_or(default);
        let over = self.tally.failed(self.spec, self.pods) > limit || self.restarts_exceed(limit);
        over.then(|| Outcome::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
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

    fn out_of_time(&self, plan: &mut Plan) -> Option<Outcome> {
        if self.is_suspended() {
            return None;
        }
        let (seconds, start) = (self.spec.active_deadline_seconds?, self.status.start_time.as_ref()?.0);
        let been = Duration::try_from(self.now.duration_since(start)).unwrap_or_default();
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(been);
        if left.is_zero() {
            return Some(Outcome::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        plan.look_again(left);
        None
    }

    fn failed_by_number(&self) -> Option<Outcome> {
        let failed = self.tally.given_up.as_ref()?.len();
        if self.spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Outcome::failure("MaxFailedIndexesExceeded", text));
        }
        let all = failed > 0 && failed + self.tally.completed.len() >= self.spec.completions.unwrap_or(0);
        all.then(|| Outcome::failure("FailedIndexes", "Job has failed indexes"))
    }

    fn succeeded(&self) -> Option<Outcome> {
        if let Some(message) = content(self.spec, &self.tally.completed) {
            return Some(Outcome::success("SuccessPolicy", message));
        }
        if self.active().next().is_some() {
            return None;
        }
        let succeeded = self.tally.succeeded(self.spec, self.pods);
        let done = self.spec.completions.map_or(succeeded > 0, |completions| succeeded >= completions);
        done.then(|| Outcome::success("CompletionsReached", "Reached expected number of succeeded pods"))
    }

    fn conclude(&mut self, outcome: &Outcome) -> Vec<Action> {
        let scope = if outcome.finish == Finish::Failed { Scope::AllFailed } else { Scope::All };
        self.tally.note_ended(self.spec, self.pods, scope, |_| false);
        self.set_condition(outcome.finish.announcement(), "True", &outcome.reason, &outcome.message);
        let over = self.active().next().is_none() && self.terminating() == 0 && self.tally.is_settled();
        if !over {
            return self.stop_all();
        }
        self.set_condition(outcome.finish.condition(), "True", &outcome.reason, &outcome.message);
        match outcome.finish {
            Finish::Complete => {
                self.status.completion_time = Some(time(self.now));
                let succeeded = self.tally.succeeded(self.spec, self.pods);
                if !is_indexed(self.spec) && self.spec.completions.is_some_and(|wanted| succeeded > wanted) {
                    let text = "Too many succeeded pods running after completion count reached";
                    self.notes.push(Note::warning(self.job, "TooManySucceededPods", text));
                }
                self.notes.push(Note::normal(self.job, "Completed", "Job completed"));
            }
            Finish::Failed => {
                self.notes.push(Note::warning(self.job, reason(&outcome.reason), outcome.message.clone()));
            }
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
            self.status.start_time = None;
        }
        if self.status.start_time.is_none() {
            self.status.start_time = Some(time(self.now));
        }
    }

    fn run(&self, ids: &Ids, plan: &mut Plan) -> Vec<Action> {
        let parallelism = self.spec.parallelism.unwrap_or(1).max(0);
        let active: Vec<_> = self.active().cloned().collect();
        let running = active.len() as i32;
        let succeeded = self.tally.succeeded(self.spec, self.pods);
        let wanted = match self.spec.completions {
            Some(completions) => parallelism.min((completions - succeeded).max(0)),
            // A work queue: once one has succeeded no more are started.
            None if succeeded > 0 => running.min(parallelism),
            None => parallelism,
        };
        let too_many = surplus(self.spec, &active, running - wanted);
        if !too_many.is_empty() {
            return too_many.iter().take(BURST_PODS).map(|pod| self.making().deletion(pod)).collect();
        }
        let held = if only_replaces_failed(self.spec) { self.terminating() } else { 0 };
        let missing = usize::try_from(wanted - running - held).unwrap_or(0).min(BURST_PODS);
        if missing == 0 {
            return Vec::new();
        }
        if self.tally.given_up.is_some() {
            return self.start_by_number(&active, missing, ids, plan);
        }
        let pause = backoff::left(self.spec, self.pods, self.now);
        if !pause.is_zero() {
            plan.look_again(pause);
            return Vec::new();
        }
        if !is_indexed(self.spec) {
            return (0..missing).map(|_| self.making().creation(None, None, ids)).collect();
        }
        self.pending(&active).take(missing).map(|index| self.making().creation(Some(index), None, ids)).collect()
    }

    fn making(&self) -> Making<'_> {
        Making { job: self.job, spec: self.spec, group: self.group }
    }

    /// The numbers that have no pod and are neither done nor given up, lowest first.
    fn pending(&self, active: &[Arc<Pod>]) -> impl Iterator<Item = i32> {
        let held = only_replaces_failed(self.spec);
        let on_the_way = self.pods.iter().filter(move |pod| held && is_terminating(pod));
        let taken: std::collections::BTreeSet<_> =
            active.iter().chain(on_the_way).filter_map(|pod| index_of(pod)).collect();
        (0..self.spec.completions.unwrap_or(0)).filter(move |index| {
            let over = self.tally.completed.has(*index) || self.tally.given_up.as_ref().is_some_and(|g| g.has(*index));
            !over && !taken.contains(index)
        })
    }

    /// Each number waits after its own failures.
    fn start_by_number(&self, active: &[Arc<Pod>], missing: usize, ids: &Ids, plan: &mut Plan) -> Vec<Action> {
        let mut creations = Vec::new();
        for index in self.pending(active).take(missing) {
            let before = self.delayed.get(&index);
            let pause = before.map_or(Duration::ZERO, |pod| {
                let failures = super::pods::failures_in_all(pod) + 1;
                backoff::left_after(usize::try_from(failures).unwrap_or(0), backoff::ended_at(pod), self.now)
            });
            if pause.is_zero() {
                creations.push(self.making().creation(Some(index), before.map(|pod| &**pod), ids));
            } else {
                plan.look_again(pause);
            }
        }
        creations
    }

    fn stop_all(&self) -> Vec<Action> {
        self.active().map(|pod| self.making().deletion(pod)).collect()
    }

    /// True where the condition says something new.
    fn set_condition(&mut self, kind: &str, value: &str, reason: &str, message: &str) -> bool {
        let conditions = self.status.conditions.get_or_insert_default();
        if conditions.iter().any(|condition| condition.type_ == kind && condition.status == value) {
            return false;
        }
        let new = JobCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(time(self.now)),
            last_transition_time: Some(time(self.now)),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(old) => *old = new,
            None => conditions.push(new),
        }
        true
    }

    /// Status first, so that what has ended is noted before it is let go; then the pods.
    fn finish(mut self, changes: Vec<Action>, plan: &mut Plan) {
        let active = self.active().count() as i32;
        self.status.active = nonzero(active);
        self.status.ready = Some(self.active().filter(|pod| is_ready(pod)).count() as i32);
        self.status.terminating = Some(self.terminating());
        self.tally.write(&mut self.status, self.spec);
        if self.job.status.as_ref() != Some(&self.status) {
            plan.then(Action::update_status(&Job { status: Some(self.status), ..self.job.clone() }));
        }
        for note in self.notes {
            plan.then(Action::tell(note));
        }
        plan.burst(self.tally.let_go.iter().map(|pod| let_go(pod)).collect());
        plan.burst(changes);
    }
}

/// Reasons of events are known at build time; these are all that a Job can fail with.
fn reason(text: &str) -> &'static str {
    let all = ["PodFailurePolicy", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
    all.into_iter().find(|known| *known == text).unwrap_or("BackoffLimitExceeded")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::super::{INDEX, TRACKING};
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
            let observed = Observed { job: world.get("j").expect("it stays"), pods: world.list(), group: None };
            let plan = reconcile(&observed, now() + Duration::from_secs(10_000), &ids);
            told.extend(plan.actions().filter_map(|a| a.done.as_ref()).map(|n| n.reason));
            apply(&mut world, &plan);
            for pod in world.list::<Pod>() {
                advance(&mut world, &pod, &mut ends);
            }
        }
        let job = world.get::<Job>("j").expect("it stays");
        let status = job.status.clone().unwrap_or_default();
        let conditions: Vec<_> = status
            .conditions
            .iter()
            .flatten()
            .map(|c| format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap_or_default()))
            .collect();
        let last = format!(
            "{}\nsucceeded {} failed {} active {} completed {:?} given up {:?} uncounted {:?}\n{}",
            told.join(" "),
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0),
            status.active.unwrap_or(0),
            status.completed_indexes.unwrap_or_default(),
            status.failed_indexes.unwrap_or_default(),
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
            let end = ends.next().copied().unwrap_or("Running");
            let (phase, code) = end.split_once(' ').unwrap_or((end, "1"));
            let code: i32 = code.parse().expect("an exit code");
            let container = json!({"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": "2026-01-31T12:00:00Z"}}});
            let containers = if phase == "Failed" { json!([container]) } else { json!([]) };
            let status = json!({"phase": phase, "containerStatuses": containers});
            pod.status = Some(serde_json::from_value(status).expect("a status"));
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
                succeeded 3 failed 1 active 0 completed "" given up "" uncounted Some(0)
                SuccessCriteriaMet=True CompletionsReached Complete=True CompletionsReached"#]],
        );
    }

    #[test]
    fn too_many_failures_end_a_job() {
        check(
            "completions: 1, parallelism: 1, backoffLimit: 1",
            &["Failed", "Failed", "Failed"],
            expect![[r#"
                SuccessfulCreate SuccessfulCreate BackoffLimitExceeded
                succeeded 0 failed 2 active 0 completed "" given up "" uncounted Some(0)
                FailureTarget=True BackoffLimitExceeded Failed=True BackoffLimitExceeded"#]],
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
                succeeded 4 failed 1 active 0 completed "0-3" given up "" uncounted Some(0)
                SuccessCriteriaMet=True CompletionsReached Complete=True CompletionsReached"#]],
        );
    }

    #[test]
    fn a_work_queue_is_done_when_its_workers_are() {
        check(
            "parallelism: 2",
            &["Succeeded", "Succeeded"],
            expect![[r#"
                SuccessfulCreate SuccessfulCreate Completed
                succeeded 2 failed 0 active 0 completed "" given up "" uncounted Some(0)
                SuccessCriteriaMet=True CompletionsReached Complete=True CompletionsReached"#]],
        );
    }

    #[test]
    fn a_suspended_job_runs_nothing() {
        check(
            "completions: 1, parallelism: 1, suspend: true",
            &[],
            expect![[r#"
                Suspended
                succeeded 0 failed 0 active 0 completed "" given up "" uncounted Some(0)
                Suspended=True JobSuspended"#]],
        );
    }

    #[test]
    fn each_number_fails_on_its_own() {
        let spec = "completions: 3, parallelism: 3, completionMode: Indexed, backoffLimitPerIndex: 1";
        let ends = ["Failed", "Succeeded", "Succeeded", "Failed"];
        check(
            spec,
            &ends,
            expect![[r#"
            SuccessfulCreate SuccessfulCreate SuccessfulCreate SuccessfulCreate FailedIndexes
            succeeded 2 failed 2 active 0 completed "1,2" given up "0" uncounted Some(0)
            FailureTarget=True FailedIndexes Failed=True FailedIndexes"#]],
        );
        let ends = ["Failed", "Succeeded", "Succeeded", "Succeeded"];
        check(
            spec,
            &ends,
            expect![[r#"
            SuccessfulCreate SuccessfulCreate SuccessfulCreate SuccessfulCreate Completed
            succeeded 3 failed 1 active 0 completed "0-2" given up "" uncounted Some(0)
            SuccessCriteriaMet=True CompletionsReached Complete=True CompletionsReached"#]],
        );
        check(
            &format!("{spec}, maxFailedIndexes: 0"),
            &["Failed", "Running", "Running", "Failed"],
            expect![[r#"
            SuccessfulCreate SuccessfulCreate SuccessfulCreate SuccessfulCreate SuccessfulDelete SuccessfulDelete MaxFailedIndexesExceeded
            succeeded 0 failed 4 active 0 completed "" given up "0" uncounted Some(0)
            FailureTarget=True MaxFailedIndexesExceeded Failed=True MaxFailedIndexesExceeded"#]],
        );
    }

    #[test]
    fn policies_decide_about_failures_and_success() {
        let rules = "podFailurePolicy: {rules: [{action: Ignore, onExitCodes: {operator: In, values: [5]}}, {action: FailJob, onExitCodes: {operator: In, values: [42]}}]}";
        let spec = format!("completions: 2, parallelism: 2, backoffLimit: 0, {rules}");
        check(
            &spec,
            &["Failed 5", "Succeeded", "Succeeded"],
            expect![[r#"
            SuccessfulCreate SuccessfulCreate SuccessfulCreate Completed
            succeeded 2 failed 0 active 0 completed "" given up "" uncounted Some(0)
            SuccessCriteriaMet=True CompletionsReached Complete=True CompletionsReached"#]],
        );
        check(
            &spec,
            &["Failed 42", "Running"],
            expect![[r#"
            SuccessfulCreate SuccessfulCreate SuccessfulDelete PodFailurePolicy
            succeeded 0 failed 2 active 0 completed "" given up "" uncounted Some(0)
            FailureTarget=True PodFailurePolicy Failed=True PodFailurePolicy"#]],
        );
        let spec = "completions: 3, parallelism: 3, completionMode: Indexed, successPolicy: {rules: [{succeededIndexes: '1'}]}";
        check(
            spec,
            &["Running", "Succeeded", "Running"],
            expect![[r#"
            SuccessfulCreate SuccessfulCreate SuccessfulCreate SuccessfulDelete SuccessfulDelete Completed
            succeeded 1 failed 0 active 0 completed "1" given up "" uncounted Some(0)
            SuccessCriteriaMet=True SuccessPolicy Complete=True SuccessPolicy"#]],
        );
    }

    #[test]
    fn a_job_that_shrinks_loses_the_highest_numbers() {
        let job: Job = object(
            "{metadata: {name: j, namespace: d, uid: u}, spec: {completions: 2, parallelism: 2, completionMode: Indexed, template: {}}, status: {startTime: '2026-01-31T12:00:00Z', completedIndexes: '0,3', succeeded: 2, ready: 0, terminating: 0, uncountedTerminatedPods: {}}}",
        );
        let owner = crate::meta::controller_reference(&job);
        let pods = [1, 2, 1].iter().enumerate().map(|(at, index)| {
            let mut pod: Pod = object(&format!("{{metadata: {{name: p{at}, namespace: d, uid: u{at}, finalizers: [{TRACKING}], annotations: {{{INDEX}: '{index}'}}}}, status: {{phase: Running}}}}"));
            pod.metadata.owner_references = Some(vec![owner.clone()]);
            Arc::new(pod)
        });
        let observed = Observed { pods: pods.collect(), job: Arc::new(job), group: None };
        expect![[r#"
            update jobs/status d/j {"active":3,"completedIndexes":"0","ready":0,"startTime":"2026-01-31T12:00:00Z","succeeded":1,"terminating":0,"uncountedTerminatedPods":{}}
            delete pods d/p1 [SuccessfulDelete: Deleted pod: p1]
            delete pods d/p0 [SuccessfulDelete: Deleted pod: p0]
        "#]].assert_eq(&reconcile(&observed, now(), &Ids::seeded(1)).to_string());
    }
}
