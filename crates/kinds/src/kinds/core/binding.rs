//! `v1` Binding: puts a Pod on a node; never stored.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `bindings`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("bindings"),
    singular: text("binding"),
    kind: text("Binding"),
    verbs: texts!["create"],
    schema: text("io.k8s.api.core.v1.Binding"),
    stored: false,
    ..BASE
};
