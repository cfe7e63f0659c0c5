//! Which addresses of load balancers a node answers for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_base::Cidr;
use skiff_client::ObjectKey;

use crate::rules::api;

/// A Node with this label is not what load balancers lead to.
/// See <https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-exclude-from-external-load-balancers>.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A Service whose addresses somebody has to answer for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) service: ObjectKey,
    pub(super) addresses: Vec<IpAddr>,
    /// Whether only nodes with endpoints of it serve its clients.
    pub(super) is_local: bool,
    /// Those nodes.
    pub(super) nodes: BTreeSet<String>,
}

/// A Node that could answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) is_fit: bool,
}

/// A network that this node is on, and the link that leads there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) link: u32,
    pub(super) range: Cidr,
}

/// What somebody has to answer for of a Service; nothing where another implementation does.
pub(super) fn wanted(service: &Service) -> Option<Wanted> {
    let spec = service.spec.as_ref()?;
    if api::is_foreign(service) || spec.type_.as_deref() != Some("LoadBalancer") || spec.load_balancer_class.is_some() {
        return None;
    }
    let addresses: Vec<IpAddr> = api::balancer_addresses(service).collect();
    (!addresses.is_empty()).then(|| Wanted {
        service: ObjectKey::of(&service.metadata),
        addresses,
        is_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        nodes: BTreeSet::new(),
    })
}

/// What matters of a Node here.
pub(super) fn candidate(node: &Node) -> Option<Candidate> {
    let status = node.status.as_ref();
    let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let is_excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDE_LABEL));
    let addresses = status.into_iter().flat_map(|status| status.addresses.iter().flatten());
    Some(Candidate {
        name: node.metadata.name.clone()?,
        addresses: addresses.filter_map(|address| address.address.parse().ok()).collect(),
        is_fit: is_ready && !is_excluded && node.metadata.deletion_timestamp.is_none(),
    })
}

/// The nodes with endpoints that serve.
pub(super) fn nodes_of(slice: &EndpointSlice) -> impl Iterator<Item = String> {
    let serves = |ready: Option<bool>| ready.unwrap_or(true);
    let endpoints = slice.endpoints.iter().flatten();
    let ready = endpoints.filter(move |endpoint| serves(endpoint.conditions.as_ref().and_then(|known| known.ready)));
    ready.filter_map(|endpoint| endpoint.node_name.clone())
}

/// The addresses that this node answers for, each with the link. Only such as lie in a network that it is on are answered
/// for by anyone: others are routed here by whoever gave them. Nodes' own addresses are theirs.
pub(super) fn own(name: &str, networks: &[Network], nodes: &[Candidate], wanted: &[Wanted]) -> BTreeMap<IpAddr, u32> {
    let of_nodes: BTreeSet<IpAddr> = nodes.iter().flat_map(|node| node.addresses.iter().copied()).collect();
    let mut own = BTreeMap::new();
    for one in wanted {
        for address in one.addresses.iter().copied().filter(|address| !of_nodes.contains(address)) {
            let Some(network) = networks.iter().find(|network| network.range.contains(address)) else { continue };
            let fit = nodes.iter().filter(|node| node.is_fit && (!one.is_local || one.nodes.contains(&node.name)));
            let (near, far): (Vec<&Candidate>, Vec<_>) =
                fit.partition(|node| node.addresses.iter().any(|address| network.range.contains(*address)));
            // Nodes may have their own addresses on another network than this one.
            let candidates = if near.is_empty() { far } else { near };
            let speaker = candidates.iter().max_by_key(|node| (score(&node.name, address), &node.name));
            if speaker.is_some_and(|speaker| speaker.name == name) {
                own.insert(address, network.link);
            }
        }
    }
    own
}

/// How much a node is the one for an address. All nodes reckon alike (FNV-1a), and one that comes or goes moves no address
/// but its own.
fn score(node: &str, address: IpAddr) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x100_0000_01b3;
    let text = format!("{node}#{address}");
    let sum = text.bytes().fold(OFFSET, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(PRIME));
    // The last bytes, in which addresses differ, have to reach the upper bits.
    (sum ^ (sum >> 32)).wrapping_mul(PRIME).rotate_left(29).wrapping_mul(OFFSET | 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::api::PROXY_NAME_LABEL;

    fn node(name: &str, address: &str) -> Candidate {
        Candidate { name: name.to_owned(), addresses: vec![address.parse().expect("an address")], is_fit: true }
    }

    fn service(addresses: &[&str], nodes: &[&str]) -> Wanted {
        Wanted {
            service: ObjectKey::new("default", "web"),
            addresses: addresses.iter().map(|address| address.parse().expect("an address")).collect(),
            is_local: !nodes.is_empty(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
        }
    }

    fn networks() -> Vec<Network> {
        let network = |link, range: &str| Network { link, range: range.parse().expect("a range") };
        vec![network(2, "192.0.2.0/24"), network(2, "2001:db8::/64"), network(3, "203.0.113.0/24")]
    }

    /// Who answers for each address: the nodes that think they do.
    fn speakers(nodes: &[Candidate], wanted: &Wanted) -> Vec<String> {
        let own = |node: &Candidate| own(&node.name, &networks(), nodes, std::slice::from_ref(wanted));
        let told =
            nodes.iter().flat_map(|node| own(node).into_iter().map(move |(address, link)| (address, link, node)));
        let mut told: Vec<String> =
            told.map(|(address, link, node)| format!("{address} {link} {}", node.name)).collect();
        told.sort();
        told
    }

    fn three() -> Vec<Candidate> {
        vec![node("a", "192.0.2.1"), node("b", "192.0.2.2"), node("c", "192.0.2.3")]
    }

    #[test]
    fn one_node_answers_for_each_address() {
        let all: Vec<String> = (100..200).map(|last| format!("192.0.2.{last}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let told = speakers(&three(), &service(&all, &[]));
        assert_eq!(told.len(), all.len());
        for node in ["a", "b", "c"] {
            let own = told.iter().filter(|line| line.ends_with(node)).count();
            assert!((20..50).contains(&own), "{node} answers for {own}");
        }
        let mut two = three();
        two[1].is_fit = false;
        let after = speakers(&two, &service(&all, &[]));
        assert_eq!(after.len(), all.len());
        assert!(told.iter().filter(|line| !line.ends_with('b')).all(|line| after.contains(line)), "nothing else moves");
    }

    #[test]
    fn only_addresses_of_the_nodes_networks_are_answered_for() {
        let told = speakers(&three(), &service(&["198.51.100.1", "192.0.2.3"], &[]));
        assert_eq!(told, Vec::<String>::new(), "one is routed here, the other is a node's own");
        assert_eq!(speakers(&three()[..1], &service(&["2001:db8::9"], &[])), ["2001:db8::9 2 a"]);
        assert_eq!(
            speakers(&three()[..1], &service(&["203.0.113.9"], &[])),
            ["203.0.113.9 3 a"],
            "a network of its own"
        );
        let mut nodes = three();
        nodes[2] = node("c", "198.51.100.3");
        for last in 100..120 {
            let told = speakers(&nodes, &service(&[&format!("192.0.2.{last}")], &[]));
            assert!(told.len() == 1 && !told[0].ends_with('c'), "{told:?}");
        }
    }

    #[test]
    fn nodes_without_endpoints_do_not_answer_for_local_services() {
        assert_eq!(speakers(&three(), &service(&["192.0.2.9"], &["b"])), ["192.0.2.9 2 b"]);
        assert_eq!(speakers(&three(), &service(&["192.0.2.9"], &["d"])), Vec::<String>::new());
    }

    #[test]
    fn what_others_serve_is_theirs() {
        let parse = |spec: serde_json::Value, labels: serde_json::Value, ingress: serde_json::Value| {
            let service = json!({"metadata": {"name": "web", "namespace": "default", "labels": labels}, "spec": spec,
                "status": {"loadBalancer": {"ingress": [ingress]}}});
            wanted(&serde_json::from_value(service).expect("a Service")).map(|wanted| wanted.addresses)
        };
        let (spec, ip) = (json!({"type": "LoadBalancer"}), json!({"ip": "192.0.2.9", "ipMode": "VIP"}));
        assert_eq!(parse(spec.clone(), json!({}), ip.clone()), Some(vec!["192.0.2.9".parse().expect("an address")]));
        assert_eq!(parse(spec.clone(), json!({PROXY_NAME_LABEL: "x"}), ip.clone()), None);
        assert_eq!(parse(spec.clone(), json!({}), json!({"ip": "192.0.2.9", "ipMode": "Proxy"})), None);
        assert_eq!(parse(spec, json!({}), json!({"hostname": "lb.example"})), None);
        assert_eq!(parse(json!({"type": "NodePort"}), json!({}), ip.clone()), None);
        assert_eq!(parse(json!({"type": "LoadBalancer", "loadBalancerClass": "x.example/y"}), json!({}), ip), None);
    }

    #[test]
    fn nodes_that_are_not_ready_or_excluded_do_not_answer() {
        let fit = |labels: serde_json::Value, ready: &str| {
            let node = json!({"metadata": {"name": "a", "labels": labels},
                "status": {"conditions": [{"type": "Ready", "status": ready}], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
            candidate(&serde_json::from_value(node).expect("a Node")).is_some_and(|candidate| candidate.is_fit)
        };
        assert!(fit(json!({}), "True"));
        assert!(!fit(json!({}), "Unknown"));
        assert!(!fit(json!({EXCLUDE_LABEL: ""}), "True"));
    }
}
