//! `autoscaling/v2` HorizontalPodAutoscaler: scales a workload by its metrics.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};

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
    ..BASE
};
