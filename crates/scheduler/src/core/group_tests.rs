//! What is decided about groups in small clusters.

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use serde_json::json;

use super::*;
use crate::groups::Features;
use crate::testing::{cluster, pod};

pub(super) const SECOND: Duration = Duration::from_secs(1);

fn core() -> Core {
    core_with(Features { groups: true, gangs: true, ..Features::default() })
}

pub(super) fn core_with(groups: Features) -> Core {
    let other = Profile { name: "other".into(), ..Profile::default() };
    Core::new(Config { groups, profiles: vec![Profile::default(), other], ..Config::default() })
}

pub(super) fn node(yaml: &str) -> Arc<Node> {
    cluster(&format!("{{nodes: [{yaml}], pod: {{name: p}}}}")).0.nodes()[0].node.clone()
}

fn group(name: &str, policy: serde_json::Value) -> Arc<PodGroup> {
    let group = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"schedulingPolicy": policy}});
    Arc::new(serde_json::from_value(group).expect("a group"))
}

pub(super) fn gang(name: &str, count: usize) -> Arc<PodGroup> {
    group(name, json!({"gang": {"minCount": count}}))
}

/// A pod of group `g` that wants one processor.
fn member(name: &str, more: &str) -> Arc<Pod> {
    pod(&format!("{{name: {name}, cpu: '1', {more} spec: {{schedulingGroup: {{podGroupName: g}}}}}}")).pod.clone()
}

/// A world that is told what changes, and binds what is to be bound.
pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Duration,
}

impl World {
    fn new(nodes: &[&str]) -> Self {
        let mut world = Self { core: core(), now: SECOND };
        nodes.iter().for_each(|node| world.node(node));
        world
    }

    pub(super) fn node(&mut self, yaml: &str) {
        self.core.node_changed(&Change::Added(node(yaml)), self.now);
    }

    pub(super) fn group(&mut self, group: Arc<PodGroup>) {
        self.core.group_changed(&Change::Added(group), self.now);
    }

    fn pods(&mut self, names: &str) {
        names.split(' ').for_each(|name| self.add(member(name, "")));
    }

    pub(super) fn add(&mut self, pod: Arc<Pod>) {
        self.core.pod_changed(&Change::Added(pod), self.now);
    }

    pub(super) fn remove(&mut self, pod: Arc<Pod>) {
        self.core.pod_changed(&Change::Deleted(pod), self.now);
    }

    pub(super) fn bound(&mut self, placement: &Placement) {
        let old = placement.pod.pod.clone();
        let mut new = Pod::clone(&old);
        new.spec.get_or_insert_default().node_name = Some(placement.node.clone());
        self.core.pod_changed(&Change::Updated { old, new: Arc::new(new) }, self.now);
    }

    /// What is done until there is nothing to do, ten seconds later.
    fn check(&mut self, expected: Expect) {
        self.now += SECOND * 10;
        let mut text = String::new();
        loop {
            match self.core.step(self.now) {
                Step::Idle { .. } => break,
                Step::Bind(placement) => {
                    text.push_str(&format!("bind {} to {}\n", placement.pod.name(), placement.node));
                    self.bound(&placement);
                }
                Step::Unschedulable { pod, message, .. } => text.push_str(&format!("{}: {message}\n", pod.name())),
                Step::Held { pod, message } => text.push_str(&format!("{} is held: {message}\n", pod.name())),
                Step::Group(step) => {
                    text.push_str(&format!("group: {}\n", step.result));
                    for placement in &step.placements {
                        text.push_str(&format!("  bind {} to {}\n", placement.pod.name(), placement.node));
                        self.bound(placement);
                    }
                    for refusal in &step.refusals {
                        let victims: Vec<_> = refusal.victims.iter().map(|victim| victim.name()).collect();
                        let (name, reason) = (refusal.pod.name(), refusal.reason);
                        text.push_str(&format!("  {name} {reason}: {}\n", refusal.message));
                        if let Some(node) = &refusal.nominated {
                            text.push_str(&format!("    evicts [{}], room on {node:?}\n", victims.join(" ")));
                        }
                    }
                    let going: Vec<_> = step.going.iter().map(|victim| victim.name()).collect();
                    if !going.is_empty() {
                        text.push_str(&format!("  evicts [{}]\n", going.join(" ")));
                    }
                    if let Some(told) = step.condition {
                        text.push_str(&format!("  {} {}: {}\n", told.is_scheduled, told.reason, told.message));
                    }
                }
                other => text.push_str(&format!("{other:?}\n")),
            }
        }
        expected.assert_eq(&text);
    }
}

#[test]
fn a_gang_is_placed_as_a_whole_or_not_at_all() {
    let mut world = World::new(&["{name: a, cpu: '2'}"]);
    world.group(gang("g", 3));
    world.pods("p q r");
    world.check(expect![[r#"
        group: unschedulable
          p Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          q Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          r Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
          false Unschedulable: pod group is unschedulable
    "#]]);
    world.check(expect![[r#""#]]);
    world.node("{name: b, cpu: '2'}");
    world.check(expect![[r#"
        group: scheduled
          bind p to b
          bind q to a
          bind r to a
          true Scheduled: 
    "#]]);
}

#[test]
fn pods_are_held_until_their_group_is_complete() {
    let mut world = World::new(&["{name: a}"]);
    world.pods("p q");
    world.check(expect![[r#"
        p is held: waiting for pods's pod group "g" to appear in scheduling queue
        q is held: waiting for pods's pod group "g" to appear in scheduling queue
    "#]]);
    world.group(gang("g", 3));
    world.check(expect![[r#"
        p is held: waiting for minCount pods from a gang to appear in scheduling queue
        q is held: waiting for minCount pods from a gang to appear in scheduling queue
    "#]]);
    world.check(expect![""]);
    world.pods("r");
    world.check(expect![[r#"
        group: scheduled
          bind p to a
          bind q to a
          bind r to a
          true Scheduled: 
    "#]]);
}

#[test]
fn later_pods_of_a_gang_are_placed_one_by_one() {
    let mut world = World::new(&["{name: a}"]);
    world.group(gang("g", 2));
    world.pods("p q");
    world.check(expect![[r#"
        group: scheduled
          bind p to a
          bind q to a
          true Scheduled: 
    "#]]);
    let mut told = PodGroup::clone(&gang("g", 2));
    let condition = json!({"type": "PodGroupScheduled", "status": "True", "reason": "Scheduled", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    told.status = serde_json::from_value(json!({"conditions": [condition]})).expect("a status");
    world.group(Arc::new(told));
    world.pods("r");
    world.check(expect![[r#"
        group: scheduled
          bind r to a
    "#]]);
    world.pods("s t");
    world.check(expect![[r#"
        group: scheduled
          bind s to a
          t Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
    "#]]);
}

#[test]
fn without_a_gang_whoever_fits_is_placed() {
    let mut world = World::new(&["{name: a, cpu: '1'}"]);
    world.group(group("g", json!({"basic": {}})));
    world.pods("p q");
    world.check(expect![[r#"
        group: scheduled
          bind p to a
          q Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
          true Scheduled: 
    "#]]);
}

#[test]
fn a_member_that_leaves_has_the_others_wait_again() {
    let mut world = World::new(&["{name: a, cpu: '1'}"]);
    world.group(gang("g", 2));
    world.pods("p q");
    world.check(expect![[r#"
        group: unschedulable
          p Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          q Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
          false Unschedulable: pod group is unschedulable
    "#]]);
    world.remove(member("q", ""));
    world.check(expect![[r#"
        p is held: waiting for minCount pods from a gang to appear in scheduling queue
    "#]]);
    world.node("{name: b}");
    world.pods("q");
    world.check(expect![[r#"
        group: scheduled
          bind p to b
          bind q to b
          true Scheduled: 
    "#]]);
}

#[test]
fn gates_of_a_member_count_for_itself_alone() {
    let mut world = World::new(&["{name: a}"]);
    world.group(gang("g", 2));
    world.pods("p q");
    world.add(member("r", "gates: [x],"));
    world.check(expect![[r#"
        group: scheduled
          bind p to a
          bind q to a
          true Scheduled: 
    "#]]);
    let (old, new) = (member("r", "gates: [x],"), member("r", ""));
    world.core.pod_changed(&Change::Updated { old, new }, world.now);
    world.check(expect![[r#"
        group: scheduled
          bind r to a
          true Scheduled: 
    "#]]);
}

#[test]
fn room_is_made_where_the_whole_gang_has_room_then() {
    let low = |name: &str, node: &str| pod(&format!("{{name: {name}, node: {node}, cpu: '2'}}")).pod.clone();
    let mut world = World::new(&["{name: a, cpu: '2'}"]);
    world.add(low("x", "a"));
    world.group(gang("g", 3));
    ["p", "q", "r"].into_iter().for_each(|name| world.add(member(name, "priority: 5,")));
    world.check(expect![[r#"
        group: unschedulable
          p Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          q Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          r Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
          false Unschedulable: pod group is unschedulable
    "#]]);
    world.node("{name: b, cpu: '2'}");
    world.add(low("y", "b"));
    world.check(expect![[r#"
        group: waiting_on_preemption
          p Unschedulable: 0/2 nodes are available: 2 Insufficient cpu.
            evicts [x], room on "a"
          q Unschedulable: pod group is unschedulable, pod group is waiting for preemption to complete
            evicts [], room on "a"
          r Unschedulable: 0/2 nodes are available: 2 Insufficient cpu.
            evicts [y], room on "b"
          false Unschedulable: pod group is unschedulable, pod group is waiting for preemption to complete
    "#]]);
    world.check(expect![[r#""#]]);
    world.remove(low("x", "a"));
    world.add(pod("{name: z, cpu: '1'}").pod.clone());
    world.check(expect![[r#"
        group: unschedulable
          p Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          q Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          r Unschedulable: 0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node.
          false Unschedulable: pod group is unschedulable
        z: 0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.
    "#]]);
    world.remove(low("y", "b"));
    world.check(expect![[r#"
        group: scheduled
          bind p to a
          bind q to a
          bind r to b
          true Scheduled: 
        bind z to b
    "#]]);
}

#[test]
fn pods_of_a_group_have_one_scheduler() {
    let mut world = World::new(&["{name: a}"]);
    world.group(gang("g", 2));
    world.pods("p");
    let spec = "{schedulerName: other, schedulingGroup: {podGroupName: g}}";
    world.add(pod(&format!("{{name: q, spec: {spec}}}")).pod.clone());
    world.core.step(world.now);
    let step = world.core.step(world.now + SECOND * 10);
    let Step::Group(step) = step else { panic!("{step:?}") };
    let words = "all pods in a single pod group should have the same .spec.schedulerName set, got: \"other\" and \"default-scheduler\"";
    assert_eq!((step.result, step.refusals.len(), step.refusals[0].message.as_str()), ("error", 2, words));
    assert_eq!(step.refusals[0].reason, "SchedulerError");
}

pub(super) fn within_racks(name: &str, count: usize) -> Arc<PodGroup> {
    let mut group = PodGroup::clone(&gang(name, count));
    group.spec.scheduling_constraints =
        serde_json::from_value(json!({"topology": [{"key": "rack"}]})).expect("constraints");
    Arc::new(group)
}

fn in_racks(nodes: &[&str]) -> World {
    let core = core_with(Features { groups: true, gangs: true, topology: true, preemption: false });
    let mut world = World { core, now: SECOND };
    nodes.iter().for_each(|node| world.node(node));
    world
}

#[test]
fn a_group_stays_within_one_domain() {
    let mut world = in_racks(&[
        "{name: a1, cpu: '1', labels: {rack: a}}",
        "{name: a2, cpu: '1', labels: {rack: a}}",
        "{name: b1, cpu: '1', labels: {rack: b}}",
        "{name: c1, cpu: '8'}",
    ]);
    world.group(within_racks("g", 3));
    world.pods("p q r");
    world.check(expect![[r#"
        group: unschedulable
          p Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          q Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          r Unschedulable: 0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to placement-based pod group scheduling limitation
          false Unschedulable: 0/2 placements are available, first placement status: pod group is unschedulable
    "#]]);
    world.node("{name: b2, cpu: '3', labels: {rack: b}}");
    world.check(expect![[r#"
        group: scheduled
          bind p to b2
          bind q to b2
          bind r to b1
          true Scheduled: 
    "#]]);
    world.pods("s t");
    world.check(expect![[r#"
        group: scheduled
          bind s to b2
          t Unschedulable: 0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to placement-based pod group scheduling limitation
          true Scheduled: 
    "#]]);
}

#[test]
fn the_domain_with_the_most_places_is_taken() {
    let mut world = in_racks(&[
        "{name: a, cpu: '2', labels: {rack: a}}",
        "{name: b, cpu: '3', labels: {rack: b}}",
        "{name: c, cpu: '1', labels: {rack: c}}",
    ]);
    world.group(within_racks("g", 2));
    world.pods("p q r s");
    world.check(expect![[r#"
        group: scheduled
          bind p to b
          bind q to b
          bind r to b
          s Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to placement-based pod group scheduling limitation
          true Scheduled: 
    "#]]);
}

#[test]
fn without_a_domain_nothing_is_tried() {
    let mut world = in_racks(&["{name: a}"]);
    world.group(within_racks("g", 2));
    world.pods("p q");
    world.check(expect![[r#"
        group: unschedulable
          p Unschedulable: no feasible placements found
          q Unschedulable: no feasible placements found
          false Unschedulable: no feasible placements found
    "#]]);
    let mut world = in_racks(&["{name: a}"]);
    world.add(pod("{name: o, node: a, spec: {schedulingGroup: {podGroupName: g}}}").pod.clone());
    world.group(within_racks("g", 2));
    world.pods("p");
    world.check(expect![[r#"
        group: error
          p SchedulerError: cannot determine domain for already scheduled pods: no topology domain found for pod default/o
          false SchedulerError: cannot determine domain for already scheduled pods: no topology domain found for pod default/o
    "#]]);
    let mut world = in_racks(&["{name: a, cpu: '1'}"]);
    world.group(gang("g", 2));
    world.pods("p q");
    world.check(expect![[r#"
        group: unschedulable
          p Unschedulable: pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more plugins asked to wait and no plugin rejected pod
          q Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
          false Unschedulable: 0/1 placements are available, first placement status: pod group is unschedulable
    "#]]);
}

pub(super) fn important(name: &str, count: usize, priority: i32, mode: &str) -> Arc<PodGroup> {
    let mut group = PodGroup::clone(&gang(name, count));
    (group.spec.priority, group.spec.disruption_mode) = (Some(priority), Some(mode.to_owned()));
    Arc::new(group)
}

#[test]
fn room_is_made_for_a_group_as_a_whole() {
    let core = core_with(Features { groups: true, gangs: true, topology: false, preemption: true });
    let mut world = World { core, now: SECOND };
    ["a", "b", "c"].into_iter().for_each(|name| world.node(&format!("{{name: {name}, cpu: '2'}}")));
    world.group(important("low", 2, 1, "PodGroup"));
    let low = |name: &str, node: &str| {
        let spec = "{schedulingGroup: {podGroupName: low}}";
        pod(&format!("{{name: {name}, node: {node}, cpu: '2', spec: {spec}}}")).pod.clone()
    };
    let alone = |name: &str, node: &str, priority: i32| {
        pod(&format!("{{name: {name}, node: {node}, cpu: '1', priority: {priority}}}")).pod.clone()
    };
    [low("x", "a"), low("y", "b"), alone("z", "c", 0), alone("top", "c", 9)].into_iter().for_each(|pod| world.add(pod));
    world.group(important("g", 1, 1, "Pod"));
    world.pods("p");
    // One that is not more important than the other group has only the pod of no group give way.
    world.check(expect![[r#"
        group: waiting_on_preemption
          p Unschedulable: 0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to workload aware preemption enabled
            evicts [], room on "c"
          evicts [z]
          false Unschedulable: pod group is unschedulable
    "#]]);
    world.remove(alone("z", "c", 0));
    world.check(expect![[r#"
        group: scheduled
          bind p to c
          true Scheduled: 
    "#]]);
    world.group(important("g", 1, 5, "Pod"));
    world.pods("q");
    // One pod's room would do, but the other group goes as one.
    world.check(expect![[r#"
        group: waiting_on_preemption
          q Unschedulable: 0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to workload aware preemption enabled
            evicts [], room on "b"
          evicts [x y]
          false Unschedulable: pod group is unschedulable
    "#]]);
    world.remove(low("x", "a"));
    world.check(expect![[r#"
        group: scheduled
          bind q to a
          true Scheduled: 
    "#]]);
    world.add(
        pod("{name: r, cpu: '2', spec: {preemptionPolicy: Never, schedulingGroup: {podGroupName: g}}}").pod.clone(),
    );
    world.add(pod("{name: s, cpu: '9', spec: {schedulingGroup: {podGroupName: g}}}").pod.clone());
    world.check(expect![[r#"
        group: unschedulable
          r Unschedulable: 0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to workload aware preemption enabled
          s Unschedulable: 0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to workload aware preemption enabled
          false Unschedulable: pod group is unschedulable, not eligible due to preemptionPolicy=Never.
    "#]]);
}

#[test]
fn where_groups_are_off_pods_go_one_by_one() {
    let mut world = World { core: Core::new(Config::default()), now: SECOND };
    world.node("{name: a}");
    world.pods("p");
    world.check(expect![[r#"
        bind p to a
    "#]]);
}
