//! Pods by the thousand through the API of a control plane alone, on simulated nodes: `churn FOLDER [FIGURE...]` with the
//! program in `SKIFF_BIN`. The figures are `bound`, `deployment` and `held`; with `SKIFF_BENCH_SHARE=10` all is a tenth of
//! its size, for a first look. Everything shares the machine's cores; CPU time
//! is told beside the rates, because it says more where other work shares them, too. Every part has a time limit, and
//! tells how far it came. Prints Markdown.
#![allow(clippy::disallowed_methods, reason = "a measurement starts programs")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::Method;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use skiff_base::SystemClock;
use skiff_base::clock::SharedClock;
use skiff_client::{Client, DeleteOptions, Login, ObjectList, PartialObject, Resource, WatchOptions};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PODS: Resource = Resource::fixed("", "v1", "pods", "Pod");
const DEPLOYMENTS: Resource = Resource::fixed("apps", "v1", "deployments", "Deployment");
const NODES: &str = "/api/v1/nodes";
const NAMESPACE: &str = "default";
/// Requests of the load generator under way at once.
const IN_FLIGHT: usize = 64;
/// Connections of the load generator.
const CONNECTIONS: usize = 2;
/// How long a few thousand Pods may take to get nodes, and how long those of a large cluster. Whatever is not done by then
/// is told as far as it came.
const PLACING: Duration = Duration::from_secs(120);
const FILLING: Duration = Duration::from_secs(900);
/// What else does not come true within this time has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the quiet cluster is watched for what it costs.
const QUIET: Duration = Duration::from_secs(30);
/// Long enough for a Pod's start to fall outside of what is measured.
const LATER: &str = "300s";

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let wanted: Vec<String> = arguments.collect();
    let share: usize = std::env::var("SKIFF_BENCH_SHARE").map_or(Ok(1), |text| text.parse())?;
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    println!("| work | target | here | CPU: control plane, nodes, load generator |\n|---|---|---|---|");
    let mut failed = Vec::new();
    if wants("bound") || wants("deployment") {
        failed.extend(placing(&folder, share, &wants).await.err());
    }
    if wants("held") {
        failed.extend(held(&folder, 5000 / share, 150_000 / share).await.err());
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ").into())
}

async fn placing(folder: &Path, share: usize, wants: &impl Fn(&str) -> bool) -> Fallible<()> {
    let cluster = Cluster::start(folder, "churn", 1000 / share).await?;
    if wants("bound") {
        for (title, delay) in [("Pods start later", LATER), ("Pods start at once", "0s")] {
            bound(&cluster, title, delay, 5000 / share).await?;
        }
    }
    if wants("deployment") {
        deployment(&cluster, 10_000 / share).await?;
    }
    Ok(())
}

/// Creates Pods one by one and waits until all have a node.
async fn bound(cluster: &Cluster, title: &str, delay: &str, count: usize) -> Fallible<()> {
    let placed = cluster.place(count, PLACING, cluster.create_pods(0..count, delay)).await?;
    println!(
        "| {count} Pods on {} nodes, {IN_FLIGHT} in flight, create to bound; {title} | 4,000/s | {:.0}/s ({}; all created after {}) | {} |",
        cluster.count,
        placed.rate(),
        placed.told(),
        placed.created.as_ref().map_or("-".to_owned(), |created| format!("{:.2} s", created.seconds(&placed.start))),
        placed.end.since(&placed.start)
    );
    cluster.remove_pods().await
}

/// Creates a Deployment and waits until all its Pods have a node.
async fn deployment(cluster: &Cluster, replicas: usize) -> Fallible<()> {
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
        "| Deployment of {replicas} replicas, created to all bound | 5 s | {} | {} |",
        placed.told(),
        placed.end.since(&placed.start)
    );
    let path = DEPLOYMENTS.object_path(NAMESPACE, "large", "");
    let options = DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
    cluster.clients[0].delete_path(&path, &options).await?;
    Ok(())
}

/// Fills a cluster and looks at what it costs while nothing but heartbeats happens.
async fn held(folder: &Path, nodes: usize, pods: usize) -> Fallible<()> {
    let cluster = Cluster::start(folder, "held", nodes).await?;
    let placed = cluster.place(pods, FILLING, cluster.create_pods(0..pods, "0s")).await?;
    tokio::time::sleep(QUIET).await;
    let before = cluster.mark();
    tokio::time::sleep(QUIET).await;
    let after = cluster.mark();
    let share = |time: Duration| 100.0 * time.as_secs_f64() / after.seconds(&before);
    let (server, sim) = (memory_gib(cluster.server)?, memory_gib(cluster.nodes.id())?);
    let reached = placed.count;
    println!(
        "| {nodes} nodes and {reached} Pods held, heartbeats included | 6 GB | {:.2} GiB (control plane {server:.2}, nodes {sim:.2}); quiet: {:.0} % and {:.0} % of a core; filled in {} | {} |",
        server + sim,
        share(after.server - before.server),
        share(after.nodes - before.nodes),
        placed.told(),
        placed.end.since(&placed.start)
    );
    Ok(())
}

/// How far it came with giving nodes to Pods.
struct Placed {
    start: Mark,
    /// When all had been created, where that was reached.
    created: Option<Mark>,
    end: Mark,
    count: usize,
    wanted: usize,
}

impl Placed {
    fn rate(&self) -> f64 {
        self.count as f64 / self.end.seconds(&self.start)
    }

    fn told(&self) -> String {
        let seconds = self.end.seconds(&self.start);
        if self.count >= self.wanted {
            return format!("{seconds:.2} s");
        }
        format!("given up after {seconds:.0} s with {} of {} bound", self.count, self.wanted)
    }
}

/// A control plane with simulated nodes; both are gone when this is dropped.
struct Cluster {
    name: String,
    data: PathBuf,
    server: u32,
    nodes: Child,
    /// How many nodes there are.
    count: usize,
    clients: Vec<Client>,
    clock: SharedClock,
}

/// A moment, and the CPU time that everybody had used by then.
struct Mark {
    at: Duration,
    server: Duration,
    nodes: Duration,
    load: Duration,
}

impl Mark {
    fn seconds(&self, earlier: &Self) -> f64 {
        (self.at - earlier.at).as_secs_f64()
    }

    fn since(&self, earlier: &Self) -> String {
        let seconds = |now: Duration, then: Duration| (now - then).as_secs_f64();
        format!(
            "{:.1} s, {:.1} s, {:.1} s",
            seconds(self.server, earlier.server),
            seconds(self.nodes, earlier.nodes),
            seconds(self.load, earlier.load)
        )
    }
}

impl Cluster {
    async fn start(folder: &Path, purpose: &str, count: usize) -> Fallible<Self> {
        let program = std::env::var("SKIFF_BIN").map_err(|_| "SKIFF_BIN names no program")?;
        let name = format!("{purpose}-{}", std::process::id());
        let data = folder.join(&name);
        let target = ["--isolated", &name, "--data-dir"];
        let up = Command::new(&program).args(["up", "--disable-agent"]).args(target).arg(&data).output()?;
        if !up.status.success() {
            return Err(String::from_utf8_lossy(&up.stderr).into_owned().into());
        }
        let kubeconfig = data.join("isolated").join(&name).join("kubeconfig");
        let status = Command::new(&program).args(["status", "-o", "json"]).args(target).arg(&data).output()?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        let processes = status["processes"].as_array().cloned().unwrap_or_default();
        let server = processes.iter().find(|process| process["role"] == "server").ok_or("no server runs")?;
        let nodes = Command::new(&program)
            .args(["sim-nodes", "--nodes", &count.to_string(), "--zones", "a,b,c", "--kubeconfig"])
            .arg(&kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let login = Login::read(&kubeconfig)?;
        let client = |_| Ok(Client::new(Arc::new(login.connection()?), "churn"));
        let clients = (0..CONNECTIONS).map(client).collect::<Fallible<Vec<_>>>()?;
        let server = u32::try_from(server["pid"].as_u64().unwrap_or(0))?;
        let cluster = Self { name, data, server, nodes, count, clients, clock: SystemClock::shared() };
        cluster.until(&format!("{NODES}?limit=1"), |list| left(list) == count).await?;
        // What registering has set going (taints, ranges, annotations) is not what is measured.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(cluster)
    }

    fn mark(&self) -> Mark {
        Mark {
            at: self.clock.monotonic(),
            server: cpu_time(self.server),
            nodes: cpu_time(self.nodes.id()),
            load: cpu_time(std::process::id()),
        }
    }

    async fn create_pods(&self, numbers: std::ops::Range<usize>, delay: &str) -> Fallible<()> {
        let path = PODS.path(NAMESPACE);
        let creations = stream::iter(numbers).map(|number| {
            let (client, path) = (&self.clients[number % self.clients.len()], &path);
            let pod = json!({
                "metadata": {"name": format!("pod-{number}"), "annotations": {"sim.skiff.io/start-delay": delay}},
                "spec": spec(),
            });
            async move { client.send_json::<IgnoredAny>(Method::POST, path, &pod).await.map(drop) }
        });
        Ok(creations.buffer_unordered(IN_FLIGHT).try_collect::<()>().await?)
    }

    /// Has Pods created and counts those that get a node, until there are so many or the time is up.
    async fn place(
        &self,
        wanted: usize,
        limit: Duration,
        create: impl Future<Output = Fallible<()>>,
    ) -> Fallible<Placed> {
        let options = WatchOptions { field_selector: "spec.nodeName!=".to_owned(), ..WatchOptions::default() };
        // The form that the nodes' watch has, too: the server makes it once for both.
        let mut events = self.clients[0].watch(&PODS, "", &options, "application/json").await?;
        let (mut count, mut created, start) = (0, None, self.mark());
        let creating = async {
            create.await?;
            created = Some(self.mark());
            Ok(())
        };
        let counting = async {
            while count < wanted {
                let event = events.next().await.ok_or("the watch ended")??;
                count += usize::from(event.kind == "ADDED");
            }
            Ok(())
        };
        let outcome: Fallible<()> =
            match tokio::time::timeout(limit, async { tokio::try_join!(creating, counting) }).await {
                Ok(outcome) => outcome.map(drop),
                Err(_) => Ok(()),
            };
        outcome?;
        Ok(Placed { start, created, end: self.mark(), count, wanted })
    }

    async fn remove_pods(&self) -> Fallible<()> {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        self.clients[0].delete_path(&PODS.path(NAMESPACE), &options).await?;
        self.until(&format!("{}?limit=1", PODS.path(NAMESPACE)), |list| list.items.is_empty()).await
    }

    /// Looks at a list again and again.
    async fn until(&self, path: &str, holds: impl Fn(&ObjectList<PartialObject>) -> bool) -> Fallible<()> {
        let began = self.clock.monotonic();
        while !holds(&self.clients[0].get_path(path).await?) {
            if self.clock.monotonic() - began > PATIENCE {
                return Err(format!("{path} did not become what was waited for").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ended = self.nodes.kill().and_then(|()| self.nodes.wait());
        let program = std::env::var("SKIFF_BIN").expect("it was there at the start");
        let delete =
            Command::new(program).args(["delete", "--isolated", &self.name, "--data-dir"]).arg(&self.data).output();
        for error in ended.err().into_iter().chain(delete.err()) {
            eprintln!("cleaning up: {error}");
        }
        if let Err(error) = std::fs::remove_dir_all(&self.data) {
            eprintln!("{}: {error}", self.data.display());
        }
    }
}

fn spec() -> Value {
    let requests = json!({"cpu": "10m", "memory": "16Mi"});
    json!({"containers": [{"name": "app", "image": "app:v1", "resources": {"requests": requests}}]})
}

/// How many objects a list of one would have had in all.
fn left(list: &ObjectList<PartialObject>) -> usize {
    list.items.len() + usize::try_from(list.metadata.remaining_item_count.unwrap_or(0)).unwrap_or(0)
}

/// The CPU time that a process has used, of its threads and in the kernel.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The program's name may have spaces; it ends with the last parenthesis.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux counts in hundredths of a second wherever this runs.
    Duration::from_millis(ticks * 10)
}

fn memory_gib(pid: u32) -> Fallible<f64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("smaps_rollup has no Pss")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / f64::from(1 << 20))
}
