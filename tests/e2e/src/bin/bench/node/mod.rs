//! The node's figures (`cargo xtask bench node`), on the embedded runtime and, with the same agent and the same pods, on
//! Debian's containerd and runc.
//!
//! Each part tells its figures as soon as it has them. One that fails, or takes longer than any should, is told in its
//! place, and the others are measured all the same. `SKIFF_BENCH_PEER=no` leaves containerd out, `SKIFF_BENCH_SHARE=10`
//! makes everything ten times smaller.

mod images;
mod logs;
mod many;
mod size;
mod start;

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::hello_image;
use skiff_e2e::containerd::Containerd;

use crate::attempt::{Scratch, attempt, line};
use crate::proxy::Proxy;
use size::Size;

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
/// A part that takes longer is given up, and its node with it.
const PART_LIMIT: Duration = Duration::from_secs(300);
/// After this time no further part is begun.
const TIME_LIMIT: Duration = Duration::from_secs(840);

/// A part of the figures.
pub struct Part {
    /// What it can be asked for by.
    pub name: &'static str,
    title: &'static str,
    measure: fn(&Node<'_>),
}

/// All parts; `node` is all of them.
pub const PARTS: [Part; 11] = [
    Part { name: "node-start", title: "one pod", measure: start::one_pod },
    Part { name: "node-start", title: "some pods at once", measure: |node| start::burst(node, 0) },
    Part { name: "node-start", title: "many pods at once", measure: |node| start::burst(node, 1) },
    Part { name: "node-start", title: "exec", measure: start::exec },
    Part { name: "node-many", title: "idle pods", measure: many::few },
    Part { name: "node-many", title: "idle pods with probes", measure: many::probed },
    Part { name: "node-many", title: "as many idle pods as a node is to hold", measure: many::held },
    Part { name: "node-logs", title: "log of one container", measure: logs::measure },
    Part { name: "node-images", title: "the disk", measure: images::disk },
    Part { name: "node-images", title: "a layer packed by gzip", measure: |node| images::import(node, "gzip") },
    Part { name: "node-images", title: "a layer packed by zstd", measure: |node| images::import(node, "zstd") },
];

/// A running node and the runtime behind it.
pub struct Node<'a> {
    runtime: &'static str,
    cluster: &'a Cluster,
    proxy: Proxy,
    containerd: Option<&'a Containerd>,
    size: Size,
    /// For files that both runtimes are given.
    folder: &'a Path,
    begun: Instant,
    lost: Cell<bool>,
}

impl Node<'_> {
    fn line(&self, figure: &str, text: &str) {
        line(figure, self.runtime, text);
    }

    /// Whether the runtime is skiff's own.
    fn is_embedded(&self) -> bool {
        self.containerd.is_none()
    }

    /// Measures one part, and tells what it fails with.
    fn attempt(&self, part: &Part) {
        if self.lost.get() {
            return self.line(part.title, "left out: its node was given up");
        }
        if self.begun.elapsed() > TIME_LIMIT {
            return self.line(part.title, "left out: the time is over");
        }
        let (ended, wait) = channel::<()>();
        let given_up = AtomicBool::new(false);
        let (cluster, told) = (self.cluster, &given_up);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(move || {
                if wait.recv_timeout(PART_LIMIT) == Err(RecvTimeoutError::Timeout) {
                    told.store(true, Ordering::SeqCst);
                    // Whoever waits for the node learns that it is gone.
                    cluster.skiff(&["delete"]);
                }
            });
            let outcome = attempt(|| (part.measure)(self));
            drop(ended);
            outcome
        });
        self.lost.set(given_up.into_inner());
        let Err(said) = outcome else { return };
        if self.lost.get() {
            return self.line(part.title, &format!("given up after {} s", PART_LIMIT.as_secs()));
        }
        self.line(part.title, &format!("failed: {said}"));
        // The next part begins with an empty node.
        if let Err(said) = attempt(|| self.proxy.delete_pods()) {
            self.line("what a failed part left", &format!("stays: {said}"));
        }
    }
}

/// Measures the parts that are wanted.
pub fn node(parts: &[Part]) {
    println!("\n| figure | runtime | measured |\n|---|---|---|");
    let scratch = Scratch::new();
    let begun = Instant::now();
    let on = |runtime: &'static str, measure: &dyn Fn()| {
        if let Err(said) = attempt(measure) {
            line("a node", runtime, &format!("failed: {said}"));
        }
        line("all of this", runtime, &format!("over {:.0} s after the beginning", begun.elapsed().as_secs_f64()));
    };
    on("embedded", &|| {
        let cluster = embedded();
        let (proxy, size) = (Proxy::start(&cluster), Size::of_embedded());
        let node = Node {
            runtime: "embedded",
            cluster: &cluster,
            proxy,
            containerd: None,
            size,
            folder: scratch.path(),
            begun,
            lost: Cell::new(false),
        };
        parts.iter().for_each(|part| node.attempt(part));
    });
    if std::env::var(PEER).is_ok_and(|wanted| wanted == "no") {
        return;
    }
    on("containerd + runc", &|| {
        let (cluster, containerd) = Containerd::cluster_with("bench-peer", SETTINGS, &MASK);
        let (proxy, size) = (Proxy::start(&cluster), Size::of_peer());
        let node = Node {
            runtime: "containerd + runc",
            cluster: &cluster,
            proxy,
            containerd: Some(&containerd),
            size,
            folder: scratch.path(),
            begun,
            lost: Cell::new(false),
        };
        parts.iter().for_each(|part| node.attempt(part));
    });
}

/// A node with the runtime of its own, and the test image in it.
fn embedded() -> Cluster {
    let cluster = Cluster::empty("bench-node");
    let settings = cluster.folder().join("settings.yaml");
    std::fs::write(&settings, SETTINGS).expect("a writable folder");
    let settings = settings.display().to_string();
    cluster.skiff(&["up", "--kubelet-config", &settings, MASK[0], MASK[1]]).ok();
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).expect("a writable folder");
    cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
    cluster
}

/// Pods that only differ in their number.
fn pods(prefix: &str, count: usize) -> Vec<Value> {
    (0..count).map(|index| crate::pod(&format!("{prefix}-{index}"))).collect()
}
