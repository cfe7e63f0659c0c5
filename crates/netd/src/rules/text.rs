//! The rules as text, for people and golden tests, in the words of the family whose table they are in.

use super::language::{
    Draw, Endpoint, Is, KeyType, MASQUERADE_MARK, Refusal, Rule, SetKind, Side, Statement, ValueType, Whose,
};
use crate::family::Family;

/// The words of a family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words(pub(super) Family);

impl Words {
    /// What an address of the packet is called.
    fn ip(self) -> &'static str {
        match self.0 {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// The shape of a set or map.
    pub(super) fn kind(self, kind: SetKind) -> String {
        let address = match self.0 {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let key = match kind.key {
            KeyType::AddressPort => format!("{address} . inet_proto . inet_service"),
            KeyType::Port => "inet_proto . inet_service".into(),
            KeyType::Number => "mark".into(),
            KeyType::Numbered => format!("{address} . inet_proto . inet_service . mark"),
            KeyType::Pair => format!("{address} . {address}"),
            KeyType::Source | KeyType::Destination => address.into(),
            KeyType::Member => format!("mark . {address}"),
        };
        let value = match kind.value {
            ValueType::Nothing => String::new(),
            ValueType::Verdict => " : verdict".into(),
            ValueType::Endpoint => format!(" : {address} . inet_service"),
        };
        let ranges = if kind.has_ranges { "; flags interval" } else { "" };
        let timeout = kind.timeout.map(|timeout| format!("; flags dynamic,timeout; timeout {}s", timeout.as_secs()));
        format!("type {key}{value}{ranges}{}", timeout.unwrap_or_default())
    }

    /// A whole rule.
    pub(super) fn rule(self, rule: &Rule) -> String {
        let steps: Vec<String> = rule.iter().map(|step| self.statement(step)).collect();
        steps.join(" ")
    }

    /// The expression that makes a key of this type out of a packet.
    fn key(self, key: KeyType) -> String {
        let ip = self.ip();
        match key {
            KeyType::AddressPort => format!("{ip} daddr . meta l4proto . th dport"),
            KeyType::Port => "meta l4proto . th dport".into(),
            KeyType::Number => "numgen random".into(),
            KeyType::Numbered => format!("{ip} daddr . meta l4proto . th dport . numgen random"),
            KeyType::Pair => format!("{ip} saddr . {ip} daddr"),
            KeyType::Source => format!("{ip} saddr"),
            KeyType::Destination => format!("{ip} daddr"),
            KeyType::Member => format!("meta mark . {ip} saddr"),
        }
    }

    fn side(self, side: Side) -> String {
        self.key(if side == Side::Source { KeyType::Source } else { KeyType::Destination })
    }

    fn draw(self, draw: &Draw) -> String {
        let whose = match draw.whose {
            Whose::Packet => self.key(KeyType::AddressPort),
            Whose::NodePort => format!("{} . {}", self.0.unspecified(), self.key(KeyType::Port)),
            Whose::Service((address, transport, port)) => format!("{address} . {transport} . {port}"),
        };
        let offset = if draw.first > 0 { format!(" offset {:#x}", draw.first) } else { String::new() };
        format!("{whose} . numgen random mod {}{offset}", draw.count)
    }

    fn statement(self, statement: &Statement) -> String {
        let ip = self.ip();
        let is = |is: &Is| if *is == Is::In { "" } else { "!= " };
        match statement {
            Statement::Source(how, range) => format!("{ip} saddr {}{range}", is(how)),
            Statement::Destination(how, range) => format!("{ip} daddr {}{range}", is(how)),
            Statement::SourceLocal(how) => format!("fib saddr type {}local", is(how)),
            Statement::DestinationLocal(how) => format!("fib daddr type {}local", is(how)),
            Statement::NewConnection => "ct state new".into(),
            Statement::KnownConnection => "ct state established,related".into(),
            Statement::From(interface) => format!("iifname \"{interface}\""),
            Statement::To(interface) => format!("oifname \"{interface}\""),
            Statement::NeighbourDiscovery => "meta l4proto ipv6-icmp icmpv6 type 135-136".into(),
            Statement::Protocol(how, transport) => format!("meta l4proto {}{transport}", is(how)),
            Statement::Marked => format!("meta mark & {MASQUERADE_MARK:#x} != 0"),
            Statement::In(key, set) => format!("{} @{set}", self.key(*key)),
            Statement::Within(side, set) => format!("{} @{set}", self.side(*side)),
            Statement::Member(side, number, set) => format!("{number:#x} . {} @{set}", self.side(*side)),
            Statement::NamedPort(number, set) => format!("{} . {number:#x} @{set}", self.key(KeyType::AddressPort)),
            Statement::Port(first, last) if first == last => format!("th dport {first}"),
            Statement::Port(first, last) => format!("th dport {first}-{last}"),
            Statement::Dispatch(key, map) => format!("{} vmap @{map}", self.key(*key)),
            Statement::DispatchRandom(modulus, map) => format!("numgen random mod {modulus} vmap @{map}"),
            Statement::Translate(key, map) => format!("dnat to {} map @{map}", self.key(*key)),
            Statement::TranslateRandom(draw, map) => format!("dnat to {} map @{map}", self.draw(draw)),
            Statement::TranslateTo(Endpoint { address, port }) => {
                format!("dnat to {}", std::net::SocketAddr::new(*address, *port))
            }
            Statement::Remember(set, timeout) => {
                format!("update @{set} {{ {ip} saddr timeout {}s }}", timeout.as_secs())
            }
            Statement::Mark => format!("meta mark set meta mark | {MASQUERADE_MARK:#x}"),
            Statement::Unmark => format!("meta mark set meta mark & ~{MASQUERADE_MARK:#x}"),
            Statement::Masquerade => "masquerade fully-random".into(),
            Statement::Reject(Refusal::Reset) => "reject with tcp reset".into(),
            Statement::Reject(Refusal::PortUnreachable) => match self.0 {
                Family::V4 => "reject with icmp port-unreachable".into(),
                Family::V6 => "reject with icmpv6 port-unreachable".into(),
            },
            Statement::Do(verdict) => verdict.to_string(),
        }
    }
}
