//! `resource.k8s.io/v1` ResourceClaim: a request for devices.

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Subresource};

/// `resourceclaims`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("resource.k8s.io"),
    plural: text("resourceclaims"),
    singular: text("resourceclaim"),
    kind: text("ResourceClaim"),
    list_kind: text("ResourceClaimList"),
    schema: text("io.k8s.api.resource.v1.ResourceClaim"),
    subresources: list![Subresource::Status],
    ..BASE
};
