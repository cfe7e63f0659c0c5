//! Tables of who gets what.

use super::cpus::{Seat, format, parse};
use super::*;

const GIB: i64 = 1 << 30;

/// Two NUMA nodes of two cores of two threads and of 4 GiB each; the threads of a core are N and N+4.
fn machine() -> Machine {
    let seats = (0..8).map(|cpu| (cpu, Seat { numa: cpu % 4 / 2, socket: cpu % 4 / 2, core: cpu % 4 }));
    Machine { topology: seats.collect(), memory: [(0, 4 * GIB), (1, 4 * GIB)].into() }
}

fn rules(yaml: &str) -> Result<Rules, String> {
    Rules::of(&Options::parse(yaml.as_bytes())?, &machine())
}

fn pod(name: &str, cpu: &str, memory: &str) -> Pod {
    let yaml = format!(
        "{{metadata: {{uid: {name}}}, spec: {{containers: [{{name: app, resources: {{limits: {{cpu: {cpu}, memory: {memory}}},
           requests: {{cpu: {cpu}, memory: {memory}}}}}}}]}}}}"
    );
    serde_saphyr::from_str(&yaml).expect("a valid Pod")
}

/// Assigns one Pod after the other; what each got, or why not.
fn check(yaml: &str, pods: &[(&str, &str, &str)], expected: &[&str]) {
    let rules = rules(yaml).expect("valid rules");
    let mut held = Assignments::default();
    let mut got = Vec::new();
    for (name, cpu, memory) in pods {
        match held.assign(&pod(name, cpu, memory), &rules, &machine()) {
            Ok(next) => {
                held = next;
                let share = held.share(name, "app");
                let cpus = share.cpus.as_ref().map_or("shared".to_owned(), format);
                got.push(match share.memory {
                    Some((nodes, _)) => format!("{cpus} memory {nodes:?}"),
                    None => cpus,
                });
            }
            Err((reason, _)) => got.push(reason),
        }
    }
    assert_eq!(got, expected);
}

const STATIC: &str = "cpuManagerPolicy: static\nreservedSystemCPUs: '0'\n";

#[test]
fn whole_processors_go_to_guaranteed_pods() {
    check(
        STATIC,
        &[("a", "2", "1Gi"), ("b", "500m", "1Gi"), ("c", "4", "1Gi"), ("d", "2", "1Gi")],
        &["1,5", "shared", "2-3,6-7", "UnexpectedAdmissionError"],
    );
}

#[test]
fn what_a_pod_had_is_free_again_and_the_rest_is_shared() {
    let rules = rules(STATIC).expect("valid rules");
    let held = Assignments::default().assign(&pod("a", "2", "1Gi"), &rules, &machine());
    let mut held = held.expect("there is room");
    assert_eq!(format(&held.shared(&machine())), "0,2-4,6-7");
    assert!(held.retain(|_| false) && held == Assignments::default());
}

#[test]
fn cores_are_not_split_where_that_is_asked_for() {
    let yaml = format!("{STATIC}cpuManagerPolicyOptions: {{full-pcpus-only: 'true'}}");
    check(&yaml, &[("a", "3", "1Gi"), ("b", "2", "1Gi")], &["SMTAlignmentError", "1,5"]);
}

#[test]
fn memory_and_processors_come_from_one_place_where_the_policy_says_so() {
    let yaml = format!("{STATIC}memoryManagerPolicy: Static\ntopologyManagerPolicy: single-numa-node\n");
    check(
        &yaml,
        &[("a", "2", "3Gi"), ("b", "2", "3Gi"), ("c", "2", "3Gi"), ("d", "1", "5Gi")],
        &["1,5 memory [0]", "2,6 memory [1]", "TopologyAffinityError", "TopologyAffinityError"],
    );
    let yaml = yaml.replace("single-numa-node", "restricted");
    check(&yaml, &[("a", "2", "5Gi")], &["1,5 memory [0, 1]"]);
}

#[test]
fn init_containers_pass_their_processors_on() {
    let yaml = "{metadata: {uid: a}, spec: {
        initContainers: [{name: first, resources: {limits: {cpu: '2', memory: 1Gi}, requests: {cpu: '2', memory: 1Gi}}}],
        containers: [{name: app, resources: {limits: {cpu: '2', memory: 1Gi}, requests: {cpu: '2', memory: 1Gi}}}]}}";
    let pod: Pod = serde_saphyr::from_str(yaml).expect("a valid Pod");
    let held = Assignments::default().assign(&pod, &rules(STATIC).expect("valid rules"), &machine()).expect("room");
    assert_eq!(held.share("a", "first").cpus, held.share("a", "app").cpus);
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let error = |yaml: &str| rules(yaml).expect_err(yaml);
    assert!(error("cpuManagerPolicy: static").contains("needs a CPU reservation"));
    assert!(error(&format!("{STATIC}cpuManagerPolicyOptions: {{x: 'true'}}")).contains("not known"));
    assert_eq!(
        rules("{cpuManagerPolicy: static, kubeReserved: {cpu: 1500m}}").map(|rules| rules.reserved),
        Ok(parse("0,4").expect("a set"))
    );
}
