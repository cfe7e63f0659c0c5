//! What may be wrong with admission policies and what puts them into force. Whether expressions compile is for others to say.

use std::collections::BTreeSet;

use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::def::Context;
use crate::rules::admission_rules::check_rule;
use crate::rules::check::{At, Faults};

const CONDITIONS_LIMIT: usize = 64;
const ANNOTATIONS_LIMIT: usize = 20;
/// The longest expression of an audit annotation.
const VALUE_EXPRESSION_LIMIT_BYTES: usize = 5 * 1024;

/// Checks a policy that refuses.
pub fn validating_policy(context: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    if context.subresource == "status" {
        return faults.into_list();
    }
    common(&mut faults, &spec);
    let (validations, audits) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_blank() && audits.is_blank() {
        let words = "validations or auditAnnotations must contain at least one item";
        faults.required(&validations, words);
        faults.required(&audits, words);
    }
    validations.items().iter().for_each(|validation| self::validation(&mut faults, validation));
    if audits.count() > ANNOTATIONS_LIMIT {
        faults.invalid(&audits, format!("must not have more than {ANNOTATIONS_LIMIT} auditAnnotations"));
    }
    let mut seen = BTreeSet::new();
    for audit in audits.items() {
        audit_annotation(&mut faults, &audit, object.name());
        if !seen.insert(audit.get("key").text()) {
            faults.duplicate(&audit.get("key"));
        }
    }
    faults.into_list()
}

/// Checks a policy that changes.
pub fn mutating_policy(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    common(&mut faults, &spec);
    let mutations = spec.get("mutations");
    if mutations.is_blank() {
        faults.required(&mutations, "mutations must contain at least one item");
    }
    mutations.items().iter().for_each(|mutation| self::mutation(&mut faults, mutation));
    faults.needs_choice(&spec.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
    faults.into_list()
}

fn common(faults: &mut Faults, spec: &At) {
    let policy = spec.get("failurePolicy");
    if policy.is_set() {
        faults.choice(&policy, &["Fail", "Ignore"]);
    } else {
        faults.required(&policy, "");
    }
    if spec.get("paramKind").is_set() {
        param_kind(faults, &spec.get("paramKind"));
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        match_resources(faults, &constraints);
        if constraints.get("resourceRules").is_blank() {
            faults.required(&constraints.get("resourceRules"), "");
        }
    } else {
        faults.required(&constraints, "");
    }
    match_conditions(faults, &spec.get("matchConditions"));
    let mut seen = BTreeSet::new();
    for variable in spec.get("variables").items() {
        let (name, expression) = (variable.get("name"), variable.get("expression"));
        if name.is_blank() || name.text() == "_" {
            faults.required(&name, "name is not defined");
        } else if !is_identifier(name.text()) {
            faults.invalid(&name, "name is not a valid CEL identifier");
        }
        if expression.text().trim().is_empty() {
            faults.required(&expression, "expression is not defined");
        }
        if !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
    }
}

/// Words that mean something in an expression, and so name nothing.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

fn is_identifier(name: &str) -> bool {
    names::check_c_identifier(name).is_empty() && !RESERVED.contains(&name)
}

fn param_kind(faults: &mut Faults, kind: &At) {
    let (version, name) = (kind.get("apiVersion"), kind.get("kind"));
    if faults.needs(&version) {
        match version.text().split('/').collect::<Vec<_>>()[..] {
            [plain] => shown(faults, &version, plain, names::check_dns_1035_label(plain)),
            [group, plain] => {
                shown(faults, &version, group, names::check_dns_subdomain(group));
                shown(faults, &version, plain, names::check_dns_1035_label(plain));
            }
            _ => faults.invalid(&version, format!("unexpected GroupVersion string: {}", version.text())),
        }
    }
    if faults.needs(&name) {
        let wrong = names::check_dns_1035_label(&name.text().to_lowercase());
        if !wrong.is_empty() {
            let words = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            faults.invalid(&name, words);
        }
    }
}

fn shown(faults: &mut Faults, at: &At, value: &str, wrong: Vec<String>) {
    if !wrong.is_empty() {
        faults.invalid_as(at, value, wrong.join(","));
    }
}

fn match_resources(faults: &mut Faults, matched: &At) {
    faults.needs_choice(&matched.get("matchPolicy"), &["Equivalent", "Exact"]);
    for selector in ["namespaceSelector", "objectSelector"].map(|field| matched.get(field)) {
        if selector.is_set() {
            faults.selector(&selector);
        } else {
            faults.required(&selector, "");
        }
    }
    for rule in ["resourceRules", "excludeResourceRules"].iter().flat_map(|field| matched.get(field).items()) {
        let mut seen = BTreeSet::new();
        for name in rule.get("resourceNames").items() {
            faults.all_invalid(&name, names::check_path_segment(name.text()));
            if !seen.insert(name.text()) {
                faults.duplicate(&name);
            }
        }
        check_rule(faults, &rule);
    }
}

/// Checks the conditions under which a webhook or policy applies.
pub fn match_conditions(faults: &mut Faults, conditions: &At) {
    faults.at_most_items(conditions, CONDITIONS_LIMIT);
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        if expression.text().trim().is_empty() {
            faults.required(&expression, "");
        }
        faults.needs_name(&name, names::check_label_key);
        if !name.is_blank() && !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
    }
}

fn validation(faults: &mut Faults, validation: &At) {
    let (expression, message) = (validation.get("expression"), validation.get("message"));
    if expression.text().trim().is_empty() {
        faults.required(&expression, "expression is not specified");
    }
    let dynamic = validation.get("messageExpression");
    if !dynamic.is_blank() && dynamic.text().trim().is_empty() {
        faults.invalid(&dynamic, "must be non-empty if specified");
    }
    let has_breaks = |text: &str| text.contains(['\n', '\r']);
    if !message.is_blank() && message.text().trim().is_empty() {
        faults.invalid(&message, "message must be non-empty if specified");
    } else if has_breaks(message.text().trim()) {
        faults.invalid(&message, "message must not contain line breaks");
    } else if has_breaks(expression.text().trim()) && message.is_blank() {
        faults.required(&message, "message must be specified if expression contains line breaks");
    }
    faults.choice(&validation.get("reason"), &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"]);
}

fn audit_annotation(faults: &mut Faults, audit: &At, policy: &str) {
    let (key, value) = (audit.get("key"), audit.get("valueExpression"));
    let full = if policy.is_empty() { key.text().to_owned() } else { format!("{policy}/{}", key.text()) };
    for words in names::check_label_key(&full.to_lowercase()) {
        faults.invalid_as(&key, key.text(), words);
    }
    if value.text().trim().is_empty() {
        faults.required(&value, "valueExpression is not specified");
    } else if value.text().len() > VALUE_EXPRESSION_LIMIT_BYTES {
        faults.required(&value, "must not exceed 5kB in length");
    }
}

fn mutation(faults: &mut Faults, mutation: &At) {
    let (kind, apply, patch) =
        (mutation.get("patchType"), mutation.get("applyConfiguration"), mutation.get("jsonPatch"));
    let (own, other) = match kind.text() {
        "ApplyConfiguration" => (&apply, &patch),
        "JSONPatch" => (&patch, &apply),
        "" => return faults.required(&kind, ""),
        _ => return faults.not_supported(&kind, &["ApplyConfiguration", "JSONPatch"]),
    };
    if !own.is_set() {
        faults.required(own, &format!("must be specified when patchType is {}", kind.text()));
    } else if own.get("expression").text().trim().is_empty() {
        faults.required(&own.get("expression"), "expression is not specified");
    }
    if other.is_set() {
        faults.invalid(other, format!("must not be specified when patchType is {}", kind.text()));
    }
}

/// Checks what puts a policy that refuses into force.
pub fn validating_binding(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    binding(&mut faults, &spec);
    let actions = spec.get("validationActions");
    let mut seen = BTreeSet::new();
    for action in actions.items() {
        faults.choice(&action, &["Audit", "Deny", "Warn"]);
        if !seen.insert(action.text()) {
            faults.duplicate(&action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let words = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        faults.invalid(&actions, words);
    }
    if actions.is_blank() {
        faults.required(&actions, "at least one validation action is required");
    }
    faults.into_list()
}

/// Checks what puts a policy that changes into force.
pub fn mutating_binding(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    binding(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}

fn binding(faults: &mut Faults, spec: &At) {
    faults.needs_name(&spec.get("policyName"), names::check_dns_subdomain);
    if spec.get("paramRef").is_set() {
        param_ref(faults, &spec.get("paramRef"));
    }
    if spec.get("matchResources").is_set() {
        match_resources(faults, &spec.get("matchResources"));
    }
}

fn param_ref(faults: &mut Faults, reference: &At) {
    let (name, selector) = (reference.get("name"), reference.get("selector"));
    let both = "name and selector are mutually exclusive";
    if !name.is_blank() {
        faults.all_invalid(&name, names::check_path_segment(name.text()));
        if selector.is_set() {
            faults.forbidden(&name, both);
        }
    }
    if selector.is_set() {
        faults.selector(&selector);
        if !name.is_blank() {
            faults.forbidden(&selector, both);
        }
    }
    if name.is_blank() && !selector.is_set() {
        faults.required(reference, "one of name or selector must be specified");
    }
    faults.needs_choice(&reference.get("parameterNotFoundAction"), &["Allow", "Deny"]);
}
