//! What packets and the kernel's messages have of a family of addresses.

use std::net::IpAddr;
use std::ops::Deref;

pub use skiff_base::Family;
pub(crate) use skiff_base::cidr::number;

/// A family's number among the system's families of sockets (`AF_INET`, `AF_INET6`), which netfilter has too.
pub(crate) fn socket_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The address with these bytes, if they are as many as one of the family has.
pub(crate) fn address_of(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        Family::V6 => <[u8; 16]>::try_from(bytes).ok()?.into(),
    })
}

/// The bytes of an address, as packets have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Octets {
    bytes: [u8; 16],
    length: usize,
}

/// The bytes of this address.
pub(crate) fn octets(address: IpAddr) -> Octets {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            Octets { bytes, length: 4 }
        }
        IpAddr::V6(address) => Octets { bytes: address.octets(), length: 16 },
    }
}

impl Deref for Octets {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
