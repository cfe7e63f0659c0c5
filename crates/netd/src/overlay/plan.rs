//! Which way leads to which node, decided from the Node objects and the networks that this node is on.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Node;

use crate::prefix::Prefix;

/// Another node, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its InternalIP.
    pub(crate) address: Ipv4Addr,
    /// Its pods' addresses.
    pub(crate) range: Prefix,
}

/// How a node's pods are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// The node is on the same network: it is the next hop.
    Direct(Ipv4Addr),
    /// Packets for it travel inside of others to this address.
    Tunnel(Ipv4Addr),
}

/// Where this node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) name: String,
    /// Its own pods' addresses.
    pub(crate) range: Prefix,
    /// The pod range of the whole cluster.
    pub(crate) pod_range: Prefix,
    /// The networks that it is on with its own address; empty where everything has to be tunnelled.
    pub(crate) networks: Vec<Prefix>,
}

/// The ways to all pods of other nodes.
pub(crate) type Ways = BTreeMap<Prefix, Way>;

/// A Node that has an address and a part of the pod range; one that has none yet is no peer yet.
pub(crate) fn peer(node: &Node) -> Option<Peer> {
    let spec = node.spec.as_ref()?;
    let mut ranges = spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten());
    let range = ranges.find_map(|range| range.parse::<Prefix>().ok())?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let mut internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    let address = internal.find_map(|address| address.address.parse::<Ipv4Addr>().ok())?;
    Some(Peer { address, range })
}

/// The ways to the pods of all nodes but this one. What lies outside the pod range, or is this node's own, is nobody
/// else's, whatever a Node says; of two nodes with one range the first by name has it.
pub(crate) fn ways<'a>(place: &Place, nodes: impl Iterator<Item = &'a Node>) -> Ways {
    let named = |node: &'a Node| (node.metadata.name.as_deref().unwrap_or_default(), node);
    let mut nodes: Vec<_> = nodes.map(named).filter(|(name, _)| *name != place.name).collect();
    nodes.sort_by_key(|(name, _)| *name);
    let mut ways = Ways::new();
    for peer in nodes.into_iter().filter_map(|(_, node)| peer(node)) {
        let within =
            place.pod_range.bits() <= peer.range.bits() && place.pod_range.contains(peer.range.network().into());
        if !within || overlaps(place.range, peer.range) {
            continue;
        }
        let is_neighbour = place.networks.iter().any(|network| network.contains(peer.address.into()));
        let way = if is_neighbour { Way::Direct(peer.address) } else { Way::Tunnel(peer.address) };
        ways.entry(peer.range).or_insert(way);
    }
    ways
}

fn overlaps(a: Prefix, b: Prefix) -> bool {
    a.contains(b.network().into()) || b.contains(a.network().into())
}
