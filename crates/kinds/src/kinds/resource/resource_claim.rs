//! `resource.k8s.io/v1` ResourceClaim: a request for devices.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{ALL_METADATA, BASE, list, text};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{device_check, table, tree};

/// `resourceclaims`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("resource.k8s.io"),
    plural: text("resourceclaims"),
    singular: text("resourceclaim"),
    kind: text("ResourceClaim"),
    list_kind: text("ResourceClaimList"),
    schema: text("io.k8s.api.resource.v1.ResourceClaim"),
    subresources: list![Subresource::Status],
    columns: list![NAME, column("State", "string", "Whether devices are allocated, and reserved for Pods."), AGE],
    default: defaults,
    row,
    validate,
    validate_update,
    status_keeps: ALL_METADATA,
    ..BASE
};

fn defaults(object: &mut Object) {
    if let Some(spec) = tree::node_mut(object, &["spec"]).filter(|node| node.is_object()) {
        spec_defaults(spec);
    }
}

/// The defaults of a claim's specification, also within a template.
pub(super) fn spec_defaults(spec: &mut Value) {
    for request in tree::items_mut(spec, &["devices", "requests"]) {
        if let Some(exact) = tree::node_mut(request, &["exactly"]).filter(|node| node.is_object()) {
            request_defaults(exact);
        }
        tree::items_mut(request, &["firstAvailable"]).for_each(request_defaults);
    }
}

fn request_defaults(request: &mut Value) {
    tree::default_text(request, &["allocationMode"], "ExactCount");
    if request.str_at(&["allocationMode"]) == "ExactCount" && table::number(request, &["count"]) == 0 {
        request.set_at(&["count"], 1);
    }
    for toleration in tree::items_mut(request, &["tolerations"]) {
        tree::default_text(toleration, &["operator"], "Equal");
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let mut states = Vec::new();
    if object.is_deleting() {
        states.push("deleted");
    }
    if object.at(&["status", "allocation"]).is_some() {
        states.push("allocated");
        if !object.list_at(&["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
    } else if !object.is_deleting() {
        states.push("pending");
    }
    cells![object.name(), states.join(","), table::age(object, now)]
}

fn validate(context: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource != "status" {
        device_check::claim(&mut faults, &At::top(object, "spec"));
    }
    faults.into_list()
}

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(new, "spec"), Faults::new());
    if context.subresource == "status" {
        let (status, was) = (At::top(new, "status"), At::top(old, "status"));
        device_check::claim_status(&mut faults, &status, &was, &spec.get("devices"), old.is_deleting());
    } else {
        faults.immutable(&spec, &At::top(old, "spec"));
    }
    faults.into_list()
}
