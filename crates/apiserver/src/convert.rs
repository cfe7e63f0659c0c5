//! Conversion between kinds that share one storage: what is served under one group or version and stored as another.

use serde_json::{Value, json};
use skiff_kinds::ResourceDef;
use skiff_object::Object;
use skiff_object::meta::Meta;

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

/// Where `autoscaling/v1` keeps what it has no fields for: field of v2, annotation.
const AUTOSCALER_ANNOTATIONS: [(&[&str], &str); 4] = [
    (&["spec", "metrics"], "autoscaling.alpha.kubernetes.io/metrics"),
    (&["spec", "behavior"], "autoscaling.alpha.kubernetes.io/behavior"),
    (&["status", "conditions"], "autoscaling.alpha.kubernetes.io/conditions"),
    (&["status", "currentMetrics"], "autoscaling.alpha.kubernetes.io/current-metrics"),
];

fn is_cpu(metric: &Value) -> bool {
    metric.str_at(&["type"]) == "Resource" && metric.str_at(&["resource", "name"]) == "cpu"
}

/// Takes the processor's share out of a list of metrics, where `state` is `target` or `current`.
fn take_cpu(object: &mut Object, path: &[&str], state: &str) -> Option<i64> {
    let metrics = object.list_at(path);
    let place = metrics
        .iter()
        .position(|metric| is_cpu(metric) && metric.int_at(&["resource", state, "averageUtilization"]).is_some())?;
    let mut metrics = metrics.to_vec();
    let share = metrics.remove(place).int_at(&["resource", state, "averageUtilization"]);
    if metrics.is_empty() {
        object.remove_at(path);
    } else {
        object.set_at(path, metrics);
    }
    share
}

fn autoscaler_to_v1(autoscaler: &mut Object) {
    if let Some(share) = take_cpu(autoscaler, &["spec", "metrics"], "target") {
        autoscaler.set_at(&["spec", "targetCPUUtilizationPercentage"], share);
    }
    if let Some(share) = take_cpu(autoscaler, &["status", "currentMetrics"], "current") {
        autoscaler.set_at(&["status", "currentCPUUtilizationPercentage"], share);
    }
    for (path, annotation) in AUTOSCALER_ANNOTATIONS {
        if let Some(value) = autoscaler.remove_at(path).filter(|value| !value.is_null()) {
            autoscaler.set_at(&["metadata", "annotations", annotation], value.to_string());
        }
    }
}

fn autoscaler_to_v2(autoscaler: &mut Object) {
    for (path, annotation) in AUTOSCALER_ANNOTATIONS {
        let kept = autoscaler.remove_at(&["metadata", "annotations", annotation]);
        let value = kept.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(value) = value {
            autoscaler.set_at(path, value);
        }
    }
    if autoscaler.map_at(&["metadata", "annotations"]).is_some_and(|annotations| annotations.is_empty()) {
        autoscaler.remove_at(&["metadata", "annotations"]);
    }
    let shares = [
        (["spec", "targetCPUUtilizationPercentage"], ["spec", "metrics"], "target"),
        (["status", "currentCPUUtilizationPercentage"], ["status", "currentMetrics"], "current"),
    ];
    for (share, metrics, state) in shares {
        let Some(value) = autoscaler.remove_at(&share).filter(|value| !value.is_null()) else { continue };
        let mut measured = json!({"averageUtilization": value});
        if state == "target" {
            measured["type"] = "Utilization".into();
        }
        let mut list = vec![json!({"type": "Resource", "resource": {"name": "cpu", state: measured}})];
        list.extend_from_slice(autoscaler.list_at(&metrics));
        autoscaler.set_at(&metrics, list);
    }
}
