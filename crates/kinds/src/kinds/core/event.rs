//! `v1` Event: something that happened to an object.

use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, SelectableField};
use crate::rules::check::{At, Faults};
use crate::rules::{event_rules, table};

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
    selectable: list![
        by_path("involvedObject.kind"),
        by_path("involvedObject.namespace"),
        by_path("involvedObject.name"),
        by_path("involvedObject.uid"),
        by_path("involvedObject.apiVersion"),
        by_path("involvedObject.resourceVersion"),
        by_path("involvedObject.fieldPath"),
        by_path("reason"),
        by_path("reportingComponent"),
        SelectableField { path: text("source"), read: Some((&["source", "reportingComponent"], source)) },
        by_path("type"),
    ],
    columns: event_rules::COLUMNS,
    row: event_rules::row,
    validate,
    ..BASE
};

const fn by_path(path: &'static str) -> SelectableField {
    SelectableField { path: text(path), read: None }
}

fn source(event: &Object) -> String {
    table::text_or(event, &["source", "component"], event.str_at(&["reportingComponent"])).to_owned()
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    event_rules::check_namespace(&mut faults, object, &At::top(object, "involvedObject"));
    faults.into_list()
}
