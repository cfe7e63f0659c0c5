//! Short forms of pods and nodes for the tests of this crate.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShortPod {
    name: String,
    #[serde(default)]
    node: String,
    #[serde(default)]
    cpu: String,
    #[serde(default)]
    memory: String,
    #[serde(default)]
    port: i32,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    labels: Value,
    #[serde(default)]
    gates: Vec<String>,
    #[serde(default)]
    spec: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShortNode {
    name: String,
    #[serde(default = "four")]
    cpu: String,
    #[serde(default = "four_gi")]
    memory: String,
    #[serde(default)]
    pods: Option<i64>,
    #[serde(default)]
    labels: Value,
    #[serde(default)]
    images: Value,
    #[serde(default)]
    spec: Value,
}

fn four() -> String {
    "4".into()
}

fn four_gi() -> String {
    "4Gi".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    nodes: Vec<ShortNode>,
    #[serde(default)]
    pods: Vec<ShortPod>,
    #[serde(default)]
    claims: Vec<Value>,
    #[serde(default)]
    volumes: Vec<Value>,
    #[serde(default)]
    classes: Vec<Value>,
    pod: ShortPod,
}

/// A pod from its short form; its UID is its name.
pub fn pod(yaml: &str) -> Arc<PodInfo> {
    serde_saphyr::from_str::<ShortPod>(yaml).expect(yaml).info()
}

/// A cluster and the pod that is to be placed.
pub fn cluster(yaml: &str) -> (Snapshot, Arc<PodInfo>) {
    let cluster: Cluster = serde_saphyr::from_str(yaml).expect(yaml);
    let mut snapshot = Snapshot::default();
    snapshot.set_namespace("default".into(), Some(Default::default()));
    for node in cluster.nodes {
        snapshot.set_node(node.node());
    }
    for pod in cluster.pods {
        let node = pod.node.clone();
        snapshot.set_pod(pod.info(), &node);
    }
    for claim in cluster.claims {
        let name = claim["metadata"]["name"].as_str().expect("a name").to_owned();
        let claim = serde_json::from_value(claim).expect("a claim");
        snapshot.storage.claims.insert(("default".into(), name), Arc::new(claim));
    }
    for volume in cluster.volumes {
        let name = volume["metadata"]["name"].as_str().expect("a name").to_owned();
        snapshot.storage.volumes.insert(name, Arc::new(serde_json::from_value(volume).expect("a volume")));
    }
    for class in cluster.classes {
        let name = class["metadata"]["name"].as_str().expect("a name").to_owned();
        snapshot.storage.classes.insert(name, Arc::new(serde_json::from_value(class).expect("a class")));
    }
    (snapshot, cluster.pod.info())
}

impl ShortPod {
    fn info(self) -> Arc<PodInfo> {
        let mut requests = json!({});
        for (name, amount) in [("cpu", self.cpu), ("memory", self.memory)] {
            if !amount.is_empty() {
                requests[name] = json!(amount);
            }
        }
        let ports = if self.port > 0 { json!([{"containerPort": 80, "hostPort": self.port}]) } else { json!([]) };
        let mut spec = json!({
            "containers": [{"name": "c", "image": "app:v1", "resources": {"requests": requests}, "ports": ports}],
            "priority": self.priority,
            "schedulingGates": self.gates.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
        });
        if !self.node.is_empty() {
            spec["nodeName"] = json!(self.node);
        }
        merge(&mut spec, self.spec);
        let pod = json!({
            "metadata": {"name": self.name, "namespace": "default", "uid": self.name, "labels": self.labels},
            "spec": spec,
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        Arc::new(PodInfo::new(Arc::new(pod)))
    }
}

impl ShortNode {
    fn node(self) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": self.name, "labels": self.labels},
            "spec": self.spec,
            "status": {
                "allocatable": {
                    "cpu": self.cpu, "memory": self.memory, "pods": self.pods.unwrap_or(110).to_string(),
                },
                "images": self.images,
            },
        });
        Arc::new(serde_json::from_value::<Node>(node).expect("a node"))
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
