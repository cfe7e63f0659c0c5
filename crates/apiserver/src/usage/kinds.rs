//! The kinds of `metrics.k8s.io`, which are answered and never stored, and what goes with them.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_kinds::base::BASE;
use skiff_kinds::def::Text;
use skiff_kinds::rules::table::NAME;
use skiff_kinds::{Column, ResourceDef, Scope};
use skiff_object::Object;
use skiff_object::meta::Meta;

/// The group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its one version.
pub const VERSION: &str = "v1beta1";
/// The place of the group behind all others, as its usual server registers it.
const PRIORITY: i32 = 100;

/// NodeMetrics and PodMetrics.
pub fn definitions() -> Vec<ResourceDef> {
    let usage = json!({"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true, "type": "string"},
        "description": "The memory usage is the memory working set."});
    let node = json!({"usage": usage});
    let container = json!({"type": "object", "properties": {"name": {"type": "string"}, "usage": usage}});
    let pod = json!({"containers": {"type": "array", "items": container,
        "description": "Metrics for all containers are collected within the same time window."}});
    vec![
        definition("nodes", "NodeMetrics", Scope::Cluster, node),
        definition("pods", "PodMetrics", Scope::Namespaced, pod),
    ]
}

fn definition(plural: &'static str, kind: &'static str, scope: Scope, mut fields: Value) -> ResourceDef {
    fields["metadata"] = json!({"type": "object"});
    fields["timestamp"] = json!({"type": "string", "format": "date-time"});
    fields["window"] = json!({"type": "string"});
    let column = |name: &'static str| Column {
        name: name.into(),
        kind: "string".into(),
        format: "".into(),
        description: "".into(),
        priority: 0,
        path: "".into(),
    };
    ResourceDef {
        group: GROUP.into(),
        version: VERSION.into(),
        plural: plural.into(),
        singular: "".into(),
        kind: kind.into(),
        list_kind: Text::Owned(format!("{kind}List")),
        scope,
        verbs: vec!["get".into(), "list".into()].into(),
        schema: Text::Owned(format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{kind}")),
        inline_schema: Some(Arc::new(json!({"type": "object", "properties": fields}))),
        stored: false,
        columns: vec![NAME, column("cpu"), column("memory"), column("window")].into(),
        row,
        ..BASE
    }
}

fn row(_: &ResourceDef, object: &Object, _: Timestamp) -> Vec<Value> {
    let usage = |resource: &str| match object.at(&["usage", resource]) {
        Some(usage) => usage.clone(),
        None => total(object, resource).into(),
    };
    vec![object.name().into(), usage("cpu"), usage("memory"), object.str_at(&["window"]).into()]
}

/// What all containers of a Pod use; all figures of one resource have the same unit.
fn total(object: &Object, resource: &str) -> String {
    let texts = || object.list_at(&["containers"]).iter().map(|container| container.str_at(&["usage", resource]));
    let unit = texts().next().map_or("", |text| text.trim_start_matches(|letter: char| letter.is_ascii_digit()));
    let sum: u64 = texts().filter_map(|text| text.strip_suffix(unit)?.parse::<u64>().ok()).sum();
    format!("{sum}{unit}")
}

/// The name of the APIService by which the group is listed.
pub fn service_name() -> String {
    format!("{VERSION}.{GROUP}")
}

/// The APIService by which the group is listed, and the role by which those who may look at Pods may see it.
pub fn objects(now: Timestamp) -> [Object; 2] {
    let service = json!({"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
        "metadata": {"name": service_name(), "labels": {"k8s-app": "metrics-server"}},
        "spec": {"group": GROUP, "version": VERSION, "groupPriorityMinimum": PRIORITY, "versionPriority": PRIORITY},
        "status": {"conditions": [{"type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available", "lastTransitionTime": rfc3339(now)}]}});
    let aggregate = |to: &str| (format!("rbac.authorization.k8s.io/aggregate-to-{to}"), Value::from("true"));
    let labels: serde_json::Map<String, Value> = ["admin", "edit", "view"].into_iter().map(aggregate).collect();
    let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "system:aggregated-metrics-reader", "labels": labels},
        "rules": [{"apiGroups": [GROUP], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}]});
    [service, role]
}
