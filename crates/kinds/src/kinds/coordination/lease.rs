//! `coordination.k8s.io/v1` Lease: a lock or a heartbeat with a term.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

/// `leases`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("coordination.k8s.io"),
    plural: text("leases"),
    singular: text("lease"),
    kind: text("Lease"),
    list_kind: text("LeaseList"),
    schema: text("io.k8s.api.coordination.v1.Lease"),
    create_on_update: true,
    unconditional_update: false,
    relaxed_durability: true,
    columns: list![NAME, column("Holder", "string", "Who holds it."), AGE],
    row,
    validate,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.str_at(&["spec", "holderIdentity"]), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let spec = At::top(object, "spec");
    let seconds = spec.get("leaseDurationSeconds");
    if seconds.int().is_some_and(|seconds| seconds <= 0) {
        faults.invalid(&seconds, "must be greater than 0");
    }
    let transitions = spec.get("leaseTransitions");
    if transitions.int().is_some_and(|count| count < 0) {
        faults.invalid(&transitions, "must be greater than or equal to 0");
    }
    let strategy = spec.get("strategy");
    if strategy.is_set() {
        let known = strategy.text() == "OldestEmulationVersion";
        if !known && strategy.text().contains('/') {
            faults.all_invalid(&strategy, skiff_object::names::check_label_key(strategy.text()));
        } else if !known {
            faults.not_supported(&strategy, &["OldestEmulationVersion"]);
        }
    }
    if spec.get("preferredHolder").is_set() && strategy.is_blank() {
        faults.forbidden(&spec.get("preferredHolder"), "may only be specified when `strategy` is defined");
    }
    let holder = spec.get("holderIdentity");
    if holder.is_set() && holder.is_blank() {
        faults.invalid(&holder, "must not be empty");
    }
    faults.into_list()
}
