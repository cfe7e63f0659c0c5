//! `node.k8s.io/v1` RuntimeClass: how a node runs a Pod's containers.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{affinity_check, table};

/// `runtimeclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("node.k8s.io"),
    plural: text("runtimeclasses"),
    singular: text("runtimeclass"),
    kind: text("RuntimeClass"),
    list_kind: text("RuntimeClassList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.node.v1.RuntimeClass"),
    unconditional_update: false,
    columns: list![NAME, column("Handler", "string", "The configuration of the node's runtime."), AGE],
    row,
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.str_at(&["handler"]), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let handler = At::top(object, "handler");
    faults.needs_name(&handler, names::check_dns_label);
    for (_, quantity) in At::top(object, "overhead").get("podFixed").entries() {
        faults.non_negative_quantity(&quantity);
    }
    faults.labels(&At::top(object, "scheduling").get("nodeSelector"));
    affinity_check::tolerations(&mut faults, &At::top(object, "scheduling").get("tolerations"));
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.immutable(&At::top(new, "handler"), &At::top(old, "handler"));
    faults.into_list()
}
