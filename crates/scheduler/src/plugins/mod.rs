//! The rules by which nodes are chosen: each a value of pure functions on a [`Snapshot`], in one list.
//! Names, order, weights and reasons are those of the upstream default profile.
//! See <https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins>.

mod inter_pod;
mod node_rules;
mod resources_fit;
mod spread;
mod volumes;

use std::borrow::Cow;

pub use volumes::{Claim, Storage};

use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// What a filter says of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod can go there.
    Pass,
    /// It cannot; evicting other pods might change that.
    Reject(Vec<Cow<'static, str>>),
    /// It cannot, whoever is evicted.
    RejectForGood(Vec<Cow<'static, str>>),
}

impl Verdict {
    fn pass_if(fine: bool, reason: &'static str) -> Self {
        if fine { Self::Pass } else { Self::Reject(vec![reason.into()]) }
    }

    fn pass_or_for_good(fine: bool, reason: &'static str) -> Self {
        if fine { Self::Pass } else { Self::RejectForGood(vec![reason.into()]) }
    }
}

/// A filter made ready for one pod.
pub type Filter<'a> = Box<dyn Fn(&NodeInfo) -> Verdict + 'a>;
/// A score made ready for one pod.
pub type Score<'a> = Box<dyn Fn(&NodeInfo) -> i64 + 'a>;
/// Why no node at all will do for a pod; `None` where that is up to the nodes.
pub type Check = fn(&PodInfo, &Snapshot) -> Option<String>;
/// Makes a filter ready; `None` where the plugin has nothing to say of this pod.
pub type MakeFilter = for<'a> fn(&'a PodInfo, &'a Snapshot) -> Option<Filter<'a>>;
/// Makes a score ready; `None` where all nodes are alike for this pod.
pub type MakeScore = for<'a> fn(&'a PodInfo, &'a Snapshot) -> Option<Score<'a>>;

/// The best score that a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// How raw scores become 0 to [`MAX_SCORE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalize {
    /// They are that already.
    Not,
    /// In proportion to the largest.
    ToMax,
    /// In proportion to the largest, the largest becoming zero.
    ToMaxReversed,
    /// The smallest becomes zero and the largest the best.
    Range,
}

impl Normalize {
    /// Brings the scores of all feasible nodes into range.
    pub fn apply(self, scores: &mut [i64]) {
        let (low, high) = scores.iter().fold((i64::MAX, i64::MIN), |(low, high), s| (low.min(*s), high.max(*s)));
        for score in scores {
            *score = match self {
                Self::Not => *score,
                Self::ToMax if high <= 0 => 0,
                Self::ToMax => MAX_SCORE * *score / high,
                Self::ToMaxReversed if high <= 0 => MAX_SCORE,
                Self::ToMaxReversed => MAX_SCORE - MAX_SCORE * *score / high,
                Self::Range if high == low => 0,
                Self::Range => MAX_SCORE * (*score - low) / (high - low),
            };
        }
    }
}

/// What happened in the cluster that may let a waiting pod go on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A node came, or changed.
    Node(&'a NodeInfo),
    /// A pod on a node went, or shrank.
    PodGone(&'a PodInfo, Option<&'a NodeInfo>),
    /// A pod was placed, or an assigned pod changed its labels.
    PodPlaced(&'a PodInfo),
    /// A claim, a volume or a class came or changed.
    Storage,
}

/// One rule.
pub struct Plugin {
    /// Upstream's name.
    pub name: &'static str,
    /// What is asked before any node is looked at.
    pub check: Option<Check>,
    /// The filter, where it has one.
    pub filter: Option<MakeFilter>,
    /// The score, where it has one, with its normalization and weight.
    pub score: Option<(MakeScore, Normalize, i64)>,
    /// Whether a pod that this plugin turned down should be tried again after an event.
    pub wakes_on: fn(&PodInfo, &Event, &Snapshot) -> bool,
}

/// The default profile, in the order in which filters run.
pub const DEFAULT_PLUGINS: &[Plugin] = &[
    node_rules::UNSCHEDULABLE,
    node_rules::NAME,
    node_rules::TAINTS,
    node_rules::AFFINITY,
    node_rules::PORTS,
    resources_fit::FIT,
    volumes::RESTRICTIONS,
    volumes::BINDING,
    volumes::ZONE,
    spread::SPREAD,
    inter_pod::INTER_POD,
    resources_fit::BALANCED,
    node_rules::IMAGES,
];

/// The plugin of that name.
pub fn plugin(name: &str) -> Option<&'static Plugin> {
    DEFAULT_PLUGINS.iter().find(|plugin| plugin.name == name)
}
