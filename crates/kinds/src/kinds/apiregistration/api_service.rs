//! `apiregistration.k8s.io/v1` APIService: a group and version, and who serves it.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope, Subresource};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{table, tree};

/// `apiservices`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apiregistration.k8s.io"),
    plural: text("apiservices"),
    singular: text("apiservice"),
    kind: text("APIService"),
    list_kind: text("APIServiceList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService"),
    subresources: list![Subresource::Status],
    unconditional_update: false,
    columns: list![
        NAME,
        column("Service", "string", "What serves the version."),
        column("Available", "string", "Whether it can be reached."),
        AGE,
    ],
    default: defaults,
    row: row,
    ..BASE
};

const HTTPS_PORT: i64 = 443;

fn defaults(object: &mut Object) {
    if let Some(service) = tree::node_mut(object, &["spec", "service"]).filter(|node| node.is_object()) {
        service.default_at(&["port"], HTTPS_PORT);
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let service = object.at(&["spec", "service"]).map_or_else(
        || "Local".to_owned(),
        |service| format!("{}/{}", service.str_at(&["namespace"]), service.str_at(&["name"])),
    );
    let available = table::condition(object, "Available").map_or_else(
        || "Unknown".to_owned(),
        |condition| match condition.str_at(&["status"]) {
            "True" => "True".to_owned(),
            status => format!("{status} ({})", condition.str_at(&["reason"])),
        },
    );
    cells![object.name(), service, available, table::age(object, now)]
}
