//! Every node's own range of pod addresses, cut from the cluster's. Pure but for the memory of what was given out.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use skiff_client::Patch;

use crate::plan::{Action, Note, Plan};

/// The ranges given out, also those of which the nodes have not been seen yet.
pub struct Ranges {
    base: u32,
    /// The bits that the addresses of one node share.
    node_prefix: u32,
    count: u32,
    given: Mutex<Given>,
}

impl Ranges {
    /// Ranges of `node_prefix` bits of a cluster range such as `10.244.0.0/16`.
    pub fn parse(cluster: &str, node_prefix: u8) -> Option<Self> {
        let node_prefix = u32::from(node_prefix);
        let (address, prefix) = cluster.split_once('/')?;
        let (address, prefix): (Ipv4Addr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
        if prefix > node_prefix || node_prefix > 32 {
            return None;
        }
        let count = 1u32.checked_shl(node_prefix - prefix)?;
        Some(Self { base: address.to_bits(), node_prefix, count, given: Mutex::default() })
    }

    fn text(&self, index: u32) -> String {
        let first = Ipv4Addr::from_bits(self.base + (index << (32 - self.node_prefix)));
        format!("{first}/{}", self.node_prefix)
    }

    fn index_of(&self, node: &Node) -> Option<u32> {
        let range = node.spec.as_ref()?.pod_cidr.as_deref()?;
        let address: Ipv4Addr = range.split_once('/')?.0.parse().ok()?;
        let index = address.to_bits().checked_sub(self.base)? >> (32 - self.node_prefix);
        (index < self.count).then_some(index)
    }

    /// A node is gone: its range is free again.
    pub fn release(&self, node: &str) {
        self.given.lock().release(node);
    }

    /// The range that a node has is not given to another.
    pub fn note(&self, node: &Node) {
        if let Some(index) = self.index_of(node) {
            self.given.lock().give(node.metadata.name.as_deref().unwrap_or_default(), index);
        }
    }

    /// Plans to give a node without a range the lowest that no other has.
    pub fn assign(&self, node: &Node, plan: &mut Plan) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let has = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()).is_some_and(|range| !range.is_empty());
        if has || node.metadata.deletion_timestamp.is_some() {
            return;
        }
        let mut given = self.given.lock();
        let own = given.by_node.get(&name).copied();
        let Some(index) = own.or_else(|| given.lowest_free(self.count)) else {
            let text = format!("Node {name} status is now: CIDRNotAvailable");
            plan.then(Action::tell(Note::normal(node, "CIDRNotAvailable", text)));
            return;
        };
        given.give(&name, index);
        let range = self.text(index);
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        plan.then(Action::patch::<Node>(&node.metadata, Patch::Strategic(patch)));
    }
}

/// What was given to whom.
#[derive(Default)]
struct Given {
    by_node: HashMap<String, u32>,
    /// How many nodes have it: who writes ranges by hand may write one twice.
    taken: HashMap<u32, u32>,
    /// None below this is free.
    full_below: u32,
}

impl Given {
    fn give(&mut self, node: &str, index: u32) {
        if self.by_node.get(node) != Some(&index) {
            self.release(node);
            self.by_node.insert(node.to_owned(), index);
            *self.taken.entry(index).or_default() += 1;
        }
    }

    fn release(&mut self, node: &str) {
        let Some(index) = self.by_node.remove(node) else { return };
        if let Some(count) = self.taken.get_mut(&index) {
            *count -= 1;
            if *count == 0 {
                self.taken.remove(&index);
                self.full_below = self.full_below.min(index);
            }
        }
    }

    fn lowest_free(&mut self, count: u32) -> Option<u32> {
        while self.taken.contains_key(&self.full_below) {
            self.full_below += 1;
        }
        (self.full_below < count).then_some(self.full_below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    fn node(name: &str, range: &str) -> Node {
        object(&format!("{{metadata: {{name: {name}}}, spec: {{podCIDR: '{range}'}}}}"))
    }

    #[test]
    fn each_node_gets_the_lowest_free_range() {
        let ranges = Ranges::parse("10.244.0.0/16", 24).expect("a range");
        let nodes = [node("a", "10.244.0.0/24"), node("b", ""), node("c", "10.244.2.0/24"), node("d", "")];
        nodes.iter().for_each(|node| ranges.note(node));
        let given = |at: usize| {
            let mut plan = Plan::nothing();
            ranges.assign(&nodes[at], &mut plan);
            plan.to_string()
        };
        assert!(given(0).is_empty());
        assert!(given(1).contains("10.244.1.0/24"));
        assert!(given(3).contains("10.244.3.0/24"), "what was just given is not given again");
        ranges.release("b");
        assert!(given(3).contains("10.244.3.0/24"), "nor changed");
        ranges.release("d");
        assert!(given(3).contains("10.244.1.0/24"), "what is free again is given again");
    }

    #[test]
    fn a_range_too_small_is_none() {
        assert!(Ranges::parse("10.0.0.0/25", 24).is_none());
        assert!(Ranges::parse("nonsense", 24).is_none());
    }
}
