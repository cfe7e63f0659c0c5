//! `scheduling.k8s.io/v1` PriorityClass: a name for a scheduling priority.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{table, tree};

/// `priorityclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("scheduling.k8s.io"),
    plural: text("priorityclasses"),
    singular: text("priorityclass"),
    kind: text("PriorityClass"),
    list_kind: text("PriorityClassList"),
    short_names: texts!["pc"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.scheduling.v1.PriorityClass"),
    has_generation: true,
    columns: list![
        NAME,
        column("Value", "integer", "The priority."),
        column("Global-Default", "boolean", "Whether Pods without a class have it."),
        AGE,
        column("PreemptionPolicy", "string", "Whether Pods of the class drive others away."),
    ],
    default: defaults,
    row: row,
    ..BASE
};

fn defaults(object: &mut Object) {
    tree::default_text(object, &["preemptionPolicy"], "PreemptLowerPriority");
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![
        object.name(),
        table::number(object, &["value"]),
        object.bool_at(&["globalDefault"]),
        table::age(object, now),
        table::text_or(object, &["preemptionPolicy"], table::UNSET),
    ]
}
