//! The expressions that a rule consists of, as nf_tables takes them. Registers are of four bytes: an address takes one of
//! them, or four.

use std::time::Duration;

use skiff_base::Cidr;

use super::encode::{LIST_ELEMENT, milliseconds, put_verdict};
use super::language::{Draw, Is, KeyType, MASQUERADE_MARK, Refusal, Side, Statement, Whose};
use crate::family::{Family, octets, socket_number};
use crate::netlink::{Attributes, Nested};

const REGISTER_VERDICT: u32 = 0;
/// The first of sixteen registers of four bytes.
const REGISTER: u32 = 8;

const META_MARK: u32 = 3;
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_PROTOCOL: u32 = 16;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const INTERFACE_NAME_BYTES: usize = 16;
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATE_NEW: u32 = 8;

/// The number of ICMPv6 among the protocols, and of what neighbours say among its messages: solicitation, advertisement.
const ICMPV6: u8 = 58;
const NEIGHBOUR_MESSAGES: (u8, u8) = (135, 136);

/// The expressions of one rule, as they are put one after another.
pub(super) struct Expressions<'a, 'b> {
    pub(super) list: &'a mut Nested<'b>,
    pub(super) family: Family,
}

impl Expressions<'_, '_> {
    pub(super) fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Source(is, range) => self.in_range(Side::Source, *is, *range),
            Statement::Destination(is, range) => self.in_range(Side::Destination, *is, *range),
            Statement::SourceLocal(is) => self.local(FIB_SOURCE, *is),
            Statement::DestinationLocal(is) => self.local(FIB_DESTINATION, *is),
            Statement::NewConnection => self.connection(STATE_NEW),
            Statement::KnownConnection => self.connection(STATE_ESTABLISHED | STATE_RELATED),
            Statement::From(interface) => self.interface(META_INPUT_NAME, interface),
            Statement::To(interface) => self.interface(META_OUTPUT_NAME, interface),
            Statement::NeighbourDiscovery => {
                const TRANSPORT_HEADER: u32 = 2;
                self.meta(META_PROTOCOL, REGISTER);
                self.compare(Is::In, &[ICMPV6]);
                self.payload(REGISTER, TRANSPORT_HEADER, 0, 1);
                let (first, last) = NEIGHBOUR_MESSAGES;
                self.between(&[first], &[last]);
            }
            Statement::Protocol(is, transport) => {
                self.meta(META_PROTOCOL, REGISTER);
                self.compare(*is, &[transport.number()]);
            }
            Statement::Marked => {
                self.meta(META_MARK, REGISTER);
                self.bits(&MASQUERADE_MARK.to_ne_bytes(), &[0; 4]);
                self.compare(Is::NotIn, &[0; 4]);
            }
            Statement::In(key, set) => {
                self.key(*key);
                self.look_up(set, None);
            }
            Statement::Within(side, set) => {
                self.address(REGISTER, *side);
                self.look_up(set, None);
            }
            Statement::Member(side, number, set) => {
                self.load(REGISTER, &number.to_ne_bytes());
                self.address(REGISTER + 1, *side);
                self.look_up(set, None);
            }
            Statement::NamedPort(number, set) => {
                self.key(KeyType::AddressPort);
                self.load(self.behind_address() + 2, &number.to_ne_bytes());
                self.look_up(set, None);
            }
            Statement::Port(first, last) => self.port_in(*first, *last),
            Statement::Dispatch(key, map) => {
                self.key(*key);
                self.look_up(map, Some(REGISTER_VERDICT));
            }
            Statement::DispatchRandom(count, map) => {
                self.random(REGISTER, 0, *count);
                self.look_up(map, Some(REGISTER_VERDICT));
            }
            Statement::Translate(key, map) => {
                self.key(*key);
                self.look_up(map, Some(REGISTER));
                self.translate();
            }
            Statement::TranslateRandom(draw, map) => {
                self.draw(draw);
                self.look_up(map, Some(REGISTER));
                self.translate();
            }
            Statement::TranslateTo(endpoint) => {
                self.load(REGISTER, &octets(endpoint.address));
                self.load(self.behind_address(), &endpoint.port.to_be_bytes());
                self.translate();
            }
            Statement::Remember(set, timeout) => self.remember(set, *timeout),
            Statement::Mark => self.set_mark(MASQUERADE_MARK),
            Statement::Unmark => self.set_mark(0),
            Statement::Masquerade => {
                const FULLY_RANDOM: u32 = 1 << 4;
                self.put("masq", |data| {
                    data.put_be32(1, FULLY_RANDOM);
                });
            }
            Statement::Reject(refusal) => self.reject(*refusal),
            Statement::Do(verdict) => self.put("immediate", |data| {
                data.put_be32(1, REGISTER_VERDICT).nest(2, |inside| put_verdict(inside, verdict));
            }),
        }
    }

    fn put(&mut self, name: &str, fill: impl FnOnce(&mut Nested<'_>)) {
        self.list.nest(LIST_ELEMENT, |expression| {
            expression.put_text(1, name).nest(2, fill);
        });
    }

    fn payload(&mut self, register: u32, base: u32, offset: u32, length: u32) {
        self.put("payload", |data| {
            data.put_be32(1, register).put_be32(2, base).put_be32(3, offset).put_be32(4, length);
        });
    }

    /// The address at this end of the packet's way, from where the header has it.
    fn address(&mut self, register: u32, side: Side) {
        const NETWORK_HEADER: u32 = 1;
        let (source, bytes) = match self.family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        let offset = match side {
            Side::Source => source,
            Side::Destination => source + bytes,
        };
        self.payload(register, NETWORK_HEADER, offset, bytes);
    }

    /// The first register behind an address in the first ones.
    fn behind_address(&self) -> u32 {
        REGISTER + u32::from(self.family.bits()) / 32
    }

    fn port(&mut self, register: u32) {
        const TRANSPORT_HEADER: u32 = 2;
        self.payload(register, TRANSPORT_HEADER, 2, 2);
    }

    fn port_in(&mut self, first: u16, last: u16) {
        self.port(REGISTER);
        if first == last {
            return self.compare(Is::In, &first.to_be_bytes());
        }
        self.between(&first.to_be_bytes(), &last.to_be_bytes());
    }

    fn between(&mut self, first: &[u8], last: &[u8]) {
        self.put("range", |data| {
            data.put_be32(1, REGISTER).put_be32(2, 0);
            for (attribute, end) in [(3, first), (4, last)] {
                data.nest(attribute, |inside| {
                    inside.put(1, end);
                });
            }
        });
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.put("meta", |data| {
            data.put_be32(2, key).put_be32(1, register);
        });
    }

    fn compare(&mut self, is: Is, value: &[u8]) {
        let operator = if is == Is::In { 0 } else { 1 };
        self.put("cmp", |data| {
            data.put_be32(1, REGISTER).put_be32(2, operator).nest(3, |inside| {
                inside.put(1, value);
            });
        });
    }

    /// `register = (register & mask) ^ flip`.
    fn bits(&mut self, mask: &[u8], flip: &[u8]) {
        let length = u32::try_from(mask.len()).expect("no longer than an address");
        self.put("bitwise", |data| {
            data.put_be32(1, REGISTER).put_be32(2, REGISTER).put_be32(3, length);
            data.nest(4, |inside| {
                inside.put(1, mask);
            });
            data.nest(5, |inside| {
                inside.put(1, flip);
            });
        });
    }

    fn in_range(&mut self, side: Side, is: Is, range: Cidr) {
        self.address(REGISTER, side);
        if range.bits() < self.family.bits() {
            self.bits(&octets(range.mask()), &octets(self.family.unspecified()));
        }
        self.compare(is, &octets(range.base()));
    }

    fn local(&mut self, which: u32, is: Is) {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const RTN_LOCAL: u32 = 2;
        self.put("fib", |data| {
            data.put_be32(1, REGISTER).put_be32(2, RESULT_ADDRESS_TYPE).put_be32(3, which);
        });
        self.compare(is, &RTN_LOCAL.to_ne_bytes());
    }

    fn connection(&mut self, states: u32) {
        const KEY_STATE: u32 = 0;
        self.put("ct", |data| {
            data.put_be32(2, KEY_STATE).put_be32(1, REGISTER);
        });
        self.bits(&states.to_ne_bytes(), &[0; 4]);
        self.compare(Is::NotIn, &[0; 4]);
    }

    fn interface(&mut self, key: u32, name: &str) {
        let mut padded = [0; INTERFACE_NAME_BYTES];
        let length = name.len().min(INTERFACE_NAME_BYTES - 1);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.meta(key, REGISTER);
        self.compare(Is::In, &padded);
    }

    fn key(&mut self, key: KeyType) {
        match key {
            KeyType::AddressPort => {
                self.address(REGISTER, Side::Destination);
                self.protocol_and_port(self.behind_address());
            }
            KeyType::Port => self.protocol_and_port(REGISTER),
            KeyType::Pair => {
                self.address(REGISTER, Side::Source);
                self.address(self.behind_address(), Side::Destination);
            }
            KeyType::Source => self.address(REGISTER, Side::Source),
            KeyType::Destination => self.address(REGISTER, Side::Destination),
            KeyType::Member => self.address(REGISTER + 1, Side::Source),
            KeyType::Number => self.random(REGISTER, 0, u32::MAX),
            KeyType::Numbered => self.draw(&Draw { whose: Whose::Packet, first: 0, count: u32::MAX }),
        }
    }

    fn protocol_and_port(&mut self, register: u32) {
        self.meta(META_PROTOCOL, register);
        self.port(register + 1);
    }

    fn draw(&mut self, draw: &Draw) {
        let behind = self.behind_address();
        match draw.whose {
            Whose::Packet => self.key(KeyType::AddressPort),
            Whose::NodePort => {
                self.load(REGISTER, &octets(self.family.unspecified()));
                self.protocol_and_port(behind);
            }
            Whose::Service((address, transport, port)) => {
                self.load(REGISTER, &octets(address));
                self.load(behind, &[transport.number()]);
                self.load(behind + 1, &port.to_be_bytes());
            }
        }
        self.random(behind + 2, draw.first, draw.count);
    }

    fn random(&mut self, register: u32, first: u32, count: u32) {
        const RANDOM: u32 = 1;
        self.put("numgen", |data| {
            data.put_be32(1, register).put_be32(2, count).put_be32(3, RANDOM).put_be32(4, first);
        });
    }

    fn look_up(&mut self, set: &str, into: Option<u32>) {
        self.put("lookup", |data| {
            data.put_text(1, set).put_be32(2, REGISTER);
            if let Some(register) = into {
                data.put_be32(3, register);
            }
        });
    }

    fn load(&mut self, register: u32, value: &[u8]) {
        self.put("immediate", |data| {
            data.put_be32(1, register).nest(2, |inside| {
                inside.put(1, value);
            });
        });
    }

    /// To the address in the first registers and the port behind it.
    fn translate(&mut self) {
        const DESTINATION: u32 = 1;
        let (family, port) = (socket_number(self.family), self.behind_address());
        self.put("nat", |data| {
            data.put_be32(1, DESTINATION).put_be32(2, u32::from(family));
            data.put_be32(3, REGISTER).put_be32(5, port);
        });
    }

    fn remember(&mut self, set: &str, timeout: Duration) {
        const UPDATE: u32 = 1;
        self.key(KeyType::Source);
        self.put("dynset", |data| {
            data.put_text(1, set).put_be32(3, UPDATE).put_be32(4, REGISTER).put(6, &milliseconds(timeout));
        });
    }

    fn set_mark(&mut self, bit: u32) {
        self.meta(META_MARK, REGISTER);
        self.bits(&(!MASQUERADE_MARK).to_ne_bytes(), &bit.to_ne_bytes());
        self.put("meta", |data| {
            data.put_be32(2, META_MARK).put_be32(3, REGISTER);
        });
    }

    fn reject(&mut self, refusal: Refusal) {
        const ICMP: u32 = 0;
        const RESET: u32 = 1;
        const PORT_UNREACHABLE: u8 = 3;
        const PORT_UNREACHABLE_V6: u8 = 4;
        let (kind, code) = match (refusal, self.family) {
            (Refusal::PortUnreachable, Family::V4) => (ICMP, PORT_UNREACHABLE),
            (Refusal::PortUnreachable, Family::V6) => (ICMP, PORT_UNREACHABLE_V6),
            (Refusal::Reset, _) => (RESET, 0),
        };
        self.put("reject", |data| {
            data.put_be32(1, kind).put(2, &[code]);
        });
    }
}
