//! `networking.k8s.io/v1` IngressClass: who implements an Ingress.

use crate::base::{BASE, text};
use crate::def::{ResourceDef, Scope};

/// `ingressclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("ingressclasses"),
    singular: text("ingressclass"),
    kind: text("IngressClass"),
    list_kind: text("IngressClassList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.networking.v1.IngressClass"),
    has_generation: true,
    ..BASE
};
