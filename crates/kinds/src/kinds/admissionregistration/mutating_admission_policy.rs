//! `admissionregistration.k8s.io/v1` MutatingAdmissionPolicy: changes requests by expressions.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `mutatingadmissionpolicies`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("mutatingadmissionpolicies"),
    singular: text("mutatingadmissionpolicy"),
    kind: text("MutatingAdmissionPolicy"),
    list_kind: text("MutatingAdmissionPolicyList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy"),
    has_generation: true,
    unconditional_update: false,
    ..BASE
};
