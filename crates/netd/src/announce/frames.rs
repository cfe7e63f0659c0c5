//! What tells a network where an address is: an ARP announcement (RFC 5227, section 2.3) or an unsolicited neighbour
//! advertisement (RFC 4861, section 7.2.6), as whole Ethernet frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pods::link::Mac;

const EVERYONE: Mac = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u16 = 1;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// It comes from a router, and takes the place of what was known.
const ROUTER_AND_OVERRIDE: u8 = 0xa0;
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
/// Anything less came through a router, and is dropped.
const HOP_LIMIT: u8 = 255;

/// The frame that says that this hardware address has an address.
pub(super) fn announcement(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(address, mac),
        IpAddr::V6(address) => advertisement(address, mac),
    }
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes()[..]].concat()
}

fn arp(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet(EVERYONE, mac, ETHERTYPE_ARP);
    frame.extend(ARP_ETHERNET_IPV4);
    frame.extend(ARP_REQUEST.to_be_bytes());
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

fn advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, ROUTER_AND_OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend(TARGET_LINK_LAYER_ADDRESS);
    message.extend(mac);
    let length = u16::try_from(message.len()).unwrap_or_default();
    let pseudo =
        [&address.octets()[..], &ALL_NODES.octets(), &[0, 0], &length.to_be_bytes(), &[0, 0, 0, ICMPV6]].concat();
    let sum = checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn an_arp_announcement_asks_for_its_own_address() {
        let frame = announcement("192.0.2.9".parse().expect("an address"), MAC);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6]);
        assert_eq!(frame[20..22], [0, 1]);
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 9, 192, 0, 2, 9]);
        assert_eq!(frame[32..], [0, 0, 0, 0, 0, 0, 192, 0, 2, 9]);
    }

    #[test]
    fn a_neighbour_advertisement_adds_up() {
        let frame = announcement("2001:db8::9".parse().expect("an address"), MAC);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        assert_eq!((frame[20], frame[21], frame[54]), (ICMPV6, 255, 136));
        // With the checksum in its place, all of it adds up to nothing.
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, ICMPV6], &frame[54..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
