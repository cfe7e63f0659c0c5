//! `networking.k8s.io/v1` ServiceCIDR: a range that Service addresses come from.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope, Subresource};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

/// `servicecidrs`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("servicecidrs"),
    singular: text("servicecidr"),
    kind: text("ServiceCIDR"),
    list_kind: text("ServiceCIDRList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.networking.v1.ServiceCIDR"),
    subresources: list![Subresource::Status],
    columns: list![NAME, column("CIDRs", "string", "The ranges of addresses."), AGE],
    row: row,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), table::joined(object.list_at(&["spec", "cidrs"])), table::age(object, now)]
}
