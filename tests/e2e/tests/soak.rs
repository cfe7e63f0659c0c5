//! Restarts under steady load: all pods of a web server are replaced again and again, while clients ask for it by its
//! Service's address from a pod, by a port of the nodes, and through an Ingress. No request fails.
//!
//! `cargo xtask test soak` goes on for ten minutes instead of the usual seconds (`SKIFF_SOAK_SECONDS`).
#![allow(clippy::disallowed_methods, reason = "a whole node lives in real time")]

use std::time::{Duration, Instant};

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, http_get};
use skiff_e2e::rolling::{Hammer, web};

const USUAL_SECONDS: u64 = 25;
const REPLICAS: usize = 4;
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(5);
/// To the port of all nodes in turn, and to the server's Ingress.
const PORTS: [&str; 4] = ["--port", "127.0.0.1::30080@loadbalancer", "--port", "127.0.0.1::80@server:0"];

const SERVED: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}
---
";

/// A pod that asks the Service until it is told to stop, and says what failed.
const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: client
    image: localhost:5000/hello:v1
    command: [sh, -c]
    args:
    - |
      asked=0
      while [ ! -e /tmp/stop ]; do
        timeout 5 wget -q -O /dev/null http://$WEB_SERVICE_HOST/ || echo request $asked failed
        asked=$((asked + 1))
        sleep 0.01
      done
      echo asked $asked times
      sleep 100000
";

#[test]
fn no_request_fails_while_all_pods_are_replaced() {
    let seconds = std::env::var("SKIFF_SOAK_SECONDS")
        .map_or(USUAL_SECONDS, |text| text.parse().expect("SKIFF_SOAK_SECONDS is a number"));
    let cluster = Cluster::several_with("soak", 1, &PORTS, |_| {});
    cluster.create(&(web(REPLICAS) + SERVED));
    cluster.rollout("web");
    let places = cluster.machine_ports();
    let [node_port, ingress] = places.as_slice() else { panic!("two ports: {places:?}") };
    for place in [node_port, ingress] {
        eventually("the pods are reached", || http_get(place, "/").is_ok());
    }
    cluster.create(CLIENT);
    cluster.ready("client");
    let clients = [
        ("node port", Hammer::steady(node_port.clone(), PAUSE)),
        ("Ingress", Hammer::steady(ingress.clone(), PAUSE)),
        ("Ingress, one connection", Hammer::on_one_connection(ingress.clone(), PAUSE)),
    ];
    let restarts = restart_for(&cluster, Duration::from_secs(seconds));
    println!("{restarts} restarts of {REPLICAS} pods in {seconds} s");
    let mut faults = Vec::new();
    for (what, client) in clients {
        let (asked, failed) = client.end();
        println!("{what}: {asked} requests, {} failed", failed.len());
        assert!(asked > 100, "{what}: {asked}");
        faults.extend(failed.into_iter().map(|text| format!("{what}: {text}")));
    }
    let said = what_the_pod_says(&cluster);
    println!("Service: {}", said.last().expect("the pod told how often it asked"));
    faults.extend(said.iter().filter(|line| line.contains("failed")).map(|line| format!("Service: {line}")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(restarts >= 2, "{restarts} restarts");
}

/// Restarts the Deployment again and again; how often.
fn restart_for(cluster: &Cluster, time: Duration) -> usize {
    let begun = Instant::now();
    let mut restarts = 0;
    while begun.elapsed() < time {
        // It is refused within the second of the last one.
        eventually("the pods are replaced", || cluster.kubectl("rollout restart deployment/web").code == 0);
        cluster.rollout("web");
        restarts += 1;
    }
    // What is still under way when the last one is done counts as well.
    let count = || cluster.kubectl("get pods -l app=web -o name").ok().lines().count();
    eventually("the old pods are gone", || count() == REPLICAS);
    restarts
}

/// All that the client in the pod said, when it has ended.
fn what_the_pod_says(cluster: &Cluster) -> Vec<String> {
    cluster.sh("client", "touch /tmp/stop").ok();
    let mut lines = Vec::new();
    eventually("the pod has stopped to ask", || {
        lines = cluster.kubectl("logs client").ok().lines().map(str::to_owned).collect::<Vec<_>>();
        lines.last().is_some_and(|line| line.starts_with("asked "))
    });
    lines
}
