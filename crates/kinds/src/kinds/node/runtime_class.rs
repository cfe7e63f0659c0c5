//! `node.k8s.io/v1` RuntimeClass: how a node runs a Pod's containers.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{affinity_check, pod_warnings, resource_check, table};

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
    warnings,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.str_at(&["handler"]), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let handler = At::top(object, "handler");
    faults.needs_name(&handler, names::check_dns_label);
    let overhead = At::top(object, "overhead");
    for (name, quantity) in overhead.get("podFixed").entries() {
        // As upstream has it, the overhead is told of as if it were limits.
        let at = quantity.renamed(overhead.path().child("podFixed").child("limits").key(name));
        resource_check::container_name(&mut faults, name, &at);
        resource_check::quantity(&mut faults, name, &at);
    }
    let scheduling = At::top(object, "scheduling");
    faults.labels(&scheduling.get("nodeSelector"));
    let tolerations = scheduling.get("tolerations");
    affinity_check::tolerations(&mut faults, &tolerations);
    let all = tolerations.items();
    for (index, toleration) in all.iter().enumerate() {
        if all[..index].iter().any(|other| other.value() == toleration.value()) {
            faults.duplicate(toleration);
        }
    }
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.immutable(&At::top(new, "handler"), &At::top(old, "handler"));
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    let labels = object.map_at(&["scheduling", "nodeSelector"]).into_iter().flatten();
    let old = labels.filter_map(|(label, _)| pod_warnings::old_node_label(label));
    old.map(|words| format!("scheduling.nodeSelector: {words}")).collect()
}
