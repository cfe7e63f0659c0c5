//! The row of a HorizontalPodAutoscaler, in either of its versions.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::list;
use crate::def::{Column, Context, List, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::status_check;
use crate::rules::table::{self, AGE, NAME, cells, column};

/// How many metrics are shown.
const SHOWN_LIMIT: usize = 2;

/// The columns of an autoscaler.
pub const COLUMNS: List<Column> = list![
    NAME,
    column("Reference", "string", "What is scaled."),
    column("Targets", "string", "The metrics: as they are, and as they should be."),
    column("MinPods", "string", "The least number of Pods."),
    column("MaxPods", "string", "The greatest number of Pods."),
    column("Replicas", "string", "The number of Pods there are."),
    AGE,
];

/// The cells of an autoscaler.
pub fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let target = |field: &str| object.at(&["spec", "scaleTargetRef", field]).and_then(Value::as_str).unwrap_or("");
    cells![
        object.name(),
        format!("{}/{}", target("kind"), target("name")),
        targets(object),
        table::scalar_or(object, &["spec", "minReplicas"], table::UNSET),
        table::number(object, &["spec", "maxReplicas"]),
        table::number(object, &["status", "currentReplicas"]),
        table::age(object, now),
    ]
}

fn targets(object: &Object) -> String {
    let metrics = object.list_at(&["spec", "metrics"]);
    let current = object.list_at(&["status", "currentMetrics"]);
    let mut shown: Vec<_> =
        metrics.iter().enumerate().map(|(index, metric)| metric_text(metric, current.get(index))).collect();
    if let Some(target) = object.int_at(&["spec", "targetCPUUtilizationPercentage"]) {
        let now = table::number_or(object, &["status", "currentCPUUtilizationPercentage"], table::UNKNOWN);
        let now = now.as_i64().map_or_else(|| table::UNKNOWN.to_owned(), |now| format!("{now}%"));
        shown.push(format!("cpu: {now}/{target}%"));
    }
    if shown.is_empty() { table::NONE.to_owned() } else { table::listed_with_more(&shown, SHOWN_LIMIT, ", ") }
}

fn metric_text(metric: &Value, current: Option<&Value>) -> String {
    let (field, is_resource) = match metric.str_at(&["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let source = metric.get(field).unwrap_or(&Value::Null);
    let target = source.get("target").unwrap_or(&Value::Null);
    let now = |value: &str| {
        let current = current.and_then(|current| current.at(&[field, "current"])).unwrap_or(&Value::Null);
        table::scalar_or(current, &[value], table::UNKNOWN)
    };
    let has_average = target.get("averageValue").is_some();
    if !is_resource {
        let value = if has_average { "averageValue" } else { "value" };
        let note = if has_average && field != "pods" { " (avg)" } else { "" };
        return format!("{}/{}{note}", now(value), table::scalar_or(target, &[value], table::UNKNOWN));
    }
    let name = source.str_at(&["name"]);
    if has_average {
        return format!("{name}: {}/{}", now("averageValue"), target.str_at(&["averageValue"]));
    }
    let now = now("averageUtilization");
    let percent = |text: String| if text.parse::<i64>().is_ok() { format!("{text}%") } else { text };
    format!("{name}: {}/{}", percent(now), percent(table::scalar_or(target, &["averageUtilization"], "<auto>")))
}

/// Checks a change of an autoscaler's status.
pub fn validate_update(context: &Context, new: &Object, _: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        status_check::counts(&mut faults, &At::top(new, "status"), &["currentReplicas", "desiredReplicas"]);
    }
    faults.into_list()
}
