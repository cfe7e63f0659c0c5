//! `events.k8s.io/v1` Event: something that happened to an object.

use crate::base::{BASE, selectable, text, texts};
use crate::def::ResourceDef;
use crate::rules::event_rules;

/// `events`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("events.k8s.io"),
    plural: text("events"),
    singular: text("event"),
    kind: text("Event"),
    list_kind: text("EventList"),
    short_names: texts!["ev"],
    schema: text("io.k8s.api.events.v1.Event"),
    storage: Some((text(""), text("v1"))),
    create_on_update: true,
    relaxed_durability: true,
    // In the order of the core group's, with which it shares its storage.
    selectable: selectable![
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "deprecatedSource.component",
        "type",
    ],
    columns: event_rules::COLUMNS,
    row: event_rules::row,
    validate: event_rules::validate,
    validate_update: event_rules::validate_update,
    ..BASE
};
