//! What is counted per topology domain for the pods of one shape, kept up to date node by node.

use std::collections::{BTreeMap, HashMap};

use crate::plugins::inter_pod::{LONELY, REFUSED, SHUNNED, attractions, is_wanted, refusals};
use crate::plugins::topology_spread::{MISSING, SKEWED};
use crate::plugins::{Ask, Verdict};
use crate::snapshot::{HOSTNAME, NodeInfo};
use crate::spread::{Constraint, has_all_keys, is_scored};

/// What stands for a domain where a node has no label for it.
pub const NONE: i64 = i64::MIN;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Like pods, for the hard spread constraint of that number.
    Hard(usize),
    /// Pods that all required affinity terms mean, for the term of that number.
    Wanted(usize),
    /// Pods that the required anti-affinity term of that number means.
    Shunned(usize),
    /// Terms of pods that are there and do not want this one.
    Refused,
    /// Like pods, for the soft spread constraint of that number.
    Soft(usize),
    /// Weights of preferred terms, of either side.
    Attraction,
}

/// One node's share in a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stand {
    /// The domain; [`NONE`] where the node lacks the label.
    pub domain: i64,
    /// Whether the node makes its domain one that is looked at.
    pub counts: bool,
    /// What is on the node.
    pub tally: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Domain {
    nodes: usize,
    count: i64,
}

/// One topology key with one thing that is counted for it.
#[derive(Debug)]
pub struct Lane {
    /// What is counted.
    pub kind: Kind,
    /// The node label that makes domains.
    pub key: String,
    /// Whether each node is a domain of its own. Nodes with equal counts are then alike, whichever domain they are.
    pub per_node: bool,
    ids: HashMap<String, i64>,
    domains: Vec<Domain>,
    /// How many domains there are of each count, where each node is one.
    levels: BTreeMap<i64, usize>,
    total: i64,
}

impl Lane {
    fn new(kind: Kind, key: &str, hosts_are_unique: bool) -> Self {
        // Soft constraints on hosts are scored node by node even where several nodes claim to be one host.
        let per_node = key == HOSTNAME && (hosts_are_unique || matches!(kind, Kind::Soft(_)));
        let (ids, domains, levels) = Default::default();
        Self { kind, key: key.to_owned(), per_node, ids, domains, levels, total: 0 }
    }

    /// How many domains were ever seen.
    pub fn domains(&self) -> usize {
        self.domains.len()
    }

    /// The domain of a node.
    pub fn domain_of(&mut self, node: &NodeInfo) -> i64 {
        let Some(value) = node.label(&self.key) else { return NONE };
        if self.per_node {
            return 0;
        }
        if let Some(id) = self.ids.get(value) {
            return *id;
        }
        let id = self.domains.len() as i64;
        self.ids.insert(value.to_owned(), id);
        self.domains.push(Domain::default());
        id
    }

    /// Replaces a node's share.
    pub fn replace(&mut self, old: Stand, new: Stand) {
        if old == new {
            return;
        }
        self.shift(old, false);
        self.shift(new, true);
    }

    fn shift(&mut self, stand: Stand, there: bool) {
        if stand.domain == NONE {
            return;
        }
        let tally = if there { stand.tally } else { -stand.tally };
        self.total += tally;
        if !self.per_node {
            let domain = &mut self.domains[stand.domain as usize];
            domain.count += tally;
            match there {
                true => domain.nodes += usize::from(stand.counts),
                false => domain.nodes -= usize::from(stand.counts),
            }
        } else if stand.counts && there {
            *self.levels.entry(stand.tally).or_default() += 1;
        } else if stand.counts {
            let level = self.levels.get_mut(&stand.tally).expect("what goes was there");
            *level -= 1;
            if *level == 0 {
                self.levels.remove(&stand.tally);
            }
        }
    }

    /// What nodes with this stand have in common with others of their cell.
    pub fn mark(&self, stand: Stand) -> i64 {
        if stand.domain != NONE && self.per_node { stand.tally } else { stand.domain }
    }

    /// What is counted in the domain of nodes with that mark; `None` where they have no such label.
    pub fn count(&self, mark: i64) -> Option<i64> {
        match mark {
            NONE => None,
            _ if self.per_node => Some(mark),
            _ => Some(self.domains[mark as usize].count),
        }
    }

    /// The least that any domain counts, as far as `min_domains` lets it be more than nothing; `change` is one node's
    /// share as it is, and as it would be.
    fn lowest(&self, min_domains: usize, change: Option<(Stand, Stand)>) -> i64 {
        let changed = change.filter(|(old, new)| old.domain != NONE && old.counts && old.tally != new.tally);
        let (domains, lowest) = if self.per_node {
            let alone =
                |(level, nodes): &(&i64, &usize)| changed.is_some_and(|(old, _)| old.tally == **level) && **nodes == 1;
            let lowest = self.levels.iter().find(|level| !alone(level)).map(|(level, _)| *level);
            let new = changed.map(|(_, new)| new.tally);
            (self.levels.values().sum(), lowest.into_iter().chain(new).min())
        } else {
            let there = self.domains.iter().enumerate().filter(|(_, domain)| domain.nodes > 0);
            let count = |(id, domain): (usize, &Domain)| match changed {
                Some((old, new)) if old.domain == id as i64 => domain.count + new.tally - old.tally,
                _ => domain.count,
            };
            (there.clone().count(), there.map(count).min())
        };
        if domains < min_domains { 0 } else { lowest.unwrap_or(0) }
    }
}

/// A change of one node that is only thought of: its stands as they are, and as they would be.
pub type WhatIf<'a> = Option<(&'a [Stand], &'a [Stand])>;

/// What all domains have in common: what verdicts compare with.
#[derive(Debug)]
pub struct Level {
    lowest: Vec<i64>,
    is_first: bool,
}

/// The lanes of one shape; those that filter come first.
#[derive(Debug, Default)]
pub struct Lanes {
    all: Vec<Lane>,
    hosts_are_unique: bool,
}

/// A topology key that pods elsewhere brought up, for which there is no lane yet.
pub type NewLane = (Kind, String);

impl Lanes {
    /// The lanes that a pod's own terms and constraints need.
    pub fn new(ask: &Ask, soft: &[Constraint]) -> Self {
        let mut lanes = Self { all: Vec::new(), hosts_are_unique: ask.snapshot.hosts_are_unique() };
        let pod = ask.pod;
        if ask.profile.filters("PodTopologySpread") {
            let hard = pod.hard_spread.iter().enumerate();
            hard.for_each(|(at, constraint)| lanes.add(Kind::Hard(at), &constraint.key));
        }
        if ask.profile.filters("InterPodAffinity") {
            let wanted = pod.required_affinity.iter().enumerate();
            wanted.for_each(|(at, term)| lanes.add(Kind::Wanted(at), &term.topology_key));
            let shunned = pod.required_anti_affinity.iter().enumerate();
            shunned.for_each(|(at, term)| lanes.add(Kind::Shunned(at), &term.topology_key));
        }
        if ask.profile.weight("PodTopologySpread") > 0 {
            soft.iter().enumerate().for_each(|(at, constraint)| lanes.add(Kind::Soft(at), &constraint.key));
        }
        lanes
    }

    /// Adds a lane.
    pub fn add(&mut self, kind: Kind, key: &str) {
        self.all.push(Lane::new(kind, key, self.hosts_are_unique));
    }

    /// Forgets all nodes.
    pub fn clear(&mut self) {
        for lane in &mut self.all {
            *lane = Lane::new(lane.kind, &lane.key, self.hosts_are_unique);
        }
    }

    /// The lanes.
    pub fn all(&self) -> &[Lane] {
        &self.all
    }

    /// The lanes, to be changed.
    pub fn all_mut(&mut self) -> &mut [Lane] {
        &mut self.all
    }

    /// Whether the world is still such as the lanes take it to be.
    pub fn still_hold(&self, ask: &Ask) -> bool {
        self.hosts_are_unique == ask.snapshot.hosts_are_unique()
    }

    /// Whether a node counts in a lane, and what is on it; also which lanes are missing.
    pub fn tally(&self, ask: &Ask, soft: &[Constraint], node: &NodeInfo, out: &mut Vec<Stand>) -> Option<NewLane> {
        out.clear();
        out.extend(self.all.iter().map(|lane| self.share(lane.kind, ask, soft, node)));
        if node.load.with_affinity == 0 && ask.pod.preferred_affinity.is_empty() {
            return None;
        }
        let mut missing = None;
        let mut add = |kind: Kind, key: &str, amount: i64, out: &mut Vec<Stand>| match self
            .all
            .iter()
            .position(|lane| lane.kind == kind && lane.key == key)
        {
            Some(at) => out[at].tally += amount,
            None => missing = Some((kind, key.to_owned())),
        };
        if ask.profile.filters("InterPodAffinity") {
            refusals(ask, node, |key| add(Kind::Refused, key, 1, out));
        }
        if ask.profile.weight("InterPodAffinity") > 0 {
            attractions(ask, node, |key, weight| add(Kind::Attraction, key, weight, out));
        }
        missing
    }

    fn share(&self, kind: Kind, ask: &Ask, soft: &[Constraint], node: &NodeInfo) -> Stand {
        let (pod, pods) = (ask.pod, &node.load.pods);
        let (counts, tally) = match kind {
            Kind::Hard(at) => {
                let constraint = &pod.hard_spread[at];
                let counts = has_all_keys(&pod.hard_spread, node) && constraint.includes(ask, node);
                (counts, if counts { constraint.count_on(pod, node) } else { 0 })
            }
            Kind::Soft(at) => {
                let constraint = &soft[at];
                let counts = is_scored(ask, soft, node) && constraint.includes(ask, node);
                let here = counts || constraint.key == HOSTNAME;
                (counts, if here { constraint.count_on(pod, node) } else { 0 })
            }
            Kind::Wanted(_) => (true, pods.iter().filter(|other| is_wanted(ask, other)).count() as i64),
            Kind::Shunned(at) => {
                let term = &pod.required_anti_affinity[at];
                let meant = pods.iter().filter(|other| term.matches(other, &ask.snapshot.namespaces));
                (true, meant.count() as i64)
            }
            Kind::Refused | Kind::Attraction => (true, 0),
        };
        Stand { domain: NONE, counts, tally }
    }

    /// What is to be compared with, as it is or with one node changed.
    pub fn level(&self, ask: &Ask, what_if: WhatIf) -> Level {
        let (mut lowest, mut wanted) = (Vec::new(), 0);
        for (at, lane) in self.all.iter().enumerate() {
            let change = what_if.map(|(old, new)| (old[at], new[at]));
            match lane.kind {
                Kind::Hard(number) => lowest.push(lane.lowest(ask.pod.hard_spread[number].min_domains, change)),
                Kind::Wanted(_) => {
                    let change = change.filter(|(old, _)| old.domain != NONE);
                    wanted += lane.total + change.map_or(0, |(old, new)| new.tally - old.tally);
                }
                _ => {}
            }
        }
        Level { lowest, is_first: wanted == 0 && is_wanted(ask, ask.pod) }
    }

    /// Whether the domains of a node take the pod; `count` tells what is in its domain of the lane of that number.
    /// The plugin's name comes with its verdict.
    pub fn verdict(
        &self,
        ask: &Ask,
        level: &Level,
        count: impl Fn(usize) -> Option<i64>,
    ) -> Result<(), (&'static str, Verdict)> {
        const AFFINITY: &str = "InterPodAffinity";
        let for_good = |plugin, reason| Err((plugin, Verdict::pass_or_for_good(false, reason)));
        let for_now = |plugin, reason| Err((plugin, Verdict::pass_if(false, reason)));
        let (mut lonely, mut shunned, mut refused) = (false, false, false);
        for (at, lane) in self.all.iter().enumerate() {
            match (lane.kind, count(at)) {
                (Kind::Hard(_), None) => return for_good("PodTopologySpread", MISSING),
                (Kind::Hard(number), Some(here)) => {
                    let constraint = &ask.pod.hard_spread[number];
                    if here + constraint.itself(ask.pod) - level.lowest[number] > constraint.max_skew {
                        return for_now("PodTopologySpread", SKEWED);
                    }
                }
                (Kind::Wanted(_), None) => return for_good(AFFINITY, LONELY),
                (Kind::Wanted(_), Some(here)) => lonely |= here <= 0,
                (Kind::Shunned(_), Some(here)) => shunned |= here > 0,
                (Kind::Refused, Some(here)) => refused |= here > 0,
                _ => {}
            }
        }
        if lonely && !level.is_first {
            return for_good(AFFINITY, LONELY);
        }
        if shunned {
            return for_now(AFFINITY, SHUNNED);
        }
        if refused { for_now(AFFINITY, REFUSED) } else { Ok(()) }
    }
}
