//! `networking.k8s.io/v1` NetworkPolicy: which traffic Pods may have.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{network_check, table, tree};

/// `networkpolicies`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("networkpolicies"),
    singular: text("networkpolicy"),
    kind: text("NetworkPolicy"),
    list_kind: text("NetworkPolicyList"),
    short_names: texts!["netpol"],
    schema: text("io.k8s.api.networking.v1.NetworkPolicy"),
    has_generation: true,
    columns: list![NAME, column("Pod-Selector", "string", "The labels of the Pods that it holds for."), AGE],
    default: defaults,
    row,
    validate,
    ..BASE
};

fn defaults(object: &mut Object) {
    for direction in ["ingress", "egress"] {
        for rule in tree::items_mut(object, &["spec", direction]) {
            for port in tree::items_mut(rule, &["ports"]) {
                tree::default_text(port, &["protocol"], "TCP");
            }
        }
    }
    let spec = tree::made_mut(object, &["spec"]);
    if tree::is_blank(spec.get("policyTypes")) {
        let has_egress = !spec.list_at(&["egress"]).is_empty();
        spec.set_at(&["policyTypes"], if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let selector = table::selector_text(object.at(&["spec", "podSelector"]));
    cells![object.name(), selector, table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    network_check::network_policy(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}
