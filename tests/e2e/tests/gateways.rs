//! Gateways on a node: real pods behind them, and real kubectl in front, also with definitions of another release.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, http_get};

/// The shares that the tracks of the shop get, in percent.
const TRACKS: [(&str, usize); 3] = [("old", 10), ("canary", 10), ("main", 80)];
/// Any hundred requests are shared exactly.
const REQUESTS: usize = 100;

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: skiff
  listeners: [{name: http, port: 8088, protocol: HTTP}]
";

fn track(name: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{track: {name}}}}}
spec:
  containers:
  - name: web
    image: localhost:5000/hello:v1
    readinessProbe: {{httpGet: {{path: /readyz, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{track: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
    )
}

fn route() -> String {
    let backends = TRACKS.map(|(name, weight)| format!("{{name: {name}, port: 80, weight: {weight}}}"));
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop}}
spec:
  parentRefs: [{{name: shop}}]
  rules: [{{backendRefs: [{}]}}]
",
        backends.join(", ")
    )
}

#[test]
fn gateways() {
    let cluster = Cluster::up("gateways");
    eventually("the first class is accepted", || {
        cluster.kubectl("get gatewayclass skiff --no-headers").stdout.split_whitespace().nth(2) == Some("True")
    });
    let tracks = TRACKS.map(|(name, _)| track(name)).concat();
    cluster.create(&(GATEWAY.to_owned() + &tracks + &route()));
    cluster.kubectl("wait gateway/shop --for=condition=Programmed --timeout=120s").ok();
    for (name, _) in TRACKS {
        cluster.ready(name);
    }
    let gateway = cluster.get("gateway/shop");
    let address = gateway["status"]["addresses"][0]["value"].as_str().unwrap().to_owned();
    requests_are_shared_by_weight(&format!("{address}:8088"));
    a_wrong_route_is_refused(&cluster);
    another_release_can_be_applied(&cluster);
}

fn requests_are_shared_by_weight(address: &str) {
    for (name, _) in TRACKS {
        eventually("each track is reached", || http_get(address, "/").is_ok_and(|text| text.contains(&from(name))));
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    for _ in 0..REQUESTS {
        let text = http_get(address, "/").unwrap();
        let (name, _) = TRACKS.into_iter().find(|(name, _)| text.contains(&from(name))).unwrap();
        *counts.entry(name).or_default() += 1;
    }
    assert_eq!(counts, TRACKS.into());
}

/// What a pod says of itself.
fn from(name: &str) -> String {
    format!("from {name}")
}

fn a_wrong_route_is_refused(cluster: &Cluster) {
    let wrong = route().replace("rules: [{", "rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}], ");
    let answer = cluster.kubectl_with("apply -f -", &wrong);
    let words = "RequestRedirect filter must not be used together with backendRefs";
    assert!(answer.code != 0 && answer.stderr.contains(words), "{answer:?}");
}

/// Somebody brings the definitions of another release: nothing is in his way, and they stay.
fn another_release_can_be_applied(cluster: &Cluster) {
    const NAME: &str = "httproutes.gateway.networking.k8s.io";
    let told = |cluster: &Cluster| {
        let found = cluster.get(&format!("crd {NAME}"));
        found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"].clone()
    };
    let own = cluster.get(&format!("crd {NAME}"));
    let mut spec = own["spec"].clone();
    for version in spec["versions"].as_array_mut().unwrap() {
        version["schema"]["openAPIV3Schema"]["description"] = Value::from("of another release");
    }
    let mut annotations = own["metadata"]["annotations"].clone();
    annotations.as_object_mut().unwrap().retain(|name, _| name == "api-approved.kubernetes.io");
    annotations["gateway.networking.k8s.io/bundle-version"] = Value::from("v1.4.0");
    let theirs = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": NAME, "annotations": annotations }, "spec": spec });
    cluster.kubectl_with("apply --server-side -f -", &theirs.to_string()).ok();
    assert_eq!(told(cluster), "of another release");
    cluster.kubectl_with("apply -f -", &theirs.to_string()).ok();
    cluster.skiff(&["down"]).ok();
    cluster.skiff(&["up"]).ok();
    assert_eq!(told(cluster), "of another release");
    cluster.kubectl("get httproute shop").ok();
}
