//! Brings the kernel's routes, neighbours and the VXLAN device in step with the ways that were decided.

use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;

use super::messages;
use super::plan::{Way, Ways};
use crate::netlink::{Batch, NetlinkError, Protocol, Socket};
use crate::pods::link::{self, Mac};
use crate::pods::sysctl;
use crate::prefix::Prefix;

/// The tunnel's device.
pub(crate) const DEVICE: &str = "skiff-vxlan";
/// The network number inside the packets, and the port that they travel to: those that flannel has, so that firewalls
/// which let its packets pass let these pass.
const NETWORK_ID: u32 = 1;
const PORT: u16 = 8472;
/// What the outer headers take of a packet: Ethernet, IP, UDP, VXLAN.
const HEADERS_BYTES: u32 = 50;

/// What the executor is told of the node.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The node's own address.
    pub(crate) address: Ipv4Addr,
    /// Its pods' addresses; the first belongs to the tunnel's device in name only.
    pub(crate) range: Prefix,
    /// The source of the node's own packets to pods behind a tunnel.
    pub(crate) gateway: Ipv4Addr,
}

/// The running state: a socket and what is in the kernel.
pub(crate) struct Applier {
    site: Site,
    socket: Socket,
    applied: Ways,
}

/// The hardware address of a node's tunnel: every node can tell every other's from its range.
pub(crate) fn tunnel_mac(range: Prefix) -> Mac {
    link::mac_of(range.network())
}

impl Applier {
    /// In the calling thread's network namespace.
    pub(crate) fn open(site: Site) -> Result<Self, NetlinkError> {
        Ok(Self { site, socket: Socket::open(Protocol::Route)?, applied: Ways::new() })
    }

    /// The networks that the node is on with its own address.
    pub(crate) fn networks(&self) -> Result<Vec<Prefix>, NetlinkError> {
        let own = messages::addresses(&self.socket)?;
        let own = own.into_iter().filter(|(_, address, _)| *address == self.site.address);
        Ok(own.filter_map(|(_, address, bits)| Prefix::new(address, bits)).collect())
    }

    /// Makes the kernel have these ways and no others. With `anew`, what is there is not trusted.
    pub(crate) fn apply(&mut self, ways: &Ways, anew: bool) -> Result<(), NetlinkError> {
        if anew {
            self.applied = Ways::new();
            self.remove_strangers(ways)?;
        }
        let device = self.device(ways)?;
        let gone: Vec<_> = self.applied.iter().filter(|(range, way)| ways.get(range) != Some(way)).collect();
        let mut batch = Batch::new();
        for (range, way) in gone {
            messages::delete_route(&mut batch, *range);
            if let (Way::Tunnel(address), Some(index)) = (way, device) {
                messages::delete_peer(&mut batch, index, *range, tunnel_mac(*range), *address);
            }
        }
        // Some may be gone already.
        for error in self.socket.try_all(&batch)? {
            if ![Errno::ESRCH, Errno::ENOENT].contains(&error.errno().unwrap_or(Errno::UnknownErrno)) {
                return Err(error);
            }
        }
        let mut batch = Batch::new();
        for (range, way) in ways.iter().filter(|(range, way)| self.applied.get(range) != Some(way)) {
            match (*way, device) {
                (Way::Direct(address), _) => messages::add_next_hop(&mut batch, *range, address),
                (Way::Tunnel(address), Some(index)) => {
                    messages::add_peer(&mut batch, index, *range, tunnel_mac(*range), address);
                    messages::add_through_tunnel(&mut batch, *range, index, self.site.gateway);
                }
                (Way::Tunnel(_), None) => {}
            }
        }
        self.socket.execute(&batch)?;
        self.applied.clone_from(ways);
        Ok(())
    }

    /// Removes routes of an earlier run that lead to nodes that are gone.
    fn remove_strangers(&self, ways: &Ways) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        for range in messages::routes(&self.socket)? {
            if !ways.contains_key(&range) {
                messages::delete_route(&mut batch, range);
            }
        }
        self.socket.execute(&batch)
    }

    /// The tunnel's device, made when it is first needed.
    fn device(&self, ways: &Ways) -> Result<Option<u32>, NetlinkError> {
        let found = link::find_link(&self.socket, DEVICE)?;
        if let Some(found) = found {
            return Ok(Some(found.index));
        }
        if !ways.values().any(|way| matches!(way, Way::Tunnel(_))) {
            return Ok(None);
        }
        let own = messages::addresses(&self.socket)?;
        let uplink = own.iter().find(|(_, address, _)| *address == self.site.address);
        let mtu = uplink.map(|(index, _, _)| link::mtu(&self.socket, *index)).transpose()?.flatten();
        let mtu = mtu.unwrap_or(link::DEFAULT_MTU).saturating_sub(HEADERS_BYTES);
        let mut batch = Batch::new();
        let tunnel = messages::Tunnel {
            name: DEVICE,
            mac: tunnel_mac(self.site.range),
            mtu,
            network_id: NETWORK_ID,
            port: PORT,
            local: self.site.address,
        };
        messages::add_tunnel(&mut batch, &tunnel);
        self.socket.execute(&batch)?;
        // Loose: an answer may come back by a tunnel from a node that is reached directly meanwhile.
        if let Err(error) = sysctl::set(&format!("ipv4/conf/{DEVICE}/rp_filter"), "2") {
            tracing::warn!(%error, "the tunnel keeps its check of sources");
        }
        Ok(link::find_link(&self.socket, DEVICE)?.map(|link| link.index))
    }
}

/// Removes the tunnel and all ways from the calling thread's network namespace.
pub(crate) fn clean_up() -> Result<(), NetlinkError> {
    let socket = Socket::open(Protocol::Route)?;
    let mut batch = Batch::new();
    for range in messages::routes(&socket)? {
        messages::delete_route(&mut batch, range);
    }
    if link::find_link(&socket, DEVICE)?.is_some() {
        link::delete_link(&mut batch, DEVICE);
    }
    // A route through the device may go with it, or before.
    match socket.try_all(&batch)?.into_iter().find(|error| error.errno() != Some(Errno::ESRCH)) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// The IPv4 address of a node, which is all that this version can tunnel over.
pub(crate) fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
