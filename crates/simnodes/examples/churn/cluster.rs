//! A control plane with simulated nodes, and what is done to it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::Method;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use skiff_base::SystemClock;
use skiff_base::clock::SharedClock;
use skiff_client::{
    Client, DeleteOptions, Login, ObjectList, PartialObject, Resource, Revision, WatchOptions, WatchStream,
};

use super::Fallible;
use super::control::{self, Control, Whose};

pub const NAMESPACE: &str = "default";
/// Requests of the load generator under way at once.
pub const IN_FLIGHT: usize = 64;
const PODS: Resource = Resource::fixed("", "v1", "pods", "Pod");
const NODES: &str = "/api/v1/nodes";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";
/// Connections of the load generator.
const CONNECTIONS: usize = 2;
/// Long enough for a Pod's start to fall outside of what is measured.
pub const LATER: &str = "300s";
/// What does not come true within this time has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the cluster is looked at while something is waited for.
const PAUSE: Duration = Duration::from_millis(100);

/// A control plane with simulated nodes; both are gone when this is dropped.
pub struct Cluster {
    // The nodes go before what they speak to.
    pub nodes: Nodes,
    pub control: Control,
    /// How many nodes there are.
    pub count: usize,
    pub clients: Vec<Client>,
    clock: SharedClock,
}

/// The process that plays the nodes.
pub struct Nodes(Child);

/// A moment, and the CPU time that everybody had used by then.
pub struct Mark {
    at: Duration,
    pub server: Duration,
    pub nodes: Duration,
    load: Duration,
}

/// How far it came with giving nodes to Pods.
pub struct Placed {
    pub start: Mark,
    /// When all had been created, where that was reached.
    pub created: Option<Mark>,
    pub end: Mark,
    pub count: usize,
    wanted: usize,
}

impl Placed {
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.end.seconds(&self.start)
    }

    pub fn told(&self) -> String {
        let seconds = self.end.seconds(&self.start);
        if self.count >= self.wanted {
            return format!("{seconds:.2} s");
        }
        format!("given up after {seconds:.0} s with {} of {} bound", self.count, self.wanted)
    }
}

impl Mark {
    pub fn seconds(&self, earlier: &Self) -> f64 {
        (self.at - earlier.at).as_secs_f64()
    }

    pub fn since(&self, earlier: &Self) -> String {
        let seconds = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64();
        format!(
            "{:.1} s, {:.1} s, {:.1} s",
            seconds(self.server, earlier.server),
            seconds(self.nodes, earlier.nodes),
            seconds(self.load, earlier.load)
        )
    }
}

impl Cluster {
    pub async fn start(whose: Whose, folder: &Path, purpose: &str, count: usize) -> Fallible<Self> {
        let name = format!("{purpose}-{}", std::process::id());
        let control = Control::start(whose, name.clone(), folder.join(&name))?;
        let clock = SystemClock::shared();
        let login = login(&control, &clock).await?;
        let nodes = Nodes::start(&control, count)?;
        let client = |_| Ok(Client::new(Arc::new(login.connection()?), "churn"));
        let clients = (0..CONNECTIONS).map(client).collect::<Fallible<Vec<_>>>()?;
        let cluster = Self { nodes, control, count, clients, clock };
        cluster.until(&format!("{NODES}?limit=1"), |list: &ObjectList<PartialObject>| left(list) == count).await?;
        let is_free = |node: &Value| node["spec"]["taints"].is_null();
        cluster.until(NODES, |list: &ObjectList<Value>| list.items.iter().all(is_free)).await?;
        // What else registering has set going (ranges, annotations) is not what is measured.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // That the scheduler is there shows by a Pod.
        cluster.place(1, PATIENCE, cluster.create_pods(0..1, LATER)).await?;
        cluster.remove_pods().await?;
        Ok(cluster)
    }

    pub fn mark(&self) -> Mark {
        Mark {
            at: self.clock.monotonic(),
            server: self.control.processes().into_iter().map(cpu_time).sum(),
            nodes: cpu_time(self.nodes.process()),
            load: cpu_time(std::process::id()),
        }
    }

    pub async fn create_pods(&self, numbers: std::ops::Range<usize>, delay: &str) -> Fallible<()> {
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
    pub async fn place(
        &self,
        wanted: usize,
        limit: Duration,
        create: impl Future<Output = Fallible<()>>,
    ) -> Fallible<Placed> {
        let mut events = self.watch(String::new()).await?;
        let (mut count, mut created, start) = (0, None, self.mark());
        let creating = async {
            create.await?;
            created = Some(self.mark());
            Ok(())
        };
        let counting = async {
            let mut last = Vec::new();
            while count < wanted {
                let Some(event) = events.next().await else {
                    // Servers end watches that do not keep up; the next one goes on from there.
                    events = self.watch(Revision::of(&last).unwrap_or_default()).await?;
                    continue;
                };
                let event = event?;
                count += usize::from(event.kind == "ADDED");
                last = event.object.into();
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

    /// Watches Pods with nodes, in the form that the nodes' watch has, too: the server makes it once for both.
    async fn watch(&self, resource_version: String) -> Fallible<WatchStream> {
        let field_selector = "spec.nodeName!=".to_owned();
        let options = WatchOptions { field_selector, resource_version, ..WatchOptions::default() };
        Ok(self.clients[0].watch(&PODS, "", &options, "application/json").await?)
    }

    pub async fn remove_pods(&self) -> Fallible<()> {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        self.clients[0].delete_path(&PODS.path(NAMESPACE), &options).await?;
        let are_gone = |list: &ObjectList<PartialObject>| list.items.is_empty();
        self.until(&format!("{}?limit=1", PODS.path(NAMESPACE)), are_gone).await
    }

    /// Looks at a list again and again.
    async fn until<T: DeserializeOwned>(&self, path: &str, holds: impl Fn(&ObjectList<T>) -> bool) -> Fallible<()> {
        let began = self.clock.monotonic();
        while !holds(&self.clients[0].get_path(path).await?) {
            if self.clock.monotonic() - began > PATIENCE {
                return Err(format!("{path} did not become what was waited for").into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

impl Nodes {
    fn start(control: &Control, count: usize) -> Fallible<Self> {
        let nodes = Command::new(control::program()?)
            .args(["sim-nodes", "--nodes", &count.to_string(), "--zones", "a,b,c", "--kubeconfig"])
            .arg(control.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self(nodes))
    }

    pub fn process(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            eprintln!("ending the nodes: {error}");
        }
    }
}

/// The way in, once Pods can be made: their account is the controllers' work.
async fn login(control: &Control, clock: &SharedClock) -> Fallible<Login> {
    let attempt = async || -> Fallible<Login> {
        let login = Login::read(&control.kubeconfig())?;
        let client = Client::new(Arc::new(login.connection()?), "churn");
        client.get_path::<IgnoredAny>(ACCOUNT).await?;
        Ok(login)
    };
    let began = clock.monotonic();
    loop {
        match attempt().await {
            Err(error) if clock.monotonic() - began > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
            login => return login,
        }
    }
}

/// What all Pods here are.
pub fn spec() -> Value {
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
