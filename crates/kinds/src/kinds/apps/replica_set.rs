//! `apps/v1` ReplicaSet: keeps a number of Pods running.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, scale, selectable, text, texts};
use crate::def::{ResourceDef, Subresource};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{pod_defaults, table};

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
    row: row,
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
