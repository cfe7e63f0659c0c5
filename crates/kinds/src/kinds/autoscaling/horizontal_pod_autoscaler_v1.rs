//! `autoscaling/v1` HorizontalPodAutoscaler: scales a workload by its metrics.

use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::{hpa_rules, quota_check};

/// `horizontalpodautoscalers`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("autoscaling"),
    plural: text("horizontalpodautoscalers"),
    singular: text("horizontalpodautoscaler"),
    kind: text("HorizontalPodAutoscaler"),
    list_kind: text("HorizontalPodAutoscalerList"),
    short_names: texts!["hpa"],
    categories: texts!["all"],
    schema: text("io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler"),
    storage: Some((text("autoscaling"), text("v2"))),
    subresources: list![Subresource::Status],
    columns: hpa_rules::COLUMNS,
    default: defaults,
    row: hpa_rules::row,
    validate,
    validate_update: hpa_rules::validate_update,
    ..BASE
};

/// The share of its request that a container's CPU may use, where none is named.
const CPU_UTILIZATION_PERCENT: i64 = 80;

fn defaults(object: &mut Object) {
    object.default_at(&["spec", "minReplicas"], 1);
    if object.annotation("autoscaling.alpha.kubernetes.io/metrics").is_none() {
        object.default_at(&["spec", "targetCPUUtilizationPercentage"], CPU_UTILIZATION_PERCENT);
    }
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    quota_check::autoscaler(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}
