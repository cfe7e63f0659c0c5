//! `v1` ReplicationController: keeps a number of Pods running; the elder of ReplicaSet.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, scale, selectable, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{pod_check, pod_defaults, pod_warnings, status_check, table, tree, workload_check};

/// `replicationcontrollers`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("replicationcontrollers"),
    singular: text("replicationcontroller"),
    kind: text("ReplicationController"),
    list_kind: text("ReplicationControllerList"),
    short_names: texts!["rc"],
    categories: texts!["all"],
    schema: text("io.k8s.api.core.v1.ReplicationController"),
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

/// The selector and the labels are those of the template, where they are left out.
fn defaults(object: &mut Object) {
    pod_defaults::template(object, &["spec", "template"]);
    object.default_at(&["spec", "replicas"], 1);
    let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels.filter(|labels| !tree::is_blank(Some(labels))) {
        for path in [&["spec", "selector"], &["metadata", "labels"]] {
            if tree::is_blank(object.at(path)) {
                object.set_at(path, labels.clone());
            }
        }
    }
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
        table::labels_text(object.at(&["spec", "selector"])),
    ]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    faults.non_negative(&spec.get("minReadySeconds"));
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.is_blank() {
        faults.required(&selector, "");
    }
    faults.non_negative(&spec.get("replicas"));
    if !template.is_set() {
        faults.required(&template, "");
        return faults.into_list();
    }
    let labels = template.walk(&["metadata", "labels"]);
    if selector.entries().iter().any(|(key, value)| labels.get(key).text() != value.text()) {
        workload_check::mismatch(&mut faults, &template);
    }
    pod_check::template(&mut faults, &template);
    workload_check::always_restarting(&mut faults, &template, "ReplicationController");
    faults.into_list()
}

fn validate_update(context: &Context, new: &Object, _: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        status_check::replicas(&mut faults, &At::top(new, "status"), &["fullyLabeledReplicas"]);
    }
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["spec", "template"])
}
