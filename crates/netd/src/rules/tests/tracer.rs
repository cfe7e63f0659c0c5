//! A packet's way through the rules, walked by hand: what the kernel would do with it.

use std::net::IpAddr;

use super::super::*;
use super::said;
use super::six::four;
use crate::family::Family;
use crate::model::Transport;

/// The first packet of a connection, and where it is seen.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
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
        let (destination, port) = destination.rsplit_once(':').expect("a port");
        let destination: IpAddr = destination.trim_matches(['[', ']']).parse().expect("an address");
        let host = node_address(Family::of(destination));
        let source = if source == "host" { host } else { source.parse().expect("an address") };
        Self {
            source,
            destination,
            transport: Transport::from_api(Some(&transport.to_uppercase())).expect("a protocol"),
            port: port.parse().expect("a port"),
            is_own: source == host || source.is_loopback(),
            chance: 0,
            marked: false,
        }
    }
}

/// The node's address in its network.
fn node_address(family: Family) -> IpAddr {
    said(family, "192.0.2.2").parse().expect("an address")
}

/// Whether the node has the address: its own, the gateway's, the DNS's, the loopback address.
fn is_local(address: IpAddr) -> bool {
    let own = ["192.0.2.2", "10.244.0.1", "10.96.0.10", "127.0.0.1"];
    four(address).is_some_and(|address| own.contains(&address.to_string().as_str()))
}

/// Whether it is one of this node's pods.
pub(super) fn is_pod(address: IpAddr) -> bool {
    four(address).is_some_and(|address| address.octets()[..3] == [10, 244, 0])
}

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
    // A family may have nothing to do at some hook.
    let known: Vec<&str> = ruleset.frame().chains(ruleset.family()).into_iter().map(|(name, ..)| name).collect();
    for chain in first.into_iter().filter(|chain| known.contains(chain)) {
        match walk.chain(chain) {
            End::Dropped => return "dropped".into(),
            End::Refused => return "refused".into(),
            _ => {}
        }
    }
    let is_local = is_local(walk.packet.destination);
    if !walk.packet.is_own {
        match walk.chain(if is_local { "filter-input" } else { "filter-forward" }) {
            End::Dropped => return "dropped".into(),
            End::Refused => return "refused".into(),
            _ => {}
        }
    }
    walk.leaves_by = if is_pod(walk.packet.destination) { "skiff0" } else { "eth0" };
    if !is_local || walk.packet.is_own {
        walk.chain("nat-postrouting");
    }
    let masqueraded = if walk.masqueraded { " masqueraded" } else { "" };
    format!("to {}{masqueraded}", std::net::SocketAddr::new(walk.packet.destination, walk.packet.port))
}

impl Walk<'_> {
    fn rules(&self, name: &str) -> Vec<Rule> {
        let of_frame =
            self.ruleset.frame().chains(self.ruleset.family()).into_iter().find(|(known, ..)| *known == name);
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

    fn at(&self, side: Side) -> IpAddr {
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
                    Whose::NodePort => (Family::of(destination).unspecified(), transport, port),
                    Whose::Service(service) => service,
                };
                self.element(map, &Key::Numbered(service, draw.first + chance % draw.count))
            }
            _ => None,
        }
    }

    fn holds(&self, condition: &Statement) -> bool {
        let as_said = |is: &Is, holds: bool| holds == (*is == Is::In);
        match condition {
            Statement::Source(is, range) => as_said(is, range.contains(self.packet.source)),
            Statement::Destination(is, range) => as_said(is, range.contains(self.packet.destination)),
            Statement::SourceLocal(is) => as_said(is, is_local(self.packet.source)),
            Statement::DestinationLocal(is) => as_said(is, is_local(self.packet.destination)),
            Statement::Protocol(is, transport) => as_said(is, *transport == self.packet.transport),
            Statement::NewConnection => true,
            Statement::KnownConnection | Statement::NeighbourDiscovery => false,
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
                let from_pod = is_pod(self.packet.source) && !self.packet.is_own;
                interface == if from_pod { "skiff0" } else { "eth0" }
            }
            Statement::To(interface) => interface == self.leaves_by,
            Statement::Marked => self.packet.marked,
            // No client has been here before.
            Statement::In(KeyType::Source, _) => false,
            Statement::In(key, set) => self.element(set, &self.key(*key)).is_some(),
            other => panic!("not a condition: {other:?}"),
        }
    }
}
