//! `authentication.k8s.io/v1` TokenRequest: asks for a service account's token.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `TokenRequest`, served below other resources only.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authentication.k8s.io"),
    kind: text("TokenRequest"),
    verbs: texts![],
    schema: text("io.k8s.api.authentication.v1.TokenRequest"),
    stored: false,
    ..BASE
};
