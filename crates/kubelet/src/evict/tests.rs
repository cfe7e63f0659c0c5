//! Tables of shortages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};

use super::*;

const MIB: i64 = 1 << 20;

fn options(yaml: &str) -> Options {
    Options::parse(yaml.as_bytes()).expect("valid options")
}

fn candidate(name: &str, priority: i32, request: &str, memory_mib: i64) -> Candidate {
    let yaml = format!(
        "{{metadata: {{name: {name}, namespace: default, uid: {name}}}, spec: {{priority: {priority},
           containers: [{{name: app, resources: {{requests: {{memory: {request}, ephemeral-storage: {request}}}}}}}]}}}}"
    );
    let used = ContainerUse { memory: memory_mib * MIB, disk: memory_mib * MIB, inodes: memory_mib };
    Candidate {
        pod: Arc::new(serde_saphyr::from_str(&yaml).expect("a valid Pod")),
        containers: BTreeMap::from([("app".to_owned(), used)]),
        volumes: BTreeMap::new(),
        pids: memory_mib,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a valid time")
}

/// One line for each look: the conditions, and the shortage to act on.
fn check(yaml: &str, looks: &[(i64, Signal, i64)], expected: Expect) {
    let options = options(yaml);
    let thresholds = thresholds(&options).expect("valid thresholds");
    let mut state = State::default();
    let mut lines = String::new();
    for (second, signal, available) in looks {
        let seen = Observation { available: *available * MIB, capacity: 1000 * MIB };
        let observations = Observations::from([(*signal, seen)]);
        let transition = options.eviction_pressure_transition_period.0;
        let (next, verdict) = look(&state, &thresholds, &observations, transition, at(*second));
        state = next;
        let names: Vec<_> = verdict.pressures.iter().map(|pressure| pressure.name()).collect();
        let acts = if verdict.threshold.is_some() { ", acts" } else { "" };
        lines.push_str(&format!("{second}s {available}Mi: {names:?}{acts}\n"));
    }
    expected.assert_eq(&lines);
}

#[test]
fn a_hard_threshold_acts_at_once_and_its_condition_stays_a_while() {
    check(
        "evictionHard: {memory.available: 100Mi}",
        &[
            (0, Signal::MemoryAvailable, 500),
            (10, Signal::MemoryAvailable, 50),
            (20, Signal::MemoryAvailable, 150),
            (300, Signal::MemoryAvailable, 500),
            (310, Signal::MemoryAvailable, 500),
        ],
        expect![[r#"
            0s 500Mi: []
            10s 50Mi: ["MemoryPressure"], acts
            20s 150Mi: ["MemoryPressure"]
            300s 500Mi: ["MemoryPressure"]
            310s 500Mi: []
        "#]],
    );
}

#[test]
fn a_soft_threshold_waits_and_reclaims_more() {
    check(
        "{evictionHard: {}, evictionSoft: {nodefs.available: 20%}, evictionSoftGracePeriod: {nodefs.available: 1m},
          evictionMinimumReclaim: {nodefs.available: 50Mi}, evictionPressureTransitionPeriod: 30s}",
        &[
            (0, Signal::NodeFsAvailable, 190),
            (30, Signal::NodeFsAvailable, 190),
            (60, Signal::NodeFsAvailable, 190),
            (70, Signal::NodeFsAvailable, 230),
            (80, Signal::NodeFsAvailable, 260),
            (120, Signal::NodeFsAvailable, 260),
        ],
        expect![[r#"
            0s 190Mi: ["DiskPressure"]
            30s 190Mi: ["DiskPressure"]
            60s 190Mi: ["DiskPressure"], acts
            70s 230Mi: ["DiskPressure"], acts
            80s 260Mi: ["DiskPressure"]
            120s 260Mi: []
        "#]],
    );
}

#[test]
fn those_beyond_their_requests_go_first_then_by_priority_then_by_excess() {
    let candidates = || {
        vec![
            candidate("modest", 0, "500Mi", 100),
            candidate("greedy-and-dear", 10, "10Mi", 900),
            candidate("greedy", 0, "10Mi", 50),
            candidate("greediest", 0, "10Mi", 60),
            candidate("critical", 2_000_000_000, "1Mi", 999),
        ]
    };
    let threshold = thresholds(&options("evictionHard: {memory.available: 100Mi}")).expect("valid")[0];
    let seen =
        Observations::from([(Signal::MemoryAvailable, Observation { available: 50 * MIB, capacity: 1000 * MIB })]);
    let mut left = candidates();
    let mut told = String::new();
    while let Some((uid, eviction)) = choose(&threshold, &seen, left.clone(), 0) {
        told.push_str(&format!("{uid}: {} ({:?}s)\n", eviction.message, eviction.grace_seconds));
        left.retain(|candidate| candidate.pod.metadata.uid.as_deref() != Some(&uid));
    }
    expect![[r#"
        greediest: The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container app was using 60Mi, request is 10Mi, has larger consumption of memory.  (Some(0)s)
        greedy: The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container app was using 50Mi, request is 10Mi, has larger consumption of memory.  (Some(0)s)
        greedy-and-dear: The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container app was using 900Mi, request is 10Mi, has larger consumption of memory.  (Some(0)s)
        modest: The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi.  (Some(0)s)
    "#]].assert_eq(&told);
    let pids = Threshold { signal: Signal::PidAvailable, ..threshold };
    let (uid, eviction) = choose(&pids, &Observations::new(), candidates(), 0).expect("one can go");
    assert_eq!((uid.as_str(), eviction.message.as_str()), ("modest", "The node was low on resource: pids. "));
}

#[test]
fn local_storage_has_limits_of_its_own() {
    let yaml = "{spec: {containers: [{name: a, resources: {limits: {ephemeral-storage: 10Mi}}}],
        volumes: [{name: scratch, emptyDir: {sizeLimit: 5Mi}}, {name: fast, emptyDir: {medium: Memory}}]}}";
    let pod: Pod = serde_saphyr::from_str(yaml).expect("a valid Pod");
    assert!(storage::is_limited(&pod) && !storage::is_limited(&Pod::default()));
    let excess = |disk: i64, scratch: i64, fast: i64| {
        let volumes = [("scratch", scratch), ("fast", fast)];
        let used = ContainerUse { disk: disk * MIB, ..ContainerUse::default() };
        let candidate = Candidate {
            pod: Arc::new(pod.clone()),
            containers: [("a".to_owned(), used)].into(),
            volumes: volumes.map(|(name, mib)| (name.to_owned(), (mib * MIB, 1))).into(),
            pids: 0,
        };
        storage::excess(&candidate).map(|eviction| eviction.message)
    };
    assert_eq!(excess(4, 5, 100), None);
    assert_eq!(excess(1, 6, 0).as_deref(), Some("Usage of EmptyDir volume \"scratch\" exceeds the limit \"5Mi\". "));
    assert_eq!(
        excess(8, 4, 0).as_deref(),
        Some("Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ")
    );
}

#[test]
fn the_transition_is_no_less_than_zero() {
    let (_, verdict) = look(&State::default(), &[], &Observations::new(), Duration::ZERO, at(1));
    assert_eq!(verdict, Verdict::default());
}
