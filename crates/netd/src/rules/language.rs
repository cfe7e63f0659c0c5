//! The small part of nftables' language that our rules are written in. It is the same for both families of addresses:
//! of which one a table is, its rules do not say. Its text form is in [`super::text`], what the words mean to the kernel
//! in [`super::encode`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use skiff_base::Cidr;

use crate::model::Transport;

/// The bit of a packet's mark that says: masquerade me on the way out. The same bit as upstream's.
pub const MASQUERADE_MARK: u32 = 0x4000;

/// Where a packet is sent in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// Where a base chain sits on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// On arrival.
    Prerouting,
    /// To this machine.
    Input,
    /// Through this machine.
    Forward,
    /// From this machine.
    Output,
    /// On departure.
    Postrouting,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Where it sits.
    pub hook: Hook,
    /// Whether it translates addresses; otherwise it filters.
    pub translates: bool,
    /// Its place among others at the same hook.
    pub priority: i32,
}

/// What endpoints are numbered under: an address that leads to them (the unspecified one for a port of the node),
/// protocol and port.
pub type ServiceId = (IpAddr, Transport, u16);

/// Under which [`ServiceId`] a rule finds its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// What the packet is addressed to.
    Packet,
    /// The node's port that the packet is addressed to.
    NodePort,
    /// This one, whatever the packet says.
    Service(ServiceId),
}

/// A choice by chance among the endpoints of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Whose.
    pub whose: Whose,
    /// The lowest number.
    pub first: u32,
    /// How many numbers there are.
    pub count: u32,
}

/// What the keys of a set or map are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyType {
    /// Destination address, protocol and port.
    AddressPort,
    /// Protocol and destination port.
    Port,
    /// A random number.
    Number,
    /// A Service's address, protocol and port, and a random number.
    Numbered,
    /// Source and destination address.
    Pair,
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// The number of a group of pods, and an address.
    Member,
}

/// The end of a packet's way that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A key of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Of [`KeyType::AddressPort`].
    AddressPort(IpAddr, Transport, u16),
    /// Of [`KeyType::Port`].
    Port(Transport, u16),
    /// Of [`KeyType::Number`].
    Number(u32),
    /// Of [`KeyType::Numbered`].
    Numbered(ServiceId, u32),
    /// Of [`KeyType::Pair`].
    Pair(IpAddr, IpAddr),
    /// Of [`KeyType::Source`] and [`KeyType::Destination`].
    Address(IpAddr),
    /// Of [`KeyType::Source`], in a set of ranges: the first and the last address.
    Range(IpAddr, IpAddr),
    /// Of [`KeyType::Member`].
    Member(u32, IpAddr),
}

/// What a map gives for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// Nothing: it is a set.
    Nothing,
    /// What is done with the packet.
    Verdict,
    /// Where it is sent.
    Endpoint,
}

/// A value in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`ValueType::Nothing`].
    Nothing,
    /// Of [`ValueType::Verdict`].
    Verdict(Verdict),
    /// Of [`ValueType::Endpoint`].
    Endpoint(Endpoint),
}

/// What is done with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on in that chain, and does not come back.
    Goto(String),
    /// It goes on in that chain, and comes back.
    Jump(String),
    /// It vanishes.
    Drop,
    /// It may pass: no further rule at this place looks at it.
    Accept,
    /// It goes on where the jump to this chain was made.
    Return,
}

/// The shape of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetKind {
    /// What is looked up.
    pub key: KeyType,
    /// What is found.
    pub value: ValueType,
    /// Packets add elements, which are forgotten when unused for so long.
    pub timeout: Option<Duration>,
    /// Its elements are ranges.
    pub has_ranges: bool,
}

impl SetKind {
    /// A set of addresses that is given as ranges.
    pub const RANGES: Self = Self { has_ranges: true, ..Self::fixed(KeyType::Source, ValueType::Nothing) };

    /// A map whose elements only we write.
    pub const fn fixed(key: KeyType, value: ValueType) -> Self {
        Self { key, value, timeout: None, has_ranges: false }
    }
}

/// A set or map with what we put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its shape.
    pub kind: SetKind,
    /// Its elements; always empty where packets add them.
    pub elements: BTreeMap<Key, Value>,
}

/// One step of a rule: a condition or an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// The source lies in the range (or does not).
    Source(Is, Cidr),
    /// The destination lies in the range (or does not).
    Destination(Is, Cidr),
    /// The source is (not) an address of this machine.
    SourceLocal(Is),
    /// The destination is (not) an address of this machine.
    DestinationLocal(Is),
    /// The packet begins a connection.
    NewConnection,
    /// The packet belongs to a connection that has had an answer, or tells of such a one.
    KnownConnection,
    /// The packet came in by this interface.
    From(String),
    /// The packet leaves by this interface.
    To(String),
    /// It is how neighbours on a link find each other, which is ICMP in IPv6.
    NeighbourDiscovery,
    /// It is of this protocol (or is not).
    Protocol(Is, Transport),
    /// The mark for masquerading is set.
    Marked,
    /// Its key is in this set.
    In(KeyType, String),
    /// The address at this end is in this set of ranges.
    Within(Side, String),
    /// The address at this end, under this number, is in this set.
    Member(Side, u32, String),
    /// Destination, protocol and port, under this number, are in this set.
    NamedPort(u32, String),
    /// The destination port is one of those from the first to the last.
    Port(u16, u16),
    /// What this map says about its key is done with it.
    Dispatch(KeyType, String),
    /// One of so many chains of this map, by chance.
    DispatchRandom(u32, String),
    /// It is sent where this map says for its key.
    Translate(KeyType, String),
    /// It is sent to one of the Service's endpoints in this map, by chance.
    TranslateRandom(Draw, String),
    /// It is sent there.
    TranslateTo(Endpoint),
    /// Its source is remembered in this set.
    Remember(String, Duration),
    /// It will be masqueraded.
    Mark,
    /// The mark is taken off.
    Unmark,
    /// It leaves with the address of the interface that it leaves by.
    Masquerade,
    /// It is refused: TCP by a reset, the rest by an ICMP message.
    Reject(Refusal),
    /// This is done with it.
    Do(Verdict),
}

/// Whether a condition is meant or its opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// It holds.
    In,
    /// It does not hold.
    NotIn,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// By a TCP reset.
    Reset,
    /// By the ICMP message "port unreachable".
    PortUnreachable,
}

/// A rule: its steps, of which the first condition that fails ends it.
pub type Rule = Vec<Statement>;

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {}", self.address, self.port)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.translates { "nat" } else { "filter" };
        write!(f, "type {kind} hook {} priority {};", self.hook, self.priority)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressPort(address, transport, port) => write!(f, "{address} . {transport} . {port}"),
            Self::Port(transport, port) => write!(f, "{transport} . {port}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Numbered((address, transport, port), number) => {
                write!(f, "{address} . {transport} . {port} . {number:#x}")
            }
            Self::Pair(source, destination) => write!(f, "{source} . {destination}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Member(number, address) => write!(f, "{number:#x} . {address}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Verdict(verdict) => write!(f, " : {verdict}"),
            Self::Endpoint(endpoint) => write!(f, " : {endpoint}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Drop => f.write_str("drop"),
            Self::Accept => f.write_str("accept"),
            Self::Return => f.write_str("return"),
        }
    }
}
