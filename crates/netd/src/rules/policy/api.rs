//! From the API's NetworkPolicies and Pods to what the rules need of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_base::{Cidr, Family};
use skiff_client::selectors::{self, Labels};
use skiff_object::LabelSelector;

use super::ranges::{self, Range};
use crate::model::Transport;

/// A NetworkPolicy, as far as packets are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The pods of its namespace that it isolates.
    pub(super) pods: LabelSelector,
    /// What they may be sent, if that is limited.
    pub(super) ingress: Option<Vec<Permission>>,
    /// What they may send, if that is limited.
    pub(super) egress: Option<Vec<Permission>>,
}

/// One rule of a policy: what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permission {
    /// With whom; everybody, if nothing is said.
    pub(super) peers: Option<Peers>,
    /// On which ports; with every protocol, if nothing is said.
    pub(super) ports: Option<Vec<Port>>,
}

/// The other ends that a rule allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Peers {
    pub(super) pods: BTreeSet<PodPeer>,
    pub(super) blocks: Vec<Range>,
}

/// Pods that are meant by their labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodPeer {
    pub(super) scope: Scope,
    pub(super) pods: LabelSelector,
}

/// In which namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Own(String),
    Labelled(LabelSelector),
}

/// Ports at the receiving end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Port {
    All(Transport),
    Between(Transport, u16, u16),
    Named(Transport, String),
}

/// What a policy says to packets of one family; `namespace` is its own.
pub fn policy(object: &networking::NetworkPolicy, namespace: &str, family: Family) -> Policy {
    let nothing = networking::NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&nothing);
    let has = |direction: &str| spec.policy_types.iter().flatten().any(|known| known == direction);
    // Without a word on it, every policy is one of ingress, and one of egress if it has such rules.
    let says_nothing = spec.policy_types.as_ref().is_none_or(Vec::is_empty);
    let has_egress_rules = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let ingress = spec.ingress.iter().flatten().map(|rule| permission(&rule.from, &rule.ports, namespace, family));
    let egress = spec.egress.iter().flatten().map(|rule| permission(&rule.to, &rule.ports, namespace, family));
    Policy {
        pods: spec.pod_selector.as_ref().map_or_else(LabelSelector::everything, |raw| selectors::selector(Some(raw))),
        ingress: (says_nothing || has("Ingress")).then(|| ingress.collect()),
        egress: (has("Egress") || says_nothing && has_egress_rules).then(|| egress.collect()),
    }
}

fn permission(
    peers: &Option<Vec<networking::NetworkPolicyPeer>>,
    ports: &Option<Vec<networking::NetworkPolicyPort>>,
    namespace: &str,
    family: Family,
) -> Permission {
    let some = |list: &Vec<networking::NetworkPolicyPeer>| !list.is_empty();
    let listed = peers.as_ref().filter(|list| some(list)).map(|list| {
        let mut found = Peers::default();
        list.iter().for_each(|one| add_peer(&mut found, one, namespace, family));
        found.blocks = ranges::merged(found.blocks);
        found
    });
    let ports = ports.as_ref().filter(|list| !list.is_empty());
    Permission { peers: listed, ports: ports.map(|list| list.iter().filter_map(port).collect()) }
}

fn add_peer(peers: &mut Peers, peer: &networking::NetworkPolicyPeer, namespace: &str, family: Family) {
    if let Some(block) = &peer.ip_block {
        // Those of the other family are no business of these rules.
        let except: Vec<Cidr> = block.except.iter().flatten().filter_map(|hole| hole.parse().ok()).collect();
        if let Some(range) = block.cidr.parse().ok().filter(|range: &Cidr| range.family() == family) {
            peers.blocks.extend(ranges::without(range, &except));
        }
        return;
    }
    let scope = match (&peer.namespace_selector, &peer.pod_selector) {
        (None, None) => return,
        (Some(raw), _) => Scope::Labelled(selectors::selector(Some(raw))),
        (None, Some(_)) => Scope::Own(namespace.to_owned()),
    };
    let all = LabelSelector::everything;
    let pods = peer.pod_selector.as_ref().map_or_else(all, |raw| selectors::selector(Some(raw)));
    peers.pods.insert(PodPeer { scope, pods });
}

fn port(port: &networking::NetworkPolicyPort) -> Option<Port> {
    let transport = Transport::from_api(port.protocol.as_deref())?;
    let number = |number: i32| u16::try_from(number).ok();
    Some(match &port.port {
        None => Port::All(transport),
        Some(IntOrString::String(name)) => Port::Named(transport, name.clone()),
        Some(IntOrString::Int(first)) => {
            Port::Between(transport, number(*first)?, number(port.end_port.unwrap_or(*first))?)
        }
    })
}

/// A pod that has an address of its own in the family that is planned for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// Its labels.
    pub(super) labels: Labels,
    /// Its address.
    pub(super) address: IpAddr,
    /// The ports that have names.
    pub(super) ports: Vec<(Transport, String, u16)>,
    /// It is on this node.
    pub(super) is_local: bool,
}

impl PodFacts {
    /// One of this node that has just been given its address.
    pub fn newcomer(labels: Labels, address: IpAddr) -> Self {
        Self { labels, address, ports: Vec::new(), is_local: true }
    }

    /// The pod as seen from this node, if it has an address of its own in the family. `new` are addresses that are known
    /// before the API tells of them.
    pub fn of(pod: &core::Pod, node: &str, family: Family, new: &[IpAddr]) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        if spec.host_network == Some(true) || has_ended(pod) {
            return None;
        }
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            let number = u16::try_from(port.container_port).ok()?;
            Some((Transport::from_api(port.protocol.as_deref())?, port.name.clone()?, number))
        });
        Some(Self {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            address: family.first(new.iter().copied()).or_else(|| family.first(addresses_of(pod)))?,
            ports: ports.collect(),
            is_local: spec.node_name.as_deref() == Some(node),
        })
    }
}

/// The addresses that the API tells of.
pub fn addresses_of(pod: &core::Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.iter();
    let texts = status.flat_map(|status| {
        let listed = status.pod_ips.iter().flatten().map(|known| known.ip.as_str());
        listed.chain(status.pod_ip.as_deref())
    });
    texts.filter_map(|text| text.parse().ok())
}

/// Whether two states of a pod are the same to all policies.
pub fn is_same(old: &core::Pod, new: &core::Pod) -> bool {
    old.metadata.labels == new.metadata.labels
        && old.metadata.uid == new.metadata.uid
        && has_ended(old) == has_ended(new)
        && addresses_of(old).eq(addresses_of(new))
        && old.spec.as_ref().map(|spec| &spec.node_name) == new.spec.as_ref().map(|spec| &spec.node_name)
}

/// Its address may be somebody else's by now.
fn has_ended(pod: &core::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
