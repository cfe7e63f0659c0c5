//! The rules by which nodes are chosen: each a value of pure functions, in one list. They are the plain model of what is
//! decided; [`crate::ranking`] comes to the same results without asking all of them of every node each time.
//! Names, order, weights and reasons are those of the upstream default profile.
//! See <https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins>.

pub(crate) mod inter_pod;
mod node_rules;
mod resources_fit;
pub(crate) mod topology_spread;
mod volumes;

use std::borrow::Cow;
use std::fmt::Write;

pub use node_rules::{affinity_allows, hard_taints_tolerated, image_counts};
use skiff_object::LabelSelector;
pub use volumes::{Claim, Storage};

use crate::pod::{PodInfo, selector_keys};
use crate::profile::Profile;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::spread::Constraint;

/// What a filter says of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The pod can go there.
    Pass,
    /// It cannot; evicting other pods might change that.
    Reject(Vec<Cow<'static, str>>),
    /// It cannot, whoever is evicted.
    RejectForGood(Vec<Cow<'static, str>>),
}

impl Verdict {
    pub(crate) fn pass_if(fine: bool, reason: &'static str) -> Self {
        if fine { Self::Pass } else { Self::Reject(vec![reason.into()]) }
    }

    pub(crate) fn pass_or_for_good(fine: bool, reason: &'static str) -> Self {
        if fine { Self::Pass } else { Self::RejectForGood(vec![reason.into()]) }
    }
}

/// What is asked: where this pod goes, in this cluster, by these rules.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// The rules.
    pub profile: &'a Profile,
}

impl<'a> Ask<'a> {
    /// The constraints by which the pod is to be spread as evenly as may be.
    pub fn soft_spread(&self) -> Cow<'a, [Constraint]> {
        match self.default_selector() {
            Some(selector) => Cow::Owned(Constraint::by_default(&selector)),
            None => Cow::Borrowed(&self.pod.soft_spread),
        }
    }

    /// What chooses the pods that the pod is spread among though it has no constraints itself.
    fn default_selector(&self) -> Option<LabelSelector> {
        let has_none = self.pod.hard_spread.is_empty() && self.pod.soft_spread.is_empty();
        if has_none { self.snapshot.owners.selector_of(self.pod) } else { None }
    }

    /// The same for all pods that fit and score alike.
    pub fn signature(&self) -> String {
        let Some(selector) = self.default_selector() else {
            return self.pod.signature(|key| self.snapshot.is_watched(key));
        };
        let asks = |key: &str| selector_keys(&selector).any(|asked| asked == key);
        let mut text = self.pod.signature(|key| self.snapshot.is_watched(key) || asks(key));
        write!(text, "|{selector:?}").expect("text takes all that is written");
        text
    }
}

/// A filter made ready for one pod.
pub type MadeFilter<'a> = Box<dyn Fn(&NodeInfo) -> Verdict + 'a>;
/// What a rule says of one node alone.
pub type OfNode<T> = fn(&Ask, &NodeInfo) -> T;

/// How a plugin turns nodes down.
#[derive(Clone, Copy)]
pub enum Filter {
    /// It does not.
    None,
    /// By the node itself, whatever runs there.
    Node(OfNode<Verdict>),
    /// By the node and what runs there.
    Load(OfNode<Verdict>),
    /// By other nodes too; `None` where it has nothing to say of this pod.
    Cluster(for<'a> fn(Ask<'a>) -> Option<MadeFilter<'a>>),
}

/// How a plugin scores nodes.
#[derive(Clone, Copy)]
pub enum Score {
    /// It does not.
    None,
    /// By the node itself, whatever runs there.
    Node(OfNode<i64>, Normalize),
    /// By the node and what runs there; in range already.
    Load(OfNode<i64>),
    /// By all feasible nodes; in range already. `None` where all are alike.
    Cluster(fn(&Ask, &[&NodeInfo]) -> Option<Vec<i64>>),
}

/// The best score that a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// How raw scores, none of them negative, become 0 to [`MAX_SCORE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalize {
    /// They are that already.
    Not,
    /// In proportion to the largest.
    ToMax,
    /// In proportion to the largest, the largest becoming zero.
    ToMaxReversed,
}

impl Normalize {
    /// One score, given the largest of all feasible nodes.
    pub fn one(self, score: i64, largest: i64) -> i64 {
        match self {
            Self::Not => score,
            Self::ToMax if largest <= 0 => score,
            Self::ToMax => MAX_SCORE * score / largest,
            Self::ToMaxReversed if largest <= 0 => MAX_SCORE,
            Self::ToMaxReversed => MAX_SCORE - MAX_SCORE * score / largest,
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
    /// What is asked before any node is looked at: why no node at all will do.
    pub check: Option<fn(&Ask) -> Option<String>>,
    /// The filter.
    pub filter: Filter,
    /// The score.
    pub score: Score,
    /// The weight of its scores by default.
    pub weight: i64,
    /// Whether a pod that this plugin turned down should be tried again after an event.
    pub wakes_on: fn(&Ask, &Event) -> bool,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Plugin {
    /// Whether it can turn nodes down.
    pub const fn filters(&self) -> bool {
        !matches!(self.filter, Filter::None)
    }

    /// Whether it scores.
    pub const fn scores(&self) -> bool {
        !matches!(self.score, Score::None)
    }
}

/// All plugins, in the order in which they are asked.
pub const PLUGINS: &[Plugin] = &[
    node_rules::UNSCHEDULABLE,
    node_rules::NAME,
    node_rules::TAINTS,
    node_rules::AFFINITY,
    node_rules::PORTS,
    resources_fit::FIT,
    volumes::RESTRICTIONS,
    volumes::BINDING,
    volumes::ZONE,
    topology_spread::SPREAD,
    inter_pod::INTER_POD,
    resources_fit::BALANCED,
    node_rules::IMAGES,
];

/// The plugin of that name.
pub fn plugin(name: &str) -> Option<&'static Plugin> {
    PLUGINS.iter().find(|plugin| plugin.name == name)
}
