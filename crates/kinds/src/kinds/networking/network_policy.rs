//! `networking.k8s.io/v1` NetworkPolicy: which traffic Pods may have.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `networkpolicies`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("networkpolicies"),
    singular: text("networkpolicy"),
    kind: text("NetworkPolicy"),
    list_kind: text("NetworkPolicyList"),
    short_names: texts!["netpol"],
    schema: text("io.k8s.api.networking.v1.NetworkPolicy"),
    has_generation: true,
    ..BASE
};
