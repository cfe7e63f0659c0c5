//! Where a group has to stay within one domain of nodes: it is tried in each of them, and goes where most of its pods have
//! a place.
//! See <https://github.com/kubernetes/enhancements/tree/master/keps/sig-scheduling/5732-topology-aware-workload-scheduling>.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Core;
use super::group_cycle::{Evictions, FOR_GROUPS, NO_EVICTIONS, Tried};
use crate::groups::GroupKey;
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::snapshot::Snapshot;

const NO_PLACEMENT: &str = "no feasible placements found";

impl Core {
    /// Tries a group in each domain that it may be in, and takes the best; where it can be bound its pods are assumed there.
    ///
    /// # Errors
    /// It cannot be told which domain it is in already.
    pub(super) fn try_placements(
        &mut self,
        pods: &[Arc<PodInfo>],
        profile: &Arc<Profile>,
        key: &GroupKey,
    ) -> Result<Tried, String> {
        let constraints = self.groups.topology(key).map(|label| label.map(str::to_owned));
        let Some(Some(label)) = constraints else {
            let evictions = match constraints {
                _ if self.groups.have_preemption() => Evictions::Not(FOR_GROUPS),
                None => Evictions::Each,
                Some(_) => Evictions::Not(NO_EVICTIONS),
            };
            let mut tried = self.try_group(pods, profile, key, Some(evictions));
            tried.tell_of_placements(1);
            return Ok(tried);
        };
        let domains = self.domains(key, &label)?;
        let mut all = Vec::new();
        for domain in &domains {
            let world = within(&self.snapshot, &label, domain);
            let evictions = Some(Evictions::Not(NO_EVICTIONS));
            all.push(self.in_world(world, |core| core.try_group(pods, profile, key, evictions)));
        }
        let fitting = || all.iter().enumerate().filter(|(_, tried)| tried.is_bound());
        let most = fitting().map(|(_, tried)| tried.placed()).max();
        let best: Vec<usize> = fitting().filter(|(_, tried)| Some(tried.placed()) == most).map(|(at, _)| at).collect();
        if best.is_empty() {
            let Some(mut first) = all.into_iter().next() else { return Ok(Tried::nowhere(pods, NO_PLACEMENT)) };
            first.tell_of_placements(domains.len());
            return Ok(first);
        }
        let at = best[(self.turn.next_random() % best.len() as u64) as usize];
        let mut tried = all.swap_remove(at);
        self.settle(pods, &mut tried);
        Ok(tried)
    }

    /// The domains that the group may be in: the one that some of it are in, or all.
    fn domains(&self, key: &GroupKey, label: &str) -> Result<BTreeSet<String>, String> {
        let mut taken = BTreeSet::new();
        for (uid, _) in self.groups.members(key) {
            let Some(pod) = self.snapshot.placed(uid) else { continue };
            let unknown = || {
                let name = format!("{}/{}", pod.0.namespace(), pod.0.name());
                format!("cannot determine domain for already scheduled pods: no topology domain found for pod {name}")
            };
            let domain = pod.1.and_then(|node| node.label(label)).ok_or_else(unknown)?;
            taken.insert(domain.to_owned());
        }
        if taken.len() > 1 {
            let names = taken.into_iter().take(2).collect::<Vec<_>>().join(", ");
            let words = "cannot determine domain for already scheduled pods: more than 1 domain found for pod group";
            return Err(format!("{words}: {names}"));
        }
        let nodes = self.snapshot.nodes().iter();
        let all = nodes.filter_map(|node| node.label(label)).filter(|at| taken.is_empty() || taken.contains(*at));
        Ok(all.map(str::to_owned).collect())
    }

    /// Decides in another world than the real one.
    pub(super) fn in_world<T>(&mut self, world: Snapshot, decide: impl FnOnce(&mut Self) -> T) -> T {
        let real = (
            std::mem::replace(&mut self.snapshot, world),
            // What was concluded of the real one does not hold there.
            std::mem::take(&mut self.rankings),
        );
        let decided = decide(self);
        (self.snapshot, self.rankings) = real;
        decided
    }
}

/// The cluster without the nodes of other domains.
fn within(snapshot: &Snapshot, label: &str, domain: &str) -> Snapshot {
    let mut world = snapshot.clone();
    let others = snapshot.nodes().iter().filter(|node| node.label(label) != Some(domain));
    others.for_each(|node| world.remove_node(node.name()));
    world
}
