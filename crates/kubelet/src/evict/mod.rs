//! Which Pods the node ends when it runs short of something, decided purely: thresholds, pressure conditions, the order of Pods
//! and the words that they are told.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>.

mod rank;
pub mod storage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skiff_base::quantity::Format;
use skiff_base::{Quantity, Timestamp};

use crate::admission::is_critical;
use crate::config::uid;
use crate::options::Options;
use crate::pod::types::Eviction;

/// Something that can run short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    MemoryAvailable,
    AllocatableMemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

/// What the node's status says of a shortage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    /// The condition's type.
    pub fn name(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pid => "PIDPressure",
        }
    }
}

impl Signal {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "memory.available" => Self::MemoryAvailable,
            "nodefs.available" => Self::NodeFsAvailable,
            "nodefs.inodesFree" => Self::NodeFsInodesFree,
            "imagefs.available" => Self::ImageFsAvailable,
            "imagefs.inodesFree" => Self::ImageFsInodesFree,
            "pid.available" => Self::PidAvailable,
            _ => return None,
        })
    }

    /// The condition that it sets.
    pub fn pressure(self) -> Pressure {
        match self {
            Self::MemoryAvailable | Self::AllocatableMemoryAvailable => Pressure::Memory,
            Self::PidAvailable => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }

    /// The resource that messages name.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable | Self::AllocatableMemoryAvailable => "memory",
            Self::NodeFsAvailable | Self::ImageFsAvailable => "ephemeral-storage",
            Self::NodeFsInodesFree | Self::ImageFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    fn format(self) -> Format {
        match self.resource() {
            "memory" | "ephemeral-storage" => Format::BinarySi,
            _ => Format::DecimalSi,
        }
    }
}

/// An amount, or a part of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Bytes, inodes or processes.
    Units(i64),
    /// Of the capacity.
    Percent(f64),
}

impl Amount {
    fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().ok()?;
            return (0.0..=100.0).contains(&percent).then_some(Self::Percent(percent));
        }
        text.parse::<Quantity>().ok().filter(|amount| !amount.is_negative()).map(|amount| Self::Units(amount.value()))
    }

    /// The amount where there is so much in all.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Units(units) => units,
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as i64,
        }
    }
}

/// When less than an amount is left, Pods are ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// How much must be left.
    pub amount: Amount,
    /// For how long it may be less; zero for a hard threshold.
    pub grace: Duration,
    /// How much more must be there before the shortage is over.
    pub min_reclaim: Amount,
}

/// The thresholds of the options.
///
/// # Errors
/// One of them is of no known signal or amount.
pub fn thresholds(options: &Options) -> Result<Vec<Threshold>, String> {
    let mut all = Vec::new();
    for (list, soft) in [(&options.eviction_hard, false), (&options.eviction_soft, true)] {
        for (name, text) in list {
            let signal = Signal::parse(name).ok_or_else(|| format!("unknown eviction signal {name}"))?;
            let amount = |text: &str| {
                Amount::parse(text).ok_or_else(|| format!("eviction threshold {name} {text:?} is no amount"))
            };
            let grace = options.eviction_soft_grace_period.get(name).filter(|_| soft).map(|grace| grace.0);
            let reclaim = options.eviction_minimum_reclaim.get(name).map(|text| amount(text)).transpose()?;
            let threshold = Threshold {
                signal,
                amount: amount(text)?,
                grace: grace.unwrap_or_default(),
                min_reclaim: reclaim.unwrap_or(Amount::Units(0)),
            };
            let off = matches!(threshold.amount, Amount::Units(0) | Amount::Percent(0.0));
            if !off {
                all.push(threshold);
            }
            if !off && !soft && signal == Signal::MemoryAvailable && options.enforces("pods") {
                all.push(Threshold { signal: Signal::AllocatableMemoryAvailable, ..threshold });
            }
        }
    }
    Ok(all)
}

impl Options {
    /// Whether the cgroup of these is kept within its bounds.
    pub fn enforces(&self, what: &str) -> bool {
        self.enforce_node_allocatable.iter().any(|name| name == what)
    }

    /// What eviction keeps of a resource, where there is so much of it.
    pub fn kept_by_eviction(&self, signal: Signal, capacity: i64) -> i64 {
        let all = thresholds(self).unwrap_or_default();
        let hard = all.iter().find(|threshold| threshold.signal == signal && threshold.grace.is_zero());
        hard.map_or(0, |threshold| threshold.amount.of(capacity))
    }
}

/// How much of something is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Left.
    pub available: i64,
    /// In all.
    pub capacity: i64,
}

/// All that was observed at one moment.
pub type Observations = BTreeMap<Signal, Observation>;

/// What one container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerUse {
    /// Working set in bytes.
    pub memory: i64,
    /// Its writable layer and its logs, in bytes.
    pub disk: i64,
    /// Inodes of the same.
    pub inodes: i64,
}

/// A Pod and what it uses.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The Pod as it is allocated.
    pub pod: Arc<Pod>,
    /// By container; empty where nothing is known.
    pub containers: BTreeMap<String, ContainerUse>,
    /// Bytes and inodes of its local volumes by name.
    pub volumes: BTreeMap<String, (i64, i64)>,
    /// Processes.
    pub pids: i64,
}

/// What is remembered between looks.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Thresholds that were met at the last look.
    met: Vec<Threshold>,
    /// Since when each signal's threshold has been met.
    since: Vec<(Threshold, Timestamp)>,
    /// When each condition was observed last.
    observed: BTreeMap<Pressure, Timestamp>,
}

/// What one look decides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    /// The conditions that hold.
    pub pressures: Vec<Pressure>,
    /// The shortage to do something about now.
    pub threshold: Option<Threshold>,
}

/// Looks at what was observed: pure.
pub fn look(
    state: &State,
    thresholds: &[Threshold],
    observations: &Observations,
    transition: Duration,
    now: Timestamp,
) -> (State, Verdict) {
    let met = |threshold: &Threshold, with_reclaim: bool| {
        observations.get(&threshold.signal).is_some_and(|seen| {
            let extra = if with_reclaim { threshold.min_reclaim.of(seen.capacity) } else { 0 };
            seen.available < threshold.amount.of(seen.capacity) + extra
        })
    };
    // What was met stays so until enough has been won back.
    let now_met: Vec<Threshold> =
        thresholds.iter().filter(|threshold| met(threshold, state.met.contains(threshold))).copied().collect();
    let since: Vec<(Threshold, Timestamp)> = now_met
        .iter()
        .map(|threshold| {
            let known = state.since.iter().find(|(other, _)| other == threshold);
            (*threshold, known.map_or(now, |(_, since)| *since))
        })
        .collect();
    let mut observed = state.observed.clone();
    for threshold in &now_met {
        observed.insert(threshold.signal.pressure(), now);
    }
    observed.retain(|_, at| now.duration_since(*at).unsigned_abs() < transition || *at == now);
    let ripe = since.iter().filter(|(threshold, since)| now.duration_since(*since).unsigned_abs() >= threshold.grace);
    // Memory comes first: its shortage is the most pressing.
    let threshold = ripe.map(|(threshold, _)| *threshold).min_by_key(|threshold| threshold.signal);
    let pressures = observed.keys().copied().collect();
    (State { met: now_met, since, observed }, Verdict { pressures, threshold })
}

/// The Pod to end for a shortage, and what it is told; none where only critical ones are left.
pub fn choose(
    threshold: &Threshold,
    observations: &Observations,
    mut candidates: Vec<Candidate>,
    max_grace_seconds: i64,
) -> Option<(String, Eviction)> {
    rank::rank(threshold.signal, &mut candidates);
    let victim = candidates.into_iter().find(|candidate| !is_critical(&candidate.pod))?;
    let grace_seconds = Some(if threshold.grace.is_zero() { 0 } else { max_grace_seconds });
    let message = rank::message(threshold, observations, &victim);
    Some((uid(&victim.pod).to_owned(), Eviction { reason: REASON.to_owned(), message, grace_seconds }))
}

/// The status reason of a Pod that was ended for want of something.
pub const REASON: &str = "Evicted";

/// A number of bytes, inodes or processes as messages tell it.
fn shown(number: i64, format: Format) -> String {
    Quantity::from_units(number, format).to_string()
}
