//! `scheduling.k8s.io/v1alpha2` PodGroup: Pods that are scheduled as one. It has to be asked for.
//! See <https://kubernetes.io/docs/concepts/workloads/podgroup-api/>.

use serde_json::Value;
use skiff_base::{Timestamp, gates};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names, validate as object_rules};

use crate::base::{ALL_METADATA, BASE, list, text};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{group_check, table, tree};

/// `podgroups`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("scheduling.k8s.io"),
    version: text("v1alpha2"),
    gate: text(gates::GENERIC_WORKLOAD),
    plural: text("podgroups"),
    singular: text("podgroup"),
    kind: text("PodGroup"),
    list_kind: text("PodGroupList"),
    schema: text("io.k8s.api.scheduling.v1alpha2.PodGroup"),
    subresources: list![Subresource::Status],
    status_keeps: ALL_METADATA,
    columns: list![
        NAME,
        column("Policy", "string", "How its Pods are scheduled."),
        column("Workload", "string", "The Workload that it was made from."),
        column("Status", "string", "Whether the group is scheduled."),
        AGE,
    ],
    default: defaults,
    row,
    validate,
    validate_update,
    ..BASE
};

fn defaults(object: &mut Object) {
    if let Some(spec) = tree::node_mut(object, &["spec"]).filter(|node| node.is_object()) {
        spec.default_at(&["disruptionMode"], "Pod");
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let is_gang = object.at(&["spec", "schedulingPolicy", "gang"]).is_some_and(Value::is_object);
    let conditions = object.list_at(&["status", "conditions"]);
    let condition = |name: &str| conditions.iter().rev().find(|condition| condition.str_at(&["type"]) == name);
    let status = match (condition("DisruptionTarget"), condition("PodGroupScheduled")) {
        (Some(target), _) => target.str_at(&["reason"]),
        (None, Some(scheduled)) if scheduled.str_at(&["status"]) == "True" => "Scheduled",
        (None, Some(_)) => "Unschedulable",
        (None, None) => "Pending",
    };
    let workload = ["spec", "podGroupTemplateRef", "workload", "workloadName"];
    cells![
        object.name(),
        if is_gang { "Gang" } else { "Basic" },
        table::text_or(object, &workload, table::NONE),
        status,
        table::age(object, now),
    ]
}

fn validate(context: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    // No part of a group changes once it is there.
    if !context.subresource.is_empty() || !object.resource_version().is_empty() {
        return faults.into_list();
    }
    let template = spec.get("podGroupTemplateRef");
    if template.is_set() {
        group_check::one_of(&mut faults, &template, &["workload"]);
        let workload = template.get("workload");
        if workload.is_set() {
            faults.needs_name(&workload.get("workloadName"), names::check_dns_subdomain);
            faults.needs_name(&workload.get("podGroupTemplateName"), names::check_dns_label);
        }
    }
    group_check::group(&mut faults, &spec);
    faults.into_list()
}

/// What never changes.
const FIXED: [&str; 6] = [
    "podGroupTemplateRef",
    "schedulingPolicy",
    "schedulingConstraints",
    "disruptionMode",
    "priorityClassName",
    "priority",
];

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        let path = At::top(new, "status").get("conditions");
        faults.extend(object_rules::conditions(new.list_at(&["status", "conditions"]), path.path()));
    } else {
        group_check::unchanged(&mut faults, &At::top(new, "spec"), &At::top(old, "spec"), &FIXED);
    }
    faults.into_list()
}
