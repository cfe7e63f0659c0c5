//! `apps/v1` StatefulSet: Pods with stable names and storage.

use crate::base::{BASE, list, scale, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `statefulsets`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("statefulsets"),
    singular: text("statefulset"),
    kind: text("StatefulSet"),
    list_kind: text("StatefulSetList"),
    short_names: texts!["sts"],
    categories: texts!["all"],
    schema: text("io.k8s.api.apps.v1.StatefulSet"),
    subresources: list![scale(".spec.selector"), Subresource::Status,],
    has_generation: true,
    ..BASE
};
