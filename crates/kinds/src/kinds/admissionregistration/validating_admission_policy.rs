//! `admissionregistration.k8s.io/v1` ValidatingAdmissionPolicy: checks requests by expressions.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope, Subresource};

/// `validatingadmissionpolicies`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("validatingadmissionpolicies"),
    singular: text("validatingadmissionpolicy"),
    kind: text("ValidatingAdmissionPolicy"),
    list_kind: text("ValidatingAdmissionPolicyList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    ..BASE
};
