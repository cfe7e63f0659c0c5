//! `networking.k8s.io/v1` IPAddress: one allocated Service address.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, GroupResource, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
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
    row,
    validate,
    validate_update,
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

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let name = At::top(object, "metadata").get("name");
    let parsed: Result<std::net::IpAddr, _> = name.text().parse();
    if parsed.is_ok_and(|ip| ip.to_string() != name.text()) {
        faults.invalid(&name, "must be a canonical IP address");
    }
    let parent = At::top(object, "spec").get("parentRef");
    if faults.needs(&parent) {
        faults.needs(&parent.get("resource"));
        faults.needs(&parent.get("name"));
    }
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let parent = |object| At::top(object, "spec").get("parentRef");
    faults.immutable(&parent(new), &parent(old));
    faults.into_list()
}
