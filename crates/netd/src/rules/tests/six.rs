//! IPv4 said in IPv6: what holds of a text in one family has to hold of its translation in the other, so that tests are
//! written once. An address is the last four bytes of its translation; the addresses that mean something of themselves
//! stay what they mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Family;

/// The first bits of every translation.
const BASE: u128 = 0xfd00 << 112;
const BASE_BITS: u8 = 96;

/// A text that is written in IPv4, as the family says it.
pub(crate) fn said(family: Family, text: &str) -> String {
    match family {
        Family::V4 => text.to_owned(),
        Family::V6 => translated(text),
    }
}

/// The address that this one is a translation of, if it is one.
pub(super) fn four(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) => {
            let is_one = address.to_bits() >> 32 == BASE >> 32;
            is_one.then(|| Ipv4Addr::from_bits((address.to_bits() & u128::from(u32::MAX)) as u32))
        }
    }
}

fn six(address: Ipv4Addr) -> Ipv6Addr {
    match address {
        Ipv4Addr::UNSPECIFIED => Ipv6Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST => Ipv6Addr::LOCALHOST,
        other => Ipv6Addr::from_bits(BASE | u128::from(other.to_bits())),
    }
}

fn translated(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(from.len());
        let (word, behind) = from.split_at(end);
        result += before;
        rest = behind;
        let Ok(address) = word.parse::<Ipv4Addr>() else {
            result += word;
            continue;
        };
        let address = six(address);
        let bits = behind.strip_prefix('/').map(|bits| bits.split(|c: char| !c.is_ascii_digit()).next().unwrap_or(""));
        if let Some(bits) = bits.and_then(|bits| bits.parse::<u8>().ok()) {
            let six_bits = if bits == 0 { 0 } else { bits + BASE_BITS };
            result += &format!("{address}/{six_bits}");
            rest = &behind[1 + bits.to_string().len()..];
        } else if behind.starts_with(':') && behind[1..].starts_with(|c: char| c.is_ascii_digit()) {
            result += &format!("[{address}]");
        } else {
            result += &address.to_string();
        }
    }
    result += rest;
    result.replace("addressType: IPv4", "addressType: IPv6")
}

#[test]
fn texts_are_said_in_the_other_family() {
    for (four, six) in [
        ("10.244.0.5 > 10.96.1.1:80/tcp", "fd00::af4:5 > [fd00::a60:101]:80/tcp"),
        ("cidr: 198.51.100.64/26, node-1 s2", "cidr: fd00::c633:6440/122, node-1 s2"),
        ("tcp 0.0.0.0 8080 80 or 0.0.0.0/0", "tcp :: 8080 80 or ::/0"),
        ("[192.0.2.7]\nport: 80", "[fd00::c000:207]\nport: 80"),
    ] {
        assert_eq!((said(Family::V4, four), said(Family::V6, four)), (four.to_owned(), six.to_owned()));
    }
}
