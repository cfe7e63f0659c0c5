//! `apps/v1` ControllerRevision: one recorded state of a workload's template.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, GroupKind, Object};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

/// `controllerrevisions`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("controllerrevisions"),
    singular: text("controllerrevision"),
    kind: text("ControllerRevision"),
    list_kind: text("ControllerRevisionList"),
    schema: text("io.k8s.api.apps.v1.ControllerRevision"),
    columns: list![
        NAME,
        column("Controller", "string", "What the revision belongs to."),
        column("Revision", "string", "The number of the revision."),
        AGE,
    ],
    row,
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let owners = object.list_at(&["metadata", "ownerReferences"]).iter();
    let controller =
        owners.clone().find(|owner| owner.bool_at(&["controller"])).map_or(table::NONE.to_owned(), |owner| {
            let group = owner.str_at(&["apiVersion"]).rsplit_once('/').map_or("", |(group, _)| group);
            let kind = GroupKind::new(group, owner.str_at(&["kind"])).to_string().to_lowercase();
            format!("{kind}/{}", owner.str_at(&["name"]))
        });
    cells![object.name(), controller, table::number(object, &["revision"]), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let (data, revision) = (At::top(object, "data"), At::top(object, "revision"));
    if !data.is_set() {
        faults.required(&data, "data is mandatory");
    } else if !data.value().is_object() {
        faults.invalid(&data, "error validating data as an object");
    }
    faults.non_negative(&revision);
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.immutable(&At::top(new, "data"), &At::top(old, "data"));
    faults.into_list()
}
