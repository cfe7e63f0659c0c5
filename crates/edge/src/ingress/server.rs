//! The part as a whole: follows the API, keeps the proxy's routes and certificates, takes the ports, writes the status.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use parking_lot::Mutex;
use rustls::server::ResolvesServerCert;
use skiff_base::clock::SharedClock;
use skiff_client::{Change, Client, Index, Informer, Informers, Kind, ObjectKey, Recorder};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::annotations::Options;
use super::certificates::Certificates;
use super::ports::Port;
use super::proxy::Proxy;
use super::routes::{Routes, World, is_ours};
use super::status;

/// After one change others are collected for so long; the first one never waits.
const COALESCING: Duration = Duration::from_millis(5);
/// How often connections are looked through, and the nodes that are ready.
const CHECK: Duration = Duration::from_secs(10);
/// How often ports that were not free are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Secrets that can be certificates; no others are read.
const TLS_SECRETS: &str = "type=kubernetes.io/tls";
/// The protocols that TLS clients can choose from, the best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What it is made with.
pub struct IngressesConfig {
    /// Where everything but Secrets is read.
    pub informers: Informers,
    /// Its own client: it reads Secrets and writes the status of Ingresses.
    pub client: Client,
    /// Who tells what is wrong with Ingresses.
    pub recorder: Recorder,
    /// For how long things took.
    pub clock: SharedClock,
    /// The address of this node, which the status tells.
    pub address: IpAddr,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where HTTP is served by TLS.
    pub https: SocketAddr,
    /// For names that no Secret has a certificate for.
    pub certificate: Arc<dyn ResolvesServerCert>,
}

/// The running part; it ends when this is dropped.
pub struct Ingresses {
    task: JoinHandle<()>,
    rounds: watch::Receiver<u64>,
}

impl Ingresses {
    /// Starts to serve Ingresses in the calling thread's network namespace. No port is taken before there is one.
    ///
    /// # Errors
    /// The TLS stack cannot do what is needed.
    pub fn start(config: IngressesConfig) -> Result<Self, rustls::Error> {
        let certificates = Arc::new(Certificates::new(config.certificate.clone()));
        let tls = tls_acceptor(certificates.clone())?;
        let slices = config.informers.of::<EndpointSlice>();
        let world = Cluster {
            services: config.informers.of(),
            of_service: slices.index("ingress-by-service", |slice| service_of(slice).map(Cow::Owned)),
        };
        let (sender, rounds) = watch::channel(0);
        let keeper = Keeper {
            ingresses: config.informers.of(),
            classes: config.informers.of(),
            nodes: config.informers.of(),
            secrets: Informers::new(config.client.clone()).selected("", "", TLS_SECRETS),
            slices,
            world,
            proxy: Arc::new(Proxy::new(config.clock.clone())),
            certificates,
            ports: [Port::new(config.http, None), Port::new(config.https, Some(tls))],
            wake: Arc::default(),
            named: Arc::default(),
            told: BTreeMap::new(),
            rounds: sender,
            config,
        };
        keeper.observe();
        Ok(Self { task: tokio::spawn(keeper.run()), rounds })
    }

    /// How often it has looked at everything and acted.
    pub fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.clone()
    }
}

impl Drop for Ingresses {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tls_acceptor(certificates: Arc<Certificates>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The Service of a slice, as `namespace/name`.
fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref()?, name.as_str()).to_string())
}

struct Cluster {
    services: Informer<Service>,
    of_service: Index<EndpointSlice>,
}

impl World for Cluster {
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        self.services.by_key(key)
    }

    fn slices(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.of_service.of(&key.to_string())
    }
}

struct Keeper {
    config: IngressesConfig,
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
    nodes: Informer<Node>,
    secrets: Informer<Secret>,
    slices: Informer<EndpointSlice>,
    world: Cluster,
    proxy: Arc<Proxy>,
    certificates: Arc<Certificates>,
    ports: [Port; 2],
    wake: Arc<Notify>,
    /// The Services that Ingresses name, as `namespace/name`: changes of others are none of ours.
    named: Arc<Mutex<BTreeSet<String>>>,
    /// What was told of each of our Ingresses, so that it is told once.
    told: BTreeMap<ObjectKey, BTreeSet<String>>,
    rounds: watch::Sender<u64>,
}

impl Keeper {
    fn observe(&self) {
        self.wake_on(&self.ingresses, |_| true);
        self.wake_on(&self.classes, |_| true);
        self.wake_on(&self.secrets, |_| true);
        let named = self.named.clone();
        self.wake_on(&self.slices, move |slice| service_of(slice).is_some_and(|key| named.lock().contains(&key)));
        let named = self.named.clone();
        self.wake_on(&self.world.services, move |service: &Service| {
            let is_balanced = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
            is_balanced || named.lock().contains(&ObjectKey::of(&service.metadata).to_string())
        });
        // Which nodes are ready is told in the status alone, and looked at from time to time.
    }

    fn wake_on<K: Kind>(&self, informer: &Informer<K>, concerns: impl Fn(&K) -> bool + Send + Sync + 'static) {
        let wake = self.wake.clone();
        informer.on_change(move |change| {
            let did = matches!(change, Change::Updated { old, .. } if concerns(old));
            if did || concerns(change.object()) {
                wake.notify_one();
            }
        });
    }

    async fn run(mut self) {
        self.ingresses.synced().await;
        self.classes.synced().await;
        self.nodes.synced().await;
        self.secrets.synced().await;
        self.slices.synced().await;
        self.world.services.synced().await;
        loop {
            let is_complete = self.round().await;
            self.rounds.send_modify(|count| *count += 1);
            tokio::time::sleep(COALESCING).await;
            let wake = self.wake.clone();
            let pause = if is_complete { CHECK } else { RETRY };
            if tokio::time::timeout(pause, wake.notified()).await.is_err() {
                self.proxy.sweep();
            }
        }
    }

    /// Brings everything up to date; false if a port is not to be had.
    async fn round(&mut self) -> bool {
        let classes = self.classes.list();
        let (ours, others): (Vec<_>, Vec<_>) =
            self.ingresses.list().into_iter().partition(|ingress| is_ours(ingress, &classes));
        let mut routes = Routes::of(&ours, &self.world, &self.proxy.routes());
        let named = |key: &ObjectKey| key.to_string();
        let services: BTreeSet<String> = routes.services.iter().map(named).collect();
        if *self.named.lock() != services {
            *self.named.lock() = services;
            // What changed before its name was known to matter has woken nobody.
            routes = Routes::of(&ours, &self.world, &self.proxy.routes());
        }
        let faults = self.certificates.replace(&routes.certificates, |key| self.secrets.by_key(key));
        self.proxy.replace(routes);
        let blocked = self.keep_ports(!ours.is_empty());
        let lost = others.iter().filter(|ingress| self.told.contains_key(&ObjectKey::of(&ingress.metadata)));
        let lost: Vec<_> = lost.cloned().collect();
        self.tell(&ours, &faults, &blocked);
        let serves = blocked.len() < self.ports.len();
        let ready = status::ready_addresses(&self.nodes.list());
        for ingress in &ours {
            self.write_status(ingress, serves, &ready).await;
        }
        for ingress in &lost {
            self.write_status(ingress, false, &ready).await;
        }
        blocked.is_empty()
    }

    /// Takes the ports while they are needed; says why not, for each that cannot be had.
    fn keep_ports(&mut self, are_needed: bool) -> Vec<String> {
        if !are_needed {
            self.ports.iter_mut().for_each(Port::close);
            return Vec::new();
        }
        let services = self.world.services.list();
        let address = self.config.address.to_string();
        let mut blocked = Vec::new();
        for port in &mut self.ports {
            let number = port.address.port();
            let reason = match (port.open(&self.proxy), status::port_owner(&services, &address, number)) {
                (Err(error), _) => error.to_string(),
                (Ok(()), Some(service)) => format!("Service {service} has it"),
                (Ok(()), None) => continue,
            };
            blocked.push(format!(
                "port {number} of node address {address} cannot be served: {reason}; Ingresses are served there as soon as it is free"
            ));
        }
        blocked
    }

    /// Tells what is wrong, once for each Ingress that it concerns.
    fn tell(&mut self, ours: &[Arc<Ingress>], faults: &[(ObjectKey, String)], blocked: &[String]) {
        let mut told = BTreeMap::new();
        for ingress in ours {
            let key = ObjectKey::of(&ingress.metadata);
            let mut texts: BTreeSet<(&str, String)> = blocked.iter().map(|text| ("PortInUse", text.clone())).collect();
            let secrets = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
            let secrets: Vec<_> = secrets.filter_map(|tls| tls.secret_name.as_deref()).collect();
            let concerns = |(secret, _): &&(ObjectKey, String)| {
                secret.namespace == key.namespace && secrets.contains(&secret.name.as_str())
            };
            let of_secrets = faults.iter().filter(concerns);
            texts.extend(of_secrets.map(|(secret, reason)| ("BadCertificate", format!("Secret {secret} {reason}"))));
            let (_, of_annotations) = Options::read(ingress.metadata.annotations.as_ref());
            texts.extend(of_annotations.into_iter().map(|text| ("BadAnnotation", text)));
            let before = self.told.get(&key);
            for (reason, text) in &texts {
                if before.is_none_or(|before| !before.contains(text)) {
                    tracing::warn!(ingress = %key, "{text}");
                    self.config.recorder.warning(&**ingress, reason, text.clone());
                }
            }
            told.insert(key, texts.into_iter().map(|(_, text)| text).collect());
        }
        self.told = told;
    }

    async fn write_status(&self, ingress: &Ingress, serves: bool, ready: &BTreeSet<String>) {
        let current = status::current(ingress);
        let wanted = status::wanted(&current, &self.config.address.to_string(), serves, ready);
        if wanted == current {
            return;
        }
        let key = ObjectKey::of(&ingress.metadata);
        let patch = status::patch(&wanted);
        let written = self.config.client.patch::<Ingress>(&key.namespace, &key.name, "status", &patch).await;
        match written {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            // The next look is soon.
            Err(error) => tracing::warn!(ingress = %key, %error, "cannot write the status of an Ingress"),
        }
    }
}
