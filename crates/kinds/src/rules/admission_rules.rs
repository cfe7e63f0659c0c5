//! What webhook configurations and admission policies share.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{Object, names};

use crate::rules::check::{At, Faults};
use crate::rules::policy_check;
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
/// The versions of reviews that the server sends.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Checks the webhooks of a configuration.
pub fn check_webhooks(faults: &mut Faults, webhooks: &At) {
    let mut seen = BTreeSet::new();
    for webhook in webhooks.items() {
        let name = webhook.get("name");
        full_name(faults, &name);
        check_webhook(faults, &webhook);
        review_versions(faults, &webhook.get("admissionReviewVersions"));
        if !name.is_blank() && !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
    }
}

fn full_name(faults: &mut Faults, name: &At) {
    if !faults.needs(name) {
        return;
    }
    let wrong = names::check_dns_subdomain(name.text());
    if !wrong.is_empty() {
        faults.invalid(name, wrong.join(","));
    } else if name.text().split('.').count() < NAME_PARTS {
        faults.invalid(name, "should be a domain with at least three segments separated by dots");
    }
}

fn check_webhook(faults: &mut Faults, webhook: &At) {
    for rule in webhook.get("rules").items() {
        check_rule(faults, &rule);
    }
    faults.choice(&webhook.get("failurePolicy"), &["Fail", "Ignore"]);
    faults.choice(&webhook.get("matchPolicy"), &["Equivalent", "Exact"]);
    let effects = webhook.get("sideEffects");
    if effects.is_set() {
        faults.choice(&effects, &["None", "NoneOnDryRun"]);
    } else {
        faults.required(&effects, "must specify one of None, NoneOnDryRun");
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
    policy_check::match_conditions(faults, &webhook.get("matchConditions"));
}

fn review_versions(faults: &mut Faults, versions: &At) {
    if versions.is_blank() {
        faults.required(versions, &format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
        return;
    }
    let mut seen = BTreeSet::new();
    for version in versions.items() {
        if !seen.insert(version.text()) {
            faults.invalid(&version, "duplicate version");
            continue;
        }
        faults.all_invalid(&version, names::check_dns_1035_label(version.text()));
    }
    if !REVIEW_VERSIONS.iter().any(|version| seen.contains(version)) {
        faults.invalid(versions, format!("must include at least one of {}", REVIEW_VERSIONS.join(", ")));
    }
}

/// Checks which requests a webhook or policy is about.
pub fn check_rule(faults: &mut Faults, rule: &At) {
    let operations = rule.get("operations");
    all_or_some(faults, &operations, "other operations");
    for operation in operations.items() {
        faults.choice(&operation, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]);
    }
    all_or_some(faults, &rule.get("apiGroups"), "other API groups");
    let versions = rule.get("apiVersions");
    all_or_some(faults, &versions, "other API versions");
    for version in versions.items().iter().filter(|version| version.is_blank()) {
        faults.required(version, "");
    }
    rule_resources(faults, &rule.get("resources"));
    faults.choice(&rule.get("scope"), &["*", "Cluster", "Namespaced"]);
}

fn all_or_some(faults: &mut Faults, list: &At, others: &str) {
    if list.is_blank() {
        faults.required(list, "");
    }
    if list.count() > 1 && list.texts().contains(&"*") {
        faults.invalid(list, format!("if '*' is present, must not specify {others}"));
    }
}

/// `pods`, `pods/status`, `pods/*`, `*/scale`, `*` and `*/*`: none may lie within another.
fn rule_resources(faults: &mut Faults, resources: &At) {
    if resources.is_blank() {
        faults.required(resources, "");
    }
    let (mut all_below, mut all_above) = (BTreeSet::new(), BTreeSet::new());
    let mut has_plain = false;
    for resource in resources.items() {
        let text = resource.text();
        if text.is_empty() {
            faults.required(&resource, "");
            continue;
        }
        let Some((name, below)) = text.split_once('/') else {
            has_plain = text != "*";
            continue;
        };
        if all_below.contains(name) {
            faults.invalid(&resource, format!("if '{name}/*' is present, must not specify {text}"));
        }
        if all_above.contains(below) {
            faults.invalid(&resource, format!("if '*/{below}' is present, must not specify {text}"));
        }
        if below == "*" {
            all_below.insert(name);
        }
        if name == "*" {
            all_above.insert(below);
        }
    }
    let all = resources.texts();
    if all.len() > 1 && all.contains(&"*/*") {
        faults.invalid(resources, "if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && has_plain {
        faults.invalid(resources, "if '*' is present, must not specify other resources without subresources");
    }
}

/// Checks where a webhook is.
pub fn check_client(faults: &mut Faults, client: &At) {
    let (url, service) = (client.get("url"), client.get("service"));
    if url.is_set() == service.is_set() {
        faults.required(client, "exactly one of url or service is required");
    } else if url.is_set() {
        check_url(faults, &url);
    } else {
        check_service(faults, &service);
    }
}

fn check_url(faults: &mut Faults, url: &At) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.text().split_once("://").unwrap_or(("", url.text()));
    if scheme != "https" {
        faults.invalid_as(url, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').map_or((rest, ""), |(rest, fragment)| (rest, fragment));
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let authority = rest.split('/').next().unwrap_or("");
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
    if host.is_empty() || scheme.is_empty() {
        faults.invalid_as(url, "", format!("host must be specified{FORM}"));
    }
    for (part, what) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            faults.invalid_as(url, part, what);
        }
    }
}

fn check_service(faults: &mut Faults, service: &At) {
    for (field, words) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        if service.get(field).is_blank() {
            faults.required(&service.get(field), words);
        }
    }
    let port = service.get("port");
    let wrong = names::check_port_number(port.int().unwrap_or(0));
    if !wrong.is_empty() {
        faults.invalid(&port, format!("port is not valid: {}", wrong.join(",")));
    }
    let path = service.get("path");
    let text = path.text();
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        return faults.invalid(&path, "segment[0] may not be empty");
    }
    if !text.starts_with('/') {
        faults.invalid(&path, "must start with a '/'");
    }
    let inner = text.get(1..).unwrap_or("");
    for (index, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            faults.invalid(&path, format!("segment[{index}] may not be empty"));
            continue;
        }
        for words in names::check_dns_subdomain(step) {
            faults.invalid(&path, format!("segment[{index}]: {words}"));
        }
    }
}
