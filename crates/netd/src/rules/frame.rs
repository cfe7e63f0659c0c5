//! The part of the rules that does not depend on any Service: where packets are caught, and the maps that all owners share.

use super::language::{Base, Draw, Hook, Is, KeyType, Refusal, Rule, SetKind, Statement, ValueType, Verdict, Whose};
use crate::model::Transport;
use crate::prefix::Prefix;

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

/// What the rules must know of the node.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The bridge that the pods are on.
    pub bridge: String,
    /// The pod range of the whole cluster.
    pub pod_range: Prefix,
    /// The Service range.
    pub service_range: Prefix,
    /// The ranges that load balancer addresses are taken from.
    pub balancer_ranges: Vec<Prefix>,
}

const LOOPBACK: &str = "127.0.0.0/8";
const MULTICAST: &str = "224.0.0.0/4";

impl Frame {
    /// The fixed chains with their rules.
    pub fn chains(&self) -> Vec<(&'static str, Option<Base>, Vec<Rule>)> {
        use Hook::{Forward, Input, Output, Postrouting, Prerouting};
        let filter = |hook, priority| Some(Base { hook, translates: false, priority });
        let translate = |hook, priority| Some(Base { hook, translates: true, priority });
        let refuse = || vec![vec![Statement::NewConnection, Statement::Do(Verdict::Jump(REFUSALS_CHAIN.into()))]];
        let redirect = || vec![vec![Statement::Do(Verdict::Jump(SERVICES_CHAIN.into()))]];
        vec![
            ("guard", filter(Prerouting, PRIORITY_RAW), self.guard()),
            ("filter-input", filter(Input, PRIORITY_FILTER), refuse()),
            ("filter-forward", filter(Forward, PRIORITY_FILTER), forwarded(refuse())),
            ("filter-output", filter(Output, PRIORITY_FILTER), refuse()),
            ("nat-prerouting", translate(Prerouting, PRIORITY_DESTINATION), redirect()),
            ("nat-output", translate(Output, PRIORITY_DESTINATION), redirect()),
            ("nat-postrouting", translate(Postrouting, PRIORITY_SOURCE), self.departures()),
            (SERVICES_CHAIN, None, self.services()),
            (REFUSALS_CHAIN, None, self.refusals()),
            (REJECT_CHAIN, None, reject()),
        ]
    }

    /// NodePorts answer on 127.0.0.1 because the bridge may route that address; pods themselves must not reach it.
    fn guard(&self) -> Vec<Rule> {
        vec![vec![
            Statement::From(self.bridge.clone()),
            Statement::Destination(Is::In, range(LOOPBACK)),
            Statement::Do(Verdict::Drop),
        ]]
    }

    fn services(&self) -> Vec<Rule> {
        let to_node = |last: Statement| {
            // An address of the Service range that this node has itself, the DNS's, has no node ports.
            vec![Statement::Destination(Is::NotIn, self.service_range), Statement::DestinationLocal(Is::In), last]
        };
        let from_outside = vec![
            Statement::Destination(Is::In, self.service_range),
            Statement::Source(Is::NotIn, self.pod_range),
            Statement::Mark,
        ];
        vec![
            from_outside,
            vec![Statement::Dispatch(KeyType::AddressPort, Shared::ServiceAddresses.name().into())],
            to_node(Statement::Dispatch(KeyType::Port, Shared::NodePorts.name().into())),
            vec![Statement::Translate(KeyType::AddressPort, Shared::HostPortsAt.name().into())],
            to_node(Statement::Translate(KeyType::Port, Shared::HostPorts.name().into())),
        ]
    }

    fn refusals(&self) -> Vec<Rule> {
        let nobody_in = |range| {
            let refuse = Statement::Do(Verdict::Goto(REJECT_CHAIN.into()));
            vec![Statement::Destination(Is::In, range), Statement::DestinationLocal(Is::NotIn), refuse]
        };
        let empty = || Statement::Dispatch(KeyType::AddressPort, Shared::EmptyAddresses.name().into());
        let mut rules = vec![
            vec![Statement::Destination(Is::NotIn, self.service_range), empty()],
            // Who listens on an address of the Service range on this very node, as the DNS does, needs no endpoint.
            vec![Statement::Destination(Is::In, self.service_range), Statement::DestinationLocal(Is::NotIn), empty()],
            vec![
                Statement::Destination(Is::NotIn, self.service_range),
                Statement::DestinationLocal(Is::In),
                Statement::Dispatch(KeyType::Port, Shared::EmptyNodePorts.name().into()),
            ],
            nobody_in(self.service_range),
        ];
        rules.extend(self.balancer_ranges.iter().copied().map(nobody_in));
        rules
    }

    fn departures(&self) -> Vec<Rule> {
        vec![
            vec![Statement::In(KeyType::Pair, Shared::Hairpins.name().into()), Statement::Masquerade],
            vec![Statement::Marked, Statement::Unmark, Statement::Masquerade],
            // From 127.0.0.1 through a node port or host port: no answer would find its way back to that address.
            vec![Statement::To(self.bridge.clone()), Statement::Source(Is::In, range(LOOPBACK)), Statement::Masquerade],
            vec![
                Statement::Source(Is::In, self.pod_range),
                Statement::Destination(Is::NotIn, self.pod_range),
                Statement::Destination(Is::NotIn, range(MULTICAST)),
                Statement::Masquerade,
            ],
        ]
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

/// What passes through the node, by addresses as they are after translation: so policies see the pods behind a Service.
/// What the node itself says to its pods, and they to it, does not pass here and is free, as upstream documents it.
fn forwarded(refuse: Vec<Rule>) -> Vec<Rule> {
    let dispatch = |key, map: Shared| vec![Statement::Dispatch(key, map.name().into())];
    let mut rules = vec![vec![Statement::KnownConnection, Statement::Do(Verdict::Accept)]];
    rules.extend(refuse);
    rules.extend([
        // No policy keeps a pod from itself.
        vec![Statement::In(KeyType::Pair, Shared::Hairpins.name().into()), Statement::Do(Verdict::Accept)],
        dispatch(KeyType::Source, Shared::EgressPods),
        dispatch(KeyType::Destination, Shared::IngressPods),
    ]);
    rules
}

fn reject() -> Vec<Rule> {
    vec![
        vec![Statement::Protocol(Is::In, Transport::Tcp), Statement::Reject(Refusal::Reset)],
        vec![Statement::Reject(Refusal::PortUnreachable)],
    ]
}

fn range(text: &str) -> Prefix {
    text.parse().expect("the constant is a range")
}
