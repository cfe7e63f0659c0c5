//! `policy/v1` PodDisruptionBudget: how many Pods of a set may be taken down at once.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{quota_check, status_check, table};

/// `poddisruptionbudgets`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("policy"),
    plural: text("poddisruptionbudgets"),
    singular: text("poddisruptionbudget"),
    kind: text("PodDisruptionBudget"),
    list_kind: text("PodDisruptionBudgetList"),
    short_names: texts!["pdb"],
    schema: text("io.k8s.api.policy.v1.PodDisruptionBudget"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    columns: list![
        NAME,
        column("Min Available", "string", "How many Pods must stay."),
        column("Max Unavailable", "string", "How many Pods may go."),
        column("Allowed Disruptions", "integer", "How many Pods may go now."),
        AGE,
    ],
    row,
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![
        object.name(),
        table::scalar_or(object, &["spec", "minAvailable"], table::NOT_APPLICABLE),
        table::scalar_or(object, &["spec", "maxUnavailable"], table::NOT_APPLICABLE),
        table::number(object, &["status", "disruptionsAllowed"]),
        table::age(object, now),
    ]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    quota_check::budget(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}

fn validate_update(context: &Context, new: &Object, _: &Object) -> ErrorList {
    let (status, mut faults) = (At::top(new, "status"), Faults::new());
    if context.subresource == "status" {
        let conditions = status.get("conditions");
        let list = conditions.value().as_array().map_or(&[][..], Vec::as_slice);
        faults.extend(skiff_object::validate::conditions(list, conditions.path()));
        let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        status_check::counts(&mut faults, &status, &counts);
    }
    faults.into_list()
}
