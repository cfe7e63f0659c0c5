//! The decision about one DaemonSet. Pure.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_base::Timestamp;
use skiff_base::ids::Ids;

use super::Observed;
use crate::claims::claim;
use crate::meta::{controller_reference, generated_name, nonzero, scaled, selector};
use crate::placement::{chooses, taints, tolerates};
use crate::plan::{Action, Note, Plan};
use crate::pods::{available_in, from_template, is_active, is_available, is_ready, is_terminal, phase};
use crate::revisions::{self, DEFAULT_HISTORY, History, REVISION_HASH};

/// Every daemon stays where others have to leave, and starts where others may not.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// A pod that failed is replaced this long after it was made.
const FAILED_PAUSE: Duration = Duration::from_secs(10);
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What is to be done.
pub fn reconcile(observed: &Observed, now: Timestamp, ids: &Ids) -> Plan {
    let mut plan = Plan::nothing();
    let set = &*observed.set;
    let Some(spec) = set.spec.as_ref() else { return plan };
    if selector(Some(&spec.selector)).is_everything() {
        let text = "This daemon set is selecting all pods. A non-empty selector is required.";
        plan.then(Action::tell(Note::warning(set, "SelectingAll", text)));
        return plan;
    }
    let chosen = selector(Some(&spec.selector));
    let mine = claim(set, &chosen, &observed.pods, is_active, &mut plan);
    let revisions = claim(set, &chosen, &observed.revisions, |_| true, &mut plan);
    if !plan.steps.is_empty() || set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let history = History { mine: &revisions, foreign: &observed.foreign, hash_label: REVISION_HASH };
    let (current, collisions) = history.sync(set, &spec.template, collisions, &mut plan);
    let hash = revisions::hash_of(&current);
    let daemons = Daemons::new(observed, mine, hash, collisions, now);
    daemons.place(ids, &mut plan);
    daemons.tell(&mut plan);
    let in_use: HashSet<_> = daemons.mine.iter().filter_map(|pod| revision_of(pod).cloned()).collect();
    let limit = spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
    let used = |revision: &ControllerRevision| {
        revision.metadata.name == current.metadata.name || in_use.contains(&revisions::hash_of(revision))
    };
    revisions::clean_up(&revisions, used, limit, &mut plan);
    plan
}

fn revision_of(pod: &Pod) -> Option<&String> {
    pod.metadata.labels.as_ref()?.get(REVISION_HASH)
}

/// The node that a pod is on, or is meant for by its affinity.
fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields
        .filter(|field| field.key == "metadata.name")
        .find_map(|field| field.values.as_ref()?.first())
        .map(String::as_str)
}

struct Daemons<'a> {
    set: &'a DaemonSet,
    nodes: &'a [Arc<Node>],
    mine: Vec<Arc<Pod>>,
    by_node: BTreeMap<String, Vec<Arc<Pod>>>,
    template: PodSpec,
    hash: String,
    collisions: Option<i32>,
    now: Timestamp,
}

impl<'a> Daemons<'a> {
    fn new(observed: &'a Observed, mine: Vec<Arc<Pod>>, hash: String, collisions: Option<i32>, now: Timestamp) -> Self {
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in &mine {
            by_node.entry(node_of(pod).unwrap_or_default().to_owned()).or_default().push(pod.clone());
        }
        let spec = observed.set.spec.as_ref();
        let mut template = spec.and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
        let more = template.host_network.unwrap_or(false).then_some(NETWORK_UNAVAILABLE);
        let tolerations = template.tolerations.get_or_insert_default();
        for (key, effect) in TOLERATED.into_iter().chain(more) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(effect.to_owned()),
                ..Toleration::default()
            });
        }
        Self { set: &observed.set, nodes: &observed.nodes, mine, by_node, template, hash, collisions, now }
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    /// Whether a pod is to be started on the node, and whether one that is there may stay.
    fn wants(&self, node: &Node) -> (bool, bool) {
        let named = self.template.node_name.as_deref().is_none_or(|name| Some(name) == node.metadata.name.as_deref());
        if !named || !chooses(&self.template, node) {
            return (false, false);
        }
        let tolerations = self.template.tolerations.as_deref().unwrap_or_default();
        let untolerated = |effect: &str| {
            taints(node).iter().filter(|taint| taint.effect == effect).any(|taint| !tolerates(tolerations, taint))
        };
        let leave = untolerated("NoExecute");
        (!leave && !untolerated("NoSchedule"), !leave)
    }

    fn place(&self, ids: &Ids, plan: &mut Plan) {
        let (mut start, mut stop) = (Vec::new(), Vec::new());
        let mut standing = Vec::new();
        for node in self.nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let pods = self.by_node.get(name).map(Vec::as_slice).unwrap_or_default();
            let (run, stay) = self.wants(node);
            let (ended, alive): (Vec<_>, Vec<_>) =
                pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).partition(|pod| is_terminal(pod));
            if run || stay {
                for pod in ended {
                    let failed = phase(pod) == "Failed";
                    let pause = if failed { self.pause_left(pod) } else { Duration::ZERO };
                    if !pause.is_zero() {
                        plan.look_again(pause);
                        continue;
                    }
                    stop.push(self.deletion(pod).and_tell(self.about_ended(pod, name, failed)));
                }
            }
            if !stay {
                stop.extend(alive.into_iter().map(|pod| self.deletion(pod)));
            } else if pods.is_empty() && run {
                start.push(name);
            } else {
                standing.push((name, alive));
            }
        }
        self.roll(standing, &mut start, &mut stop);
        // Pods meant for nodes that are gone.
        let known = |node: &str| self.nodes.iter().any(|n| n.metadata.name.as_deref() == Some(node));
        for pod in self.by_node.iter().filter(|(node, _)| !known(node)).flat_map(|(_, pods)| pods) {
            let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            if !placed && pod.metadata.deletion_timestamp.is_none() {
                stop.push(self.deletion(pod));
            }
        }
        plan.burst(start.into_iter().map(|node| self.creation(node, ids)).collect());
        plan.burst(stop);
    }

    /// How long a pod that failed is left, lest one that always fails is made anew without end.
    fn pause_left(&self, pod: &Pod) -> Duration {
        let made = pod.metadata.creation_timestamp.as_ref().map_or(self.now, |time| time.0);
        FAILED_PAUSE.saturating_sub(Duration::try_from(self.now.duration_since(made)).unwrap_or_default())
    }

    /// Replaces pods of older templates as fast as availability allows, and removes what is one too many.
    fn roll(&self, standing: Vec<(&'a str, Vec<&Arc<Pod>>)>, start: &mut Vec<&'a str>, stop: &mut Vec<Action>) {
        let rolling = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let on_delete = rolling.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
        let rolling = rolling.and_then(|strategy| strategy.rolling_update.as_ref());
        let wanted = self.nodes.iter().filter(|node| self.wants(node).0).count() as i32;
        let bound = |value: Option<&IntOrString>, default: i32| value.map_or(default, |v| scaled(v, wanted, true));
        let surge = bound(rolling.and_then(|r| r.max_surge.as_ref()), 0);
        let most_missing =
            if surge > 0 { 0 } else { bound(rolling.and_then(|r| r.max_unavailable.as_ref()), 1).max(1) };
        let available = |pod: &Pod| is_available(pod, self.min_ready(), self.now);
        let old = |pod: &&Arc<Pod>| revision_of(pod) != Some(&self.hash);
        let mut missing = start.len() as i32;
        let mut surging = 0;
        let mut candidates = Vec::new();
        for (node, pods) in standing {
            let (outdated, updated): (Vec<_>, Vec<_>) = pods.iter().copied().partition(old);
            surging += i32::from(!outdated.is_empty() && !updated.is_empty());
            missing += i32::from(!pods.iter().any(|pod| available(pod)));
            // More than one of the same template: the oldest stays.
            for group in [&outdated, &updated] {
                let mut group = group.clone();
                group.sort_by_key(|pod| {
                    (pod.metadata.creation_timestamp.as_ref().map(|t| t.0), pod.metadata.name.clone())
                });
                stop.extend(group.into_iter().skip(1).map(|pod| self.deletion(pod)));
            }
            if updated.first().is_some_and(|pod| available(pod)) {
                stop.extend(outdated.first().map(|pod| self.deletion(pod)));
            } else if let (Some(pod), true) = (outdated.first(), updated.is_empty()) {
                candidates.push((node, *pod));
            }
        }
        if on_delete {
            return;
        }
        // What does not work anyway is replaced first, and costs nothing.
        candidates.sort_by_key(|(_, pod)| available(pod));
        for (node, pod) in candidates {
            if surge > 0 {
                if surging < surge {
                    surging += 1;
                    start.push(node);
                }
            } else if !available(pod) {
                stop.push(self.deletion(pod));
            } else if missing < most_missing {
                missing += 1;
                stop.push(self.deletion(pod));
            }
        }
    }

    fn about_ended(&self, pod: &Pod, node: &str, failed: bool) -> Note {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if failed {
            let text = format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it");
            Note::warning(self.set, "FailedDaemonPod", text)
        } else {
            let text = format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it");
            Note::normal(self.set, "SucceededDaemonPod", text)
        }
    }

    fn deletion(&self, pod: &Pod) -> Action {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        Action::delete(pod)
            .and_tell(Note::normal(self.set, "SuccessfulDelete", format!("Deleted pod: {name}")))
            .or_tell(Note::warning(self.set, "FailedDelete", "Error deleting: "))
    }

    fn creation(&self, node: &str, ids: &Ids) -> Action {
        let meta = &self.set.metadata;
        let base = format!("{}-", meta.name.as_deref().unwrap_or_default());
        let name = generated_name(&base, ids);
        let template = self.set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let owner = controller_reference(self.set);
        let mut pod = from_template(&template, namespace, name.clone(), Some(base), owner);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_HASH.to_owned(), self.hash.clone());
        labels.insert("pod-template-generation".to_owned(), meta.generation.unwrap_or(1).to_string());
        let mut spec = self.template.clone();
        bind_to(&mut spec, node);
        pod.spec = Some(spec);
        Action::create(&pod)
            .and_tell(Note::normal(self.set, "SuccessfulCreate", format!("Created pod: {name}")))
            .or_tell(Note::warning(self.set, "FailedCreate", "Error creating: "))
    }

    fn tell(&self, plan: &mut Plan) {
        let old = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: self.collisions,
            conditions: old.conditions.clone(),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for node in self.nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let pods = self.by_node.get(name).map(Vec::as_slice).unwrap_or_default();
            if !self.wants(node).0 {
                status.number_misscheduled += i32::from(!pods.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(!pods.is_empty());
            let mut running: Vec<_> = pods.iter().filter(|pod| is_active(pod)).collect();
            running.sort_by_key(|pod| (!is_ready(pod), pod.metadata.creation_timestamp.as_ref().map(|t| t.0)));
            let Some(pod) = running.first() else { continue };
            status.number_ready += i32::from(is_ready(pod));
            available += i32::from(is_available(pod, self.min_ready(), self.now));
            updated += i32::from(running.iter().any(|pod| revision_of(pod) == Some(&self.hash)));
            if let Some(wait) = available_in(pod, self.min_ready(), self.now).filter(|wait| !wait.is_zero()) {
                plan.look_again(wait);
            }
        }
        status.updated_number_scheduled = nonzero(updated);
        status.number_available = nonzero(available);
        status.number_unavailable = nonzero(status.desired_number_scheduled - available);
        if status != old {
            plan.then(Action::update_status(&DaemonSet { status: Some(status), ..self.set.clone() }));
        }
    }
}

/// Makes the scheduler put the pod on this node and no other, whatever else it requires.
fn bind_to(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    // Field terms alone, as upstream does: labels were checked when the node was chosen.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None }],
    });
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{brief_pods, now, object, owned};

    /// Nodes written `name [key]` with a NoSchedule taint; pods as in [`brief_pods`], `old` for those of another template.
    fn check(nodes: &[&str], pods: &[&str], strategy: &str, expected: Expect) {
        let set: DaemonSet = object(&format!(
            "{{metadata: {{name: log, namespace: d, uid: u, generation: 1}}, spec: {{updateStrategy: {strategy}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}}}}}"
        ));
        let mut scratch = Plan::nothing();
        let template = &set.spec.as_ref().expect("a spec").template;
        let history = History { mine: &[], foreign: &[], hash_label: REVISION_HASH };
        let (revision, _) = history.sync(&set, template, None, &mut scratch);
        let hash = revisions::hash_of(&revision);
        let nodes = nodes.iter().map(|text| {
            let (name, taint) = text.split_once(' ').unwrap_or((text, ""));
            let taints = if taint.is_empty() { String::new() } else { format!("{{key: {taint}, effect: NoSchedule}}") };
            Arc::new(object::<Node>(&format!("{{metadata: {{name: {name}}}, spec: {{taints: [{taints}]}}}}")))
        });
        let texts: Vec<_> = pods.iter().map(|text| text.replace(" old", "")).collect();
        let mut all = brief_pods(&texts, controller_reference(&set));
        for (pod, text) in all.iter_mut().zip(pods) {
            let hash = if text.contains(" old") { "old".to_owned() } else { hash.clone() };
            Arc::make_mut(pod).metadata.labels.get_or_insert_default().insert(REVISION_HASH.to_owned(), hash);
        }
        let observed = Observed {
            nodes: nodes.collect(),
            pods: all,
            revisions: vec![Arc::new(owned(revision, &set))],
            foreign: Vec::new(),
            set: Arc::new(set),
        };
        let plan = reconcile(&observed, now(), &Ids::seeded(1));
        let lines: Vec<_> = plan.to_string().lines().map(brief).collect();
        expected.assert_eq(&lines.join("\n"));
    }

    fn brief(line: &str) -> String {
        if line.starts_with("create pods") {
            let node = line.split("\"values\":[\"").nth(1).and_then(|rest| rest.split('"').next());
            return format!("create on {}", node.unwrap_or("?"));
        }
        line.split(" [").next().unwrap_or(line).to_owned()
    }

    #[test]
    fn each_node_that_is_tolerated_gets_one() {
        check(
            &["n1", "n2 special", "n3 node.kubernetes.io/unschedulable"],
            &[],
            "{}",
            expect![[r#"
            create on n1
            create on n3
            update daemonsets/status d/log {"currentNumberScheduled":0,"desiredNumberScheduled":2,"numberMisscheduled":0,"numberReady":0,"numberUnavailable":2,"observedGeneration":1}"#]],
        );
    }

    #[test]
    fn one_too_many_and_what_has_ended_goes() {
        check(
            &["n1", "n2"],
            &["a ready n1", "b ready n1", "c failed n2"],
            "{}",
            expect![[r#"
                delete pods d/c
                delete pods d/b
                update daemonsets/status d/log {"currentNumberScheduled":2,"desiredNumberScheduled":2,"numberAvailable":1,"numberMisscheduled":0,"numberReady":1,"numberUnavailable":1,"observedGeneration":1,"updatedNumberScheduled":1}"#]],
        );
    }

    #[test]
    fn an_update_goes_from_node_to_node() {
        check(
            &["n1", "n2", "n3"],
            &["a ready n1 old", "b ready n2 old", "c running n3 old"],
            "{}",
            expect![[r#"
            delete pods d/c
            update daemonsets/status d/log {"currentNumberScheduled":3,"desiredNumberScheduled":3,"numberAvailable":2,"numberMisscheduled":0,"numberReady":2,"numberUnavailable":1,"observedGeneration":1}"#]],
        );
        check(
            &["n1", "n2"],
            &["a ready n1 old", "b running n2"],
            "{}",
            expect![[
                r#"update daemonsets/status d/log {"currentNumberScheduled":2,"desiredNumberScheduled":2,"numberAvailable":1,"numberMisscheduled":0,"numberReady":1,"numberUnavailable":1,"observedGeneration":1,"updatedNumberScheduled":1}"#
            ]],
        );
        check(
            &["n1"],
            &["a ready n1 old"],
            "{type: OnDelete}",
            expect![[
                r#"update daemonsets/status d/log {"currentNumberScheduled":1,"desiredNumberScheduled":1,"numberAvailable":1,"numberMisscheduled":0,"numberReady":1,"observedGeneration":1}"#
            ]],
        );
        check(
            &["n1", "n2"],
            &["a ready n1 old", "b ready n2 old"],
            "{rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}",
            expect![[r#"
                create on n1
                update daemonsets/status d/log {"currentNumberScheduled":2,"desiredNumberScheduled":2,"numberAvailable":2,"numberMisscheduled":0,"numberReady":2,"observedGeneration":1}"#]],
        );
        check(
            &["n1"],
            &["a ready n1 old", "b ready n1"],
            "{rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}",
            expect![[r#"
                delete pods d/a
                update daemonsets/status d/log {"currentNumberScheduled":1,"desiredNumberScheduled":1,"numberAvailable":1,"numberMisscheduled":0,"numberReady":1,"observedGeneration":1,"updatedNumberScheduled":1}"#]],
        );
    }
}
