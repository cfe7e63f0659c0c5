//! Families of addresses, and ranges of addresses such as `10.96.0.0/12` and `fd00:10:96::/112`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A family of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As the API names it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// The API's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The one that this is not.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// How many bits an address has.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The address of a number that [`number`] gave for one of this family; of another, the upper bits are cut off.
    pub fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4((number as u32).into()),
            Self::V6 => IpAddr::V6(number.into()),
        }
    }

    /// The greatest number of an address.
    pub fn last_number(self) -> u128 {
        u128::MAX >> (u128::BITS - u32::from(self.bits()))
    }

    /// The address that is none.
    pub fn unspecified(self) -> IpAddr {
        self.address(0)
    }

    /// The first of these addresses that is of the family.
    pub fn first(self, addresses: impl IntoIterator<Item = IpAddr>) -> Option<IpAddr> {
        addresses.into_iter().find(|address| Self::of(*address) == self)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An address as a number, so that those of a range follow each other.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// An address as it stands before a port: in brackets where it has colons.
pub fn bracketed(address: &str) -> String {
    if address.parse::<Ipv6Addr>().is_ok() { format!("[{address}]") } else { address.to_owned() }
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

/// A text that is no range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CidrError(String);

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no range of addresses such as 10.244.0.0/16 or fd00:10:244::/56", self.0)
    }
}

impl std::error::Error for CidrError {}

impl Cidr {
    /// Every address of a family.
    pub fn all(family: Family) -> Self {
        Self { base: family.unspecified(), bits: 0 }
    }

    /// The range of this address alone.
    pub fn host(address: impl Into<IpAddr>) -> Self {
        let base = address.into();
        Self { base, bits: Family::of(base).bits() }
    }

    /// The range around `address` that shares so many leading bits with it; `None` where an address has not as many.
    pub fn new(address: impl Into<IpAddr>, bits: u8) -> Option<Self> {
        let address = address.into();
        let family = Family::of(address);
        (bits <= family.bits()).then(|| Self { base: family.address(number(address) & !rest(family, bits)), bits })
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
            ranges.push(Self { base: family.address(first), bits });
            next = 1_u128.checked_shl(size).and_then(|count| first.checked_add(count));
        }
        ranges
    }

    /// The family of its addresses.
    pub fn family(self) -> Family {
        Family::of(self.base)
    }

    /// The first address, which names the range.
    pub fn base(self) -> IpAddr {
        self.base
    }

    /// How many leading bits are the same in the whole range.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The last address.
    pub fn last(self) -> IpAddr {
        self.family().address(number(self.base) | rest(self.family(), self.bits))
    }

    /// The bits that are compared.
    pub fn mask(self) -> IpAddr {
        self.family().address(!rest(self.family(), self.bits))
    }

    /// The numbers of the first and the last address that can be given to hosts: all but the range's first and last (in
    /// ranges that are large enough to have both).
    pub fn hosts(self) -> (u128, u128) {
        let (first, last) = (number(self.base), number(self.last()));
        if self.family().bits() - self.bits > 1 { (first + 1, last - 1) } else { (first, last) }
    }

    /// All addresses.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        (number(self.base)..=number(self.last())).map(move |number| self.family().address(number))
    }

    /// The address at this distance from the first one, if it lies within.
    pub fn nth(self, distance: u32) -> Option<IpAddr> {
        let found = number(self.base).checked_add(u128::from(distance))?;
        (found <= number(self.last())).then(|| self.family().address(found))
    }

    /// Whether the address lies within.
    pub fn contains(self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && (self.base..=self.last()).contains(&address)
    }

    /// Whether an address lies within both.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    /// How many parts of so many leading bits it has; `None` where they would be larger than it, or too many to count.
    pub fn parts(self, bits: u8) -> Option<u32> {
        let fits = (self.bits..=self.family().bits()).contains(&bits);
        fits.then(|| 1u32.checked_shl(u32::from(bits - self.bits)))?
    }

    /// One of its parts of so many leading bits.
    pub fn part(self, bits: u8, index: u32) -> Option<Self> {
        let shift = u32::from(self.family().bits() - bits);
        let base = number(self.base) | u128::from(index).checked_shl(shift).unwrap_or(0);
        (index < self.parts(bits)?).then(|| Self { base: self.family().address(base), bits })
    }

    /// Which of its parts of so many leading bits an address is in.
    pub fn part_of(self, bits: u8, address: IpAddr) -> Option<u32> {
        let shift = u32::from(self.family().bits() - bits);
        let distance = self.contains(address).then(|| number(address) - number(self.base))?;
        u32::try_from(distance.checked_shr(shift).unwrap_or(0)).ok().filter(|index| self.parts(bits) > Some(*index))
    }
}

/// The bits after the leading ones.
fn rest(family: Family, bits: u8) -> u128 {
    1u128.checked_shl(u32::from(family.bits() - bits)).map_or(u128::MAX, |bit| bit - 1)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            Self::new(address.parse::<IpAddr>().ok()?, bits.parse().ok()?)
        };
        parse().ok_or_else(|| CidrError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn ranges_are_read_and_written() {
        for (text, shown, last) in [
            ("10.244.3.77/16", "10.244.0.0/16", "10.244.255.255"),
            ("0.0.0.0/0", "0.0.0.0/0", "255.255.255.255"),
            ("10.0.0.1/32", "10.0.0.1/32", "10.0.0.1"),
            ("fd00:10:96::5/112", "fd00:10:96::/112", "fd00:10:96::ffff"),
            ("::/0", "::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::1/128", "::1/128", "::1"),
        ] {
            assert_eq!((range(text).to_string(), range(text).last()), (shown.to_owned(), address(last)), "{text}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_lie_within_ranges_of_their_family() {
        let (v4, v6) = (range("10.96.0.0/12"), range("fd00:10:96::/112"));
        assert_eq!((v4.nth(10), v6.nth(10)), (Some(address("10.96.0.10")), Some(address("fd00:10:96::a"))));
        assert_eq!(
            (range("10.0.0.0/29").nth(8), range("::/127").nth(2), range("::/0").nth(1)),
            (None, None, Some(address("::1")))
        );
        assert!(v4.contains(address("10.111.255.255")) && !v4.contains(address("10.112.0.0")));
        assert!(v6.contains(address("fd00:10:96::ffff")) && !v6.contains(address("fd00:10:96::1:0")));
        assert!(!range("0.0.0.0/0").contains(address("::")) && !range("::/0").contains(address("0.0.0.0")));
        assert!(v4.overlaps(range("10.0.0.0/8")) && range("10.0.0.0/8").overlaps(v4));
        assert!(!v4.overlaps(range("10.112.0.0/12")) && !v4.overlaps(range("::/0")));
    }

    #[test]
    fn ranges_know_what_is_compared_and_who_may_have_it() {
        for (text, mask, first, last) in [
            ("10.244.3.77/24", "255.255.255.0", "10.244.3.1", "10.244.3.254"),
            ("10.0.0.6/31", "255.255.255.254", "10.0.0.6", "10.0.0.7"),
            (
                "fd00:10:244:3:ffff::/64",
                "ffff:ffff:ffff:ffff::",
                "fd00:10:244:3::1",
                "fd00:10:244:3:ffff:ffff:ffff:fffe",
            ),
            ("::1/128", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1", "::1"),
        ] {
            assert_eq!(range(text).mask(), address(mask), "{text}");
            assert_eq!(range(text).hosts(), (number(address(first)), number(address(last))), "{text}");
        }
        let (v4, v6) = (Cidr::all(Family::V4), Cidr::all(Family::V6));
        assert!(v4.contains(address("8.8.8.8")) && !v4.contains(address("::1")));
        assert!(v6.contains(address("ff02::1")) && !v6.contains(address("8.8.8.8")));
        assert_eq!((v4.mask(), v6.mask()), (address("0.0.0.0"), address("::")));
        assert_eq!(number(v6.last()), u128::MAX);
        assert_eq!(Cidr::host(address("fd00::1")).to_string(), "fd00::1/128");
        assert!(
            !range("10.244.3.0/24").contains(address("::10.244.3.0")),
            "it has the same number in the other family"
        );
    }

    #[test]
    fn whatever_lies_between_is_a_few_ranges() {
        let between = |first: &str, last: &str| {
            let ranges = Cidr::between(address(first), address(last));
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
    fn ranges_have_parts() {
        let (v4, v6) = (range("10.244.0.0/16"), range("2001:db8:42::/56"));
        assert_eq!((v4.parts(24), v6.parts(64), v4.parts(15), v6.parts(88)), (Some(256), Some(256), None, None));
        assert_eq!(v4.part(24, 3), Some(range("10.244.3.0/24")));
        assert_eq!(v6.part(64, 255), Some(range("2001:db8:42:ff::/64")));
        assert_eq!((v4.part(24, 256), range("::/0").part(0, 0)), (None, Some(range("::/0"))));
        assert_eq!(
            (v4.part_of(24, address("10.244.9.1")), v6.part_of(64, address("2001:db8:42:5::"))),
            (Some(9), Some(5))
        );
        assert_eq!((v4.part_of(24, address("10.245.0.0")), range("::/0").part_of(0, address("::1"))), (None, Some(0)));
    }

    #[test]
    fn addresses_before_ports_have_brackets() {
        assert_eq!(["10.0.0.1", "::1", "a.b"].map(bracketed), ["10.0.0.1", "[::1]", "a.b"]);
    }
}
