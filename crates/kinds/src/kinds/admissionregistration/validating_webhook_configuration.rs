//! `admissionregistration.k8s.io/v1` ValidatingWebhookConfiguration: webhooks that check requests.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `validatingwebhookconfigurations`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("admissionregistration.k8s.io"),
    plural: text("validatingwebhookconfigurations"),
    singular: text("validatingwebhookconfiguration"),
    kind: text("ValidatingWebhookConfiguration"),
    list_kind: text("ValidatingWebhookConfigurationList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration"),
    has_generation: true,
    unconditional_update: false,
    ..BASE
};
