//! `authentication.k8s.io/v1` TokenReview: checks a token; never stored.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `tokenreviews`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authentication.k8s.io"),
    plural: text("tokenreviews"),
    singular: text("tokenreview"),
    kind: text("TokenReview"),
    scope: Scope::Cluster,
    verbs: texts!["create"],
    schema: text("io.k8s.api.authentication.v1.TokenReview"),
    stored: false,
    ..BASE
};
