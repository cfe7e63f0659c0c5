//! `networking.k8s.io/v1` ServiceCIDR: a range that Service addresses come from.

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope, Subresource};

/// `servicecidrs`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("servicecidrs"),
    singular: text("servicecidr"),
    kind: text("ServiceCIDR"),
    list_kind: text("ServiceCIDRList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.networking.v1.ServiceCIDR"),
    subresources: list![Subresource::Status],
    ..BASE
};
