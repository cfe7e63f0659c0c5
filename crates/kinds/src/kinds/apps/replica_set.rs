//! `apps/v1` ReplicaSet: keeps a number of Pods running.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, scale, selectable, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{pod_defaults, pod_warnings, status_check, table, workload_check};

/// `replicasets`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("replicasets"),
    singular: text("replicaset"),
    kind: text("ReplicaSet"),
    list_kind: text("ReplicaSetList"),
    short_names: texts!["rs"],
    categories: texts!["all"],
    schema: text("io.k8s.api.apps.v1.ReplicaSet"),
    subresources: list![scale(".spec.selector"), Subresource::Status,],
    has_generation: true,
    selectable: selectable!["status.replicas"],
    columns: list![
        NAME,
        column("Desired", "integer", "The number of Pods that is wanted."),
        column("Current", "integer", "The number of Pods there are."),
        column("Ready", "integer", "The number of Pods that are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    default: defaults,
    row,
    validate,
    validate_update,
    warnings,
    ..BASE
};

fn defaults(object: &mut Object) {
    pod_defaults::template(object, &["spec", "template"]);
    object.default_at(&["spec", "replicas"], 1);
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let (names, images) = table::template_containers(object);
    cells![
        object.name(),
        table::number(object, &["spec", "replicas"]),
        table::number(object, &["status", "replicas"]),
        table::number(object, &["status", "readyReplicas"]),
        table::age(object, now),
        names,
        images,
        table::selector_text(object.at(&["spec", "selector"])),
    ]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    workload_check::replica_set(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        status_check::replicas(&mut faults, &At::top(new, "status"), &["fullyLabeledReplicas"]);
        return faults.into_list();
    }
    faults.immutable(&At::top(new, "spec").get("selector"), &At::top(old, "spec").get("selector"));
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["spec", "template"])
}
