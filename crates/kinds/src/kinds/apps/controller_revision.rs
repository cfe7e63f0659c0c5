//! `apps/v1` ControllerRevision: one recorded state of a workload's template.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{GroupKind, Object};

use crate::base::{BASE, list, text};
use crate::def::ResourceDef;
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
