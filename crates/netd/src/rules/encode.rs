//! From a transaction to nf_tables netlink messages. Names and numbers are those of `linux/netfilter/nf_tables.h`;
//! every number in an attribute is in network byte order, register contents are as the packet has them.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::language::{
    Base, Draw, Endpoint, Hook, Is, Key, KeyType, MASQUERADE_MARK, Refusal, Rule, SetKind, Side, Statement, Value,
    ValueType, Verdict, Whose,
};
use super::ruleset::{Change, Transaction};
use crate::model::Transport;
use crate::netlink::{Attributes, Batch, Message, Nested};
use crate::prefix::Prefix;

/// The name of our table; nothing outside of it is ever touched.
pub const TABLE: &str = "skiff";

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_IPV4: u8 = 2;

/// The attribute that holds one of a list.
const LIST_ELEMENT: u16 = 1;
const SET_FLAG_INTERVAL: u32 = 4;
const SET_FLAG_MAP: u32 = 8;
const SET_FLAG_TIMEOUT: u32 = 0x10;
const SET_FLAG_EVAL: u32 = 0x20;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// How many elements go into one message: an attribute ends at 64 KiB, and an element with the longest
/// chain name takes less than 400 bytes.
const ELEMENTS_PER_MESSAGE: usize = 150;

/// Numbers by which `nft` knows the types, so that it can print what we made.
const TYPE_IPV4_ADDRESS: u32 = 7;
const TYPE_INET_PROTOCOL: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_BITS: u32 = 6;

const REGISTER_VERDICT: u32 = 0;
/// The first of sixteen registers of four bytes.
const REGISTER: u32 = 8;

/// Everything of the table, made anew in one step: between the old rules and the new ones no packet sees none.
pub(crate) fn recreation(creation: &Transaction) -> Batch {
    in_batch(|batch| {
        // Adding it first makes the deletion possible whether or not it was there.
        table(batch, NEW_TABLE);
        table(batch, DELETE_TABLE);
        table(batch, NEW_TABLE);
        put_changes(batch, creation.preparation());
        put_changes(batch, creation.changes());
    })
}

/// These changes alone.
pub(crate) fn update(changes: &[Change]) -> Batch {
    in_batch(|batch| put_changes(batch, changes))
}

/// Removes the table with all that is in it; no error if it is not there.
pub(crate) fn removal() -> Batch {
    in_batch(|batch| {
        table(batch, NEW_TABLE);
        table(batch, DELETE_TABLE);
    })
}

/// Asks whether the table is there.
pub(crate) fn presence() -> Batch {
    let mut batch = Batch::new();
    let kind = NFNL_SUBSYS_NFTABLES << 8 | GET_TABLE;
    batch
        .message("look up the table skiff", kind, NLM_F_REQUEST | NLM_F_ACK, &header(NFPROTO_IPV4, 0))
        .put_text(1, TABLE);
    batch
}

fn in_batch(fill: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::new();
    let frame = header(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES);
    drop(batch.message("begin the transaction", BATCH_BEGIN, NLM_F_REQUEST, &frame));
    fill(&mut batch);
    drop(batch.message("end the transaction", BATCH_END, NLM_F_REQUEST, &frame));
    batch
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn message<'a>(batch: &'a mut Batch, label: String, kind: u16, flags: u16) -> Message<'a> {
    batch.message(label, NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | flags, &header(NFPROTO_IPV4, 0))
}

fn table(batch: &mut Batch, kind: u16) {
    let (label, flags) = if kind == NEW_TABLE { ("make", NLM_F_CREATE) } else { ("delete", 0) };
    message(batch, format!("{label} the table {TABLE}"), kind, flags).put_text(1, TABLE);
}

fn put_changes(batch: &mut Batch, changes: &[Change]) {
    for change in changes {
        match change {
            Change::AddSet(name, kind) => add_set(batch, name, *kind),
            Change::AddChain(name, base) => add_chain(batch, name, *base),
            Change::Flush(name) => {
                message(batch, format!("empty the chain {name}"), DELETE_RULE, 0).put_text(1, TABLE).put_text(2, name);
            }
            Change::DeleteElements(set, keys) => {
                let elements: Vec<_> = keys.iter().map(|key| (key, &Value::Nothing)).collect();
                put_elements(batch, set, DELETE_ELEMENT, 0, &elements);
            }
            Change::AddElements(set, elements) => {
                let elements: Vec<_> = elements.iter().map(|(key, value)| (key, value)).collect();
                put_elements(batch, set, NEW_ELEMENT, NLM_F_CREATE, &elements);
            }
            Change::AddRules(chain, rules) => rules.iter().for_each(|rule| add_rule(batch, chain, rule)),
            Change::DeleteChain(name) => {
                message(batch, format!("delete the chain {name}"), DELETE_CHAIN, 0)
                    .put_text(1, TABLE)
                    .put_text(3, name);
            }
            Change::DeleteSet(name) => {
                message(batch, format!("delete the set {name}"), DELETE_SET, 0).put_text(1, TABLE).put_text(2, name);
            }
        }
    }
}

fn add_set(batch: &mut Batch, name: &str, kind: SetKind) {
    let mut flags = 0;
    if kind.value != ValueType::Nothing {
        flags |= SET_FLAG_MAP;
    }
    if kind.timeout.is_some() {
        flags |= SET_FLAG_TIMEOUT | SET_FLAG_EVAL;
    }
    if kind.has_ranges {
        flags |= SET_FLAG_INTERVAL;
    }
    let (key_type, key_bytes) = key_shape(kind.key);
    // Names are unique; the number is asked for, and needs to differ only within a batch.
    let id = u32::try_from(batch.len()).expect("a batch has far fewer than 2^32 messages");
    let mut set = message(batch, format!("make the set {name}"), NEW_SET, NLM_F_CREATE);
    set.put_text(1, TABLE).put_text(2, name).put_be32(3, flags).put_be32(4, key_type).put_be32(5, key_bytes);
    match kind.value {
        ValueType::Nothing => {}
        ValueType::Verdict => {
            set.put_be32(6, DATA_TYPE_VERDICT).put_be32(7, 0);
        }
        ValueType::Endpoint => {
            set.put_be32(6, TYPE_IPV4_ADDRESS << TYPE_BITS | TYPE_INET_SERVICE).put_be32(7, 8);
        }
    }
    set.put_be32(10, id);
    if let Some(timeout) = kind.timeout {
        set.put(11, &milliseconds(timeout));
    }
    if kind.key == KeyType::Number {
        set.put(13, &HOST_BYTE_ORDER);
    }
}

/// A note for `nft`, which would print numbers the wrong way round without it: type 0 (the keys' byte order),
/// four bytes, 1 (the machine's own).
const HOST_BYTE_ORDER: [u8; 6] =
    [0, 4, 1_u32.to_ne_bytes()[0], 1_u32.to_ne_bytes()[1], 1_u32.to_ne_bytes()[2], 1_u32.to_ne_bytes()[3]];

/// The type number for `nft`, and how many bytes of registers a key takes.
fn key_shape(key: KeyType) -> (u32, u32) {
    let concat = |types: &[u32]| types.iter().fold(0, |sum, each| sum << TYPE_BITS | each);
    match key {
        KeyType::AddressPort => (concat(&[TYPE_IPV4_ADDRESS, TYPE_INET_PROTOCOL, TYPE_INET_SERVICE]), 12),
        KeyType::Port => (concat(&[TYPE_INET_PROTOCOL, TYPE_INET_SERVICE]), 8),
        KeyType::Number => (TYPE_MARK, 4),
        KeyType::Numbered => (concat(&[TYPE_IPV4_ADDRESS, TYPE_INET_PROTOCOL, TYPE_INET_SERVICE, TYPE_MARK]), 16),
        KeyType::Pair => (concat(&[TYPE_IPV4_ADDRESS, TYPE_IPV4_ADDRESS]), 8),
        KeyType::Source | KeyType::Destination => (TYPE_IPV4_ADDRESS, 4),
        KeyType::Member => (concat(&[TYPE_MARK, TYPE_IPV4_ADDRESS]), 8),
    }
}

fn milliseconds(time: Duration) -> [u8; 8] {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).to_be_bytes()
}

fn add_chain(batch: &mut Batch, name: &str, base: Option<Base>) {
    let mut chain = message(batch, format!("make the chain {name}"), NEW_CHAIN, NLM_F_CREATE);
    chain.put_text(1, TABLE).put_text(3, name);
    let Some(base) = base else { return };
    let hook = match base.hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    };
    chain.nest(4, |inside| {
        inside.put_be32(1, hook).put(2, &base.priority.to_be_bytes());
    });
    chain.put_text(7, if base.translates { "nat" } else { "filter" });
}

fn put_elements(batch: &mut Batch, set: &str, kind: u16, flags: u16, elements: &[(&Key, &Value)]) {
    for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
        let mut list = message(batch, format!("change the elements of {set}"), kind, flags);
        list.put_text(1, TABLE).put_text(2, set).nest(3, |list| {
            for (key, value) in chunk {
                list.nest(LIST_ELEMENT, |element| put_element(element, key, value));
                if let Key::Range(_, last) = key {
                    put_end(list, *last);
                }
            }
        });
    }
}

fn put_element(element: &mut Nested<'_>, key: &Key, value: &Value) {
    put_key(element, &key_bytes(key));
    match value {
        Value::Nothing => {}
        Value::Verdict(verdict) => {
            element.nest(2, |data| put_verdict(data, verdict));
        }
        Value::Endpoint(endpoint) => {
            element.nest(2, |data| {
                data.put(1, &endpoint_bytes(*endpoint));
            });
        }
    }
}

fn put_key(element: &mut Nested<'_>, bytes: &[u8]) {
    element.nest(1, |data| {
        data.put(1, bytes);
    });
}

/// The end of a range is an element of its own, the first address behind it; a range up to the last address has none.
fn put_end(list: &mut Nested<'_>, last: Ipv4Addr) {
    const INTERVAL_END: u32 = 1;
    if let Some(behind) = u32::from(last).checked_add(1) {
        list.nest(LIST_ELEMENT, |element| {
            put_key(element, &behind.to_be_bytes());
            element.put_be32(3, INTERVAL_END);
        });
    }
}

fn key_bytes(key: &Key) -> Vec<u8> {
    match key {
        Key::AddressPort(address, transport, port) => [address.octets(), word(*transport), half(*port)].concat(),
        Key::Port(transport, port) => [word(*transport), half(*port)].concat(),
        Key::Number(number) => number.to_ne_bytes().to_vec(),
        Key::Numbered((address, transport, port), number) => {
            [address.octets(), word(*transport), half(*port), number.to_ne_bytes()].concat()
        }
        Key::Pair(source, destination) => [source.octets(), destination.octets()].concat(),
        Key::Address(address) | Key::Range(address, _) => address.octets().to_vec(),
        Key::Member(number, address) => [number.to_ne_bytes(), address.octets()].concat(),
    }
}

fn endpoint_bytes(endpoint: Endpoint) -> Vec<u8> {
    [endpoint.address.octets(), half(endpoint.port)].concat()
}

/// One byte, in a register.
fn word(transport: Transport) -> [u8; 4] {
    [transport.number(), 0, 0, 0]
}

/// Two bytes, in a register.
fn half(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn put_verdict(data: &mut Nested<'_>, verdict: &Verdict) {
    const DROP: i32 = 0;
    const ACCEPT: i32 = 1;
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    const RETURN: i32 = -5;
    let (code, chain) = match verdict {
        Verdict::Drop => (DROP, None),
        Verdict::Accept => (ACCEPT, None),
        Verdict::Return => (RETURN, None),
        Verdict::Jump(chain) => (JUMP, Some(chain)),
        Verdict::Goto(chain) => (GOTO, Some(chain)),
    };
    data.nest(2, |inside| {
        inside.put(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            inside.put_text(2, chain);
        }
    });
}

fn add_rule(batch: &mut Batch, chain: &str, rule: &Rule) {
    let mut message = message(batch, format!("add a rule to {chain}"), NEW_RULE, NLM_F_CREATE | NLM_F_APPEND);
    message.put_text(1, TABLE).put_text(2, chain).nest(4, |list| {
        let mut expressions = Expressions { list };
        rule.iter().for_each(|statement| expressions.statement(statement));
    });
}

/// The expressions of one rule, as they are put one after another.
struct Expressions<'a, 'b> {
    list: &'a mut Nested<'b>,
}

const OFFSET_SOURCE: u32 = 12;
const OFFSET_DESTINATION: u32 = 16;
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

fn offset(side: Side) -> u32 {
    match side {
        Side::Source => OFFSET_SOURCE,
        Side::Destination => OFFSET_DESTINATION,
    }
}

impl Expressions<'_, '_> {
    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Source(is, range) => self.in_range(OFFSET_SOURCE, *is, *range),
            Statement::Destination(is, range) => self.in_range(OFFSET_DESTINATION, *is, *range),
            Statement::SourceLocal(is) => self.local(FIB_SOURCE, *is),
            Statement::DestinationLocal(is) => self.local(FIB_DESTINATION, *is),
            Statement::NewConnection => self.connection(STATE_NEW),
            Statement::KnownConnection => self.connection(STATE_ESTABLISHED | STATE_RELATED),
            Statement::From(interface) => self.interface(META_INPUT_NAME, interface),
            Statement::To(interface) => self.interface(META_OUTPUT_NAME, interface),
            Statement::Protocol(is, transport) => {
                self.meta(META_PROTOCOL, REGISTER);
                self.compare(*is, &[transport.number()]);
            }
            Statement::Marked => {
                self.meta(META_MARK, REGISTER);
                self.bits(MASQUERADE_MARK.to_ne_bytes(), [0; 4]);
                self.compare(Is::NotIn, &[0; 4]);
            }
            Statement::In(key, set) => {
                self.key(*key);
                self.look_up(set, None);
            }
            Statement::Within(side, set) => {
                self.address(REGISTER, offset(*side));
                self.look_up(set, None);
            }
            Statement::Member(side, number, set) => {
                self.load(REGISTER, &number.to_ne_bytes());
                self.address(REGISTER + 1, offset(*side));
                self.look_up(set, None);
            }
            Statement::NamedPort(number, set) => {
                self.key(KeyType::AddressPort);
                self.load(REGISTER + 3, &number.to_ne_bytes());
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
                self.load(REGISTER, &endpoint.address.octets());
                self.load(REGISTER + 1, &endpoint.port.to_be_bytes());
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

    fn address(&mut self, register: u32, offset: u32) {
        const NETWORK_HEADER: u32 = 1;
        self.payload(register, NETWORK_HEADER, offset, 4);
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
        self.put("range", |data| {
            data.put_be32(1, REGISTER).put_be32(2, 0);
            for (attribute, port) in [(3, first), (4, last)] {
                data.nest(attribute, |inside| {
                    inside.put(1, &port.to_be_bytes());
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
    fn bits(&mut self, mask: [u8; 4], flip: [u8; 4]) {
        self.put("bitwise", |data| {
            data.put_be32(1, REGISTER).put_be32(2, REGISTER).put_be32(3, 4);
            data.nest(4, |inside| {
                inside.put(1, &mask);
            });
            data.nest(5, |inside| {
                inside.put(1, &flip);
            });
        });
    }

    fn in_range(&mut self, offset: u32, is: Is, range: Prefix) {
        self.address(REGISTER, offset);
        if range.bits() < 32 {
            self.bits(Ipv4Addr::octets(&range.mask()), [0; 4]);
        }
        self.compare(is, &range.octets());
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
        self.bits(states.to_ne_bytes(), [0; 4]);
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
                self.address(REGISTER, OFFSET_DESTINATION);
                self.meta(META_PROTOCOL, REGISTER + 1);
                self.port(REGISTER + 2);
            }
            KeyType::Port => {
                self.meta(META_PROTOCOL, REGISTER);
                self.port(REGISTER + 1);
            }
            KeyType::Pair => {
                self.address(REGISTER, OFFSET_SOURCE);
                self.address(REGISTER + 1, OFFSET_DESTINATION);
            }
            KeyType::Source => self.address(REGISTER, OFFSET_SOURCE),
            KeyType::Destination => self.address(REGISTER, OFFSET_DESTINATION),
            KeyType::Member => self.address(REGISTER + 1, OFFSET_SOURCE),
            KeyType::Number => self.random(REGISTER, 0, u32::MAX),
            KeyType::Numbered => self.draw(&Draw { whose: Whose::Packet, first: 0, count: u32::MAX }),
        }
    }

    fn draw(&mut self, draw: &Draw) {
        match draw.whose {
            Whose::Packet => self.key(KeyType::AddressPort),
            Whose::NodePort => {
                self.load(REGISTER, &Ipv4Addr::UNSPECIFIED.octets());
                self.meta(META_PROTOCOL, REGISTER + 1);
                self.port(REGISTER + 2);
            }
            Whose::Service((address, transport, port)) => {
                self.load(REGISTER, &address.octets());
                self.load(REGISTER + 1, &[transport.number()]);
                self.load(REGISTER + 2, &port.to_be_bytes());
            }
        }
        self.random(REGISTER + 3, draw.first, draw.count);
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

    /// To the address in the first register and the port in the second.
    fn translate(&mut self) {
        const DESTINATION: u32 = 1;
        self.put("nat", |data| {
            data.put_be32(1, DESTINATION).put_be32(2, u32::from(NFPROTO_IPV4));
            data.put_be32(3, REGISTER).put_be32(5, REGISTER + 1);
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
        self.bits((!MASQUERADE_MARK).to_ne_bytes(), bit.to_ne_bytes());
        self.put("meta", |data| {
            data.put_be32(2, META_MARK).put_be32(3, REGISTER);
        });
    }

    fn reject(&mut self, refusal: Refusal) {
        const ICMP: u32 = 0;
        const RESET: u32 = 1;
        const PORT_UNREACHABLE: u8 = 3;
        let (kind, code) = match refusal {
            Refusal::PortUnreachable => (ICMP, PORT_UNREACHABLE),
            Refusal::Reset => (RESET, 0),
        };
        self.put("reject", |data| {
            data.put_be32(1, kind).put(2, &[code]);
        });
    }
}
