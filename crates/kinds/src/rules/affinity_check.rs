//! What may be wrong with where a Pod wants to run: affinity, tolerations, spread.

use skiff_object::names;

use crate::rules::check::{At, Faults};

/// Weights of preferences.
const WEIGHT_RANGE: (i64, i64) = (1, 100);

/// Checks a Pod's affinity.
pub fn affinity(faults: &mut Faults, affinity: &At) {
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(faults, &required);
    }
    for preferred in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(faults, &preferred.get("weight"));
        // A preference may name values that no label can have: it is then not met.
        node_term(faults, &preferred.get("preference"), false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.get(kind);
        for term in pods.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(faults, &term);
        }
        for preferred in pods.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(faults, &preferred.get("weight"));
            pod_term(faults, &preferred.get("podAffinityTerm"));
        }
    }
}

fn weight(faults: &mut Faults, weight: &At) {
    let (low, high) = WEIGHT_RANGE;
    if !(low..=high).contains(&weight.int().unwrap_or(0)) {
        faults.invalid_as(weight, weight.int().unwrap_or(0), "must be in the range 1-100");
    }
}

/// Checks a node selector: at least one term.
pub fn node_selector(faults: &mut Faults, selector: &At) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_blank() {
        faults.required(&terms, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_term(faults, &term, true);
    }
}

fn node_term(faults: &mut Faults, term: &At, check_values: bool) {
    for requirement in term.get("matchExpressions").items() {
        node_requirement(faults, &requirement);
        label_key(faults, &requirement.get("key"));
        for value in requirement.get("values").items().iter().filter(|_| check_values) {
            faults.all_invalid(value, names::check_label_value(value.text()));
        }
    }
    for requirement in term.get("matchFields").items() {
        let (key, operator, values) = (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        if !matches!(operator.text(), "In" | "NotIn") {
            faults.invalid(&operator, "not a valid selector operator");
        } else if values.items().len() != 1 {
            faults
                .required(&values, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
        }
        if key.text() == "metadata.name" {
            values.items().iter().for_each(|value| faults.all_invalid(value, names::check_dns_subdomain(value.text())));
        } else {
            faults.invalid(&key, "not a valid field selector key");
        }
    }
}

fn node_requirement(faults: &mut Faults, requirement: &At) {
    let (operator, values) = (requirement.get("operator"), requirement.get("values"));
    match operator.text() {
        "In" | "NotIn" => {
            if values.is_blank() {
                faults.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_blank() {
                faults.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
        }
        "Gt" | "Lt" => {
            if values.items().len() != 1 {
                faults.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
        }
        _ => faults.invalid(&operator, "not a valid selector operator"),
    }
}

/// A key of a label; the message shows it also where it is absent.
fn label_key(faults: &mut Faults, key: &At) {
    for words in names::check_label_key(key.text()) {
        faults.invalid_as(key, key.text(), words);
    }
}

fn pod_term(faults: &mut Faults, term: &At) {
    let selector = term.get("labelSelector");
    faults.selector(&selector);
    faults.selector(&term.get("namespaceSelector"));
    for namespace in term.get("namespaces").items() {
        let at = namespace.renamed(term.path().child("namespace"));
        faults.all_invalid(&at, names::check_dns_label(at.text()));
    }
    let (matched, mismatched) = (term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    for keys in [(&matched, "matchLabelKeys"), (&mismatched, "mismatchLabelKeys")] {
        selector_keys(faults, keys.0, keys.1, &selector);
    }
    for key in mismatched.items() {
        if matched.texts().contains(&key.text()) {
            faults.invalid(&key, "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
    topology_key(faults, &term.get("topologyKey"));
}

/// Keys whose values a selector takes from the Pod itself. What that made of the selector already is no fault.
fn selector_keys(faults: &mut Faults, keys: &At, field: &str, selector: &At) {
    if keys.is_blank() {
        return;
    }
    if !selector.is_set() {
        faults.forbidden(keys, "must not be specified when labelSelector is not set");
        return;
    }
    let expressions = selector.get("matchExpressions").items();
    for key in keys.items() {
        label_key(faults, &key);
        let made =
            |other: &At| matches!(other.get("operator").text(), "In" | "NotIn") && other.get("values").count() == 1;
        let named = |other: &&At| other.get("key").text() == key.text();
        let of_others = expressions.iter().filter(named).any(|other| !made(other));
        if of_others
            || expressions.iter().filter(named).count() > 1
            || selector.get("matchLabels").get(key.text()).is_set()
        {
            faults.invalid(&key, format!("exists in both {field} and labelSelector"));
        }
    }
}

fn topology_key(faults: &mut Faults, key: &At) {
    if key.is_blank() {
        faults.required(key, "can not be empty");
    }
    label_key(faults, key);
}

/// Checks a Pod's tolerations.
pub fn tolerations(faults: &mut Faults, tolerations: &At) {
    for toleration in tolerations.items() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (value, effect) = (toleration.get("value"), toleration.get("effect"));
        faults.name(&key, names::check_label_key);
        if key.is_blank() && operator.text() != "Exists" {
            let words = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            faults.invalid_as(&operator, operator.text(), words);
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            faults.invalid_as(&effect, effect.text(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.text() {
            "Equal" | "" => {
                let wrong = names::check_label_value(value.text());
                if !wrong.is_empty() {
                    faults.invalid_as(&operator, value.text(), wrong.join(";"));
                }
            }
            "Exists" => {
                if !value.is_blank() {
                    let value = value.value().clone();
                    faults.invalid_as(&operator, value, "value must be empty when `operator` is 'Exists'");
                }
            }
            _ => faults.not_supported(&operator, &["Equal", "Exists"]),
        }
        if !effect.is_blank() {
            faults.choice(&effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    }
}

/// Checks how a Pod is to be spread.
pub fn spread(faults: &mut Faults, constraints: &At) {
    let all = constraints.items();
    let pair = |constraint: &At| {
        let (key, otherwise) = (constraint.get("topologyKey").text(), constraint.get("whenUnsatisfiable").text());
        format!("{{{key}, {otherwise}}}")
    };
    for (index, constraint) in all.iter().enumerate() {
        faults.positive(&constraint.get("maxSkew"), "must be greater than zero");
        let (key, otherwise) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if key.is_blank() {
            faults.required(&key, "can not be empty");
        } else {
            label_key(faults, &key);
        }
        if !matches!(otherwise.text(), "DoNotSchedule" | "ScheduleAnyway") {
            faults.not_supported(&otherwise, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if all[index + 1..].iter().any(|other| pair(other) == pair(constraint)) {
            let path = constraint.path().child("{topologyKey, whenUnsatisfiable}");
            faults.extend([skiff_object::FieldError::duplicate(&path, pair(constraint))]);
        }
        min_domains(faults, constraint, otherwise.text());
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            faults.choice(&constraint.get(policy), &["Honor", "Ignore"]);
        }
        let selector = constraint.get("labelSelector");
        selector_keys(faults, &constraint.get("matchLabelKeys"), "matchLabelKeys", &selector);
        faults.selector(&selector);
    }
}

fn min_domains(faults: &mut Faults, constraint: &At, otherwise: &str) {
    let domains = constraint.get("minDomains");
    if domains.int().is_some_and(|number| number <= 0) {
        faults.invalid(&domains, "must be greater than zero");
    }
    if domains.is_set() && otherwise != "DoNotSchedule" {
        let words = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {otherwise}");
        faults.invalid(&domains, words);
    }
}
