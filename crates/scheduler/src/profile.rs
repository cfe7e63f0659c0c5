//! How one scheduler name decides: its plugins, their weights and their settings.
//! The default is upstream's default profile, see <https://kubernetes.io/docs/reference/scheduling/config/>.

use k8s_openapi::api::core::v1::NodeAffinity;

use crate::plugins::{PLUGINS, Plugin};

/// The scheduler name of pods that name none.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// One plugin at work in a profile.
#[derive(Debug, Clone, Copy)]
pub struct Enabled {
    /// Which.
    pub plugin: &'static Plugin,
    /// Whether it turns nodes down.
    pub filters: bool,
    /// What its scores count; zero where it does not score.
    pub weight: i64,
}

/// How the share of a node that is taken becomes a score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// The emptier the better.
    LeastAllocated,
    /// The fuller the better.
    MostAllocated,
    /// By a line through these points of (percent taken, score out of 100).
    RequestedToCapacity(Vec<(i64, i64)>),
}

/// A profile.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Pods with this `spec.schedulerName` are meant.
    pub name: String,
    /// The plugins in the order in which they are asked.
    pub plugins: Vec<Enabled>,
    /// Whether pods may be evicted for others.
    pub preempts: bool,
    /// The share of nodes that a search stops at, in percent; by the size of the cluster where absent.
    pub percentage_of_nodes: Option<usize>,
    /// How `NodeResourcesFit` scores.
    pub strategy: Strategy,
    /// The resources that it looks at, with their weights.
    pub fit_resources: Vec<(String, i64)>,
    /// Resources that it leaves to others: by name, and by group.
    pub ignored_resources: Vec<String>,
    /// Groups of resources that it leaves to others.
    pub ignored_groups: Vec<String>,
    /// The resources whose balance counts.
    pub balanced_resources: Vec<String>,
    /// What a pod that is there already adds for its own required affinity.
    pub hard_affinity_weight: i64,
    /// Whether preferred terms of pods that are there count only for pods that have terms themselves.
    pub ignore_preferred_of_others: bool,
    /// Node affinity that every pod of the profile has beside its own.
    pub added_affinity: Option<NodeAffinity>,
    /// How many nodes preemption looks at, in percent and at least, where each look is costly.
    pub candidates: (usize, usize),
    /// How long volumes are waited for.
    pub bind_volumes_seconds: u64,
}

impl Default for Profile {
    fn default() -> Self {
        let all = PLUGINS.iter().map(|plugin| Enabled {
            plugin,
            filters: plugin.filters(),
            weight: if plugin.scores() { plugin.weight } else { 0 },
        });
        let of_both = || [("cpu".to_owned(), 1), ("memory".to_owned(), 1)].into_iter();
        Self {
            name: DEFAULT_NAME.to_owned(),
            plugins: all.collect(),
            preempts: true,
            percentage_of_nodes: None,
            strategy: Strategy::LeastAllocated,
            fit_resources: of_both().collect(),
            ignored_resources: Vec::new(),
            ignored_groups: Vec::new(),
            balanced_resources: of_both().map(|(name, _)| name).collect(),
            hard_affinity_weight: 1,
            ignore_preferred_of_others: false,
            added_affinity: None,
            candidates: (10, 100),
            bind_volumes_seconds: 600,
        }
    }
}

impl Profile {
    /// The weight of a plugin's scores.
    pub fn weight(&self, plugin: &str) -> i64 {
        self.plugins.iter().find(|enabled| enabled.plugin.name == plugin).map_or(0, |enabled| enabled.weight)
    }

    /// Whether a plugin turns nodes down here.
    pub fn filters(&self, plugin: &str) -> bool {
        self.plugins.iter().any(|enabled| enabled.filters && enabled.plugin.name == plugin)
    }
}
