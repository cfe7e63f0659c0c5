//! `v1` ConfigMap: settings that Pods consume.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `configmaps`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("configmaps"),
    singular: text("configmap"),
    kind: text("ConfigMap"),
    list_kind: text("ConfigMapList"),
    short_names: texts!["cm"],
    schema: text("io.k8s.api.core.v1.ConfigMap"),
    ..BASE
};
