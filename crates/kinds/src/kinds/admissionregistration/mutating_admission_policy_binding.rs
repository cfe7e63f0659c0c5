//! `admissionregistration.k8s.io/v1` MutatingAdmissionPolicyBinding: puts a mutating policy into force.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `mutatingadmissionpolicybindings`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("mutatingadmissionpolicybindings"),
    singular: text("mutatingadmissionpolicybinding"),
    kind: text("MutatingAdmissionPolicyBinding"),
    list_kind: text("MutatingAdmissionPolicyBindingList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding"),
    has_generation: true,
    unconditional_update: false,
    ..BASE
};
