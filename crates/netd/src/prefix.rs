//! Ranges of addresses in CIDR notation.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::family::{Family, Octets, number, octets};

/// A range of addresses of one family, such as `10.244.0.0/16` or `fd00:10:244::/48`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    network: IpAddr,
    bits: u8,
}

/// A text that is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses such as 10.244.0.0/16 or fd00::/64")]
pub struct PrefixError(String);

impl Prefix {
    /// Every address of a family.
    pub fn all(family: Family) -> Self {
        Self { network: family.unspecified(), bits: 0 }
    }

    /// The range of `bits` leading bits around `address`; `None` for more bits than it has.
    pub fn new(address: impl Into<IpAddr>, bits: u8) -> Option<Self> {
        let address = address.into();
        let family = Family::of(address);
        let network = || family.address(number(address) & !behind(family, bits));
        (bits <= family.bits()).then(|| Self { network: network(), bits })
    }

    /// The range of this address alone.
    pub fn host(address: impl Into<IpAddr>) -> Self {
        let network = address.into();
        Self { network, bits: Family::of(network).bits() }
    }

    /// The fewest ranges that hold exactly the addresses from `first` to `last`; none if `last` comes before `first` or
    /// is of the other family.
    pub fn between(first: impl Into<IpAddr>, last: impl Into<IpAddr>) -> Vec<Self> {
        let (first, last) = (first.into(), last.into());
        let family = Family::of(first);
        let mut ranges = Vec::new();
        let mut next = (family == Family::of(last)).then(|| number(first));
        let last = number(last);
        while let Some(first) = next.filter(|first| *first <= last) {
            // The largest block that may begin here and does not reach beyond the end.
            let aligned = first.trailing_zeros().min(family.bits().into());
            let fitting = (last - first).checked_add(1).map_or(u128::BITS, u128::ilog2);
            let size = aligned.min(fitting);
            let bits = family.bits() - u8::try_from(size).expect("at most as many as an address has");
            ranges.push(Self { network: family.address(first), bits });
            next = 1_u128.checked_shl(size).and_then(|count| first.checked_add(count));
        }
        ranges
    }

    /// The family of its addresses.
    pub fn family(self) -> Family {
        Family::of(self.network)
    }

    /// How many leading bits are the same in the whole range.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The first address, which names the range.
    pub fn network(self) -> IpAddr {
        self.network
    }

    /// The bits that are compared.
    pub fn mask(self) -> IpAddr {
        self.family().address(!behind(self.family(), self.bits))
    }

    /// The address at this distance from the first one, if it lies within.
    pub fn nth(self, distance: u32) -> Option<IpAddr> {
        let at = number(self.network).checked_add(distance.into())?;
        (at <= self.last_number()).then(|| self.family().address(at))
    }

    /// The numbers of the first and the last address that can be given to hosts: all but the range's first and last (in
    /// ranges that are large enough to have both).
    pub(crate) fn hosts(self) -> (u128, u128) {
        let (first, last) = (number(self.network), self.last_number());
        if self.family().bits() - self.bits > 1 { (first + 1, last - 1) } else { (first, last) }
    }

    /// All addresses.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        (number(self.network)..=self.last_number()).map(move |number| self.family().address(number))
    }

    /// Whether the address lies within; none of the other family does.
    pub fn contains(self, address: IpAddr) -> bool {
        let family = self.family();
        Family::of(address) == family && number(address) & !behind(family, self.bits) == number(self.network)
    }

    /// Whether some address lies in both.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The number of the last address.
    pub(crate) fn last_number(self) -> u128 {
        number(self.network) | behind(self.family(), self.bits)
    }

    /// The first address's bytes.
    pub(crate) fn octets(self) -> Octets {
        octets(self.network)
    }
}

/// The bits of an address behind so many leading ones.
fn behind(family: Family, bits: u8) -> u128 {
    family.last_number().checked_shr(bits.into()).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            Self::new(address.parse::<IpAddr>().ok()?, bits.parse().ok()?)
        };
        parse().ok_or_else(|| PrefixError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Prefix {
        text.parse().expect("a range")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn ranges_know_their_addresses() {
        let range = range("10.244.3.77/24");
        assert_eq!(range.to_string(), "10.244.3.0/24");
        assert_eq!(range.mask(), address("255.255.255.0"));
        assert_eq!(range.nth(1), Some(address("10.244.3.1")));
        assert_eq!(range.nth(256), None);
        assert_eq!(range.hosts(), (number(address("10.244.3.1")), number(address("10.244.3.254"))));
        assert!(range.contains(address("10.244.3.255")));
        assert!(!range.contains(address("10.244.4.0")));
        assert!(!range.contains(address("::10.244.3.0")), "it has the same number in the other family");
        let all = Prefix::all(Family::V4);
        assert!(all.contains(address("8.8.8.8")) && !all.contains(address("::1")));
        assert_eq!(all.mask(), address("0.0.0.0"));
    }

    #[test]
    fn ranges_of_the_other_family_do_too() {
        let six = range("fd00:10:244:3:ffff::/64");
        assert_eq!(six.to_string(), "fd00:10:244:3::/64");
        assert_eq!(six.mask(), address("ffff:ffff:ffff:ffff::"));
        assert_eq!(six.nth(1), Some(address("fd00:10:244:3::1")));
        assert_eq!(range("fd00::/120").nth(256), None);
        assert_eq!(
            six.hosts(),
            (number(address("fd00:10:244:3::1")), number(address("fd00:10:244:3:ffff:ffff:ffff:fffe")))
        );
        assert!(six.contains(address("fd00:10:244:3:1::")));
        assert!(!six.contains(address("fd00:10:244:4::")) && !six.contains(address("10.244.3.0")));
        let all = Prefix::all(Family::V6);
        assert!(all.contains(address("ff02::1")) && !all.contains(address("8.8.8.8")));
        assert_eq!((all.mask(), all.last_number()), (address("::"), u128::MAX));
        assert_eq!(Prefix::host(address("fd00::1")).to_string(), "fd00::1/128");
        assert!(six.overlaps(range("fd00::/16")) && range("fd00::/16").overlaps(six));
        assert!(!six.overlaps(range("fd00:10:244:4::/64")));
    }

    #[test]
    fn whatever_lies_between_is_a_few_ranges() {
        let between = |first: &str, last: &str| {
            let ranges = Prefix::between(address(first), address(last));
            ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(between("198.18.1.16", "198.18.1.31"), "198.18.1.16/28");
        assert_eq!(between("10.0.0.1", "10.0.0.6"), "10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32");
        assert_eq!(between("0.0.0.0", "255.255.255.255"), "0.0.0.0/0");
        assert_eq!(between("10.0.0.2", "10.0.0.1"), "");
        assert_eq!(between("fd00::1", "fd00::4"), "fd00::1/128 fd00::2/127 fd00::4/128");
        assert_eq!(between("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "::/0");
        assert_eq!(between("ffff::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "ffff::/16");
        assert_eq!(between("10.0.0.1", "fd00::4"), "");
        let pair = range("10.0.0.6/31");
        assert_eq!(pair.addresses().count(), 2);
        assert_eq!(pair.hosts(), (number(address("10.0.0.6")), number(address("10.0.0.7"))));
    }

    #[test]
    fn other_texts_are_no_ranges() {
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "::/129", "fd00::1", "::/-1"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }
}
