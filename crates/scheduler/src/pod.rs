//! A pod with what decisions ask of it again and again worked out once.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorTerm, Pod, PodAffinityTerm, PreferredSchedulingTerm, Toleration};
use skiff_object::LabelSelector;
use skiff_object::selector::Requirement;

use crate::resources::{Resources, pod_requests, pod_scored_requests};
use crate::selectors::{Labels, selector, selects};

/// A port that a pod takes on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The address it binds to; `0.0.0.0` is every one.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY || other.ip == ANY)
    }
}

/// One term of inter-pod affinity or anti-affinity.
#[derive(Debug, Clone)]
pub struct AffinityTerm {
    /// The node label that makes a domain.
    pub topology_key: String,
    /// Which pods are meant.
    pub selector: LabelSelector,
    /// In which namespaces by name.
    pub namespaces: Vec<String>,
    /// In which namespaces by label.
    pub namespace_selector: Option<LabelSelector>,
    /// For preferred terms.
    pub weight: i64,
}

impl AffinityTerm {
    fn new(pod: &Pod, term: &PodAffinityTerm, weight: i64) -> Self {
        let labels = pod.metadata.labels.as_ref();
        let mut chosen = selector(term.label_selector.as_ref()).requirements().to_vec();
        let own = |key: &String| labels.and_then(|labels| labels.get(key)).cloned();
        for key in term.match_label_keys.iter().flatten() {
            chosen.extend(own(key).map(|value| Requirement::In(key.clone(), vec![value])));
        }
        for key in term.mismatch_label_keys.iter().flatten() {
            chosen.extend(own(key).map(|value| Requirement::NotIn(key.clone(), vec![value])));
        }
        let selector = if term.label_selector.is_some() { LabelSelector::of(chosen) } else { LabelSelector::nothing() };
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(pod.metadata.namespace.clone());
        }
        let namespace_selector = term.namespace_selector.as_ref().map(|raw| crate::selectors::selector(Some(raw)));
        Self { topology_key: term.topology_key.clone(), selector, namespaces, namespace_selector, weight }
    }

    /// Whether the term means `pod`.
    pub fn matches(&self, pod: &PodInfo, namespaces: &std::collections::BTreeMap<String, Labels>) -> bool {
        let namespace = pod.namespace();
        let in_namespace = self.namespaces.iter().any(|name| name == namespace)
            || self.namespace_selector.as_ref().is_some_and(|chosen| selects(chosen, namespaces.get(namespace)));
        in_namespace && selects(&self.selector, pod.labels())
    }
}

/// A pod, ready for decisions.
#[derive(Debug)]
pub struct PodInfo {
    /// The pod itself.
    pub pod: Arc<Pod>,
    /// Its UID.
    pub uid: String,
    /// What filters compare.
    pub requests: Resources,
    /// CPU and memory as scores compare them.
    pub scored: (i64, i64),
    /// Ports taken on the node.
    pub host_ports: Vec<HostPort>,
    /// Higher goes first.
    pub priority: i32,
    /// Required affinity to pods.
    pub required_affinity: Vec<AffinityTerm>,
    /// Required anti-affinity to pods.
    pub required_anti_affinity: Vec<AffinityTerm>,
    /// Preferred affinity (positive weight) and anti-affinity (negative).
    pub preferred_affinity: Vec<AffinityTerm>,
}

impl PodInfo {
    /// Works out what decisions need.
    pub fn new(pod: Arc<Pod>) -> Self {
        let mut info = Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            requests: pod_requests(&pod),
            scored: pod_scored_requests(&pod),
            host_ports: host_ports(&pod),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            required_affinity: Vec::new(),
            required_anti_affinity: Vec::new(),
            preferred_affinity: Vec::new(),
            pod,
        };
        info.read_affinity();
        info
    }

    fn read_affinity(&mut self) {
        let pod = self.pod.clone();
        let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else { return };
        let term = |raw: &PodAffinityTerm| AffinityTerm::new(&pod, raw, 0);
        if let Some(to) = &affinity.pod_affinity {
            let required = to.required_during_scheduling_ignored_during_execution.iter().flatten();
            self.required_affinity = required.map(term).collect();
            let preferred = to.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            self.preferred_affinity
                .extend(preferred.map(|p| AffinityTerm::new(&pod, &p.pod_affinity_term, i64::from(p.weight))));
        }
        if let Some(from) = &affinity.pod_anti_affinity {
            let required = from.required_during_scheduling_ignored_during_execution.iter().flatten();
            self.required_anti_affinity = required.map(term).collect();
            let preferred = from.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            self.preferred_affinity
                .extend(preferred.map(|p| AffinityTerm::new(&pod, &p.pod_affinity_term, -i64::from(p.weight))));
        }
    }

    /// Whether other pods matter to it.
    pub fn has_affinity(&self) -> bool {
        !(self.required_affinity.is_empty()
            && self.required_anti_affinity.is_empty()
            && self.preferred_affinity.is_empty())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Its labels.
    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    /// Its tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    /// The node it is on, or the empty string.
    pub fn node_name(&self) -> &str {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
    }

    /// The terms of required node affinity, if there are any.
    pub fn required_node_terms(&self) -> Option<&[NodeSelectorTerm]> {
        let affinity = self.pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        Some(&affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms)
    }

    /// The terms of preferred node affinity.
    pub fn preferred_node_terms(&self) -> &[PreferredSchedulingTerm] {
        let affinity = self.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        affinity
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    /// Whether gates keep it from being scheduled.
    pub fn is_gated(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut ports = Vec::new();
    for port in spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()) {
        let Some(number) = port.host_port.filter(|number| *number > 0) else { continue };
        ports.push(HostPort {
            ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: number,
        });
    }
    ports
}
