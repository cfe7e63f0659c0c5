//! `v1` PodTemplate: a description of Pods to be.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table::{NAME, cells, column};
use crate::rules::{pod_check, pod_defaults, pod_warnings, table};

/// `podtemplates`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("podtemplates"),
    singular: text("podtemplate"),
    kind: text("PodTemplate"),
    list_kind: text("PodTemplateList"),
    schema: text("io.k8s.api.core.v1.PodTemplate"),
    has_generation: true,
    columns: list![
        NAME,
        column("Containers", "string", "The names of the containers."),
        column("Images", "string", "The images of the containers."),
        column("Pod Labels", "string", "The labels of the Pods."),
    ],
    default: defaults,
    row,
    validate,
    warnings,
    ..BASE
};

fn defaults(object: &mut Object) {
    pod_defaults::template(object, &["template"]);
}

fn row(_: &ResourceDef, object: &Object, _: Timestamp) -> Vec<Value> {
    let (names, images) = object.at(&["template", "spec"]).map(table::containers_and_images).unwrap_or_default();
    cells![object.name(), names, images, table::labels_text(object.at(&["template", "metadata", "labels"]))]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    pod_check::template(&mut faults, &At::top(object, "template"));
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    pod_warnings::template(object, &["template"])
}
