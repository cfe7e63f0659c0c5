//! `networking.k8s.io/v1` Ingress: routes from outside to Services, by host and path.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `ingresses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("ingresses"),
    singular: text("ingress"),
    kind: text("Ingress"),
    list_kind: text("IngressList"),
    short_names: texts!["ing"],
    schema: text("io.k8s.api.networking.v1.Ingress"),
    subresources: list![Subresource::Status],
    has_generation: true,
    ..BASE
};
