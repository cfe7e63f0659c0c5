//! Putting the agent together: what the program hands in, and the handle that it gets back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use k8s_openapi::api::core::v1::{Node as ApiNode, Pod, Taint};
use parking_lot::{Mutex, RwLock};
use skiff_base::Quantity;
use skiff_base::clock::SharedClock;
use skiff_base::gates;
use skiff_base::ids::Ids;
use skiff_base::quantity::Format;
use skiff_client::{Client, Informers, Recorder};
use skiff_cri::{CgroupDriver, ImageService, RuntimeConfigRequest, RuntimeService, StatusRequest, VersionRequest};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::agent::{self, Workers};
use crate::assign::Rules;
use crate::assign::keeper::Parts;
use crate::cgroups::{self, Layout};
use crate::config::{NodeFacts, dns::Resolver, paths::Paths};
use crate::credentials::Providers;
use crate::csi;
use crate::devices::keeper::Devices;
use crate::executor::Node;
use crate::images::{Images, Policy, Pulled};
use crate::node::facts::{self, Machine};
use crate::node::guard::{Guard, Pressures};
use crate::node::keeper::Keeper;
use crate::node::news::News;
use crate::node::object::{self, Identity};
use crate::node::shutdown;
use crate::options::Options;
use crate::server::{self, ServerConfig};
use crate::sources::Sources;
use crate::statics;
use crate::userns;
use crate::volumes::Mounter;

/// The Pods that a node takes unless told otherwise; upstream's number.
pub const DEFAULT_MAX_PODS: i64 = 110;
/// Where the kubelet API listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 10250;

/// All that the agent needs from outside.
pub struct Config {
    /// The API with the node's identity, `system:node:NAME`.
    pub client: Client,
    /// Informers of the process. Only Services are read from them, whole; all else the agent reads with its own client.
    pub informers: Informers,
    /// Sandboxes and containers.
    pub runtime: Arc<dyn RuntimeService>,
    /// Images.
    pub images: Arc<dyn ImageService>,
    /// Mounts.
    pub mounter: Arc<dyn Mounter>,
    /// The time.
    pub clock: SharedClock,
    /// Unique names.
    pub ids: Arc<Ids>,
    /// The node's name.
    pub node_name: String,
    /// Its addresses, one of each family, the primary one first.
    pub node_ips: Vec<String>,
    /// `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// `/var/log`, above `pods` and `containers`.
    pub log_dir: PathBuf,
    /// The ranges of the node's Pods, one of each family; none where a controller gives them.
    pub pod_cidrs: Vec<String>,
    /// The cluster's DNS servers.
    pub cluster_dns: Vec<String>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The resolver configuration that Pods with the node's own get.
    pub resolv_conf: PathBuf,
    /// `v1.36.x`.
    pub version: String,
    /// How the node is configured.
    pub options: Options,
    /// Programs that give credentials of registries.
    pub credentials: Arc<Providers>,
    /// A folder of manifests of static Pods, beside the one of the options.
    pub manifests: PathBuf,
    /// Size of the file system of the agent's folder, where the program knows it.
    pub disk_bytes: Option<i64>,
    /// Whether the agent makes the cgroups of Pods and above.
    pub cgroups: bool,
    /// Above all the Pods' cgroups; empty where they stand at the root.
    pub cgroup_root: String,
    /// Labels beyond the standard ones.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with.
    pub taints: Vec<Taint>,
    /// Where and how the kubelet API is served; `None` for no server.
    pub server: Option<ServerConfig>,
}

/// The running agent. When it is dropped its tasks end; containers run on.
pub struct Kubelet {
    workers: Arc<Workers>,
    look: Arc<Notify>,
    tasks: JoinSet<()>,
}

impl Kubelet {
    /// Registers the node, takes over what runs already, and begins to follow its Pods. Returns once the node is registered
    /// with its first status: Ready, if the runtime is.
    pub async fn start(config: Config) -> Kubelet {
        let machine = Machine { disk_bytes: config.disk_bytes, ..facts::read() };
        let port = config.server.as_ref().map_or(DEFAULT_PORT, |server| server.port());
        let identity = identity(&config, port);
        let facts = node_facts(&config, &machine).await;
        let look = Arc::new(Notify::new());
        let options = Arc::new(config.options.clone());
        let drivers = csi::Drivers::new(facts.paths.clone(), look.clone());
        let devices: Arc<Mutex<BTreeMap<String, (i64, i64)>>> = Arc::default();
        let (pressures, shutting_down) = (Pressures::default(), Arc::new(AtomicBool::new(false)));
        let recorder = Recorder::start(config.client.clone(), config.clock.clone(), "kubelet", &config.node_name);
        let news = News::of(recorder.clone(), &config.node_name);
        news.starting();
        let keeper = Arc::new(Keeper {
            client: config.client.clone(),
            clock: config.clock.clone(),
            identity,
            machine,
            runtime: config.runtime.clone(),
            images: config.images.clone(),
            look: look.clone(),
            pressures: pressures.clone(),
            devices: devices.clone(),
            drivers: drivers.clone(),
            shutting_down: shutting_down.clone(),
            news: news.clone(),
            written: Mutex::new(None),
        });
        let own = Informers::new(config.client.clone());
        let selector = format!("metadata.name={}", config.node_name);
        let api_node = own.selected::<ApiNode>("", "", &selector);
        let pods = own.selected::<Pod>("", "", &format!("spec.nodeName={}", config.node_name));
        let shared = (pressures.clone(), shutting_down, drivers.clone(), recorder);
        let workers = workers(&config, own, facts, api_node.clone(), &options, shared).await;
        keeper.register().await;
        limit_all_pods(workers.node(), &keeper.machine, &news);
        let statics = statics::Keeper {
            workers: workers.clone(),
            options: options.clone(),
            folder: config.manifests.clone(),
            pods: pods.clone(),
            api_node: api_node.clone(),
        };
        let guard = Guard {
            workers: workers.clone(),
            images: config.images.clone(),
            options: options.clone(),
            pressures,
            changed: look.clone(),
            reference: news.reference().clone(),
            memories: Mutex::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(guard.keep());
        tasks.spawn(workers.node().devices.clone().keep());
        workers.wake_where_attached();
        news.follow(&api_node);
        keeper.answer_doubts(&api_node);
        tasks.spawn(csi::keep(drivers, config.client.clone(), config.node_name.clone()));
        tasks.spawn(show_devices(workers.clone(), devices, look.clone()));
        tasks.spawn(shutdown::keep(workers.clone(), options, look.clone()));
        tasks.spawn({
            let keeper = keeper.clone();
            async move {
                tokio::join!(keeper.keep_lease(), keeper.keep_status());
            }
        });
        tasks.spawn({
            let workers = workers.clone();
            async move {
                // Labels decide on admission, so they are known before the first Pod is.
                api_node.synced().await;
                // What an earlier run told of static Pods stands with their mirrors.
                pods.synced().await;
                // Static Pods first: what runs of them is not left over.
                statics.first().into_iter().for_each(|pod| workers.add(pod));
                workers.follow(&pods);
                tokio::join!(agent::follow_runtime(workers, pods), statics.keep());
            }
        });
        if let Some(server) = config.server {
            tasks.spawn(server::serve(server, workers.clone()));
        }
        Kubelet { workers, look, tasks }
    }

    /// Lets the node look at itself now, because the program knows that something has changed (the network is ready, say).
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Ends the agent's tasks. Containers run on and are found again at the next start.
    pub async fn shutdown(mut self) {
        self.workers.stop();
        self.tasks.shutdown().await;
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.workers.stop();
    }
}

/// Whether the default handler of the runtime can make a mount read-only with all below it.
async fn recursive_read_only(config: &Config) -> bool {
    let status = config.runtime.status(StatusRequest::default()).await;
    let handlers = status.map(|response| response.runtime_handlers).unwrap_or_default();
    let default = handlers.into_iter().find(|handler| handler.name.is_empty());
    default.and_then(|handler| handler.features).is_some_and(|features| features.recursive_read_only_mounts)
}

/// Shows the devices of plugins as resources of the node, for ever.
async fn show_devices(workers: Arc<Workers>, shown: Arc<Mutex<BTreeMap<String, (i64, i64)>>>, look: Arc<Notify>) {
    let node = workers.node();
    loop {
        node.devices.changed.notified().await;
        let counts = node.devices.counts();
        let mut facts = NodeFacts::clone(&node.facts());
        let before = std::mem::replace(&mut *shown.lock(), counts.clone());
        facts.allocatable.retain(|resource, _| !before.contains_key(resource));
        let amount = |count: i64| Quantity::from_units(count, Format::DecimalSi);
        facts.allocatable.extend(counts.into_iter().map(|(resource, (_, well))| (resource, amount(well))));
        *node.facts.write() = Arc::new(facts);
        look.notify_one();
    }
}

/// Keeps all Pods together within what is not reserved.
fn limit_all_pods(node: &Node, machine: &Machine, news: &News) {
    let Some(layout) = &node.cgroups else { return };
    let (facts, options) = (node.facts(), &node.options);
    let capacity = object::capacity(machine, options);
    let limits = cgroups::of_node(&capacity, |name| options.reserved(name), options.enforces("pods"));
    let path = cgroups::class(&facts.cgroup_root, "", facts.systemd_cgroups);
    let outcome = layout.apply(&path, &limits);
    if let Err(error) = &outcome {
        tracing::warn!(%error, "the Pods' share of the machine is not bounded");
    }
    news.enforced(outcome, &path);
}

/// The parts of the machine. Rules that the machine cannot keep are told when the options are read, see [`check_options`].
fn parts(config: &Config) -> Parts {
    let machine = facts::parts(&config.options);
    let rules = Rules::of(&config.options, &machine).unwrap_or_else(|error| {
        tracing::error!(error, "no processors and no memory are given to single containers");
        Rules::of(&Options::default(), &machine).expect("the defaults give nothing out")
    });
    Parts::load(rules, machine, config.root_dir.join("assignments.json"))
}

/// Whether this machine can do what the options ask for.
///
/// # Errors
/// What it cannot do.
pub fn check_options(options: &Options) -> Result<(), String> {
    Rules::of(options, &facts::parts(options)).map(drop)
}

fn identity(config: &Config, port: u16) -> Identity {
    Identity {
        name: config.node_name.clone(),
        ips: config.node_ips.clone(),
        pod_cidrs: config.pod_cidrs.clone(),
        version: config.version.clone(),
        port: i32::from(port),
        options: Arc::new(config.options.clone()),
        labels: config.labels.clone(),
        taints: config.taints.iter().chain(&config.options.register_with_taints).cloned().collect(),
    }
}

async fn node_facts(config: &Config, machine: &Machine) -> NodeFacts {
    let text = |path: &std::path::Path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| {
            tracing::debug!(path = %path.display(), %error, "cannot be read, taken as empty");
            String::new()
        })
    };
    let driver = config.runtime.runtime_config(RuntimeConfigRequest::default()).await;
    let driver = driver.ok().and_then(|response| response.linux).map(|linux| linux.cgroup_driver);
    NodeFacts {
        name: config.node_name.clone(),
        ips: config.node_ips.clone(),
        paths: Paths { root: config.root_dir.clone(), logs: config.log_dir.clone() },
        cluster_dns: config.cluster_dns.clone(),
        cluster_domain: config.cluster_domain.clone(),
        resolver: Resolver::parse(&text(&config.resolv_conf)),
        hosts: text("/etc/hosts".as_ref()),
        memory_bytes: machine.memory_bytes,
        allocatable: object::allocatable(machine, &config.options),
        recursive_read_only: recursive_read_only(config).await,
        apparmor: machine.apparmor,
        cpu_quota: config.options.cpu_cfs_quota,
        memory_qos: config.options.gate(gates::MEMORY_QOS),
        memory_throttling: config.options.memory_throttling_factor,
        pod_pids: config.options.pod_pids_limit,
        seccomp_default: config.options.seccomp_default,
        static_cpus: config.options.cpu_manager_policy == "static",
        systemd_cgroups: driver == Some(CgroupDriver::Systemd as i32),
        cgroup_root: config.cgroup_root.clone(),
    }
}

async fn workers(
    config: &Config,
    own: Informers,
    facts: NodeFacts,
    api_node: skiff_client::Informer<ApiNode>,
    options: &Arc<Options>,
    (pressures, shutting_down, drivers, recorder): (Pressures, Arc<AtomicBool>, Arc<csi::Drivers>, Recorder),
) -> Arc<Workers> {
    let version = config.runtime.version(VersionRequest::default()).await;
    let runtime_name = version.map(|version| version.runtime_name).unwrap_or_else(|error| {
        tracing::warn!(%error, "the container runtime does not answer yet");
        "unknown".to_owned()
    });
    // The sources tell the workers of changes, and the workers are made with the sources.
    let slot: Arc<std::sync::OnceLock<std::sync::Weak<Workers>>> = Arc::default();
    let told = slot.clone();
    let on_change = Arc::new(move |uid: &str| {
        if let Some(workers) = told.get().and_then(std::sync::Weak::upgrade) {
            workers.objects_changed(uid);
        }
    });
    let cgroups = Layout::detect().filter(|_| config.cgroups && !facts.systemd_cgroups);
    let node = Arc::new(Node {
        drivers,
        cgroups,
        users: userns::Ranges::load(&facts.paths),
        parts: parts(config),
        devices: Devices::load(config.root_dir.join("device-plugins"), config.clock.clone()),
        probed: Mutex::default(),
        volume_figures: Default::default(),
        options: options.clone(),
        recorder,
        sources: Sources::new(
            config.informers.of(),
            own,
            options.gate(gates::CLUSTER_TRUST_BUNDLE_PROJECTION),
            on_change,
        ),
        facts: RwLock::new(Arc::new(facts)),
        runtime: config.runtime.clone(),
        images: Images::new(
            config.images.clone(),
            config.credentials.clone(),
            config.root_dir.join("config.json"),
            Pulled::load(config.root_dir.join("image_manager"), Policy::of(options), config.clock.clone()),
            options,
        ),
        client: config.client.clone(),
        mounter: config.mounter.clone(),
        clock: config.clock.clone(),
        ids: config.ids.clone(),
        runtime_name: RwLock::new(runtime_name),
    });
    let workers = Workers::new(node, api_node, pressures, shutting_down);
    slot.set(Arc::downgrade(&workers)).expect("it is set once, here");
    workers
}
