//! The link, address and route messages that a pod network needs, each as one function that adds to a batch.
//! What is made when, and why, is decided in [`super::network`].

use std::net::IpAddr;

use skiff_base::Cidr;

use crate::family::{Family, address_of, octets, socket_number};
use crate::netlink::{Attributes, Batch, Namespace, NetlinkError, Socket, attribute};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

pub(crate) const REQUEST: u16 = 0x1 | 0x4; // with an answer, also when all went well
pub(crate) const CREATE: u16 = REQUEST | 0x400 | 0x200; // fails where the thing exists
pub(crate) const REPLACE: u16 = REQUEST | 0x400 | 0x100;
pub(crate) const DUMP: u16 = 0x1 | 0x300;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const VETH_INFO_PEER: u16 = 1;
const AF_INET6: u16 = 10;
const IFF_UP: u32 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_PROTO: u16 = 11;
const FOR_EVER: u32 = u32::MAX;
/// Those of all families.
const AF_UNSPEC: u8 = 0;
/// Nobody is asked whether they have the address already: it is there at once. IPv4 knows no such question.
const IFA_F_NODAD: u8 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
/// "Set by an administrator": routing daemons leave such routes alone.
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;

/// What an Ethernet carries when there is no uplink to ask.
pub(crate) const DEFAULT_MTU: u32 = 1500;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A locally administered hardware address made from an IP address, so that an address that is used again by
/// another pod never meets a stale neighbour entry.
pub(crate) fn mac_of(address: IpAddr) -> Mac {
    let [a, b, c, d] = short(address).to_be_bytes();
    let family = if address.is_ipv4() { 0x58 } else { 0x59 };
    [0x0a, family, a, b, c, d]
}

/// Four bytes that tell an address from the others of its range, as far as these differ in four bytes or fewer.
pub(crate) fn short(address: IpAddr) -> u32 {
    let words = octets(address);
    let words = words.chunks_exact(4).filter_map(|word| word.try_into().ok());
    words.fold(0, |sum, word| sum ^ u32::from_be_bytes(word))
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) master: Option<u32>,
    pub(crate) mac: Option<Mac>,
}

/// A new pair of virtual interfaces, one end here on the bridge, the other already inside the pod.
pub(crate) struct VethPair<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_mac: Mac,
    pub(crate) pod_namespace: &'a Namespace,
    pub(crate) master: Option<u32>,
    pub(crate) mtu: u32,
}

pub(crate) fn add_veth(batch: &mut Batch, pair: &VethPair<'_>) {
    let label = format!("make the interface pair {}", pair.host_name);
    let mut message = batch.message(label, RTM_NEWLINK, CREATE, &link_header(0, 0));
    message.put_text(IFLA_IFNAME, pair.host_name).put_u32(IFLA_MTU, pair.mtu);
    if let Some(master) = pair.master {
        message.put_u32(IFLA_MASTER, master);
    }
    message.nest(IFLA_LINKINFO, |info| {
        info.put(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                // The kernel refuses to switch the far end on before the pair is complete.
                peer.raw(&link_header(0, 0))
                    .put_text(IFLA_IFNAME, pair.pod_name)
                    .put(IFLA_ADDRESS, &pair.pod_mac)
                    .put_u32(IFLA_MTU, pair.mtu)
                    .put_u32(IFLA_NET_NS_FD, pair.pod_namespace.descriptor());
            });
        });
    });
    drop(message);
    if pair.master.is_some() {
        turn_back(batch, pair.host_name);
    }
    up_without_link_local(batch, pair.host_name);
}

/// Lets the bridge send a packet out by the port that it came in by: with the bridge's netfilter on, a pod that
/// reaches itself through a Service is turned round on the bridge and not at the gateway.
fn turn_back(batch: &mut Batch, port: &str) {
    batch
        .message(format!("set up {port} as a port"), RTM_NEWLINK, REQUEST, &link_header(0, 0))
        .put_text(IFLA_IFNAME, port)
        .nest(IFLA_LINKINFO, |info| {
            info.put(IFLA_INFO_SLAVE_KIND, b"bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.put(IFLA_BRPORT_MODE, &[1]);
            });
        });
}

/// A link of a kind, with whatever such a link has by default.
pub(crate) fn add_plain(batch: &mut Batch, name: &str, kind: &str) {
    let mut message = batch.message(format!("make a {kind}"), RTM_NEWLINK, CREATE, &link_header(0, 0));
    message.put_text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
        info.put(IFLA_INFO_KIND, kind.as_bytes());
    });
}

pub(crate) fn add_bridge(batch: &mut Batch, name: &str, mac: Mac, mtu: u32) {
    let mut message = batch.message(format!("make the bridge {name}"), RTM_NEWLINK, CREATE, &link_header(0, 0));
    // A bridge without an address of its own takes the lowest of its ports', and changes it under the pods' feet.
    message.put_text(IFLA_IFNAME, name).put(IFLA_ADDRESS, &mac).put_u32(IFLA_MTU, mtu);
    message.nest(IFLA_LINKINFO, |info| {
        info.put(IFLA_INFO_KIND, b"bridge").nest(IFLA_INFO_DATA, |data| {
            data.put_u32(IFLA_BR_FORWARD_DELAY, 0).put_u32(IFLA_BR_STP_STATE, 0).put(IFLA_BR_MCAST_SNOOPING, &[0]);
        });
    });
    drop(message);
    up_without_link_local(batch, name);
}

/// Link-local IPv6 addresses on ports would only make each pod's start wake all the others with multicast.
/// The kernel takes the setting only for a link that exists, and it must be there before the link is up.
pub(crate) fn up_without_link_local(batch: &mut Batch, name: &str) {
    batch.message(format!("set up {name}"), RTM_NEWLINK, REQUEST, &link_header(0, 0)).put_text(IFLA_IFNAME, name).nest(
        IFLA_AF_SPEC,
        |families| {
            families.nest(AF_INET6, |inet6| {
                inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
            });
        },
    );
    batch
        .message(format!("switch {name} on"), RTM_NEWLINK, REQUEST, &link_header(0, IFF_UP))
        .put_text(IFLA_IFNAME, name);
}

pub(crate) fn delete_link(batch: &mut Batch, name: &str) {
    batch
        .message(format!("delete the interface {name}"), RTM_DELLINK, REQUEST, &link_header(0, 0))
        .put_text(IFLA_IFNAME, name);
}

/// Puts a link into a group of links.
pub(crate) fn set_group(batch: &mut Batch, name: &str, group: u32) {
    batch
        .message(format!("put {name} with others"), RTM_SETLINK, REQUEST, &link_header(0, 0))
        .put_text(IFLA_IFNAME, name)
        .put_u32(IFLA_GROUP, group);
}

/// Deletes all links of a group at once.
pub(crate) fn delete_group(batch: &mut Batch, group: u32) {
    batch.message("delete interfaces together", RTM_DELLINK, REQUEST, &link_header(0, 0)).put_u32(IFLA_GROUP, group);
}

pub(crate) fn link_up(batch: &mut Batch, index: u32, name: &str) {
    let _message = batch.message(format!("switch {name} on"), RTM_NEWLINK, REQUEST, &link_header(index, IFF_UP));
}

pub(crate) fn add_address(batch: &mut Batch, index: u32, address: IpAddr, prefix_bits: u8) {
    let family = Family::of(address);
    let flags = if family == Family::V6 { IFA_F_NODAD } else { 0 };
    let header = address_header(family, prefix_bits, flags, index);
    batch
        .message(format!("add the address {address}/{prefix_bits}"), RTM_NEWADDR, REPLACE, &header)
        .put(IFA_LOCAL, &octets(address))
        .put(IFA_ADDRESS, &octets(address));
}

/// Adds an address that others on the network reach this node by, and that it never speaks from by itself. The number is
/// kept with it, to know it again by.
pub(crate) fn add_shared_address(batch: &mut Batch, index: u32, address: IpAddr, protocol: u8) {
    let family = Family::of(address);
    let flags = if family == Family::V6 { IFA_F_NODAD } else { 0 };
    let header = address_header(family, family.bits(), flags, index);
    let mut message = batch.message(format!("add the address {address}"), RTM_NEWADDR, REPLACE, &header);
    message.put(IFA_LOCAL, &octets(address)).put(IFA_ADDRESS, &octets(address)).put(IFA_PROTO, &[protocol]);
    if family == Family::V6 {
        // `struct ifa_cacheinfo`: good for ever, and never preferred as a source.
        let times = [0, FOR_EVER, 0, 0].map(u32::to_ne_bytes);
        message.put(IFA_CACHEINFO, times.as_flattened());
    }
}

pub(crate) fn delete_address(batch: &mut Batch, index: u32, address: IpAddr, prefix_bits: u8) {
    let header = address_header(Family::of(address), prefix_bits, 0, index);
    batch
        .message(format!("take the address {address} away"), RTM_DELADDR, REQUEST, &header)
        .put(IFA_LOCAL, &octets(address))
        .put(IFA_ADDRESS, &octets(address));
}

/// `struct ifaddrmsg`.
fn address_header(family: Family, prefix_bits: u8, flags: u8, index: u32) -> [u8; 8] {
    let [a, b, c, d] = index.to_ne_bytes();
    [socket_number(family), prefix_bits, flags, RT_SCOPE_UNIVERSE, a, b, c, d]
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    /// How many bits its network's addresses share.
    pub(crate) bits: u8,
    /// Who made it, as they say; 0 where nobody does.
    pub(crate) protocol: u8,
}

/// The addresses of all links.
pub(crate) fn addresses(socket: &Socket) -> Result<Vec<Assigned>, NetlinkError> {
    let mut batch = Batch::new();
    drop(batch.message("list the addresses", RTM_GETADDR, DUMP, &[AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0]));
    let mut found = Vec::new();
    socket.query(&batch, |kind, payload| {
        let Some(header) = payload.get(..8).filter(|_| kind == RTM_NEWADDR) else { return };
        let Some(family) = family_of(header) else { return };
        let (link, attributes) = (u32::from_ne_bytes([header[4], header[5], header[6], header[7]]), &payload[8..]);
        // IPv6 has it here unless there is another end.
        let own = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS));
        let protocol = attribute(attributes, IFA_PROTO).and_then(|value| value.first().copied()).unwrap_or(0);
        let address = own.and_then(|own| address_of(family, own));
        found.extend(address.map(|address| Assigned { link, address, bits: header[1], protocol }));
    })?;
    Ok(found)
}

/// What a route or an address is about, if it is of a family that is known here.
pub(crate) fn family_of(header: &[u8]) -> Option<Family> {
    Family::ALL.into_iter().find(|family| header.first() == Some(&socket_number(*family)))
}

/// `struct ndmsg`, of a neighbour that nobody needs to look for.
pub(crate) fn neighbour_header(family: u8, link: u32, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    header[10] = flags;
    header
}

/// Says which hardware address a neighbour on a link has.
pub(crate) fn add_neighbour(batch: &mut Batch, link: u32, address: IpAddr, mac: Mac) {
    let header = neighbour_header(socket_number(Family::of(address)), link, 0);
    batch
        .message(format!("name the way to {address}"), RTM_NEWNEIGH, REPLACE, &header)
        .put(NDA_DST, &octets(address))
        .put(NDA_LLADDR, &mac);
}

pub(crate) fn delete_neighbour(batch: &mut Batch, link: u32, address: IpAddr) {
    let header = neighbour_header(socket_number(Family::of(address)), link, 0);
    batch
        .message(format!("forget the way to {address}"), RTM_DELNEIGH, REQUEST, &header)
        .put(NDA_DST, &octets(address));
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Straight onto a link; a source address may be preferred.
    Link { index: u32, source: Option<IpAddr> },
    /// To a gateway.
    Gateway { index: u32, gateway: IpAddr },
    /// Nowhere, without a word.
    Blackhole,
}

pub(crate) fn add_route(batch: &mut Batch, to: Cidr, via: Via, metric: u32) {
    let (scope, kind) = match via {
        Via::Link { .. } => (RT_SCOPE_LINK, RTN_UNICAST),
        Via::Gateway { .. } => (RT_SCOPE_UNIVERSE, RTN_UNICAST),
        Via::Blackhole => (RT_SCOPE_UNIVERSE, RTN_BLACKHOLE),
    };
    let header = route_header(to, scope, kind);
    let mut message = batch.message(format!("add the route to {to}"), RTM_NEWROUTE, REPLACE, &header);
    if to.bits() > 0 {
        message.put(RTA_DST, &octets(to.base()));
    }
    if metric > 0 {
        message.put_u32(RTA_PRIORITY, metric);
    }
    match via {
        Via::Link { index, source } => {
            message.put_u32(RTA_OIF, index);
            if let Some(source) = source {
                message.put(RTA_PREFSRC, &octets(source));
            }
        }
        Via::Gateway { index, gateway } => {
            message.put_u32(RTA_OIF, index).put(RTA_GATEWAY, &octets(gateway));
        }
        Via::Blackhole => {}
    }
}

pub(crate) fn delete_blackhole(batch: &mut Batch, to: Cidr, metric: u32) {
    let header = route_header(to, RT_SCOPE_UNIVERSE, RTN_BLACKHOLE);
    batch
        .message(format!("delete the route to {to}"), RTM_DELROUTE, REQUEST, &header)
        .put(RTA_DST, &octets(to.base()))
        .put_u32(RTA_PRIORITY, metric);
}

/// All links of the socket's namespace.
pub(crate) fn links(socket: &Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut batch = Batch::new();
    drop(batch.message("list the interfaces", RTM_GETLINK, DUMP, &link_header(0, 0)));
    let mut found = Vec::new();
    socket.query(&batch, |kind, payload| {
        if kind == RTM_NEWLINK {
            found.extend(read_link(payload));
        }
    })?;
    Ok(found)
}

/// The link of this name in the socket's namespace.
pub(crate) fn find_link(socket: &Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut batch = Batch::new();
    batch
        .message(format!("look up the interface {name}"), RTM_GETLINK, 0x1, &link_header(0, 0))
        .put_text(IFLA_IFNAME, name);
    let mut found = None;
    match socket.query(&batch, |_, payload| found = read_link(payload)) {
        Ok(()) => Ok(found),
        Err(error) if error.errno() == Some(nix::errno::Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_link(payload: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let attributes = payload.get(16..)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    let master = attribute(attributes, IFLA_MASTER).and_then(|value| Some(u32::from_ne_bytes(value.try_into().ok()?)));
    let mac = attribute(attributes, IFLA_ADDRESS).and_then(|value| value.try_into().ok());
    Some(Link { index, name, master, mac })
}

/// `struct ifinfomsg` with these flags to be set.
pub(crate) fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// `struct rtmsg` for a route to `to`.
fn route_header(to: Cidr, scope: u8, kind: u8) -> [u8; 12] {
    [socket_number(to.family()), to.bits(), 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, kind, 0, 0, 0, 0]
}

/// The largest packet of the link that a family's default route leads to; `None` without a default route.
pub(crate) fn uplink_mtu(socket: &Socket, family: Family) -> Result<Option<u32>, NetlinkError> {
    let mut batch = Batch::new();
    let header = route_header(Cidr::all(family), 0, 0);
    drop(batch.message("list the routes", RTM_GETROUTE, DUMP, &header));
    let mut uplink = None;
    socket.query(&batch, |kind, payload| {
        if kind == RTM_NEWROUTE && uplink.is_none() {
            uplink = read_default_route(payload, family);
        }
    })?;
    uplink.map_or(Ok(None), |index| mtu(socket, index))
}

/// The largest packet of a link.
pub(crate) fn mtu(socket: &Socket, index: u32) -> Result<Option<u32>, NetlinkError> {
    let mut batch = Batch::new();
    drop(batch.message("look up the uplink", RTM_GETLINK, 0x1, &link_header(index, 0)));
    let mut mtu = None;
    socket.query(&batch, |_, payload| {
        let value = payload.get(16..).and_then(|attributes| attribute(attributes, IFLA_MTU));
        mtu = value.and_then(|value| Some(u32::from_ne_bytes(value.try_into().ok()?)));
    })?;
    Ok(mtu)
}

/// The link that this route leads to, if it is a family's default route of the main table.
fn read_default_route(payload: &[u8], family: Family) -> Option<u32> {
    let header = payload.get(..12)?;
    if header[0] != socket_number(family) || header[1] != 0 || header[4] != RT_TABLE_MAIN || header[7] != RTN_UNICAST {
        return None;
    }
    let link = attribute(payload.get(12..)?, RTA_OIF)?;
    Some(u32::from_ne_bytes(link.try_into().ok()?))
}
