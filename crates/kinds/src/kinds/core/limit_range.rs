//! `v1` LimitRange: defaults and bounds of resources in a namespace.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `limitranges`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("limitranges"),
    singular: text("limitrange"),
    kind: text("LimitRange"),
    list_kind: text("LimitRangeList"),
    short_names: texts!["limits"],
    schema: text("io.k8s.api.core.v1.LimitRange"),
    create_on_update: true,
    ..BASE
};
