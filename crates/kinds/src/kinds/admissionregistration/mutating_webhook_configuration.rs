//! `admissionregistration.k8s.io/v1` MutatingWebhookConfiguration: webhooks that change requests.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `mutatingwebhookconfigurations`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("mutatingwebhookconfigurations"),
    singular: text("mutatingwebhookconfiguration"),
    kind: text("MutatingWebhookConfiguration"),
    list_kind: text("MutatingWebhookConfigurationList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration"),
    has_generation: true,
    unconditional_update: false,
    ..BASE
};
