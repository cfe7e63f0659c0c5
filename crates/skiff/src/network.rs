//! The node's network: pod network, service rules and DNS, set up from the node's facts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use skiff_base::SystemClock;
use skiff_client::{Client, Informers, Recorder};
use skiff_edge::dns::{Dns, DnsConfig, Zone};
use skiff_netd::rules::Frame;
use skiff_netd::{Balancer, BalancerConfig, Netd, NetdConfig, PodNetwork, PodNetworkConfig, Prefix};

use crate::commands::CommandError;
use crate::isolation::Link;
use crate::node::CLUSTER_DOMAIN;
use crate::paths::{NodeFacts, Paths};

/// The pods' addresses, of all nodes.
pub const POD_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);
/// The addresses of Services.
pub const SERVICE_RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 12);
/// The cluster DNS.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const DNS_PORT: u16 = 53;
/// Whom the machine itself asks for names.
const RESOLVERS: &str = "/etc/resolv.conf";
/// The bridge that pods are on.
pub const BRIDGE: &str = "skiff0";

fn prefix(range: (Ipv4Addr, u8)) -> Result<Prefix, CommandError> {
    Prefix::new(range.0, range.1).ok_or_else(|| format!("{}/{} is no address range", range.0, range.1).into())
}

/// The pod addresses of this node: the first part of the pod range of the size that was chosen.
pub fn node_range(facts: &NodeFacts) -> String {
    format!("{}/{}", POD_RANGE.0, facts.node_mask)
}

/// The bridge's own address, where pods send what is not for their neighbours.
pub fn pod_gateway() -> Ipv4Addr {
    Ipv4Addr::from(u32::from(POD_RANGE.0) + 1)
}

/// What the pod network is made of on this node.
///
/// # Errors
/// A range is none.
pub fn pod_network_config(paths: &Paths, facts: &NodeFacts) -> Result<PodNetworkConfig, CommandError> {
    let mut virtual_ranges = vec![prefix(SERVICE_RANGE)?];
    if facts.link > 0 {
        virtual_ranges.push(prefix(Link::new(facts.link).load_balancers())?);
    }
    Ok(PodNetworkConfig {
        state_folder: paths.network(),
        bridge: BRIDGE.to_owned(),
        node_range: prefix((POD_RANGE.0, facts.node_mask))?,
        pod_range: prefix(POD_RANGE)?,
        virtual_ranges,
        local_addresses: vec![DNS_ADDRESS],
        mtu: None,
    })
}

/// What Services may have of the node itself.
pub struct OwnAddresses {
    /// The node's addresses.
    pub addresses: Vec<IpAddr>,
    /// Its TCP ports that stay its own.
    pub reserved_ports: Vec<u16>,
}

/// The running network of the node.
pub struct Network {
    /// Addresses and interfaces of pods.
    pub pods: Arc<PodNetwork>,
    _rules: Netd,
    _balancer: Balancer,
    _dns: Dns,
}

/// Starts the network, or takes over what an earlier run left.
///
/// # Errors
/// The kernel refuses; the error says what.
pub fn start(
    paths: &Paths,
    facts: &NodeFacts,
    own: OwnAddresses,
    informers: &Informers,
    balancer: (Client, Recorder),
) -> Result<Network, CommandError> {
    let pods = Arc::new(PodNetwork::open(pod_network_config(paths, facts)?)?);
    let mut pool = Vec::new();
    if facts.link > 0 {
        pool.push(prefix(Link::new(facts.link).load_balancers())?);
    }
    let rules = Netd::start(NetdConfig {
        informers: informers.clone(),
        node_name: facts.node_name.clone(),
        frame: Frame {
            bridge: BRIDGE.to_owned(),
            pod_range: prefix(POD_RANGE)?,
            service_range: prefix(SERVICE_RANGE)?,
            balancer_ranges: pool.clone(),
        },
        host_ports: pods.host_ports(),
    })?;
    let (client, recorder) = balancer;
    let OwnAddresses { addresses: node_addresses, reserved_ports } = own;
    let balancer =
        BalancerConfig { informers: informers.clone(), client, recorder, pool, node_addresses, reserved_ports };
    let dns = Dns::start(dns_config(facts, informers))?;
    Ok(Network { pods, _rules: rules, _balancer: Balancer::start(balancer), _dns: dns })
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
