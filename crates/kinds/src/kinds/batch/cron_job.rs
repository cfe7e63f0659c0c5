//! `batch/v1` CronJob: makes Jobs by the clock.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{cron, job_check, pod_defaults, pod_warnings, table, tree};

/// `cronjobs`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("batch"),
    plural: text("cronjobs"),
    singular: text("cronjob"),
    kind: text("CronJob"),
    list_kind: text("CronJobList"),
    short_names: texts!["cj"],
    categories: texts!["all"],
    schema: text("io.k8s.api.batch.v1.CronJob"),
    subresources: list![Subresource::Status],
    has_generation: true,
    columns: list![
        NAME,
        column("Schedule", "string", "When jobs are started."),
        column("Timezone", "string", "The time zone of the schedule."),
        column("Suspend", "boolean", "Whether no further jobs are started."),
        column("Active", "integer", "The number of jobs that run."),
        column("Last Schedule", "string", "The time since a job was last started."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    default: defaults,
    row,
    validate,
    name_rule: cron_job_name,
    warnings,
    ..BASE
};

const SUCCESSFUL_JOBS_HISTORY_LIMIT: i64 = 3;
const FAILED_JOBS_HISTORY_LIMIT: i64 = 1;

fn defaults(object: &mut Object) {
    pod_defaults::template(object, &["spec", "jobTemplate", "spec", "template"]);
    let spec = tree::made_mut(object, &["spec"]);
    tree::default_text(spec, &["concurrencyPolicy"], "Allow");
    spec.default_at(&["suspend"], false);
    spec.default_at(&["successfulJobsHistoryLimit"], SUCCESSFUL_JOBS_HISTORY_LIMIT);
    spec.default_at(&["failedJobsHistoryLimit"], FAILED_JOBS_HISTORY_LIMIT);
    spec.default_at(&["jobTemplate", "metadata"], tree::empty());
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let pod_spec = object.at(&["spec", "jobTemplate", "spec", "template", "spec"]);
    let (names, images) = pod_spec.map(table::containers_and_images).unwrap_or_default();
    let last = match object.str_at(&["status", "lastScheduleTime"]) {
        "" => table::NONE.to_owned(),
        _ => table::since(object, &["status", "lastScheduleTime"], now),
    };
    cells![
        object.name(),
        object.str_at(&["spec", "schedule"]),
        table::text_or(object, &["spec", "timeZone"], table::NONE),
        table::flag_or_unset(object, &["spec", "suspend"]),
        object.list_at(&["status", "active"]).len(),
        last,
        table::age(object, now),
        names,
        images,
        table::selector_text(object.at(&["spec", "jobTemplate", "spec", "selector"])),
    ]
}

/// Jobs are named after the CronJob with eleven more bytes, and Pods' host names after the Job.
const NAME_LIMIT_BYTES: usize = 52;

fn cron_job_name(name: &str, prefix: bool) -> Vec<String> {
    let mut faults = names::dns_subdomain(name, prefix);
    if name.len() > NAME_LIMIT_BYTES {
        faults.push(names::too_long(NAME_LIMIT_BYTES));
    }
    faults
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    let (schedule, zone) = (spec.get("schedule"), spec.get("timeZone"));
    if faults.needs(&schedule) {
        if let Some(wrong) = cron::fault(schedule.text()) {
            faults.invalid(&schedule, wrong);
        }
        let names_zone = schedule.text().contains("TZ");
        if names_zone && zone.is_set() {
            faults.invalid(&zone, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        } else if names_zone {
            faults.invalid(&schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        }
    }
    if zone.is_set() && zone.is_blank() {
        faults.invalid(&zone, "timeZone must be nil or non-empty string");
    } else if zone.text().eq_ignore_ascii_case("local") {
        let words = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        faults.invalid(&zone, words);
    } else if !zone.text().chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '/' | '_')) {
        faults.invalid(&zone, format!("unknown time zone {}", zone.text()));
    }
    faults.non_negative(&spec.get("startingDeadlineSeconds"));
    faults.needs_choice(&spec.get("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let job = spec.get("jobTemplate");
    faults.labels(&job.walk(&["metadata", "labels"]));
    if job.walk(&["spec", "selector"]).is_set() {
        faults.invalid_as(
            &job.walk(&["spec", "selector"]),
            job.walk(&["spec", "selector"]).value().clone(),
            "`selector` will be auto-generated",
        );
    }
    if job.walk(&["spec", "manualSelector"]).flag() {
        faults.not_supported(&job.walk(&["spec", "manualSelector"]), &["nil", "false"]);
    }
    job_check::spec(&mut faults, &job.get("spec"));
    faults.non_negative(&spec.get("successfulJobsHistoryLimit"));
    faults.non_negative(&spec.get("failedJobsHistoryLimit"));
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["spec", "jobTemplate", "spec", "template"])
}
