//! Three servers on an etcd of their own: any of them may die, and the cluster goes on.

use std::process::Command;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, kill};

const SHOP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: hello, image: localhost:5000/hello:v1, command: [/hello, --port=8080]}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {type: LoadBalancer, selector: {app: shop}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// What is elected.
const OFFICES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

fn holder(cluster: &Cluster, office: &str) -> String {
    let holder = format!("get lease -n kube-system {office} -o jsonpath={{.spec.holderIdentity}}");
    cluster.kubectl(&holder).ok()
}

/// What a person asks is done without a second try, and what follows from it is done too.
fn goes_on(cluster: &Cluster, replicas: usize) {
    cluster.kubectl(&format!("scale deployment shop --replicas={replicas}")).ok();
    cluster.kubectl("rollout status deployment/shop --timeout=120s").ok();
    // A rollout to fewer is done before the others are gone.
    eventually("just these are ready", || {
        cluster.kubectl("get deployment shop -o jsonpath={.status.readyReplicas}").stdout == replicas.to_string()
    });
}

#[test]
fn any_server_of_three_may_die() {
    if Command::new("etcd").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: there is no etcd on this machine; install Debian's etcd-server");
    }
    let cluster = Cluster::several_with("servers", 1, &["--servers", "3"], |cluster| {
        let refused = cluster.group(&["create"], &["--servers", "2"]);
        assert!(refused.code != 0 && refused.stderr.contains("make 3, 5 or 7 servers"), "{refused:?}");
    });
    let ready = || cluster.kubectl("get nodes --no-headers").ok().matches(" Ready ").count();
    assert_eq!(ready(), 4);
    cluster.create(SHOP);
    goes_on(&cluster, 2);
    eventually("the Service has an address", || {
        !cluster.kubectl("get service shop -o jsonpath={.status.loadBalancer.ingress[0].ip}").ok().is_empty()
    });

    // The process that has the offices dies; its etcd lives on.
    let leader =
        (0..3).map(|number| cluster.server(number)).find(|name| holder(&cluster, OFFICES[0]).starts_with(name));
    let leader = leader.expect("one of them is elected");
    kill(cluster.server_pid_of(&leader));
    cluster.kubectl("create configmap at-once").ok();
    for office in OFFICES {
        eventually("another is elected", || !holder(&cluster, office).starts_with(&leader));
    }
    // They do their work; what runs on the node itself waits for its agent, which is part of the server.
    cluster.kubectl("scale deployment shop --replicas=4").ok();
    eventually("new pods have nodes", || {
        let nodes = cluster.kubectl("get pods -l app=shop -o jsonpath={.items[*].spec.nodeName}").ok();
        nodes.split_whitespace().count() == 4
    });
    cluster.group(&["start"], &[]).ok();
    goes_on(&cluster, 4);

    // A whole node vanishes, with its member of the etcd.
    let lost = (0..3).map(|number| cluster.server(number)).find(|name| *name != leader).expect("there are three");
    kill(cluster.keeper_pid_of(&lost));
    eventually("the members that are left agree on a leader", || {
        cluster.kubectl("create configmap at-last --request-timeout=5s").code == 0
    });
    cluster.group(&["start"], &[]).ok();
    eventually("all nodes are Ready", || ready() == 4);
    goes_on(&cluster, 1);

    // All of it comes back with what it knew.
    cluster.group(&["stop"], &[]).ok();
    cluster.group(&["start"], &[]).ok();
    cluster.kubectl("get configmap at-once at-last").ok();
    goes_on(&cluster, 2);
    let config = cluster.group(&["kubeconfig"], &[]).ok();
    assert_eq!(config, std::fs::read_to_string(cluster.kubeconfig()).expect("it is written"));
}
