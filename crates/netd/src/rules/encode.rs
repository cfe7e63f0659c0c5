//! From a transaction to nf_tables netlink messages; the expressions inside of rules are in [`super::expressions`]. Names and numbers are those of `linux/netfilter/nf_tables.h`;
//! every number in an attribute is in network byte order, register contents are as the packet has them.

use std::net::IpAddr;
use std::time::Duration;

use super::expressions::Expressions;
use super::language::{Base, Endpoint, Hook, Key, KeyType, Rule, SetKind, Value, ValueType, Verdict};
use super::ruleset::{Change, Transaction};
use crate::family::{Family, number, octets, socket_number};
use crate::model::Transport;
use crate::netlink::{Attributes, Batch, Message, Nested};

/// The name of our tables, one for each family; nothing outside of them is ever touched.
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

/// The attribute that holds one of a list.
pub(super) const LIST_ELEMENT: u16 = 1;
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
const TYPE_IPV6_ADDRESS: u32 = 8;
const TYPE_INET_PROTOCOL: u32 = 12;
const TYPE_INET_SERVICE: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_BITS: u32 = 6;

/// Everything of a family's table, made anew in one step: between the old rules and the new ones no packet sees none.
pub(crate) fn recreation(family: Family, creation: &Transaction) -> Batch {
    in_batch(family, |encoder| {
        // Adding it first makes the deletion possible whether or not it was there.
        encoder.table(NEW_TABLE);
        encoder.table(DELETE_TABLE);
        encoder.table(NEW_TABLE);
        encoder.put_changes(creation.preparation());
        encoder.put_changes(creation.changes());
    })
}

/// These changes alone.
pub(crate) fn update(family: Family, changes: &[Change]) -> Batch {
    in_batch(family, |encoder| encoder.put_changes(changes))
}

/// Removes the table with all that is in it; no error if it is not there.
pub(crate) fn removal(family: Family) -> Batch {
    in_batch(family, |encoder| {
        encoder.table(NEW_TABLE);
        encoder.table(DELETE_TABLE);
    })
}

/// Asks whether the table is there.
pub(crate) fn presence(family: Family) -> Batch {
    let mut batch = Batch::new();
    let kind = NFNL_SUBSYS_NFTABLES << 8 | GET_TABLE;
    batch
        .message("look up the table skiff", kind, NLM_F_REQUEST | NLM_F_ACK, &header(socket_number(family), 0))
        .put_text(1, TABLE);
    batch
}

fn in_batch(family: Family, fill: impl FnOnce(&mut Encoder)) -> Batch {
    let mut encoder = Encoder { family, batch: Batch::new() };
    let frame = header(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES);
    drop(encoder.batch.message("begin the transaction", BATCH_BEGIN, NLM_F_REQUEST, &frame));
    fill(&mut encoder);
    drop(encoder.batch.message("end the transaction", BATCH_END, NLM_F_REQUEST, &frame));
    encoder.batch
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// A batch of messages about one family's table, as they are put one after another.
struct Encoder {
    family: Family,
    batch: Batch,
}

impl Encoder {
    fn message(&mut self, label: String, kind: u16, flags: u16) -> Message<'_> {
        let header = header(socket_number(self.family), 0);
        self.batch.message(label, NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | flags, &header)
    }

    fn table(&mut self, kind: u16) {
        let (label, flags) = if kind == NEW_TABLE { ("make", NLM_F_CREATE) } else { ("delete", 0) };
        self.message(format!("{label} the table {TABLE}"), kind, flags).put_text(1, TABLE);
    }

    fn put_changes(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::AddSet(name, kind) => self.add_set(name, *kind),
                Change::AddChain(name, base) => self.add_chain(name, *base),
                Change::Flush(name) => {
                    self.message(format!("empty the chain {name}"), DELETE_RULE, 0)
                        .put_text(1, TABLE)
                        .put_text(2, name);
                }
                Change::DeleteElements(set, keys) => {
                    let elements: Vec<_> = keys.iter().map(|key| (key, &Value::Nothing)).collect();
                    self.put_elements(set, DELETE_ELEMENT, 0, &elements);
                }
                Change::AddElements(set, elements) => {
                    let elements: Vec<_> = elements.iter().map(|(key, value)| (key, value)).collect();
                    self.put_elements(set, NEW_ELEMENT, NLM_F_CREATE, &elements);
                }
                Change::AddRules(chain, rules) => rules.iter().for_each(|rule| self.add_rule(chain, rule)),
                Change::DeleteChain(name) => {
                    let label = format!("delete the chain {name}");
                    self.message(label, DELETE_CHAIN, 0).put_text(1, TABLE).put_text(3, name);
                }
                Change::DeleteSet(name) => {
                    self.message(format!("delete the set {name}"), DELETE_SET, 0).put_text(1, TABLE).put_text(2, name);
                }
            }
        }
    }

    fn add_set(&mut self, name: &str, kind: SetKind) {
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
        let (key_type, key_bytes) = shape(self.family, key_parts(kind.key));
        let (endpoint_type, endpoint_bytes) = shape(self.family, &[Part::Address, Part::Port]);
        // Names are unique; the number is asked for, and needs to differ only within a batch.
        let id = u32::try_from(self.batch.len()).expect("a batch has far fewer than 2^32 messages");
        let mut set = self.message(format!("make the set {name}"), NEW_SET, NLM_F_CREATE);
        set.put_text(1, TABLE).put_text(2, name).put_be32(3, flags).put_be32(4, key_type).put_be32(5, key_bytes);
        match kind.value {
            ValueType::Nothing => {}
            ValueType::Verdict => {
                set.put_be32(6, DATA_TYPE_VERDICT).put_be32(7, 0);
            }
            ValueType::Endpoint => {
                set.put_be32(6, endpoint_type).put_be32(7, endpoint_bytes);
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

    fn add_chain(&mut self, name: &str, base: Option<Base>) {
        let mut chain = self.message(format!("make the chain {name}"), NEW_CHAIN, NLM_F_CREATE);
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

    fn put_elements(&mut self, set: &str, kind: u16, flags: u16, elements: &[(&Key, &Value)]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut list = self.message(format!("change the elements of {set}"), kind, flags);
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

    fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let family = self.family;
        let mut message = self.message(format!("add a rule to {chain}"), NEW_RULE, NLM_F_CREATE | NLM_F_APPEND);
        message.put_text(1, TABLE).put_text(2, chain).nest(4, |list| {
            let mut expressions = Expressions { list, family };
            rule.iter().for_each(|statement| expressions.statement(statement));
        });
    }
}

/// What keys and values are made of.
#[derive(Debug, Clone, Copy)]
enum Part {
    Address,
    Protocol,
    Port,
    Number,
}

fn key_parts(key: KeyType) -> &'static [Part] {
    match key {
        KeyType::AddressPort => &[Part::Address, Part::Protocol, Part::Port],
        KeyType::Port => &[Part::Protocol, Part::Port],
        KeyType::Number => &[Part::Number],
        KeyType::Numbered => &[Part::Address, Part::Protocol, Part::Port, Part::Number],
        KeyType::Pair => &[Part::Address, Part::Address],
        KeyType::Source | KeyType::Destination => &[Part::Address],
        KeyType::Member => &[Part::Number, Part::Address],
    }
}

/// The type number for `nft`, and how many bytes of registers such a key or value takes.
fn shape(family: Family, parts: &[Part]) -> (u32, u32) {
    let of = |part: &Part| match (part, family) {
        (Part::Address, Family::V4) => (TYPE_IPV4_ADDRESS, 4),
        (Part::Address, Family::V6) => (TYPE_IPV6_ADDRESS, 16),
        (Part::Protocol, _) => (TYPE_INET_PROTOCOL, 4),
        (Part::Port, _) => (TYPE_INET_SERVICE, 4),
        (Part::Number, _) => (TYPE_MARK, 4),
    };
    parts.iter().map(of).fold((0, 0), |(types, sum), (each, bytes)| (types << TYPE_BITS | each, sum + bytes))
}

/// A note for `nft`, which would print numbers the wrong way round without it: type 0 (the keys' byte order),
/// four bytes, 1 (the machine's own).
const HOST_BYTE_ORDER: [u8; 6] =
    [0, 4, 1_u32.to_ne_bytes()[0], 1_u32.to_ne_bytes()[1], 1_u32.to_ne_bytes()[2], 1_u32.to_ne_bytes()[3]];

pub(super) fn milliseconds(time: Duration) -> [u8; 8] {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).to_be_bytes()
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
fn put_end(list: &mut Nested<'_>, last: IpAddr) {
    const INTERVAL_END: u32 = 1;
    let family = Family::of(last);
    if number(last) < family.last_number() {
        list.nest(LIST_ELEMENT, |element| {
            put_key(element, &octets(family.address(number(last) + 1)));
            element.put_be32(3, INTERVAL_END);
        });
    }
}

fn key_bytes(key: &Key) -> Vec<u8> {
    let address = |address: &IpAddr| octets(*address);
    match key {
        Key::AddressPort(at, transport, port) => [&*address(at), &word(*transport), &half(*port)].concat(),
        Key::Port(transport, port) => [word(*transport), half(*port)].concat(),
        Key::Number(number) => number.to_ne_bytes().to_vec(),
        Key::Numbered((at, transport, port), number) => {
            [&*address(at), &word(*transport), &half(*port), &number.to_ne_bytes()].concat()
        }
        Key::Pair(source, destination) => [&*address(source), &*address(destination)].concat(),
        Key::Address(at) | Key::Range(at, _) => address(at).to_vec(),
        Key::Member(number, at) => [&number.to_ne_bytes()[..], &*address(at)].concat(),
    }
}

fn endpoint_bytes(endpoint: Endpoint) -> Vec<u8> {
    [&*octets(endpoint.address), &half(endpoint.port)].concat()
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

pub(super) fn put_verdict(data: &mut Nested<'_>, verdict: &Verdict) {
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
