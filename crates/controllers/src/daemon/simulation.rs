//! DaemonSets played through with the real decision and a cluster that acts in random order: one pod on each node,
//! no more missing and no more too many than the strategy says, and every change comes to its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_base::ids::Ids;

use super::{Observed, decide};
use crate::pods::{is_active, is_ready};
use crate::testing::{World, any_of, now, object, play};

const SEEDS: u64 = 40;

struct Simulation {
    world: World,
    ids: Arc<Ids>,
}

/// The node that a pod is meant for.
fn node_of(pod: &Pod) -> String {
    let tree = serde_json::to_value(pod).expect("an object");
    let path = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    tree.pointer(path).and_then(|value| value.as_str()).expect("a node").to_owned()
}

/// The pod on the node that it is meant for.
fn placed(pod: &Pod) -> Pod {
    let (mut pod, node) = (pod.clone(), node_of(pod));
    pod.spec.get_or_insert_default().node_name = Some(node);
    pod
}

impl Simulation {
    fn new(seed: u64, nodes: usize, strategy: &str) -> Self {
        let set: DaemonSet = object(&format!(
            "{{metadata: {{name: log, namespace: d, uid: u, generation: 1}}, spec: {{updateStrategy: {{rollingUpdate: {strategy}}}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: v1}}]}}}}}}}}"
        ));
        let mut simulation = Self { world: World::default(), ids: Arc::new(Ids::seeded(seed)) };
        simulation.world.put(&set);
        (0..nodes).for_each(|at| simulation.add_node(at));
        simulation
    }

    fn add_node(&mut self, at: usize) {
        self.world.put::<Node>(&object(&format!("{{metadata: {{name: n{at}}}}}")));
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
        let (pods, ids) = (self.world.list::<Pod>(), self.ids.clone());
        any_of(pods.len() + 1, &ids, |choice| match choice {
            0 => !self.sync(),
            at => self.world.advance(&placed(&pods[at - 1])),
        })
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

    fn run(&mut self, holds: impl FnMut(&Self)) {
        play(self, Self::step, holds);
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
            assert_eq!(simulation.world.images(), ["v1"; 5]);
            simulation.world.set_image::<DaemonSet>("log", "v2");
            simulation.run(|simulation| {
                let counts = simulation.by_node();
                let missing = counts.values().filter(|(_, available)| *available == 0).count();
                let doubled = counts.values().filter(|(active, _)| *active > 1).count();
                assert!(missing <= most_missing, "{missing} nodes are without");
                assert!(doubled <= if surges { 2 } else { 0 }, "{doubled} nodes have two");
            });
            assert_eq!(simulation.world.images(), ["v2"; 5]);
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
        assert_eq!(simulation.world.images().len(), 4);
    }
}
