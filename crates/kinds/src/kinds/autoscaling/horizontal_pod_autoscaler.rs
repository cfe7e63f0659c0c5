//! `autoscaling/v2` HorizontalPodAutoscaler: scales a workload by its metrics.

use serde_json::{Value, json};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::{hpa_rules, quota_check, tree};

/// `horizontalpodautoscalers`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("autoscaling"),
    version: text("v2"),
    plural: text("horizontalpodautoscalers"),
    singular: text("horizontalpodautoscaler"),
    kind: text("HorizontalPodAutoscaler"),
    list_kind: text("HorizontalPodAutoscalerList"),
    short_names: texts!["hpa"],
    categories: texts!["all"],
    schema: text("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler"),
    subresources: list![Subresource::Status],
    columns: hpa_rules::COLUMNS,
    default: defaults,
    row: hpa_rules::row,
    validate,
    validate_update: hpa_rules::validate_update,
    ..BASE
};

/// The share of its request that a container's CPU may use, where no metric is named.
const CPU_UTILIZATION_PERCENT: i64 = 80;
/// The window in which scaling rules look for changes.
const PERIOD_SECONDS: i64 = 15;

fn defaults(object: &mut Object) {
    let spec = tree::made_mut(object, &["spec"]);
    spec.default_at(&["minReplicas"], 1);
    if tree::is_blank(spec.get("metrics")) {
        let target = json!({"type": "Utilization", "averageUtilization": CPU_UTILIZATION_PERCENT});
        spec.set_at(&["metrics"], json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    if spec.get("behavior").is_some_and(Value::is_object) {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": PERIOD_SECONDS});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": PERIOD_SECONDS});
        spec.default_at(&["behavior", "scaleUp", "stabilizationWindowSeconds"], 0);
        scaling_defaults(spec, "scaleUp", json!([pods, percent]));
        scaling_defaults(spec, "scaleDown", json!([percent]));
    }
}

fn scaling_defaults(spec: &mut Value, direction: &str, policies: Value) {
    tree::default_text(spec, &["behavior", direction, "selectPolicy"], "Max");
    if tree::is_blank(spec.at(&["behavior", direction, "policies"])) {
        spec.set_at(&["behavior", direction, "policies"], policies);
    }
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    quota_check::autoscaler(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}
