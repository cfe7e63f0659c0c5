//! The decision about one CronJob. Pure.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_base::cron::{Schedule, rfc3339_in, zone};
use skiff_client::events::reference;

use super::Observed;
use super::times::{due, until_next};
use crate::job::{Finish, finish_of};
use crate::meta::{controller_reference, is_controlled_by, time};
use crate::plan::{Action, Note, Plan};

/// The time that a Job was scheduled for, in the zone of the schedule.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
const SECONDS_PER_MINUTE: i64 = 60;
/// How many ended Jobs are kept where the spec does not say.
const DEFAULT_SUCCESSFUL: i32 = 3;
const DEFAULT_FAILED: i32 = 1;

/// What is to be done.
pub fn reconcile(observed: &Observed, now: Timestamp) -> Plan {
    let cron = &*observed.cron;
    let mut plan = Plan::nothing();
    let spec = &cron.spec;
    let uid = cron.metadata.uid.as_ref();
    let mine = observed.jobs.iter().filter(|job| is_controlled_by(&job.metadata, uid)).cloned().collect();
    let status = cron.status.clone().unwrap_or_default();
    let mut working = Working { cron, spec, all: &observed.jobs, mine, status, notes: Vec::new(), now };
    working.catch_up();
    if cron.metadata.deletion_timestamp.is_none() {
        working.trim_history(&mut plan);
        working.start_if_due(&mut plan);
    }
    working.finish(&mut plan);
    plan
}

struct Working<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    /// The Jobs of the namespace.
    all: &'a [Arc<Job>],
    /// Those that the CronJob controls.
    mine: Vec<Arc<Job>>,
    status: CronJobStatus,
    notes: Vec<Note>,
    now: Timestamp,
}

fn name_of(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

impl Working<'_> {
    fn note(&mut self, reason: &'static str, text: impl Into<String>) {
        self.notes.push(Note::normal(self.cron, reason, text));
    }

    fn warn(&mut self, reason: &'static str, text: impl Into<String>) {
        self.notes.push(Note::warning(self.cron, reason, text));
    }

    fn active(&self) -> &[ObjectReference] {
        self.status.active.as_deref().unwrap_or_default()
    }

    fn is_active(&self, job: &Job) -> bool {
        self.active().iter().any(|active| active.uid == job.metadata.uid)
    }

    /// Brings the list of active Jobs up to what is seen.
    fn catch_up(&mut self) {
        for job in self.mine.clone() {
            let (listed, ended) = (self.is_active(&job), finish_of(&job));
            match ended {
                None if !listed && self.is_expected(&job) => self.add_active(&job),
                None if !listed => self.warn(
                    "UnexpectedJob",
                    format!("Saw a job that the controller did not create or forgot: {}", name_of(&job)),
                ),
                Some(finish) if listed => {
                    self.drop_active(job.metadata.uid.as_ref());
                    let text = format!("Saw completed job: {}, condition: {}", name_of(&job), finish.condition());
                    self.note("SawCompletedJob", text);
                }
                _ => {}
            }
            if finish_of(&job) == Some(Finish::Complete) {
                let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
                if completed > self.status.last_successful_time {
                    self.status.last_successful_time = completed;
                }
            }
        }
        let gone: Vec<_> =
            self.active().iter().filter(|a| self.mine.iter().all(|job| job.metadata.uid != a.uid)).cloned().collect();
        for active in gone {
            self.note("MissingJob", format!("Active job went missing: {}", active.name.unwrap_or_default()));
            self.drop_active(active.uid.as_ref());
        }
    }

    /// Whether the Job is one that a schedule made: its UID was not known when the status was written.
    fn is_expected(&self, job: &Job) -> bool {
        let last = self.status.last_schedule_time.as_ref();
        last.is_some_and(|last| name_of(job) == self.job_name(last.0))
    }

    fn add_active(&mut self, job: &Job) {
        let reference = ObjectReference { field_path: None, ..reference(job) };
        self.status.active.get_or_insert_default().push(reference);
    }

    fn drop_active(&mut self, uid: Option<&String>) {
        if let Some(active) = &mut self.status.active {
            active.retain(|active| active.uid.as_ref() != uid);
        }
    }

    /// Ended Jobs beyond the limits go, the oldest first.
    fn trim_history(&mut self, plan: &mut Plan) {
        let limits = [
            (Finish::Failed, self.spec.failed_jobs_history_limit.unwrap_or(DEFAULT_FAILED)),
            (Finish::Complete, self.spec.successful_jobs_history_limit.unwrap_or(DEFAULT_SUCCESSFUL)),
        ];
        for (finish, limit) in limits {
            let mut ended: Vec<_> = self.mine.iter().filter(|job| finish_of(job) == Some(finish)).cloned().collect();
            ended.retain(|job| job.metadata.deletion_timestamp.is_none());
            let started = |job: &Job| job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|time| time.0);
            ended.sort_by_key(|job| (started(job), job.metadata.name.clone()));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in ended.iter().take(surplus) {
                plan.then(self.deletion(job));
                self.drop_active(job.metadata.uid.as_ref());
            }
        }
    }

    fn deletion(&self, job: &Job) -> Action {
        let text = format!("Deleted job {}", name_of(job));
        Action::delete(job)
            .with_propagation("Background")
            .and_tell(Note::normal(self.cron, "SuccessfulDelete", text))
            .or_tell(Note::warning(self.cron, "FailedDelete", "Deleted job: "))
    }

    fn start_if_due(&mut self, plan: &mut Plan) {
        let Some(schedule) = self.schedule() else { return };
        let scheduled = match due(self.cron, &schedule, self.now) {
            Ok(scheduled) => scheduled,
            Err(fault) => {
                self.warn("InvalidSchedule", format!("invalid schedule: {} : {fault}", self.spec.schedule));
                return;
            }
        };
        if let Some(left) = until_next(self.cron, &schedule, self.now) {
            plan.look_again(left);
        }
        let Some(scheduled) = scheduled else { return };
        if scheduled.too_many {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.warn("TooManyMissedTimes", text);
        }
        if self.may_start(scheduled.last) {
            self.start(scheduled.last, plan);
        }
    }

    /// The schedule in its time zone, unless something keeps it from being followed.
    fn schedule(&mut self) -> Option<Schedule> {
        let own_zone = self.spec.time_zone.as_deref().map(|name| (name, zone(name)));
        if let Some((name, None)) = own_zone {
            self.warn("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
            return None;
        }
        if self.spec.suspend.unwrap_or(false) {
            return None;
        }
        let text = &self.spec.schedule;
        if text.contains("TZ") {
            let text = format!(
                "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            self.warn("UnsupportedSchedule", text);
        }
        match Schedule::parse(&self.spec.schedule) {
            Ok(schedule) => Some(match own_zone {
                Some((_, Some(zone))) if !self.spec.schedule.contains("TZ") => schedule.in_zone(zone),
                _ => schedule,
            }),
            Err(fault) => {
                self.warn("UnparseableSchedule", format!("unparseable schedule: {:?} : {fault}", self.spec.schedule));
                None
            }
        }
    }

    fn may_start(&mut self, scheduled: Timestamp) -> bool {
        if let Some(deadline) = self.spec.starting_deadline_seconds
            && self.now.as_second() - scheduled.as_second() > deadline
        {
            let time = scheduled.strftime("%a, %d %b %Y %H:%M:%S +0000");
            self.warn("MissSchedule", format!("Missed scheduled time to start a job: {time}"));
            return false;
        }
        let name = self.job_name(scheduled);
        if self.active().iter().any(|active| active.name.as_deref() == Some(&name))
            || self.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == scheduled)
        {
            return false;
        }
        if self.spec.concurrency_policy.as_deref() == Some("Forbid") && !self.active().is_empty() {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.note("JobAlreadyActive", text);
            return false;
        }
        true
    }

    fn start(&mut self, scheduled: Timestamp, plan: &mut Plan) {
        let name = self.job_name(scheduled);
        if let Some(there) = self.all.iter().find(|job| name_of(job) == name) {
            // Made before a crash, and not noted; or somebody else's, and then not to be touched.
            if is_controlled_by(&there.metadata, self.cron.metadata.uid.as_ref()) {
                if finish_of(there).is_none() {
                    self.add_active(there);
                }
                self.status.last_schedule_time = Some(time(scheduled));
            }
            return;
        }
        if self.spec.concurrency_policy.as_deref() == Some("Replace") {
            let running: Vec<_> = self.mine.iter().filter(|job| self.is_active(job)).cloned().collect();
            for job in running {
                plan.then(self.deletion(&job));
                self.drop_active(job.metadata.uid.as_ref());
            }
        }
        plan.then(
            Action::create(&self.job(name.clone(), scheduled))
                .and_tell(Note::normal(self.cron, "SuccessfulCreate", format!("Created job {name}")))
                .or_tell(Note::warning(self.cron, "FailedCreate", "Error creating job: ")),
        );
        self.status.last_schedule_time = Some(time(scheduled));
    }

    fn job_name(&self, scheduled: Timestamp) -> String {
        let minutes = scheduled.as_second() / SECONDS_PER_MINUTE;
        format!("{}-{minutes}", self.cron.metadata.name.as_deref().unwrap_or_default())
    }

    fn job(&self, name: String, scheduled: Timestamp) -> Job {
        let template = &self.spec.job_template;
        let given = template.metadata.clone().unwrap_or_default();
        let own_zone = self.spec.time_zone.as_deref().and_then(zone);
        let at = own_zone.map_or_else(|| rfc3339(scheduled), |zone| rfc3339_in(scheduled, zone));
        let mut annotations = given.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED.to_owned(), at);
        Job {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: self.cron.metadata.namespace.clone(),
                labels: given.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_reference(self.cron)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    }

    fn finish(mut self, plan: &mut Plan) {
        self.status.active = self.status.active.filter(|active| !active.is_empty());
        if self.cron.status.clone().unwrap_or_default() != self.status {
            plan.then(Action::update_status(&CronJob { status: Some(self.status), ..self.cron.clone() }));
        }
        for note in self.notes {
            plan.then(Action::tell(note));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde::Deserialize;

    use super::*;
    use crate::testing::{now, object};

    #[derive(Deserialize)]
    struct Case {
        spec: String,
        #[serde(default = "each_minute")]
        schedule: String,
        #[serde(default)]
        status: String,
        /// `name state [uid]` with a state of `running`, `complete` or `failed`; controlled by the CronJob.
        #[serde(default)]
        jobs: Vec<String>,
    }

    fn each_minute() -> String {
        "* * * * *".to_owned()
    }

    fn job(text: &str) -> Arc<Job> {
        let (name, state) = text.split_once(' ').expect("a name and a state");
        let conditions = match state {
            "complete" => "completionTime: '2026-01-31T11:59:00Z', conditions: [{type: Complete, status: 'True'}]",
            "failed" => "conditions: [{type: Failed, status: 'True'}]",
            _ => "active: 1",
        };
        Arc::new(object(&format!(
            "{{metadata: {{name: {name}, namespace: d, uid: {name}-uid, ownerReferences: [{{apiVersion: batch/v1, kind: CronJob, name: tick, uid: u, controller: true}}]}}, spec: {{template: {{}}}}, status: {{startTime: '2026-01-31T11:00:00Z', {conditions}}}}}"
        )))
    }

    fn check(yaml: &str, expected: Expect) {
        let case: Case = serde_saphyr::from_str(yaml).expect(yaml);
        let cron: CronJob = object(&format!(
            "{{metadata: {{name: tick, namespace: d, uid: u, creationTimestamp: '2026-01-31T11:59:30Z'}}, spec: {{schedule: '{}', jobTemplate: {{metadata: {{labels: {{a: b}}}}, spec: {{template: {{}}}}}}, {}}}, status: {{{}}}}}",
            case.schedule, case.spec, case.status
        ));
        let jobs = case.jobs.iter().map(|text| job(text)).collect();
        expected.assert_eq(&reconcile(&Observed { cron: Arc::new(cron), jobs }, now()).to_string());
    }

    #[test]
    fn a_job_is_started_when_due() {
        check(
            "{spec: 'timeZone: Europe/Berlin'}",
            expect![[r#"
            create jobs d/tick-29497680 {"metadata":{"annotations":{"batch.kubernetes.io/cronjob-scheduled-timestamp":"2026-01-31T13:00:00+01:00"},"labels":{"a":"b"},"ownerReferences":[{"apiVersion":"batch/v1","blockOwnerDeletion":true,"controller":true,"kind":"CronJob","name":"tick","uid":"u"}]},"spec":{"template":{}}} [SuccessfulCreate: Created job tick-29497680]
            update cronjobs/status d/tick {"lastScheduleTime":"2026-01-31T12:00:00Z"}
            look again in 60 s
        "#]],
        );
    }

    #[test]
    fn what_is_started_is_active_until_it_ends() {
        check(
            "{spec: 'suspend: false', status: \"lastScheduleTime: '2026-01-31T12:00:00Z'\", jobs: [tick-29497680 running]}",
            expect![[r#"
                update cronjobs/status d/tick {"active":[{"apiVersion":"batch/v1","kind":"Job","name":"tick-29497680","namespace":"d","uid":"tick-29497680-uid"}],"lastScheduleTime":"2026-01-31T12:00:00Z"}
                look again in 60 s
            "#]],
        );
        check(
            "{spec: 'suspend: false', status: \"lastScheduleTime: '2026-01-31T12:00:00Z', active: [{name: a, uid: a-uid}, {name: b, uid: b-uid}]\", jobs: [a complete, other running]}",
            expect![[r#"
                update cronjobs/status d/tick {"lastScheduleTime":"2026-01-31T12:00:00Z","lastSuccessfulTime":"2026-01-31T11:59:00Z"}
                tell [SawCompletedJob: Saw completed job: a, condition: Complete]
                tell [UnexpectedJob: Saw a job that the controller did not create or forgot: other]
                tell [MissingJob: Active job went missing: b]
                look again in 60 s
            "#]],
        );
    }

    #[test]
    fn concurrency_is_kept_in_bounds() {
        let status = "status: 'active: [{name: old, uid: old-uid}]', jobs: [old running]";
        check(
            &format!("{{spec: 'concurrencyPolicy: Forbid', {status}}}"),
            expect![[r#"
            tell [JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid]
            look again in 60 s
        "#]],
        );
        check(
            &format!("{{spec: 'concurrencyPolicy: Replace', {status}}}"),
            expect![[r#"
            delete jobs d/old [SuccessfulDelete: Deleted job old]
            create jobs d/tick-29497680 {"metadata":{"annotations":{"batch.kubernetes.io/cronjob-scheduled-timestamp":"2026-01-31T12:00:00Z"},"labels":{"a":"b"},"ownerReferences":[{"apiVersion":"batch/v1","blockOwnerDeletion":true,"controller":true,"kind":"CronJob","name":"tick","uid":"u"}]},"spec":{"template":{}}} [SuccessfulCreate: Created job tick-29497680]
            update cronjobs/status d/tick {"lastScheduleTime":"2026-01-31T12:00:00Z"}
            look again in 60 s
        "#]],
        );
    }

    #[test]
    fn history_is_trimmed() {
        check(
            "{spec: 'suspend: true, successfulJobsHistoryLimit: 1', status: \"lastSuccessfulTime: '2026-01-31T11:59:00Z'\", jobs: [a complete, b complete, c failed, e failed]}",
            expect![[r#"
                delete jobs d/c [SuccessfulDelete: Deleted job c]
                delete jobs d/a [SuccessfulDelete: Deleted job a]
            "#]],
        );
    }

    #[test]
    fn what_cannot_be_followed_is_told() {
        check(
            "{spec: 'timeZone: Mars/Base'}",
            expect![[r#"
            tell [UnknownTimeZone: invalid timeZone: "Mars/Base": unknown time zone Mars/Base]
        "#]],
        );
        check(
            "{spec: \"startingDeadlineSeconds: 10, timeZone: Asia/Kolkata\", schedule: 58 * * * *, status: \"lastScheduleTime: '2026-01-31T10:58:00Z'\"}",
            expect![[r#"
                look again in 1680 s
            "#]],
        );
    }
}
