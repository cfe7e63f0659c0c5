//! `scheduling.k8s.io/v1` PriorityClass: a name for a scheduling priority.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
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
    row,
    validate,
    validate_update,
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

/// The greatest priority that is not the system's own.
const VALUE_LIMIT: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let (name, value) = (At::top(object, "metadata").get("name"), At::top(object, "value"));
    if name.text().starts_with("system-") {
        if !SYSTEM_CLASSES.contains(&(name.text(), value.int().unwrap_or(0))) {
            let why = format!("{} is not a known system priority class", name.text());
            let words = "priority class names with 'system-' prefix are reserved for system use only. error: ";
            faults.forbidden(&name, format!("{words}{why}"));
        }
    } else if value.int().unwrap_or(0) > VALUE_LIMIT {
        faults.forbidden(&value, format!("maximum allowed value of a user defined priority is {VALUE_LIMIT}"));
    }
    faults.choice(&At::top(object, "preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if At::top(new, "value").int() != At::top(old, "value").int() {
        faults.forbidden(&At::top(new, "value"), "may not be changed in an update.");
    }
    faults.immutable(&At::top(new, "preemptionPolicy"), &At::top(old, "preemptionPolicy"));
    faults.into_list()
}
