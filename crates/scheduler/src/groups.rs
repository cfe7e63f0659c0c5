//! Groups of pods: what their PodGroups say, who is in them, and why those who wait are not tried yet. Pure.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/gang-scheduling/>.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use skiff_client::Change;

/// The name under which groups count among the plugins that turned a pod down.
pub const NAME: &str = "GangScheduling";

/// Which of the features of groups are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// Pods of one group are tried together.
    pub groups: bool,
    /// Those of a gang are placed all at once or not at all.
    pub gangs: bool,
    /// A group may have to stay within one domain of nodes.
    pub topology: bool,
    /// Room is made for a group as a whole.
    pub preemption: bool,
}

/// Namespace and name.
pub type GroupKey = (String, String);

/// The groups.
#[derive(Debug, Default)]
pub struct Groups {
    features: Features,
    all: HashMap<GroupKey, Group>,
}

#[derive(Debug, Default)]
struct Group {
    object: Option<Arc<PodGroup>>,
    /// Pods that have not ended, by their UIDs.
    members: BTreeMap<String, Member>,
}

#[derive(Debug, Default)]
struct Member {
    /// Whether it was seen on a node.
    is_placed: bool,
    /// Why it was last told to wait.
    told: String,
}

impl Groups {
    /// No groups yet.
    pub fn new(features: Features) -> Self {
        Self { features, all: HashMap::new() }
    }

    /// The group that a pod is in.
    pub fn key_of(&self, pod: &Pod) -> Option<GroupKey> {
        if !self.features.groups {
            return None;
        }
        let name = pod.spec.as_ref()?.scheduling_group.as_ref()?.pod_group_name.clone()?;
        Some((pod.metadata.namespace.clone().unwrap_or_default(), name))
    }

    /// A PodGroup came, changed or went.
    pub fn set(&mut self, key: &GroupKey, change: &Change<PodGroup>) {
        let is_gone = matches!(change, Change::Deleted(_));
        let group = self.all.entry(key.clone()).or_default();
        group.object = (!is_gone).then(|| change.object().clone());
        self.drop_empty(key);
    }

    /// A pod of the group was seen; tells whether it is a new one.
    pub fn join(&mut self, key: &GroupKey, uid: &str, is_placed: bool) -> bool {
        let members = &mut self.all.entry(key.clone()).or_default().members;
        let is_new = !members.contains_key(uid);
        members.entry(uid.to_owned()).or_default().is_placed = is_placed;
        is_new
    }

    /// A pod of the group is gone, or done.
    pub fn leave(&mut self, key: &GroupKey, uid: &str) {
        if let Some(group) = self.all.get_mut(key) {
            group.members.remove(uid);
        }
        self.drop_empty(key);
    }

    fn drop_empty(&mut self, key: &GroupKey) {
        if self.all.get(key).is_some_and(|group| group.object.is_none() && group.members.is_empty()) {
            self.all.remove(key);
        }
    }

    /// The PodGroup.
    pub fn object(&self, key: &GroupKey) -> Option<&Arc<PodGroup>> {
        self.all.get(key)?.object.as_ref()
    }

    /// How many pods of a gang have to be placed; one for groups that are no gang.
    pub fn quorum(&self, key: &GroupKey) -> usize {
        let gang = self.object(key).and_then(|group| group.spec.scheduling_policy.gang.as_ref());
        let count = gang.filter(|_| self.features.gangs).map_or(1, |gang| gang.min_count);
        usize::try_from(count).unwrap_or(1)
    }

    /// Whether room is made for a group as a whole.
    pub fn have_preemption(&self) -> bool {
        self.features.preemption
    }

    /// How important the group is, where that counts.
    pub fn priority(&self, key: &GroupKey) -> i32 {
        self.object(key).and_then(|group| group.spec.priority).unwrap_or(0)
    }

    /// Whether all pods of the group have to go where one has to.
    pub fn is_disrupted_as_one(&self, key: &GroupKey) -> bool {
        self.object(key).is_some_and(|group| group.spec.disruption_mode.as_deref() == Some("PodGroup"))
    }

    /// Whether the group's pods are tried in one domain after the other.
    pub fn has_placements(&self) -> bool {
        self.features.topology
    }

    /// Whether the group has constraints, and the label of nodes that makes a domain.
    pub fn topology(&self, key: &GroupKey) -> Option<Option<&str>> {
        let group = self.object(key).filter(|_| self.features.topology)?;
        let constraints = group.spec.scheduling_constraints.as_ref()?;
        Some(constraints.topology.iter().flatten().next().map(|one| one.key.as_str()))
    }

    /// The UIDs of the group's pods, and whether each was seen on a node.
    pub fn members(&self, key: &GroupKey) -> impl Iterator<Item = (&str, bool)> {
        let members = self.all.get(key).into_iter().flat_map(|group| &group.members);
        members.map(|(uid, member)| (uid.as_str(), member.is_placed))
    }

    /// Why the group's pods are not tried yet.
    pub fn hold(&self, key: &GroupKey) -> Option<String> {
        if !self.features.gangs {
            return None;
        }
        if self.object(key).is_none() {
            return Some(format!("waiting for pods's pod group {:?} to appear in scheduling queue", key.1));
        }
        let few = self.members(key).count() < self.quorum(key);
        few.then(|| "waiting for minCount pods from a gang to appear in scheduling queue".to_owned())
    }

    /// Why a pod of the group has to wait, where it has not been told so.
    pub fn news(&mut self, key: &GroupKey, uid: &str) -> Option<String> {
        let why = self.hold(key)?;
        let member = self.all.get_mut(key)?.members.get_mut(uid)?;
        if member.told == why {
            return None;
        }
        member.told.clone_from(&why);
        Some(why)
    }
}
