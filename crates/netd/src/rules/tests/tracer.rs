//! A packet's way through the rules, walked by hand: what the kernel would do with it.

use std::net::Ipv4Addr;

use super::super::*;
use crate::model::Transport;

/// The first packet of a connection, and where it is seen.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) transport: Transport,
    pub(super) port: u16,
    /// It was made on this machine.
    pub(super) is_own: bool,
    /// What random numbers come out as, before they are cut to size.
    pub(super) chance: u32,
    pub(super) marked: bool,
}

impl Packet {
    /// From text such as `10.244.0.2 > 10.96.0.1:443/tcp`; a source `host` is this machine.
    pub(super) fn parse(text: &str) -> Self {
        let (source, rest) = text.split_once(" > ").expect("source > destination");
        let (destination, transport) = rest.split_once('/').expect("a protocol");
        let (destination, port) = destination.split_once(':').expect("a port");
        let is_own = source == "host" || source.starts_with("127.");
        Self {
            source: if source == "host" { NODE_ADDRESS } else { source.parse().expect("an address") },
            destination: destination.parse().expect("an address"),
            transport: Transport::from_api(Some(&transport.to_uppercase())).expect("a protocol"),
            port: port.parse().expect("a port"),
            is_own,
            chance: 0,
            marked: false,
        }
    }
}

const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LOCAL_ADDRESSES: [Ipv4Addr; 4] =
    [NODE_ADDRESS, Ipv4Addr::new(10, 244, 0, 1), Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::LOCALHOST];

/// How a rule, a chain or a walk ends.
enum End {
    /// Nothing was decided.
    Open,
    Dropped,
    Refused,
    Translated,
    Accepted,
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    packet: Packet,
    leaves_by: &'static str,
    masqueraded: bool,
}

/// What becomes of the packet, in words.
pub(super) fn trace(ruleset: &Ruleset, packet: Packet) -> String {
    let mut walk = Walk { ruleset, packet, leaves_by: "", masqueraded: false };
    // The kernel translates before it filters; the priorities of the chains see to it.
    let first = if walk.packet.is_own { ["nat-output", "filter-output"] } else { ["guard", "nat-prerouting"] };
    for chain in first {
        match walk.chain(chain) {
            End::Dropped => return "dropped".into(),
            End::Refused => return "refused".into(),
            _ => {}
        }
    }
    let is_local = LOCAL_ADDRESSES.contains(&walk.packet.destination);
    if !walk.packet.is_own {
        match walk.chain(if is_local { "filter-input" } else { "filter-forward" }) {
            End::Dropped => return "dropped".into(),
            End::Refused => return "refused".into(),
            _ => {}
        }
    }
    let to_pod = walk.packet.destination.octets()[..3] == [10, 244, 0];
    walk.leaves_by = if to_pod { "skiff0" } else { "eth0" };
    if !is_local || walk.packet.is_own {
        walk.chain("nat-postrouting");
    }
    let masqueraded = if walk.masqueraded { " masqueraded" } else { "" };
    format!("to {}:{}{masqueraded}", walk.packet.destination, walk.packet.port)
}

impl Walk<'_> {
    fn rules(&self, name: &str) -> Vec<Rule> {
        let of_frame = self.ruleset.frame().chains().into_iter().find(|(known, ..)| *known == name);
        let own = || self.ruleset.fragments().find_map(|fragment| fragment.chains.get(name).cloned());
        let mut spreads = self.ruleset.fragments().flat_map(|fragment| &fragment.spreads);
        let common = || spreads.find(|spread| spread.chain() == name).map(|spread| spread.rules());
        of_frame.map(|(_, _, rules)| rules).or_else(own).or_else(common).unwrap_or_else(|| panic!("no chain {name}"))
    }

    fn element(&self, set: &str, key: &Key) -> Option<Value> {
        match Shared::ALL.into_iter().find(|shared| shared.name() == set) {
            Some(shared) => self.ruleset.shared(shared, key).cloned(),
            None => {
                let set = self.ruleset.fragments().find_map(|fragment| fragment.sets.get(set));
                set.expect("the set is there").elements.get(key).cloned()
            }
        }
    }

    fn chain(&mut self, name: &str) -> End {
        for rule in self.rules(name) {
            match self.rule(&rule) {
                None => {}
                Some(Ok(end)) => return end,
                // A goto leaves this chain for good.
                Some(Err(Verdict::Goto(chain))) => return self.chain(&chain),
                Some(Err(Verdict::Drop)) => return End::Dropped,
                Some(Err(Verdict::Accept)) => return End::Accepted,
                Some(Err(Verdict::Return)) => return End::Open,
                Some(Err(Verdict::Jump(chain))) => match self.chain(&chain) {
                    End::Open => {}
                    end => return end,
                },
            }
        }
        End::Open
    }

    /// `None` if the rule decides nothing, an end, or a verdict.
    fn rule(&mut self, rule: &Rule) -> Option<Result<End, Verdict>> {
        for statement in rule {
            match statement {
                Statement::Reject(_) => return Some(Ok(End::Refused)),
                Statement::Masquerade => {
                    self.masqueraded = true;
                    return Some(Ok(End::Translated));
                }
                Statement::Do(verdict) => return Some(Err(verdict.clone())),
                Statement::TranslateTo(endpoint) => return Some(Ok(self.translate(*endpoint))),
                Statement::Mark => self.packet.marked = true,
                Statement::Unmark => self.packet.marked = false,
                Statement::Remember(..) => {}
                Statement::Dispatch(..)
                | Statement::DispatchRandom(..)
                | Statement::Translate(..)
                | Statement::TranslateRandom(..) => match self.look_up(statement)? {
                    Value::Verdict(verdict) => return Some(Err(verdict)),
                    Value::Endpoint(endpoint) => return Some(Ok(self.translate(endpoint))),
                    Value::Nothing => panic!("a set is no map"),
                },
                condition => {
                    if !self.holds(condition) {
                        return None;
                    }
                }
            }
        }
        None
    }

    fn translate(&mut self, endpoint: Endpoint) -> End {
        (self.packet.destination, self.packet.port) = (endpoint.address, endpoint.port);
        End::Translated
    }

    fn key(&self, key: KeyType) -> Key {
        let Packet { source, destination, transport, port, .. } = self.packet;
        match key {
            KeyType::AddressPort => Key::AddressPort(destination, transport, port),
            KeyType::Port => Key::Port(transport, port),
            KeyType::Pair => Key::Pair(source, destination),
            KeyType::Source => Key::Address(source),
            KeyType::Destination => Key::Address(destination),
            KeyType::Number | KeyType::Numbered | KeyType::Member => panic!("no rule asks for such a key here"),
        }
    }

    fn at(&self, side: Side) -> Ipv4Addr {
        match side {
            Side::Source => self.packet.source,
            Side::Destination => self.packet.destination,
        }
    }

    fn look_up(&self, statement: &Statement) -> Option<Value> {
        match statement {
            Statement::Dispatch(key, map) | Statement::Translate(key, map) => self.element(map, &self.key(*key)),
            Statement::DispatchRandom(count, map) => self.element(map, &Key::Number(self.packet.chance % count)),
            Statement::TranslateRandom(draw, map) => {
                let Packet { destination, transport, port, chance, .. } = self.packet;
                let service = match draw.whose {
                    Whose::Packet => (destination, transport, port),
                    Whose::NodePort => (Ipv4Addr::UNSPECIFIED, transport, port),
                    Whose::Service(service) => service,
                };
                self.element(map, &Key::Numbered(service, draw.first + chance % draw.count))
            }
            _ => None,
        }
    }

    fn holds(&self, condition: &Statement) -> bool {
        let is_local = |address: Ipv4Addr| LOCAL_ADDRESSES.contains(&address);
        let as_said = |is: &Is, holds: bool| holds == (*is == Is::In);
        match condition {
            Statement::Source(is, range) => as_said(is, range.contains(self.packet.source.into())),
            Statement::Destination(is, range) => as_said(is, range.contains(self.packet.destination.into())),
            Statement::SourceLocal(is) => as_said(is, is_local(self.packet.source)),
            Statement::DestinationLocal(is) => as_said(is, is_local(self.packet.destination)),
            Statement::Protocol(is, transport) => as_said(is, *transport == self.packet.transport),
            Statement::NewConnection => true,
            Statement::KnownConnection => false,
            Statement::Port(first, last) => (*first..=*last).contains(&self.packet.port),
            Statement::Member(side, number, set) => self.element(set, &Key::Member(*number, self.at(*side))).is_some(),
            Statement::Within(side, set) => {
                let sets = self.ruleset.fragments().find_map(|fragment| fragment.sets.get(set));
                let ranges = sets.expect("the set is there").elements.keys();
                let address = self.at(*side);
                ranges.clone().any(|key| matches!(key, Key::Range(first, last) if (*first..=*last).contains(&address)))
            }
            Statement::NamedPort(number, set) => {
                let Packet { destination, transport, port, .. } = self.packet;
                self.element(set, &Key::Numbered((destination, transport, port), *number)).is_some()
            }
            Statement::From(interface) => {
                let from_pod = self.packet.source.octets()[..3] == [10, 244, 0] && !self.packet.is_own;
                interface == if from_pod { "skiff0" } else { "eth0" }
            }
            Statement::To(interface) => interface == self.leaves_by,
            Statement::Marked => self.packet.marked,
            // No client has been here before.
            Statement::In(KeyType::Source, _) => false,
            Statement::In(key, set) => self.element(set, &self.key(*key)).is_some(),
            other => panic!("not a condition: {other}"),
        }
    }
}
