//! The two families of addresses, and what is different about them: sizes, and little else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

/// A family of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of this address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// How many bits an address has.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// Its number among the system's families of sockets (`AF_INET`, `AF_INET6`), which netfilter has too.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Its name, as EndpointSlices have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The address that is none.
    pub fn unspecified(self) -> IpAddr {
        self.address(0)
    }

    /// The address that this number stands for; its upper bits are cut off where it has too many.
    pub fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits((number & u128::from(u32::MAX)) as u32).into(),
            Self::V6 => Ipv6Addr::from_bits(number).into(),
        }
    }

    /// The first of these addresses that is of the family.
    pub fn first(self, addresses: impl IntoIterator<Item = IpAddr>) -> Option<IpAddr> {
        addresses.into_iter().find(|address| Self::of(*address) == self)
    }

    /// The address with these bytes, if they are as many as one has.
    pub(crate) fn read(self, bytes: &[u8]) -> Option<IpAddr> {
        Some(match self {
            Self::V4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
            Self::V6 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        })
    }

    /// The greatest of its numbers.
    pub(crate) fn last_number(self) -> u128 {
        match self {
            Self::V4 => u32::MAX.into(),
            Self::V6 => u128::MAX,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The number that an address is.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
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
