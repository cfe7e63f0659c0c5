//! `apps/v1` DaemonSet: one Pod on each matching node.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `daemonsets`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("daemonsets"),
    singular: text("daemonset"),
    kind: text("DaemonSet"),
    list_kind: text("DaemonSetList"),
    short_names: texts!["ds"],
    categories: texts!["all"],
    schema: text("io.k8s.api.apps.v1.DaemonSet"),
    subresources: list![Subresource::Status],
    has_generation: true,
    ..BASE
};
