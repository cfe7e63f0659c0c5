//! `v1` ReplicationController: keeps a number of Pods running; the elder of ReplicaSet.

use crate::base::{BASE, list, scale, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `replicationcontrollers`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("replicationcontrollers"),
    singular: text("replicationcontroller"),
    kind: text("ReplicationController"),
    list_kind: text("ReplicationControllerList"),
    short_names: texts!["rc"],
    categories: texts!["all"],
    schema: text("io.k8s.api.core.v1.ReplicationController"),
    subresources: list![scale(".spec.selector"), Subresource::Status,],
    has_generation: true,
    ..BASE
};
