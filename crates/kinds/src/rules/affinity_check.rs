//! What may be wrong with where a Pod wants to run: affinity, tolerations, spread.

use std::collections::BTreeSet;

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
        node_term(faults, &preferred.get("preference"));
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
        node_term(faults, &term);
    }
}

fn node_term(faults: &mut Faults, term: &At) {
    for requirement in term.get("matchExpressions").items() {
        node_requirement(faults, &requirement);
        faults.all_invalid(&requirement.get("key"), names::check_label_key(requirement.get("key").text()));
        for value in requirement.get("values").items() {
            faults.all_invalid(&value, names::check_label_value(value.text()));
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

fn pod_term(faults: &mut Faults, term: &At) {
    faults.selector(&term.get("labelSelector"));
    faults.selector(&term.get("namespaceSelector"));
    for namespace in term.get("namespaces").items() {
        faults.all_invalid(&namespace, names::check_dns_label(namespace.text()));
    }
    topology_key(faults, &term.get("topologyKey"));
}

fn topology_key(faults: &mut Faults, key: &At) {
    if key.is_blank() {
        faults.required(key, "can not be empty");
    } else {
        faults.all_invalid(key, names::check_label_key(key.text()));
    }
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
            "Lt" | "Gt" => {
                if value.text().parse::<i64>().is_err() {
                    faults.invalid(&value, "value must be a valid integer");
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
    let mut seen = BTreeSet::new();
    for constraint in constraints.items() {
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            faults.invalid_as(&skew, skew.int().unwrap_or(0), "must be greater than zero");
        }
        let (key, otherwise) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        topology_key(faults, &key);
        if !matches!(otherwise.text(), "DoNotSchedule" | "ScheduleAnyway") {
            faults.not_supported(&otherwise, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let pair = format!("{{{}, {}}}", key.text(), otherwise.text());
        if !seen.insert(pair.clone()) {
            let error =
                skiff_object::FieldError::duplicate(&constraint.path().child("{topologyKey, whenUnsatisfiable}"), pair);
            faults.extend([error]);
        }
        min_domains(faults, &constraint, otherwise.text());
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            faults.choice(&constraint.get(policy), &["Honor", "Ignore"]);
        }
        faults.selector(&constraint.get("labelSelector"));
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
