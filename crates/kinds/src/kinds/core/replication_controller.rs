//! `v1` ReplicationController: keeps a number of Pods running; the elder of ReplicaSet.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, scale, selectable, text, texts};
use crate::def::{ResourceDef, Subresource};
use crate::rules::table::{AGE, CONTAINERS, IMAGES, NAME, SELECTOR, cells, column};
use crate::rules::{pod_defaults, table, tree};

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
    row: row,
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
