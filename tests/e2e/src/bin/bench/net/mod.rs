//! The network's figures (`cargo xtask bench net`): service rules at size, what a Service's address costs, how soon rules
//! follow endpoints, how soon three servers go on without one, Ingress beside nginx, the DNS beside unbound.
//!
//! Each part has nodes of its own and tells its figures as soon as it has them; one that fails is told in its place. What is
//! compared is measured in turns, with the same load. Servers have one core, loads and what is behind a proxy the other.
//! `SKIFF_BENCH_SHARE=10` makes everything ten times smaller.

mod api;
mod dns;
mod inside;
mod load;
mod peers;
mod place;
mod proxies;
mod ready;
mod servers;
mod services;
mod traffic;

use std::time::Instant;

use serde_json::{Value, json};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::hello_image;

use crate::attempt::{attempt, line, share};
use crate::percentile;

pub use inside::{INSIDE, run as inside};

/// A part of the figures.
pub struct Part {
    /// What it can be asked for by.
    pub name: &'static str,
    measure: fn(u32),
}

/// All parts; `net` is all of them.
pub const PARTS: [Part; 6] = [
    Part { name: "net-services", measure: services::measure },
    Part { name: "net-traffic", measure: traffic::measure },
    Part { name: "net-ready", measure: ready::measure },
    Part { name: "net-servers", measure: servers::measure },
    Part { name: "net-ingress", measure: proxies::ingress },
    Part { name: "net-dns", measure: proxies::dns },
];

/// Measures the parts that are wanted.
pub fn net(parts: &[Part]) {
    println!("\n| figure | of | measured |\n|---|---|---|");
    for part in parts {
        let begun = Instant::now();
        if let Err(said) = attempt(|| (part.measure)(share())) {
            line(part.name, "-", &format!("failed: {said}"));
        }
        line(part.name, "all of this", &format!("over after {:.0} s", begun.elapsed().as_secs_f64()));
    }
}

/// A node with the test image in it.
fn node(purpose: &str) -> Cluster {
    let cluster = Cluster::up_without_images(purpose);
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).expect("a writable folder");
    cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
    cluster
}

/// Makes a pod that only waits, and waits until it is Ready: others run programs in its network.
fn waiting_pod(cluster: &Cluster, name: &str, fields: Value) -> String {
    let mut pod = crate::pod(name);
    pod["metadata"]["labels"] = json!({"app": name});
    for (field, value) in fields.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    cluster.create(&pod.to_string());
    if pod["spec"]["readinessGates"].is_null() {
        cluster.ready(name);
    } else {
        cluster.kubectl(&format!("wait --for=condition=ContainersReady pod/{name} --timeout=60s")).ok();
    }
    let pod = cluster.get(&format!("pod {name}"));
    pod["status"]["podIP"].as_str().expect("a pod that runs has an address").to_owned()
}

/// The middle of some figures.
fn middle(figures: &[f64]) -> f64 {
    percentile(figures, 0.5)
}

/// A number that a load measured.
fn number(measured: &Value, name: &str) -> f64 {
    measured[name].as_f64().unwrap_or_else(|| panic!("{name} in {measured}"))
}

/// Figures of two that were measured in turns, and the middle of the pairs' ratios.
fn compare(figure: &str, unit: &str, ours: (&str, &[f64]), theirs: (&str, &[f64])) {
    for (who, figures) in [ours, theirs] {
        let (least, most) = (percentile(figures, 0.0), percentile(figures, 1.0));
        line(figure, who, &format!("{:.0} {unit} ({least:.0} to {most:.0})", middle(figures)));
    }
    let ratios: Vec<f64> = ours.1.iter().zip(theirs.1).map(|(ours, theirs)| ours / theirs).collect();
    line(
        figure,
        "ratio",
        &format!("{:.2} ({:.2} to {:.2})", middle(&ratios), percentile(&ratios, 0.0), percentile(&ratios, 1.0)),
    );
}
