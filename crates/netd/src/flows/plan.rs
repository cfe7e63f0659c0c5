//! Which flows lead to nobody. As upstream does it, what counts is only who still answers: neither traffic policies nor
//! hints nor the end of an endpoint's life break a flow that works.

use std::collections::{BTreeMap, BTreeSet};

use crate::family::Family;
use crate::model::Transport;
use crate::pods::HostPortMapping;
use crate::rules::Endpoint;
use crate::rules::service::{Backend, Service};

/// A flow of UDP, as the kernel remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Whom the client asks.
    pub asked: Endpoint,
    /// From where it is answered.
    pub answering: Endpoint,
    /// The kernel's own words for the flow: its client's side, and what tells it from others like it.
    pub(super) original: Vec<u8>,
    pub(super) id: Option<Vec<u8>>,
    pub(super) zone: Option<Vec<u8>>,
}

/// Who may answer for the addresses and ports of UDP that lead to endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answerers {
    at: BTreeMap<Endpoint, BTreeSet<Endpoint>>,
    /// At this port of every address of a family that the node has.
    at_port: BTreeMap<(Family, u16), BTreeSet<Endpoint>>,
}

impl Answerers {
    /// Those of a Service. A port behind which nobody answers is left out.
    pub fn of_service(service: &Service, backends: &[Backend]) -> Self {
        let mut all = Self::default();
        for port in service.ports.iter().filter(|port| port.transport == Transport::Udp) {
            let is_ours = |backend: &&Backend| backend.port_name == port.name && backend.transport == Transport::Udp;
            let answers = |backend: &&Backend| backend.is_ready || backend.is_serving_to_the_end;
            let endpoints: BTreeSet<Endpoint> =
                backends.iter().filter(is_ours).filter(answers).map(|backend| backend.endpoint).collect();
            if endpoints.is_empty() {
                continue;
            }
            let outer = service.external_addresses.iter().chain(&service.balancer_addresses);
            for address in outer.chain([&service.cluster_address]) {
                all.at.insert(Endpoint { address: *address, port: port.port }, endpoints.clone());
            }
            let family = Family::of(service.cluster_address);
            all.at_port.extend(port.node_port.map(|node_port| ((family, node_port), endpoints)));
        }
        all
    }

    /// The pod of a host port.
    pub fn of_host_port(mapping: &HostPortMapping) -> Self {
        let mut all = Self::default();
        let port = mapping.port;
        if port.transport == Transport::Udp {
            let pod = BTreeSet::from([Endpoint { address: mapping.pod, port: port.pod_port }]);
            if port.host_address.is_unspecified() {
                all.at_port.insert((Family::of(mapping.pod), port.host_port), pod);
            } else {
                all.at.insert(Endpoint { address: port.host_address, port: port.host_port }, pod);
            }
        }
        all
    }

    /// Whether nobody answers anywhere.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty() && self.at_port.is_empty()
    }

    /// Adds others; where both answer, all of them do.
    pub fn add(&mut self, others: Self) {
        for (at, endpoints) in others.at {
            self.at.entry(at).or_default().extend(endpoints);
        }
        for (port, endpoints) in others.at_port {
            self.at_port.entry(port).or_default().extend(endpoints);
        }
    }

    /// Whether somebody answers where the flow's client asks, but not he who answers in the flow.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let somebody_else =
            |endpoints: Option<&BTreeSet<Endpoint>>| endpoints.is_some_and(|known| !known.contains(&flow.answering));
        somebody_else(self.at.get(&flow.asked))
            || somebody_else(self.at_port.get(&(Family::of(flow.asked.address), flow.asked.port)))
    }
}
