//! `admissionregistration.k8s.io/v1` ValidatingAdmissionPolicyBinding: puts a validating policy into force.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `validatingadmissionpolicybindings`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("validatingadmissionpolicybindings"),
    singular: text("validatingadmissionpolicybinding"),
    kind: text("ValidatingAdmissionPolicyBinding"),
    list_kind: text("ValidatingAdmissionPolicyBindingList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding"),
    has_generation: true,
    unconditional_update: false,
    ..BASE
};
