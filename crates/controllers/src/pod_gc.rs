//! Pods that nobody else would remove: of nodes that are gone, on their way out without ever having had a node,
//! and too many that have ended.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection>.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_client::{Change, Informer, ObjectKey, Patch};

use crate::plan::{Action, Plan};
use crate::pods::is_terminal;
use crate::runner::{Controller, Failure, Setup};

/// A node that is missing is waited for this long; it may only be late.
const QUARANTINE: Duration = Duration::from_secs(40);
/// More ended pods than this are removed, oldest first; upstream's default.
const MAX_ENDED: usize = 12_500;

/// What is to be done about a pod; `missing_for` is how long its node has been missing.
pub fn reconcile(pod: &Pod, missing_for: Option<Duration>, surplus: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    if !placed {
        if pod.metadata.deletion_timestamp.is_some() {
            remove(pod, now, None, &mut plan);
        }
        return plan;
    }
    match missing_for {
        Some(missing) if missing < QUARANTINE => plan.look_again(QUARANTINE - missing),
        Some(_) => remove(pod, now, Some("PodGC: node no longer exists"), &mut plan),
        None if surplus => remove(pod, now, None, &mut plan),
        None => {}
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
}

impl PodCollector {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (pods, nodes) = (setup.informer::<Pod>(), setup.informer::<Node>());
        let (known, all) = (nodes.clone(), pods.clone());
        setup.on_change::<Pod>(move |change| concerned(change, &known, &all));
        let all = pods.clone();
        setup.on_change::<Node>(move |change| match change {
            Change::Deleted(node) => pods_of(&all, node.metadata.name.as_deref().unwrap_or_default()),
            _ => Vec::new(),
        });
        Arc::new(Self { pods, nodes, missing: Mutex::default() })
    }

    fn missing_for(&self, pod: &Pod, now: Timestamp) -> Option<Duration> {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let mut missing = self.missing.lock();
        if self.nodes.get("", node).is_some() {
            missing.remove(node);
            return None;
        }
        let since = *missing.entry(node.to_owned()).or_insert(now);
        Some(Duration::try_from(now.duration_since(since)).unwrap_or_default())
    }

    fn is_surplus(&self, pod: &Pod) -> bool {
        if !is_terminal(pod) || self.pods.len() <= MAX_ENDED {
            return false;
        }
        let mut ended: Vec<_> = self.pods.list().into_iter().filter(|pod| is_terminal(pod)).collect();
        let surplus = ended.len().saturating_sub(MAX_ENDED);
        ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        ended.iter().take(surplus).any(|old| old.metadata.uid == pod.metadata.uid)
    }
}

impl Controller for PodCollector {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(pod) = self.pods.by_key(key) else { return Plan::nothing() };
        reconcile(&pod, self.missing_for(&pod, now), self.is_surplus(&pod), now)
    }
}

fn concerned(change: &Change<Pod>, nodes: &Informer<Node>, pods: &Informer<Pod>) -> Vec<ObjectKey> {
    let pod = change.object();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let lost = if node.is_empty() { pod.metadata.deletion_timestamp.is_some() } else { nodes.get("", node).is_none() };
    let ended = is_terminal(pod) && pods.len() > MAX_ENDED;
    let looks = !matches!(change, Change::Deleted(_)) && (lost || ended);
    looks.then(|| ObjectKey::of(&pod.metadata)).into_iter().collect()
}

fn pods_of(pods: &Informer<Pod>, node: &str) -> Vec<ObjectKey> {
    let on_node = |pod: &&Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
    pods.list().iter().filter(on_node).map(|pod| ObjectKey::of(&pod.metadata)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{now, object};

    fn check(pod: &str, missing_seconds: Option<u64>, surplus: bool, expected: Expect) {
        let pod: Pod = object(pod);
        let missing = missing_seconds.map(Duration::from_secs);
        expected.assert_eq(&reconcile(&pod, missing, surplus, now()).to_string());
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
