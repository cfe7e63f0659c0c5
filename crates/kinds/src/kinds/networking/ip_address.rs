//! `networking.k8s.io/v1` IPAddress: one allocated Service address.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{GroupResource, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope};
use crate::rules::table;
use crate::rules::table::{NAME, cells, column};

/// `ipaddresses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("ipaddresses"),
    singular: text("ipaddress"),
    kind: text("IPAddress"),
    list_kind: text("IPAddressList"),
    short_names: texts!["ip"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.networking.v1.IPAddress"),
    columns: list![NAME, column("ParentRef", "string", "What the address belongs to.")],
    row: row,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, _: Timestamp) -> Vec<Value> {
    let parent = object.at(&["spec", "parentRef"]).map(|parent| {
        let resource = GroupResource::new(parent.str_at(&["group"]), parent.str_at(&["resource"]));
        match (parent.str_at(&["namespace"]), parent.str_at(&["name"])) {
            ("", name) => format!("{resource}/{name}"),
            (namespace, name) => format!("{resource}/{namespace}/{name}"),
        }
    });
    cells![object.name(), parent.unwrap_or_else(|| table::NONE.to_owned())]
}
