//! Which pods stand behind a Service: EndpointSlices, and the older Endpoints.
//! What both have in common is here: which pods are meant, at which addresses and ports.
//! See <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>.

mod legacy;
mod mirror;
mod slices;

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_client::{Change, Index, Informer, ObjectKey};

pub use legacy::LegacyEndpoints;
pub use mirror::Mirrors;
pub use slices::EndpointSlices;

use crate::meta::{labels_selector, selects};
use crate::pods::{is_ready, is_terminal};

/// Marks the endpoints of Services without an address of their own.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A port behind a Service, as it is on one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Port {
    name: String,
    number: i32,
    protocol: String,
    app_protocol: Option<String>,
}

fn spec(service: &Service) -> Option<&ServiceSpec> {
    service.spec.as_ref()
}

/// Whether endpoints of this Service are ours to keep: it has a selector, and is not a mere alias.
fn is_ours(service: &Service) -> bool {
    let selector = spec(service).and_then(|spec| spec.selector.as_ref());
    let alias = spec(service).and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    selector.is_some_and(|selector| !selector.is_empty()) && !alias
}

fn is_headless(service: &Service) -> bool {
    spec(service).and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn publishes_unready(service: &Service) -> bool {
    spec(service).and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// Whether the Service selects the pod.
fn selects_pod(service: &Service, pod: &Pod) -> bool {
    let selector = spec(service).and_then(|spec| spec.selector.as_ref());
    is_ours(service) && selects(&labels_selector(selector), &pod.metadata)
}

/// The pods behind a Service that have an address and have not ended.
fn members(service: &Service, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let with_address = |pod: &&Arc<Pod>| !addresses(pod).is_empty() && !is_terminal(pod);
    pods.iter().filter(|pod| selects_pod(service, pod)).filter(with_address).cloned().collect()
}

/// All addresses of a pod.
fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<_> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).filter(|ip| !ip.is_empty()).collect();
    if all.is_empty() { status.pod_ip.as_deref().into_iter().filter(|ip| !ip.is_empty()).collect() } else { all }
}

/// The families of a Service's addresses, by their names in the API.
fn families(service: &Service) -> Vec<String> {
    let spec = spec(service);
    let told = spec.and_then(|spec| spec.ip_families.clone()).filter(|families| !families.is_empty());
    told.unwrap_or_else(|| {
        let v6 = spec.and_then(|spec| spec.cluster_ip.as_deref()).is_some_and(|ip| ip.contains(':'));
        vec![if v6 { "IPv6" } else { "IPv4" }.to_owned()]
    })
}

/// The pod's address of this family.
fn address_of<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    addresses(pod).into_iter().find(|address| address.contains(':') == (family == "IPv6"))
}

/// The hostname by which the pod can be asked for below the Service's name.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let below = spec.subdomain == service.metadata.name && spec.subdomain.is_some();
    spec.hostname.clone().filter(|name| below && !name.is_empty())
}

/// The Service's ports as they are on this pod; a named port that the pod lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let wanted = spec(service).and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    wanted.iter().filter_map(|port| port_on(port, pod)).collect()
}

fn port_on(port: &ServicePort, pod: &Pod) -> Option<Port> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
    };
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        number,
        protocol,
        app_protocol: port.app_protocol.clone(),
    })
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
    let is_it = |port: &&ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    containers.flat_map(|container| container.ports.iter().flatten()).find(is_it).map(|port| port.container_port)
}

/// Services by the first label that they select, which every pod that they concern has. Cheap to clone.
#[derive(Clone)]
struct Selecting(Index<Service>);

impl Selecting {
    fn new(services: &Informer<Service>) -> Self {
        Self(services.index("selecting", |service| {
            let (label, value) = spec(service)?.selector.as_ref()?.first_key_value()?;
            Some(Cow::Owned(selecting(service.metadata.namespace.as_deref(), label, value)))
        }))
    }

    /// The Services that select the pod.
    fn of(&self, pod: &Pod) -> impl Iterator<Item = ObjectKey> {
        let labels = pod.metadata.labels.iter().flatten();
        let found =
            labels.flat_map(|(label, value)| self.0.of(&selecting(pod.metadata.namespace.as_deref(), label, value)));
        found.filter(|service| selects_pod(service, pod)).map(|service| ObjectKey::of(&service.metadata))
    }

    /// The Services that a change of a pod concerns: those that select it, now or before.
    fn concerned_by(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        let mut concerned: Vec<_> = match change {
            Change::Updated { old, new } if is_same_to_services(old, new) => return Vec::new(),
            Change::Updated { old, new } if old.metadata.labels != new.metadata.labels => self.of(old).collect(),
            _ => Vec::new(),
        };
        concerned.extend(self.of(change.object()));
        concerned.sort_unstable();
        concerned.dedup();
        concerned
    }
}

fn selecting(namespace: Option<&str>, label: &str, value: &str) -> String {
    format!("{}/{label}={value}", namespace.unwrap_or_default())
}

fn is_same_to_services(old: &Pod, new: &Pod) -> bool {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp.is_some() == new.metadata.deletion_timestamp.is_some()
        && is_terminal(old) == is_terminal(new)
        && is_ready(old) == is_ready(new)
        && addresses(old) == addresses(new)
        && node(old) == node(new)
}
