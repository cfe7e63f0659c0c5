//! `batch/v1` Job: runs Pods until enough of them succeeded.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `jobs`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("batch"),
    plural: text("jobs"),
    singular: text("job"),
    kind: text("Job"),
    list_kind: text("JobList"),
    categories: texts!["all"],
    schema: text("io.k8s.api.batch.v1.Job"),
    subresources: list![Subresource::Status],
    has_generation: true,
    ..BASE
};
