//! The node's network: pod network, service rules and DNS, set up from the node's facts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use skiff_base::{Cidr, SystemClock};
use skiff_client::{Client, Informers, Recorder};
use skiff_edge::dns::{Dns, DnsConfig, Zone};
use skiff_netd::rules::Frame;
use skiff_netd::{
    Announcer, AnnouncerConfig, Netd, NetdConfig, Overlay, OverlayConfig, PodGate, PodNetwork, PodNetworkConfig,
};

use crate::cli::{BalancerOptions, WayBetweenNodes};
use crate::commands::CommandError;
use crate::isolation::Link;
use crate::machine::Machine;
use crate::paths::{NodeFacts, Paths};
use crate::ranges;
use crate::worker::CLUSTER_DOMAIN;

const DNS_PORT: u16 = 53;
/// Where it is told whether the service rules are up to date: kube-proxy's own port.
const HEALTH_PORT: u16 = 10256;
/// Whom the machine itself asks for names.
const RESOLVERS: &str = "/etc/resolv.conf";
/// The bridge that pods are on.
pub const BRIDGE: &str = "skiff0";

/// The pod addresses of this node, one range of each family: what it was given, or the first parts of the cluster's.
///
/// # Errors
/// What it was given cannot be read.
pub fn node_ranges(facts: &NodeFacts) -> Result<Vec<Cidr>, CommandError> {
    match &facts.pod_range {
        Some(given) => Ok(ranges::parse(given)?),
        None => {
            let parts = facts.node_masks().parts(&facts.ranges());
            Ok(parts.iter().filter_map(|(range, bits)| range.part(*bits, 0)).collect())
        }
    }
}

/// Where load balancers' addresses come from; empty for the nodes' own.
pub fn balancer_pool(facts: &NodeFacts, options: &BalancerOptions) -> Vec<Cidr> {
    // What is no range was refused at the start.
    let asked: Vec<Cidr> =
        options.load_balancer_range.iter().flat_map(|text| ranges::pool(text).unwrap_or_default()).collect();
    if asked.is_empty() { balancer_ranges(facts) } else { asked }
}

/// The ranges that are routed to this node alone for its load balancers.
pub fn balancer_ranges(facts: &NodeFacts) -> Vec<Cidr> {
    let (base, bits) = Link::of(facts).load_balancers();
    let range = Cidr::new(base, bits).expect("half of a link network is a range");
    if facts.link == 0 { Vec::new() } else { vec![range] }
}

/// What the pod network is made of on this node.
///
/// # Errors
/// A range is none.
pub fn pod_network_config(paths: &Paths, facts: &NodeFacts) -> Result<PodNetworkConfig, CommandError> {
    let cluster = facts.ranges();
    let mut virtual_ranges = cluster.services.clone();
    virtual_ranges.extend(balancer_ranges(facts));
    Ok(PodNetworkConfig {
        state_folder: paths.network(),
        bridge: BRIDGE.to_owned(),
        node_ranges: node_ranges(facts)?,
        pod_ranges: cluster.pods.clone(),
        virtual_ranges,
        local_addresses: cluster.dns(),
        mtu: None,
    })
}

/// The running network of the node.
pub struct Network {
    /// Addresses and interfaces of pods.
    pub pods: Arc<PodNetwork>,
    rules: Netd,
    _overlay: Option<Overlay>,
    _announcer: Announcer,
    _dns: Dns,
}

impl Network {
    /// Where pods wait until network policies hold for them.
    pub fn gate(&self) -> PodGate {
        self.rules.gate()
    }
}

/// Starts the network, or takes over what an earlier run left. Events are written with the node's client.
///
/// # Errors
/// The kernel refuses; the error says what.
pub fn start(machine: &Machine, informers: &Informers, node: &Client) -> Result<Network, CommandError> {
    let (facts, cluster) = (&machine.facts, machine.facts.ranges());
    let config = pod_network_config(&machine.paths, facts)?;
    let (node_ranges, pod_ranges) = (config.node_ranges.clone(), config.pod_ranges.clone());
    let pods = Arc::new(PodNetwork::open(config)?);
    let rules = Netd::start(NetdConfig {
        informers: informers.clone(),
        recorder: Recorder::start(node.clone(), machine.clock.clone(), "kube-proxy", &facts.node_name),
        clock: machine.clock.clone(),
        health_address: SocketAddr::new(cluster.any_address(), HEALTH_PORT),
        node_name: facts.node_name.clone(),
        frame: Frame {
            bridge: BRIDGE.to_owned(),
            pod_ranges: pod_ranges.clone(),
            service_ranges: cluster.services.clone(),
            balancer_ranges: balancer_ranges(facts),
        },
        host_ports: pods.host_ports(),
    })?;
    // Plugins of others make ways between nodes of their own.
    let has_plugins = machine.options.cni_conf_dir.is_some();
    let overlay = OverlayConfig {
        informers: informers.clone(),
        node_name: facts.node_name.clone(),
        addresses: machine.addresses.clone(),
        node_ranges,
        pod_ranges,
        always_tunnel: machine.options.overlay == WayBetweenNodes::Vxlan,
    };
    let overlay = if has_plugins { None } else { Some(Overlay::start(overlay)?) };
    let announcer = AnnouncerConfig { informers: informers.clone(), node_name: facts.node_name.clone() };
    let announcer = Announcer::start(announcer)?;
    let dns = Dns::start(dns_config(facts, informers))?;
    Ok(Network { pods, rules, _overlay: overlay, _announcer: announcer, _dns: dns })
}

/// The cluster DNS. In isolation there is nobody to ask for the world's names.
fn dns_config(facts: &NodeFacts, informers: &Informers) -> DnsConfig {
    let cluster = facts.ranges();
    let zone = Zone {
        domain: CLUSTER_DOMAIN.to_owned(),
        servers: cluster.dns(),
        own_ranges: cluster.pods.iter().chain(&cluster.services).copied().collect(),
    };
    DnsConfig {
        informers: informers.clone(),
        zone,
        listen: cluster.dns().into_iter().map(|address| SocketAddr::new(address, DNS_PORT)).collect(),
        resolv_conf: (facts.link == 0).then(|| PathBuf::from(RESOLVERS)),
        clock: SystemClock::shared(),
    }
}
