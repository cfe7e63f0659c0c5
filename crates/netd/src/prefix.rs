//! Ranges of addresses in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// A range of IPv4 addresses, such as `10.244.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    network: u32,
    bits: u8,
}

/// A text that is no IPv4 range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.244.0.0/16")]
pub struct PrefixError(String);

impl Prefix {
    /// Every address.
    pub const ALL: Self = Self { network: 0, bits: 0 };

    /// The range of `bits` leading bits around `address`; `None` for more than 32 bits.
    pub fn new(address: Ipv4Addr, bits: u8) -> Option<Self> {
        (bits <= 32).then(|| Self { network: u32::from(address) & mask(bits), bits })
    }

    /// The range of this address alone.
    pub fn host(address: Ipv4Addr) -> Self {
        Self { network: u32::from(address), bits: 32 }
    }

    /// The fewest ranges that hold exactly the addresses from `first` to `last`; none if `last` comes before `first`.
    pub fn between(first: Ipv4Addr, last: Ipv4Addr) -> Vec<Self> {
        let (mut next, last) = (u64::from(u32::from(first)), u64::from(u32::from(last)));
        let mut ranges = Vec::new();
        while next <= last {
            // The largest block that may begin here and does not reach beyond the end.
            let aligned = if next == 0 { 32 } else { next.trailing_zeros().min(32) };
            let fitting = (last - next + 1).ilog2();
            let size = aligned.min(fitting);
            let network = u32::try_from(next).expect("it is not beyond the last address");
            ranges.push(Self { network, bits: u8::try_from(32 - size).expect("at most 32") });
            next += 1 << size;
        }
        ranges
    }

    /// How many leading bits are the same in the whole range.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The first address, which names the range.
    pub fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    /// The bits that are compared.
    pub fn mask(self) -> Ipv4Addr {
        mask(self.bits).into()
    }

    /// The address at this distance from the first one, if it lies within.
    pub fn nth(self, distance: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from(self.network.checked_add(distance)?);
        self.contains(address.into()).then_some(address)
    }

    /// The addresses that can be given to hosts: all but the first and the last (in ranges that are large enough to have both).
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let last = self.network | !mask(self.bits);
        let (first, last) = if self.bits < 31 { (self.network + 1, last - 1) } else { (self.network, last) };
        (first..=last).map(Ipv4Addr::from)
    }

    /// All addresses.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.network..=self.network | !mask(self.bits)).map(Ipv4Addr::from)
    }

    /// Whether the address lies within; no IPv6 address does.
    pub fn contains(self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if u32::from(v4) & mask(self.bits) == self.network)
    }

    /// The first address's bytes.
    pub fn octets(self) -> [u8; 4] {
        self.network.to_be_bytes()
    }
}

fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.bits)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            Self::new(address.parse().ok()?, bits.parse().ok()?)
        };
        parse().ok_or_else(|| PrefixError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_know_their_addresses() {
        let range: Prefix = "10.244.3.77/24".parse().expect("a range");
        assert_eq!(range.to_string(), "10.244.3.0/24");
        assert_eq!(range.nth(1), Some(Ipv4Addr::new(10, 244, 3, 1)));
        assert_eq!(range.nth(256), None);
        assert_eq!(range.hosts().count(), 254);
        assert!(range.contains("10.244.3.255".parse().expect("an address")));
        assert!(!range.contains("10.244.4.0".parse().expect("an address")));
        assert!(!range.contains("::1".parse().expect("an address")));
        assert!(Prefix::ALL.contains("8.8.8.8".parse().expect("an address")));
        let pair: Prefix = "10.0.0.6/31".parse().expect("a range");
        assert_eq!(pair.hosts().count(), 2);
        let between = |first: &str, last: &str| {
            let ranges = Prefix::between(first.parse().expect("an address"), last.parse().expect("an address"));
            ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(between("198.18.1.16", "198.18.1.31"), "198.18.1.16/28");
        assert_eq!(between("10.0.0.1", "10.0.0.6"), "10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32");
        assert_eq!(between("0.0.0.0", "255.255.255.255"), "0.0.0.0/0");
        assert_eq!(between("10.0.0.2", "10.0.0.1"), "");
        assert_eq!(pair.addresses().count(), 2);
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "::/0"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }
}
