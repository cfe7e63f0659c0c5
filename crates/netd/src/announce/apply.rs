//! Puts addresses on links, takes them away, and tells the network of them.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrStorage, sendto, socket};
use skiff_base::{Cidr, Family};

use super::frames;
use super::plan::Network;
use crate::netlink::{Batch, NetlinkError, Protocol, Socket};
use crate::pods::link::{self, Assigned};

/// Addresses of load balancers bear this number (Linux 5.18 and newer keep it), by which they are known again.
const PROTOCOL: u8 = 83;

/// A socket, by which addresses come and go.
pub(super) struct Applier {
    socket: Socket,
}

impl Applier {
    /// In the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    /// The networks that the node is on: those of its addresses that stand for more than themselves.
    pub(super) fn networks(&self) -> Result<Vec<Network>, NetlinkError> {
        let assigned = link::addresses(&self.socket)?.into_iter();
        let shared = assigned.filter(|one| one.bits < Family::of(one.address).bits() && !one.address.is_loopback());
        Ok(shared
            .filter_map(|one| Some(Network { link: one.link, range: Cidr::new(one.address, one.bits)? }))
            .collect())
    }

    /// Has these addresses and no others of load balancers; gives those that are new.
    pub(super) fn apply(&self, own: &BTreeMap<IpAddr, u32>) -> Result<Vec<(IpAddr, u32)>, NetlinkError> {
        let known: Vec<Assigned> = ours(&self.socket)?;
        let is_own = |one: &Assigned| own.get(&one.address) == Some(&one.link);
        remove(&self.socket, known.iter().filter(|one| !is_own(one)))?;
        let is_known = |address: &IpAddr| known.iter().any(|one| one.address == *address && is_own(one));
        let new: Vec<(IpAddr, u32)> =
            own.iter().filter(|(address, _)| !is_known(address)).map(|(address, link)| (*address, *link)).collect();
        let mut batch = Batch::new();
        for (address, link) in &new {
            link::add_shared_address(&mut batch, *link, *address, PROTOCOL);
        }
        self.socket.execute(&batch)?;
        Ok(new)
    }
}

fn ours(socket: &Socket) -> Result<Vec<Assigned>, NetlinkError> {
    Ok(link::addresses(socket)?.into_iter().filter(|one| one.protocol == PROTOCOL).collect())
}

fn remove<'a>(socket: &Socket, gone: impl Iterator<Item = &'a Assigned>) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    gone.for_each(|one| link::delete_address(&mut batch, one.link, one.address, one.bits));
    // Some may be gone already.
    let failed = socket.try_all(&batch)?;
    failed.into_iter().find(|error| error.errno() != Some(Errno::EADDRNOTAVAIL)).map_or(Ok(()), Err)
}

/// Takes all addresses of load balancers away.
pub(super) fn clean_up() -> Result<(), NetlinkError> {
    let socket = Socket::open(Protocol::Route)?;
    remove(&socket, ours(&socket)?.iter())
}

/// Tells everyone on a link that an address is here now.
pub(super) fn tell(address: IpAddr, link: u32) -> io::Result<()> {
    let Some((place, mac)) = ethernet(link)? else { return Ok(()) };
    let sender = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(sender.as_raw_fd(), &frames::announcement(address, mac), &place, MsgFlags::empty())?;
    Ok(())
}

/// A link as packets are sent to it, and its hardware address; none where it has none, as tunnels.
fn ethernet(link: u32) -> io::Result<Option<(LinkAddr, link::Mac)>> {
    let all = getifaddrs()?.filter_map(|one| one.address);
    let places = all.filter_map(|address: SockaddrStorage| address.as_link_addr().copied());
    let mut here = places.filter(|place| u32::try_from(place.ifindex()) == Ok(link));
    Ok(here.next().and_then(|place| Some((place, place.addr().filter(|_| place.halen() == 6)?))))
}
