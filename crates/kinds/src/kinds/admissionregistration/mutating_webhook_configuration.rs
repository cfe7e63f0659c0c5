//! `admissionregistration.k8s.io/v1` MutatingWebhookConfiguration: webhooks that change requests.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{admission_rules, table, tree};

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
    columns: list![NAME, column("Webhooks", "integer", "The number of webhooks."), AGE],
    default: defaults,
    row,
    validate,
    ..BASE
};

fn defaults(object: &mut Object) {
    for webhook in tree::items_mut(object, &["webhooks"]) {
        admission_rules::webhook_defaults(webhook);
        tree::default_text(webhook, &["reinvocationPolicy"], "Never");
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.list_at(&["webhooks"]).len(), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    admission_rules::check_webhooks(&mut faults, &At::top(object, "webhooks"));
    faults.into_list()
}
