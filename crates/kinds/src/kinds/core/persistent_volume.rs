//! `v1` PersistentVolume: a piece of storage.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope, Subresource};

/// `persistentvolumes`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("persistentvolumes"),
    singular: text("persistentvolume"),
    kind: text("PersistentVolume"),
    list_kind: text("PersistentVolumeList"),
    short_names: texts!["pv"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.core.v1.PersistentVolume"),
    subresources: list![Subresource::Status],
    ..BASE
};
