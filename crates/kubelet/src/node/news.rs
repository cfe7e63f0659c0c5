//! What people are told of a node as events, with upstream's reasons and words.

use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::{Node, NodeStatus, ObjectReference};
use skiff_client::{Change, Informer, Recorder};

/// Conditions with the reasons of the events that tell of them: when they come to hold, and when they hold no more.
const TOLD: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
    ("Ready", "NodeReady", "NodeNotReady"),
];

/// Tells of one node. Cheap to clone.
#[derive(Clone)]
pub struct News {
    recorder: Recorder,
    node: ObjectReference,
}

impl News {
    /// Tells of the node `name` by `recorder`.
    pub fn of(recorder: Recorder, name: &str) -> Self {
        // Upstream's agent names itself as its uid too, which it does not know before the object is there.
        let node = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        Self { recorder, node }
    }

    /// By what events name the node.
    pub fn reference(&self) -> &ObjectReference {
        &self.node
    }

    fn name(&self) -> &str {
        self.node.name.as_deref().unwrap_or_default()
    }

    /// The agent begins.
    pub fn starting(&self) {
        self.recorder.record(&self.node, false, "Starting", "Starting kubelet.".to_owned());
    }

    /// Whether all Pods together are kept within what the machine has for them.
    pub fn enforced<E: std::fmt::Display>(&self, outcome: Result<(), E>, path: &str) {
        let (reason, words) = match &outcome {
            Ok(()) => ("NodeAllocatableEnforced", "Updated Node Allocatable limit across pods".to_owned()),
            Err(error) => (
                "FailedNodeAllocatableEnforcement",
                format!("Failed to update Node Allocatable Limits {path:?}: {error}"),
            ),
        };
        self.recorder.record(&self.node, outcome.is_err(), reason, words);
    }

    /// A status was written where there was `old`, or none.
    pub fn written(&self, old: Option<&NodeStatus>, new: &NodeStatus) {
        changes(old, new).into_iter().for_each(|reason| self.became(reason));
        let boot = |status: &NodeStatus| status.node_info.as_ref().map(|info| info.boot_id.clone()).unwrap_or_default();
        let (before, now) = (old.map(boot).unwrap_or_default(), boot(new));
        if !before.is_empty() && before != now {
            let words = format!("Node {} has been rebooted, boot id: {now}", self.name());
            self.recorder.record(&self.node, true, "Rebooted", words);
        }
    }

    /// Tells from now on when the node takes new Pods no more, and when it does again.
    pub fn follow(self, nodes: &Informer<Node>) {
        let cordoned = AtomicBool::new(false);
        nodes.on_change(move |change| {
            let (Change::Added(node) | Change::Updated { new: node, .. }) = change else { return };
            let now = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
            if cordoned.swap(now, Ordering::AcqRel) != now {
                self.became(if now { "NodeNotSchedulable" } else { "NodeSchedulable" });
            }
        });
    }

    fn became(&self, reason: &str) {
        let words = format!("Node {} status is now: {reason}", self.name());
        self.recorder.record(&self.node, false, reason, words);
    }
}

/// The reasons of what has changed. A node that is not ready yet is none that became so.
fn changes(old: Option<&NodeStatus>, new: &NodeStatus) -> Vec<&'static str> {
    let state = |status: &NodeStatus, kind: &str| {
        let of_kind = status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        of_kind.map(|condition| condition.status.clone())
    };
    let reason = |(kind, holds, holds_not): (&str, _, _)| {
        let at_first = || (kind == "Ready").then(|| "False".to_owned());
        let (before, now) = (old.and_then(|old| state(old, kind)).or_else(at_first), state(new, kind)?);
        (before.as_ref() != Some(&now)).then_some(if now == "True" { holds } else { holds_not })
    };
    TOLD.into_iter().filter_map(reason).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeCondition;

    use super::*;

    fn status(states: [&str; 4]) -> NodeStatus {
        let conditions = TOLD.iter().zip(states).map(|((kind, ..), state)| NodeCondition {
            type_: (*kind).to_owned(),
            status: state.to_owned(),
            ..NodeCondition::default()
        });
        NodeStatus { conditions: Some(conditions.collect()), ..NodeStatus::default() }
    }

    #[test]
    fn changes_are_told_and_nothing_else() {
        let well = ["False", "False", "False", "True"];
        let check = |old: Option<[&str; 4]>, new, expected: &[&str]| {
            assert_eq!(changes(old.map(status).as_ref(), &status(new)), expected, "{old:?} {new:?}");
        };
        let at_first = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"];
        check(None, ["False", "False", "False", "False"], &at_first);
        check(None, well, &[&at_first[..], &["NodeReady"]].concat());
        check(Some(well), well, &[]);
        check(
            Some(well),
            ["True", "True", "True", "False"],
            &["NodeHasInsufficientMemory", "NodeHasDiskPressure", "NodeHasInsufficientPID", "NodeNotReady"],
        );
        check(Some(["Unknown"; 4]), well, &[&at_first[..], &["NodeReady"]].concat());
    }
}
