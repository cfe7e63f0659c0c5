//! Pods that nobody else would remove: of nodes that are gone, on their way out without ever having had a node,
//! and too many that have ended.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection>.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_client::{Change, Index, Informer, ObjectKey, Patch};

use crate::plan::{Action, Plan};
use crate::pods::{by_node, is_terminal};
use crate::runner::{Controller, Failure, Setup};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A node that is missing is waited for this long; it may only be late.
const QUARANTINE: Duration = Duration::from_secs(40);
/// More ended pods than this are removed, oldest first; upstream's default.
const MAX_ENDED: usize = 12_500;

/// What is known of the node of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// It is there.
    There,
    /// It has been missing for this long.
    Missing(Duration),
    /// It is not ready, and somebody has said that it is switched off.
    OutOfService,
}

/// What is to be done about a pod.
pub fn reconcile(pod: &Pod, host: Host, surplus: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    if !placed {
        if pod.metadata.deletion_timestamp.is_some() {
            remove(pod, now, None, &mut plan);
        }
        return plan;
    }
    match host {
        Host::Missing(missing) if missing < QUARANTINE => plan.look_again(QUARANTINE - missing),
        Host::Missing(_) => remove(pod, now, Some("PodGC: node no longer exists"), &mut plan),
        // What was to go anyway goes now, so that its volumes are free for others.
        Host::OutOfService if pod.metadata.deletion_timestamp.is_some() => remove(pod, now, None, &mut plan),
        Host::There | Host::OutOfService if surplus => remove(pod, now, None, &mut plan),
        Host::There | Host::OutOfService => {}
    }
    plan
}

fn remove(pod: &Pod, now: Timestamp, disruption: Option<&str>, plan: &mut Plan) {
    if !is_terminal(pod) {
        let mut status = json!({"phase": "Failed"});
        if let Some(message) = disruption {
            status["conditions"] = json!([{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": message,
                "lastTransitionTime": rfc3339(now),
            }]);
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        plan.then(Action::patch_status::<Pod>(&pod.metadata, Patch::Strategic(patch)));
    }
    plan.then(Action::delete_within(pod, 0));
}

/// The controller.
pub struct PodCollector {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    missing: Mutex<HashMap<String, Timestamp>>,
    ended: Arc<Mutex<Ended>>,
}

/// The pods that have ended and are not removed yet, oldest first, and those of which there were too many.
#[derive(Default)]
struct Ended {
    kept: BTreeSet<(Option<Timestamp>, ObjectKey)>,
    surplus: HashSet<ObjectKey>,
}

impl Ended {
    /// Notes a change of a pod; gives those that are to go for it.
    fn note(&mut self, change: &Change<Pod>, limit: usize) -> Vec<ObjectKey> {
        let pod = change.object();
        let key = ObjectKey::of(&pod.metadata);
        let made = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if matches!(change, Change::Deleted(_)) {
            self.surplus.remove(&key);
            self.kept.remove(&(made(pod), key));
            return Vec::new();
        }
        if is_terminal(pod) && !self.surplus.contains(&key) {
            self.kept.insert((made(pod), key));
        }
        let mut going = Vec::new();
        while self.kept.len() > limit {
            let Some((_, oldest)) = self.kept.pop_first() else { break };
            self.surplus.insert(oldest.clone());
            going.push(oldest);
        }
        going
    }
}

impl PodCollector {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (pods, nodes) = (setup.informer::<Pod>(), setup.informer::<Node>());
        let (known, ended) = (nodes.clone(), Arc::new(Mutex::new(Ended::default())));
        let book = ended.clone();
        setup.on_change::<Pod>(move |change| {
            let mut keys = book.lock().note(change, MAX_ENDED);
            keys.extend(concerned(change, &known));
            keys
        });
        let all = by_node(&pods);
        setup.on_change::<Node>(move |change| match change {
            Change::Deleted(node) => pods_of(&all, node.metadata.name.as_deref().unwrap_or_default()),
            Change::Added(node) | Change::Updated { new: node, .. } if is_out_of_service(node) => {
                pods_of(&all, node.metadata.name.as_deref().unwrap_or_default())
            }
            _ => Vec::new(),
        });
        Arc::new(Self { pods, nodes, missing: Mutex::default(), ended })
    }

    fn host_of(&self, pod: &Pod, now: Timestamp) -> Host {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let mut missing = self.missing.lock();
        if let Some(found) = self.nodes.get("", node) {
            missing.remove(node);
            return if is_out_of_service(&found) { Host::OutOfService } else { Host::There };
        }
        let since = *missing.entry(node.to_owned()).or_insert(now);
        Host::Missing(Duration::try_from(now.duration_since(since)).unwrap_or_default())
    }
}

impl Controller for PodCollector {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(pod) = self.pods.by_key(key) else { return Plan::nothing() };
        let surplus = is_terminal(&pod) && self.ended.lock().surplus.contains(key);
        reconcile(&pod, self.host_of(&pod, now), surplus, now)
    }
}

/// Whether a node is down by its own word and by somebody else's.
/// See <https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/#non-graceful-node-shutdown>.
pub fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    !ready && taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

fn concerned(change: &Change<Pod>, nodes: &Informer<Node>) -> Vec<ObjectKey> {
    let pod = change.object();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let ending = pod.metadata.deletion_timestamp.is_some();
    let lost = match nodes.get("", node) {
        _ if node.is_empty() => ending,
        None => true,
        Some(node) => ending && is_out_of_service(&node),
    };
    let looks = !matches!(change, Change::Deleted(_)) && lost;
    looks.then(|| ObjectKey::of(&pod.metadata)).into_iter().collect()
}

fn pods_of(pods: &Index<Pod>, node: &str) -> Vec<ObjectKey> {
    pods.of(node).iter().map(|pod| ObjectKey::of(&pod.metadata)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{now, object};

    fn check(pod: &str, missing_seconds: Option<u64>, surplus: bool, expected: Expect) {
        let pod: Pod = object(pod);
        let host = missing_seconds.map_or(Host::There, |seconds| Host::Missing(Duration::from_secs(seconds)));
        expected.assert_eq(&reconcile(&pod, host, surplus, now()).to_string());
    }

    #[test]
    fn what_was_to_go_anyway_goes_from_a_node_that_is_switched_off() {
        let node = |ready: &str, key: &str| -> Node {
            object(&format!(
                "{{spec: {{taints: [{{key: {key}, effect: NoExecute}}]}}, status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
            ))
        };
        assert!(is_out_of_service(&node("Unknown", OUT_OF_SERVICE)));
        assert!(!is_out_of_service(&node("True", OUT_OF_SERVICE)));
        assert!(!is_out_of_service(&node("Unknown", "other")));
        let pod = |more: &str| -> Pod {
            object(&format!(
                "{{metadata: {{name: p, namespace: d, uid: u{more}}}, spec: {{nodeName: n1, containers: []}}}}"
            ))
        };
        assert!(reconcile(&pod(""), Host::OutOfService, false, now()).steps.is_empty());
        let ending = pod(", deletionTimestamp: '2026-01-31T12:00:00Z'");
        expect![[r#"
            patch pods/status d/p {"metadata":{"uid":"u"},"status":{"phase":"Failed"}}
            delete pods d/p
        "#]]
        .assert_eq(&reconcile(&ending, Host::OutOfService, false, now()).to_string());
    }

    #[test]
    fn the_oldest_go_where_too_many_have_ended() {
        let pod = |name: &str, second: u32, phase: &str| -> Arc<Pod> {
            Arc::new(object(&format!(
                "{{metadata: {{name: {name}, namespace: d, creationTimestamp: '2026-01-31T12:00:0{second}Z'}}, status: {{phase: {phase}}}}}"
            )))
        };
        let mut ended = Ended::default();
        let mut note = |change: Change<Pod>| {
            let names: Vec<_> = ended.note(&change, 2).into_iter().map(|key| key.name).collect();
            names.join(" ")
        };
        for (name, second) in [("c", 3), ("b", 2)] {
            assert_eq!(note(Change::Added(pod(name, second, "Failed"))), "");
        }
        assert_eq!(note(Change::Added(pod("r", 0, "Running"))), "");
        assert_eq!(note(Change::Added(pod("d", 4, "Succeeded"))), "b");
        assert_eq!(note(Change::Added(pod("b", 2, "Failed"))), "", "it is going already");
        assert_eq!(note(Change::Deleted(pod("c", 3, "Failed"))), "");
        assert_eq!(note(Change::Added(pod("e", 5, "Failed"))), "");
        assert_eq!(note(Change::Added(pod("f", 6, "Failed"))), "d");
    }

    #[test]
    fn pods_that_nobody_else_removes_go() {
        let running = "{metadata: {name: p, namespace: d, uid: u}, spec: {nodeName: n1, containers: []}, status: {phase: Running}}";
        check(running, None, false, expect![]);
        check(
            running,
            Some(10),
            false,
            expect![[r#"
            look again in 30 s
        "#]],
        );
        check(
            running,
            Some(40),
            false,
            expect![[r#"
            patch pods/status d/p {"metadata":{"uid":"u"},"status":{"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"PodGC: node no longer exists","reason":"DeletionByPodGC","status":"True","type":"DisruptionTarget"}],"phase":"Failed"}}
            delete pods d/p
        "#]],
        );
        let ended = running.replace("Running", "Succeeded");
        check(
            &ended,
            None,
            true,
            expect![[r#"
            delete pods d/p
        "#]],
        );
        check(
            "{metadata: {name: p, deletionTimestamp: '2026-01-31T12:00:00Z'}, spec: {containers: []}}",
            None,
            false,
            expect![[r#"
                patch pods/status p {"metadata":{"uid":null},"status":{"phase":"Failed"}}
                delete pods p
            "#]],
        );
    }
}
