//! One node, all parts in this process: what is started, in which order, with which identity, and how it ends.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_apiserver::admission::plugins::Settings;
use skiff_apiserver::config::{Cidr, FrontProxy, ServiceAccountKeys};
use skiff_apiserver::trust::Identity;
use skiff_apiserver::{ApiServer, Config as ApiConfig, VersionInfo};
use skiff_base::SystemClock;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_client::{Informer, Informers, Recorder};
use skiff_kubelet::{Kubelet, LocalPaths};
use skiff_store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::agent::{self, KernelMounts};
use crate::audit;
use crate::cli::{AdmissionOptions, NodeOptions};
use crate::commands::{CommandError, context_name};
use crate::control::{self, Control};
use crate::datastore;
use crate::extenders;
use crate::images::{self, NodeImages};
use crate::inprocess;
use crate::isolation::{self, Link};
use crate::kubeconfig;
use crate::network::{self, Network, OwnAddresses, SERVICE_RANGE};
use crate::offices;
use crate::paths::{NodeFacts, Paths, named, write_atomically};
use crate::pki::{Authority, Leaf, Purpose, service_account_key};
use crate::runtime::{self, NodeRuntime};
use crate::server::{API_PORT_ADVICE, bind};
use crate::snapshot;

/// The version of the Kubernetes API that is served.
pub const KUBERNETES_VERSION: &str = "v1.36.2+skiff";
/// The first address of the service range: the API server's.
const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const RESOLV_CONF: &str = "/etc/resolv.conf";
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// The domain of the cluster's names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The API server's name towards nodes' agents.
const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
/// The API server's name towards aggregated API servers.
const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
/// The API server's port inside an isolated node, where nobody else has any.
const INNER_API_PORT: u16 = 6443;

/// Where people reach a machine when all else fails; a Service must not take that from them.
const SSH_PORT: u16 = 22;

/// What every part is told of the node.
pub struct Setting {
    paths: Paths,
    /// What the node decided at its first start.
    pub facts: NodeFacts,
    options: NodeOptions,
    /// How pods are scheduled.
    pub scheduler: skiff_scheduler::Config,
    /// The time.
    pub clock: SharedClock,
    /// Names and UIDs.
    pub ids: Arc<Ids>,
    /// The cluster's certificate authority.
    pub authority: Arc<Authority>,
    address: IpAddr,
    api_port: u16,
}

/// Runs the node until it is told to end.
///
/// # Errors
/// A part does not start; the error says which and why.
pub async fn run(
    paths: Paths,
    facts: NodeFacts,
    options: NodeOptions,
    hosts_listener: Option<TcpListener>,
) -> Result<(), CommandError> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "the TLS stack was set up twice")?;
    if facts.link > 0 {
        isolation::configure_inner_link(Link::new(facts.link)).await?;
    }
    let clock = SystemClock::shared();
    let setting = Arc::new(Setting {
        address: node_address(&facts, &options)?,
        api_port: if facts.link > 0 { INNER_API_PORT } else { facts.api_port },
        authority: Arc::new(Authority::load_or_create(&paths.pki(), clock.now())?),
        scheduler: scheduler_config(options.scheduler_config.as_deref())?,
        ids: Arc::new(Ids::random()),
        clock,
        paths,
        facts,
        options,
    });
    let mut listeners = vec![bind(("0.0.0.0", setting.api_port), API_PORT_ADVICE)?];
    listeners.extend(hosts_listener);
    let store = open_store(&setting).await?;
    let server = start_api_server(&setting, store.clone()).await?;
    let stop = watch::Sender::new(false);
    serve_api(&setting, &server, listeners, &stop)?;
    write_kubeconfig(&setting)?;
    let informers =
        Informers::new(inprocess::client(&server, "system:apiserver", &["system:masters"], "skiff-informers"));
    let offices = offices::take(&setting, &server, &informers, &stop);
    let agent =
        if setting.options.disable_agent { None } else { Some(start_agent(&setting, &server, &informers).await?) };
    let command = Arc::new(NodeControl {
        node: informers.of::<Node>(),
        node_name: setting.facts.node_name.clone(),
        api: format!("https://127.0.0.1:{}", setting.facts.api_port),
        end: stop.clone(),
        images: agent.as_ref().map(|agent| NodeImages::of(&agent.runtime)),
        containers_too: Mutex::new(false),
        store,
        pki: setting.paths.pki(),
    });
    control::serve(&setting.paths.control_socket(), command.clone())?;
    tracing::info!(node = %setting.facts.node_name, address = %setting.address, "the control plane is up");
    wait_for_end(&stop).await?;
    tracing::info!("ending");
    if let Some(agent) = agent {
        agent.end(*command.containers_too.lock()).await?;
    }
    offices.end().await;
    server.stop();
    Ok(())
}

/// What makes this machine a node, beside the control plane.
struct Agent {
    kubelet: Kubelet,
    runtime: NodeRuntime,
    network: Network,
    volumes: JoinHandle<()>,
}

async fn start_agent(setting: &Setting, server: &Arc<ApiServer>, informers: &Informers) -> Result<Agent, CommandError> {
    let balancer = inprocess::controller_client(server, "service-controller");
    let recorder = Recorder::start(balancer.clone(), setting.clock.clone(), "service-controller", "");
    let network =
        network::start(&setting.paths, &setting.facts, own_addresses(setting), informers, (balancer, recorder))?;
    let node_range = network::node_range(&setting.facts);
    let runtime = runtime::start(&setting.paths, &node_range, &setting.options, &setting.clock, &network).await?;
    let kubelet = start_kubelet(setting, server, &runtime).await?;
    let volumes = tokio::spawn(LocalPaths::run(
        inprocess::controller_client(server, "local-path-provisioner"),
        informers.clone(),
        setting.clock.clone(),
        setting.facts.node_name.clone(),
        setting.paths.volumes(),
    ));
    Ok(Agent { kubelet, runtime, network, volumes })
}

impl Agent {
    async fn end(self, containers_too: bool) -> Result<(), CommandError> {
        drop(self.kubelet);
        if containers_too {
            agent::stop_everything(&self.runtime.containers).await?;
        }
        drop(self.network);
        self.volumes.abort();
        Ok(())
    }
}

/// The node's addresses and the ports of them that are not for Services.
fn own_addresses(setting: &Setting) -> OwnAddresses {
    let ports = vec![SSH_PORT, setting.api_port, skiff_kubelet::DEFAULT_PORT];
    OwnAddresses { addresses: vec![setting.address], reserved_ports: ports }
}

/// The node's own address: given, the link's, or the one that outgoing connections have.
fn node_address(facts: &NodeFacts, options: &NodeOptions) -> Result<IpAddr, CommandError> {
    if let Some(address) = options.node_ip {
        return Ok(address);
    }
    if facts.link > 0 {
        return Ok(Link::new(facts.link).node().into());
    }
    // Connecting a datagram socket sends nothing; it only makes the kernel choose a source address.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let chosen = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    Ok(chosen.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip()))
}

async fn open_store(setting: &Setting) -> Result<Arc<dyn Store>, CommandError> {
    datastore::open(setting.facts.datastore.as_ref(), &setting.paths, setting.clock.clone()).await
}

async fn start_api_server(setting: &Setting, store: Arc<dyn Store>) -> Result<Arc<ApiServer>, CommandError> {
    let config = ApiConfig {
        store,
        clock: setting.clock.clone(),
        ids: setting.ids.clone(),
        version: VersionInfo {
            git_version: KUBERNETES_VERSION.to_owned(),
            ..VersionInfo::skiff(env!("CARGO_PKG_VERSION"))
        },
        kinds: skiff_kinds::builtin().to_vec(),
        service_cidr: Cidr { base: SERVICE_RANGE.0, bits: SERVICE_RANGE.1 },
        node_port_range: NODE_PORTS,
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        advertise: SocketAddr::new(setting.address, setting.api_port),
        service_accounts: Some(ServiceAccountKeys {
            signing_key: service_account_key(&setting.paths.pki())?,
            issuer: format!("https://kubernetes.default.svc.{CLUSTER_DOMAIN}"),
        }),
        kubelet_tls: Some(Arc::new(kubelet_client_tls(setting)?)),
        front_proxy: Some(front_proxy(setting)?),
        admission: admission_settings(&setting.options.admission)?,
        loopback_proxies: false,
        audit: audit::settings(&setting.options.audit)?,
        authorization: true,
        tokens: Vec::new(),
    };
    let server = ApiServer::new(config).await.map_err(|failure| failure.0.message)?;
    server.check_policies();
    server.keep_identity(setting.facts.node_name.clone());
    Ok(server)
}

async fn start_kubelet(
    setting: &Setting,
    server: &Arc<ApiServer>,
    runtime: &NodeRuntime,
) -> Result<Kubelet, CommandError> {
    let node_name = &setting.facts.node_name;
    let names = [node_name.clone()];
    let leaf = setting.authority.issue(
        &format!("system:node:{node_name}"),
        &Purpose::Server { names: &names, addresses: &[setting.address, Ipv4Addr::LOCALHOST.into()] },
    )?;
    let listener = bind(("0.0.0.0", skiff_kubelet::DEFAULT_PORT), "perhaps another kubelet; end that one")?;
    listener.set_nonblocking(true)?;
    let client = inprocess::client(server, &format!("system:node:{node_name}"), &["system:nodes"], "kubelet");
    let config = skiff_kubelet::Config {
        informers: Informers::new(client.clone()),
        client,
        runtime: runtime.containers.clone(),
        images: runtime.images.clone(),
        mounter: Arc::new(KernelMounts),
        clock: setting.clock.clone(),
        ids: setting.ids.clone(),
        node_name: node_name.clone(),
        node_ips: vec![setting.address.to_string()],
        root_dir: setting.paths.kubelet(),
        log_dir: setting.paths.container_logs(),
        pod_cidr: network::node_range(&setting.facts),
        cluster_dns: vec![network::DNS_ADDRESS.to_string()],
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        resolv_conf: PathBuf::from(RESOLV_CONF),
        version: KUBERNETES_VERSION.to_owned(),
        options: kubelet_options(&setting.options, setting.paths.isolated.is_some())?,
        manifests: setting.paths.manifests(),
        cgroups: true,
        disk_bytes: disk_bytes(&setting.paths),
        cgroup_root: setting.paths.cgroup_parent(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        server: Some(skiff_kubelet::ServerConfig {
            listener: tokio::net::TcpListener::from_std(listener)?,
            tls: Arc::new(server_tls(setting, &leaf)?),
            allowed_names: vec![KUBELET_CLIENT.to_owned()],
        }),
    };
    Ok(Kubelet::start(config).await)
}

/// Which plugins of admission are on, and what they are told.
fn admission_settings(options: &AdmissionOptions) -> Result<Settings, CommandError> {
    let config = match &options.admission_control_config_file {
        Some(path) => {
            let mut config = read_yaml(path)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            for plugin in config.get_mut("plugins").and_then(Value::as_array_mut).into_iter().flatten() {
                // A configuration may stand in a file of its own, beside this one.
                let own = plugin.get("path").and_then(Value::as_str).filter(|path| !path.is_empty());
                if let Some(own) = own.map(|own| folder.join(own)) {
                    plugin["configuration"] = read_yaml(&own)?;
                }
                let asked = plugin.pointer("/configuration/imagePolicy/kubeConfigFile").and_then(Value::as_str);
                if let Some(asked) = asked.map(|asked| folder.join(asked)) {
                    plugin["configuration"]["imagePolicy"]["kubeConfig"] = kubeconfig::read_whole(&asked)?;
                }
            }
            Some(config)
        }
        None => None,
    };
    let (on, off) = (&options.enable_admission_plugins, &options.disable_admission_plugins);
    Ok(Settings::read(on, off, config.as_ref())?)
}

pub(crate) fn read_yaml(path: &Path) -> Result<Value, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| named(path, "read", error))?;
    Ok(serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// What the user's KubeletConfiguration says, or the defaults.
fn kubelet_options(options: &NodeOptions, isolated: bool) -> Result<skiff_kubelet::Options, CommandError> {
    let mut found = match &options.kubelet_config {
        Some(path) => {
            let text = std::fs::read(path).map_err(|error| named(path, "read", error))?;
            skiff_kubelet::Options::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None if isolated => trial_options(),
        None => skiff_kubelet::Options::default(),
    };
    skiff_kubelet::check_options(&found)?;
    if let Some(path) = &options.pod_manifest_path {
        found.static_pod_path = Some(path.clone());
    }
    Ok(found)
}

/// What the user's KubeSchedulerConfiguration says, or the defaults.
fn scheduler_config(path: Option<&Path>) -> Result<skiff_scheduler::Config, CommandError> {
    let Some(path) = path else { return Ok(skiff_scheduler::Config::default()) };
    let text = std::fs::read(path).map_err(|error| named(path, "read", error))?;
    let named = |error: String| format!("{}: {error}", path.display());
    let mut config = skiff_scheduler::Config::parse(&text, extenders::read_pem).map_err(named)?;
    extenders::connect(&mut config).map_err(named)?;
    Ok(config)
}

/// The disk under an isolated node is mostly full of what is not its own: ending Pods and removing images would free
/// little there, so it does so only when it is told to.
fn trial_options() -> skiff_kubelet::Options {
    let mut options = skiff_kubelet::Options::default();
    options.eviction_hard.retain(|signal, _| signal.starts_with("memory."));
    options.image_gc_high_threshold_percent = 100;
    options
}

/// The size of the file system that holds the node's state.
fn disk_bytes(paths: &Paths) -> Option<i64> {
    let stat = nix::sys::statvfs::statvfs(&paths.root).ok()?;
    i64::try_from(stat.blocks() * stat.fragment_size()).ok()
}

/// How the API server speaks to nodes' agents: trusting the cluster's authority, with a certificate of its own.
fn kubelet_client_tls(setting: &Setting) -> io::Result<rustls::ClientConfig> {
    let leaf = setting.authority.issue(KUBELET_CLIENT, &Purpose::Client { groups: &["system:masters"] })?;
    let (chain, key) = leaf.der()?;
    rustls::ClientConfig::builder()
        .with_root_certificates(setting.authority.roots()?)
        .with_client_auth_cert(chain, key)
        .map_err(io::Error::other)
}

/// How the API server asks aggregated ones in somebody's name.
fn front_proxy(setting: &Setting) -> io::Result<FrontProxy> {
    let authority = Authority::load_or_create_front_proxy(&setting.paths.pki(), setting.clock.now())?;
    let (chain, key) = authority.issue(FRONT_PROXY_CLIENT, &Purpose::Client { groups: &[] })?.der()?;
    Ok(FrontProxy {
        identity: Identity::new(chain, key),
        authority: authority.certificate_pem().to_owned(),
        name: FRONT_PROXY_CLIENT.to_owned(),
        client_authority: setting.authority.certificate_pem().to_owned(),
    })
}

/// A server's TLS: its certificate, and client certificates that are welcome but not required.
fn server_tls(setting: &Setting, leaf: &Leaf) -> io::Result<rustls::ServerConfig> {
    let verifier = rustls::server::WebPkiClientVerifier::builder(setting.authority.roots()?)
        .allow_unauthenticated()
        .build()
        .map_err(io::Error::other)?;
    let (chain, key) = leaf.der()?;
    rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(io::Error::other)
}

/// Every name and address that people reach the API server by.
fn api_names(setting: &Setting) -> (Vec<String>, Vec<IpAddr>) {
    let mut names: Vec<String> =
        ["localhost", "host.docker.internal", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .into_iter()
            .map(str::to_owned)
            .collect();
    names.push(format!("kubernetes.default.svc.{CLUSTER_DOMAIN}"));
    let mut addresses = vec![
        Ipv4Addr::LOCALHOST.into(),
        std::net::Ipv6Addr::LOCALHOST.into(),
        KUBERNETES_SERVICE.into(),
        setting.address,
    ];
    if setting.facts.link > 0 {
        addresses.push(Link::new(setting.facts.link).host().into());
    }
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let given =
        host.into_iter().chain([setting.facts.node_name.clone()]).chain(setting.options.tls_san.iter().cloned());
    for name in given {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name),
        }
    }
    (names, addresses)
}

fn serve_api(
    setting: &Setting,
    server: &Arc<ApiServer>,
    listeners: Vec<TcpListener>,
    stop: &watch::Sender<bool>,
) -> Result<(), CommandError> {
    let (names, addresses) = api_names(setting);
    let leaf = setting.authority.issue("kube-apiserver", &Purpose::Server { names: &names, addresses: &addresses })?;
    let mut tls = server_tls(setting, &leaf)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (server, tls, mut stop) = (server.clone(), tls.clone(), stop.subscribe());
        tokio::spawn(async move {
            // The sender's end is an end too.
            let ended = async move { stop.wait_for(|stop| *stop).await.map(drop).unwrap_or_default() };
            if let Err(error) = server.serve(listener, tls, ended).await {
                tracing::error!(%error, "the API server's listener");
            }
        });
    }
    Ok(())
}

fn write_kubeconfig(setting: &Setting) -> Result<(), CommandError> {
    let admin = setting.authority.issue("kubernetes-admin", &Purpose::Client { groups: &["system:masters"] })?;
    let server = format!("https://127.0.0.1:{}", setting.facts.api_port);
    let name = context_name(&setting.paths);
    let config = kubeconfig::render(&name, &server, setting.authority.certificate_pem(), &admin);
    write_atomically(&setting.paths.kubeconfig(), kubeconfig::to_yaml(&config)?.as_bytes(), 0o600)?;
    Ok(())
}

/// Waits for SIGTERM, SIGINT, or a command on the control socket.
async fn wait_for_end(stop: &watch::Sender<bool>) -> Result<(), CommandError> {
    let mut asked = stop.subscribe();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = asked.wait_for(|stop| *stop) => {}
    }
    stop.send_replace(true);
    Ok(())
}

/// What the node's other commands can ask of it.
struct NodeControl {
    node: Informer<Node>,
    node_name: String,
    api: String,
    end: watch::Sender<bool>,
    containers_too: Mutex<bool>,
    /// None where this machine is no node.
    images: Option<NodeImages>,
    store: Arc<dyn Store>,
    pki: PathBuf,
}

#[async_trait::async_trait]
impl Control for NodeControl {
    async fn command(&self, method: &Method, path: &str, body: Value) -> Result<Value, String> {
        match (method, path) {
            (&Method::GET, "/ready") => {
                self.wait_ready(Duration::from_secs(body["limit_seconds"].as_u64().unwrap_or(60))).await
            }
            (&Method::GET, "/status") => Ok(self.status()),
            (&Method::POST, "/down") => {
                *self.containers_too.lock() = true;
                self.end.send_replace(true);
                Ok(json!({}))
            }
            (&Method::POST, "/snapshot") => {
                let file = PathBuf::from(body["file"].as_str().unwrap_or_default());
                let saved = snapshot::save(&*self.store, &self.pki, &file).await;
                saved.map(|revision| json!({ "revision": revision })).map_err(|error| error.to_string())
            }
            (method, path) if path.starts_with("/images") => {
                let images =
                    self.images.as_ref().ok_or("this machine is no node (--disable-agent): it has no images")?;
                images::command(images, method, path, &body).await
            }
            _ => Err(format!("unknown command {method} {path}")),
        }
    }
}

impl NodeControl {
    fn is_ready(&self) -> bool {
        if self.images.is_none() {
            return true;
        }
        let node = self.node.get("", &self.node_name);
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    fn status(&self) -> Value {
        let (ready, agent) = (self.is_ready(), self.images.is_some());
        json!({"node": self.node_name, "ready": ready, "agent": agent, "version": KUBERNETES_VERSION, "api": self.api})
    }

    async fn wait_ready(&self, limit: Duration) -> Result<Value, String> {
        let changed = Arc::new(tokio::sync::Notify::new());
        let wake = changed.clone();
        self.node.on_change(move |_| wake.notify_one());
        let ready = async {
            while !self.is_ready() {
                changed.notified().await;
            }
        };
        let waited = tokio::time::timeout(limit, ready).await;
        waited.map_err(|_| {
            format!("the node {} is not Ready after {} s; see skiff logs", self.node_name, limit.as_secs())
        })?;
        Ok(self.status())
    }
}
