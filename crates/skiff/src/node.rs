//! One node, all parts in this process: what is started, in which order, with which identity, and how it ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_apiserver::admission::plugins::Settings;
use skiff_apiserver::config::{FrontProxy, ServiceAccountKeys};
use skiff_apiserver::trust::Identity;
use skiff_apiserver::{ApiServer, Config as ApiConfig, VersionInfo};
use skiff_client::{Client, Informers};
use skiff_store::Store;
use tokio::sync::watch;

use crate::access;
use crate::answers::{NodeControl, Savable, wait_for_end};
use crate::audit;
use crate::certificates::Certificates;
use crate::cli::{AdmissionOptions, NodeOptions};
use crate::commands::{CommandError, context_name};
use crate::control;
use crate::datastore;
use crate::etcd;
use crate::extenders;
use crate::features;
use crate::foundations::{Foundations, Trust};
use crate::images::NodeImages;
use crate::ingress;
use crate::inprocess;
use crate::isolation::{self, Link};
use crate::join::member;
use crate::kubeconfig;
use crate::machine::{Ending, Machine};
use crate::network;
use crate::offices;
use crate::paths::{NodeFacts, Paths, named, write_atomically};
use crate::pki::{Authority, Purpose, service_account_keys};
use crate::ranges::{self, Ranges};
use crate::server::{API_PORT_ADVICE, bind};
use crate::server_keys::ServerKeys;
use crate::worker::{CLUSTER_DOMAIN, KUBELET_CLIENT, KUBERNETES_VERSION, Ways, Worker, ensure_pod_range};

const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// The API server's name towards aggregated API servers.
const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
/// The API server's port inside an isolated node, where nobody else has any.
const INNER_API_PORT: u16 = 6443;

/// What every part of a server is told.
pub struct Setting {
    /// The machine as a node.
    pub machine: Machine,
    /// What it was told to be.
    pub options: NodeOptions,
    /// How pods are scheduled.
    pub scheduler: skiff_scheduler::Config,
    /// Whether Jobs are given Workloads and PodGroups.
    pub job_groups: bool,
    /// The cluster's certificate authority.
    pub authority: Arc<Authority>,
    /// Those who go by it.
    pub trust: Arc<Trust>,
    /// What the node shows that it is itself.
    pub certificates: Arc<Certificates>,
    /// The port of the API server.
    pub api_port: u16,
}

/// Runs the node, server or agent, until it ends; says why it does.
///
/// # Errors
/// A part does not start; the error says which and why.
pub async fn run(
    paths: Paths,
    facts: NodeFacts,
    options: NodeOptions,
    hosts_listener: Option<TcpListener>,
) -> Result<Ending, CommandError> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "the TLS stack was set up twice")?;
    if facts.link > 0 {
        isolation::configure_inner_link(Link::of(&facts)).await?;
        if facts.ranges().has_v6() {
            isolation::add_inner_v6(Link::of(&facts)).await?;
        }
    }
    let machine = Machine::new(paths, facts, options.machine.clone())?;
    if machine.facts.join.is_some() {
        return member::run(machine).await;
    }
    serve_cluster(machine, options, hosts_listener).await
}

async fn serve_cluster(
    machine: Machine,
    options: NodeOptions,
    hosts_listener: Option<TcpListener>,
) -> Result<Ending, CommandError> {
    let keys = agree_on_keys(&machine).await?;
    let authority = Arc::new(Authority::load_or_create(&machine.paths.pki(), machine.clock.clone())?);
    let proxies = access::proxy_authority(&options.access)?.unwrap_or_default();
    let setting = Arc::new(Setting {
        api_port: if machine.facts.link > 0 { INNER_API_PORT } else { machine.facts.api_port },
        trust: Arc::new(Trust::new(&authority.certificate_pem(), &proxies)?),
        authority,
        certificates: Certificates::new(machine.clock.clone()),
        scheduler: scheduler_config(&options)?,
        job_groups: features::job_groups(&options)?,
        machine,
        options,
    });
    let ranges = setting.machine.facts.ranges();
    let mut listeners = vec![bind((&ranges.any_address().to_string(), setting.api_port), API_PORT_ADVICE)?];
    listeners.extend(hosts_listener);
    let store = match &keys {
        Some(keys) => keys.store.clone(),
        None => open_store(&setting).await?,
    };
    let server = start_api_server(&setting, store.clone()).await?;
    agree(&server, &ranges).await?;
    let stop = watch::Sender::new(false);
    serve_api(&setting, &server, listeners, &stop)?;
    issue_kubeconfig(&setting)?;
    let informers =
        Informers::new(inprocess::client(&server, "system:apiserver", &["system:masters"], "skiff-informers"));
    let offices = offices::take(&setting, &server, &informers, &stop);
    let (worker, _ingresses) = if setting.options.disable_agent {
        (None, None)
    } else {
        // The first node takes the first part of the range; where there may be other servers, the controllers decide.
        let first = network::node_ranges(&setting.machine.facts)?;
        let first = setting.machine.facts.datastore.is_none().then_some(first);
        let client = node_client(&server, &setting.machine.facts.node_name);
        let mut machine = setting.machine.clone();
        ensure_pod_range(&mut machine, &client, first).await?;
        let worker = start_worker(&setting, &machine, &server, &informers).await?;
        (Some(worker), Some(ingress::start(&setting, &server, &informers)?))
    };
    let foundations = Arc::new(Foundations { setting: setting.clone(), server: server.clone(), keys });
    let facts = &setting.machine.facts;
    let command = Arc::new(NodeControl {
        node: informers.of::<Node>(),
        node_name: facts.node_name.clone(),
        api: format!("https://127.0.0.1:{}", facts.api_port),
        ranges,
        end: stop.clone(),
        images: worker.as_ref().map(|worker| NodeImages::of(&worker.runtime)),
        containers_too: Mutex::new(false),
        savable: Some(Savable { store, pki: setting.machine.paths.pki() }),
        certificates: setting.certificates.clone(),
        foundations: Some(foundations.clone()),
        follower: None,
    });
    control::serve(&setting.machine.paths.control_socket(), command.clone())?;
    setting.certificates.tell_of_authority("ca", &setting.authority.certificates());
    let renewing = tokio::spawn(setting.certificates.clone().keep());
    let following = tokio::spawn(async move { foundations.follow().await });
    tracing::info!(node = %facts.node_name, address = %setting.machine.address, "the control plane is up");
    let ending = wait_for_end(&stop, &setting.machine).await?;
    renewing.abort();
    following.abort();
    if let Some(worker) = worker {
        let containers_too = *command.containers_too.lock();
        worker.end(containers_too).await?;
    }
    offices.end().await;
    server.stop();
    Ok(ending)
}

/// Makes the machine a node, beside the control plane.
async fn start_worker(
    setting: &Setting,
    machine: &Machine,
    server: &Arc<ApiServer>,
    informers: &Informers,
) -> Result<Worker, CommandError> {
    let node_name = &machine.facts.node_name;
    let (authority, name, mut addresses) = (setting.authority.clone(), node_name.clone(), machine.addresses.clone());
    addresses.push(Ipv4Addr::LOCALHOST.into());
    let serving = setting.certificates.issue("kubelet-serving", move || {
        let purpose = Purpose::Server { names: std::slice::from_ref(&name), addresses: &addresses };
        authority.issue(&format!("system:node:{name}"), &purpose)
    })?;
    let ways = Ways {
        node: node_client(server, node_name),
        provisioner: inprocess::controller_client(server, "local-path-provisioner"),
        informers: informers.clone(),
    };
    Worker::start(machine, ways, Arc::new(setting.trust.of_agents.server_tls(serving)?)).await
}

fn node_client(server: &Arc<ApiServer>, node_name: &str) -> Client {
    inprocess::client(server, &format!("system:node:{node_name}"), &["system:nodes"], "kubelet")
}

/// Where the servers of the cluster give each other their keys: those are in this server's folder from then on.
async fn agree_on_keys(machine: &Machine) -> Result<Option<ServerKeys>, CommandError> {
    let datastore = machine.facts.datastore.as_ref();
    let Some(token) = datastore.and_then(|datastore| datastore.server_token.as_ref()) else { return Ok(None) };
    let store = datastore::open(datastore, &machine.paths, machine.clock.clone()).await?;
    ServerKeys::agree(store, &machine.paths.pki(), token, &machine.clock).await.map(Some)
}

async fn open_store(setting: &Setting) -> Result<Arc<dyn Store>, CommandError> {
    let machine = &setting.machine;
    let (datastore, clock) = (machine.facts.datastore.as_ref(), machine.clock.clone());
    if machine.facts.etcd.is_empty() {
        return datastore::open(datastore, &machine.paths, clock).await;
    }
    etcd::start(machine, &setting.certificates)?;
    datastore::open_patiently(datastore, &machine.paths, clock).await
}

async fn start_api_server(setting: &Setting, store: Arc<dyn Store>) -> Result<Arc<ApiServer>, CommandError> {
    let config = ApiConfig {
        version: VersionInfo {
            git_version: KUBERNETES_VERSION.to_owned(),
            ..VersionInfo::skiff(env!("CARGO_PKG_VERSION"))
        },
        service_cidrs: setting.machine.facts.ranges().services,
        first_objects: vec![setting.machine.facts.ranges().object()],
        node_port_range: NODE_PORTS,
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        advertise: SocketAddr::new(setting.machine.address, setting.api_port),
        service_accounts: Some(token_keys(setting)?),
        client_authorities: Some(setting.trust.clients.clone()),
        kubelet_tls: Some(Arc::new(kubelet_client_tls(setting)?)),
        front_proxy: Some(front_proxy(setting)?),
        admission: admission_settings(&setting.options.admission)?,
        shared_store: setting.machine.facts.datastore.is_some(),
        audit: audit::settings(&setting.options.audit)?,
        tokens: access::tokens(&setting.options.access)?,
        encryption: access::encryption(&setting.options.access),
        flow: access::flow(&setting.options.access),
        kinds: features::kinds(&setting.options)?,
        gates: features::gates(&setting.options.machine)?,
        gateway_api: !setting.options.disable_gateway_api,
        access: access::settings(&setting.options.access, &setting.authority.certificate_pem())?,
        ..ApiConfig::new(store, setting.machine.clock.clone(), setting.machine.ids.clone())
    };
    let server = ApiServer::new(config).await.map_err(|failure| failure.0.message)?;
    server.check_policies();
    server.keep_endpoints();
    server.keep_flows();
    server.keep_identity(setting.machine.facts.node_name.clone());
    Ok(server)
}

/// All servers of a cluster have the same ranges: those that the first one of them wrote down.
async fn agree(server: &Arc<ApiServer>, own: &Ranges) -> Result<(), CommandError> {
    let client = inprocess::client(server, "system:apiserver", &["system:masters"], "skiff-ranges");
    let told = Ranges::learn(&client).await?;
    if told == *own {
        return Ok(());
    }
    let text = |ranges: &Ranges| {
        let (pods, services) = (ranges::text(&ranges.pods), ranges::text(&ranges.services));
        format!("--cluster-cidr {pods} --service-cidr {services}")
    };
    Err(format!(
        "the cluster was set up with {}, and this server with {}: start it anew with the former (skiff delete)",
        text(&told),
        text(own)
    )
    .into())
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

/// What the user's KubeSchedulerConfiguration says, or the defaults; and whether there are groups of Pods.
fn scheduler_config(options: &NodeOptions) -> Result<skiff_scheduler::Config, CommandError> {
    let groups = features::groups(options)?;
    let Some(path) = &options.scheduler_config else {
        return Ok(skiff_scheduler::Config { groups, ..Default::default() });
    };
    let text = std::fs::read(path).map_err(|error| named(path, "read", error))?;
    let named = |error: String| format!("{}: {error}", path.display());
    let mut config = skiff_scheduler::Config::parse(&text, extenders::read_pem).map_err(named)?;
    if groups.groups && !config.extenders.is_empty() {
        let why = "extenders cannot be asked about groups of Pods, which the feature gate GenericWorkload brings";
        return Err(named(why.to_owned()).into());
    }
    extenders::connect(&mut config).map_err(named)?;
    Ok(skiff_scheduler::Config { groups, ..config })
}

/// What the tokens of service accounts are signed with, and believed by.
pub fn token_keys(setting: &Setting) -> io::Result<ServiceAccountKeys> {
    let keys = service_account_keys(&setting.machine.paths.pki())?;
    let issuer = format!("https://kubernetes.default.svc.{CLUSTER_DOMAIN}");
    Ok(ServiceAccountKeys { signing_key: keys.signing, former_keys: keys.former, issuer })
}

/// How the API server speaks to nodes' agents: trusting the cluster's authority, with a certificate of its own.
fn kubelet_client_tls(setting: &Setting) -> Result<rustls::ClientConfig, CommandError> {
    let authority = setting.authority.clone();
    let current = setting.certificates.issue("apiserver-kubelet-client", move || {
        authority.issue(KUBELET_CLIENT, &Purpose::Client { groups: &["system:masters"] })
    })?;
    Ok(setting.trust.servers.client_tls(current)?)
}

/// How the API server asks aggregated ones in somebody's name.
fn front_proxy(setting: &Setting) -> io::Result<FrontProxy> {
    let machine = &setting.machine;
    let authority = Authority::load_or_create_front_proxy(&machine.paths.pki(), machine.clock.clone())?;
    let authority_pem = authority.certificate_pem();
    setting.certificates.tell_of_authority("front-proxy-ca", &authority.certificates());
    let recipe = move || authority.issue(FRONT_PROXY_CLIENT, &Purpose::Client { groups: &[] });
    let current = setting.certificates.issue(FRONT_PROXY_CLIENT, recipe)?;
    Ok(FrontProxy {
        identity: Identity::changing(current),
        authority: authority_pem,
        name: FRONT_PROXY_CLIENT.to_owned(),
        client_authority: setting.authority.certificate_pem(),
    })
}

/// Every name and address that people reach the API server by.
fn api_names(setting: &Setting) -> (Vec<String>, Vec<IpAddr>) {
    let mut names: Vec<String> =
        ["localhost", "host.docker.internal", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .into_iter()
            .map(str::to_owned)
            .collect();
    names.push(format!("kubernetes.default.svc.{CLUSTER_DOMAIN}"));
    let mut addresses = vec![Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    addresses.extend(setting.machine.facts.ranges().kubernetes_service());
    addresses.extend(&setting.machine.addresses);
    if setting.machine.facts.link > 0 {
        addresses.push(Link::of(&setting.machine.facts).host().into());
    }
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let given = host
        .into_iter()
        .chain([setting.machine.facts.node_name.clone()])
        .chain(setting.options.tls_san.iter().cloned());
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
    let authority = setting.authority.clone();
    let current = setting.certificates.issue("apiserver", move || {
        let mut leaf = authority.issue("kube-apiserver", &Purpose::Server { names: &names, addresses: &addresses })?;
        // Who joins knows the authority by its digest only, and sees it here; or a former one.
        leaf.certificate_pem.push_str(&authority.certificate_pem());
        Ok(leaf)
    })?;
    let mut tls = setting.trust.clients.server_tls(current)?;
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

/// The administrator's kubeconfig, written anew with each certificate.
fn issue_kubeconfig(setting: &Setting) -> io::Result<()> {
    let (authority, paths) = (setting.authority.clone(), setting.machine.paths.clone());
    let server = format!("https://127.0.0.1:{}", setting.machine.facts.api_port);
    let write = move || {
        let admin = authority.issue("kubernetes-admin", &Purpose::Client { groups: &["system:masters"] })?;
        let config = kubeconfig::render(&context_name(&paths), &server, &authority.certificate_pem(), &admin);
        write_atomically(&paths.kubeconfig(), kubeconfig::to_yaml(&config)?.as_bytes(), 0o600)?;
        Ok(admin)
    };
    setting.certificates.issue("admin.kubeconfig", write).map(drop)
}
