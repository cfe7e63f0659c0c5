//! Pods by the thousand through the API of a control plane alone, on simulated nodes: `churn FOLDER [FIGURE...]` with the
//! program in `SKIFF_BIN`. The figures are `bound`, `started`, `deployment` and `held`; with `SKIFF_BENCH_SHARE=10` all is
//! a tenth of its size, for a first look. With the folder of upstream's programs in `SKIFF_UPSTREAM` all but `held` are
//! taken of its control plane as well, in turns. Everything shares the machine's cores; CPU time is told beside the rates,
//! because it says more where other work shares them, too. Every part has a time limit, and tells how far it came. Prints
//! Markdown.
#![allow(clippy::disallowed_methods, reason = "a measurement starts programs")]

mod cluster;
mod control;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde::de::IgnoredAny;
use serde_json::json;
use skiff_client::{DeleteOptions, Resource};

use cluster::{Cluster, IN_FLIGHT, LATER, NAMESPACE, Placed, spec};
use control::Whose;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const DEPLOYMENTS: Resource = Resource::fixed("apps", "v1", "deployments", "Deployment");
/// How long a few thousand Pods may take to get nodes, and how long those of a large cluster. Whatever is not done by then
/// is told as far as it came.
const PLACING: Duration = Duration::from_secs(120);
const FILLING: Duration = Duration::from_secs(900);
/// How long the quiet cluster is watched for what it costs.
const QUIET: Duration = Duration::from_secs(30);
/// The figures of placing Pods: what one is asked for by, whose start is part of it, and how it is told.
const STARTS: [(&str, &str, &str); 2] = [("bound", LATER, "Pods start later"), ("started", "0s", "Pods start at once")];

/// The rates of one control plane, under the figures' names.
type Rates = BTreeMap<&'static str, f64>;

fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let wanted: Vec<String> = arguments.collect();
    let share: usize = std::env::var("SKIFF_BENCH_SHARE").map_or(Ok(1), |text| text.parse())?;
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    println!("| work | target | whose | seen | CPU: control plane, nodes, load generator |\n|---|---|---|---|---|");
    let mut failed = Vec::new();
    if ["bound", "started", "deployment"].into_iter().any(wants) {
        let mut seen: [Vec<Rates>; 2] = Default::default();
        for whose in Whose::turns() {
            match whose.within(async || placing(whose, &folder, share, &wants).await) {
                Ok(rates) => seen[whose as usize].push(rates),
                Err(error) => failed.push(format!("{whose}: {error}")),
            }
        }
        tell_ratios(&seen);
    }
    if wants("held") {
        let outcome = Whose::Ours.within(async || held(&folder, 5000 / share, 150_000 / share).await);
        failed.extend(outcome.err().map(|error| error.to_string()));
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
}

/// Our rates by upstream's, pair by pair.
fn tell_ratios([ours, upstreams]: &[Vec<Rates>; 2]) {
    for (name, _) in ours.first().into_iter().flatten() {
        let pairs = ours.iter().zip(upstreams);
        let ratios: Vec<_> =
            pairs.filter_map(|(own, other)| Some(format!("{:.2}", own.get(name)? / other.get(name)?))).collect();
        if !ratios.is_empty() {
            println!("| {name}: skiff's rate by upstream's | - | - | {} | - |", ratios.join(", "));
        }
    }
}

async fn placing(whose: Whose, folder: &Path, share: usize, wants: &(impl Fn(&str) -> bool + Sync)) -> Fallible<Rates> {
    let cluster = Cluster::start(whose, folder, "churn", 1000 / share).await?;
    let mut rates = Rates::new();
    for (name, delay, title) in STARTS {
        if wants(name) {
            rates.insert(name, bound(whose, &cluster, title, delay, 5000 / share).await?);
        }
    }
    if wants("deployment") {
        rates.insert("deployment", deployment(whose, &cluster, 10_000 / share).await?);
    }
    Ok(rates)
}

/// Creates Pods one by one and waits until all have a node.
async fn bound(whose: Whose, cluster: &Cluster, title: &str, delay: &str, count: usize) -> Fallible<f64> {
    let placed = cluster.place(count, PLACING, cluster.create_pods(0..count, delay)).await?;
    let created = placed.created.as_ref().map_or("-".to_owned(), |at| format!("{:.2} s", at.seconds(&placed.start)));
    println!(
        "| {count} Pods on {} nodes, {IN_FLIGHT} in flight, create to bound; {title} | 4,000/s | {whose} | {:.0}/s ({}; all created after {created}) | {} |",
        cluster.count,
        placed.rate(),
        placed.told(),
        costs(&placed)
    );
    cluster.remove_pods().await?;
    Ok(placed.rate())
}

/// Creates a Deployment and waits until all its Pods have a node.
async fn deployment(whose: Whose, cluster: &Cluster, replicas: usize) -> Fallible<f64> {
    let labels = json!({"app": "large"});
    let mut template = json!({"metadata": {"labels": labels}, "spec": spec()});
    template["metadata"]["annotations"] = json!({"sim.skiff.io/start-delay": LATER});
    let body = json!({
        "metadata": {"name": "large"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    });
    let path = DEPLOYMENTS.path(NAMESPACE);
    let create = cluster.clients[0].send_json::<IgnoredAny>(Method::POST, &path, &body);
    let placed = cluster.place(replicas, PLACING, async { Ok(create.await.map(drop)?) }).await?;
    println!(
        "| Deployment of {replicas} replicas, created to all bound | 5 s | {whose} | {} | {} |",
        placed.told(),
        costs(&placed)
    );
    let path = DEPLOYMENTS.object_path(NAMESPACE, "large", "");
    let options = DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
    cluster.clients[0].delete_path(&path, &options).await?;
    Ok(placed.rate())
}

fn costs(placed: &Placed) -> String {
    placed.end.since(&placed.start)
}

/// Fills a cluster and looks at what it costs while nothing but heartbeats happens.
async fn held(folder: &Path, nodes: usize, pods: usize) -> Fallible<()> {
    let cluster = Cluster::start(Whose::Ours, folder, "held", nodes).await?;
    let placed = cluster.place(pods, FILLING, cluster.create_pods(0..pods, "0s")).await?;
    tokio::time::sleep(QUIET).await;
    let before = cluster.mark();
    tokio::time::sleep(QUIET).await;
    let after = cluster.mark();
    let share = |time: Duration| 100.0 * time.as_secs_f64() / after.seconds(&before);
    let server: f64 = cluster.control.processes().into_iter().map(memory_gib).sum::<Fallible<f64>>()?;
    let sim = memory_gib(cluster.nodes.process())?;
    let reached = placed.count;
    println!(
        "| {nodes} nodes and {reached} Pods held, heartbeats included | 6 GB | {} | {:.2} GiB (control plane {server:.2}, nodes {sim:.2}); quiet: {:.0} % and {:.0} % of a core; filled in {} | {} |",
        Whose::Ours,
        server + sim,
        share(after.server - before.server),
        share(after.nodes - before.nodes),
        placed.told(),
        costs(&placed)
    );
    Ok(())
}

fn memory_gib(pid: u32) -> Fallible<f64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("smaps_rollup has no Pss")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / f64::from(1 << 20))
}
