//! The route, neighbour and device messages of the overlay, each as one function that adds to a batch. Its routes bear a
//! protocol number of their own, by which they are known again after a restart.

use std::net::IpAddr;

use skiff_base::Cidr;

use crate::family::{Family, address_of, octets, socket_number};
use crate::netlink::{Attributes, Batch, NetlinkError, Socket, attribute};
use crate::pods::link::{self, CREATE, DUMP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, Mac, REPLACE, REQUEST};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

/// Routes of the overlay: a number that no routing daemon has.
const PROTOCOL: u8 = 83;
const TABLE_MAIN: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
/// In a request to delete: whatever the scope.
const SCOPE_ANY: u8 = 255;
const UNICAST: u8 = 1;
/// The gateway is reached through the link although no address says so.
const ONLINK: u32 = 4;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const AF_BRIDGE: u8 = 7;
const NTF_SELF: u8 = 2;

const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LOCAL6: u16 = 17;
/// Those of all families.
const AF_UNSPEC: u8 = 0;

/// The device that packets go into to travel inside of others.
pub(super) struct Tunnel<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
    pub(super) network_id: u32,
    pub(super) port: u16,
    pub(super) local: IpAddr,
}

pub(super) fn add_tunnel(batch: &mut Batch, tunnel: &Tunnel<'_>) {
    let mut message = batch.message("make the tunnel to other nodes", RTM_NEWLINK, CREATE, &link::link_header(0, 0));
    message.put_text(IFLA_IFNAME, tunnel.name).put(IFLA_ADDRESS, &tunnel.mac).put_u32(IFLA_MTU, tunnel.mtu);
    let local = if tunnel.local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
    message.nest(IFLA_LINKINFO, |info| {
        info.put(IFLA_INFO_KIND, b"vxlan").nest(IFLA_INFO_DATA, |data| {
            // Who is behind which node is told, not learnt.
            data.put_u32(IFLA_VXLAN_ID, tunnel.network_id)
                .put(local, &octets(tunnel.local))
                .put(IFLA_VXLAN_LEARNING, &[0])
                .put(IFLA_VXLAN_PORT, &tunnel.port.to_be_bytes());
        });
    });
    drop(message);
    link::up_without_link_local(batch, tunnel.name);
}

fn route_header(to: Cidr, scope: u8, flags: u32) -> [u8; 12] {
    let mut header = [socket_number(to.family()), to.bits(), 0, 0, TABLE_MAIN, PROTOCOL, scope, UNICAST, 0, 0, 0, 0];
    header[8..].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// The route to a node on the same network.
pub(super) fn add_next_hop(batch: &mut Batch, to: Cidr, node: IpAddr) {
    batch
        .message(format!("add the route to {to}"), RTM_NEWROUTE, REPLACE, &route_header(to, SCOPE_UNIVERSE, 0))
        .put(RTA_DST, &octets(to.base()))
        .put(RTA_GATEWAY, &octets(node));
}

/// The route through the tunnel. The node's own packets have a source in the pod range, so that answers come back by it too.
pub(super) fn add_through_tunnel(batch: &mut Batch, to: Cidr, tunnel: u32, source: IpAddr) {
    batch
        .message(format!("add the route to {to}"), RTM_NEWROUTE, REPLACE, &route_header(to, SCOPE_UNIVERSE, ONLINK))
        .put(RTA_DST, &octets(to.base()))
        .put_u32(RTA_OIF, tunnel)
        .put(RTA_GATEWAY, &octets(to.base()))
        .put(RTA_PREFSRC, &octets(source));
}

pub(super) fn delete_route(batch: &mut Batch, to: Cidr) {
    batch
        .message(format!("delete the route to {to}"), RTM_DELROUTE, REQUEST, &route_header(to, SCOPE_ANY, 0))
        .put(RTA_DST, &octets(to.base()));
}

/// Says to which node packets for a hardware address in the tunnel go.
pub(super) fn add_peer(batch: &mut Batch, tunnel: u32, peer: (Mac, IpAddr)) {
    let (mac, node) = peer;
    let header = link::neighbour_header(AF_BRIDGE, tunnel, NTF_SELF);
    batch
        .message(format!("lead the tunnel to {node}"), RTM_NEWNEIGH, REPLACE, &header)
        .put(NDA_LLADDR, &mac)
        .put(NDA_DST, &octets(node));
}

pub(super) fn delete_peer(batch: &mut Batch, tunnel: u32, peer: (Mac, IpAddr)) {
    let (mac, node) = peer;
    let header = link::neighbour_header(AF_BRIDGE, tunnel, NTF_SELF);
    batch
        .message(format!("end the tunnel to {node}"), RTM_DELNEIGH, REQUEST, &header)
        .put(NDA_LLADDR, &mac)
        .put(NDA_DST, &octets(node));
}

/// The ranges that the overlay's routes lead to.
pub(super) fn routes(socket: &Socket) -> Result<Vec<Cidr>, NetlinkError> {
    let mut batch = Batch::new();
    let mut header = route_header(Cidr::all(Family::V4), 0, 0);
    header[0] = AF_UNSPEC;
    drop(batch.message("list the routes", RTM_GETROUTE, DUMP, &header));
    let mut found = Vec::new();
    socket.query(&batch, |kind, payload| {
        let Some(header) = payload.get(..12).filter(|_| kind == RTM_NEWROUTE) else { return };
        let Some(family) = link::family_of(header) else { return };
        if header[4] != TABLE_MAIN || header[5] != PROTOCOL {
            return;
        }
        let to = attribute(&payload[12..], RTA_DST).and_then(|to| address_of(family, to));
        found.extend(to.and_then(|to| Cidr::new(to, header[1])));
    })?;
    Ok(found)
}
