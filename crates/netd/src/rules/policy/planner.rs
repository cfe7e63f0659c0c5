//! Plans the rules of all policies, and plans again as little as a change demands.

use std::collections::{BTreeMap, BTreeSet};

use skiff_client::ObjectKey;
use skiff_client::selectors::{Labels, selects_labels};

use super::api::{Peers, Permission, PodFacts, PodPeer, Policy, Port, Scope};
use super::interner::Interner;
use super::ranges::Range;
use crate::family::Family;
use crate::model::Transport;
use crate::rules::frame::Shared;
use crate::rules::language::{Is, Key, Rule, Set, SetKind, Side, Statement, Value, Verdict};
use crate::rules::ruleset::Fragment;

/// What the names of the owners of pods' elements begin with.
const POD_OWNERS: &str = "policy/pod/";

/// Where pods are looked up.
pub trait World {
    /// One pod, if it has an address of its own in this family.
    fn pod(&self, key: &ObjectKey, family: Family) -> Option<PodFacts>;
    /// The names of all pods of a namespace.
    fn pods_of(&self, namespace: &str) -> Vec<ObjectKey>;
    /// The names of all pods.
    fn pods(&self) -> Vec<ObjectKey>;
}

/// Which way packets go, seen from the pod that is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Egress,
    Ingress,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];

    fn of(self, policy: &Policy) -> Option<&Vec<Permission>> {
        match self {
            Self::Egress => policy.egress.as_ref(),
            Self::Ingress => policy.ingress.as_ref(),
        }
    }

    /// Where the isolated pods are looked up.
    fn pods(self) -> Shared {
        match self {
            Self::Egress => Shared::EgressPods,
            Self::Ingress => Shared::IngressPods,
        }
    }

    /// The end of the packet's way that a peer is at.
    fn peer(self) -> Side {
        match self {
            Self::Egress => Side::Destination,
            Self::Ingress => Side::Source,
        }
    }
}

/// Pods that the same policies isolate in one direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    direction: Direction,
    namespace: String,
    policies: BTreeSet<String>,
}

impl Group {
    fn chain(&self, number: u32) -> String {
        let direction = match self.direction {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        };
        format!("{direction}/{}/{number}", self.namespace)
    }
}

/// Pods that are meant by their labels, or a port of them that is meant by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Members {
    pods: BTreeSet<PodPeer>,
    port: Option<(Transport, String)>,
}

/// What the chain of a group refers to.
#[derive(Debug, Default)]
struct References {
    members: Vec<Members>,
    blocks: Vec<Vec<Range>>,
}

/// The policies, and what is planned of them for one family of addresses.
#[derive(Default)]
pub struct Planner {
    family: Family,
    policies: BTreeMap<ObjectKey, Policy>,
    namespaces: BTreeMap<String, Labels>,
    groups: Interner<Group>,
    members: Interner<Members>,
    blocks: Interner<Vec<Range>>,
    /// The groups of each pod of this node that has any.
    grouped: BTreeMap<ObjectKey, Vec<Group>>,
    references: BTreeMap<Group, References>,
    changed_policies: BTreeSet<ObjectKey>,
    changed_namespaces: BTreeSet<String>,
}

impl Planner {
    /// Without any policy yet.
    pub fn new(family: Family) -> Self {
        Self { family, ..Self::default() }
    }

    /// The family that is planned for.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Takes note of a policy as it is now.
    pub fn set_policy(&mut self, key: ObjectKey, policy: Option<Policy>) {
        if self.policies.get(&key) == policy.as_ref() {
            return;
        }
        self.changed_policies.insert(key.clone());
        match policy {
            Some(policy) => drop(self.policies.insert(key, policy)),
            None => drop(self.policies.remove(&key)),
        }
    }

    /// Takes note of a namespace's labels.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        self.changed_namespaces.insert(name.to_owned());
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.to_owned(), labels)),
            None => drop(self.namespaces.remove(name)),
        }
    }

    /// What changes, with these pods and with all that was noted since the last time.
    pub fn plan(&mut self, pods: BTreeSet<ObjectKey>, world: &dyn World) -> Vec<(String, Fragment)> {
        let mut pods = pods;
        let policies = std::mem::take(&mut self.changed_policies);
        let touched: BTreeSet<&str> = policies.iter().map(|key| key.namespace.as_str()).collect();
        for namespace in touched {
            pods.extend(world.pods_of(namespace));
            pods.extend(self.grouped.keys().filter(|key| key.namespace == namespace).cloned());
        }
        for key in &pods {
            self.regroup(key, world.pod(key, self.family).as_ref());
        }
        let mut fragments = self.plan_groups(&policies);
        fragments.extend(self.plan_blocks());
        pods.extend(self.affected(world));
        fragments.extend(pods.iter().map(|key| self.plan_pod(key, world)));
        fragments
    }

    /// Puts a pod into the groups that the policies of its namespace say.
    fn regroup(&mut self, key: &ObjectKey, pod: Option<&PodFacts>) {
        let local = pod.filter(|pod| pod.is_local);
        let groups: Vec<Group> = local.map(|pod| self.groups_of(key, pod)).unwrap_or_default();
        for group in &groups {
            self.groups.take(group);
        }
        let old = if groups.is_empty() { self.grouped.remove(key) } else { self.grouped.insert(key.clone(), groups) };
        for group in old.iter().flatten() {
            self.groups.give_back(group);
        }
    }

    fn groups_of(&self, key: &ObjectKey, pod: &PodFacts) -> Vec<Group> {
        let from = ObjectKey::new(key.namespace.as_str(), "");
        let ours = self.policies.range(from..).take_while(|(policy, _)| policy.namespace == key.namespace);
        let selecting: Vec<_> = ours.filter(|(_, policy)| selects_labels(&policy.pods, Some(&pod.labels))).collect();
        let group = |direction: Direction| {
            let isolating = selecting.iter().filter(|(_, policy)| direction.of(policy).is_some());
            let policies: BTreeSet<String> = isolating.map(|(policy, _)| policy.name.clone()).collect();
            (!policies.is_empty()).then(|| Group { direction, namespace: key.namespace.clone(), policies })
        };
        Direction::BOTH.into_iter().filter_map(group).collect()
    }

    /// The chains of groups that are new, or gone, or whose policies changed.
    fn plan_groups(&mut self, changed: &BTreeSet<ObjectKey>) -> Vec<(String, Fragment)> {
        let owner = |group: &Group, number| format!("policy/{}", group.chain(number));
        let swept = self.groups.sweep();
        let mut fragments = Vec::new();
        for (number, group) in swept.gone {
            self.refer(&group, References::default());
            fragments.push((owner(&group, number), Fragment::default()));
        }
        let has_changed = |group: &Group| {
            changed.iter().any(|key| key.namespace == group.namespace && group.policies.contains(&key.name))
        };
        let again = self.groups.all().filter(|(_, group)| has_changed(group));
        let mut groups: BTreeMap<u32, Group> = again.map(|(number, group)| (number, group.clone())).collect();
        groups.extend(swept.fresh);
        for (number, group) in groups {
            let mut references = References::default();
            let rules = self.rules(&group, &mut references);
            self.refer(&group, references);
            let chains = BTreeMap::from([(group.chain(number), rules)]);
            fragments.push((owner(&group, number), Fragment { chains, ..Fragment::default() }));
        }
        fragments
    }

    /// Remembers what a group's chain refers to now, which was taken already, and gives back what it did before.
    fn refer(&mut self, group: &Group, references: References) {
        let old = match references.members.is_empty() && references.blocks.is_empty() {
            true => self.references.remove(group),
            false => self.references.insert(group.clone(), references),
        };
        if let Some(old) = old {
            old.members.iter().for_each(|members| self.members.give_back(members));
            old.blocks.iter().for_each(|blocks| self.blocks.give_back(blocks));
        }
    }

    /// What these policies together allow returns; the rest is dropped.
    fn rules(&mut self, group: &Group, references: &mut References) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        for name in &group.policies {
            let Some(policy) = self.policies.get(&ObjectKey::new(group.namespace.as_str(), name.as_str())) else {
                continue;
            };
            let own = PodPeer { scope: Scope::Own(group.namespace.clone()), pods: policy.pods.clone() };
            let permissions = group.direction.of(policy).cloned().unwrap_or_default();
            for permission in &permissions {
                let writer = Writer { planner: self, references, direction: group.direction, own: &own };
                for mut rule in writer.conditions(permission) {
                    rule.push(Statement::Do(Verdict::Return));
                    if !rules.contains(&rule) {
                        rules.push(rule);
                    }
                }
            }
        }
        rules.push(vec![Statement::Do(Verdict::Drop)]);
        rules
    }

    /// The sets of address blocks that are new or gone. They never change: other blocks are another set.
    fn plan_blocks(&mut self) -> Vec<(String, Fragment)> {
        let swept = self.blocks.sweep();
        let owner = |number: u32| format!("policy/blocks/{number}");
        let gone = swept.gone.into_iter().map(|(number, _)| (owner(number), Fragment::default()));
        let fresh = swept.fresh.into_iter().map(|(number, ranges)| {
            let elements = ranges.iter().map(|(first, last)| (Key::Range(*first, *last), Value::Nothing)).collect();
            let sets = BTreeMap::from([(blocks_set(number), Set { kind: SetKind::RANGES, elements })]);
            (owner(number), Fragment { sets, ..Fragment::default() })
        });
        gone.chain(fresh).collect()
    }

    /// The pods that may belong to other members than before, though nothing about them has changed.
    fn affected(&mut self, world: &dyn World) -> BTreeSet<ObjectKey> {
        let swept = self.members.sweep();
        let mut namespaces = std::mem::take(&mut self.changed_namespaces);
        for peer in swept.fresh.iter().chain(&swept.gone).flat_map(|(_, members)| &members.pods) {
            match &peer.scope {
                Scope::Labelled(_) => return world.pods().into_iter().collect(),
                Scope::Own(namespace) => namespaces.extend([namespace.clone()]),
            }
        }
        namespaces.iter().flat_map(|namespace| world.pods_of(namespace)).collect()
    }

    /// The elements that are a pod's own.
    fn plan_pod(&self, key: &ObjectKey, world: &dyn World) -> (String, Fragment) {
        let mut fragment = Fragment::default();
        if let Some(pod) = world.pod(key, self.family) {
            for group in self.grouped.get(key).into_iter().flatten() {
                let number = self.groups.number(group).expect("a group that a pod is in is in use");
                let chain = Value::Verdict(Verdict::Jump(group.chain(number)));
                fragment.shared.insert((group.direction.pods(), Key::Address(pod.address)), chain);
            }
            for (number, members) in self.members.all() {
                if members.pods.iter().any(|peer| self.is_meant(peer, &key.namespace, &pod)) {
                    elements(number, members, &pod).for_each(|place| fragment.shared.insert(place, Value::Nothing));
                }
            }
        }
        (format!("{POD_OWNERS}{}/{}", key.namespace, key.name), fragment)
    }

    fn is_meant(&self, peer: &PodPeer, namespace: &str, pod: &PodFacts) -> bool {
        let is_in_scope = match &peer.scope {
            Scope::Own(own) => own == namespace,
            Scope::Labelled(selector) => {
                let labels = self.namespaces.get(namespace);
                labels.is_some() && selects_labels(selector, labels)
            }
        };
        is_in_scope && selects_labels(&peer.pods, Some(&pod.labels))
    }
}

fn blocks_set(number: u32) -> String {
    format!("blocks/{number}")
}

/// What a pod has in the common sets for being a member.
fn elements(number: u32, members: &Members, pod: &PodFacts) -> impl Iterator<Item = (Shared, Key)> {
    let address = pod.address;
    let whole = members.port.is_none().then_some((Shared::Peers, Key::Member(number, address)));
    let named = members.port.iter().flat_map(|(transport, name)| {
        let same = pod.ports.iter().filter(move |(known, of, _)| known == transport && of == name);
        same.map(|(_, _, port)| (Shared::NamedPorts, *transport, *port))
    });
    let named: Vec<_> =
        named.map(|(set, transport, port)| (set, Key::Numbered((address, transport, port), number))).collect();
    whole.into_iter().chain(named)
}

/// Writes the conditions of one permission.
struct Writer<'a> {
    planner: &'a mut Planner,
    references: &'a mut References,
    direction: Direction,
    /// The pods that the policy isolates.
    own: &'a PodPeer,
}

impl Writer<'_> {
    /// One rule for each kind of peer and each port.
    fn conditions(mut self, permission: &Permission) -> Vec<Rule> {
        let addresses = match &permission.peers {
            None => vec![Vec::new()],
            Some(peers) => self.addresses(peers),
        };
        let Some(ports) = &permission.ports else { return addresses };
        let mut rules = Vec::new();
        for port in ports {
            match port {
                Port::All(transport) => {
                    rules.extend(joined(&addresses, &[Statement::Protocol(Is::In, *transport)]));
                }
                Port::Between(transport, first, last) => {
                    let which = [Statement::Protocol(Is::In, *transport), Statement::Port(*first, *last)];
                    rules.extend(joined(&addresses, &which));
                }
                Port::Named(transport, name) => {
                    rules.extend(self.named(permission, &addresses, (*transport, name.clone())));
                }
            }
        }
        rules
    }

    /// A name means the port that the receiving pod calls so.
    fn named(&mut self, permission: &Permission, addresses: &[Rule], port: (Transport, String)) -> Vec<Rule> {
        let set = || Shared::NamedPorts.name().to_owned();
        let port = Some(port);
        if self.direction == Direction::Ingress {
            let number = self.members(Members { pods: BTreeSet::from([self.own.clone()]), port });
            return joined(addresses, &[Statement::NamedPort(number, set())]);
        }
        let pods = match &permission.peers {
            None => BTreeSet::from([PodPeer { scope: Scope::Labelled(Default::default()), pods: Default::default() }]),
            // What is behind an address block has no names.
            Some(peers) if peers.pods.is_empty() => return Vec::new(),
            Some(peers) => peers.pods.clone(),
        };
        vec![vec![Statement::NamedPort(self.members(Members { pods, port }), set())]]
    }

    fn addresses(&mut self, peers: &Peers) -> Vec<Rule> {
        let side = self.direction.peer();
        let mut conditions = Vec::new();
        if !peers.pods.is_empty() {
            let number = self.members(Members { pods: peers.pods.clone(), port: None });
            conditions.push(vec![Statement::Member(side, number, Shared::Peers.name().to_owned())]);
        }
        if !peers.blocks.is_empty() {
            let number = self.planner.blocks.take(&peers.blocks);
            self.references.blocks.push(peers.blocks.clone());
            conditions.push(vec![Statement::Within(side, blocks_set(number))]);
        }
        conditions
    }

    fn members(&mut self, members: Members) -> u32 {
        let number = self.planner.members.take(&members);
        self.references.members.push(members);
        number
    }
}

/// Each of these conditions with these behind it.
fn joined(first: &[Rule], then: &[Statement]) -> Vec<Rule> {
    first.iter().map(|rule| rule.iter().chain(then).cloned().collect()).collect()
}
