//! What webhook configurations and admission policies share.

use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::rules::table::{self, selector_text};
use crate::rules::tree::{default_text, empty, items_mut, node_mut};

/// How long the API server waits for a webhook.
const TIMEOUT_SECONDS: i64 = 10;
const HTTPS_PORT: i64 = 443;

/// Sets a webhook's defaults.
pub fn webhook_defaults(webhook: &mut Value) {
    default_text(webhook, &["failurePolicy"], "Fail");
    default_text(webhook, &["matchPolicy"], "Equivalent");
    webhook.default_at(&["namespaceSelector"], empty());
    webhook.default_at(&["objectSelector"], empty());
    webhook.default_at(&["timeoutSeconds"], TIMEOUT_SECONDS);
    items_mut(webhook, &["rules"]).for_each(rule_defaults);
    if let Some(service) = node_mut(webhook, &["clientConfig", "service"]).filter(|node| node.is_object()) {
        service.default_at(&["port"], HTTPS_PORT);
    }
}

fn rule_defaults(rule: &mut Value) {
    default_text(rule, &["scope"], "*");
}

/// Sets an admission policy's defaults.
pub fn policy_defaults(policy: &mut Object) {
    default_text(policy, &["spec", "failurePolicy"], "Fail");
    if let Some(matched) = node_mut(policy, &["spec", "matchConstraints"]).filter(|node| node.is_object()) {
        match_defaults(matched);
    }
}

/// Sets the defaults of an admission policy's binding.
pub fn binding_defaults(binding: &mut Object) {
    if let Some(matched) = node_mut(binding, &["spec", "matchResources"]).filter(|node| node.is_object()) {
        match_defaults(matched);
    }
}

fn match_defaults(matched: &mut Value) {
    default_text(matched, &["matchPolicy"], "Equivalent");
    matched.default_at(&["namespaceSelector"], empty());
    matched.default_at(&["objectSelector"], empty());
    for rules in ["resourceRules", "excludeResourceRules"] {
        items_mut(matched, &[rules]).for_each(rule_defaults);
    }
}

/// The kind of a policy's parameters, `v1/ConfigMap`.
pub fn param_kind(policy: &Object) -> String {
    policy.at(&["spec", "paramKind"]).map_or_else(
        || table::UNSET.to_owned(),
        |kind| format!("{}/{}", kind.str_at(&["apiVersion"]), kind.str_at(&["kind"])),
    )
}

/// The parameters that a binding names: by name, or by their labels.
pub fn param_ref(binding: &Object) -> String {
    let Some(reference) = binding.at(&["spec", "paramRef"]) else {
        return table::UNSET.to_owned();
    };
    match (reference.str_at(&["namespace"]), reference.str_at(&["name"])) {
        (_, "") => reference.get("selector").map_or_else(|| "*".to_owned(), |selector| selector_text(Some(selector))),
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}
