//! `v1` Event: something that happened to an object.

use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, selectable, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::event_rules;

/// `events`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("events"),
    singular: text("event"),
    kind: text("Event"),
    list_kind: text("EventList"),
    short_names: texts!["ev"],
    schema: text("io.k8s.api.core.v1.Event"),
    create_on_update: true,
    relaxed_durability: true,
    selectable: selectable![
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "type",
    ],
    columns: event_rules::COLUMNS,
    row: event_rules::row,
    validate,
    ..BASE
};

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let involved = At::top(object, "involvedObject").get("namespace");
    let namespace = if involved.is_blank() { "default" } else { involved.text() };
    if namespace != object.namespace() && !(involved.is_blank() && object.namespace() == "kube-system") {
        faults.invalid_as(&involved, involved.text(), "does not match event.namespace");
    }
    faults.into_list()
}
