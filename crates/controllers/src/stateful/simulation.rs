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
use crate::testing::{World, now, object};

/// More steps than anything here needs.
const MAX_STEPS: usize = 2000;
const SEEDS: u64 = 40;

struct Simulation {
    world: World,
    ids: Ids,
}

impl Simulation {
    fn new(seed: u64, replicas: i32, more: &str) -> Self {
        let set: StatefulSet = object(&format!(
            "{{metadata: {{name: db, namespace: d, uid: u, generation: 1}}, spec: {{replicas: {replicas}, serviceName: db{more}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: v1}}]}}}}}}}}"
        ));
        let mut world = World::default();
        world.put(&set);
        Self { world, ids: Ids::seeded(seed) }
    }

    fn set(&self) -> Arc<StatefulSet> {
        self.world.get("db").expect("it is never deleted")
    }

    fn edit(&mut self, path: &str, value: serde_json::Value) {
        let mut tree = serde_json::to_value(&*self.set()).expect("an object");
        *tree.pointer_mut(path).expect("it is there") = value;
        let generation = tree["metadata"]["generation"].as_i64().expect("a number");
        tree["metadata"]["generation"] = json!(generation + 1);
        self.world.put::<StatefulSet>(&serde_json::from_value(tree).expect("a StatefulSet"));
    }

    fn set_image(&mut self, image: &str) {
        self.edit("/spec/template/spec/containers/0/image", json!(image));
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
        let pods = self.pods();
        let (choices, start) = (pods.len() + 1, self.ids.next_u64() as usize);
        (0..choices).any(|offset| match (start + offset) % choices {
            0 => !self.sync(),
            at => self.advance(&pods[at - 1]),
        })
    }

    fn advance(&mut self, pod: &Pod) -> bool {
        let name = pod.metadata.name.clone().expect("a name");
        if pod.metadata.deletion_timestamp.is_some() {
            self.world.remove::<Pod>(&name);
            return true;
        }
        let bad = pod.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some("bad"));
        if is_ready(pod) || bad {
            return false;
        }
        let ready = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T11:59:00Z"}]});
        let pod = Pod { status: serde_json::from_value(ready).expect("a status"), ..pod.clone() };
        self.world.put(&pod);
        true
    }

    fn available(&self, ordinal: i32) -> bool {
        let pod = self.world.get::<Pod>(&format!("db-{ordinal}"));
        pod.is_some_and(|pod| is_active(&pod) && is_ready(&pod))
    }

    fn run(&mut self, mut holds: impl FnMut(&Self)) {
        for _ in 0..MAX_STEPS {
            if !self.step() {
                return;
            }
            holds(self);
        }
        panic!("it does not come to its end");
    }

    fn images(&self) -> Vec<String> {
        let image = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
        self.pods().iter().filter_map(image).collect()
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
        simulation.edit("/spec/replicas", json!(1));
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
            simulation.set_image("v2");
            simulation.run(|simulation| {
                let missing = (0..5).filter(|ordinal| !simulation.available(*ordinal)).count();
                assert!(missing <= most, "{missing} are missing");
            });
            assert_eq!(simulation.images(), ["v2"; 5]);
            simulation.set_image("v1");
            simulation.run(|_| {});
            assert_eq!(simulation.images(), ["v1"; 5]);
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
        simulation.set_image("v2");
        simulation.run(|_| {});
        assert_eq!(simulation.images(), ["v1", "v1", "v2"]);
        simulation.world.remove::<Pod>("db-0");
        simulation.run(|_| {});
        assert_eq!(simulation.images(), ["v1", "v1", "v2"], "what is below the partition stays as it was");
        let mut simulation = Simulation::new(seed, 3, "");
        simulation.run(|_| {});
        simulation.set_image("bad");
        simulation.run(|_| {});
        assert_eq!(simulation.images(), ["v1", "v1", "bad"], "a broken template stops at the first pod");
        simulation.set_image("v3");
        simulation.run(|_| {});
        assert_eq!(simulation.images(), ["v3"; 3]);
    }
}
