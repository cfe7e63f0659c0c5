//! How many pods a second the scheduler places by itself: changes go in, decisions come out, no API server between.
//! A pod's whole way is counted: it comes, is decided, and is seen bound. Processor time counts, not the clock, so that
//! what else runs on the machine does not.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skiff_client::Change;
use skiff_scheduler::{Config, Core, Placement, Step};

/// A line of the table: what is measured, and how many a second there should be.
struct Line {
    name: &'static str,
    target: f64,
    measure: fn() -> f64,
}

const LINES: &[Line] = &[
    Line { name: "5,000 nodes, 50,000 basic pods", target: 15_000.0, measure: basic },
    Line { name: "required anti-affinity (hosts), 5,000 nodes", target: 5_000.0, measure: anti_affinity },
    Line { name: "required affinity (zone), 5,000 nodes", target: 5_000.0, measure: affinity },
    Line { name: "topology spread (zones), 5,000 nodes", target: 8_000.0, measure: spread },
    Line { name: "topology spread (hosts), 5,000 nodes", target: 8_000.0, measure: spread_hosts },
    Line { name: "pods all different, 5,000 nodes", target: 0.0, measure: different },
    Line { name: "preemption, 5,000 full nodes", target: 3_000.0, measure: preemption },
];

/// The basic pods of one ReplicaSet at different sizes of the cluster.
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    println!("{:<48} {:>12} {:>10}", "scheduler alone", "pods/s", "target");
    for line in LINES.iter().filter(|line| wants(line.name)) {
        println!("{:<48} {:>12.0} {:>10.0}", line.name, (line.measure)(), line.target);
    }
    if wants("growth") {
        let costs = SIZES.map(|nodes| 1e6 / steady(nodes));
        for (nodes, cost) in SIZES.iter().zip(costs) {
            println!("{:<48} {cost:>10.1}us", format!("one decision among {nodes} nodes"));
        }
    }
}

fn basic() -> f64 {
    let mut cluster = Cluster::of(5_000);
    cluster.place(50_000, |_| requests("100m", "100Mi", 0))
}

fn anti_affinity() -> f64 {
    let mut cluster = Cluster::of(5_000);
    let terms =
        json!([{"labelSelector": {"matchLabels": {"color": "green"}}, "topologyKey": "kubernetes.io/hostname"}]);
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    cluster.place(5_000, |_| with(requests("100m", "100Mi", 0), "affinity", affinity.clone()))
}

fn affinity() -> f64 {
    let mut cluster = Cluster::of(5_000);
    let terms =
        json!([{"labelSelector": {"matchLabels": {"color": "green"}}, "topologyKey": "topology.kubernetes.io/region"}]);
    let affinity = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    cluster.place(10_000, |_| with(requests("100m", "100Mi", 0), "affinity", affinity.clone()))
}

fn spread() -> f64 {
    let mut cluster = Cluster::of(5_000);
    cluster.place(10_000, |_| spread_over("topology.kubernetes.io/zone", 5))
}

fn spread_hosts() -> f64 {
    let mut cluster = Cluster::of(5_000);
    cluster.place(10_000, |_| spread_over("kubernetes.io/hostname", 1))
}

fn spread_over(key: &str, max_skew: i32) -> Value {
    let constraint = json!([{
        "maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"color": "green"}},
    }]);
    with(requests("100m", "100Mi", 0), "topologySpreadConstraints", constraint)
}

fn different() -> f64 {
    let mut cluster = Cluster::of(5_000);
    cluster.place(5_000, |at| requests(&format!("{}m", 100 + at % 3000), "100Mi", 0))
}

fn preemption() -> f64 {
    let mut cluster = Cluster::of(5_000);
    cluster.place(20_000, |_| requests("900m", "500Mi", 0));
    cluster.place(5_000, |_| requests("3", "500Mi", 10))
}

/// Pods a second, after the first ones have been placed.
fn steady(nodes: usize) -> f64 {
    let mut cluster = Cluster::of(nodes);
    cluster.place(10, |_| requests("100m", "100Mi", 0));
    cluster.place(10_000, |_| requests("100m", "100Mi", 0))
}

/// What this process has used.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("the kernel tells it");
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number"))
}

fn requests(cpu: &str, memory: &str, priority: i32) -> Value {
    let requests = json!({"cpu": cpu, "memory": memory});
    json!({
        "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.9", "resources": {"requests": requests}}],
        "priority": priority,
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        ],
    })
}

fn with(mut spec: Value, key: &str, value: Value) -> Value {
    spec[key] = value;
    spec
}

struct Cluster {
    core: Core,
    made: usize,
    now: Duration,
    placed: std::collections::HashMap<String, Arc<Pod>>,
}

impl Cluster {
    fn of(nodes: usize) -> Self {
        let mut core = Core::new(Config::default());
        for at in 0..nodes {
            let node = json!({
                "metadata": {"name": format!("node-{at}"), "labels": {
                    "kubernetes.io/hostname": format!("node-{at}"),
                    "topology.kubernetes.io/zone": format!("zone-{}", at % 3),
                    "topology.kubernetes.io/region": "region",
                }},
                "spec": {},
                "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
            });
            let node: Node = serde_json::from_value(node).expect("a node");
            core.node_changed(&Change::Added(Arc::new(node)), Duration::ZERO);
        }
        Self { core, made: 0, now: Duration::from_secs(1), placed: Default::default() }
    }

    /// Pods that come.
    fn pods(&mut self, count: usize, spec: impl Fn(usize) -> Value) -> Vec<Arc<Pod>> {
        let make = |at| {
            let made = self.made + at;
            let uid = format!("0b4c7e8a-0000-4000-8000-{made:012}");
            let name = format!("pod-{made}");
            let meta = json!({"name": name, "namespace": "bench", "uid": uid, "labels": {"color": "green"}});
            Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec(at)})).expect("a pod"))
        };
        let pods = (0..count).map(make).collect();
        self.made += count;
        pods
    }

    /// How many pods a second are placed, whom the scheduler names being evicted at once.
    fn place(&mut self, count: usize, spec: impl Fn(usize) -> Value) -> f64 {
        let pods = self.pods(count, spec);
        let before = processor_time();
        for pod in pods {
            self.core.pod_changed(&Change::Added(pod), self.now);
        }
        let mut bound = 0;
        while bound < count {
            match self.core.step(self.now) {
                Step::Bind(Placement { pod, node, .. }) => {
                    let mut new = Pod::clone(&pod.pod);
                    new.spec.get_or_insert_default().node_name = Some(node);
                    let new = Arc::new(new);
                    self.placed.insert(pod.uid.clone(), new.clone());
                    self.core.pod_changed(&Change::Updated { old: pod.pod.clone(), new }, self.now);
                    bound += 1;
                }
                Step::Unschedulable { victims, message, .. } => {
                    assert!(!victims.is_empty(), "{message}");
                    for victim in victims {
                        let gone = self.placed.remove(&victim.uid).expect("victims were placed");
                        self.core.pod_changed(&Change::Deleted(gone), self.now);
                    }
                }
                Step::Consult(_) | Step::ConsultRooms(_) | Step::Failed { .. } => {
                    unreachable!("there are no extenders")
                }
                Step::Group(_) | Step::Held { .. } => unreachable!("there are no groups"),
                Step::Idle { until } => self.now = until.expect("a pod waits for its back-off"),
            }
        }
        count as f64 / (processor_time() - before).as_secs_f64()
    }
}
