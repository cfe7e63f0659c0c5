//! Pods that do not tolerate to stay on a tainted node, or not for ever. Pure.
//! See <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions>.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use serde_json::json;
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_client::Patch;

use crate::placement::covers;
use crate::plan::{Action, Note, Plan};
use crate::pods::{is_ready, is_terminal};

/// The taints of a node that make pods leave.
pub fn evicting(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute").collect()
}

/// Plans the deletion of pods whose time on the node is over.
pub fn reconcile(node: &Node, pods: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let taints = evicting(node);
    if taints.is_empty() {
        return;
    }
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && !is_terminal(pod)) {
        match time_left(&taints, pod, now) {
            None => {}
            Some(left) if left.is_zero() => evict(pod, now, plan),
            Some(left) => plan.look_again(left),
        }
    }
}

/// How long the pod may stay; `None` is for ever.
fn time_left(taints: &[&Taint], pod: &Pod, now: Timestamp) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut shortest: Option<Duration> = None;
    for taint in taints {
        let matching: Vec<_> = tolerations.iter().filter(|toleration| covers(toleration, taint)).collect();
        if matching.is_empty() {
            return Some(Duration::ZERO);
        }
        let Some(seconds) = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let been = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(been);
        shortest = Some(shortest.map_or(left, |other| other.min(left)));
    }
    shortest
}

fn evict(pod: &Pod, now: Timestamp, plan: &mut Plan) {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": rfc3339(now),
    });
    plan.then(Action::patch_status::<Pod>(
        &pod.metadata,
        Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}})),
    ));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let text = format!("Marking for deletion Pod {namespace}/{name}");
    plan.then(Action::delete(pod).and_tell(Note::normal(pod, "TaintManagerEviction", text)));
}

/// Plans to tell that the pods of a node that is not heard of are not ready, so that no Service sends anyone there.
pub fn mark_unready(pods: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    for pod in pods.iter().filter(|pod| is_ready(pod)) {
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(now)});
        let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let note = Note::warning(&**pod, "NodeNotReady", "Node is not ready");
        plan.then(Action::patch_status::<Pod>(&pod.metadata, Patch::Strategic(status)).and_tell(note));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{now, object};

    fn check(tolerations: &str, expected: Expect) {
        let node: Node = object(
            "{metadata: {name: n1}, spec: {taints: [{key: node.kubernetes.io/unreachable, effect: NoExecute, timeAdded: '2026-01-31T11:59:00Z'}]}}",
        );
        let pod: Pod = object(&format!(
            "{{metadata: {{name: p, namespace: d, uid: u}}, spec: {{containers: [], tolerations: {tolerations}}}}}"
        ));
        let mut plan = Plan::nothing();
        reconcile(&node, &[Arc::new(pod)], now(), &mut plan);
        expected.assert_eq(&plan.to_string());
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let key = "key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute";
        check(
            "[]",
            expect![[r#"
            patch pods/status d/p {"metadata":{"uid":"u"},"status":{"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"Taint manager: deleting due to NoExecute taint","reason":"DeletionByTaintManager","status":"True","type":"DisruptionTarget"}]}}
            delete pods d/p [TaintManagerEviction: Marking for deletion Pod d/p]
        "#]],
        );
        check(
            &format!("[{{{key}, tolerationSeconds: 300}}]"),
            expect![[r#"
            look again in 240 s
        "#]],
        );
        check(
            &format!("[{{{key}, tolerationSeconds: 60}}]"),
            expect![[r#"
            patch pods/status d/p {"metadata":{"uid":"u"},"status":{"conditions":[{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"Taint manager: deleting due to NoExecute taint","reason":"DeletionByTaintManager","status":"True","type":"DisruptionTarget"}]}}
            delete pods d/p [TaintManagerEviction: Marking for deletion Pod d/p]
        "#]],
        );
        check("[{operator: Exists}]", expect![]);
    }
}
