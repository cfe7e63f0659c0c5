//! What one Service adds to the rules, computed from the Service, its endpoints and the node; and what the API's
//! objects say about both. Follows upstream's documentation "Virtual IPs and Service Proxies".

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::frame::{REJECT_CHAIN, Shared};
use super::language::{Endpoint, Is, Key, KeyType, Rule, Set, SetKind, Statement, Value, ValueType, Verdict};
use super::ruleset::Fragment;
use crate::model::{HostPort, Transport};
use crate::pods::HostPortMapping;
use crate::prefix::Prefix;

/// A Service, as far as packets are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name, as `namespace/name`.
    pub name: String,
    /// Its cluster address.
    pub cluster_address: Ipv4Addr,
    /// Addresses of its own that lead here from outside.
    pub external_addresses: Vec<Ipv4Addr>,
    /// The load balancer's addresses.
    pub balancer_addresses: Vec<Ipv4Addr>,
    /// Who may come by the load balancer's addresses; all, if empty.
    pub balancer_sources: Vec<Prefix>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Clients from inside are served by this node's endpoints only.
    pub internal_local: bool,
    /// Clients from outside are served by this node's endpoints only, which see the client's address.
    pub external_local: bool,
    /// A client stays with its endpoint until it has been silent for so long.
    pub affinity: Option<Duration>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty if it is the only one.
    pub name: String,
    /// The protocol.
    pub transport: Transport,
    /// The port.
    pub port: u16,
    /// The port on every node.
    pub node_port: Option<u16>,
}

/// One address and port behind a Service's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The Service port's name.
    pub port_name: String,
    /// The protocol.
    pub transport: Transport,
    /// Where it is.
    pub endpoint: Endpoint,
    /// It takes new connections.
    pub is_ready: bool,
    /// It still answers while it ends.
    pub is_serving_to_the_end: bool,
    /// It runs on this node.
    pub is_local: bool,
}

/// The owner's name in the rules.
pub fn owner(namespace: &str, name: &str) -> String {
    format!("service/{namespace}/{name}")
}

/// What the Service adds to the rules. `before` is what it added last time: endpoints keep their places in the maps,
/// so that one endpoint's coming or going changes one or two elements.
pub fn fragment(service: &Service, backends: &[Backend], pod_range: Prefix, before: Option<&Fragment>) -> Fragment {
    let mut fragment = Fragment::default();
    for port in &service.ports {
        let mut planner = PortPlanner { service, port, pod_range, before, fragment: &mut fragment };
        planner.plan(backends);
    }
    fragment
}

/// What the names of all host ports' owners begin with.
pub const HOST_PORT_OWNERS: &str = "host-port/";

/// The owner's name of a pod's host port in the rules.
pub fn host_port_owner(mapping: &HostPortMapping) -> String {
    let HostPort { transport, host_address, host_port, .. } = mapping.port;
    format!("{HOST_PORT_OWNERS}{}/{transport}/{host_address}/{host_port}", mapping.pod)
}

/// What a pod's host port adds to the rules.
pub fn host_port_fragment(mapping: &HostPortMapping) -> Fragment {
    let HostPortMapping { port: HostPort { transport, host_address, host_port, pod_port }, pod } = *mapping;
    let place = if host_address.is_unspecified() {
        (Shared::HostPorts, Key::Port(transport, host_port))
    } else {
        (Shared::HostPortsAt, Key::AddressPort(host_address, transport, host_port))
    };
    let target = Value::Endpoint(Endpoint { address: pod, port: pod_port });
    let hairpin = ((Shared::Hairpins, Key::Pair(pod, pod)), Value::Nothing);
    Fragment { shared: BTreeMap::from([(place, target), hairpin]), ..Fragment::default() }
}

struct PortPlanner<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    pod_range: Prefix,
    before: Option<&'a Fragment>,
    fragment: &'a mut Fragment,
}

/// Who is meant by a chain.
#[derive(Clone, Copy)]
enum Reach {
    Cluster,
    Local,
}

impl PortPlanner<'_> {
    fn plan(&mut self, backends: &[Backend]) {
        let is_ours =
            |backend: &&Backend| backend.port_name == self.port.name && backend.transport == self.port.transport;
        let ours: Vec<&Backend> = backends.iter().filter(is_ours).collect();
        let cluster = choose(ours.iter().copied());
        let local = choose(ours.iter().copied().filter(|backend| backend.is_local));
        for backend in ours.iter().filter(|backend| backend.is_local) {
            let address = backend.endpoint.address;
            self.share(Shared::Hairpins, Key::Pair(address, address), Value::Nothing);
        }
        let has_nobody = cluster.is_empty() && local.is_empty();
        let cluster_chain = self.balance(Reach::Cluster, &cluster);
        let wants_local = self.service.internal_local || self.service.external_local;
        let local_chain = if wants_local { self.balance(Reach::Local, &local) } else { None };

        let internal = if self.service.internal_local { &local_chain } else { &cluster_chain };
        let nobody = if has_nobody { Verdict::Goto(REJECT_CHAIN.into()) } else { Verdict::Drop };
        self.reach(self.address_key(self.service.cluster_address), internal.clone(), &nobody);

        let outside = self.outside(cluster_chain, local_chain);
        let is_empty_outside = has_nobody || (self.service.external_local && local.is_empty());
        self.open_to_the_outside(outside, is_empty_outside.then_some(nobody));
    }

    /// The chain for clients from outside, if any can come.
    fn outside(&mut self, cluster: Option<String>, local: Option<String>) -> Option<String> {
        let Service { external_addresses, balancer_addresses, .. } = self.service;
        if external_addresses.is_empty() && balancer_addresses.is_empty() && self.port.node_port.is_none() {
            return None;
        }
        let cluster = cluster?;
        let mut rules: Vec<Rule> = Vec::new();
        if self.service.external_local {
            // From inside it is the same Service; only from outside does it matter that the client's address is kept.
            rules.push(vec![Statement::SourceLocal(Is::In), Statement::Mark]);
            rules.push(vec![Statement::SourceLocal(Is::In), goto(&cluster)]);
            rules.push(vec![Statement::Source(Is::In, self.pod_range), goto(&cluster)]);
            rules.extend(local.map(|local| vec![goto(&local)]));
        } else {
            rules.push(vec![Statement::Mark]);
            rules.push(vec![goto(&cluster)]);
        }
        let name = self.name("outside");
        self.fragment.chains.insert(name.clone(), rules);
        Some(name)
    }

    fn open_to_the_outside(&mut self, chain: Option<String>, nobody: Option<Verdict>) {
        let ServicePort { transport, node_port, .. } = *self.port;
        let guarded = self.guard(chain.as_deref());
        for address in self.service.external_addresses.clone() {
            self.place(Shared::ServiceAddresses, self.address_key(address), &chain);
            self.refuse(Shared::EmptyAddresses, self.address_key(address), &nobody);
        }
        for address in self.service.balancer_addresses.clone() {
            self.place(Shared::ServiceAddresses, self.address_key(address), &guarded);
            self.refuse(Shared::EmptyAddresses, self.address_key(address), &nobody);
        }
        if let Some(port) = node_port {
            self.place(Shared::NodePorts, Key::Port(transport, port), &chain);
            self.refuse(Shared::EmptyNodePorts, Key::Port(transport, port), &nobody);
        }
    }

    /// The chain that lets only the allowed sources pass to the load balancer's addresses.
    fn guard(&mut self, chain: Option<&str>) -> Option<String> {
        let chain = chain?;
        if self.service.balancer_sources.is_empty() {
            return Some(chain.to_owned());
        }
        let allow = |range: &Prefix| vec![Statement::Source(Is::In, *range), goto(chain)];
        let mut rules: Vec<Rule> = self.service.balancer_sources.iter().map(allow).collect();
        rules.push(vec![Statement::Do(Verdict::Drop)]);
        let name = self.name("allowed");
        self.fragment.chains.insert(name.clone(), rules);
        Some(name)
    }

    /// Sends clients of this key to the chain; where there is none, `nobody` is done with them.
    fn reach(&mut self, key: Key, chain: Option<String>, nobody: &Verdict) {
        match chain {
            Some(_) => self.place(Shared::ServiceAddresses, key, &chain),
            None => self.refuse(Shared::EmptyAddresses, key, &Some(nobody.clone())),
        }
    }

    fn place(&mut self, map: Shared, key: Key, chain: &Option<String>) {
        if let Some(chain) = chain {
            self.share(map, key, Value::Verdict(Verdict::Goto(chain.clone())));
        }
    }

    fn refuse(&mut self, map: Shared, key: Key, verdict: &Option<Verdict>) {
        if let Some(verdict) = verdict {
            self.share(map, key, Value::Verdict(verdict.clone()));
        }
    }

    fn share(&mut self, map: Shared, key: Key, value: Value) {
        self.fragment.shared.insert((map, key), value);
    }

    fn address_key(&self, address: Ipv4Addr) -> Key {
        Key::AddressPort(address, self.port.transport, self.port.port)
    }

    /// `what/namespace/name/protocol/port-name`; unique, since none of the parts can hold a slash.
    fn name(&self, what: &str) -> String {
        let ServicePort { name, transport, .. } = self.port;
        format!("{what}/{}/{transport}/{name}", self.service.name).trim_end_matches('/').to_owned()
    }

    /// The chain that sends each new connection to one of these endpoints; `None` without any.
    fn balance(&mut self, reach: Reach, endpoints: &BTreeSet<Endpoint>) -> Option<String> {
        if endpoints.is_empty() {
            return None;
        }
        let (chain, map) = match reach {
            Reach::Cluster => (self.name("cluster"), self.name("endpoints")),
            Reach::Local => (self.name("local"), self.name("local-endpoints")),
        };
        let rules = match self.service.affinity {
            Some(timeout) => self.sticky(&chain, endpoints, timeout),
            None => self.spread(&map, endpoints),
        };
        self.fragment.chains.insert(chain.clone(), rules);
        Some(chain)
    }

    fn spread(&mut self, map: &str, endpoints: &BTreeSet<Endpoint>) -> Vec<Rule> {
        let elements = self.keep_places(map, endpoints);
        let count = count(elements.len());
        let kind = SetKind::fixed(KeyType::Number, ValueType::Endpoint);
        self.fragment.sets.insert(map.to_owned(), Set { kind, elements });
        let mut rules = vec![vec![Statement::TranslateRandom(count, map.to_owned())]];
        if count > 1 {
            // A packet that meets the very instant in which the number of endpoints changes can find its number
            // gone. The first place is always taken.
            rules.push(vec![Statement::TranslateRandom(1, map.to_owned())]);
        }
        rules
    }

    /// Numbers the endpoints, leaving those that were there before at their numbers.
    fn keep_places(&self, map: &str, endpoints: &BTreeSet<Endpoint>) -> BTreeMap<Key, Value> {
        let old = self.before.and_then(|fragment| fragment.sets.get(map)).map(|set| &set.elements);
        let mut left = endpoints.clone();
        let mut kept: BTreeMap<u32, Endpoint> = BTreeMap::new();
        for (key, value) in old.into_iter().flatten() {
            if let (Key::Number(number), Value::Endpoint(endpoint)) = (key, value)
                && *number < count(endpoints.len())
                && left.remove(endpoint)
            {
                kept.insert(*number, *endpoint);
            }
        }
        let mut left = left.into_iter();
        let place = |number| kept.get(&number).copied().or_else(|| left.next()).map(|endpoint| (number, endpoint));
        let numbered: Vec<(u32, Endpoint)> = (0..count(endpoints.len())).filter_map(place).collect();
        numbered.into_iter().map(|(number, endpoint)| (Key::Number(number), Value::Endpoint(endpoint))).collect()
    }

    /// Each endpoint remembers its clients, and a client that is remembered goes to its endpoint.
    fn sticky(&mut self, chain: &str, endpoints: &BTreeSet<Endpoint>, timeout: Duration) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        let mut picks = BTreeMap::new();
        for (number, endpoint) in endpoints.iter().enumerate() {
            let place = format!("{}-{}", endpoint.address, endpoint.port);
            let target = format!("{}/{place}", self.name("endpoint"));
            let clients = format!("{}/{place}/{}s", self.name("clients"), timeout.as_secs());
            let kind = SetKind { key: KeyType::Source, value: ValueType::Nothing, timeout: Some(timeout) };
            self.fragment.sets.insert(clients.clone(), Set { kind, elements: BTreeMap::new() });
            let remember = vec![Statement::Remember(clients.clone(), timeout)];
            self.fragment.chains.insert(target.clone(), vec![remember, vec![Statement::TranslateTo(*endpoint)]]);
            rules.push(vec![Statement::In(KeyType::Source, clients), goto(&target)]);
            picks.insert(Key::Number(count(number)), Value::Verdict(Verdict::Goto(target)));
        }
        let picked = format!("picks-of-{chain}");
        rules.push(vec![Statement::DispatchRandom(count(endpoints.len()), picked.clone())]);
        let kind = SetKind::fixed(KeyType::Number, ValueType::Verdict);
        self.fragment.sets.insert(picked, Set { kind, elements: picks });
        rules
    }
}

/// Those that take new connections; if none does, those that still answer while they end.
fn choose<'a>(backends: impl Iterator<Item = &'a Backend> + Clone) -> BTreeSet<Endpoint> {
    let ready: BTreeSet<Endpoint> =
        backends.clone().filter(|backend| backend.is_ready).map(|backend| backend.endpoint).collect();
    if !ready.is_empty() {
        return ready;
    }
    backends.filter(|backend| backend.is_serving_to_the_end).map(|backend| backend.endpoint).collect()
}

fn goto(chain: &str) -> Statement {
    Statement::Do(Verdict::Goto(chain.to_owned()))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("a Service has far fewer than 2^32 endpoints")
}
