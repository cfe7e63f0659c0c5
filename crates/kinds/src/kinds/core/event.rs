//! `v1` Event: something that happened to an object.

use crate::base::{BASE, selectable, text, texts};
use crate::def::ResourceDef;
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
    ..BASE
};
