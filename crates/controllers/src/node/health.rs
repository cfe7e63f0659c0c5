//! Whether a node is there, told by conditions and taints. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Taint};
use serde_json::json;
use skiff_base::Timestamp;
use skiff_client::Patch;

use super::zones::Clearing;
use crate::meta::time;
use crate::plan::{Action, Note, Plan};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that become taints when they are true.
const BY_CONDITION: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that the node's agent keeps, and that are unknown when it is not heard of.
const KEPT_BY_AGENT: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NO_EXECUTE: &str = "NoExecute";
const STOPPED: &str = "NodeStatusUnknown";

/// A condition by type.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn value<'a>(node: &'a Node, kind: &str) -> &'a str {
    condition(node, kind).map_or("", |condition| condition.status.as_str())
}

/// Whether the Ready condition is true.
pub fn is_ready(node: &Node) -> bool {
    value(node, "Ready") == "True"
}

/// Whether this controller has written that nothing is heard of the node.
pub fn is_given_up(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "Unknown")
}

/// Whether the node has been silent for too long and that has not been told yet.
fn is_overdue(node: &Node, silent: Duration, grace: Duration) -> bool {
    silent >= grace && !is_given_up(node)
}

/// Whether a node that was ready is found silent just now.
pub fn lost_readiness(node: &Node, silent: Duration, grace: Duration) -> bool {
    is_ready(node) && is_overdue(node, silent, grace)
}

/// Plans what is to be told of a node that has been silent for `silent`; `clear` is asked
/// where its pods have to leave, and told whether they had to already.
pub fn reconcile(
    node: &Node,
    silent: Duration,
    grace: Duration,
    clear: impl FnOnce(bool) -> Clearing,
    now: Timestamp,
    plan: &mut Plan,
) {
    if is_overdue(node, silent, grace) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut action = Action::update_status(&given_up(node, now));
        if is_ready(node) {
            let text = format!("Node {name} status is now: NodeNotReady");
            action = action.and_tell(Note::normal(node, "NodeNotReady", text));
        }
        // The taints follow when the new conditions are seen.
        plan.then(action);
        return;
    }
    if !is_given_up(node) {
        plan.look_again(grace.saturating_sub(silent));
    }
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let (new, again_after) = taints(node, &old, clear, now);
    if let Some(delay) = again_after {
        plan.look_again(delay);
    }
    if new != old {
        let version = &node.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": new}});
        plan.then(Action::patch::<Node>(&node.metadata, Patch::Merge(patch)));
    }
}

fn given_up(node: &Node, now: Timestamp) -> Node {
    let mut node = node.clone();
    let status = node.status.get_or_insert_with(NodeStatus::default);
    let conditions = status.conditions.get_or_insert_default();
    for kind in KEPT_BY_AGENT {
        let told = conditions.iter_mut().find(|condition| condition.type_ == kind);
        let (reason, message, beat) = match &told {
            Some(told) => (STOPPED, "Kubelet stopped posting node status.", told.last_heartbeat_time.clone()),
            None => (
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
                node.metadata.creation_timestamp.clone(),
            ),
        };
        let unknown = NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: beat,
            last_transition_time: Some(time(now)),
        };
        match told {
            Some(told) if told.status == "Unknown" => {}
            Some(told) => *told = unknown,
            None => conditions.push(unknown),
        }
    }
    node
}

/// The taints that follow from conditions, beside those that others have set; and when to look again.
fn taints(
    node: &Node,
    old: &[Taint],
    clear: impl FnOnce(bool) -> Clearing,
    now: Timestamp,
) -> (Vec<Taint>, Option<Duration>) {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let ready = match value(node, "Ready") {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    };
    wanted.extend(ready.map(|key| (key, "NoSchedule")));
    let mut again_after = None;
    if let Some(key) = ready {
        // One whose pods had to leave before goes on being cleared, whichever way it is gone now.
        let began =
            old.iter().any(|taint| taint.effect == NO_EXECUTE && [NOT_READY, UNREACHABLE].contains(&&*taint.key));
        match clear(began) {
            Clearing::Now => wanted.push((key, NO_EXECUTE)),
            Clearing::In(delay) => again_after = Some(delay),
            Clearing::Never => {}
        }
    }
    wanted.extend(
        BY_CONDITION.iter().filter(|(kind, _)| value(node, kind) == "True").map(|(_, key)| (*key, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let stays = |taint: &&Taint| !is_ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<_> = old.iter().filter(stays).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(time(now)),
            });
        }
    }
    (taints, again_after)
}

fn is_ours(taint: &Taint) -> bool {
    let readiness = [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
    let pressure = taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, key)| *key == taint.key);
    readiness || pressure && taint.effect == "NoSchedule"
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{now, object};

    fn check(ready: &str, spec: &str, silent_seconds: u64, all_down: bool, expected: Expect) {
        let node: Node = object(&format!(
            "{{metadata: {{name: n1, resourceVersion: '7'}}, spec: {spec}, status: {{conditions: [{{type: Ready, status: '{ready}', lastHeartbeatTime: '2026-01-31T11:59:00Z'}}, {{type: DiskPressure, status: 'True'}}]}}}}"
        ));
        let mut plan = Plan::nothing();
        let (silent, grace) = (Duration::from_secs(silent_seconds), Duration::from_secs(50));
        let clear = |_| if all_down { Clearing::Never } else { Clearing::Now };
        reconcile(&node, silent, grace, clear, now(), &mut plan);
        expected.assert_eq(&plan.to_string());
    }

    #[test]
    fn a_silent_node_is_given_up_after_the_grace_period() {
        check(
            "True",
            "{taints: [{key: node.kubernetes.io/disk-pressure, effect: NoSchedule}]}",
            20,
            false,
            expect![[r#"
            look again in 30 s
        "#]],
        );
        check(
            "True",
            "{}",
            50,
            false,
            expect![[r#"
            update nodes/status n1 {"conditions":[{"lastHeartbeatTime":"2026-01-31T11:59:00Z","lastTransitionTime":"2026-01-31T12:00:00Z","message":"Kubelet stopped posting node status.","reason":"NodeStatusUnknown","status":"Unknown","type":"Ready"},{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"Kubelet stopped posting node status.","reason":"NodeStatusUnknown","status":"Unknown","type":"DiskPressure"},{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"Kubelet never posted node status.","reason":"NodeStatusNeverUpdated","status":"Unknown","type":"MemoryPressure"},{"lastTransitionTime":"2026-01-31T12:00:00Z","message":"Kubelet never posted node status.","reason":"NodeStatusNeverUpdated","status":"Unknown","type":"PIDPressure"}]} [NodeNotReady: Node n1 status is now: NodeNotReady]
        "#]],
        );
    }

    #[test]
    fn conditions_become_taints() {
        check(
            "False",
            "{unschedulable: true}",
            0,
            false,
            expect![[r#"
            patch nodes n1 {"metadata":{"resourceVersion":"7"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/not-ready","timeAdded":"2026-01-31T12:00:00Z"},{"effect":"NoExecute","key":"node.kubernetes.io/not-ready","timeAdded":"2026-01-31T12:00:00Z"},{"effect":"NoSchedule","key":"node.kubernetes.io/disk-pressure","timeAdded":"2026-01-31T12:00:00Z"},{"effect":"NoSchedule","key":"node.kubernetes.io/unschedulable","timeAdded":"2026-01-31T12:00:00Z"}]}}
            look again in 50 s
        "#]],
        );
        check(
            "Unknown",
            "{taints: [{key: mine, effect: NoExecute}]}",
            90,
            false,
            expect![[r#"
            patch nodes n1 {"metadata":{"resourceVersion":"7"},"spec":{"taints":[{"effect":"NoExecute","key":"mine"},{"effect":"NoSchedule","key":"node.kubernetes.io/unreachable","timeAdded":"2026-01-31T12:00:00Z"},{"effect":"NoExecute","key":"node.kubernetes.io/unreachable","timeAdded":"2026-01-31T12:00:00Z"},{"effect":"NoSchedule","key":"node.kubernetes.io/disk-pressure","timeAdded":"2026-01-31T12:00:00Z"}]}}
        "#]],
        );
        check(
            "Unknown",
            "{}",
            90,
            true,
            expect![[r#"
            patch nodes n1 {"metadata":{"resourceVersion":"7"},"spec":{"taints":[{"effect":"NoSchedule","key":"node.kubernetes.io/unreachable","timeAdded":"2026-01-31T12:00:00Z"},{"effect":"NoSchedule","key":"node.kubernetes.io/disk-pressure","timeAdded":"2026-01-31T12:00:00Z"}]}}
        "#]],
        );
    }

    #[test]
    fn a_node_that_is_ready_again_loses_its_taints() {
        check(
            "True",
            "{taints: [{key: node.kubernetes.io/unreachable, effect: NoExecute}, {key: node.kubernetes.io/not-ready, effect: NoSchedule}, {key: mine, effect: NoSchedule}]}",
            1,
            false,
            expect![[r#"
                patch nodes n1 {"metadata":{"resourceVersion":"7"},"spec":{"taints":[{"effect":"NoSchedule","key":"mine"},{"effect":"NoSchedule","key":"node.kubernetes.io/disk-pressure","timeAdded":"2026-01-31T12:00:00Z"}]}}
                look again in 49 s
            "#]],
        );
    }
}
