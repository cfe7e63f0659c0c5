//! Which way leads to which node, decided from the Node objects and the networks that this node is on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use skiff_base::{Cidr, Family};

use crate::pods::link::{self, Mac};

/// Another node, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its InternalIPs.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its pods' addresses: one range of a family.
    pub(crate) ranges: Vec<Cidr>,
}

/// How a node's pods are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// The node is on the same network: it is the next hop.
    Direct(IpAddr),
    /// Packets for it travel inside of others to this address; there this hardware address is theirs.
    Tunnel(IpAddr, Mac),
}

/// Where this node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) name: String,
    /// Its own pods' addresses.
    pub(crate) ranges: Vec<Cidr>,
    /// The pod ranges of the whole cluster.
    pub(crate) pod_ranges: Vec<Cidr>,
    /// The family of the packets that others travel in.
    pub(crate) tunnel: Option<Family>,
    /// The networks that it is on with its own addresses; empty where everything has to be tunnelled.
    pub(crate) networks: Vec<Cidr>,
}

/// The ways to all pods of other nodes.
pub(crate) type Ways = BTreeMap<Cidr, Way>;

/// The hardware address of a node's tunnel: every node can tell every other's from its ranges, in whatever order.
pub(crate) fn tunnel_mac(ranges: &[Cidr]) -> Mac {
    ranges.iter().min().map(|range| link::mac_of(range.base())).unwrap_or_default()
}

/// A Node that has an address and a part of a pod range; one that has none yet is no peer yet.
pub(crate) fn peer(node: &Node) -> Option<Peer> {
    let spec = node.spec.as_ref()?;
    // The list begins with the single one, where there is a list.
    let listed = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    let mut ranges: Vec<Cidr> = Vec::new();
    for range in listed.filter_map(|range| range.parse::<Cidr>().ok()) {
        if !ranges.iter().any(|known| known.family() == range.family()) {
            ranges.push(range);
        }
    }
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    let addresses: Vec<IpAddr> = internal.filter_map(|address| address.address.parse().ok()).collect();
    (!ranges.is_empty() && !addresses.is_empty()).then_some(Peer { addresses, ranges })
}

/// The ways to the pods of all nodes but this one. What lies outside the pod ranges, or is this node's own, is nobody
/// else's, whatever a Node says; of two nodes with one range the first by name has it.
pub(crate) fn ways<'a>(place: &Place, nodes: impl Iterator<Item = &'a Node>) -> Ways {
    let named = |node: &'a Node| (node.metadata.name.as_deref().unwrap_or_default(), node);
    let mut nodes: Vec<_> = nodes.map(named).filter(|(name, _)| *name != place.name).collect();
    nodes.sort_by_key(|(name, _)| *name);
    let mut ways = Ways::new();
    for peer in nodes.into_iter().filter_map(|(_, node)| peer(node)) {
        for range in &peer.ranges {
            let is_within = |pods: &Cidr| pods.bits() <= range.bits() && pods.contains(range.base());
            let is_taken = place.ranges.iter().any(|own| own.overlaps(*range));
            if !place.pod_ranges.iter().any(is_within) || is_taken {
                continue;
            }
            if let Some(way) = way(place, &peer, range.family()) {
                ways.entry(*range).or_insert(way);
            }
        }
    }
    ways
}

/// How the peer's pods are reached in a family. Only a neighbour's address of the same family can be the next hop, but
/// packets of both families travel inside of others of one. None where the peer has no address of that one.
fn way(place: &Place, peer: &Peer, family: Family) -> Option<Way> {
    let is_near = |address: &IpAddr| place.networks.iter().any(|network| network.contains(*address));
    let of = |family: Family| peer.addresses.iter().copied().filter(move |address| Family::of(*address) == family);
    let near = of(family).find(is_near).map(Way::Direct);
    let far = || of(place.tunnel?).next().map(|address| Way::Tunnel(address, tunnel_mac(&peer.ranges)));
    near.or_else(far)
}
