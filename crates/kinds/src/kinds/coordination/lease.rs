//! `coordination.k8s.io/v1` Lease: a lock or a heartbeat with a term.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text};
use crate::def::ResourceDef;
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

/// `leases`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("coordination.k8s.io"),
    plural: text("leases"),
    singular: text("lease"),
    kind: text("Lease"),
    list_kind: text("LeaseList"),
    schema: text("io.k8s.api.coordination.v1.Lease"),
    create_on_update: true,
    unconditional_update: false,
    relaxed_durability: true,
    columns: list![NAME, column("Holder", "string", "Who holds it."), AGE],
    row: row,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.str_at(&["spec", "holderIdentity"]), table::age(object, now)]
}
