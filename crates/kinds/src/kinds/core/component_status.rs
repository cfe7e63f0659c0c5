//! `v1` ComponentStatus: the health of control plane parts, computed when it is read.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope};
use crate::rules::table::{NAME, cells, column};

/// `componentstatuses`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("componentstatuses"),
    singular: text("componentstatus"),
    kind: text("ComponentStatus"),
    list_kind: text("ComponentStatusList"),
    short_names: texts!["cs"],
    scope: Scope::Cluster,
    verbs: texts!["get", "list"],
    schema: text("io.k8s.api.core.v1.ComponentStatus"),
    stored: false,
    columns: list![
        NAME,
        column("Status", "string", "Whether the part is healthy."),
        column("Message", "string", "What the part says."),
        column("Error", "string", "What is wrong with it."),
    ],
    row,
    deprecation: text("v1 ComponentStatus is deprecated in v1.19+"),
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, _: Timestamp) -> Vec<Value> {
    let healthy = object.list_at(&["conditions"]).iter().find(|condition| condition.str_at(&["type"]) == "Healthy");
    let text = |field: &str| healthy.map_or("", |condition| condition.str_at(&[field]));
    let status = match text("status") {
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    cells![object.name(), status, text("message"), text("error")]
}
