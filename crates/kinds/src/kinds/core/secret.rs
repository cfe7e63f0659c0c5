//! `v1` Secret: confidential data that Pods consume.

use crate::base::{BASE, text};
use crate::def::ResourceDef;

/// `secrets`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("secrets"),
    singular: text("secret"),
    kind: text("Secret"),
    list_kind: text("SecretList"),
    schema: text("io.k8s.api.core.v1.Secret"),
    ..BASE
};
