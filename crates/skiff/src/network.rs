//! The node's network: pod network, service rules and DNS, set up from the node's facts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use skiff_base::SystemClock;
use skiff_client::{Client, Informers, Recorder};
use skiff_edge::dns::{Dns, DnsConfig, Zone};
use skiff_netd::rules::Frame;
use skiff_netd::{Netd, NetdConfig, Overlay, OverlayConfig, PodGate, PodNetwork, PodNetworkConfig, Prefix};

use crate::cli::WayBetweenNodes;
use crate::commands::CommandError;
use crate::isolation::Link;
use crate::machine::Machine;
use crate::paths::{NodeFacts, Paths};
use crate::worker::CLUSTER_DOMAIN;

/// The pods' addresses, of all nodes.
pub const POD_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);
/// The addresses of Services.
pub const SERVICE_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 12);
/// The cluster DNS.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const DNS_PORT: u16 = 53;
/// Where it is told whether the service rules are up to date: kube-proxy's own port.
const HEALTH_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10256);
/// Whom the machine itself asks for names.
const RESOLVERS: &str = "/etc/resolv.conf";
/// The bridge that pods are on.
pub const BRIDGE: &str = "skiff0";

fn prefix(range: (Ipv4Addr, u8)) -> Result<Prefix, CommandError> {
    Prefix::new(range.0, range.1).ok_or_else(|| format!("{}/{} is no address range", range.0, range.1).into())
}

/// The pod addresses of this node: what it was given, or the first part of the pod range of the size that was chosen.
pub fn node_range(facts: &NodeFacts) -> String {
    facts.pod_range.clone().unwrap_or_else(|| format!("{}/{}", POD_RANGE.0, facts.node_mask))
}

/// The ranges that load balancers' addresses come from.
pub fn balancer_ranges(facts: &NodeFacts) -> Vec<Prefix> {
    let (base, bits) = Link::of(facts).load_balancers();
    let range = Prefix::new(base, bits).expect("half of a link network is a range");
    if facts.link == 0 { Vec::new() } else { vec![range] }
}

/// What the pod network is made of on this node.
///
/// # Errors
/// A range is none.
pub fn pod_network_config(paths: &Paths, facts: &NodeFacts) -> Result<PodNetworkConfig, CommandError> {
    let mut virtual_ranges = vec![prefix(SERVICE_RANGE)?];
    virtual_ranges.extend(balancer_ranges(facts));
    Ok(PodNetworkConfig {
        state_folder: paths.network(),
        bridge: BRIDGE.to_owned(),
        node_ranges: vec![node_range(facts).parse()?],
        pod_ranges: vec![prefix(POD_RANGE)?],
        virtual_ranges,
        local_addresses: vec![DNS_ADDRESS.into()],
        mtu: None,
    })
}

/// The running network of the node.
pub struct Network {
    /// Addresses and interfaces of pods.
    pub pods: Arc<PodNetwork>,
    rules: Netd,
    _overlay: Option<Overlay>,
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
    let facts = &machine.facts;
    let config = pod_network_config(&machine.paths, facts)?;
    let (node_ranges, pod_ranges) = (config.node_ranges.clone(), config.pod_ranges.clone());
    let pods = Arc::new(PodNetwork::open(config)?);
    let rules = Netd::start(NetdConfig {
        informers: informers.clone(),
        recorder: Recorder::start(node.clone(), machine.clock.clone(), "kube-proxy", &facts.node_name),
        clock: machine.clock.clone(),
        health_address: HEALTH_ADDRESS,
        node_name: facts.node_name.clone(),
        frame: Frame {
            bridge: BRIDGE.to_owned(),
            pod_ranges: pod_ranges.clone(),
            service_ranges: vec![prefix(SERVICE_RANGE)?],
            balancer_ranges: balancer_ranges(facts),
        },
        host_ports: pods.host_ports(),
    })?;
    // Plugins of others make ways between nodes of their own.
    let has_plugins = machine.options.cni_conf_dir.is_some();
    let overlay = OverlayConfig {
        informers: informers.clone(),
        node_name: facts.node_name.clone(),
        addresses: vec![machine.address],
        node_ranges,
        pod_ranges,
        always_tunnel: machine.options.overlay == WayBetweenNodes::Vxlan,
    };
    let overlay = if has_plugins { None } else { Some(Overlay::start(overlay)?) };
    let dns = Dns::start(dns_config(facts, informers))?;
    Ok(Network { pods, rules, _overlay: overlay, _dns: dns })
}

/// The cluster DNS. In isolation there is nobody to ask for the world's names.
fn dns_config(facts: &NodeFacts, informers: &Informers) -> DnsConfig {
    let zone = Zone {
        domain: CLUSTER_DOMAIN.to_owned(),
        server: DNS_ADDRESS.into(),
        own_ranges: vec![POD_RANGE, SERVICE_RANGE],
    };
    DnsConfig {
        informers: informers.clone(),
        zone,
        listen: vec![SocketAddr::new(DNS_ADDRESS.into(), DNS_PORT)],
        resolv_conf: (facts.link == 0).then(|| PathBuf::from(RESOLVERS)),
        clock: SystemClock::shared(),
    }
}
