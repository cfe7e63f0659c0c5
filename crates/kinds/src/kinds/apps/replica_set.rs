//! `apps/v1` ReplicaSet: keeps a number of Pods running.

use crate::base::{BASE, list, scale, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `replicasets`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("replicasets"),
    singular: text("replicaset"),
    kind: text("ReplicaSet"),
    list_kind: text("ReplicaSetList"),
    short_names: texts!["rs"],
    categories: texts!["all"],
    schema: text("io.k8s.api.apps.v1.ReplicaSet"),
    subresources: list![scale(".spec.selector"), Subresource::Status,],
    has_generation: true,
    ..BASE
};
