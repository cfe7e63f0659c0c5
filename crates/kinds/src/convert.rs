//! Conversion between kinds that share one storage: what is served under one group or version and stored as another.
//! The trees are changed in place; `apiVersion` is the caller's to set.

use serde_json::{Value, json};
use skiff_object::apply::{InVersion, Schema, Versions};
use skiff_object::meta::Meta;
use skiff_object::{GroupVersionKind, Map, Object};

use crate::by_kind;
use crate::def::ResourceDef;
use crate::schema::{apply::of_definition, definition};

/// How one kind becomes another and back.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// From the stored kind to the served one.
    pub from_storage: fn(&mut Object),
    /// From the served kind to the stored one.
    pub to_storage: fn(&mut Object),
}

/// The conversion of a kind, where it is stored as another that has a different shape.
pub fn conversion(def: &ResourceDef) -> Option<Conversion> {
    def.storage.as_ref()?;
    match (def.group.as_ref(), def.version.as_ref(), def.kind.as_ref()) {
        ("events.k8s.io", "v1", "Event") => {
            Some(Conversion { from_storage: |event| rename(event, false), to_storage: |event| rename(event, true) })
        }
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => {
            Some(Conversion { from_storage: autoscaler_to_v1, to_storage: autoscaler_to_v2 })
        }
        _ => None,
    }
}

impl Versions for ResourceDef {
    fn in_version(&self, object: &Object, from: &str, to: &str) -> InVersion<'_> {
        if let Some(custom) = &self.custom {
            let is_there = |version: &String| to == format!("{}/{version}", self.group);
            return if custom.versions.iter().any(is_there) { InVersion::Same } else { InVersion::Unknown };
        }
        let (Some(from), Some(there)) = (self.sibling(from), self.sibling(to)) else { return InVersion::Same };
        let (out_of, into) = (conversion(from), conversion(there));
        let Some(schema) = definition(&there.schema).filter(|_| out_of.is_some() || into.is_some()) else {
            return InVersion::Same;
        };
        let mut object = object.clone();
        if let Some(conversion) = out_of {
            (conversion.to_storage)(&mut object);
        }
        if let Some(conversion) = into {
            (conversion.from_storage)(&mut object);
        }
        object["apiVersion"] = to.into();
        InVersion::Other(Box::new(object), of_definition(schema))
    }

    fn schema(&self, api_version: &str) -> Option<Schema<'_>> {
        let there = self.sibling(api_version).filter(|_| self.custom.is_none())?;
        definition(&there.schema).map(of_definition)
    }
}

impl ResourceDef {
    /// The built-in kind of the same name in a version.
    fn sibling(&self, api_version: &str) -> Option<&'static Self> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        by_kind(&GroupVersionKind::new(group, version, self.kind.as_ref()))
    }
}

/// Fields of `events.k8s.io/v1` and what the core group calls them.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(event: &mut Object, to_core: bool) {
    let Some(map) = event.as_object_mut() else { return };
    for (new, core) in EVENT_FIELDS {
        let (from, to) = if to_core { (new, core) } else { (core, new) };
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

// `autoscaling/v1` has one number where `v2` has lists; it keeps the rest in these annotations.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Fields of a metric by its source: in `v1` (`*` stands for `target` or `current`), and in `v2` (where it is a map's name).
const METRIC_FIELDS: [(&str, &[(&str, &[&str])]); 5] = [
    (
        "object",
        &[
            ("target", &["describedObject"]),
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("*Value", &["*", "value"]),
            ("averageValue", &["*", "averageValue"]),
        ],
    ),
    (
        "pods",
        &[
            ("metricName", &["metric", "name"]),
            ("selector", &["metric", "selector"]),
            ("*AverageValue", &["*", "averageValue"]),
        ],
    ),
    (
        "resource",
        &[
            ("name", &["name"]),
            ("*AverageUtilization", &["*", "averageUtilization"]),
            ("*AverageValue", &["*", "averageValue"]),
        ],
    ),
    (
        "containerResource",
        &[
            ("name", &["name"]),
            ("container", &["container"]),
            ("*AverageUtilization", &["*", "averageUtilization"]),
            ("*AverageValue", &["*", "averageValue"]),
        ],
    ),
    (
        "external",
        &[
            ("metricName", &["metric", "name"]),
            ("metricSelector", &["metric", "selector"]),
            ("*Value", &["*", "value"]),
            ("*AverageValue", &["*", "averageValue"]),
        ],
    ),
];

/// One metric in the other version; `which` is `target` or `current`.
fn metric(metric: &Value, which: &str, to_v1: bool) -> Value {
    let mut out = json!({"type": metric.str_at(&["type"])});
    for (source, fields) in METRIC_FIELDS {
        let Some(from) = metric.get(source).filter(|from| from.is_object()) else { continue };
        let mut to = Value::Object(Map::new());
        for (old, new) in fields {
            let old = old.replace('*', which);
            let new: Vec<_> = new.iter().map(|part| if *part == "*" { which } else { part }).collect();
            let (from_path, to_path) = if to_v1 { (new, vec![old.as_str()]) } else { (vec![old.as_str()], new) };
            if let Some(value) = from.at(&from_path).filter(|value| !value.is_null()) {
                to.set_at(&to_path, value.clone());
            }
        }
        if !to_v1 && which == "target" {
            let has = |field: &str| to.at(&["target", field]).is_some();
            let kind = match (has("averageUtilization"), has("averageValue")) {
                (true, _) => "Utilization",
                (_, true) => "AverageValue",
                _ => "Value",
            };
            to.set_at(&["target", "type"], kind);
        }
        out[source] = to;
    }
    out
}

/// Whether a metric is the one that `v1` has a field for.
fn is_cpu_utilization(metric: &Value, which: &str) -> bool {
    metric.str_at(&["resource", "name"]) == "cpu" && metric.int_at(&["resource", which, "averageUtilization"]).is_some()
}

/// Takes a list of metrics apart: the cpu utilization, and the others as text.
fn split(metrics: Option<Value>, which: &str) -> (Option<i64>, Option<String>) {
    let mut metrics = match metrics {
        Some(Value::Array(metrics)) => metrics,
        _ => Vec::new(),
    };
    let cpu = metrics.iter().position(|metric| is_cpu_utilization(metric, which));
    let cpu = cpu.and_then(|index| metrics.remove(index).int_at(&["resource", which, "averageUtilization"]));
    let others: Vec<_> = metrics.iter().map(|one| metric(one, which, true)).collect();
    (cpu, (!others.is_empty()).then(|| Value::Array(others).to_string()))
}

fn autoscaler_to_v1(object: &mut Object) {
    let (cpu, metrics) = split(object.remove_at(&["spec", "metrics"]), "target");
    if let Some(cpu) = cpu {
        object.set_at(&["spec", "targetCPUUtilizationPercentage"], cpu);
    }
    let (cpu, current) = split(object.remove_at(&["status", "currentMetrics"]), "current");
    if let Some(cpu) = cpu {
        object.set_at(&["status", "currentCPUUtilizationPercentage"], cpu);
    }
    let conditions = object.remove_at(&["status", "conditions"]);
    let conditions = conditions.filter(|list| list.as_array().is_some_and(|list| !list.is_empty()));
    let behavior = object.remove_at(&["spec", "behavior"]).filter(Value::is_object);
    let texts = [
        (METRICS, metrics),
        (CURRENT_METRICS, current),
        (CONDITIONS, conditions.map(|list| list.to_string())),
        (BEHAVIOR, behavior.map(|behavior| behavior.to_string())),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            object.set_at(&["metadata", "annotations", key], text);
        }
    }
}

/// Takes a list or an object out of an annotation; what cannot be read is dropped with it.
fn from_annotation(object: &mut Object, key: &str) -> Option<Value> {
    let text = object.remove_at(&["metadata", "annotations", key])?;
    serde_json::from_str(text.as_str()?).ok()
}

fn joined(cpu: Option<i64>, others: Option<Value>, which: &str) -> Vec<Value> {
    let others = others.unwrap_or_default();
    let mut all: Vec<_> = others.as_array().into_iter().flatten().map(|one| metric(one, which, false)).collect();
    if let Some(percent) = cpu {
        let mut value = json!({"averageUtilization": percent});
        if which == "target" {
            value["type"] = json!("Utilization");
        }
        all.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", which: value}}));
    }
    all
}

fn autoscaler_to_v2(object: &mut Object) {
    let number = |value: Option<Value>| value.and_then(|value| value.as_i64());
    let cpu = number(object.remove_at(&["spec", "targetCPUUtilizationPercentage"]));
    let metrics = joined(cpu, from_annotation(object, METRICS), "target");
    if !metrics.is_empty() {
        object.set_at(&["spec", "metrics"], metrics);
    }
    let cpu = number(object.remove_at(&["status", "currentCPUUtilizationPercentage"]));
    let current = joined(cpu, from_annotation(object, CURRENT_METRICS), "current");
    object.set_at(&["status", "currentMetrics"], if current.is_empty() { Value::Null } else { Value::Array(current) });
    if let Some(conditions) = from_annotation(object, CONDITIONS) {
        object.set_at(&["status", "conditions"], conditions);
    }
    if let Some(behavior) = from_annotation(object, BEHAVIOR) {
        object.set_at(&["spec", "behavior"], behavior);
    }
    let annotations = object.map_at(&["metadata", "annotations"]);
    if annotations.is_some_and(Map::is_empty) {
        object.remove_at(&["metadata", "annotations"]);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn of(group: &str, kind: &str) -> Conversion {
        conversion(by_kind(&GroupVersionKind::new(group, "v1", kind)).expect("registered")).expect("it is converted")
    }

    #[test]
    fn events() {
        let mut event = json!({"note": "n", "regarding": {"name": "a"}, "reason": "r", "deprecatedCount": 2});
        let conversion = of("events.k8s.io", "Event");
        (conversion.to_storage)(&mut event);
        assert_eq!(event, json!({"message": "n", "involvedObject": {"name": "a"}, "reason": "r", "count": 2}));
        (conversion.from_storage)(&mut event);
        assert_eq!(event["note"], "n");
    }

    #[test]
    fn autoscalers() {
        let stored = json!({
            "metadata": {"name": "a"},
            "spec": {
                "maxReplicas": 3,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                    {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
                    {"type": "External", "external": {"metric": {"name": "q", "selector": {}}, "target": {"type": "Value", "value": "3"}}},
                ],
            },
            "status": {
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7}}}],
            },
        });
        let conversion = of("autoscaling", "HorizontalPodAutoscaler");
        let mut object = stored.clone();
        (conversion.from_storage)(&mut object);
        let text = serde_json::to_string_pretty(&object).expect("it is JSON");
        expect![[r#"
            {
              "metadata": {
                "annotations": {
                  "autoscaling.alpha.kubernetes.io/behavior": "{\"scaleDown\":{\"stabilizationWindowSeconds\":5}}",
                  "autoscaling.alpha.kubernetes.io/conditions": "[{\"status\":\"True\",\"type\":\"AbleToScale\"}]",
                  "autoscaling.alpha.kubernetes.io/metrics": "[{\"pods\":{\"metricName\":\"m\",\"targetAverageValue\":\"1k\"},\"type\":\"Pods\"},{\"external\":{\"metricName\":\"q\",\"metricSelector\":{},\"targetValue\":\"3\"},\"type\":\"External\"}]"
                },
                "name": "a"
              },
              "spec": {
                "maxReplicas": 3,
                "targetCPUUtilizationPercentage": 80
              },
              "status": {
                "currentCPUUtilizationPercentage": 7
              }
            }"#]].assert_eq(&text);
        (conversion.to_storage)(&mut object);
        assert_eq!(object, stored);
    }
}
