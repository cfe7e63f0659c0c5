//! Builds and removes the pod network. Pods get a /32 and send everything to the gateway, also what is meant for a
//! neighbour on the same bridge: so each packet passes the node's rules, and an answer to a Service's client can
//! never slip past the translation on layer 2, whether the bridge's netfilter is on or off.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::addresses::{AddressError, Addresses, Lease};
use super::link::{self, VethPair, Via};
use super::sysctl;
use crate::model::HostPort;
use crate::netlink::{Batch, Namespace, NetlinkError, Protocol, Socket};
use crate::prefix::Prefix;

/// The name of a pod's interface inside the pod.
const POD_INTERFACE: &str = "eth0";
const LOOPBACK_INDEX: u32 = 1;
/// Blackhole routes stand behind every real route to the same range.
const BLACKHOLE_METRIC: u32 = 0xffff;

/// The group of interfaces that are about to be removed ("skif").
const LEAVING: u32 = 0x736b_6966;

/// What the pod network is made of.
#[derive(Debug, Clone)]
pub struct PodNetworkConfig {
    /// Where leases are kept.
    pub state_folder: PathBuf,
    /// The bridge's name (15 bytes at most).
    pub bridge: String,
    /// This node's part of the pod range; its first address is the gateway's.
    pub node_range: Prefix,
    /// The pod range of the whole cluster.
    pub pod_range: Prefix,
    /// The ranges of addresses that exist only as translation rules: Services' and load balancers'.
    pub virtual_ranges: Vec<Prefix>,
    /// Further addresses that this node itself answers on, such as the cluster DNS's.
    pub local_addresses: Vec<Ipv4Addr>,
    /// The largest packet; the uplink's if not given.
    pub mtu: Option<u32>,
}

impl PodNetworkConfig {
    /// The node's own address in the pod range.
    pub fn gateway(&self) -> Ipv4Addr {
        self.node_range.nth(1).unwrap_or_else(|| self.node_range.network())
    }
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
    pub pod: Ipv4Addr,
}

/// The running pod network. Its calls wait for nothing but the kernel: about a millisecond, but for removals, for which the
/// kernel waits until every processor has seen them.
pub struct PodNetwork {
    config: PodNetworkConfig,
    bridge: u32,
    mtu: u32,
    socket: Mutex<Socket>,
    addresses: Mutex<Addresses>,
    /// The interfaces that are to go. One caller at a time removes all of them with the other socket, since the kernel waits as
    /// long for one as for a hundred.
    leaving: Mutex<Vec<String>>,
    remover: Mutex<Socket>,
    host_ports: watch::Sender<Vec<HostPortMapping>>,
}

impl PodNetwork {
    /// Makes bridge, routes and kernel parameters, or takes over those of an earlier run, with all its leases.
    pub fn open(config: PodNetworkConfig) -> Result<Self, PodNetworkError> {
        let addresses = Addresses::open(&config.state_folder, config.node_range)?;
        let socket = Socket::open(Protocol::Route)?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => link::uplink_mtu(&socket)?.unwrap_or(link::DEFAULT_MTU),
        };
        let bridge = make_bridge(&socket, &config, mtu)?;
        set_parameters(&config.bridge)?;
        make_routes(&socket, &config, bridge)?;
        let (host_ports, _) = watch::channel(mappings(&addresses));
        let remover = Mutex::new(Socket::open(Protocol::Route)?);
        let (socket, addresses, leaving) = (Mutex::new(socket), Mutex::new(addresses), Mutex::default());
        Ok(Self { config, bridge, mtu, socket, addresses, leaving, remover, host_ports })
    }

    /// Connects the sandbox whose network namespace is mounted at `namespace`, and says its addresses.
    /// Asked again for the same sandbox, it makes the connection anew with the same address.
    pub fn setup(
        &self,
        sandbox: &str,
        namespace: &Path,
        host_ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, PodNetworkError> {
        let namespace = Namespace::open(namespace)?;
        let pod_socket = Socket::open_in(&namespace, Protocol::Route)?;
        let (lease, is_new) = self.lease(sandbox, host_ports)?;
        match self.connect(&lease, &namespace, &pod_socket) {
            Ok(()) => Ok(vec![lease.address.into()]),
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
        self.remove_interface(interface_name(lease.address))?;
        let mut addresses = self.addresses.lock();
        addresses.release(sandbox)?;
        self.announce(&addresses, &lease);
        Ok(())
    }

    /// Removes an interface, together with those that others want removed meanwhile.
    fn remove_interface(&self, name: String) -> Result<(), PodNetworkError> {
        self.leaving.lock().push(name.clone());
        let socket = self.remover.lock();
        let together = std::mem::take(&mut *self.leaving.lock());
        if together.contains(&name) {
            return delete_together(&socket, &together);
        }
        // Somebody else took it along, and told nobody how that went.
        match link::find_link(&socket, &name)? {
            Some(_) => delete_links(&socket, [name]),
            None => Ok(()),
        }
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
        self.addresses.lock().get(sandbox).map(|lease| lease.address.into()).into_iter().collect()
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
            self.host_ports.send_replace(mappings(addresses));
        }
    }

    fn connect(&self, lease: &Lease, namespace: &Namespace, pod_socket: &Socket) -> Result<(), PodNetworkError> {
        let host_name = interface_name(lease.address);
        let pair = VethPair {
            host_name: &host_name,
            pod_name: POD_INTERFACE,
            pod_mac: link::mac_of(lease.address),
            pod_namespace: namespace,
            master: Some(self.bridge),
            mtu: self.mtu,
        };
        let mut batch = Batch::new();
        link::add_veth(&mut batch, &pair);
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
        let gateway = self.config.gateway();
        let mut batch = Batch::new();
        link::link_up(&mut batch, LOOPBACK_INDEX, "lo");
        link::up_without_ipv6(&mut batch, POD_INTERFACE);
        link::add_address(&mut batch, index, lease.address, 32);
        link::add_route(&mut batch, Prefix::host(gateway), Via::Link { index, source: Some(lease.address) }, 0);
        link::add_route(&mut batch, Prefix::ALL, Via::Gateway { index, gateway }, 0);
        Ok(pod_socket.execute(&batch)?)
    }
}

fn make_bridge(socket: &Socket, config: &PodNetworkConfig, mtu: u32) -> Result<u32, PodNetworkError> {
    let gateway = config.gateway();
    if link::find_link(socket, &config.bridge)?.is_none() {
        let mut batch = Batch::new();
        link::add_bridge(&mut batch, &config.bridge, link::mac_of(gateway), mtu);
        socket.execute(&batch)?;
    }
    let bridge = link::find_link(socket, &config.bridge)?;
    let index = bridge.ok_or_else(|| PodNetworkError::Vanished(config.bridge.clone()))?.index;
    let mut batch = Batch::new();
    link::link_up(&mut batch, index, &config.bridge);
    link::add_address(&mut batch, index, gateway, config.node_range.bits());
    for address in &config.local_addresses {
        link::add_address(&mut batch, index, *address, 32);
    }
    socket.execute(&batch)?;
    Ok(index)
}

fn set_parameters(bridge: &str) -> Result<(), PodNetworkError> {
    let parameters = [
        ("ipv4/ip_forward".to_owned(), "1"),
        // Pods reach each other through the gateway on purpose; it must not tell them of a shorter way.
        ("ipv4/conf/all/send_redirects".to_owned(), "0"),
        (format!("ipv4/conf/{bridge}/send_redirects"), "0"),
        // So that a NodePort answers on the node's 127.0.0.1 too; a rule keeps pods away from that address.
        (format!("ipv4/conf/{bridge}/route_localnet"), "1"),
        // Loose: the machine may ask for strict checks, which translated answers need not pass.
        (format!("ipv4/conf/{bridge}/rp_filter"), "2"),
    ];
    for (name, value) in parameters {
        sysctl::set(&name, value).map_err(|source| PodNetworkError::Sysctl { name, value, source })?;
    }
    Ok(())
}

fn make_routes(socket: &Socket, config: &PodNetworkConfig, bridge: u32) -> Result<(), PodNetworkError> {
    let mut batch = Batch::new();
    for range in blackholes(config) {
        link::add_route(&mut batch, range, Via::Blackhole, BLACKHOLE_METRIC);
    }
    // The host's own connections need a route, and with it a source address, before translation can redirect them.
    for range in &config.virtual_ranges {
        link::add_route(&mut batch, *range, Via::Link { index: bridge, source: Some(config.gateway()) }, 0);
    }
    Ok(socket.execute(&batch)?)
}

fn blackholes(config: &PodNetworkConfig) -> impl Iterator<Item = Prefix> + '_ {
    std::iter::once(config.pod_range).chain(config.virtual_ranges.iter().copied())
}

/// Unique on the node as the address is, and short enough for any address.
fn interface_name(address: Ipv4Addr) -> String {
    format!("pod{:08x}", u32::from(address))
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

fn mappings(addresses: &Addresses) -> Vec<HostPortMapping> {
    let of = |lease: &Lease| {
        let pod = lease.address;
        lease.host_ports.clone().into_iter().map(move |port| HostPortMapping { port, pod })
    };
    addresses.all().flat_map(of).collect()
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
