//! The fast search against the plain model, on random clusters that change at random: the same nodes have to be feasible
//! with the same scores, the same has to be told where there are none, and making room has to cost the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cycle::{Turn, feasible, totals};
use crate::plugins::Ask;
use crate::pod::PodInfo;
use crate::preempt::{cost, preempt};
use crate::profile::Profile;
use crate::ranking::Rankings;
use crate::selectors::selector;
use crate::snapshot::Snapshot;

/// How many clusters are made.
const CLUSTERS: u64 = 120;
/// How often each is changed.
const CHANGES: usize = 40;

/// A seeded source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len() as u64) as usize]
    }

    fn node(&mut self, at: u64) -> Value {
        let mut labels = json!({"kubernetes.io/hostname": format!("n{at}")});
        // Now and then a node claims to be another one, or does not tell its host or zone.
        if self.one_in(15) {
            labels["kubernetes.io/hostname"] = json!("n0");
        } else if self.one_in(15) {
            labels = json!({});
        }
        if !self.one_in(6) {
            labels["topology.kubernetes.io/zone"] = json!(self.pick(&["a", "b", "c"]));
        }
        labels["disk"] = json!(self.pick(&["ssd", "hdd"]));
        let mut taints = Vec::new();
        for effect in ["NoSchedule", "PreferNoSchedule", "PreferNoSchedule"] {
            if self.one_in(6) {
                taints.push(json!({"key": self.pick(&["k", "l", "m"]), "effect": effect}));
            }
        }
        let images = if self.one_in(3) { json!([{"names": ["app:v1"], "sizeBytes": 700_000_000}]) } else { json!([]) };
        json!({
            "metadata": {"name": format!("n{at}"), "labels": labels},
            "spec": {"taints": taints, "unschedulable": self.one_in(12)},
            "status": {
                "images": images,
                "allocatable": {
                    "cpu": self.pick(&["2", "4", "3"]), "memory": self.pick(&["4Gi", "8Gi"]), "pods": self.pick(&["3", "110"]),
                },
            },
        })
    }

    fn term(&mut self) -> Value {
        let mut term = json!({
            "topologyKey": self.pick(&["kubernetes.io/hostname", "topology.kubernetes.io/zone", "disk"]),
            "labelSelector": {"matchLabels": {"app": self.pick(&["x", "y"])}},
        });
        match self.roll(4) {
            0 => term["namespaceSelector"] = json!({"matchLabels": {"team": "red"}}),
            1 => term["namespaces"] = json!(["default", "other"]),
            _ => {}
        }
        term
    }

    fn affinity(&mut self, strict: u64) -> Value {
        let mut affinity = json!({});
        for kind in ["podAffinity", "podAntiAffinity"] {
            let mut side = json!({});
            if self.one_in(strict) {
                let terms: Vec<_> = (0..=self.roll(2)).map(|_| self.term()).collect();
                side["requiredDuringSchedulingIgnoredDuringExecution"] = json!(terms);
            }
            if self.one_in(3) {
                let term = json!({"weight": 1 + self.roll(100), "podAffinityTerm": self.term()});
                side["preferredDuringSchedulingIgnoredDuringExecution"] = json!([term]);
            }
            affinity[kind] = side;
        }
        if self.one_in(4) {
            let values = json!([self.pick(&["ssd", "hdd"])]);
            let expressions = json!([{"key": "disk", "operator": "In", "values": values}]);
            let preferred = json!([{"weight": 1 + self.roll(9), "preference": {"matchExpressions": expressions}}]);
            affinity["nodeAffinity"] = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
        }
        affinity
    }

    fn constraint(&mut self) -> Value {
        let mut constraint = json!({
            "maxSkew": 1 + self.roll(3),
            "topologyKey": self.pick(&["kubernetes.io/hostname", "topology.kubernetes.io/zone", "disk"]),
            "whenUnsatisfiable": self.pick(&["DoNotSchedule", "ScheduleAnyway", "ScheduleAnyway"]),
            "labelSelector": {"matchLabels": {"app": self.pick(&["x", "y"])}},
            "nodeAffinityPolicy": self.pick(&["Honor", "Ignore"]),
            "nodeTaintsPolicy": self.pick(&["Honor", "Ignore"]),
        });
        if constraint["whenUnsatisfiable"] == "DoNotSchedule" && self.one_in(3) {
            constraint["minDomains"] = json!(1 + self.roll(4));
        }
        constraint
    }

    fn pod(&mut self, name: &str) -> Arc<PodInfo> {
        let requests = json!({"cpu": self.pick(&["100m", "500m", "1"]), "memory": self.pick(&["100Mi", "1Gi"])});
        let mut container = json!({"name": "c", "image": "app:v1", "resources": {}});
        if !self.one_in(4) {
            container["resources"]["requests"] = requests;
        }
        if self.one_in(6) {
            container["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
        }
        // Who asks is mostly more important than who is there.
        let priority = self.roll(3) + if name.starts_with("asking") { 2 } else { 0 };
        let mut spec = json!({"containers": [container], "priority": priority});
        if self.one_in(2) {
            spec["affinity"] = self.affinity(4);
        }
        if self.one_in(2) {
            let constraints: Vec<_> = (0..=self.roll(2)).map(|_| self.constraint()).collect();
            spec["topologySpreadConstraints"] = json!(constraints);
        }
        if self.one_in(3) {
            spec["tolerations"] = json!([{"key": self.pick(&["k", "l"]), "operator": "Exists"}]);
        }
        if self.one_in(6) {
            spec["nodeSelector"] = json!({"disk": "ssd"});
        }
        let labels = json!({"app": self.pick(&["x", "y", "z"]), "own": name});
        let mut meta = json!({"name": name, "uid": name, "labels": labels});
        if self.one_in(2) {
            meta["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": "set", "controller": true}]);
        }
        meta["namespace"] = json!(self.pick(&["default", "default", "other"]));
        if self.one_in(8) {
            meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a pod");
        Arc::new(PodInfo::new(Arc::new(pod)))
    }

    /// Changes one thing.
    fn change(&mut self, world: &mut Snapshot, number: usize) {
        let node = format!("n{}", self.roll(8));
        match self.roll(12) {
            0 | 1 => {
                let at = self.roll(8);
                let node = serde_json::from_value(self.node(at)).expect("a node");
                world.set_node(Arc::new(node));
            }
            2 => world.remove_node(&node),
            3 => {
                let labels = [("team".to_owned(), self.pick(&["red", "blue"]).to_owned())];
                let space = self.pick(&["default", "other"]).to_owned();
                world.set_namespace(space, Some(labels.into_iter().collect()));
            }
            4 => drop(world.remove_pod(&format!("p{}", self.roll(number as u64 + 1)))),
            5 => {
                let pod = self.pod(&format!("nominated{number}"));
                world.nominate(pod, &node);
            }
            6 => drop(world.denominate(&format!("nominated{}", self.roll(number as u64 + 1)))),
            7 => {
                let pod = self.pod(&format!("p{number}"));
                world.assume(pod, &node);
            }
            _ => {
                let pod = self.pod(&format!("p{number}"));
                world.set_pod(pod, &node);
            }
        }
    }
}

#[test]
fn the_fast_search_and_the_model_agree() {
    let mut compared = (0, 0, 0);
    for seed in 1..=CLUSTERS {
        let mut dice = Dice(seed);
        let mut world = Snapshot::default();
        for at in 0..1 + dice.roll(8) {
            let node = serde_json::from_value(dice.node(at)).expect("a node");
            world.set_node(Arc::new(node));
        }
        let profile = Arc::new(Profile::default());
        let asking: Vec<_> = (0..4).map(|at| dice.pod(&format!("asking{at}"))).collect();
        let mut rankings = Rankings::default();
        let chosen = selector(Some(&serde_json::from_value(json!({"matchLabels": {"app": "x"}})).expect("a selector")));
        world.owners.set_owner("ReplicaSet", ("default".into(), "set".into()), Some(chosen));
        world.owners.set_service("other", "service", Some([("app".to_owned(), "y".to_owned())].into()));
        for number in 0..CHANGES {
            dice.change(&mut world, number);
            let pod = asking[dice.roll(asking.len() as u64) as usize].clone();
            compare(&pod, &profile, &mut world, &mut rankings, &mut compared, &format!("seed {seed}, change {number}"));
        }
    }
    let (placed, refused, made_room) = compared;
    assert!(placed > 1000 && refused > 300 && made_room > 50, "all kinds have to occur: {compared:?}");
}

fn compare(
    pod: &Arc<PodInfo>,
    profile: &Arc<Profile>,
    world: &mut Snapshot,
    rankings: &mut Rankings,
    compared: &mut (usize, usize, usize),
    place: &str,
) {
    let ask = Ask { pod, snapshot: world, profile };
    let ranking = rankings.of(pod, profile, world, true).expect("made at once");
    // What those are that room was made for is looked at after the choice, where it may matter.
    if ranking.looks_around() && world.nodes().iter().any(|node| node.with_nominated(pod).is_some()) {
        return;
    }
    match feasible(&ask, usize::MAX, &mut Turn::seeded(1)) {
        Ok(nodes) => {
            compared.0 += 1;
            let expected: BTreeMap<_, _> = nodes.iter().copied().zip(totals(&ask, &nodes)).collect();
            assert_eq!(ranking.totals(world), expected, "{place}");
            let chosen = ranking.choose(world, 7).expect("there are feasible nodes");
            assert_eq!(expected.get(&chosen), expected.values().max(), "{place}");
            assert!(ranking.takes(chosen, world), "{place}");
        }
        Err(failure) => {
            compared.1 += 1;
            let told = ranking.choose(world, 7).expect_err(place);
            assert_eq!(told.message(), failure.message(), "{place}");
            let fast = ranking.make_room(world, 7).map(|(_, victims)| cost(0, &victims));
            let slow = preempt(pod, profile, world, &failure).map(|(_, victims)| cost(0, &victims));
            compared.2 += usize::from(fast.is_ok());
            assert_eq!(fast, slow, "{place}");
        }
    }
}
