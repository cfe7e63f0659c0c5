//! `storage.k8s.io/v1` VolumeAttributesClass: changeable attributes of volumes.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `volumeattributesclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("volumeattributesclasses"),
    singular: text("volumeattributesclass"),
    kind: text("VolumeAttributesClass"),
    list_kind: text("VolumeAttributesClassList"),
    short_names: texts!["vac"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.VolumeAttributesClass"),
    ..BASE
};
