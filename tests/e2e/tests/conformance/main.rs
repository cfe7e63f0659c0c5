//! What conformance tests of Kubernetes ask of a node, with real Pods, where no other test here does already. All Pods are
//! begun at once; then each is looked at.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod classes;
mod lives;
mod sizes;
mod surroundings;
mod volumes;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

#[test]
fn a_node_does_what_conformance_asks() {
    let cluster = Cluster::up("conformance");
    surroundings::begin(&cluster);
    volumes::begin(&cluster);
    lives::begin(&cluster);
    sizes::begin(&cluster);
    classes::begin(&cluster);
    surroundings::look(&cluster);
    volumes::look(&cluster);
    lives::look(&cluster);
    sizes::look(&cluster);
    classes::look(&cluster);
}

/// Creates a Pod that runs once.
#[track_caller]
fn run_once(cluster: &Cluster, name: &str, spec: &str) {
    cluster.create(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{note: kept}}}}\n\
         spec:\n  restartPolicy: Never\n{spec}"
    ));
}

/// A container of the test image that runs a shell line, with more fields of it.
fn shell(line: &str, more: &str) -> String {
    format!(
        "  containers:\n  - name: main\n    image: localhost:5000/hello:v1\n    command: [sh, -c, {line:?}]\n{more}"
    )
}

/// What a Pod that runs once has said when it is through.
#[track_caller]
fn said(cluster: &Cluster, name: &str) -> String {
    let mut phase = String::new();
    eventually(&format!("{name} ends"), || {
        phase = cluster.get(&format!("pod {name}"))["status"]["phase"].as_str().unwrap_or_default().to_owned();
        phase == "Succeeded" || phase == "Failed"
    });
    let log = cluster.kubectl(&format!("logs {name}")).ok();
    assert_eq!(phase, "Succeeded", "{name}: {log}");
    log
}
