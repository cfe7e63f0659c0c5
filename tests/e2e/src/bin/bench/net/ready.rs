//! How soon the rules of every node follow an endpoint that becomes ready.

use serde_json::{Value, json};
use skiff_e2e::Cluster;

use super::api::Api;
use super::inside::time_of_day;
use super::place::{LOAD_CORE, Place, SERVER_CORE, Talker};
use super::{number, waiting_pod};
use crate::attempt::line;
use crate::percentile;
use crate::proxy::Proxy;

const AGENTS: usize = 2;
const CHANGES: usize = 100;

/// A pod that is ready when it is said so, and a Service whose endpoints nobody but this test tells.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: gated}
spec: {selector: {app: gated}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: told}
spec: {ports: [{port: 80, targetPort: 8080}]}
";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/told";

/// On a server and two agents.
pub fn measure(share: u32) {
    let cluster = Cluster::several("bench-ready", AGENTS);
    cluster.create(SERVICES);
    let agent = cluster.agent(0);
    let fields = json!({"nodeName": agent, "readinessGates": [{"conditionType": "bench.example/open"}]});
    let address = waiting_pod(&cluster, "gated", fields);
    let _server = place_of_pod(&cluster).start(SERVER_CORE, &["serve", "0.0.0.0:8080"]);
    cluster.create(
        &json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "told", "labels": {"kubernetes.io/service-name": "told"}},
            "ports": [{"port": 8080}], "endpoints": [{"addresses": [address], "conditions": {"ready": false}}],
        })
        .to_string(),
    );
    let proxy = Proxy::start(&cluster);
    let mut api = Api::open(proxy.address());
    let changes = CHANGES.div_ceil(share as usize);

    let told = follow(&cluster, "told", changes, |ready| {
        let body = json!({"endpoints": [{"addresses": [address], "conditions": {"ready": ready}}]}).to_string();
        api.request("PATCH", SLICE, &body);
    });
    tell("an endpoint's EndpointSlice is written until the rules of all 3 nodes lead to it", &told);
    let gated = follow(&cluster, "gated", changes, |ready| {
        let status = if ready { "True" } else { "False" };
        let condition: Value = json!({"type": "bench.example/open", "status": status});
        let body = json!({"status": {"conditions": [condition]}}).to_string();
        api.request("PATCH", "/api/v1/namespaces/default/pods/gated/status", &body);
    });
    tell("a pod's last readiness gate opens until the rules of all 3 nodes lead to it", &gated);
}

/// The pod runs on the agent, whose processes are seen here as all others are.
fn place_of_pod(cluster: &Cluster) -> Place {
    Place::of_pod(cluster, "gated")
}

/// Lets the Service's only endpoint come and go: milliseconds from each coming until the last node leads to it.
fn follow(cluster: &Cluster, service: &str, changes: usize, mut change: impl FnMut(bool)) -> Vec<f64> {
    let service = cluster.get(&format!("svc {service}"))["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let names = std::iter::once(cluster.name.clone()).chain((0..AGENTS).map(|number| cluster.agent(number)));
    let address = format!("{service}:80");
    let watch = |name: String| Place::of_node(cluster, &name).start(LOAD_CORE, &["watch", &address]);
    let mut nodes: Vec<Talker> = names.map(watch).collect();
    let mut times = Vec::new();
    for _ in 0..changes {
        nodes.iter_mut().for_each(|node| node.say("up"));
        let begun = time_of_day();
        change(true);
        let seen = nodes.iter_mut().map(|node| number(&node.hear(), "at") as u64).max().unwrap_or(begun);
        times.push(seen.saturating_sub(begun) as f64 / 1e6);
        nodes.iter_mut().for_each(|node| node.say("down"));
        change(false);
        nodes.iter_mut().for_each(|node| drop(node.hear()));
    }
    times
}

fn tell(figure: &str, times: &[f64]) {
    let at = |share: f64| percentile(times, share);
    let text =
        format!("{:.1} / {:.1} ms ({:.1} to {:.1}, {} changes)", at(0.5), at(0.99), at(0.0), at(1.0), times.len());
    line(&format!("{figure}, p50 / p99"), "nodes", &text);
}
