//! `batch/v1` CronJob: makes Jobs by the clock.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};

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
    ..BASE
};
