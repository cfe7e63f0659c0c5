//! What one Service adds to the rules, computed from the Service, its endpoints and the node; and what the API's
//! objects say about both. Follows upstream's documentation "Virtual IPs and Service Proxies".

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use skiff_base::{Cidr, Family};

use super::elements::Elements;
use super::frame::{Frame, REJECT_CHAIN, Shared, Spread, spread};
use super::language::{
    Draw, Endpoint, Is, Key, KeyType, Rule, ServiceId, Set, SetKind, Statement, Value, ValueType, Verdict, Whose,
};
use super::ruleset::Fragment;
use super::topology::{Hints, Preference};
use crate::model::{HostPort, Transport};
use crate::pods::HostPortMapping;

/// A Service, as far as packets of one family are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name, as `namespace/name`.
    pub name: String,
    /// Its cluster address.
    pub cluster_address: IpAddr,
    /// Addresses of its own that lead here from outside.
    pub external_addresses: Vec<IpAddr>,
    /// The load balancer's addresses.
    pub balancer_addresses: Vec<IpAddr>,
    /// Who may come by the load balancer's addresses; all, if empty.
    pub balancer_sources: Vec<Cidr>,
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
    /// Whether this node is to prefer it.
    pub hints: Hints,
}

/// The owner's name in the rules.
pub fn owner(namespace: &str, name: &str) -> String {
    format!("service/{namespace}/{name}")
}

/// What the Service adds to the rules. `before` is what it added last time: endpoints keep their places in the maps,
/// so that one endpoint's coming or going changes one or two elements.
pub fn fragment(service: &Service, backends: &[Backend], frame: &Frame, before: Option<&Fragment>) -> Fragment {
    let mut fragment = Fragment::default();
    let family = Family::of(service.cluster_address);
    for port in &service.ports {
        let mut planner = PortPlanner { service, port, family, frame, before, fragment: &mut fragment };
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
    Fragment { shared: Elements::from_iter([(place, target), hairpin]), ..Fragment::default() }
}

struct PortPlanner<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    family: Family,
    frame: &'a Frame,
    before: Option<&'a Fragment>,
    fragment: &'a mut Fragment,
}

/// Who is meant: all endpoints, or those on this node, which are numbered apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Cluster,
    Local,
}

impl Reach {
    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
        }
    }

    fn first_number(self) -> u32 {
        match self {
            Self::Cluster => 0,
            Self::Local => 0x8000_0000,
        }
    }
}

impl PortPlanner<'_> {
    fn plan(&mut self, backends: &[Backend]) {
        let is_ours =
            |backend: &&Backend| backend.port_name == self.port.name && backend.transport == self.port.transport;
        let ours: Vec<&Backend> = backends.iter().filter(is_ours).collect();
        let preference = Preference::of(ours.iter().copied());
        let cluster = choose(ours.iter().copied(), preference);
        // Who asks for this node's endpoints gets them, whomever they are meant for.
        let local = choose(ours.iter().copied().filter(|backend| backend.is_local), Preference::Anywhere);
        for backend in ours.iter().filter(|backend| backend.is_local) {
            let address = backend.endpoint.address;
            self.share(Shared::Hairpins, Key::Pair(address, address), Value::Nothing);
        }
        let has_nobody = cluster.is_empty() && local.is_empty();
        let nobody = if has_nobody { Verdict::Goto(REJECT_CHAIN.into()) } else { Verdict::Drop };
        self.open_to_the_inside(&cluster, &local, &nobody);
        self.open_to_the_outside(&cluster, &local);
        if has_nobody || (self.service.external_local && local.is_empty()) {
            self.close_to_the_outside(&nobody);
        }
    }

    fn id(&self) -> ServiceId {
        (self.service.cluster_address, self.port.transport, self.port.port)
    }

    /// Sends clients of the cluster address to the endpoints; where there are none, `nobody` is done with them.
    fn open_to_the_inside(&mut self, cluster: &BTreeSet<Endpoint>, local: &BTreeSet<Endpoint>, nobody: &Verdict) {
        let key = self.address_key(self.service.cluster_address);
        let is_local = self.service.internal_local;
        if (if is_local { local } else { cluster }).is_empty() {
            self.share(Shared::EmptyAddresses, key, Value::Verdict(nobody.clone()));
        } else if is_local {
            let chain = self.own_chain(Reach::Local, local);
            self.lead(Shared::ServiceAddresses, key, chain);
        } else if self.service.affinity.is_some() {
            let chain = self.own_chain(Reach::Cluster, cluster);
            self.lead(Shared::ServiceAddresses, key, chain);
        } else {
            self.number(self.id(), Reach::Cluster, cluster);
            self.lead_to_common(Shared::ServiceAddresses, key, Spread::Inside(count(cluster.len())));
        }
    }

    fn open_to_the_outside(&mut self, cluster: &BTreeSet<Endpoint>, local: &BTreeSet<Endpoint>) {
        let ServicePort { transport, node_port, .. } = *self.port;
        let Service { external_addresses, balancer_addresses, .. } = self.service;
        let is_open = !external_addresses.is_empty() || !balancer_addresses.is_empty() || node_port.is_some();
        if !is_open || cluster.is_empty() {
            return;
        }
        let is_special = self.service.external_local || self.service.affinity.is_some();
        let own = is_special.then(|| self.outside(cluster, local));
        let common = |spread: fn(u32) -> Spread| spread(count(cluster.len()));
        for (address, is_balancer) in self.outer_addresses() {
            let spread = common(Spread::Outside);
            let chain =
                own.clone().unwrap_or_else(|| self.common((address, transport, self.port.port), spread, cluster));
            let chain = if is_balancer { self.guard(chain) } else { chain };
            self.lead(Shared::ServiceAddresses, self.address_key(address), chain);
        }
        if let Some(port) = node_port {
            let spread = common(Spread::NodePort);
            let chain =
                own.unwrap_or_else(|| self.common((self.family.unspecified(), transport, port), spread, cluster));
            self.lead(Shared::NodePorts, Key::Port(transport, port), chain);
        }
    }

    /// Does `nobody` with clients from outside, as far as they are not served by rules for some of them.
    fn close_to_the_outside(&mut self, nobody: &Verdict) {
        for (address, _) in self.outer_addresses() {
            self.share(Shared::EmptyAddresses, self.address_key(address), Value::Verdict(nobody.clone()));
        }
        if let Some(port) = self.port.node_port {
            let key = Key::Port(self.port.transport, port);
            self.share(Shared::EmptyNodePorts, key, Value::Verdict(nobody.clone()));
        }
    }

    /// The addresses that lead here from outside, and whether each is a load balancer's.
    fn outer_addresses(&self) -> Vec<(IpAddr, bool)> {
        let Service { external_addresses, balancer_addresses, .. } = self.service;
        let external = external_addresses.iter().map(|address| (*address, false));
        external.chain(balancer_addresses.iter().map(|address| (*address, true))).collect()
    }

    /// The Service's own chain for clients from outside, where they are told apart.
    fn outside(&mut self, cluster: &BTreeSet<Endpoint>, local: &BTreeSet<Endpoint>) -> String {
        let everywhere = self.own_chain(Reach::Cluster, cluster);
        let mut rules: Vec<Rule> = Vec::new();
        if self.service.external_local {
            // From inside it is the same Service; only from outside does it matter that the client's address is kept.
            rules.push(vec![Statement::SourceLocal(Is::In), Statement::Mark]);
            rules.push(vec![Statement::SourceLocal(Is::In), goto(&everywhere)]);
            let pods = self.frame.pod_ranges.iter().filter(|range| range.family() == self.family);
            rules.extend(pods.map(|range| vec![Statement::Source(Is::In, *range), goto(&everywhere)]));
            if !local.is_empty() {
                rules.push(vec![goto(&self.own_chain(Reach::Local, local))]);
            }
        } else {
            rules.push(vec![Statement::Mark]);
            rules.push(vec![goto(&everywhere)]);
        }
        let name = self.name("outside");
        self.fragment.chains.insert(name.clone(), rules);
        name
    }

    /// A chain of the Service's own that spreads connections over these endpoints.
    fn own_chain(&mut self, reach: Reach, endpoints: &BTreeSet<Endpoint>) -> String {
        let chain = self.name(reach.name());
        let rules = match self.service.affinity {
            Some(timeout) => self.sticky(&chain, endpoints, timeout),
            None => {
                self.number(self.id(), reach, endpoints);
                let whose = Whose::Service(self.id());
                spread(Draw { whose, first: reach.first_number(), count: count(endpoints.len()) })
            }
        };
        self.fragment.chains.insert(chain.clone(), rules);
        chain
    }

    /// The chain that is common to all Services with as many endpoints, which it finds under `id`.
    fn common(&mut self, id: ServiceId, spread: Spread, endpoints: &BTreeSet<Endpoint>) -> String {
        self.number(id, Reach::Cluster, endpoints);
        self.fragment.spreads.insert(spread);
        spread.chain()
    }

    /// The chain that lets only the allowed sources pass to the load balancer's addresses.
    fn guard(&mut self, chain: String) -> String {
        if self.service.balancer_sources.is_empty() {
            return chain;
        }
        let allow = |range: &Cidr| vec![Statement::Source(Is::In, *range), goto(&chain)];
        let mut rules: Vec<Rule> = self.service.balancer_sources.iter().map(allow).collect();
        rules.push(vec![Statement::Do(Verdict::Drop)]);
        let name = self.name("allowed");
        self.fragment.chains.insert(name.clone(), rules);
        name
    }

    fn lead(&mut self, map: Shared, key: Key, chain: String) {
        self.share(map, key, Value::Verdict(Verdict::Goto(chain)));
    }

    fn lead_to_common(&mut self, map: Shared, key: Key, spread: Spread) {
        self.fragment.spreads.insert(spread);
        self.lead(map, key, spread.chain());
    }

    fn share(&mut self, map: Shared, key: Key, value: Value) {
        self.fragment.shared.insert((map, key), value);
    }

    fn address_key(&self, address: IpAddr) -> Key {
        Key::AddressPort(address, self.port.transport, self.port.port)
    }

    /// `what/namespace/name/protocol/port-name`; unique, since none of the parts can hold a slash.
    fn name(&self, what: &str) -> String {
        let ServicePort { name, transport, .. } = self.port;
        format!("{what}/{}/{transport}/{name}", self.service.name).trim_end_matches('/').to_owned()
    }

    /// Numbers the endpoints under `id`, leaving those that were there before at their numbers.
    fn number(&mut self, id: ServiceId, reach: Reach, endpoints: &BTreeSet<Endpoint>) {
        let numbers = reach.first_number()..reach.first_number() + count(endpoints.len());
        let place = |number| (Shared::Endpoints, Key::Numbered(id, number));
        let old = self.before.map(|fragment| fragment.shared.range(place(numbers.start)..place(numbers.end)));
        let mut left = endpoints.clone();
        let mut kept: BTreeMap<Key, Endpoint> = BTreeMap::new();
        for ((_, key), value) in old.unwrap_or_default() {
            if let Value::Endpoint(endpoint) = value
                && left.remove(endpoint)
            {
                kept.insert(*key, *endpoint);
            }
        }
        let mut left = left.into_iter();
        for number in numbers {
            let key = Key::Numbered(id, number);
            if let Some(endpoint) = kept.get(&key).copied().or_else(|| left.next()) {
                self.share(Shared::Endpoints, key, Value::Endpoint(endpoint));
            }
        }
    }

    /// Each endpoint remembers its clients, and a client that is remembered goes to its endpoint.
    fn sticky(&mut self, chain: &str, endpoints: &BTreeSet<Endpoint>, timeout: Duration) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        let mut picks = BTreeMap::new();
        for (number, endpoint) in endpoints.iter().enumerate() {
            let place = format!("{}-{}", endpoint.address, endpoint.port);
            let target = format!("{}/{place}", self.name("endpoint"));
            let clients = format!("{}/{place}/{}s", self.name("clients"), timeout.as_secs());
            let kind = SetKind { timeout: Some(timeout), ..SetKind::fixed(KeyType::Source, ValueType::Nothing) };
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

/// Those that take new connections and are near enough; if there is none, those that still answer while they end.
fn choose<'a>(backends: impl Iterator<Item = &'a Backend> + Clone, preference: Preference) -> BTreeSet<Endpoint> {
    let ready = backends.clone().filter(|backend| backend.is_ready && preference.allows(backend));
    let ready: BTreeSet<Endpoint> = ready.map(|backend| backend.endpoint).collect();
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
