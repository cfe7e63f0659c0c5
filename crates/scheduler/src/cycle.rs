//! One decision: which node a pod goes to, or in upstream's words why to none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::plugins::{DEFAULT_PLUGINS, Filter, Verdict};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// Below this many feasible nodes the search never stops early.
const MIN_FEASIBLE_NODES: usize = 100;
/// The smallest share of nodes that is looked at, in percent.
const MIN_FEASIBLE_PERCENT: usize = 5;

/// Why a pod goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// Why it would go to no node whatever that is like.
    pub whole: String,
    /// How many nodes each reason holds for.
    pub reasons: BTreeMap<Cow<'static, str>, usize>,
    /// Names of the plugins that turned nodes down.
    pub rejected_by: Vec<&'static str>,
    /// Nodes where evicting pods might help.
    pub resolvable: Vec<String>,
    /// Why eviction does not help either.
    pub preemption: String,
}

impl Unschedulable {
    /// The text of the `FailedScheduling` event and of the PodScheduled condition.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let whole = (!self.whole.is_empty()).then(|| self.whole.clone());
        let mut reasons: Vec<_> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).chain(whole).collect();
        reasons.sort();
        let mut text = format!("0/{} nodes are available: {}.", self.nodes, reasons.join(", "));
        if !self.preemption.is_empty() {
            text.push_str(" no new claims to deallocate, preemption: ");
            text.push_str(&self.preemption);
        }
        text
    }

    fn note(&mut self, plugin: &'static str, reasons: Vec<Cow<'static, str>>) {
        for reason in reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
        if !self.rejected_by.contains(&plugin) {
            self.rejected_by.push(plugin);
        }
    }
}

/// Where the search starts, so that all nodes get their turn; and ties are broken.
#[derive(Debug, Default)]
pub struct Turn {
    start: usize,
    random: u64,
}

impl Turn {
    /// A turn whose ties are broken by `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self { start: 0, random: seed | 1 }
    }

    fn next_random(&mut self) -> u64 {
        // xorshift64: cheap, and good enough to break ties.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// How many feasible nodes are enough, by the size of the cluster.
fn enough(nodes: usize) -> usize {
    if nodes <= MIN_FEASIBLE_NODES {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(MIN_FEASIBLE_PERCENT);
    (nodes * percent / 100).max(MIN_FEASIBLE_NODES)
}

/// The filters that have something to say of a pod.
pub fn filters<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Vec<(&'static str, Filter<'a>)> {
    let made = DEFAULT_PLUGINS.iter().map(|plugin| (plugin.name, plugin.filter.and_then(|make| make(pod, snapshot))));
    made.filter_map(|(name, filter)| Some((name, filter?))).collect()
}

/// Chooses a node for the pod.
///
/// # Errors
/// No node can take it.
pub fn decide<'a>(pod: &PodInfo, snapshot: &'a Snapshot, turn: &mut Turn) -> Result<&'a str, Unschedulable> {
    let nodes = snapshot.nodes();
    let mut failure = Unschedulable { nodes: nodes.len(), ..Unschedulable::default() };
    let refused = DEFAULT_PLUGINS.iter().find_map(|plugin| Some((plugin.name, plugin.check?(pod, snapshot)?)));
    if let Some((plugin, whole)) = refused {
        (failure.whole, failure.rejected_by) = (whole, vec![plugin]);
        return Err(failure);
    }
    let feasible = feasible(pod, snapshot, turn, &mut failure);
    match feasible.as_slice() {
        [] => Err(failure),
        [only] => Ok(only.name()),
        many => Ok(best(pod, snapshot, many, turn).name()),
    }
}

fn feasible<'a>(
    pod: &PodInfo,
    snapshot: &'a Snapshot,
    turn: &mut Turn,
    failure: &mut Unschedulable,
) -> Vec<&'a NodeInfo> {
    let nodes = snapshot.nodes();
    let filters = filters(pod, snapshot);
    let (wanted, start) = (enough(nodes.len()), if nodes.is_empty() { 0 } else { turn.start % nodes.len() });
    let mut feasible = Vec::new();
    let mut looked_at = 0;
    for node in nodes[start..].iter().chain(&nodes[..start]) {
        looked_at += 1;
        if passes(&filters, node, failure) {
            feasible.push(node);
            if feasible.len() >= wanted {
                break;
            }
        }
    }
    turn.start = start + looked_at;
    feasible
}

fn passes(filters: &[(&'static str, Filter)], node: &NodeInfo, failure: &mut Unschedulable) -> bool {
    for (name, filter) in filters {
        match filter(node) {
            Verdict::Pass => {}
            Verdict::Reject(reasons) => {
                failure.note(name, reasons);
                failure.resolvable.push(node.name().to_owned());
                return false;
            }
            Verdict::RejectForGood(reasons) => {
                failure.note(name, reasons);
                return false;
            }
        }
    }
    true
}

fn best<'a>(pod: &PodInfo, snapshot: &Snapshot, nodes: &[&'a NodeInfo], turn: &mut Turn) -> &'a NodeInfo {
    let mut totals = vec![0i64; nodes.len()];
    for plugin in DEFAULT_PLUGINS {
        let Some((make, normalize, weight)) = plugin.score else { continue };
        let Some(score) = make(pod, snapshot) else { continue };
        let mut scores: Vec<_> = nodes.iter().map(|node| score(node)).collect();
        normalize.apply(&mut scores);
        totals.iter_mut().zip(scores).for_each(|(total, score)| *total += weight * score);
    }
    let top = totals.iter().copied().max().unwrap_or(0);
    let ties: Vec<_> = (0..nodes.len()).filter(|at| totals[*at] == top).collect();
    nodes[ties[(turn.next_random() % ties.len() as u64) as usize]]
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::preempt::{Preemption, preempt};
    use crate::testing::cluster;

    /// Where the pod goes, or what the event says (and who would have to go).
    fn check(yaml: &str, expected: Expect) {
        let (snapshot, pod) = cluster(yaml);
        let told = match decide(&pod, &snapshot, &mut Turn::seeded(1)) {
            Ok(node) => node.to_owned(),
            Err(mut failure) => match preempt(&pod, &snapshot, &failure) {
                Preemption::Victims { node, pods } => {
                    let names: Vec<_> = pods.iter().map(|pod| pod.name()).collect();
                    format!("{} evict {} from {node}", failure.message(), names.join(", "))
                }
                Preemption::Waiting => format!("{} waiting", failure.message()),
                Preemption::Pointless(why) => {
                    failure.preemption = why;
                    failure.message()
                }
            },
        };
        expected.assert_eq(&told);
    }

    #[test]
    fn without_nodes_nothing_goes() {
        check("{nodes: [], pod: {name: p}}", expect!["no nodes available to schedule pods"]);
    }

    #[test]
    fn a_node_needs_room() {
        check(
            "{nodes: [{name: a, cpu: '1'}], pods: [{name: x, node: a, cpu: 600m}], pod: {name: p, cpu: 500m}}",
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
        check(
            "{nodes: [{name: a, cpu: '1', memory: 1Gi}], pod: {name: p, cpu: '2', memory: 2Gi}}",
            expect![
                "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
        check(
            "{nodes: [{name: a, pods: 1}], pods: [{name: x, node: a}], pod: {name: p}}",
            expect![
                "0/1 nodes are available: 1 Too many pods. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
    }

    #[test]
    fn the_emptier_node_is_better() {
        check(
            "{nodes: [{name: a}, {name: b}], pods: [{name: x, node: a, cpu: '2', memory: 2Gi}], pod: {name: p, cpu: 100m}}",
            expect!["b"],
        );
    }

    #[test]
    fn init_containers_and_sidecars_count_as_documented() {
        let spec = "initContainers: [{name: s, restartPolicy: Always, resources: {requests: {cpu: 1}}}, {name: i, resources: {requests: {cpu: 2}}}]";
        let pod = crate::testing::pod(&format!("{{name: p, cpu: 500m, spec: {{{spec}}}}}"));
        assert_eq!(pod.requests.cpu_millis, 3000);
    }

    #[test]
    fn taints_and_cordons_keep_pods_away() {
        let tainted = "{name: a, spec: {taints: [{key: k, value: v, effect: NoSchedule}]}}";
        let cordoned = "{name: b, spec: {unschedulable: true}}";
        check(
            &format!("{{nodes: [{tainted}, {cordoned}], pod: {{name: p}}}}"),
            expect![
                "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
        check(
            &format!("{{nodes: [{tainted}], pod: {{name: p, spec: {{tolerations: [{{key: k, value: v}}]}}}}}}"),
            expect!["a"],
        );
        check(
            "{nodes: [{name: a, spec: {taints: [{key: k, effect: PreferNoSchedule}]}}, {name: b}], pod: {name: p}}",
            expect!["b"],
        );
    }

    #[test]
    fn selectors_and_affinity_choose_nodes() {
        let nodes = "nodes: [{name: a, labels: {disk: hdd, size: '3'}}, {name: b, labels: {disk: ssd, size: '5'}}]";
        check(&format!("{{{nodes}, pod: {{name: p, spec: {{nodeSelector: {{disk: ssd}}}}}}}}"), expect!["b"]);
        check(
            &format!("{{{nodes}, pod: {{name: p, spec: {{nodeSelector: {{disk: tape}}}}}}}}"),
            expect![
                "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
        let required = "requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: size, operator: Lt, values: ['4']}]}]}";
        check(
            &format!("{{{nodes}, pod: {{name: p, spec: {{affinity: {{nodeAffinity: {{{required}}}}}}}}}}}"),
            expect!["a"],
        );
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution: [{weight: 5, preference: {matchExpressions: [{key: disk, operator: In, values: [ssd]}]}}]";
        check(
            &format!("{{{nodes}, pod: {{name: p, spec: {{affinity: {{nodeAffinity: {{{preferred}}}}}}}}}}}"),
            expect!["b"],
        );
    }

    #[test]
    fn host_ports_are_taken_once() {
        check(
            "{nodes: [{name: a}], pods: [{name: x, node: a, port: 80}], pod: {name: p, port: 80}}",
            expect![
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
        check("{nodes: [{name: a}], pods: [{name: x, node: a, port: 80}], pod: {name: p, port: 81}}", expect!["a"]);
    }

    #[test]
    fn pods_keep_together_or_apart() {
        let nodes = "nodes: [{name: a, labels: {host: a}}, {name: b, labels: {host: b}}], pods: [{name: x, node: a, labels: {app: web}}]";
        let term = "requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: host, labelSelector: {matchLabels: {app: web}}}]";
        let affine = |kind: &str| {
            format!("{{{nodes}, pod: {{name: p, labels: {{app: web}}, spec: {{affinity: {{{kind}: {{{term}}}}}}}}}}}")
        };
        check(&affine("podAffinity"), expect!["a"]);
        check(&affine("podAntiAffinity"), expect!["b"]);
        let first = format!(
            "{{nodes: [{{name: a, labels: {{host: a}}}}], pod: {{name: p, labels: {{app: web}}, spec: {{affinity: {{podAffinity: {{{term}}}}}}}}}}}"
        );
        check(&first, expect!["a"]);
    }

    #[test]
    fn domains_are_filled_evenly() {
        let constraint = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]";
        let pods = "pods: [{name: x, node: a, labels: {app: web}}]";
        check(
            &format!(
                "{{nodes: [{{name: a, labels: {{zone: a}}}}, {{name: b, labels: {{zone: b}}}}], {pods}, pod: {{name: p, labels: {{app: web}}, spec: {{{constraint}}}}}}}"
            ),
            expect!["b"],
        );
        check(
            &format!(
                "{{nodes: [{{name: a, labels: {{zone: a}}}}, {{name: b, labels: {{zone: b}}, spec: {{unschedulable: true}}}}, {{name: c}}], {pods}, pod: {{name: p, labels: {{app: web}}, spec: {{{constraint}}}}}}}"
            ),
            expect![
                "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread constraints (missing required label), 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn pods_go_where_their_volumes_are_or_can_be() {
        let nodes =
            "nodes: [{name: a, labels: {kubernetes.io/hostname: a}}, {name: b, labels: {kubernetes.io/hostname: b}}]";
        let pod = "pod: {name: p, spec: {volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}";
        check(
            &format!("{{{nodes}, {pod}}}"),
            expect![[
                r#"0/2 nodes are available: persistentvolumeclaim "data" not found. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."#
            ]],
        );
        let claim = |more: &str| {
            format!(
                "claims: [{{metadata: {{name: data, namespace: default, uid: u, annotations: {{{more}}}}}, spec: {{storageClassName: fast, volumeName: V, accessModes: [ReadWriteOncePod], resources: {{requests: {{storage: 1Gi}}}}}}}}]"
            )
        };
        let on_b = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [b]}]}]}}";
        let volume = format!(
            "volumes: [{{metadata: {{name: v}}, status: {{phase: Available}}, spec: {{storageClassName: fast, accessModes: [ReadWriteOncePod], capacity: {{storage: 2Gi}}, {on_b}}}}}]"
        );
        let class = |mode: &str, by: &str| {
            format!("classes: [{{metadata: {{name: fast}}, provisioner: {by}, volumeBindingMode: {mode}}}]")
        };
        let bound = claim("pv.kubernetes.io/bind-completed: 'yes'").replace("volumeName: V", "volumeName: v");
        let unbound = claim("").replace("volumeName: V, ", "");
        let late = class("WaitForFirstConsumer", "kubernetes.io/no-provisioner");
        // Bound to what only b reaches.
        check(&format!("{{{nodes}, {bound}, {volume}, {pod}}}"), expect!["b"]);
        check(
            &format!("{{nodes: [{{name: a}}], {bound}, {volume}, {pod}}}"),
            expect![
                "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
        // Not bound: in b there is one; nowhere can one be made; or one can be made anywhere.
        check(&format!("{{{nodes}, {unbound}, {volume}, {late}, {pod}}}"), expect!["b"]);
        check(
            &format!("{{{nodes}, {unbound}, {late}, {pod}}}"),
            expect![
                "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
        check(
            &format!("{{nodes: [{{name: a}}], {unbound}, {}, {pod}}}", class("WaitForFirstConsumer", "x.io/y")),
            expect!["a"],
        );
        check(
            &format!("{{{nodes}, {unbound}, {}, {pod}}}", class("Immediate", "x.io/y")),
            expect![
                "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
        // One pod alone.
        let other =
            "pods: [{name: x, node: b, spec: {volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}]";
        check(
            &format!("{{{nodes}, {bound}, {volume}, {other}, {pod}}}"),
            expect![
                "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode. no new claims to deallocate, preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn images_that_are_there_already_decide_between_equals() {
        let images = "images: [{names: ['app:v1'], sizeBytes: 900000000}]";
        check(&format!("{{nodes: [{{name: a}}, {{name: b, {images}}}], pod: {{name: p}}}}"), expect!["b"]);
    }

    #[test]
    fn the_fewest_and_least_important_pods_make_room() {
        let pods = "pods: [{name: x, node: a, cpu: '2', priority: 1}, {name: y, node: a, cpu: '1', priority: 2}, {name: z, node: b, cpu: '3', priority: 3}]";
        check(
            &format!(
                "{{nodes: [{{name: a, cpu: '3'}}, {{name: b, cpu: '3'}}], {pods}, pod: {{name: p, cpu: '2', priority: 9}}}}"
            ),
            expect!["0/2 nodes are available: 2 Insufficient cpu. evict x from a"],
        );
        check(
            &format!(
                "{{nodes: [{{name: a, cpu: '3'}}], {pods}, pod: {{name: p, cpu: '2', priority: 9, spec: {{preemptionPolicy: Never}}}}}}"
            ),
            expect![
                "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
            ],
        );
    }
}
