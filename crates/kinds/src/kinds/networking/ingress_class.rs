//! `networking.k8s.io/v1` IngressClass: who implements an Ingress.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{GroupKind, Object};

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{table, tree};

/// `ingressclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("ingressclasses"),
    singular: text("ingressclass"),
    kind: text("IngressClass"),
    list_kind: text("IngressClassList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.networking.v1.IngressClass"),
    has_generation: true,
    columns: list![
        NAME,
        column("Controller", "string", "What serves the class."),
        column("Parameters", "string", "The object with the controller's settings."),
        AGE,
    ],
    default: defaults,
    row: row,
    ..BASE
};

fn defaults(object: &mut Object) {
    if let Some(parameters) = tree::node_mut(object, &["spec", "parameters"]).filter(|node| node.is_object()) {
        tree::default_text(parameters, &["scope"], "Cluster");
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let parameters = object.at(&["spec", "parameters"]).map(|parameters| {
        let kind = GroupKind::new(parameters.str_at(&["apiGroup"]), parameters.str_at(&["kind"]));
        format!("{kind}/{}", parameters.str_at(&["name"]))
    });
    let parameters = parameters.unwrap_or_else(|| table::NONE.to_owned());
    cells![object.name(), object.str_at(&["spec", "controller"]), parameters, table::age(object, now)]
}
