//! Every node's own ranges of pod addresses, one of each family, cut from the cluster's. Pure but for the memory of what was
//! given out.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::Cidr;
use skiff_client::Patch;

use crate::plan::{Action, Note, Plan};

/// The ranges given out, also those of which the nodes have not been seen yet.
pub struct Ranges {
    sets: Vec<Set>,
    /// What was given of each.
    given: Mutex<Vec<Given>>,
}

/// One range of the cluster, and how it is cut.
struct Set {
    cluster: Cidr,
    /// The bits that the addresses of one node share.
    node_bits: u8,
    count: u32,
}

impl Set {
    fn index_of(&self, range: &str) -> Option<u32> {
        self.cluster.part_of(self.node_bits, range.parse::<Cidr>().ok()?.base())
    }
}

impl Ranges {
    /// Parts of the cluster's ranges, each with the bits that the addresses of one node share; that of the primary family
    /// comes first. `None` where there is no range, or one is smaller than its parts.
    pub fn new(cluster: &[(Cidr, u8)]) -> Option<Self> {
        let set = |(cluster, node_bits): &(Cidr, u8)| {
            Some(Set { cluster: *cluster, node_bits: *node_bits, count: cluster.parts(*node_bits)? })
        };
        let sets: Vec<Set> = cluster.iter().map(set).collect::<Option<_>>()?;
        let given = Mutex::new(sets.iter().map(|_| Given::default()).collect());
        (!sets.is_empty()).then_some(Self { sets, given })
    }

    /// A node is gone: its ranges are free again.
    pub fn release(&self, node: &str) {
        self.given.lock().iter_mut().for_each(|given| given.release(node));
    }

    /// The ranges that a node has are not given to another.
    pub fn note(&self, node: &Node) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut all = self.given.lock();
        for range in ranges_of(node) {
            for (set, given) in self.sets.iter().zip(all.iter_mut()) {
                if let Some(index) = set.index_of(range) {
                    given.give(name, index);
                }
            }
        }
    }

    /// Plans to give a node without ranges the lowest of each family that no other has.
    pub fn assign(&self, node: &Node, plan: &mut Plan) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if !ranges_of(node).is_empty() || node.metadata.deletion_timestamp.is_some() {
            return;
        }
        let mut all = self.given.lock();
        let free = |(set, given): (&Set, &mut Given)| {
            given.by_node.get(&name).copied().or_else(|| given.lowest_free(set.count))
        };
        let Some(indexes) = self.sets.iter().zip(all.iter_mut()).map(free).collect::<Option<Vec<u32>>>() else {
            let text = format!("Node {name} status is now: CIDRNotAvailable");
            plan.then(Action::tell(Note::normal(node, "CIDRNotAvailable", text)));
            return;
        };
        let mut ranges = Vec::new();
        for ((set, given), index) in self.sets.iter().zip(all.iter_mut()).zip(indexes) {
            given.give(&name, index);
            ranges.extend(set.cluster.part(set.node_bits, index).map(|range| range.to_string()));
        }
        let patch =
            json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}});
        plan.then(Action::patch::<Node>(&node.metadata, Patch::Strategic(patch)));
    }
}

/// What a node has.
fn ranges_of(node: &Node) -> Vec<&str> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all: Vec<&str> = spec.pod_cidrs.iter().flatten().map(String::as_str).collect();
    let all = if all.is_empty() { spec.pod_cidr.as_deref().into_iter().collect() } else { all };
    all.into_iter().filter(|range| !range.is_empty()).collect()
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
    use expect_test::expect;

    use super::*;
    use crate::testing::object;

    fn node(name: &str, range: &str) -> Node {
        object(&format!("{{metadata: {{name: {name}}}, spec: {{podCIDR: '{range}'}}}}"))
    }

    fn ranges(cluster: &[(&str, u8)]) -> Option<Ranges> {
        let cluster: Vec<_> = cluster.iter().map(|(range, bits)| (range.parse().expect("a range"), *bits)).collect();
        Ranges::new(&cluster)
    }

    fn given(ranges: &Ranges, node: &Node) -> String {
        let mut plan = Plan::nothing();
        ranges.assign(node, &mut plan);
        plan.to_string()
    }

    #[test]
    fn each_node_gets_the_lowest_free_range() {
        let ranges = ranges(&[("10.244.0.0/16", 24)]).expect("a range");
        let nodes = [node("a", "10.244.0.0/24"), node("b", ""), node("c", "10.244.2.0/24"), node("d", "")];
        nodes.iter().for_each(|node| ranges.note(node));
        let given = |at: usize| given(&ranges, &nodes[at]);
        assert!(given(0).is_empty());
        assert!(given(1).contains("10.244.1.0/24"));
        assert!(given(3).contains("10.244.3.0/24"), "what was just given is not given again");
        ranges.release("b");
        assert!(given(3).contains("10.244.3.0/24"), "nor changed");
        ranges.release("d");
        assert!(given(3).contains("10.244.1.0/24"), "what is free again is given again");
    }

    #[test]
    fn each_node_gets_a_range_of_each_family() {
        let ranges = ranges(&[("2001:db8:42::/62", 64), ("10.244.0.0/16", 24)]).expect("ranges");
        let both: Node = object(
            "{metadata: {name: a}, spec: {podCIDR: '2001:db8:42::/64', podCIDRs: ['2001:db8:42::/64', 10.244.9.0/24]}}",
        );
        ranges.note(&both);
        let given = |name: &str| given(&ranges, &node(name, ""));
        expect![[r#"
            patch nodes b {"metadata":{"uid":null},"spec":{"podCIDR":"2001:db8:42:1::/64","podCIDRs":["2001:db8:42:1::/64","10.244.0.0/24"]}}
        "#]].assert_eq(&given("b"));
        assert!(given("c").contains("2001:db8:42:2::/64") && given("d").contains("2001:db8:42:3::/64"));
        assert!(given("e").contains("CIDRNotAvailable"), "one family is not enough");
        ranges.release("a");
        assert!(given("e").contains(r#"["2001:db8:42::/64","10.244.3.0/24"]"#));
    }

    #[test]
    fn a_range_too_small_is_none() {
        assert!(ranges(&[("10.0.0.0/25", 24)]).is_none());
        assert!(ranges(&[("10.244.0.0/16", 24), ("2001:db8::/65", 64)]).is_none());
        assert!(ranges(&[]).is_none());
    }
}
