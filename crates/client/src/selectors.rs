//! Label selectors of the typed API, made ready for matching. Every part that chooses objects by labels reads them here.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as RawSelector, ObjectMeta};
use skiff_object::LabelSelector;
use skiff_object::selector::Requirement;

/// The labels or annotations of an object.
pub type Labels = BTreeMap<String, String>;

/// A selector ready for matching; an absent one selects nothing, as does one with an operator that does not exist.
pub fn selector(raw: Option<&RawSelector>) -> LabelSelector {
    let Some(raw) = raw else { return LabelSelector::nothing() };
    let mut requirements = labels_selector(raw.match_labels.as_ref()).requirements().to_vec();
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

/// A selector of labels that must all be there.
pub fn labels_selector(labels: Option<&Labels>) -> LabelSelector {
    let pairs = labels.into_iter().flatten();
    LabelSelector::of(pairs.map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()])).collect())
}

/// Whether labels are selected.
pub fn selects_labels(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    selector.matches(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
}

/// Whether an object's labels are selected.
pub fn selects(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    selects_labels(selector, meta.labels.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: serde_json::Value, expected: bool) {
        let raw: Option<RawSelector> = serde_json::from_value(raw.clone()).expect("a selector or null");
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        assert_eq!(selects_labels(&selector(raw.as_ref()), Some(&labels)), expected, "{raw:?}");
    }

    #[test]
    fn what_is_absent_or_unknown_selects_nothing() {
        use serde_json::json;
        check(json!(null), false);
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "web"}}), true);
        check(json!({"matchLabels": {"app": "web", "tier": "x"}}), false);
        check(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}), true);
        check(json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false);
        check(json!({"matchExpressions": [{"key": "app", "operator": "Near", "values": ["web"]}]}), false);
    }
}
