//! `autoscaling/v1` Scale: the wanted and observed number of a workload's Pods.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `Scale`, served below other resources only.
pub static DEF: ResourceDef = ResourceDef {
    group: text("autoscaling"),
    kind: text("Scale"),
    verbs: texts![],
    schema: text("io.k8s.api.autoscaling.v1.Scale"),
    stored: false,
    ..BASE
};
