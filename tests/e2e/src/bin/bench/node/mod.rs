//! The node's figures (`cargo xtask bench node`), on the embedded runtime and, with the same agent and the same pods, on
//! Debian's containerd and runc.

mod images;
mod logs;
mod many;
mod start;

use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::hello_image;
use skiff_e2e::containerd::Containerd;

use crate::proxy::Proxy;

/// Room for all pods, and logs that are counted as a whole.
const SETTINGS: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 1010
containerLogMaxSize: 4Gi
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 100Mi, imagefs.available: 100Mi}
";
/// Addresses for all pods.
const MASK: [&str; 2] = ["--node-cidr-mask-size", "21"];
/// Set to `no`, it leaves containerd out.
const PEER: &str = "SKIFF_BENCH_PEER";

/// A part of the figures.
pub type Part = fn(&Node<'_>);
/// The parts and their names; `node` is all of them.
pub const PARTS: [(&str, Part); 4] = [
    ("node-start", start::measure),
    ("node-many", many::measure),
    ("node-logs", logs::measure),
    ("node-images", images::measure),
];

/// A running node and the runtime behind it.
pub struct Node<'a> {
    runtime: &'static str,
    cluster: &'a Cluster,
    proxy: Proxy,
    containerd: Option<&'a Containerd>,
}

impl Node<'_> {
    fn line(&self, figure: &str, text: &str) {
        println!("| {figure} | {} | {text} |", self.runtime);
    }

    /// Whether the runtime is skiff's own.
    fn is_embedded(&self) -> bool {
        self.containerd.is_none()
    }
}

/// Measures the parts that are wanted.
pub fn node(parts: &[Part]) {
    println!("\n| figure | runtime | measured |\n|---|---|---|");
    {
        let cluster = Cluster::empty("bench-node");
        let settings = cluster.folder().join("settings.yaml");
        std::fs::write(&settings, SETTINGS).expect("a writable folder");
        let settings = settings.display().to_string();
        cluster.skiff(&["up", "--kubelet-config", &settings, MASK[0], MASK[1]]).ok();
        let image = cluster.folder().join("hello.tar");
        hello_image("v1").save("localhost:5000/hello:v1", &image).expect("a writable folder");
        cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
        let proxy = Proxy::start(&cluster);
        let node = Node { runtime: "embedded", cluster: &cluster, proxy, containerd: None };
        parts.iter().for_each(|measure| measure(&node));
    }
    if std::env::var(PEER).is_ok_and(|wanted| wanted == "no") {
        return;
    }
    let (cluster, containerd) = Containerd::cluster_with("bench-peer", SETTINGS, &MASK);
    let proxy = Proxy::start(&cluster);
    let node = Node { runtime: "containerd + runc", cluster: &cluster, proxy, containerd: Some(&containerd) };
    parts.iter().for_each(|measure| measure(&node));
}

/// Pods that only differ in their number.
fn pods(prefix: &str, count: usize) -> Vec<Value> {
    (0..count).map(|index| crate::pod(&format!("{prefix}-{index}"))).collect()
}
