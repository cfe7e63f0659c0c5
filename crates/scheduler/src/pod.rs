//! A pod with what decisions ask of it again and again worked out once.

use std::fmt::Write;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorTerm, Pod, PodAffinityTerm, PreferredSchedulingTerm, Toleration};
use skiff_object::LabelSelector;
use skiff_object::selector::Requirement;

use crate::profile::DEFAULT_NAME;
use crate::resources::{Resources, pod_requests, pod_scored_requests};
use crate::selectors::{Labels, selector, selects};
use crate::spread::Constraint;

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
    /// Spread constraints that filter.
    pub hard_spread: Vec<Constraint>,
    /// Spread constraints that score.
    pub soft_spread: Vec<Constraint>,
    /// Whether it has volumes that are claimed.
    pub has_claims: bool,
    /// All that decisions may ask of it but its labels: pods of one shape fit and score alike.
    pub shape: Arc<str>,
    /// The keys of labels that its own terms and constraints ask for.
    own_keys: Vec<String>,
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
            hard_spread: Constraint::of(&pod, "DoNotSchedule"),
            soft_spread: Constraint::of(&pod, "ScheduleAnyway"),
            has_claims: has_claims(&pod),
            shape: Arc::from(""),
            own_keys: Vec::new(),
            pod,
        };
        info.read_affinity();
        info.own_keys = info.asked_keys().map(str::to_owned).collect();
        info.shape = info.write_shape().into();
        info
    }

    fn terms(&self) -> impl Iterator<Item = &AffinityTerm> {
        self.required_affinity.iter().chain(&self.required_anti_affinity).chain(&self.preferred_affinity)
    }

    /// The label keys that its terms and constraints ask for.
    fn asked_keys(&self) -> impl Iterator<Item = &str> {
        let spread = self.hard_spread.iter().chain(&self.soft_spread).map(|constraint| &constraint.selector);
        self.terms().map(|term| &term.selector).chain(spread).flat_map(selector_keys)
    }

    /// The label keys that its affinity terms ask for.
    pub fn affinity_keys(&self) -> impl Iterator<Item = &str> {
        self.terms().map(|term| &term.selector).flat_map(selector_keys)
    }

    fn write_shape(&self) -> String {
        let mut text = format!(
            "{}|{}|{}|{:?}|{:?}",
            self.scheduler_name(),
            self.namespace(),
            self.priority,
            self.requests,
            self.scored
        );
        let Some(spec) = &self.pod.spec else { return text };
        let mut add = |part: &dyn std::fmt::Debug| write!(text, "|{part:?}").expect("text takes all that is written");
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            add(&container.image);
        }
        for toleration in self.tolerations() {
            add(&(&toleration.key, &toleration.operator, &toleration.value, &toleration.effect));
        }
        if !self.host_ports.is_empty() {
            add(&self.host_ports);
        }
        add(&spec.preemption_policy);
        add(&spec.node_selector);
        if spec.affinity.is_some() {
            add(&spec.affinity);
        }
        if spec.topology_spread_constraints.is_some() {
            add(&spec.topology_spread_constraints);
        }
        if spec.node_name.is_some() && !self.is_placed() {
            add(&spec.node_name);
        }
        text
    }

    /// Shape and those labels that anything asks for, `watched` being the keys that pods elsewhere ask for.
    pub fn signature(&self, watched: impl Fn(&str) -> bool) -> String {
        let mut text = self.shape.to_string();
        for (key, value) in self.labels().into_iter().flatten() {
            if watched(key) || self.own_keys.iter().any(|own| own == key) {
                text.push('|');
                text.push_str(key);
                text.push('=');
                text.push_str(value);
            }
        }
        text
    }

    fn is_placed(&self) -> bool {
        !self.node_name().is_empty()
    }

    /// Who is to schedule it.
    pub fn scheduler_name(&self) -> &str {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.scheduler_name.as_deref()).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAME)
    }

    /// The node that room was made on for it, or the empty string.
    pub fn nominated_node(&self) -> &str {
        let status = self.pod.status.as_ref();
        status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default()
    }

    /// Whether it is on its way out.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
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

/// The label keys that a selector asks for.
pub fn selector_keys(selector: &LabelSelector) -> impl Iterator<Item = &str> {
    selector.requirements().iter().map(|requirement| match requirement {
        Requirement::In(key, _)
        | Requirement::NotIn(key, _)
        | Requirement::Exists(key)
        | Requirement::DoesNotExist(key)
        | Requirement::GreaterThan(key, _)
        | Requirement::LessThan(key, _) => key.as_str(),
    })
}

/// Whether a pod has anything to do with claims.
fn has_claims(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
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
