//! Rollouts played through with the real decisions of Deployment and ReplicaSet and a cluster that acts in random order:
//! the bounds hold at every instant, and every rollout comes to its end.

use std::collections::HashMap;
use std::sync::Arc;

use expect_test::{Expect, expect};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;
use skiff_base::ids::Ids;

use super::numbers::{is_recreate, max_surge, max_unavailable, size, wanted};
use super::{Observed, rollout, template};
use crate::plan::Plan;
use crate::pods::{is_active, is_ready};
use crate::replicas;
use crate::testing::{World, any_of, now, object, play};

struct Simulation {
    world: World,
    ids: Arc<Ids>,
    told: Vec<String>,
}

impl Simulation {
    fn new(seed: u64, replicas: i32, strategy: &str) -> Self {
        let deployment: Deployment = object(&format!(
            "{{metadata: {{name: web, namespace: d, uid: web-uid, generation: 1}}, spec: {{replicas: {replicas}, progressDeadlineSeconds: 600, revisionHistoryLimit: 2, strategy: {strategy}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: v1}}]}}}}}}}}"
        ));
        let mut world = World::default();
        world.put(&deployment);
        Self { world, ids: Arc::new(Ids::seeded(seed)), told: Vec::new() }
    }

    fn deployment(&self) -> Arc<Deployment> {
        self.world.get("web").expect("it is never deleted")
    }

    fn edit(&mut self, change: impl FnOnce(&mut serde_json::Value)) {
        self.world.edit::<Deployment>("web", change);
    }

    fn set_image(&mut self, image: &str) {
        self.world.set_image::<Deployment>("web", image);
    }

    fn carry_out(&mut self, plan: &Plan) {
        self.told.extend(plan.actions().filter_map(|action| action.done.as_ref()).map(|note| note.message.clone()));
        self.world.carry_out(plan);
    }

    fn sync_deployment(&mut self) -> bool {
        let deployment = self.deployment();
        let namesake = self.world.get(&template::set_name(&deployment));
        let observed =
            Observed { sets: self.world.list(), pods: self.world.list(), namesake, failure: None, deployment };
        let plan = rollout::reconcile(&observed, now());
        self.carry_out(&plan);
        plan.steps.is_empty()
    }

    fn sync_set(&mut self, set: Arc<ReplicaSet>) -> bool {
        let uid = set.metadata.uid.clone();
        let mut pods = self.world.list::<Pod>();
        pods.retain(|pod| crate::meta::is_controlled_by(&pod.metadata, uid.as_ref()));
        let observed = replicas::Observed { owner: set, pods, crowds: HashMap::new(), failure: None };
        let plan = replicas::reconcile(&observed, now(), &self.ids);
        self.world.carry_out(&plan);
        plan.steps.is_empty()
    }

    /// One thing happens; false where nothing is left to happen.
    fn step(&mut self) -> bool {
        let (sets, pods, ids) = (self.world.list::<ReplicaSet>(), self.world.list::<Pod>(), self.ids.clone());
        any_of(1 + sets.len() + pods.len(), &ids, |choice| match choice {
            0 => !self.sync_deployment(),
            at if at <= sets.len() => {
                let set = self.world.get(sets[at - 1].metadata.name.as_deref().unwrap_or_default());
                set.is_some_and(|set| !self.sync_set(set))
            }
            at => self.world.advance(&pods[at - 1 - sets.len()]),
        })
    }

    fn available(&self) -> i32 {
        self.world.list::<Pod>().iter().filter(|pod| is_active(pod) && is_ready(pod)).count() as i32
    }

    fn active(&self) -> i32 {
        self.world.list::<Pod>().iter().filter(|pod| is_active(pod)).count() as i32
    }

    /// Runs to the end; where `bounded` the strategy's limits hold all the way.
    fn settle(&mut self, bounded: bool, what: &str) {
        let bounded = bounded && !is_recreate(&self.deployment());
        play(self, Self::step, |simulation| {
            if bounded {
                simulation.assert_bounds(what);
            }
        });
    }

    fn assert_bounds(&self, what: &str) {
        let deployment = self.deployment();
        let least = wanted(&deployment) - max_unavailable(&deployment);
        let most = wanted(&deployment) + max_surge(&deployment);
        assert!(self.available() >= least, "{what}: {} available, at least {least} wanted", self.available());
        assert!(self.active() <= most, "{what}: {} pods, at most {most} allowed", self.active());
    }

    fn assert_converged(&self, what: &str) {
        let deployment = self.deployment();
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = wanted(&deployment);
        assert_eq!(status.updated_replicas.unwrap_or(0), wanted, "{what}");
        assert_eq!(status.replicas.unwrap_or(0), wanted, "{what}");
        assert_eq!(status.available_replicas.unwrap_or(0), wanted, "{what}");
        assert_eq!(status.observed_generation, deployment.metadata.generation, "{what}");
        let progress = super::status::condition(&status, "Progressing").and_then(|c| c.reason.clone());
        assert_eq!(progress.as_deref(), Some("NewReplicaSetAvailable"), "{what}");
    }
}

const STRATEGIES: [&str; 5] = [
    "{type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 25%}}",
    "{type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}",
    "{type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 2}}",
    "{type: RollingUpdate, rollingUpdate: {maxSurge: 100%, maxUnavailable: 50%}}",
    "{type: Recreate}",
];

#[test]
fn rollouts_keep_their_bounds_and_end() {
    for seed in 0..5 {
        for strategy in STRATEGIES {
            let replicas = 1 + (seed % 7) as i32;
            let what = format!("seed {seed}, {replicas} replicas, {strategy}");
            let mut simulation = Simulation::new(seed, replicas, strategy);
            simulation.settle(false, &what);
            simulation.assert_converged(&what);
            simulation.set_image("v2");
            simulation.settle(true, &what);
            simulation.assert_converged(&what);
        }
    }
}

#[test]
fn a_rollout_overtaken_by_the_next_and_one_that_is_undone_keep_their_bounds() {
    for seed in 0..5 {
        for strategy in &STRATEGIES[..4] {
            let what = format!("seed {seed}, {strategy}");
            let mut simulation = Simulation::new(seed, 5, strategy);
            simulation.settle(false, &what);
            for image in ["v2", "bad", "v1", "v3", "v4", "v5"] {
                simulation.set_image(image);
                for _ in 0..(seed + 3) {
                    simulation.step();
                    simulation.assert_bounds(&what);
                }
            }
            simulation.settle(true, &what);
            simulation.assert_converged(&what);
            assert!(simulation.world.list::<ReplicaSet>().len() <= 3, "{what}: history is longer than its limit");
        }
    }
}

#[test]
fn a_broken_template_stops_the_rollout_and_nothing_else() {
    let mut simulation = Simulation::new(1, 4, STRATEGIES[0]);
    simulation.settle(false, "start");
    simulation.set_image("bad");
    simulation.settle(true, "broken");
    assert_eq!(simulation.available(), 3);
    assert_eq!(simulation.active(), 5);
}

#[test]
fn recreate_never_runs_two_templates_at_once() {
    let mut simulation = Simulation::new(3, 3, STRATEGIES[4]);
    simulation.settle(false, "start");
    simulation.set_image("v2");
    while simulation.step() {
        let images = simulation.world.images();
        assert!(images.iter().all(|image| *image == images[0]), "both templates run");
    }
    simulation.assert_converged("recreated");
}

/// What is told of a Deployment, and its ReplicaSets in the end as `name revision size`.
fn check(edits: &[fn(&mut Simulation)], expected: Expect) {
    let mut simulation = Simulation::new(1, 4, STRATEGIES[0]);
    simulation.settle(false, "start");
    for edit in edits {
        edit(&mut simulation);
        simulation.settle(false, "edited");
    }
    let mut text = simulation.told.join("\n");
    for set in simulation.world.list::<ReplicaSet>() {
        let note = |key: &str| crate::meta::annotation(&set.metadata, key).unwrap_or("-").to_owned();
        text.push_str(&format!(
            "\n{}: revision {} (before {}), size {}, desired {}, most {}",
            set.metadata.name.as_deref().unwrap_or(""),
            note(super::REVISION),
            note(super::REVISION_HISTORY),
            size(&set),
            note(super::DESIRED_REPLICAS),
            note(super::MAX_REPLICAS)
        ));
    }
    expected.assert_eq(&text);
}

#[test]
fn scaling_is_told_and_noted() {
    check(
        &[|s| s.edit(|value| value["spec"]["replicas"] = json!(6))],
        expect![[r#"
        Scaled up replica set web-548df6b887 from 0 to 4
        Scaled up replica set web-548df6b887 from 4 to 6
        web-548df6b887: revision 1 (before -), size 6, desired 6, most 8"#]],
    );
}

#[test]
fn undo_brings_the_old_set_back_with_a_new_revision() {
    check(
        &[|s| s.set_image("v2"), |s| s.set_image("v1")],
        expect![[r#"
            Scaled up replica set web-548df6b887 from 0 to 4
            Scaled up replica set web-756f99f4f8 from 0 to 1
            Scaled down replica set web-548df6b887 from 4 to 3
            Scaled up replica set web-756f99f4f8 from 1 to 2
            Scaled down replica set web-548df6b887 from 3 to 2
            Scaled up replica set web-756f99f4f8 from 2 to 3
            Scaled down replica set web-548df6b887 from 2 to 1
            Scaled up replica set web-756f99f4f8 from 3 to 4
            Scaled down replica set web-548df6b887 from 1 to 0
            Scaled up replica set web-548df6b887 from 0 to 1
            Scaled down replica set web-756f99f4f8 from 4 to 3
            Scaled up replica set web-548df6b887 from 1 to 2
            Scaled down replica set web-756f99f4f8 from 3 to 2
            Scaled up replica set web-548df6b887 from 2 to 3
            Scaled down replica set web-756f99f4f8 from 2 to 1
            Scaled down replica set web-756f99f4f8 from 1 to 0
            Scaled up replica set web-548df6b887 from 3 to 4
            web-548df6b887: revision 3 (before 1), size 4, desired 4, most 5
            web-756f99f4f8: revision 2 (before -), size 0, desired 4, most 5"#]],
    );
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    check(
        &[
            |s| s.edit(|value| value["spec"]["paused"] = json!(true)),
            |s| s.set_image("v2"),
            |s| s.edit(|value| value["spec"]["replicas"] = json!(2)),
        ],
        expect![[r#"
            Scaled up replica set web-548df6b887 from 0 to 4
            Scaled down replica set web-548df6b887 from 4 to 2
            web-548df6b887: revision 1 (before -), size 2, desired 2, most 3"#]],
    );
}

#[test]
fn two_active_sets_share_a_new_size_in_proportion() {
    check(
        &[|s| s.set_image("bad"), |s| s.edit(|value| value["spec"]["replicas"] = json!(10))],
        expect![[r#"
        Scaled up replica set web-548df6b887 from 0 to 4
        Scaled up replica set web-7789ffd457 from 0 to 1
        Scaled down replica set web-548df6b887 from 4 to 3
        Scaled up replica set web-7789ffd457 from 1 to 2
        Scaled up replica set web-548df6b887 from 3 to 8
        Scaled up replica set web-7789ffd457 from 2 to 5
        web-548df6b887: revision 1 (before -), size 8, desired 10, most 13
        web-7789ffd457: revision 2 (before -), size 5, desired 10, most 13"#]],
    );
}

#[test]
fn the_selector_is_extended_by_the_hash() {
    let mut simulation = Simulation::new(1, 1, STRATEGIES[0]);
    simulation.settle(false, "start");
    let set = simulation.world.list::<ReplicaSet>().remove(0);
    let LabelSelector { match_labels, .. } = set.spec.as_ref().expect("a spec").selector.clone();
    let labels = match_labels.expect("labels");
    assert_eq!(labels.len(), 2);
    assert_eq!(set.metadata.name.as_deref(), Some(format!("web-{}", labels[super::TEMPLATE_HASH]).as_str()));
}
