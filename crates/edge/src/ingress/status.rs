//! What an Ingress's status says: the addresses of the nodes that serve it. Each node that does so adds its own, and
//! takes away those of nodes that are gone. Statuses of Gateways tell addresses by the same rule.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};
use skiff_client::{ObjectKey, Patch};

/// The addresses in the status.
pub fn current(ingress: &Ingress) -> Vec<String> {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    points.filter_map(|point| point.ip.clone()).collect()
}

/// The addresses that ought to be there.
pub fn wanted(current: &[String], own: &str, serves: bool, others: &BTreeSet<String>) -> Vec<String> {
    let stays = |address: &&String| address.as_str() != own && others.contains(*address);
    let mut addresses: Vec<String> = current.iter().filter(stays).cloned().collect();
    addresses.extend(serves.then(|| own.to_owned()));
    addresses.sort();
    addresses
}

/// The addresses of the nodes that are ready.
pub fn ready_addresses(nodes: &[Arc<Node>]) -> BTreeSet<String> {
    let is_ready = |node: &&Arc<Node>| {
        let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let addresses = nodes.iter().filter(is_ready).flat_map(|node| node.status.iter());
    let addresses = addresses.flat_map(|status| status.addresses.iter().flatten());
    addresses.filter(|address| address.type_ == "InternalIP").map(|address| address.address.clone()).collect()
}

/// What brings the addresses into the status.
pub fn patch(addresses: &[String]) -> Patch {
    let points: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address })).collect();
    let points = if points.is_empty() { Value::Null } else { points.into() };
    Patch::Merge(json!({ "status": { "loadBalancer": { "ingress": points } } }))
}

/// A Service that has this port of the node, as a node port or by its load balancer's address: its packets never get to
/// who listens on the node.
pub fn port_owner(services: &[Arc<Service>], address: &str, port: u16) -> Option<ObjectKey> {
    let port = i32::from(port);
    let has_port = |service: &&Arc<Service>| {
        let spec = service.spec.as_ref();
        let is_tcp = |protocol: Option<&str>| matches!(protocol, None | Some("TCP"));
        let ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
        let mut ports = ports.filter(|it| is_tcp(it.protocol.as_deref()));
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let mut points = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        let is_here = points.any(|point| point.ip.as_deref() == Some(address));
        ports.any(|it| it.node_port == Some(port) || (is_here && it.port == port))
    };
    services.iter().find(has_port).map(|service| ObjectKey::of(&service.metadata))
}
