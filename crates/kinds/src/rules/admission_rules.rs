//! What webhook configurations and admission policies share.

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{Object, names};

use crate::rules::check::{At, Faults};
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

/// How long a webhook may take.
const TIMEOUT_RANGE_SECONDS: (i64, i64) = (1, 30);
/// The least parts of a webhook's name.
const NAME_PARTS: usize = 3;

/// Checks the webhooks of a configuration.
pub fn check_webhooks(faults: &mut Faults, webhooks: &At) {
    let mut seen = std::collections::BTreeSet::new();
    for webhook in webhooks.items() {
        let name = webhook.get("name");
        faults.needs_name(&name, names::check_dns_subdomain);
        if !name.is_blank() && name.text().split('.').count() < NAME_PARTS {
            faults.invalid(&name, "should be a domain with at least three segments separated by dots");
        }
        if !name.is_blank() && !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
        check_webhook(faults, &webhook);
    }
}

fn check_webhook(faults: &mut Faults, webhook: &At) {
    for rule in webhook.get("rules").items() {
        check_rule(faults, &rule);
    }
    faults.choice(&webhook.get("failurePolicy"), &["Fail", "Ignore"]);
    faults.choice(&webhook.get("matchPolicy"), &["Equivalent", "Exact"]);
    let effects = webhook.get("sideEffects");
    if effects.is_blank() {
        faults.required(&effects, "must specify one of None, NoneOnDryRun");
    } else {
        faults.choice(&effects, &["None", "NoneOnDryRun"]);
    }
    let seconds = webhook.get("timeoutSeconds");
    let (low, high) = TIMEOUT_RANGE_SECONDS;
    if seconds.int().is_some_and(|seconds| !(low..=high).contains(&seconds)) {
        faults.invalid(&seconds, format!("the timeout value must be between {low} and {high} seconds"));
    }
    faults.choice(&webhook.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
    faults.selector(&webhook.get("namespaceSelector"));
    faults.selector(&webhook.get("objectSelector"));
    check_client(faults, &webhook.get("clientConfig"));
    let versions = webhook.get("admissionReviewVersions");
    if versions.is_blank() {
        faults.required(&versions, "must specify one of v1, v1beta1");
    } else if versions.items().iter().all(|version| !matches!(version.text(), "v1" | "v1beta1")) {
        faults.invalid(&versions, "must include at least one of v1, v1beta1");
    }
}

fn check_rule(faults: &mut Faults, rule: &At) {
    for field in ["apiGroups", "apiVersions", "resources", "operations"] {
        let list = rule.get(field);
        let all = list.items();
        faults.needs(&list);
        if all.len() > 1 && all.iter().any(|item| item.text() == "*") && field != "resources" {
            faults.invalid(
                &list,
                format!(
                    "if '*' is present, must not specify other {}",
                    match field {
                        "apiGroups" => "API groups",
                        "apiVersions" => "API versions",
                        other => other,
                    }
                ),
            );
        }
    }
    for operation in rule.get("operations").items() {
        faults.choice(&operation, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]);
    }
    faults.choice(&rule.get("scope"), &["*", "Cluster", "Namespaced"]);
}

fn check_client(faults: &mut Faults, client: &At) {
    let (url, service) = (client.get("url"), client.get("service"));
    if url.is_set() == service.is_set() {
        faults.required(client, "exactly one of url or service is required");
    }
    if url.is_set() && !url.text().starts_with("https://") {
        faults.invalid(&url, "'https' is the only allowed URL scheme; desired format: https://host[/path]");
    }
    if service.is_set() {
        faults.needs(&service.get("name"));
        faults.needs(&service.get("namespace"));
        faults.port(&service.get("port"));
    }
}
