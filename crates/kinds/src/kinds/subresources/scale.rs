//! `autoscaling/v1` Scale: the wanted and observed number of a workload's Pods.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

/// `Scale`, served below other resources only.
pub static DEF: ResourceDef = ResourceDef {
    group: text("autoscaling"),
    kind: text("Scale"),
    verbs: texts![],
    schema: text("io.k8s.api.autoscaling.v1.Scale"),
    stored: false,
    columns: list![
        NAME,
        column("Desired", "integer", "The number that is wanted."),
        column("Available", "integer", "The number there is."),
        AGE,
    ],
    row,
    validate,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let (wanted, current) =
        (table::number(object, &["spec", "replicas"]), table::number(object, &["status", "replicas"]));
    cells![object.name(), wanted, current, table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.non_negative(&At::top(object, "spec").get("replicas"));
    faults.into_list()
}
