//! What must hold of groups in all clusters, tried in random ones.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;

use super::group_tests::{SECOND, World, core_with, gang, important, node, within_racks};
use super::*;
use crate::groups::Features;
use crate::testing::pod;

/// A seeded source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What is on each node.
fn loads(core: &Core) -> BTreeMap<String, Vec<String>> {
    let of = |node: &crate::snapshot::NodeInfo| {
        let mut pods: Vec<_> = node.load.pods.iter().map(|pod| pod.uid.clone()).collect();
        pods.sort();
        (node.name().to_owned(), pods)
    };
    core.snapshot.nodes().iter().map(of).collect()
}

/// Random clusters in which nodes, groups and pods come and go and some bindings fail: a gang is never begun with fewer
/// pods than it needs, and where it is not begun nothing is different afterwards.
#[test]
fn no_gang_is_ever_begun_by_too_few() {
    let (mut begun, mut refused, mut evicted) = (0, 0, 0);
    for seed in 1..=150 {
        let mut dice = Dice(seed);
        let features = Features { groups: true, gangs: true, topology: seed % 3 == 1, preemption: seed % 3 == 2 };
        let mut world = World { core: core_with(features), now: SECOND };
        let mut present: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
        let counts: Vec<usize> = (0..3).map(|_| 1 + dice.roll(5) as usize).collect();
        for number in 0..60 {
            let which = dice.roll(3) as usize;
            match dice.roll(9) {
                0 | 1 => {
                    let (at, cpu, rack) = (dice.roll(4), 1 + dice.roll(4), dice.roll(2));
                    world.node(&format!("{{name: n{at}, cpu: '{cpu}', labels: {{rack: r{rack}}}}}"));
                }
                2 => {
                    let node = node(&format!("{{name: n{}}}", dice.roll(4)));
                    world.core.node_changed(&Change::Deleted(node), world.now);
                }
                3 => {
                    let (name, count) = (format!("g{which}"), counts[which]);
                    let mode = if which == 0 { "Pod" } else { "PodGroup" };
                    world.group(match features {
                        Features { topology: true, .. } => within_racks(&name, count),
                        Features { preemption: true, .. } => important(&name, count, which as i32, mode),
                        _ => gang(&name, count),
                    });
                }
                4 => {
                    let name = present.keys().nth(dice.roll(present.len().max(1) as u64) as usize).cloned();
                    name.and_then(|name| present.remove(&name)).into_iter().for_each(|pod| world.remove(pod));
                }
                _ => {
                    let (name, priority) = (format!("p{number}"), dice.roll(2));
                    let alone = dice.roll(4) == 0;
                    let spec =
                        if alone { "{}".into() } else { format!("{{schedulingGroup: {{podGroupName: g{which}}}}}") };
                    let yaml =
                        format!("{{name: {name}, cpu: '{}', priority: {priority}, spec: {spec}}}", 1 + dice.roll(2));
                    let pod = pod(&yaml).pod.clone();
                    present.insert(name, pod.clone());
                    world.add(pod);
                }
            }
            world.now += SECOND * dice.roll(12) as u32;
            loop {
                let before = loads(&world.core);
                let (placements, evictions) = match world.core.step(world.now) {
                    Step::Idle { .. } => break,
                    Step::Bind(placement) => (vec![placement], Vec::new()),
                    Step::Group(step) => {
                        let GroupStep { placements, refusals, going, .. } = *step;
                        let on: usize = before.values().map(Vec::len).sum();
                        assert_eq!(loads(&world.core).values().map(Vec::len).sum::<usize>(), on + placements.len());
                        if let Some(first) = placements.first() {
                            let key = world.core.groups.key_of(&first.pod.pod).expect("it is in a group");
                            let is_in = |uid: &str| {
                                present.get(uid).is_some_and(|pod| world.core.groups.key_of(pod).as_ref() == Some(&key))
                            };
                            let there = world.core.groups.members(&key);
                            let there = there
                                .filter(|(uid, placed)| is_in(uid) && (*placed || world.core.snapshot.is_assumed(uid)));
                            let needed = world.core.groups.quorum(&key);
                            assert!(there.count() >= needed, "seed {seed}, change {number}: fewer than {needed}");
                            begun += 1;
                        } else {
                            assert_eq!(loads(&world.core), before, "seed {seed}, change {number}");
                            refused += 1;
                        }
                        let nodes = placements.iter().filter_map(|one| world.core.snapshot.node(&one.node));
                        let racks: BTreeSet<_> = nodes.map(|node| node.label("rack")).collect();
                        assert!(!features.topology || racks.len() <= 1, "seed {seed}, change {number}: {racks:?}");
                        let victims = refusals.into_iter().flat_map(|refusal| refusal.victims);
                        (placements, victims.chain(going).collect())
                    }
                    Step::Unschedulable { victims, .. } => (Vec::new(), victims),
                    _ => continue,
                };
                for placement in placements {
                    if dice.roll(10) == 0 {
                        world.core.bind_failed(&placement.pod.uid, world.now);
                        continue;
                    }
                    world.bound(&placement);
                    let mut pod = Pod::clone(&placement.pod.pod);
                    pod.spec.get_or_insert_default().node_name = Some(placement.node.clone());
                    present.insert(placement.pod.name().to_owned(), Arc::new(pod));
                }
                for victim in evictions {
                    evicted += 1;
                    present.remove(victim.name()).into_iter().for_each(|pod| world.remove(pod));
                }
            }
        }
    }
    assert!(begun > 300 && refused > 300 && evicted > 100, "all kinds have to occur: {begun} {refused} {evicted}");
}
