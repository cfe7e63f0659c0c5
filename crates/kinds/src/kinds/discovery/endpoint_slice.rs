//! `discovery.k8s.io/v1` EndpointSlice: a part of the addresses behind a Service.

use crate::base::{BASE, text};
use crate::def::ResourceDef;

/// `endpointslices`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("discovery.k8s.io"),
    plural: text("endpointslices"),
    singular: text("endpointslice"),
    kind: text("EndpointSlice"),
    list_kind: text("EndpointSliceList"),
    schema: text("io.k8s.api.discovery.v1.EndpointSlice"),
    has_generation: true,
    ..BASE
};
