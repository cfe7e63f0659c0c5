//! From the API's Services and EndpointSlices to what the rules need of them.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use skiff_base::{Cidr, Family};

use super::language::Endpoint;
use super::service::{Backend, Service, ServicePort};
use super::topology::{Here, Hints};
use crate::model::Transport;

/// Services with this label are somebody else's to serve.
pub(crate) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// How long a client stays with its endpoint if the Service does not say.
const DEFAULT_AFFINITY_SECONDS: i32 = 10800;

/// What the Service is in one family, if it has a cluster address there and is ours to serve. Its other addresses are
/// taken as far as they are of that family, too.
pub fn service(object: &core::Service, family: Family) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    if is_foreign(object) || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let cluster_address = addresses_of(addresses, family).next()?;
    let name = format!("{}/{}", object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?);
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    Some(Service {
        name,
        cluster_address,
        external_addresses: addresses_of(spec.external_ips.iter().flatten(), family).collect(),
        balancer_addresses: balancer_addresses(object)
            .filter(|address| is_balanced && Family::of(*address) == family)
            .collect(),
        balancer_sources: sources(spec, family),
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        affinity: affinity(spec),
    })
}

/// The port on which balancers ask whether this node is good for the Service's clients: only a Service of theirs that
/// is served by the endpoints of the asked node has one.
pub fn health_check_port(object: &core::Service) -> Option<u16> {
    let spec = object.spec.as_ref()?;
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let is_asked_for = is_local && spec.type_.as_deref() == Some("LoadBalancer");
    port_number(spec.health_check_node_port).filter(|_| is_asked_for)
}

/// What is behind a Service in one family, from all of its slices, as this node sees it.
pub fn backends<'a>(
    slices: impl IntoIterator<Item = &'a discovery::EndpointSlice>,
    here: &Here,
    family: Family,
) -> Vec<Backend> {
    let ours = slices.into_iter().filter(|slice| slice.address_type == family.name());
    let mut found: Vec<Backend> = ours.flat_map(|slice| backends_of_slice(slice, here, family)).collect();
    found.sort();
    found.dedup();
    found
}

fn backends_of_slice(slice: &discovery::EndpointSlice, here: &Here, family: Family) -> Vec<Backend> {
    let mut found = Vec::new();
    for port in slice.ports.iter().flatten() {
        let (Some(number), Some(transport)) = (port_number(port.port), Transport::from_api(port.protocol.as_deref()))
        else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            // What is not said counts as ready, serving and not terminating.
            let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let is_serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(is_ready);
            let is_terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
            // All addresses of an endpoint are the same endpoint; upstream uses the first, and so do we.
            let Some(address) = addresses_of(endpoint.addresses.first(), family).next() else { continue };
            found.push(Backend {
                port_name: port.name.clone().unwrap_or_default(),
                transport,
                endpoint: Endpoint { address, port: number },
                is_ready,
                is_serving_to_the_end: is_serving && is_terminating,
                is_local: endpoint.node_name.as_ref() == Some(&here.node),
                hints: Hints::read(endpoint.hints.as_ref(), here),
            });
        }
    }
    found
}

fn port(port: &core::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        transport: Transport::from_api(port.protocol.as_deref())?,
        port: port_number(Some(port.port))?,
        node_port: port_number(port.node_port),
    })
}

fn port_number(number: Option<i32>) -> Option<u16> {
    number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

/// Whether another proxy than this one serves it.
pub(crate) fn is_foreign(object: &core::Service) -> bool {
    object.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL))
}

/// Addresses that are to be redirected on the node already; those with mode `Proxy` must pass the balancer itself.
pub(crate) fn balancer_addresses(object: &core::Service) -> impl Iterator<Item = IpAddr> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let direct = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    direct.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
}

/// Those of one family; the others are no business of its rules.
fn addresses_of<'a>(texts: impl IntoIterator<Item = &'a String>, family: Family) -> impl Iterator<Item = IpAddr> {
    let all = texts.into_iter().filter_map(|text| text.parse().ok());
    all.filter(move |address| Family::of(*address) == family)
}

/// Those of one family. As upstream has it, one of which none is named is open to all.
fn sources(spec: &core::ServiceSpec, family: Family) -> Vec<Cidr> {
    let named = spec.load_balancer_source_ranges.iter().flatten();
    let all = named.filter_map(|text| text.trim().parse().ok());
    all.filter(|range: &Cidr| range.family() == family).collect()
}

fn affinity(spec: &core::ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default().max(1)))
}
