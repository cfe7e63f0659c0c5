//! Label selectors and node selectors of the typed API, made ready for matching.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as RawSelector;
use skiff_object::LabelSelector;
use skiff_object::selector::Requirement;

/// The labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A selector ready for matching; an absent one selects nothing, as does one with an operator that does not exist.
pub fn selector(raw: Option<&RawSelector>) -> LabelSelector {
    let Some(raw) = raw else { return LabelSelector::nothing() };
    let mut requirements: Vec<Requirement> = Vec::new();
    for (key, value) in raw.match_labels.iter().flatten() {
        requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
    }
    for expression in raw.match_expressions.iter().flatten() {
        let (key, values) = (expression.key.clone(), expression.values.clone().unwrap_or_default());
        requirements.push(match expression.operator.as_str() {
            "In" => Requirement::In(key, values),
            "NotIn" => Requirement::NotIn(key, values),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::DoesNotExist(key),
            _ => return LabelSelector::nothing(),
        });
    }
    LabelSelector::of(requirements)
}

/// Whether labels are selected.
pub fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    selector.matches(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
}

/// Whether a node satisfies at least one of the terms; a term without requirements is satisfied by none.
pub fn node_matches_any(terms: &[NodeSelectorTerm], node: &Node) -> bool {
    terms.iter().any(|term| node_matches(term, node))
}

/// Whether a node satisfies a term.
pub fn node_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| if key == "metadata.name" { node.metadata.name.as_deref() } else { None };
    expressions.iter().all(|e| holds(e, label(&e.key))) && fields.iter().all(|e| holds(e, field(&e.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = || number(values.first().map(String::as_str));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(bound()).is_some_and(|(value, bound)| value > bound),
        "Lt" => number(value).zip(bound()).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
