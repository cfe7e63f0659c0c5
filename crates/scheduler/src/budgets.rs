//! Disruption budgets as preemption sees them: how many more pods of each may go.

use std::collections::HashMap;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use skiff_object::LabelSelector;

use crate::pod::PodInfo;
use crate::selectors::{selector, selects};

/// One budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    namespace: String,
    selector: LabelSelector,
    /// How many more may go.
    allowed: i64,
    /// Pods that are on their way out with leave already.
    disrupted: Vec<String>,
}

impl Budget {
    fn new(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        let raw = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let chosen = selector(raw);
        Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            // An empty selector means every pod, an absent one none.
            selector: chosen,
            allowed: status.map_or(0, |status| i64::from(status.disruptions_allowed.unwrap_or(0))),
            disrupted: status
                .and_then(|status| status.disrupted_pods.as_ref())
                .into_iter()
                .flat_map(|pods| pods.keys().cloned())
                .collect(),
        }
    }

    /// Whether the pod is under this budget.
    pub fn covers(&self, pod: &PodInfo) -> bool {
        pod.namespace() == self.namespace
            && pod.labels().is_some_and(|labels| !labels.is_empty())
            && selects(&self.selector, pod.labels())
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Budgets {
    all: HashMap<(String, String), Budget>,
}

impl Budgets {
    /// Learns of a budget, or that it is gone; gives the old and the new one where they differ.
    pub fn set(&mut self, budget: &PodDisruptionBudget, gone: bool) -> Vec<Budget> {
        let meta = &budget.metadata;
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let new = (!gone).then(|| Budget::new(budget));
        let old = match new.clone() {
            Some(new) => self.all.insert(key, new),
            None => self.all.remove(&key),
        };
        if old == new { Vec::new() } else { old.into_iter().chain(new).collect() }
    }

    /// For each pod in turn, whether its going would break a budget, those before it having gone.
    pub fn broken_by<'a>(&self, pods: impl Iterator<Item = &'a PodInfo>) -> Vec<bool> {
        if self.all.is_empty() {
            return pods.map(|_| false).collect();
        }
        let mut left: HashMap<&(String, String), i64> = HashMap::new();
        let mut broken = Vec::new();
        for pod in pods {
            let mut breaks = false;
            for (key, budget) in self.all.iter().filter(|(_, budget)| budget.covers(pod)) {
                if budget.disrupted.iter().any(|name| name == pod.name()) {
                    continue;
                }
                let left = left.entry(key).or_insert(budget.allowed);
                *left -= 1;
                breaks |= *left < 0;
            }
            broken.push(breaks);
        }
        broken
    }
}
