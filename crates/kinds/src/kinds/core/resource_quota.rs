//! `v1` ResourceQuota: bounds on what a namespace may use.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `resourcequotas`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("resourcequotas"),
    singular: text("resourcequota"),
    kind: text("ResourceQuota"),
    list_kind: text("ResourceQuotaList"),
    short_names: texts!["quota"],
    schema: text("io.k8s.api.core.v1.ResourceQuota"),
    subresources: list![Subresource::Status],
    ..BASE
};
