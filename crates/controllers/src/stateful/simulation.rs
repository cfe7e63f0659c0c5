//! StatefulSets played through with the real decision and a cluster that acts in random order: pods come up and go
//! down in order, no more of them are missing than may be, and every change comes to its end.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use skiff_base::ids::Ids;

use super::{Observed, decide};
use crate::pods::{is_active, is_ready};
use crate::testing::{World, any_of, now, object, play};

const SEEDS: u64 = 40;

struct Simulation {
    world: World,
    ids: Arc<Ids>,
}

impl Simulation {
    fn new(seed: u64, replicas: i32, more: &str) -> Self {
        let set: StatefulSet = object(&format!(
            "{{metadata: {{name: db, namespace: d, uid: u, generation: 1}}, spec: {{replicas: {replicas}, serviceName: db{more}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: v1}}]}}}}}}}}"
        ));
        let mut world = World::default();
        world.put(&set);
        Self { world, ids: Arc::new(Ids::seeded(seed)) }
    }

    fn set(&self) -> Arc<StatefulSet> {
        self.world.get("db").expect("it is never deleted")
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.world.list()
    }

    fn sync(&mut self) -> bool {
        let observed = Observed {
            set: self.set(),
            pods: self.pods(),
            claims: HashMap::new(),
            revisions: self.world.list(),
            foreign: Vec::new(),
        };
        let plan = decide::reconcile(&observed, now());
        self.world.carry_out(&plan);
        plan.steps.is_empty()
    }

    /// One thing happens; false where nothing is left to happen.
    fn step(&mut self) -> bool {
        let (pods, ids) = (self.pods(), self.ids.clone());
        any_of(pods.len() + 1, &ids, |choice| match choice {
            0 => !self.sync(),
            at => self.world.advance(&pods[at - 1]),
        })
    }

    fn available(&self, ordinal: i32) -> bool {
        let pod = self.world.get::<Pod>(&format!("db-{ordinal}"));
        pod.is_some_and(|pod| is_active(&pod) && is_ready(&pod))
    }

    fn run(&mut self, holds: impl FnMut(&Self)) {
        play(self, Self::step, holds);
    }
}

/// A pod is there only if all before it are, or were when it came: none is skipped while the set grows.
fn grows_in_order(simulation: &Simulation) {
    let count = simulation.pods().len() as i32;
    for ordinal in 0..count {
        assert!(simulation.world.get::<Pod>(&format!("db-{ordinal}")).is_some(), "db-{ordinal} is skipped");
    }
    let ready = (0..count).take_while(|ordinal| simulation.available(*ordinal)).count() as i32;
    assert!(ready + 1 >= count, "db-{} came before db-{ready} was ready", count - 1);
}

#[test]
fn pods_come_and_go_in_order() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut simulation = Simulation::new(seed, 4, "");
        simulation.run(grows_in_order);
        assert_eq!(simulation.pods().len(), 4);
        simulation.world.edit::<StatefulSet>("db", |tree| tree["spec"]["replicas"] = json!(1));
        let mut most = 4;
        simulation.run(|simulation| {
            let count = simulation.pods().len();
            assert!(count <= most && simulation.available(0), "it only shrinks");
            most = count;
        });
        assert_eq!(simulation.pods().len(), 1);
    }
}

#[test]
fn rollouts_miss_no_more_than_may_be_missing() {
    for seed in 0..SEEDS {
        for (more, most) in [
            ("", 1),
            (", updateStrategy: {rollingUpdate: {maxUnavailable: 2}}", 2),
            (", podManagementPolicy: Parallel, updateStrategy: {rollingUpdate: {maxUnavailable: 2}}", 2),
        ] {
            println!("seed {seed} {more}");
            let mut simulation = Simulation::new(seed, 5, more);
            simulation.run(|_| {});
            simulation.world.set_image::<StatefulSet>("db", "v2");
            simulation.run(|simulation| {
                let missing = (0..5).filter(|ordinal| !simulation.available(*ordinal)).count();
                assert!(missing <= most, "{missing} are missing");
            });
            assert_eq!(simulation.world.images(), ["v2"; 5]);
            simulation.world.set_image::<StatefulSet>("db", "v1");
            simulation.run(|_| {});
            assert_eq!(simulation.world.images(), ["v1"; 5]);
            let revisions = simulation.world.list::<k8s_openapi::api::apps::v1::ControllerRevision>();
            assert_eq!(revisions.len(), 2, "a template that comes back takes its old revision");
        }
    }
}

#[test]
fn a_partition_is_kept_and_a_broken_template_is_mended() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut simulation = Simulation::new(seed, 3, ", updateStrategy: {rollingUpdate: {partition: 2}}");
        simulation.run(|_| {});
        simulation.world.set_image::<StatefulSet>("db", "v2");
        simulation.run(|_| {});
        assert_eq!(simulation.world.images(), ["v1", "v1", "v2"]);
        simulation.world.remove::<Pod>("db-0");
        simulation.run(|_| {});
        assert_eq!(simulation.world.images(), ["v1", "v1", "v2"], "what is below the partition stays as it was");
        let mut simulation = Simulation::new(seed, 3, "");
        simulation.run(|_| {});
        simulation.world.set_image::<StatefulSet>("db", "bad");
        simulation.run(|_| {});
        assert_eq!(simulation.world.images(), ["v1", "v1", "bad"], "a broken template stops at the first pod");
        simulation.world.set_image::<StatefulSet>("db", "v3");
        simulation.run(|_| {});
        assert_eq!(simulation.world.images(), ["v3"; 3]);
    }
}
