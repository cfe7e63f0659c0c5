//! How long nodes' agents may keep Secrets and ConfigMaps before they look again, by the size of the cluster: an
//! annotation on each node, with room between the steps so that it does not flap.
//! See <https://kubernetes.io/docs/reference/labels-annotations-taints/#node-alpha-kubernetes-io-ttl>.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use skiff_base::Timestamp;
use skiff_client::{Change, Informer, ObjectKey, Patch};

use crate::meta::annotation;
use crate::plan::{Action, Plan};
use crate::runner::{Controller, Failure, Setup};

const TTL: &str = "node.alpha.kubernetes.io/ttl";
/// From so many nodes to so many, the seconds.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// Whether a cluster that has grown or shrunk by a node needs another time on every node.
fn is_step(before: usize, after: usize) -> bool {
    STEPS.iter().any(|(low, high, _)| (*low..=*high).contains(&before) != (*low..=*high).contains(&after))
}

/// What is to be done about a node in a cluster of so many.
pub fn reconcile(node: &Node, count: usize) -> Plan {
    let mut plan = Plan::nothing();
    let told = annotation(&node.metadata, TTL).and_then(|text| text.parse::<u32>().ok());
    let still_fits = |seconds: u32| STEPS.iter().any(|(low, high, s)| *s == seconds && (*low..=*high).contains(&count));
    if told.is_some_and(still_fits) || node.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let step = STEPS.iter().find(|(_, high, _)| count <= *high);
    if let Some((_, _, seconds)) = step {
        let patch = json!({"metadata": {"annotations": {TTL: seconds.to_string()}}});
        plan.then(Action::patch::<Node>(&node.metadata, Patch::Strategic(patch)));
    }
    plan
}

/// The controller.
pub struct NodeTtl {
    nodes: Informer<Node>,
}

impl NodeTtl {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let nodes = setup.informer::<Node>();
        let known = nodes.clone();
        setup.on_change::<Node>(move |change| match change {
            Change::Updated { old, new } if annotation(&old.metadata, TTL) == annotation(&new.metadata, TTL) => {
                Vec::new()
            }
            Change::Updated { new, .. } => vec![ObjectKey::of(&new.metadata)],
            Change::Added(_) if is_step(known.len().saturating_sub(1), known.len()) => keys_of(&known),
            Change::Added(node) => vec![ObjectKey::of(&node.metadata)],
            Change::Deleted(_) if is_step(known.len() + 1, known.len()) => keys_of(&known),
            Change::Deleted(_) => Vec::new(),
        });
        Arc::new(Self { nodes })
    }
}

fn keys_of(nodes: &Informer<Node>) -> Vec<ObjectKey> {
    nodes.list().iter().map(|node| ObjectKey::of(&node.metadata)).collect()
}

impl Controller for NodeTtl {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.nodes.by_key(key).map_or_else(Plan::nothing, |node| reconcile(&node, self.nodes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn the_time_follows_the_size_with_room_between_the_steps() {
        let check = |told: &str, count: usize, expected: Option<&str>| {
            let annotations = if told.is_empty() { String::new() } else { format!("{TTL}: '{told}'") };
            let node = object(&format!("{{metadata: {{name: n1, annotations: {{{annotations}}}}}}}"));
            let plan = reconcile(&node, count).to_string();
            assert_eq!(plan.is_empty(), expected.is_none(), "{plan}");
            assert!(plan.contains(&expected.map(|s| format!("\"{TTL}\":\"{s}\"")).unwrap_or_default()), "{plan}");
        };
        check("", 3, Some("0"));
        check("0", 100, None);
        check("0", 101, Some("15"));
        check("15", 95, None);
        check("15", 89, Some("0"));
        check("60", 5000, Some("300"));
        assert!(is_step(100, 101) && is_step(90, 89));
        assert!(!is_step(3, 4) && !is_step(4000, 4001));
    }
}
