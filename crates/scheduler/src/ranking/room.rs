//! On which node making room for a pod hurts least, for pods of one shape.
//!
//! Who would have to go from a node depends on that node alone, unless the pod has rules that concern other nodes: so
//! the answer for each node is kept, in order of how much it hurts, until the node changes. For pods with such rules it
//! is looked for anew, on as many nodes as upstream looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Place, Ranking, load_verdict, reasons};
use crate::plugins::{Ask, Verdict};
use crate::pod::PodInfo;
use crate::preempt::{Cost, NO_VICTIMS, UNHELPFUL, cost, in_order_of_importance, pointless};
use crate::ranking::lanes::Stand;
use crate::snapshot::{NodeInfo, Snapshot};

/// What is kept of each node.
#[derive(Debug, Default)]
pub struct Room {
    rows: Vec<(u64, Outcome)>,
    best: BTreeSet<(Cost, u32)>,
    seen: u64,
}

#[derive(Debug, Clone, Copy, Default)]
enum Outcome {
    /// No eviction helps, or nothing is known yet.
    #[default]
    Unhelpful,
    /// It was tried, and this is why it does not help.
    Refused(u32),
    /// It would help, at this cost.
    Helps(Cost),
}

/// A node, and who would have to go from there.
pub type Victims = (usize, Vec<Arc<PodInfo>>);

impl Ranking {
    /// The node where making room hurts least. To be [refreshed](Self::refresh) before.
    ///
    /// # Errors
    /// No eviction helps; the text tells why.
    pub fn make_room(&mut self, snapshot: &Snapshot, random: u64) -> Result<Victims, String> {
        let (pod, profile) = (self.pod.clone(), self.profile.clone());
        let ask = Ask { pod: &pod, snapshot, profile: &profile };
        if !self.lanes.all().is_empty() {
            return self.search_room(&ask, random);
        }
        self.refresh_room(&ask);
        let room = self.room.as_ref().expect("it was refreshed just now");
        if let Some((_, at)) = room.best.first() {
            let at = *at as usize;
            let (_, victims) = self.victims(&ask, at).expect("what is known of a node holds until it changes");
            return Ok((at, victims));
        }
        let mut told = BTreeMap::new();
        for (_, outcome) in &room.rows {
            let Outcome::Refused(number) = outcome else {
                *told.entry(UNHELPFUL.into()).or_default() += 1;
                continue;
            };
            for reason in reasons(&self.rejections[*number as usize].verdict) {
                *told.entry(reason.clone()).or_default() += 1;
            }
        }
        Err(pointless(snapshot.nodes().len(), &told))
    }

    fn refresh_room(&mut self, ask: &Ask) {
        let mut room = self.room.take().unwrap_or_default();
        let known = ask.snapshot.changed_since(room.seen).filter(|_| !room.rows.is_empty());
        match known {
            Some(changed) => changed.iter().for_each(|at| self.reconsider(&mut room, *at as usize, ask)),
            None => (0..room.rows.len().max(self.rows.len())).for_each(|at| self.reconsider(&mut room, at, ask)),
        }
        room.rows.truncate(self.rows.len());
        room.seen = ask.snapshot.changes();
        self.room = Some(room);
    }

    fn reconsider(&mut self, room: &mut Room, at: usize, ask: &Ask) {
        let generation = self.rows.get(at).map(|row| row.generation);
        if at >= room.rows.len() {
            room.rows.resize(at + 1, Default::default());
        }
        if generation == Some(room.rows[at].0) {
            return;
        }
        let key = u32::try_from(at).expect("fewer nodes than that");
        if let Outcome::Helps(cost) = room.rows[at].1 {
            room.best.remove(&(cost, key));
        }
        let Some(generation) = generation else {
            room.rows[at] = Default::default();
            return;
        };
        let outcome = if self.is_resolvable(at) {
            match self.victims(ask, at) {
                Ok((cost, _)) => Outcome::Helps(cost),
                Err((plugin, verdict)) => Outcome::Refused(self.rejection(plugin, verdict)),
            }
        } else {
            Outcome::Unhelpful
        };
        if let Outcome::Helps(cost) = outcome {
            room.best.insert((cost, key));
        }
        room.rows[at] = (generation, outcome);
    }

    /// Whether the node was turned down for something that evictions may change.
    fn is_resolvable(&self, at: usize) -> bool {
        match self.rows[at].place {
            Place::Rejected(number) => matches!(self.rejections[number as usize].verdict, Verdict::Reject(_)),
            // By itself it would do: that is up to its domains.
            Place::In(_) => true,
            Place::Nowhere => false,
        }
    }

    /// Looks at nodes one by one, beginning anywhere, until enough are found.
    fn search_room(&mut self, ask: &Ask, random: u64) -> Result<Victims, String> {
        let nodes = self.rows.len();
        let (percent, least) = ask.profile.candidates;
        let wanted = (nodes * percent / 100).max(least);
        let (mut best, mut found): (Option<(Cost, Victims)>, usize) = (None, 0);
        let mut told = BTreeMap::new();
        let start = if nodes == 0 { 0 } else { (random % nodes as u64) as usize };
        let level = self.lanes.level(ask, None);
        for at in (start..nodes).chain(0..start) {
            let for_good = || match self.rows[at].place {
                Place::In(spot) => {
                    let cell = &self.cells.all()[spot.cell as usize];
                    let verdict = self.lanes.verdict(ask, &level, |lane| self.count(cell, lane));
                    matches!(verdict, Err((_, Verdict::RejectForGood(_))))
                }
                _ => false,
            };
            if !self.is_resolvable(at) || for_good() {
                *told.entry(UNHELPFUL.into()).or_default() += 1;
                continue;
            }
            match self.victims(ask, at) {
                Ok((cost, victims)) => {
                    found += 1;
                    if best.as_ref().is_none_or(|(lowest, _)| cost < *lowest) {
                        best = Some((cost, (at, victims)));
                    }
                }
                Err((_, verdict)) => {
                    reasons(&verdict).iter().for_each(|reason| *told.entry(reason.clone()).or_default() += 1);
                }
            }
            if found >= wanted {
                break;
            }
        }
        best.map(|(_, victims)| victims).ok_or_else(|| pointless(nodes, &told))
    }

    /// The fewest pods of lower priority without which the pod fits on the node; the most important are spared first,
    /// and of all those first whose going would break a budget.
    fn victims(&self, ask: &Ask, at: usize) -> Result<(Cost, Vec<Arc<PodInfo>>), (&'static str, Verdict)> {
        let mut trial = ask.snapshot.nodes()[at].clone();
        let mut lower: Vec<_> = trial.load.pods.iter().filter(|p| p.priority < ask.pod.priority).cloned().collect();
        if lower.is_empty() {
            return Err(("DefaultPreemption", Verdict::RejectForGood(vec![NO_VICTIMS.into()])));
        }
        lower.iter().for_each(|pod| drop(trial.load.remove(&pod.uid)));
        if let Some(refusal) = self.refusal(ask, at, &trial) {
            return Err(refusal);
        }
        let lower = in_order_of_importance(&mut lower, &ask.snapshot.budgets);
        let (mut victims, mut broken) = (Vec::new(), 0);
        for (pod, breaks) in lower {
            trial.load.add(pod.clone());
            if self.refusal(ask, at, &trial).is_some() {
                trial.load.remove(&pod.uid);
                broken += usize::from(breaks);
                victims.push(pod);
            }
        }
        Ok((cost(broken, &victims), victims))
    }

    /// Why the pod could not go to the node if that were as `trial` is.
    fn refusal(&self, ask: &Ask, at: usize, trial: &NodeInfo) -> Option<(&'static str, Verdict)> {
        if let Some(number) = self.rows[at].fixed.rejection {
            let rejection = &self.rejections[number as usize];
            return Some((rejection.plugin, rejection.verdict.clone()));
        }
        let filled = trial.with_nominated(ask.pod);
        if let Some(refusal) = load_verdict(ask, filled.as_ref().unwrap_or(trial)) {
            return Some(refusal);
        }
        let lanes = self.lanes.all();
        if lanes.is_empty() {
            return None;
        }
        let old = &self.stands[at * lanes.len()..(at + 1) * lanes.len()];
        let mut new: Vec<Stand> = Vec::new();
        // A lane can only be missing for a pod that the node has not; the trial has none such.
        let missing = self.lanes.tally(ask, &self.soft, trial, &mut new);
        debug_assert!(missing.is_none());
        new.iter_mut().zip(old).for_each(|(new, old)| new.domain = old.domain);
        let level = self.lanes.level(ask, Some((old, &new)));
        let count = |lane: usize| {
            let change = new[lane].tally - old[lane].tally;
            lanes[lane].count(lanes[lane].mark(old[lane])).map(|count| count + change)
        };
        self.lanes.verdict(ask, &level, count).err()
    }
}
