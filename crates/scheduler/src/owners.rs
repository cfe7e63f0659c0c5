//! Which pods belong together by what owns or serves them: pods that say nothing of it themselves are spread by that.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/#internal-default-constraints>.

use std::collections::{BTreeMap, HashMap};

use skiff_object::LabelSelector;
use skiff_object::selector::Requirement;

use crate::pod::PodInfo;
use crate::selectors::Labels;

/// Namespace and name.
type Key = (String, String);

/// Services, and the sets that own pods.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// The labels that Services choose pods by, by namespace.
    services: HashMap<String, BTreeMap<String, Labels>>,
    /// What ReplicaSets, StatefulSets and ReplicationControllers choose pods by, by kind.
    sets: HashMap<&'static str, HashMap<Key, LabelSelector>>,
}

impl Owners {
    /// Learns what a Service chooses, or that it is gone.
    pub fn set_service(&mut self, namespace: &str, name: &str, chosen: Option<Labels>) {
        let services = self.services.entry(namespace.to_owned()).or_default();
        match chosen.filter(|chosen| !chosen.is_empty()) {
            Some(chosen) => services.insert(name.to_owned(), chosen),
            None => services.remove(name),
        };
    }

    /// Learns what a set chooses, or that it is gone.
    pub fn set_owner(&mut self, kind: &'static str, key: Key, chosen: Option<LabelSelector>) {
        let sets = self.sets.entry(kind).or_default();
        match chosen {
            Some(chosen) => sets.insert(key, chosen),
            None => sets.remove(&key),
        };
    }

    /// What chooses the pods that belong with this one; `None` where nothing does.
    pub fn selector_of(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let mut requirements: Vec<Requirement> = Vec::new();
        let mut add = |requirement: Requirement| {
            if !requirements.contains(&requirement) {
                requirements.push(requirement);
            }
        };
        let has = |(key, value): (&String, &String)| pod.labels().is_some_and(|labels| labels.get(key) == Some(value));
        let services = self.services.get(pod.namespace()).into_iter().flat_map(BTreeMap::values);
        for (key, value) in services.filter(|chosen| chosen.iter().all(has)).flatten() {
            add(Requirement::In(key.clone(), vec![value.clone()]));
        }
        let owners = pod.pod.metadata.owner_references.iter().flatten();
        if let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true))
            && let Some(sets) = self.sets.get(owner.kind.as_str())
            && let Some(set) = sets.get(&(pod.namespace().to_owned(), owner.name.clone()))
        {
            set.requirements().iter().cloned().for_each(add);
        }
        (!requirements.is_empty()).then(|| LabelSelector::of(requirements))
    }
}
