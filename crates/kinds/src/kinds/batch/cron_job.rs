//! `batch/v1` CronJob: makes Jobs by the clock.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{pod_defaults, table, tree};

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
    row: row,
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
