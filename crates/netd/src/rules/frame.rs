//! The part of the rules that does not depend on any Service: where packets are caught, and the maps that all owners share.

use std::net::{IpAddr, Ipv6Addr};

use skiff_base::{Cidr, Family};

use super::language::{Base, Draw, Hook, Is, KeyType, Refusal, Rule, SetKind, Statement, ValueType, Verdict, Whose};
use crate::model::Transport;

/// The chain that refuses what reaches it.
pub const REJECT_CHAIN: &str = "reject";
const SERVICES_CHAIN: &str = "services";
const REFUSALS_CHAIN: &str = "refusals";

/// Before connections are tracked.
const PRIORITY_RAW: i32 = -300;
/// After addresses are translated: what still bears a Service's address by then has nobody to go to.
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_DESTINATION: i32 = -100;
const PRIORITY_SOURCE: i32 = 100;

/// The maps that all owners share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shared {
    /// Addresses and ports that lead to a chain.
    ServiceAddresses,
    /// Ports of the node that lead to a chain.
    NodePorts,
    /// Addresses and ports behind which there is nobody.
    EmptyAddresses,
    /// Ports of the node behind which there is nobody.
    EmptyNodePorts,
    /// The endpoints of all Services, numbered.
    Endpoints,
    /// Pods that may meet themselves through a Service.
    Hairpins,
    /// Host ports on one address.
    HostPortsAt,
    /// Host ports on all addresses.
    HostPorts,
    /// Pods whose network policies say what they may send.
    EgressPods,
    /// Pods whose network policies say what they may be sent.
    IngressPods,
    /// The pods that policies name, by the number of what they are named by.
    Peers,
    /// The ports of pods that policies name.
    NamedPorts,
}

impl Shared {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ServiceAddresses,
        Self::NodePorts,
        Self::EmptyAddresses,
        Self::EmptyNodePorts,
        Self::Endpoints,
        Self::Hairpins,
        Self::HostPortsAt,
        Self::HostPorts,
        Self::EgressPods,
        Self::IngressPods,
        Self::Peers,
        Self::NamedPorts,
    ];

    /// Its name in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceAddresses => "service-addresses",
            Self::NodePorts => "node-ports",
            Self::EmptyAddresses => "empty-addresses",
            Self::EmptyNodePorts => "empty-node-ports",
            Self::Endpoints => "endpoints",
            Self::Hairpins => "hairpins",
            Self::HostPortsAt => "host-ports-at",
            Self::HostPorts => "host-ports",
            Self::EgressPods => "egress-pods",
            Self::IngressPods => "ingress-pods",
            Self::Peers => "peers",
            Self::NamedPorts => "named-ports",
        }
    }

    /// Its shape.
    pub fn kind(self) -> SetKind {
        match self {
            Self::ServiceAddresses | Self::EmptyAddresses => SetKind::fixed(KeyType::AddressPort, ValueType::Verdict),
            Self::NodePorts | Self::EmptyNodePorts => SetKind::fixed(KeyType::Port, ValueType::Verdict),
            Self::Endpoints => SetKind::fixed(KeyType::Numbered, ValueType::Endpoint),
            Self::Hairpins => SetKind::fixed(KeyType::Pair, ValueType::Nothing),
            Self::HostPortsAt => SetKind::fixed(KeyType::AddressPort, ValueType::Endpoint),
            Self::HostPorts => SetKind::fixed(KeyType::Port, ValueType::Endpoint),
            Self::EgressPods => SetKind::fixed(KeyType::Source, ValueType::Verdict),
            Self::IngressPods => SetKind::fixed(KeyType::Destination, ValueType::Verdict),
            Self::Peers => SetKind::fixed(KeyType::Member, ValueType::Nothing),
            Self::NamedPorts => SetKind::fixed(KeyType::Numbered, ValueType::Nothing),
        }
    }
}

/// What the rules must know of the node. The ranges may be of both families; those that come first are of the one that
/// is meant where one will do.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The bridge that the pods are on.
    pub bridge: String,
    /// The pod ranges of the whole cluster.
    pub pod_ranges: Vec<Cidr>,
    /// The Service ranges.
    pub service_ranges: Vec<Cidr>,
    /// The ranges that load balancer addresses are taken from.
    pub balancer_ranges: Vec<Cidr>,
}

impl Frame {
    /// The families that there are rules for, the first one first.
    pub fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> = Vec::new();
        for range in self.pod_ranges.iter().chain(&self.service_ranges) {
            if !families.contains(&range.family()) {
                families.push(range.family());
            }
        }
        families
    }

    /// The fixed chains of a family with their rules.
    pub fn chains(&self, family: Family) -> Vec<(&'static str, Option<Base>, Vec<Rule>)> {
        use Hook::{Forward, Input, Output, Postrouting, Prerouting};
        let filter = |hook, priority| Some(Base { hook, translates: false, priority });
        let translate = |hook, priority| Some(Base { hook, translates: true, priority });
        let refuse = || vec![vec![Statement::NewConnection, Statement::Do(Verdict::Jump(REFUSALS_CHAIN.into()))]];
        let redirect = || vec![vec![Statement::Do(Verdict::Jump(SERVICES_CHAIN.into()))]];
        let of_family = FamilyFrame { frame: self, family };
        let mut chains = vec![
            ("guard", filter(Prerouting, PRIORITY_RAW), of_family.guard()),
            ("filter-input", filter(Input, PRIORITY_FILTER), refuse()),
            ("filter-forward", filter(Forward, PRIORITY_FILTER), of_family.forwarded(refuse())),
            ("filter-output", filter(Output, PRIORITY_FILTER), refuse()),
            ("nat-prerouting", translate(Prerouting, PRIORITY_DESTINATION), redirect()),
            ("nat-output", translate(Output, PRIORITY_DESTINATION), redirect()),
            ("nat-postrouting", translate(Postrouting, PRIORITY_SOURCE), of_family.departures()),
            (SERVICES_CHAIN, None, of_family.services()),
            (REFUSALS_CHAIN, None, of_family.refusals()),
            (REJECT_CHAIN, None, reject()),
        ];
        // A hook without rules would only cost each packet the way to it.
        chains.retain(|(_, base, rules)| base.is_none() || !rules.is_empty());
        chains
    }
}

/// The frame as one family sees it.
struct FamilyFrame<'a> {
    frame: &'a Frame,
    family: Family,
}

const LOOPBACK: &str = "127.0.0.0/8";

impl FamilyFrame<'_> {
    fn only<'a>(&self, ranges: &'a [Cidr]) -> impl Iterator<Item = Cidr> + Clone + use<'a> {
        let family = self.family;
        ranges.iter().copied().filter(move |range| range.family() == family)
    }

    fn pods(&self) -> impl Iterator<Item = Cidr> + Clone {
        self.only(&self.frame.pod_ranges)
    }

    fn service_ranges(&self) -> impl Iterator<Item = Cidr> + Clone {
        self.only(&self.frame.service_ranges)
    }

    fn multicast(&self) -> Cidr {
        range(match self.family {
            Family::V4 => "224.0.0.0/4",
            Family::V6 => "ff00::/8",
        })
    }

    /// The loopback addresses on which node ports answer. A kernel routes no packet from `::1` to anywhere else.
    fn open_loopback(&self) -> Option<Cidr> {
        (self.family == Family::V4).then(|| range(LOOPBACK))
    }

    /// NodePorts answer on 127.0.0.1 because the bridge may route that address; pods themselves must not reach it.
    fn guard(&self) -> Vec<Rule> {
        let keep_away = |loopback| {
            vec![
                Statement::From(self.frame.bridge.clone()),
                Statement::Destination(Is::In, loopback),
                Statement::Do(Verdict::Drop),
            ]
        };
        self.open_loopback().map(keep_away).into_iter().collect()
    }

    /// With this statement last: for what is addressed to the node. An address of the Service range that it has itself,
    /// the DNS's, has no node ports, and neither has the loopback address of IPv6.
    fn to_node(&self, last: Statement) -> Rule {
        let closed = (self.family == Family::V6).then(|| Cidr::host(IpAddr::from(Ipv6Addr::LOCALHOST)));
        let other = self.service_ranges().chain(closed).map(|range| Statement::Destination(Is::NotIn, range));
        other.chain([Statement::DestinationLocal(Is::In), last]).collect()
    }

    fn services(&self) -> Vec<Rule> {
        let from_outside = |service: Cidr| {
            let pods = self.pods().map(|pods| Statement::Source(Is::NotIn, pods));
            std::iter::once(Statement::Destination(Is::In, service)).chain(pods).chain([Statement::Mark]).collect()
        };
        let mut rules: Vec<Rule> = self.service_ranges().map(from_outside).collect();
        rules.extend([
            vec![Statement::Dispatch(KeyType::AddressPort, Shared::ServiceAddresses.name().into())],
            self.to_node(Statement::Dispatch(KeyType::Port, Shared::NodePorts.name().into())),
            vec![Statement::Translate(KeyType::AddressPort, Shared::HostPortsAt.name().into())],
            self.to_node(Statement::Translate(KeyType::Port, Shared::HostPorts.name().into())),
        ]);
        rules
    }

    fn refusals(&self) -> Vec<Rule> {
        let nobody_in = |range| {
            let refuse = Statement::Do(Verdict::Goto(REJECT_CHAIN.into()));
            vec![Statement::Destination(Is::In, range), Statement::DestinationLocal(Is::NotIn), refuse]
        };
        let empty = || Statement::Dispatch(KeyType::AddressPort, Shared::EmptyAddresses.name().into());
        let elsewhere = self.service_ranges().map(|range| Statement::Destination(Is::NotIn, range));
        let mut rules: Vec<Rule> = vec![elsewhere.chain([empty()]).collect()];
        // Who listens on an address of the Service range on this very node, as the DNS does, needs no endpoint.
        rules.extend(
            self.service_ranges().map(|range| {
                vec![Statement::Destination(Is::In, range), Statement::DestinationLocal(Is::NotIn), empty()]
            }),
        );
        rules.push(self.to_node(Statement::Dispatch(KeyType::Port, Shared::EmptyNodePorts.name().into())));
        rules.extend(self.service_ranges().chain(self.only(&self.frame.balancer_ranges)).map(nobody_in));
        rules
    }

    /// What passes through the node, by addresses as they are after translation: so policies see the pods behind a
    /// Service. What the node itself says to its pods, and they to it, does not pass here and is free, as upstream
    /// documents it.
    fn forwarded(&self, refuse: Vec<Rule>) -> Vec<Rule> {
        let dispatch = |key, map: Shared| vec![Statement::Dispatch(key, map.name().into())];
        let accept = || Statement::Do(Verdict::Accept);
        let mut rules = vec![vec![Statement::KnownConnection, accept()]];
        rules.extend(refuse);
        if self.family == Family::V6 {
            // With the bridge's netfilter on, a question for a neighbour passes here on its way to the other pods.
            rules.push(vec![Statement::NeighbourDiscovery, accept()]);
        }
        rules.extend([
            // No policy keeps a pod from itself.
            vec![Statement::In(KeyType::Pair, Shared::Hairpins.name().into()), accept()],
            dispatch(KeyType::Source, Shared::EgressPods),
            dispatch(KeyType::Destination, Shared::IngressPods),
        ]);
        rules
    }

    fn departures(&self) -> Vec<Rule> {
        let mut rules = vec![
            vec![Statement::In(KeyType::Pair, Shared::Hairpins.name().into()), Statement::Masquerade],
            vec![Statement::Marked, Statement::Unmark, Statement::Masquerade],
        ];
        // From 127.0.0.1 through a node port or host port: no answer would find its way back to that address.
        rules.extend(self.open_loopback().map(|loopback| {
            let to_pods = Statement::To(self.frame.bridge.clone());
            vec![to_pods, Statement::Source(Is::In, loopback), Statement::Masquerade]
        }));
        rules.extend(self.pods().map(|pods| {
            vec![
                Statement::Source(Is::In, pods),
                Statement::Destination(Is::NotIn, pods),
                Statement::Destination(Is::NotIn, self.multicast()),
                Statement::Masquerade,
            ]
        }));
        rules
    }
}

/// A chain that all Services with so many endpoints share: they differ only in what they find in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spread {
    /// For clients of a cluster address.
    Inside(u32),
    /// For clients of an address from outside.
    Outside(u32),
    /// For clients of a node's port.
    NodePort(u32),
}

impl Spread {
    /// The chain's name.
    pub fn chain(self) -> String {
        match self {
            Self::Inside(count) => format!("spread-{count}"),
            Self::Outside(count) => format!("spread-outside-{count}"),
            Self::NodePort(count) => format!("spread-node-port-{count}"),
        }
    }

    /// The chain's rules. Who comes from outside is masqueraded, since the endpoint may be on another node.
    pub fn rules(self) -> Vec<Rule> {
        match self {
            Self::Inside(count) => spread(Draw { whose: Whose::Packet, first: 0, count }),
            Self::Outside(count) => marked(spread(Draw { whose: Whose::Packet, first: 0, count })),
            Self::NodePort(count) => marked(spread(Draw { whose: Whose::NodePort, first: 0, count })),
        }
    }
}

fn marked(rules: Vec<Rule>) -> Vec<Rule> {
    std::iter::once(vec![Statement::Mark]).chain(rules).collect()
}

/// The rules that spread connections over a Service's endpoints.
pub fn spread(draw: Draw) -> Vec<Rule> {
    let map = || Shared::Endpoints.name().to_owned();
    let mut rules = vec![vec![Statement::TranslateRandom(draw, map())]];
    if draw.count > 1 {
        // A packet that meets the very instant in which the number of endpoints changes can find its number gone.
        // The first place is always taken.
        rules.push(vec![Statement::TranslateRandom(Draw { count: 1, ..draw }, map())]);
    }
    rules
}

fn reject() -> Vec<Rule> {
    vec![
        vec![Statement::Protocol(Is::In, Transport::Tcp), Statement::Reject(Refusal::Reset)],
        vec![Statement::Reject(Refusal::PortUnreachable)],
    ]
}

fn range(text: &str) -> Cidr {
    text.parse().expect("the constant is a range")
}
