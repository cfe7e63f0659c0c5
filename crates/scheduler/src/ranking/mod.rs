//! All nodes as pods of one shape see them, ready for the next such pod.
//!
//! A [`Ranking`] keeps a conclusion about each node: why it will not do, or how good it is by itself. Only nodes that
//! changed since are looked at again, so that one more pod of a ReplicaSet costs a look at the node that took the one
//! before. What depends on other nodes is kept apart: nodes that share their topology domains and the scores that are
//! weighed against each other are one [`Cell`](cells::Cell), and a decision goes over cells, not over nodes. Pods
//! without such rules have one cell, pods spread over zones one for each zone. Where each node is a domain of its own,
//! nodes with equal counts share a cell.
//!
//! The results are those of the plain model in [`crate::cycle`], for all nodes rather than a part of them.

mod cache;
mod cells;
mod lanes;
mod room;

use std::borrow::Cow;
#[cfg(test)]
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

pub use cache::Rankings;

use crate::cycle::Unschedulable;
use crate::plugins::inter_pod;
use crate::plugins::topology_spread;
use crate::plugins::{Ask, Filter, Normalize, OfNode, Score, Verdict, image_counts};
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::ranking::cells::{Cell, Cells, Spot};
use crate::ranking::lanes::{Kind, Lanes, NONE, NewLane, Stand};
use crate::ranking::room::Room;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::spread::{Constraint, is_scored};

/// Plugins whose raw scores of a node are weighed against those of others: taints and node affinity.
const RAWS: usize = 2;

/// What is concluded about one node.
#[derive(Debug, Clone, Copy)]
struct Row {
    generation: u64,
    node_generation: u64,
    fixed: Fixed,
    place: Place,
}

/// What follows from the node itself, whatever runs there.
#[derive(Debug, Clone, Copy)]
struct Fixed {
    rejection: Option<u32>,
    score: i64,
    raws: [i64; RAWS],
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Nothing is concluded yet.
    Nowhere,
    /// The node will not do, for the reason of that number.
    Rejected(u32),
    /// It would do, as far as it alone is concerned.
    In(Spot),
}

const UNSEEN: Row = Row {
    generation: 0,
    node_generation: 0,
    fixed: Fixed { rejection: None, score: 0, raws: [0; RAWS] },
    place: Place::Nowhere,
};

/// A plugin's verdict, and how many nodes it was given on.
#[derive(Debug)]
struct Rejection {
    plugin: &'static str,
    verdict: Verdict,
    nodes: usize,
}

/// The conclusions for pods of one shape.
#[derive(Debug)]
pub struct Ranking {
    pod: Arc<PodInfo>,
    profile: Arc<Profile>,
    soft: Vec<Constraint>,
    lanes: Lanes,
    rows: Vec<Row>,
    /// For each node one stand in each lane.
    stands: Vec<Stand>,
    cells: Cells,
    rejections: Vec<Rejection>,
    rejection_index: HashMap<(&'static str, Verdict), u32>,
    /// How many changes of the snapshot were taken in.
    seen: u64,
    ground: (u64, u64),
    images: Vec<usize>,
    room: Option<Room>,
}

/// A plugin whose scores of a node are weighed against those of others.
type Weighed = (OfNode<i64>, Normalize, i64);

/// The cells that a pod can go to, with what counts for all nodes of each.
type Standing<'a> = Vec<(&'a Cell, i64)>;

impl Ranking {
    /// Looks at all nodes.
    pub fn new(pod: Arc<PodInfo>, profile: Arc<Profile>, snapshot: &Snapshot) -> Self {
        let ask = Ask { pod: &pod, snapshot, profile: &profile };
        let soft = ask.soft_spread().into_owned();
        let mut ranking = Self {
            lanes: Lanes::new(&ask, &soft),
            soft,
            rows: Vec::new(),
            stands: Vec::new(),
            cells: Cells::default(),
            rejections: Vec::new(),
            rejection_index: HashMap::new(),
            seen: 0,
            ground: snapshot.ground(),
            images: Vec::new(),
            room: None,
            pod,
            profile,
        };
        ranking.look_at_all(snapshot);
        ranking
    }

    /// Takes in what changed since the last time.
    pub fn refresh(&mut self, snapshot: &Snapshot) {
        let (pod, profile) = (self.pod.clone(), self.profile.clone());
        let ask = Ask { pod: &pod, snapshot, profile: &profile };
        if self.ground != snapshot.ground() || !self.lanes.still_hold(&ask) {
            *self = Self::new(pod, profile, snapshot);
            return;
        }
        if self.images != image_counts(&pod, snapshot) {
            self.rows.iter_mut().for_each(|row| (row.generation, row.node_generation) = (0, 0));
            return self.look_at_all(snapshot);
        }
        let Some(changed) = snapshot.changed_since(self.seen) else { return self.look_at_all(snapshot) };
        for at in changed {
            if let Some(lane) = self.look_at(*at as usize, &ask) {
                self.add_lane(lane);
                return self.look_at_all(snapshot);
            }
        }
        self.forget_beyond(snapshot.nodes().len());
        self.seen = snapshot.changes();
    }

    fn forget_beyond(&mut self, nodes: usize) {
        self.rows.truncate(nodes);
        self.stands.truncate(nodes * self.lanes.all().len());
    }

    fn look_at_all(&mut self, snapshot: &Snapshot) {
        let (pod, profile) = (self.pod.clone(), self.profile.clone());
        let ask = Ask { pod: &pod, snapshot, profile: &profile };
        self.images = image_counts(&pod, snapshot);
        let mut at = 0;
        while at < snapshot.nodes().len().max(self.rows.len()) {
            match self.look_at(at, &ask) {
                Some(lane) => {
                    self.add_lane(lane);
                    at = 0;
                }
                None => at += 1,
            }
        }
        self.forget_beyond(snapshot.nodes().len());
        self.seen = snapshot.changes();
    }

    /// Starts anew with one more lane.
    fn add_lane(&mut self, (kind, key): NewLane) {
        self.lanes.add(kind, &key);
        self.lanes.clear();
        self.cells = Cells::default();
        self.rejections.iter_mut().for_each(|rejection| rejection.nodes = 0);
        self.rows.clear();
        self.stands.clear();
        self.room = None;
    }

    /// Draws the conclusions about one node, unless they stand already.
    fn look_at(&mut self, at: usize, ask: &Ask) -> Option<NewLane> {
        let lanes = self.lanes.all().len();
        let Some(node) = ask.snapshot.nodes().get(at) else {
            if at < self.rows.len() {
                self.leave(at);
                self.restand(at, &vec![Stand { domain: NONE, ..Stand::default() }; lanes]);
            }
            return None;
        };
        if at >= self.rows.len() {
            self.rows.resize(at + 1, UNSEEN);
            self.stands.resize((at + 1) * lanes, Stand { domain: NONE, ..Stand::default() });
        }
        if self.rows[at].generation == node.generation {
            return None;
        }
        if lanes > 0 || node.load.with_affinity > 0 || !ask.pod.preferred_affinity.is_empty() {
            let mut stands = Vec::new();
            if let Some(missing) = self.lanes.tally(ask, &self.soft, node, &mut stands) {
                return Some(missing);
            }
            let domains = self.lanes.all_mut().iter_mut().zip(&mut stands);
            domains.for_each(|(lane, stand)| stand.domain = lane.domain_of(node));
            self.restand(at, &stands);
        }
        self.leave(at);
        if self.rows[at].node_generation != node.node_generation {
            self.rows[at].fixed = self.fixed(ask, node);
            self.rows[at].node_generation = node.node_generation;
        }
        self.rows[at].place = self.place(at, ask, node);
        self.rows[at].generation = node.generation;
        None
    }

    fn restand(&mut self, at: usize, new: &[Stand]) {
        let old = &mut self.stands[at * new.len()..(at + 1) * new.len()];
        for ((lane, old), new) in self.lanes.all_mut().iter_mut().zip(old).zip(new) {
            lane.replace(*old, *new);
            *old = *new;
        }
    }

    /// Takes a node out of where it is.
    fn leave(&mut self, at: usize) {
        match std::mem::replace(&mut self.rows[at].place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::Rejected(number) => self.rejections[number as usize].nodes -= 1,
            Place::In(spot) => {
                if let Some(moved) = self.cells.take(spot) {
                    self.rows[moved as usize].place = Place::In(spot);
                }
            }
        }
    }

    fn fixed(&mut self, ask: &Ask, node: &NodeInfo) -> Fixed {
        let mut fixed = UNSEEN.fixed;
        for enabled in &ask.profile.plugins {
            if let Filter::Node(rule) = enabled.plugin.filter
                && enabled.filters
                && let verdict = rule(ask, node)
                && verdict != Verdict::Pass
            {
                fixed.rejection = Some(self.rejection(enabled.plugin.name, verdict));
                return fixed;
            }
        }
        for enabled in &ask.profile.plugins {
            if let Score::Node(rule, Normalize::Not) = enabled.plugin.score
                && enabled.weight > 0
            {
                fixed.score += enabled.weight * rule(ask, node);
            }
        }
        for (raw, (rule, ..)) in fixed.raws.iter_mut().zip(weighed(ask.profile)) {
            *raw = rule(ask, node);
        }
        fixed
    }

    fn place(&mut self, at: usize, ask: &Ask, node: &NodeInfo) -> Place {
        let fixed = self.rows[at].fixed;
        let rejection = match fixed.rejection {
            Some(number) => Some(number),
            None => {
                let filled = node.with_nominated(ask.pod);
                load_verdict(ask, filled.as_ref().unwrap_or(node)).map(|(plugin, v)| self.rejection(plugin, v))
            }
        };
        if let Some(number) = rejection {
            self.rejections[number as usize].nodes += 1;
            return Place::Rejected(number);
        }
        let mut score = fixed.score;
        for enabled in &ask.profile.plugins {
            if let Score::Load(rule) = enabled.plugin.score
                && enabled.weight > 0
            {
                score += enabled.weight * rule(ask, node);
            }
        }
        let mut key = [0i64; 16];
        let mut long = Vec::new();
        let lanes = self.lanes.all();
        let length = RAWS + 1 + lanes.len();
        let key = if length <= key.len() {
            &mut key[..length]
        } else {
            long.resize(length, 0);
            &mut long[..]
        };
        key[..RAWS].copy_from_slice(&fixed.raws);
        key[RAWS] = i64::from(!is_scored(ask, &self.soft, node));
        let stands = &self.stands[at * lanes.len()..];
        for ((mark, lane), stand) in key[RAWS + 1..].iter_mut().zip(lanes).zip(stands) {
            *mark = lane.mark(*stand);
        }
        Place::In(self.cells.put(u32::try_from(at).expect("fewer nodes than that"), key, score))
    }

    fn rejection(&mut self, plugin: &'static str, verdict: Verdict) -> u32 {
        let fresh = self.rejections.len();
        *self.rejection_index.entry((plugin, verdict)).or_insert_with_key(|(_, verdict)| {
            self.rejections.push(Rejection { plugin, verdict: verdict.clone(), nodes: 0 });
            u32::try_from(fresh).expect("fewer reasons than that")
        })
    }

    /// The cells whose domains take the pod.
    fn feasible(&self, ask: &Ask) -> (Vec<&Cell>, Vec<(&Cell, &'static str, Verdict)>) {
        let level = self.lanes.level(ask, None);
        let (mut feasible, mut refused) = (Vec::new(), Vec::new());
        for cell in self.cells.all().iter().filter(|cell| cell.nodes > 0) {
            match self.lanes.verdict(ask, &level, |lane| self.count(cell, lane)) {
                Ok(()) => feasible.push(cell),
                Err((plugin, verdict)) => refused.push((cell, plugin, verdict)),
            }
        }
        (feasible, refused)
    }

    fn count(&self, cell: &Cell, lane: usize) -> Option<i64> {
        self.lanes.all()[lane].count(cell.key[RAWS + 1 + lane])
    }

    /// What the nodes of each cell have in common, brought into range and weighted.
    fn standing<'a>(&self, ask: &Ask, feasible: Vec<&'a Cell>) -> Standing<'a> {
        let mut standing: Standing = feasible.into_iter().map(|cell| (cell, 0)).collect();
        for (at, (_, normalize, weight)) in weighed(ask.profile).enumerate() {
            let largest = standing.iter().map(|(cell, _)| cell.key[at]).max().unwrap_or(0);
            standing.iter_mut().for_each(|(cell, sum)| *sum += weight * normalize.one(cell.key[at], largest));
        }
        if self.lanes.all().iter().any(|lane| lane.kind == Kind::Attraction) {
            self.attract(ask, &mut standing);
        }
        if self.lanes.all().iter().any(|lane| matches!(lane.kind, Kind::Soft(_))) {
            self.even_out(ask, &mut standing);
        }
        standing
    }

    fn attract(&self, ask: &Ask, standing: &mut Standing) {
        let raw = |cell: &Cell| -> i64 {
            let lanes = self.lanes.all().iter().enumerate().filter(|(_, lane)| lane.kind == Kind::Attraction);
            lanes.filter_map(|(at, _)| self.count(cell, at)).sum()
        };
        let raws: Vec<_> = standing.iter().map(|(cell, _)| raw(cell)).collect();
        let (lowest, highest) = (raws.iter().min().copied().unwrap_or(0), raws.iter().max().copied().unwrap_or(0));
        let weight = ask.profile.weight("InterPodAffinity");
        for ((_, sum), raw) in standing.iter_mut().zip(raws) {
            *sum += weight * inter_pod::normalized(raw, lowest, highest);
        }
    }

    fn even_out(&self, ask: &Ask, standing: &mut Standing) {
        let is_scored = |cell: &Cell| cell.key[RAWS] == 0;
        let in_play: usize = standing.iter().filter(|(cell, _)| is_scored(cell)).map(|(cell, _)| cell.nodes).sum();
        let lanes = self.lanes.all().iter().enumerate();
        let lanes: Vec<_> = lanes
            .filter_map(|(at, lane)| match lane.kind {
                Kind::Soft(number) if lane.per_node => Some((at, &self.soft[number], in_play)),
                Kind::Soft(number) => {
                    // One more place than there are domains: for nodes without the label.
                    let mut there = vec![false; lane.domains() + 1];
                    for (cell, _) in standing.iter().filter(|(cell, _)| is_scored(cell)) {
                        let mark = cell.key[RAWS + 1 + at];
                        there[if mark == NONE { lane.domains() } else { mark as usize }] = true;
                    }
                    Some((at, &self.soft[number], there.into_iter().filter(|there| *there).count()))
                }
                _ => None,
            })
            .collect();
        let cost = |cell: &Cell| {
            let each = lanes.iter().map(|(at, constraint, domains)| {
                self.count(cell, *at).map_or(0.0, |count| constraint.cost(count, *domains))
            });
            // Summed from the first on, as the model does: floating point depends on the order.
            each.fold(0.0, |sum, cost| sum + cost).round() as i64
        };
        let raws: Vec<_> = standing.iter().map(|(cell, _)| is_scored(cell).then(|| cost(cell))).collect();
        let lowest = raws.iter().flatten().min().copied().unwrap_or(0);
        let highest = raws.iter().flatten().max().copied().unwrap_or(0);
        let weight = ask.profile.weight("PodTopologySpread");
        for ((_, sum), raw) in standing.iter_mut().zip(raws) {
            *sum += weight * topology_spread::normalized(raw, lowest, highest);
        }
    }

    /// The position of the best node; `random` breaks ties. To be [refreshed](Self::refresh) before.
    ///
    /// # Errors
    /// No node can take the pod.
    pub fn choose(&self, snapshot: &Snapshot, random: u64) -> Result<usize, Unschedulable> {
        let ask = Ask { pod: &self.pod, snapshot, profile: &self.profile };
        let (feasible, refused) = self.feasible(&ask);
        if feasible.is_empty() {
            return Err(self.failure(snapshot, &refused));
        }
        let standing = self.standing(&ask, feasible);
        let tops = || standing.iter().filter_map(|(cell, sum)| cell.top().map(|(score, nodes)| (sum + score, nodes)));
        let best = tops().map(|(total, _)| total).max().unwrap_or(0);
        let ties = || tops().filter(|(total, _)| *total == best).map(|(_, nodes)| nodes);
        let mut pick = (random % ties().map(|nodes| nodes.len() as u64).sum::<u64>().max(1)) as usize;
        for nodes in ties() {
            match nodes.get(pick) {
                Some(node) => return Ok(*node as usize),
                None => pick -= nodes.len(),
            }
        }
        unreachable!("a feasible cell has nodes, and one of them is the best")
    }

    /// Whether the node of that position can take the pod. To be [refreshed](Self::refresh) before.
    pub fn takes(&self, at: usize, snapshot: &Snapshot) -> bool {
        let ask = Ask { pod: &self.pod, snapshot, profile: &self.profile };
        let Some(Row { place: Place::In(spot), .. }) = self.rows.get(at) else { return false };
        let cell = &self.cells.all()[spot.cell as usize];
        self.lanes.verdict(&ask, &self.lanes.level(&ask, None), |lane| self.count(cell, lane)).is_ok()
    }

    /// Whether other pods matter to the pod by what they are.
    pub fn looks_around(&self) -> bool {
        !self.lanes.all().is_empty()
    }

    fn failure(&self, snapshot: &Snapshot, refused: &[(&Cell, &'static str, Verdict)]) -> Unschedulable {
        let mut failure = Unschedulable { nodes: snapshot.nodes().len(), ..Unschedulable::default() };
        let alone = self.rejections.iter().map(|rejection| (rejection.plugin, &rejection.verdict, rejection.nodes));
        let together = refused.iter().map(|(cell, plugin, verdict)| (*plugin, verdict, cell.nodes));
        for (plugin, verdict, nodes) in alone.chain(together).filter(|(.., nodes)| *nodes > 0) {
            failure.note(plugin, reasons(verdict), nodes);
        }
        failure
    }

    /// All feasible nodes with their scores.
    #[cfg(test)]
    pub fn totals(&self, snapshot: &Snapshot) -> BTreeMap<usize, i64> {
        let ask = Ask { pod: &self.pod, snapshot, profile: &self.profile };
        let (feasible, _) = self.feasible(&ask);
        let standing = self.standing(&ask, feasible);
        standing
            .iter()
            .flat_map(|(cell, sum)| cell.all().map(move |(node, score)| (node as usize, sum + score)))
            .collect()
    }
}

/// The plugins whose scores of a node are weighed against those of others, in the order of [`Fixed::raws`].
fn weighed(profile: &Profile) -> impl Iterator<Item = Weighed> {
    profile.plugins.iter().filter_map(|enabled| match enabled.plugin.score {
        Score::Node(rule, normalize) if normalize != Normalize::Not && enabled.weight > 0 => {
            Some((rule, normalize, enabled.weight))
        }
        _ => None,
    })
}

/// The first plugin that turns the node down for what runs there.
fn load_verdict(ask: &Ask, node: &NodeInfo) -> Option<(&'static str, Verdict)> {
    ask.profile.plugins.iter().filter(|enabled| enabled.filters).find_map(|enabled| {
        let Filter::Load(rule) = enabled.plugin.filter else { return None };
        let verdict = rule(ask, node);
        (verdict != Verdict::Pass).then_some((enabled.plugin.name, verdict))
    })
}

/// The reasons of a verdict.
pub fn reasons(verdict: &Verdict) -> &[Cow<'static, str>] {
    match verdict {
        Verdict::Pass => &[],
        Verdict::Reject(reasons) | Verdict::RejectForGood(reasons) => reasons,
    }
}
