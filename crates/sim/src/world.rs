//! One run: a cluster is made, troubled for a while, left alone, and must then be as it should and quiet.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::ApiServer;
use skiff_base::Timestamp;
use skiff_base::clock::{Clock, SharedClock};
use skiff_base::ids::Ids;
use skiff_client::{Client, DeleteOptions, Informers, Patch, Resource};
use skiff_controllers::{ControllerManager, MANAGER};
use skiff_scheduler::Scheduler;
use skiff_simnodes::{Config, Delay, SimNodes};
use tokio::time::Instant;

use crate::faults::{Faults, client};
use crate::properties::{Bounds, Onlooker};
use crate::store::MemoryStore;

static DEPLOYMENTS: Resource = Resource::fixed("apps", "v1", "deployments", "Deployment");
static REPLICA_SETS: Resource = Resource::fixed("apps", "v1", "replicasets", "ReplicaSet");
static STATEFUL_SETS: Resource = Resource::fixed("apps", "v1", "statefulsets", "StatefulSet");
static DAEMON_SETS: Resource = Resource::fixed("apps", "v1", "daemonsets", "DaemonSet");
static JOBS: Resource = Resource::fixed("batch", "v1", "jobs", "Job");
static PODS: Resource = Resource::fixed("", "v1", "pods", "Pod");
static ACCOUNTS: Resource = Resource::fixed("", "v1", "serviceaccounts", "ServiceAccount");
const NAMESPACE: &str = "default";
/// How often something is done to the cluster.
const TROUBLES: u64 = 8;
/// The longest pause between two of them.
const PAUSE_SECONDS: u64 = 25;
/// What has not settled by then never will.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How long nothing may be written. Every tenth seed waits for what comes back after minutes only; heartbeats alone make
/// that half of a run's cost.
const QUIET: Duration = Duration::from_secs(45);
const LONG_QUIET: Duration = Duration::from_secs(600);
const LONG_EVERY: u64 = 10;

/// Virtual time: the runtime's own, which passes only while everybody waits.
struct VirtualClock {
    start: Instant,
    wall: Timestamp,
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.wall + self.start.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// What came of a run.
pub struct Run {
    /// What was never to be, or did not come true.
    pub outcome: Result<(), String>,
    /// What runs have in common that wrote the same at the same times.
    pub digest: u64,
}

/// Runs one seed. What happens follows from it in a process that does nothing else and whose system gives it the same
/// chance each time: hash maps have their order from there.
pub fn run(seed: u64) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs some descriptors");
    runtime.block_on(async {
        match World::start(seed).await {
            Ok(world) => Run { outcome: world.play().await, digest: world.onlooker.digest() },
            Err(why) => Run { outcome: Err(why), digest: 0 },
        }
    })
}

struct World {
    server: Arc<ApiServer>,
    onlooker: Arc<Onlooker>,
    faults: Arc<Faults>,
    admin: Client,
    clock: SharedClock,
    ids: Arc<Ids>,
    bounds: Bounds,
    nodes: u32,
    quiet: Duration,
    leaders: parking_lot::Mutex<Option<Leaders>>,
    _agents: SimNodes,
}

/// Who decides; the informers are theirs and end with them.
struct Leaders {
    _controllers: skiff_controllers::Handle,
    _scheduler: skiff_scheduler::Handle,
    informers: Informers,
}

impl Drop for Leaders {
    fn drop(&mut self) {
        self.informers.end();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.stop();
    }
}

impl World {
    async fn start(seed: u64) -> Result<Self, String> {
        let wall = "2026-01-31T12:00:00Z".parse().map_err(|error| format!("{error}"))?;
        let clock: SharedClock = Arc::new(VirtualClock { start: Instant::now(), wall });
        let (ids, faults) = (Arc::new(Ids::seeded(seed)), Faults::new(seed));
        let replicas = 1 + faults.below(6);
        let (surge, unavailable) = [(1, 0), (0, 1), (1, 1), (2, 1), (replicas, 0), (1, 2)][faults.below(6) as usize];
        let bounds = Bounds {
            replicas: replicas as usize,
            surge: surge as usize,
            unavailable: unavailable as usize,
            parallelism: 2,
        };
        let onlooker = Arc::new(Onlooker::new(bounds));
        let eyes = onlooker.clone();
        let store = Arc::new(MemoryStore::new(Box::new(move |event| eyes.see(event))));
        let config = skiff_apiserver::Config::new(store, clock.clone(), ids.clone());
        let server = ApiServer::new(config).await.map_err(|failure| failure.0.message)?;
        // The user's own way to the server is a good one: what users see is what is tested.
        let good = Faults::new(seed);
        good.calm();
        let admin = client(&server, &good, "admin", &["system:masters"]);
        let nodes = 3 + faults.below(3) as u32;
        let delay = |most: u64| Delay { least: Duration::ZERO, most: Duration::from_secs(most) };
        let slow = Config { nodes, start_delay: delay(20), stop_delay: delay(20), seed, ..Config::default() };
        let agents =
            SimNodes::start(slow, vec![client(&server, &faults, "agents", &["system:masters"])], clock.clone())?;
        let leaders = parking_lot::Mutex::new(None);
        let quiet = if seed.is_multiple_of(LONG_EVERY) { LONG_QUIET } else { QUIET };
        let world =
            Self { server, onlooker, faults, admin, clock, ids, bounds, nodes, quiet, leaders, _agents: agents };
        world.elect();
        world.until("the account that Pods run under", || world.has(&ACCOUNTS, "default")).await?;
        world.create().await?;
        Ok(world)
    }

    async fn play(&self) -> Result<(), String> {
        self.trouble().await?;
        self.settle().await
    }

    /// New leaders, who know nothing, in place of the old ones, who may have been in the midst of something.
    fn elect(&self) {
        *self.leaders.lock() = None;
        let of = |user: &str, groups: &[&str]| client(&self.server, &self.faults, user, groups);
        let informers = Informers::new(of("system:kube-controller-manager", &[]));
        let accounts = |name: &str| {
            if name == MANAGER {
                return of("system:kube-controller-manager", &[]);
            }
            let user = format!("system:serviceaccount:kube-system:{name}");
            of(&user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
        };
        let config = skiff_controllers::Config {
            root_ca: Arc::new(skiff_controllers::RootBundle::new("PEM")),
            ..Default::default()
        };
        let controllers = ControllerManager::start(accounts, &informers, self.clock.clone(), self.ids.clone(), config);
        let settings = skiff_scheduler::Config { seed: self.faults.below(u64::MAX), ..Default::default() };
        let scheduler = Scheduler::start(of("system:kube-scheduler", &[]), &informers, self.clock.clone(), settings);
        *self.leaders.lock() = Some(Leaders { _controllers: controllers, _scheduler: scheduler, informers });
    }

    async fn create(&self) -> Result<(), String> {
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {
            "maxSurge": self.bounds.surge, "maxUnavailable": self.bounds.unavailable}});
        let web = json!({"replicas": self.bounds.replicas, "strategy": rolling, "progressDeadlineSeconds": 3600});
        self.put(&DEPLOYMENTS, "web", web).await?;
        self.put(&STATEFUL_SETS, "db", json!({"replicas": 3, "serviceName": "db"})).await?;
        self.put(&DAEMON_SETS, "agent", json!({})).await?;
        let completes = json!({"sim.skiff.io/complete-after": "5s"});
        let mut job = json!({"completions": 5, "parallelism": self.bounds.parallelism});
        job["template"] = template("sum", "v1");
        job["template"]["metadata"]["annotations"] = completes;
        job["template"]["spec"]["restartPolicy"] = json!("Never");
        self.post(&JOBS, json!({"metadata": {"name": "sum"}, "spec": job})).await
    }

    async fn put(&self, resource: &Resource, name: &str, mut spec: Value) -> Result<(), String> {
        spec["selector"] = json!({"matchLabels": {"app": name}});
        spec["template"] = template(name, "v1");
        self.post(resource, json!({"metadata": {"name": name}, "spec": spec})).await
    }

    async fn post(&self, resource: &Resource, body: Value) -> Result<(), String> {
        let made = self.admin.send_json::<Value>(Method::POST, &resource.path(NAMESPACE), &body).await;
        made.map(drop).map_err(|error| format!("create {}: {error}", resource.plural))
    }

    /// New versions and new leaders, at odd moments.
    async fn trouble(&self) -> Result<(), String> {
        for at in 0..TROUBLES {
            tokio::time::sleep(Duration::from_millis(self.faults.below(PAUSE_SECONDS * 1000))).await;
            match self.faults.below(4) {
                0 => self.elect(),
                1 => self.new_version(&STATEFUL_SETS, "db", at).await?,
                2 => self.new_version(&DAEMON_SETS, "agent", at).await?,
                _ => self.new_version(&DEPLOYMENTS, "web", self.faults.below(3)).await?,
            }
        }
        Ok(())
    }

    async fn new_version(&self, resource: &Resource, name: &str, version: u64) -> Result<(), String> {
        let containers = json!([{"name": "app", "image": format!("{name}:v{version}")}]);
        let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
        let path = resource.object_path(NAMESPACE, name, "");
        self.admin.patch_raw(&path, &patch).await.map(drop).map_err(|error| format!("new version of {name}: {error}"))
    }

    /// Without further troubles all becomes as it should be, nothing more is written, and nothing is left over.
    async fn settle(&self) -> Result<(), String> {
        self.faults.calm();
        self.until("the Deployment", || {
            self.rolled_out(&DEPLOYMENTS, "web", "availableReplicas", self.bounds.replicas)
        })
        .await?;
        self.until("the StatefulSet", || self.rolled_out(&STATEFUL_SETS, "db", "availableReplicas", 3)).await?;
        self.until("the DaemonSet", || self.rolled_out(&DAEMON_SETS, "agent", "numberAvailable", self.nodes as usize))
            .await?;
        self.until("the Job", || async {
            let job = self.read(&JOBS, "sum").await;
            job["status"]["succeeded"] == 5 && !job["status"]["completionTime"].is_null()
        })
        .await?;
        // Watches from the time of troubles end, Pods on their way out are gone.
        tokio::time::sleep(Duration::from_secs(120)).await;
        self.onlooker.forget_writes();
        tokio::time::sleep(self.quiet).await;
        let writes = self.onlooker.writes();
        if !writes.is_empty() {
            return Err(format!("a settled cluster is written to:\n{}", writes.join("\n")));
        }
        if !self.onlooker.has_seen_a_rollout() {
            return Err("there was nothing to look at".to_owned());
        }
        let options = DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
        let path = DEPLOYMENTS.object_path(NAMESPACE, "web", "");
        self.admin.delete_path(&path, &options).await.map_err(|error| error.to_string())?;
        self.until("the end of what the Deployment owned", || async {
            self.labelled(&REPLICA_SETS).await == 0 && self.labelled(&PODS).await == 0
        })
        .await
    }

    async fn labelled(&self, resource: &Resource) -> usize {
        let path = format!("{}?labelSelector=app%3Dweb", resource.path(NAMESPACE));
        let list = self.admin.get_path::<Value>(&path).await.unwrap_or_default();
        list["items"].as_array().map_or(usize::MAX, Vec::len)
    }

    async fn read(&self, resource: &Resource, name: &str) -> Value {
        self.admin.get_path(&resource.object_path(NAMESPACE, name, "")).await.unwrap_or_default()
    }

    async fn has(&self, resource: &Resource, name: &str) -> bool {
        self.read(resource, name).await.is_object()
    }

    async fn rolled_out(&self, resource: &Resource, name: &str, available: &str, wanted: usize) -> bool {
        let object = self.read(resource, name).await;
        let status = &object["status"];
        let updated = if resource.plural == "daemonsets" { "updatedNumberScheduled" } else { "updatedReplicas" };
        status["observedGeneration"] == object["metadata"]["generation"]
            && status[available] == wanted
            && status[updated] == wanted
    }

    async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl Fn() -> F) -> Result<(), String> {
        let began = self.clock.monotonic();
        loop {
            let faults = self.onlooker.faults();
            if !faults.is_empty() {
                return Err(faults.join("\n"));
            }
            if holds().await {
                return Ok(());
            }
            if self.clock.monotonic() - began > PATIENCE {
                return Err(format!("{what} did not come true"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn template(name: &str, version: &str) -> Value {
    let containers = json!([{"name": "app", "image": format!("{name}:{version}")}]);
    json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}})
}
