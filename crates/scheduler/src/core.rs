//! Snapshot and queue together: what a change of the cluster means, and what is to be done next. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::Change;
use skiff_client::volumes::is_bound;

use crate::cycle::{Turn, decide};
use crate::plugins::{Claim, Event, plugin};
use crate::pod::PodInfo;
use crate::preempt::{Preemption, preempt};
use crate::queue::Queue;
use crate::snapshot::{Snapshot, is_terminal};

/// Everything that decisions rest on.
pub struct Core {
    scheduler_name: String,
    snapshot: Snapshot,
    queue: Queue,
    turn: Turn,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Post this binding; the pod is assumed to be there already.
    Bind {
        /// Whom.
        pod: Arc<PodInfo>,
        /// Where to.
        node: String,
        /// What has to be written about its claims first.
        claims: Vec<Claim>,
    },
    /// Tell that no node can take the pod, and delete the victims that make room for it.
    Unschedulable {
        /// Whom.
        pod: Arc<PodInfo>,
        /// Why.
        message: String,
        /// Who has to go.
        victims: Vec<Arc<PodInfo>>,
        /// The node that they make room on.
        nominated: Option<String>,
    },
    /// Wait for a change, or until the given monotonic time.
    Idle {
        /// When the next timer ends.
        until: Option<Duration>,
    },
}

impl Core {
    /// Nothing known, nothing queued.
    pub fn new(scheduler_name: String, seed: u64) -> Self {
        Self { scheduler_name, snapshot: Snapshot::default(), queue: Queue::default(), turn: Turn::seeded(seed) }
    }

    /// Takes the next pod and decides.
    pub fn step(&mut self, now: Duration) -> Step {
        let Some(pod) = self.queue.pop(now) else { return Step::Idle { until: self.queue.next_timer() } };
        match decide(&pod, &self.snapshot, &mut self.turn) {
            Ok(node) => {
                let node = node.to_owned();
                let claims = self.reserve(&pod, &node);
                self.snapshot.assume(pod.clone(), &node);
                Step::Bind { pod, node, claims }
            }
            Err(mut failure) => {
                let (victims, nominated) = match preempt(&pod, &self.snapshot, &failure) {
                    Preemption::Victims { pods, node } => (pods, Some(node)),
                    Preemption::Waiting => (Vec::new(), None),
                    Preemption::Pointless(why) => {
                        failure.preemption = why;
                        (Vec::new(), None)
                    }
                };
                self.queue.unschedulable(&pod.uid, failure.rejected_by.clone(), now);
                Step::Unschedulable { pod, message: failure.message(), victims, nominated }
            }
        }
    }

    fn reserve(&mut self, pod: &PodInfo, node: &str) -> Vec<Claim> {
        let mut storage = std::mem::take(&mut self.snapshot.storage);
        let claims = self.snapshot.node(node).map(|node| storage.reserve(pod, node)).unwrap_or_default();
        self.snapshot.storage = storage;
        claims
    }

    /// Whether all claims have their volumes now.
    pub fn are_bound(&self, claims: &[Claim]) -> bool {
        claims.iter().all(|(Claim::Take(claim, _) | Claim::Make(claim) | Claim::Wait(claim))| {
            let key = key_of(&claim.metadata);
            self.snapshot.storage.claims.get(&key).is_some_and(|claim| is_bound(claim))
        })
    }

    /// A claim changed; true where the loop should look.
    pub fn claim_changed(&mut self, change: &Change<PersistentVolumeClaim>, now: Duration) -> bool {
        let claim = change.object();
        let storage = &mut self.snapshot.storage;
        let gone = matches!(change, Change::Deleted(_));
        if gone || is_bound(claim) {
            storage.release(claim.metadata.uid.as_ref());
        }
        if gone {
            storage.claims.remove(&key_of(&claim.metadata));
        } else {
            storage.claims.insert(key_of(&claim.metadata), claim.clone());
        }
        self.storage_changed(now)
    }

    /// A volume changed; true where the loop should look.
    pub fn volume_changed(&mut self, change: &Change<PersistentVolume>, now: Duration) -> bool {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        match change {
            Change::Deleted(_) => self.snapshot.storage.volumes.remove(&name),
            _ => self.snapshot.storage.volumes.insert(name, change.object().clone()),
        };
        self.storage_changed(now)
    }

    /// A class changed; true where the loop should look.
    pub fn class_changed(&mut self, change: &Change<StorageClass>, now: Duration) -> bool {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        match change {
            Change::Deleted(_) => self.snapshot.storage.classes.remove(&name),
            _ => self.snapshot.storage.classes.insert(name, change.object().clone()),
        };
        self.storage_changed(now)
    }

    fn storage_changed(&mut self, now: Duration) -> bool {
        wake(&mut self.queue, &self.snapshot, &Event::Storage, now);
        true
    }

    /// The volumes were not bound in time, or not at all: others may have them.
    pub fn claims_failed(&mut self, claims: &[Claim]) {
        for Claim::Take(claim, _) | Claim::Make(claim) | Claim::Wait(claim) in claims {
            self.snapshot.storage.release(claim.metadata.uid.as_ref());
        }
    }

    /// The server did not take the binding.
    pub fn bind_failed(&mut self, uid: &str, now: Duration) {
        self.snapshot.forget(uid);
        self.queue.failed(uid, now);
    }

    /// A namespace changed; true where the loop should look.
    pub fn namespace_changed(&mut self, change: &Change<Namespace>, _now: Duration) -> bool {
        let meta = &change.object().metadata;
        let name = meta.name.clone().unwrap_or_default();
        match change {
            Change::Deleted(_) => self.snapshot.namespaces.remove(&name),
            _ => self.snapshot.namespaces.insert(name, meta.labels.clone().unwrap_or_default()),
        };
        false
    }

    /// A node changed; true where the loop should look.
    pub fn node_changed(&mut self, change: &Change<Node>, now: Duration) -> bool {
        let node = change.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Change::Deleted(_) = change {
            self.snapshot.remove_node(&name);
            return false;
        }
        self.snapshot.set_node(node.clone());
        if let Change::Updated { old, new } = change
            && !matters(old, new)
        {
            return false;
        }
        let Self { snapshot, queue, .. } = self;
        let Some(node) = snapshot.node(&name) else { return false };
        wake(queue, snapshot, &Event::Node(node), now);
        true
    }

    /// A pod changed; true where the loop should look.
    pub fn pod_changed(&mut self, change: &Change<Pod>, now: Duration) -> bool {
        let pod = change.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if matches!(change, Change::Deleted(_)) || is_terminal(pod) {
            self.queue.remove(uid);
            return self.pod_gone(pod, now);
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if !node.is_empty() {
            self.queue.remove(uid);
            return self.pod_placed(change, node, now);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(uid);
            return false;
        }
        let wanted = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        if wanted != self.scheduler_name || self.snapshot.is_assumed(uid) {
            return false;
        }
        self.queue.set(Arc::new(PodInfo::new(pod.clone())), now);
        true
    }

    fn pod_gone(&mut self, pod: &Arc<Pod>, now: Duration) -> bool {
        let info = PodInfo::new(pod.clone());
        let Self { snapshot, queue, .. } = self;
        let Some(node) = snapshot.remove_pod(&info.uid) else { return false };
        wake(queue, snapshot, &Event::PodGone(&info, snapshot.node(&node)), now);
        true
    }

    fn pod_placed(&mut self, change: &Change<Pod>, node: &str, now: Duration) -> bool {
        let info = Arc::new(PodInfo::new(change.object().clone()));
        self.snapshot.set_pod(info.clone(), node);
        let news = match change {
            Change::Updated { old, new } => {
                let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
                !placed(old) || old.metadata.labels != new.metadata.labels
            }
            _ => true,
        };
        if news {
            wake(&mut self.queue, &self.snapshot, &Event::PodPlaced(&info), now);
        }
        news
    }
}

fn key_of(meta: &ObjectMeta) -> (String, String) {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Whether a changed node may take pods that it would not take before; heartbeats do not matter.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}

fn wake(queue: &mut Queue, snapshot: &Snapshot, event: &Event, now: Duration) {
    queue.wake(now, |pod, rejected_by| {
        // A pod turned down when there was no node at all waits for any node.
        rejected_by.is_empty() && matches!(event, Event::Node(_))
            || rejected_by.iter().filter_map(|name| plugin(name)).any(|p| (p.wakes_on)(pod, event, snapshot))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, pod};

    const SECOND: Duration = Duration::from_secs(1);

    fn core() -> Core {
        Core::new("default-scheduler".to_owned(), 1)
    }

    fn node(yaml: &str) -> Arc<Node> {
        cluster(&format!("{{nodes: [{yaml}], pod: {{name: p}}}}")).0.nodes()[0].node.clone()
    }

    fn told(step: Step) -> String {
        match step {
            Step::Bind { pod, node, .. } => format!("bind {} to {node}", pod.name()),
            Step::Unschedulable { pod, message, .. } => format!("{}: {message}", pod.name()),
            Step::Idle { until } => format!("idle until {until:?}"),
        }
    }

    #[test]
    fn a_node_that_comes_wakes_the_pods_that_wait_for_one() {
        let mut core = core();
        core.pod_changed(&Change::Added(pod("{name: p}").pod.clone()), SECOND);
        assert_eq!(told(core.step(SECOND)), "p: no nodes available to schedule pods");
        core.node_changed(&Change::Added(node("{name: a}")), SECOND * 5);
        assert_eq!(told(core.step(SECOND * 5)), "bind p to a");
    }

    #[test]
    fn an_assumed_pod_takes_room_until_its_binding_fails() {
        let mut core = core();
        core.node_changed(&Change::Added(node("{name: a, cpu: '1'}")), SECOND);
        core.pod_changed(&Change::Added(pod("{name: p, cpu: '1'}").pod.clone()), SECOND);
        core.pod_changed(&Change::Added(pod("{name: q, cpu: '1'}").pod.clone()), SECOND * 2);
        assert_eq!(told(core.step(SECOND * 2)), "bind p to a");
        assert!(told(core.step(SECOND * 2)).starts_with("q: 0/1 nodes are available: 1 Insufficient cpu."));
        core.bind_failed("p", SECOND * 2);
        assert_eq!(told(core.step(SECOND * 3)), "bind p to a");
    }

    #[test]
    fn a_pod_that_ends_makes_room() {
        let mut core = core();
        core.node_changed(&Change::Added(node("{name: a, cpu: '1'}")), SECOND);
        let running = pod("{name: x, node: a, cpu: '1'}").pod.clone();
        core.pod_changed(&Change::Added(running.clone()), SECOND);
        core.pod_changed(&Change::Added(pod("{name: p, cpu: '1'}").pod.clone()), SECOND);
        assert!(told(core.step(SECOND)).starts_with("p: 0/1"));
        assert!(core.pod_changed(&Change::Deleted(running), SECOND * 9));
        assert_eq!(told(core.step(SECOND * 9)), "bind p to a");
    }

    #[test]
    fn a_heartbeat_wakes_nobody() {
        let mut core = core();
        let (old, new) = (node("{name: a}"), node("{name: a}"));
        core.node_changed(&Change::Added(old.clone()), SECOND);
        assert!(!core.node_changed(&Change::Updated { old, new }, SECOND));
    }

    #[test]
    fn pods_fill_a_node_in_the_order_in_which_they_came() {
        let mut core = core();
        core.node_changed(&Change::Added(node("{name: a, pods: 2000}")), SECOND);
        for at in 0..2001u32 {
            core.pod_changed(&Change::Added(pod(&format!("{{name: p{at:04}}}")).pod.clone()), SECOND + SECOND * at);
        }
        for at in 0..2000 {
            assert_eq!(told(core.step(SECOND * 3000)), format!("bind p{at:04} to a"));
        }
        assert!(told(core.step(SECOND * 3000)).starts_with("p2000: 0/1 nodes are available: 1 Too many pods."));
    }
}
