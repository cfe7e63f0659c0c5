//! Builds and removes the pod network. Pods get one address of each family, alone in its network, and send everything to
//! the gateway, also what is meant for a neighbour on the same bridge: so each packet passes the node's rules, and an
//! answer to a Service's client can never slip past the translation on layer 2, whether the bridge's netfilter is on or
//! off. In IPv6 node and pod are told each other's hardware address: nobody has to ask for it, which all other pods
//! would hear.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use parking_lot::Mutex;
use skiff_base::{Cidr, Family};
use tokio::sync::watch;

use super::addresses::{AddressError, Addresses, Lease};
use super::link::{self, Mac, VethPair, Via};
use super::sysctl;
use crate::model::HostPort;
use crate::netlink::{Batch, Namespace, NetlinkError, Protocol, Socket};

/// The name of a pod's interface inside the pod.
const POD_INTERFACE: &str = "eth0";
const LOOPBACK_INDEX: u32 = 1;
/// Blackhole routes stand behind every real route to the same range.
const BLACKHOLE_METRIC: u32 = 0xffff;

/// Neighbours on the bridge are asked for from this address, where there are some that the node was not told of: pods of
/// another runtime.
const BRIDGE_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The group of interfaces that are about to be removed ("skif").
const LEAVING: u32 = 0x736b_6966;

/// What the pod network is made of.
#[derive(Debug, Clone)]
pub struct PodNetworkConfig {
    /// Where leases are kept.
    pub state_folder: PathBuf,
    /// The bridge's name (15 bytes at most).
    pub bridge: String,
    /// This node's parts of the pod ranges, one of a family; their first addresses are the gateway's. The first one is
    /// of the family that is meant where a pod has one address.
    pub node_ranges: Vec<Cidr>,
    /// The pod ranges of the whole cluster.
    pub pod_ranges: Vec<Cidr>,
    /// The ranges of addresses that exist only as translation rules: Services' and load balancers'.
    pub virtual_ranges: Vec<Cidr>,
    /// Further addresses that this node itself answers on, such as the cluster DNS's.
    pub local_addresses: Vec<IpAddr>,
    /// The largest packet; the uplink's if not given.
    pub mtu: Option<u32>,
}

impl PodNetworkConfig {
    /// The node's own addresses in the pod ranges, one for each of its parts.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.node_ranges.iter().copied().map(gateway).collect()
    }

    fn gateway_of(&self, family: Family) -> Option<IpAddr> {
        family.first(self.gateways())
    }

    fn has(&self, family: Family) -> bool {
        self.gateway_of(family).is_some()
    }
}

/// The node's own address in its part of a pod range.
pub(crate) fn gateway(node_range: Cidr) -> IpAddr {
    node_range.nth(1).unwrap_or_else(|| node_range.base())
}

/// Why the pod network could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// The kernel refused.
    #[error("pod network: {0}")]
    Netlink(#[from] NetlinkError),
    /// There is no address, or leases cannot be kept.
    #[error("pod network: {0}")]
    Address(#[from] AddressError),
    /// A kernel parameter cannot be set.
    #[error("pod network: cannot set net/{name} to {value}: {source}")]
    Sysctl {
        /// The parameter.
        name: String,
        /// The value it needs.
        value: &'static str,
        /// Why it cannot be set.
        source: std::io::Error,
    },
    /// The interface that was just made is not there.
    #[error("pod network: the interface {0} vanished while it was set up")]
    Vanished(String),
    /// The host port is taken.
    #[error("pod network: host port {port} is in use by sandbox {owner}")]
    HostPortTaken {
        /// The port that was asked for.
        port: HostPort,
        /// Who has it.
        owner: String,
    },
}

/// A host port and the pod address that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPortMapping {
    /// The port.
    pub port: HostPort,
    /// The pod.
    pub pod: IpAddr,
}

/// The running pod network. Its calls wait for nothing but the kernel: about a millisecond, but for removals, for which the
/// kernel waits until every processor has seen them.
pub struct PodNetwork {
    config: PodNetworkConfig,
    bridge: Bridge,
    mtu: u32,
    socket: Mutex<Socket>,
    addresses: Mutex<Addresses>,
    /// The interfaces that are to go. One caller at a time removes all of them with the other socket, since the kernel waits as
    /// long for one as for a hundred.
    leaving: Mutex<Leaving>,
    remover: Mutex<Socket>,
    host_ports: watch::Sender<Vec<HostPortMapping>>,
}

/// Interfaces that somebody wants removed.
#[derive(Default)]
struct Leaving {
    /// Those that are there still.
    names: Vec<String>,
    /// Those that another caller took along; each is on its list until its own caller has seen that.
    gone: HashSet<String>,
}

/// The bridge in the kernel.
#[derive(Debug, Clone, Copy)]
struct Bridge {
    index: u32,
    mac: Mac,
}

impl PodNetwork {
    /// Makes bridge, routes and kernel parameters, or takes over those of an earlier run, with all its leases.
    pub fn open(config: PodNetworkConfig) -> Result<Self, PodNetworkError> {
        let addresses = Addresses::open(&config.state_folder, &config.node_ranges)?;
        let socket = Socket::open(Protocol::Route)?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => uplink_mtu(&socket, &config)?.unwrap_or(link::DEFAULT_MTU),
        };
        let bridge = make_bridge(&socket, &config, mtu)?;
        set_parameters(&config)?;
        make_routes(&socket, &config, bridge)?;
        let (host_ports, _) = watch::channel(mappings(&addresses, &config));
        let remover = Mutex::new(Socket::open(Protocol::Route)?);
        let (socket, addresses, leaving) = (Mutex::new(socket), Mutex::new(addresses), Mutex::default());
        Ok(Self { config, bridge, mtu, socket, addresses, leaving, remover, host_ports })
    }

    /// Connects the sandbox whose network namespace is mounted at `namespace`, and says its addresses, in the order of
    /// the node's ranges.
    /// Asked again for the same sandbox, it makes the connection anew with the same address.
    pub fn setup(
        &self,
        sandbox: &str,
        namespace: &Path,
        host_ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, PodNetworkError> {
        let namespace = Namespace::open(namespace)?;
        let pod_socket = self.enter(&namespace)?;
        let (lease, is_new) = self.lease(sandbox, host_ports)?;
        match self.connect(&lease, &namespace, &pod_socket) {
            Ok(()) => Ok(in_order(&lease, &self.config)),
            Err(error) => {
                if is_new {
                    self.teardown(sandbox)?;
                }
                Err(error)
            }
        }
    }

    /// Removes the sandbox's interface and gives its address back. A sandbox that is not known is no error.
    pub fn teardown(&self, sandbox: &str) -> Result<(), PodNetworkError> {
        let Some(lease) = self.addresses.lock().get(sandbox).cloned() else { return Ok(()) };
        self.remove_interface(interface_name(&lease))?;
        self.forget(&lease)?;
        let mut addresses = self.addresses.lock();
        addresses.release(sandbox)?;
        self.announce(&addresses, &lease);
        Ok(())
    }

    /// Removes an interface, together with those that others want removed meanwhile.
    fn remove_interface(&self, name: String) -> Result<(), PodNetworkError> {
        self.leaving.lock().names.push(name.clone());
        let socket = self.remover.lock();
        let together = {
            let mut leaving = self.leaving.lock();
            if leaving.gone.remove(&name) {
                // To ask the kernel as well would wait for whatever else it does with interfaces, one caller after the other.
                return Ok(());
            }
            std::mem::take(&mut leaving.names)
        };
        if !together.contains(&name) {
            // Somebody else took it along, and was told that not all went well.
            return delete_links(&socket, [name]);
        }
        delete_together(&socket, &together)?;
        self.leaving.lock().gone.extend(together.into_iter().filter(|other| *other != name));
        Ok(())
    }

    /// Tears down every sandbox that `is_alive` does not know; for the start, when some may have died unseen.
    pub fn retain(&self, is_alive: impl Fn(&str) -> bool) -> Result<(), PodNetworkError> {
        let gone: Vec<String> = {
            let addresses = self.addresses.lock();
            addresses.all().map(|lease| &lease.sandbox).filter(|sandbox| !is_alive(sandbox)).cloned().collect()
        };
        gone.iter().try_for_each(|sandbox| self.teardown(sandbox))
    }

    /// The sandbox's addresses, if it has been set up.
    pub fn addresses(&self, sandbox: &str) -> Vec<IpAddr> {
        self.addresses.lock().get(sandbox).map(|lease| in_order(lease, &self.config)).unwrap_or_default()
    }

    /// All host ports, now and after each change; the rules are made from it.
    pub fn host_ports(&self) -> watch::Receiver<Vec<HostPortMapping>> {
        self.host_ports.subscribe()
    }

    /// What it was made with.
    pub fn config(&self) -> &PodNetworkConfig {
        &self.config
    }

    /// Removes every trace from the kernel and forgets all leases; works also when nothing runs.
    pub fn clean_up_everything(config: &PodNetworkConfig) -> Result<(), PodNetworkError> {
        let socket = Socket::open(Protocol::Route)?;
        let links = link::links(&socket)?;
        let bridge = links.iter().find(|link| link.name == config.bridge).map(|link| link.index);
        let ours =
            links.iter().filter(|link| bridge.is_some() && (link.master == bridge || Some(link.index) == bridge));
        delete_links(&socket, ours.map(|link| link.name.clone()))?;
        let mut batch = Batch::new();
        for range in blackholes(config) {
            link::delete_blackhole(&mut batch, range, BLACKHOLE_METRIC);
        }
        tolerate(socket.try_all(&batch)?, Errno::ESRCH)?;
        match std::fs::remove_dir_all(&config.state_folder) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(AddressError::File { what: "remove", path: config.state_folder.clone(), source }.into())
            }
            _ => Ok(()),
        }
    }

    fn lease(&self, sandbox: &str, host_ports: &[HostPort]) -> Result<(Lease, bool), PodNetworkError> {
        let mut addresses = self.addresses.lock();
        for port in host_ports {
            if let Some(owner) = taken_by(&addresses, sandbox, port) {
                return Err(PodNetworkError::HostPortTaken { port: *port, owner });
            }
        }
        let is_new = addresses.get(sandbox).is_none();
        let lease = addresses.reserve(sandbox, host_ports)?;
        self.announce(&addresses, &lease);
        Ok((lease, is_new))
    }

    fn announce(&self, addresses: &Addresses, changed: &Lease) {
        if !changed.host_ports.is_empty() {
            self.host_ports.send_replace(mappings(addresses, &self.config));
        }
    }

    /// A socket in the pod's namespace. Nobody on the bridge tells a pod what its network is: the kernel is not to
    /// listen for that.
    fn enter(&self, namespace: &Namespace) -> Result<Socket, PodNetworkError> {
        if !self.config.has(Family::V6) {
            return Ok(Socket::open_in(namespace, Protocol::Route)?);
        }
        let inside = || {
            set_all([("ipv6/conf/default/disable_ipv6".into(), "0"), ("ipv6/conf/default/accept_ra".into(), "0")])?;
            Ok(Socket::open(Protocol::Route)?)
        };
        namespace.run(inside)?
    }

    fn connect(&self, lease: &Lease, namespace: &Namespace, pod_socket: &Socket) -> Result<(), PodNetworkError> {
        let host_name = interface_name(lease);
        let pod_mac = mac_of(lease);
        let addresses = in_order(lease, &self.config);
        let pair = VethPair {
            host_name: &host_name,
            pod_name: POD_INTERFACE,
            pod_mac,
            pod_namespace: namespace,
            master: Some(self.bridge.index),
            mtu: self.mtu,
        };
        let mut batch = Batch::new();
        link::add_veth(&mut batch, &pair);
        for address in addresses.iter().filter(|address| address.is_ipv6()) {
            link::add_neighbour(&mut batch, self.bridge.index, *address, pod_mac);
        }
        {
            let socket = self.socket.lock();
            match socket.execute(&batch) {
                // Left by a run that ended half-way, or by an earlier setup of the same sandbox: made anew.
                Err(error) if error.errno() == Some(Errno::EEXIST) => {
                    delete_links(&socket, [host_name.clone()])?;
                    socket.execute(&batch)?;
                }
                other => other?,
            }
        }
        let inside = link::find_link(pod_socket, POD_INTERFACE)?;
        let index = inside.ok_or(PodNetworkError::Vanished(host_name))?.index;
        let mut batch = Batch::new();
        link::link_up(&mut batch, LOOPBACK_INDEX, "lo");
        link::up_without_link_local(&mut batch, POD_INTERFACE);
        for address in addresses {
            let family = Family::of(address);
            let Some(gateway) = self.config.gateway_of(family) else { continue };
            link::add_address(&mut batch, index, address, family.bits());
            if family == Family::V6 {
                link::add_neighbour(&mut batch, index, gateway, self.bridge.mac);
            }
            link::add_route(&mut batch, Cidr::host(gateway), Via::Link { index, source: Some(address) }, 0);
            link::add_route(&mut batch, Cidr::all(family), Via::Gateway { index, gateway }, 0);
        }
        Ok(pod_socket.execute(&batch)?)
    }

    /// What the bridge was told of the pod's hardware address.
    fn forget(&self, lease: &Lease) -> Result<(), PodNetworkError> {
        let mut batch = Batch::new();
        for address in lease.addresses.iter().filter(|address| address.is_ipv6()) {
            link::delete_neighbour(&mut batch, self.bridge.index, *address);
        }
        if batch.is_empty() {
            return Ok(());
        }
        tolerate(self.socket.lock().try_all(&batch)?, Errno::ENOENT)
    }
}

/// The addresses of a lease in the order of the node's ranges. Those of a family of which the node has none any more are
/// not in use.
fn in_order(lease: &Lease, config: &PodNetworkConfig) -> Vec<IpAddr> {
    let families = config.node_ranges.iter().map(|range| range.family());
    families.filter_map(|family| family.first(lease.addresses.iter().copied())).collect()
}

fn uplink_mtu(socket: &Socket, config: &PodNetworkConfig) -> Result<Option<u32>, PodNetworkError> {
    for range in &config.node_ranges {
        if let Some(mtu) = link::uplink_mtu(socket, range.family())? {
            return Ok(Some(mtu));
        }
    }
    Ok(None)
}

fn make_bridge(socket: &Socket, config: &PodNetworkConfig, mtu: u32) -> Result<Bridge, PodNetworkError> {
    let wanted = config.gateways().first().copied().map(link::mac_of).unwrap_or_default();
    if link::find_link(socket, &config.bridge)?.is_none() {
        let mut batch = Batch::new();
        link::add_bridge(&mut batch, &config.bridge, wanted, mtu);
        socket.execute(&batch)?;
    }
    if config.has(Family::V6) {
        set_all([(format!("ipv6/conf/{}/disable_ipv6", config.bridge), "0")])?;
    }
    let found = link::find_link(socket, &config.bridge)?;
    let found = found.ok_or_else(|| PodNetworkError::Vanished(config.bridge.clone()))?;
    let bridge = Bridge { index: found.index, mac: found.mac.unwrap_or(wanted) };
    let mut batch = Batch::new();
    link::link_up(&mut batch, bridge.index, &config.bridge);
    for range in &config.node_ranges {
        link::add_address(&mut batch, bridge.index, gateway(*range), range.bits());
    }
    if config.has(Family::V6) {
        link::add_address(&mut batch, bridge.index, BRIDGE_LINK_LOCAL.into(), 64);
    }
    for address in &config.local_addresses {
        link::add_address(&mut batch, bridge.index, *address, Family::of(*address).bits());
    }
    socket.execute(&batch)?;
    Ok(bridge)
}

fn set_parameters(config: &PodNetworkConfig) -> Result<(), PodNetworkError> {
    let bridge = &config.bridge;
    set_all([
        ("ipv4/ip_forward".to_owned(), "1"),
        // Pods reach each other through the gateway on purpose; it must not tell them of a shorter way.
        ("ipv4/conf/all/send_redirects".to_owned(), "0"),
        (format!("ipv4/conf/{bridge}/send_redirects"), "0"),
        // So that a NodePort answers on the node's 127.0.0.1 too; a rule keeps pods away from that address.
        (format!("ipv4/conf/{bridge}/route_localnet"), "1"),
        // Loose: the machine may ask for strict checks, which translated answers need not pass.
        (format!("ipv4/conf/{bridge}/rp_filter"), "2"),
    ])?;
    if config.has(Family::V6) {
        sysctl::keep_router_advertisements().map_err(|source| PodNetworkError::Sysctl {
            name: "ipv6/conf/*/accept_ra".into(),
            value: "2",
            source,
        })?;
        set_all([
            ("ipv6/conf/all/forwarding".to_owned(), "1"),
            // No pod is to tell the node where its networks are.
            (format!("ipv6/conf/{bridge}/accept_ra"), "0"),
        ])?;
    }
    Ok(())
}

fn set_all<const N: usize>(parameters: [(String, &'static str); N]) -> Result<(), PodNetworkError> {
    for (name, value) in parameters {
        sysctl::set(&name, value).map_err(|source| PodNetworkError::Sysctl { name, value, source })?;
    }
    Ok(())
}

fn make_routes(socket: &Socket, config: &PodNetworkConfig, bridge: Bridge) -> Result<(), PodNetworkError> {
    let mut batch = Batch::new();
    for range in blackholes(config) {
        link::add_route(&mut batch, range, Via::Blackhole, BLACKHOLE_METRIC);
    }
    // The host's own connections need a route, and with it a source address, before translation can redirect them.
    for range in &config.virtual_ranges {
        let source = config.gateway_of(range.family());
        link::add_route(&mut batch, *range, Via::Link { index: bridge.index, source }, 0);
    }
    Ok(socket.execute(&batch)?)
}

fn blackholes(config: &PodNetworkConfig) -> impl Iterator<Item = Cidr> + '_ {
    config.pod_ranges.iter().chain(&config.virtual_ranges).copied()
}

/// The address that names the lease's interface and hardware.
fn name_giver(lease: &Lease) -> IpAddr {
    lease.addresses.first().copied().unwrap_or(Family::V4.unspecified())
}

fn mac_of(lease: &Lease) -> Mac {
    link::mac_of(name_giver(lease))
}

/// Unique on the node as the address is, and short enough for any address.
fn interface_name(lease: &Lease) -> String {
    let address = name_giver(lease);
    let family = if address.is_ipv4() { "" } else { "6" };
    format!("pod{family}{:08x}", link::short(address))
}

fn delete_together(socket: &Socket, names: &[String]) -> Result<(), PodNetworkError> {
    let mut batch = Batch::new();
    names.iter().for_each(|name| link::set_group(&mut batch, name, LEAVING));
    link::delete_group(&mut batch, LEAVING);
    // Those that are gone already are in no group.
    tolerate(socket.try_all(&batch)?, Errno::ENODEV)
}

fn delete_links(socket: &Socket, names: impl IntoIterator<Item = String>) -> Result<(), PodNetworkError> {
    let mut batch = Batch::new();
    for name in names {
        link::delete_link(&mut batch, &name);
    }
    tolerate(socket.try_all(&batch)?, Errno::ENODEV)
}

/// The first error that is not the tolerated one.
fn tolerate(errors: Vec<NetlinkError>, tolerated: Errno) -> Result<(), PodNetworkError> {
    let serious = errors.into_iter().find(|error| error.errno() != Some(tolerated));
    serious.map_or(Ok(()), |error| Err(error.into()))
}

/// A port of all the host's addresses leads to each of the pod's, and one of a single address to that of its family.
fn mappings(addresses: &Addresses, config: &PodNetworkConfig) -> Vec<HostPortMapping> {
    let mut all = Vec::new();
    for lease in addresses.all().filter(|lease| !lease.host_ports.is_empty()) {
        for port in &lease.host_ports {
            let is_meant =
                |pod: &IpAddr| port.host_address.is_unspecified() || Family::of(*pod) == Family::of(port.host_address);
            let pods = in_order(lease, config).into_iter().filter(is_meant);
            all.extend(pods.map(|pod| HostPortMapping { port: *port, pod }));
        }
    }
    all
}

fn taken_by(addresses: &Addresses, sandbox: &str, wanted: &HostPort) -> Option<String> {
    let overlaps = |other: &HostPort| {
        let same_address = other.host_address == wanted.host_address;
        let everywhere = other.host_address.is_unspecified() || wanted.host_address.is_unspecified();
        other.transport == wanted.transport && other.host_port == wanted.host_port && (same_address || everywhere)
    };
    let holds = |lease: &&Lease| lease.sandbox != sandbox && lease.host_ports.iter().any(overlaps);
    addresses.all().find(holds).map(|lease| lease.sandbox.clone())
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
