//! DaemonSets played through with the real decision and a cluster that acts in random order: one pod on each node,
//! no more missing and no more too many than the strategy says, and every change comes to its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
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

/// The node that a pod is meant for.
fn node_of(pod: &Pod) -> String {
    let tree = serde_json::to_value(pod).expect("an object");
    let path = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    tree.pointer(path).and_then(|value| value.as_str()).expect("a node").to_owned()
}

impl Simulation {
    fn new(seed: u64, nodes: usize, strategy: &str) -> Self {
        let set: DaemonSet = object(&format!(
            "{{metadata: {{name: log, namespace: d, uid: u, generation: 1}}, spec: {{updateStrategy: {{rollingUpdate: {strategy}}}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: v1}}]}}}}}}}}"
        ));
        let mut simulation = Self { world: World::default(), ids: Ids::seeded(seed) };
        simulation.world.put(&set);
        (0..nodes).for_each(|at| simulation.add_node(at));
        simulation
    }

    fn add_node(&mut self, at: usize) {
        self.world.put::<Node>(&object(&format!("{{metadata: {{name: n{at}}}}}")));
    }

    fn set_image(&mut self, image: &str) {
        let set = self.world.get::<DaemonSet>("log").expect("it is never deleted");
        let mut tree = serde_json::to_value(&*set).expect("an object");
        tree["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        let generation = tree["metadata"]["generation"].as_i64().expect("a number");
        tree["metadata"]["generation"] = json!(generation + 1);
        self.world.put::<DaemonSet>(&serde_json::from_value(tree).expect("a DaemonSet"));
    }

    fn sync(&mut self) -> bool {
        let observed = Observed {
            set: self.world.get("log").expect("it is never deleted"),
            nodes: self.world.list(),
            pods: self.world.list(),
            revisions: self.world.list(),
            foreign: Vec::new(),
        };
        let plan = decide::reconcile(&observed, now(), &self.ids);
        self.world.carry_out(&plan);
        plan.steps.is_empty()
    }

    /// One thing happens; false where nothing is left to happen.
    fn step(&mut self) -> bool {
        let pods = self.world.list::<Pod>();
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
        if is_ready(pod) {
            return false;
        }
        let ready = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T11:59:00Z"}]});
        let mut pod = Pod { status: serde_json::from_value(ready).expect("a status"), ..pod.clone() };
        let node = node_of(&pod);
        pod.spec.get_or_insert_default().node_name = Some(node);
        self.world.put(&pod);
        true
    }

    /// How many active and how many available pods each node has.
    fn by_node(&self) -> BTreeMap<String, (usize, usize)> {
        let nodes = self.world.list::<Node>();
        let mut counts: BTreeMap<_, _> =
            nodes.iter().map(|node| (node.metadata.name.clone().expect("a name"), (0, 0))).collect();
        for pod in self.world.list::<Pod>().iter().filter(|pod| is_active(pod)) {
            let count = counts.entry(node_of(pod)).or_default();
            *count = (count.0 + 1, count.1 + usize::from(is_ready(pod)));
        }
        counts
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
        self.world.list::<Pod>().iter().filter_map(image).collect()
    }
}

#[test]
fn rollouts_keep_their_bounds_and_end() {
    for seed in 0..SEEDS {
        for (strategy, most_missing, surges) in
            [("{}", 1, false), ("{maxUnavailable: 50%}", 3, false), ("{maxSurge: 2, maxUnavailable: 0}", 0, true)]
        {
            println!("seed {seed} {strategy}");
            let mut simulation = Simulation::new(seed, 5, strategy);
            simulation.run(|_| {});
            assert_eq!(simulation.images(), ["v1"; 5]);
            simulation.set_image("v2");
            simulation.run(|simulation| {
                let counts = simulation.by_node();
                let missing = counts.values().filter(|(_, available)| *available == 0).count();
                let doubled = counts.values().filter(|(active, _)| *active > 1).count();
                assert!(missing <= most_missing, "{missing} nodes are without");
                assert!(doubled <= if surges { 2 } else { 0 }, "{doubled} nodes have two");
            });
            assert_eq!(simulation.images(), ["v2"; 5]);
        }
    }
}

#[test]
fn nodes_that_come_and_go_are_followed() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut simulation = Simulation::new(seed, 3, "{}");
        for _ in 0..seed {
            simulation.step();
        }
        simulation.add_node(7);
        simulation.run(|simulation| {
            assert!(simulation.by_node().values().all(|(active, _)| *active <= 1), "no node has two");
        });
        assert_eq!(simulation.images().len(), 4);
    }
}
