//! One decision by the plain model: every filter asked of every node, every score of every feasible one. It decides for
//! pods that are the first of their shape, or that bring volumes; for all others [`crate::ranking`] comes to the same
//! result faster.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::extender;
use crate::plugins::{Ask, Filter, MadeFilter, OfNode, PLUGINS, Score, Verdict};
use crate::ranking::reasons;
use crate::snapshot::NodeInfo;

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
    /// Positions of nodes where evicting pods might help; only the model tells them.
    pub resolvable: Vec<usize>,
    /// Why eviction does not help either.
    pub preemption: String,
}

impl Unschedulable {
    /// Notes what extenders said against nodes, by the nodes' names.
    pub fn note_extenders(&mut self, failed: &BTreeMap<String, String>, unresolvable: &BTreeMap<String, String>) {
        for reason in failed.values().chain(unresolvable.values()) {
            *self.reasons.entry(Cow::Owned(reason.clone())).or_default() += 1;
        }
        if !self.rejected_by.contains(&extender::NAME) {
            self.rejected_by.push(extender::NAME);
        }
    }

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

    /// Counts what a plugin said of some nodes.
    pub fn note(&mut self, plugin: &'static str, reasons: &[Cow<'static, str>], nodes: usize) {
        for reason in reasons {
            match self.reasons.get_mut(reason) {
                Some(count) => *count += nodes,
                None => drop(self.reasons.insert(reason.clone(), nodes)),
            }
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

    /// The next random number.
    pub fn next_random(&mut self) -> u64 {
        // xorshift64: cheap, and good enough to break ties.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }
}

/// How many feasible nodes are enough, by the size of the cluster unless a share is given.
fn enough(nodes: usize, percent: Option<usize>) -> usize {
    let percent = percent.filter(|percent| *percent > 0);
    if nodes <= MIN_FEASIBLE_NODES || percent.is_some_and(|percent| percent >= 100) {
        return nodes;
    }
    let percent = percent.unwrap_or_else(|| 50usize.saturating_sub(nodes / 125).max(MIN_FEASIBLE_PERCENT));
    (nodes * percent / 100).max(MIN_FEASIBLE_NODES)
}

/// A plugin's filter, made ready for one pod.
enum Ready<'a> {
    Alone(OfNode<Verdict>),
    Made(MadeFilter<'a>),
}

/// The filters that have something to say of a pod.
struct Filters<'a> {
    ask: Ask<'a>,
    all: Vec<(&'static str, Ready<'a>)>,
}

impl<'a> Filters<'a> {
    fn of(ask: Ask<'a>) -> Self {
        let enabled = ask.profile.plugins.iter().filter(|enabled| enabled.filters);
        let all = enabled.filter_map(|enabled| {
            let ready = match enabled.plugin.filter {
                Filter::None => return None,
                Filter::Node(rule) | Filter::Load(rule) => Ready::Alone(rule),
                Filter::Cluster(make) => Ready::Made(make(ask)?),
            };
            Some((enabled.plugin.name, ready))
        });
        Self { all: all.collect(), ask }
    }

    /// The first verdict against the node, and whose it is; with the pods that room was made for there, and without.
    fn verdict(&self, node: &NodeInfo) -> (&'static str, Verdict) {
        if let Some(filled) = node.with_nominated(self.ask.pod) {
            let (plugin, verdict) = self.verdict_filled(node, &filled);
            if verdict != Verdict::Pass {
                return (plugin, verdict);
            }
        }
        self.verdict_as_is(node)
    }

    fn verdict_filled(&self, node: &NodeInfo, filled: &NodeInfo) -> (&'static str, Verdict) {
        if !self.all.iter().any(|(_, filter)| matches!(filter, Ready::Made(_))) {
            return self.verdict_as_is(filled);
        }
        // What is asked of several nodes at once has to be asked of a cluster in which those pods are there.
        let mut world = self.ask.snapshot.clone();
        for pod in filled.load.pods.iter().skip(node.load.pods.len()) {
            world.assume(pod.clone(), node.name());
        }
        let ask = Ask { snapshot: &world, ..self.ask };
        world.node(node.name()).map_or(("", Verdict::Pass), |node| Filters::of(ask).verdict_as_is(node))
    }

    fn verdict_as_is(&self, node: &NodeInfo) -> (&'static str, Verdict) {
        for (plugin, filter) in &self.all {
            let verdict = match filter {
                Ready::Alone(rule) => rule(&self.ask, node),
                Ready::Made(filter) => filter(node),
            };
            if verdict != Verdict::Pass {
                return (plugin, verdict);
            }
        }
        ("", Verdict::Pass)
    }
}

/// The first verdict against one node.
pub fn first_verdict(ask: &Ask, node: &NodeInfo) -> Verdict {
    Filters::of(*ask).verdict(node).1
}

/// Why no node at all would do, whatever the nodes are like.
///
/// # Errors
/// That.
pub fn check(ask: &Ask) -> Result<(), Unschedulable> {
    let refused = PLUGINS.iter().find_map(|plugin| Some((plugin.name, plugin.check?(ask)?)));
    let Some((plugin, whole)) = refused.filter(|(plugin, _)| ask.profile.filters(plugin)) else { return Ok(()) };
    let nodes = ask.snapshot.nodes().len();
    Err(Unschedulable { nodes, whole, rejected_by: vec![plugin], ..Unschedulable::default() })
}

/// Chooses a node for the pod; gives its position.
///
/// # Errors
/// No node can take it.
pub fn decide(ask: &Ask, turn: &mut Turn) -> Result<usize, Unschedulable> {
    check(ask)?;
    let wanted = enough(ask.snapshot.nodes().len(), ask.profile.percentage_of_nodes);
    let feasible = feasible(ask, wanted, turn)?;
    let totals = totals(ask, &feasible);
    let top = totals.iter().copied().max().unwrap_or(0);
    let ties: Vec<_> = (0..feasible.len()).filter(|at| totals[*at] == top).collect();
    Ok(feasible[ties[(turn.next_random() % ties.len() as u64) as usize]])
}

/// The positions of nodes that can take the pod, `wanted` of them at most.
///
/// # Errors
/// There is none.
pub fn feasible(ask: &Ask, wanted: usize, turn: &mut Turn) -> Result<Vec<usize>, Unschedulable> {
    let (feasible, failure) = search(ask, wanted, turn);
    if feasible.is_empty() { Err(failure) } else { Ok(feasible) }
}

/// The positions of the nodes that can take the pod, as many as are enough, and why those others cannot that were looked at.
///
/// # Errors
/// None can, whatever the nodes are like.
pub fn candidates(ask: &Ask, turn: &mut Turn) -> Result<(Vec<usize>, Unschedulable), Unschedulable> {
    check(ask)?;
    Ok(search(ask, enough(ask.snapshot.nodes().len(), ask.profile.percentage_of_nodes), turn))
}

fn search(ask: &Ask, wanted: usize, turn: &mut Turn) -> (Vec<usize>, Unschedulable) {
    let nodes = ask.snapshot.nodes();
    let filters = Filters::of(*ask);
    let mut failure = Unschedulable { nodes: nodes.len(), ..Unschedulable::default() };
    let start = if nodes.is_empty() { 0 } else { turn.start % nodes.len() };
    let (mut feasible, mut looked_at) = (Vec::new(), 0);
    for at in (start..nodes.len()).chain(0..start) {
        looked_at += 1;
        let (plugin, verdict) = filters.verdict(&nodes[at]);
        if verdict == Verdict::Pass {
            feasible.push(at);
            if feasible.len() >= wanted {
                break;
            }
            continue;
        }
        failure.note(plugin, reasons(&verdict), 1);
        if let Verdict::Reject(_) = verdict {
            failure.resolvable.push(at);
        }
    }
    turn.start = start + looked_at;
    (feasible, failure)
}

/// The scores of feasible nodes.
pub fn totals(ask: &Ask, feasible: &[usize]) -> Vec<i64> {
    let nodes: Vec<_> = feasible.iter().map(|at| &ask.snapshot.nodes()[*at]).collect();
    let mut totals = vec![0i64; nodes.len()];
    for enabled in ask.profile.plugins.iter().filter(|enabled| enabled.weight > 0) {
        let scores: Vec<i64> = match enabled.plugin.score {
            Score::None => continue,
            Score::Node(rule, normalize) => {
                let raw: Vec<_> = nodes.iter().map(|node| rule(ask, node)).collect();
                let largest = raw.iter().copied().max().unwrap_or(0);
                raw.into_iter().map(|score| normalize.one(score, largest)).collect()
            }
            Score::Load(rule) => nodes.iter().map(|node| rule(ask, node)).collect(),
            Score::Cluster(scores) => match scores(ask, &nodes) {
                Some(scores) => scores,
                None => continue,
            },
        };
        totals.iter_mut().zip(scores).for_each(|(total, score)| *total += enabled.weight * score);
    }
    totals
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::preempt::{ineligible, preempt};
    use crate::profile::Profile;
    use crate::testing::cluster;

    /// Where the pod goes, or what the event says (and who would have to go).
    fn check(yaml: &str, expected: Expect) {
        let (mut snapshot, pod) = cluster(yaml);
        let profile = Profile::default();
        let decided = decide(&Ask { pod: &pod, snapshot: &snapshot, profile: &profile }, &mut Turn::seeded(1));
        let told = match decided {
            Ok(node) => snapshot.nodes()[node].name().to_owned(),
            Err(mut failure) => {
                let found = match ineligible(&pod, &profile, None, &snapshot) {
                    Some(why) => Err(why),
                    None => preempt(&pod, &profile, &mut snapshot, &failure),
                };
                match found {
                    Ok((node, pods)) => {
                        let names: Vec<_> = pods.iter().map(|pod| pod.name()).collect();
                        format!("{} evict {} from {node}", failure.message(), names.join(", "))
                    }
                    Err(why) => {
                        failure.preemption = why;
                        failure.message()
                    }
                }
            }
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
