//! Whether the node takes a Pod that has been bound to it. The scheduler has looked at the same things, but others may bind
//! Pods too, and the node may have changed meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Pod};
use skiff_base::Quantity;

use crate::config::resources::total;
use crate::pod::spec::spec;

/// The status reason and message of a Pod that is not taken; `others` are the active Pods of the node.
pub fn reject(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Quantity>,
    labels: Option<&BTreeMap<String, String>>,
) -> Option<(String, String)> {
    if let Some(labels) = labels
        && !selects(pod, labels)
    {
        let message =
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Some(("NodeAffinity".to_owned(), message.to_owned()));
    }
    lacks(pod, others, allocatable)
        .map(|lack| (format!("OutOf{}", lack.name), format!("Pod was rejected: {}", lack.message())))
}

/// A resource of which there is too little for a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The resource.
    pub name: String,
    /// What the Pod asks for; of processors in thousandths, as the other numbers.
    pub requested: i64,
    /// What others have.
    pub used: i64,
    /// What there is in all.
    pub capacity: i64,
}

impl Lack {
    /// In upstream's words.
    pub fn message(&self) -> String {
        let Self { name, requested, used, capacity } = self;
        format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}")
    }
}

/// The first resource that the Pod asks more of than the others leave.
pub fn lacks(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, Quantity>) -> Option<Lack> {
    all_lacks(pod, others, allocatable).into_iter().next()
}

/// All resources that the Pod asks more of than the others leave.
pub fn all_lacks(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, Quantity>) -> Vec<Lack> {
    let mut lacks = Vec::new();
    for (name, capacity) in allocatable {
        let (requested, used) = if name == "pods" {
            (Quantity::from_units(1, skiff_base::quantity::Format::DecimalSi), count(others.len()))
        } else {
            let used = others.iter().filter_map(|other| total(other, false, name));
            (total(pod, false, name).unwrap_or(Quantity::ZERO), used.fold(Quantity::ZERO, Quantity::plus))
        };
        if !requested.is_zero() && used.plus(requested) > *capacity {
            let number = |quantity: &Quantity| if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            lacks.push(Lack {
                name: name.clone(),
                requested: number(&requested),
                used: number(&used),
                capacity: number(capacity),
            });
        }
    }
    lacks
}

/// Where a Pod comes from: absent or `api` for the API server, `file` or `http` for one that the node itself was given.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// On the API server's image of a static Pod: the hash of that Pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Pods with at least this priority (`system-cluster-critical`) are critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the node was given the Pod by a file or a URL.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api")
}

/// Whether the Pod is the API server's image of a static one.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// Whether the node keeps the Pod also where it must end others.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

fn count(number: usize) -> Quantity {
    Quantity::from_units(i64::try_from(number).unwrap_or(i64::MAX), skiff_base::quantity::Format::DecimalSi)
}

/// Whether the Pod's node selector and required node affinity (by labels) match.
fn selects(pod: &Pod, labels: &BTreeMap<String, String>) -> bool {
    let spec = spec(pod);
    let selector = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let affinity = required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            // Terms about fields name the node itself, which the binding has done already.
            let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
            let fields = term.match_fields.as_deref().unwrap_or(&[]);
            !(expressions.is_empty() && fields.is_empty())
                && expressions.iter().all(|requirement| holds(requirement, labels))
        })
    });
    selector && affinity
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let listed = |value: &String| requirement.values.iter().flatten().any(|listed| listed == value);
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = requirement.values.iter().flatten().next().and_then(number);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
