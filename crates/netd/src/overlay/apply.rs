//! Brings the kernel's routes, neighbours and the VXLAN device in step with the ways that were decided.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;
use skiff_base::{Cidr, Family};

use super::messages;
use super::plan::{Way, Ways, tunnel_mac};
use crate::netlink::{Batch, NetlinkError, Protocol, Socket};
use crate::pods::link::{self, Mac};
use crate::pods::{gateway, sysctl};

/// The tunnel's device.
pub(crate) const DEVICE: &str = "skiff-vxlan";
/// The network number inside the packets, and the port that they travel to: those that flannel has, so that firewalls
/// which let its packets pass let these pass.
const NETWORK_ID: u32 = 1;
const PORT: u16 = 8472;
/// What the outer headers take of a packet: Ethernet, IP, UDP, VXLAN.
fn headers_bytes(outer: Family) -> u32 {
    let ip = match outer {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    14 + ip + 8 + 8
}

/// What the executor is told of the node.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The node's own addresses. Packets that others travel in have the first one.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its pods' addresses, one range of a family. The first address of each belongs to the tunnel's device in name only.
    pub(crate) ranges: Vec<Cidr>,
}

impl Site {
    /// The family of the packets that others travel in.
    pub(crate) fn tunnel(&self) -> Option<Family> {
        self.addresses.first().copied().map(Family::of)
    }

    /// The source of the node's own packets to pods behind a tunnel.
    fn source(&self, family: Family) -> Option<IpAddr> {
        self.ranges.iter().copied().find(|range| range.family() == family).map(gateway)
    }
}

/// The running state: a socket and what is in the kernel.
pub(crate) struct Applier {
    site: Site,
    socket: Socket,
    applied: Ways,
}

impl Applier {
    /// In the calling thread's network namespace.
    pub(crate) fn open(site: Site) -> Result<Self, NetlinkError> {
        Ok(Self { site, socket: Socket::open(Protocol::Route)?, applied: Ways::new() })
    }

    /// What it was told of the node.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// The networks that the node is on with its own addresses.
    pub(crate) fn networks(&self) -> Result<Vec<Cidr>, NetlinkError> {
        let own = link::addresses(&self.socket)?;
        let own = own.into_iter().filter(|one| self.site.addresses.contains(&one.address));
        Ok(own.filter_map(|one| Cidr::new(one.address, one.bits)).collect())
    }

    /// Makes the kernel have these ways and no others. With `anew`, what is there is not trusted.
    pub(crate) fn apply(&mut self, ways: &Ways, anew: bool) -> Result<(), NetlinkError> {
        if anew {
            self.applied = Ways::new();
            self.remove_strangers(ways)?;
        }
        let device = self.device(ways)?;
        let (old_peers, peers) = (peers(&self.applied), peers(ways));
        let gone: Vec<_> = self.applied.iter().filter(|(range, way)| ways.get(range) != Some(way)).collect();
        let mut batch = Batch::new();
        for (range, way) in gone {
            messages::delete_route(&mut batch, *range);
            if let (Way::Tunnel(..), Some(index)) = (way, device) {
                link::delete_neighbour(&mut batch, index, range.base());
            }
        }
        if let Some(index) = device {
            old_peers.difference(&peers).for_each(|peer| messages::delete_peer(&mut batch, index, *peer));
        }
        // Some may be gone already.
        for error in self.socket.try_all(&batch)? {
            if ![Errno::ESRCH, Errno::ENOENT].contains(&error.errno().unwrap_or(Errno::UnknownErrno)) {
                return Err(error);
            }
        }
        let mut batch = Batch::new();
        if let Some(index) = device {
            peers.difference(&old_peers).for_each(|peer| messages::add_peer(&mut batch, index, *peer));
        }
        for (range, way) in ways.iter().filter(|(range, way)| self.applied.get(range) != Some(way)) {
            match (*way, device, self.site.source(range.family())) {
                (Way::Direct(address), ..) => messages::add_next_hop(&mut batch, *range, address),
                (Way::Tunnel(_, mac), Some(index), Some(source)) => {
                    // The neighbour has a name alone, so that the route has a gateway.
                    link::add_neighbour(&mut batch, index, range.base(), mac);
                    messages::add_through_tunnel(&mut batch, *range, index, source);
                }
                (Way::Tunnel(..), ..) => {}
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
        let Some(local) = self.site.addresses.first().copied() else { return Ok(None) };
        if !ways.values().any(|way| matches!(way, Way::Tunnel(..))) {
            return Ok(None);
        }
        let own = link::addresses(&self.socket)?;
        let uplink = own.iter().find(|one| one.address == local);
        let mtu = uplink.map(|one| link::mtu(&self.socket, one.link)).transpose()?.flatten();
        let mtu = mtu.unwrap_or(link::DEFAULT_MTU).saturating_sub(headers_bytes(Family::of(local)));
        let mut batch = Batch::new();
        let tunnel = messages::Tunnel {
            name: DEVICE,
            mac: tunnel_mac(&self.site.ranges),
            mtu,
            network_id: NETWORK_ID,
            port: PORT,
            local,
        };
        messages::add_tunnel(&mut batch, &tunnel);
        self.socket.execute(&batch)?;
        // Loose: an answer may come back by a tunnel from a node that is reached directly meanwhile.
        set_parameter("ipv4", "rp_filter", "2");
        if self.site.source(Family::V6).is_some() {
            set_parameter("ipv6", "disable_ipv6", "0");
            set_parameter("ipv6", "accept_ra", "0");
        }
        let Some(device) = link::find_link(&self.socket, DEVICE)? else { return Ok(None) };
        // What is masqueraded on its way into the tunnel has to have a source that is answered by the tunnel: of a device
        // without addresses the kernel would take another's, the uplink's.
        let mut batch = Batch::new();
        for range in &self.site.ranges {
            link::add_address(&mut batch, device.index, gateway(*range), range.family().bits());
        }
        self.socket.execute(&batch)?;
        Ok(Some(device.index))
    }
}

/// Sets a parameter of the tunnel's device. It mostly works without.
fn set_parameter(family: &str, name: &str, value: &str) {
    if let Err(error) = sysctl::set(&format!("{family}/conf/{DEVICE}/{name}"), value) {
        tracing::warn!(%error, name, "the tunnel keeps a parameter as it is");
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

/// Which hardware addresses are behind which nodes. The ranges of one node share one.
fn peers(ways: &Ways) -> BTreeSet<(Mac, IpAddr)> {
    let peer = |way: &Way| match *way {
        Way::Tunnel(address, mac) => Some((mac, address)),
        Way::Direct(_) => None,
    };
    ways.values().filter_map(peer).collect()
}
