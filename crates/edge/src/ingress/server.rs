//! The part as a whole: follows the API, keeps the proxy's routes and certificates, takes the ports, writes the statuses.

use std::collections::btree_map::Entry;
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
use skiff_client::slices::{SlicesOfServices, service_of};
use skiff_client::{Change, Client, Informer, Informers, Kind, ObjectKey, Recorder};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::annotations::Options;
use super::certificates::{Certificates, parse_certificate};
use super::gateway::{Follower, Plan};
use super::lanes::Lanes;
use super::ports::{Port, Tls};
use super::proxy::Proxy;
use super::routes::is_ours;
use super::site::{Routes, World};
use super::status;

/// After one change others are collected for so long; the first one never waits.
const COALESCING: Duration = Duration::from_millis(5);
/// How often connections are looked through, and the nodes that are ready.
const CHECK: Duration = Duration::from_secs(10);
/// How often ports that were not free are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Secrets that can be certificates; no others are read.
const TLS_SECRETS: &str = "type=kubernetes.io/tls";

/// What it is made with.
pub struct IngressesConfig {
    /// Where everything but Secrets is read.
    pub informers: Informers,
    /// Its own client: it reads Secrets and what the Gateway API knows, and writes statuses.
    pub client: Client,
    /// Who tells what is wrong with Ingresses.
    pub recorder: Recorder,
    /// For how long things took.
    pub clock: SharedClock,
    /// The address of this node, which the status tells.
    pub address: IpAddr,
    /// Where HTTP is served for Ingresses. Gateways are served at other ports of the same address, too.
    pub http: SocketAddr,
    /// Where HTTP is served by TLS for Ingresses.
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
    /// Starts to serve Ingresses and Gateways in the calling thread's network namespace. No port is taken before there is one.
    ///
    /// # Errors
    /// The TLS stack cannot do what is needed.
    pub fn start(config: IngressesConfig) -> Result<Self, rustls::Error> {
        // Whatever is needed for TLS later on is there, or it is told now.
        Tls::new(Arc::new(Certificates::new(config.certificate.clone())))?;
        let slices = config.informers.of::<EndpointSlice>();
        let world = Cluster { services: config.informers.of(), of_service: SlicesOfServices::new(&slices) };
        let (sender, rounds) = watch::channel(0);
        let wake = Arc::<Notify>::default();
        let gateways = Follower::new(config.informers.clone(), config.client.clone(), wake.clone());
        let keeper = Keeper {
            ingresses: config.informers.of(),
            classes: config.informers.of(),
            nodes: config.informers.of(),
            secrets: Informers::new(config.client.clone()).selected("", "", TLS_SECRETS),
            slices,
            world,
            lanes: Lanes::new(Proxy::new(config.clock.clone())),
            gateways,
            ports: BTreeMap::new(),
            wake,
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

struct Cluster {
    services: Informer<Service>,
    of_service: SlicesOfServices,
}

impl World for Cluster {
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        self.services.by_key(key)
    }

    fn slices(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.of_service.of(key)
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
    lanes: Lanes,
    gateways: Follower,
    /// The ports that are needed, each with its certificates.
    ports: BTreeMap<u16, (Port, Arc<Certificates>)>,
    wake: Arc<Notify>,
    /// The Services that Ingresses and routes name: changes of others are none of ours.
    named: Arc<Mutex<BTreeSet<ObjectKey>>>,
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
            let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
            let has_ports = matches!(kind, Some("LoadBalancer" | "NodePort"));
            has_ports || named.lock().contains(&ObjectKey::of(&service.metadata))
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
                self.lanes.sweep();
            }
        }
    }

    /// Brings everything up to date; false if a port is not to be had, or something is still to come.
    async fn round(&mut self) -> bool {
        let classes = self.classes.list();
        let (ours, others): (Vec<_>, Vec<_>) =
            self.ingresses.list().into_iter().partition(|ingress| is_ours(ingress, &classes));
        let is_known = self.gateways.refresh(self.config.clock.now()).await;
        let (mut routes, mut plan) = self.plan(&ours);
        if *self.named.lock() != routes.services {
            self.named.lock().clone_from(&routes.services);
            // What changed before its name was known to matter has woken nobody.
            (routes, plan) = self.plan(&ours);
        }
        let (blocked, faults) = self.keep_ports(&routes);
        self.lanes.replace(routes);
        let lost = others.iter().filter(|ingress| self.told.contains_key(&ObjectKey::of(&ingress.metadata)));
        let lost: Vec<_> = lost.cloned().collect();
        let own_ports = [self.config.http.port(), self.config.https.port()];
        let of_ingresses = blocked.iter().filter(|(port, _)| own_ports.contains(port)).map(|(_, text)| text.clone());
        let of_ingresses: Vec<String> = of_ingresses.collect();
        self.tell(&ours, &faults, &of_ingresses);
        let serves = of_ingresses.len() < own_ports.len();
        let ready = status::ready_addresses(&self.nodes.list());
        for ingress in &ours {
            self.write_status(ingress, serves, &ready).await;
        }
        for ingress in &lost {
            self.write_status(ingress, false, &ready).await;
        }
        if let Some(plan) = plan {
            let address = self.config.address.to_string();
            let is_open = |port: u16| !blocked.contains_key(&port);
            self.gateways.report(&plan, &address, &ready, is_open, self.config.clock.now()).await;
        }
        blocked.is_empty() && is_known
    }

    /// What is to be served, and what is told of Gateways and their routes, where there are any.
    fn plan(&self, ours: &[Arc<Ingress>]) -> (Routes, Option<Plan>) {
        let before = self.lanes.routes();
        let ports = (self.config.http.port(), self.config.https.port());
        let mut routes = Routes::of_ingresses(ours, ports, &self.world, &before);
        let certificate = |key: &ObjectKey| {
            let secret = self.secrets.by_key(key);
            let secret = secret.ok_or_else(|| "is not there, or not of type kubernetes.io/tls".to_owned())?;
            parse_certificate(&secret).map(drop)
        };
        let plan = self.gateways.plan(&certificate, &self.world, &mut routes, &before);
        (routes, plan)
    }

    /// Takes the ports that are needed and gives away the others; says why not, for each that cannot be had, and which
    /// Secrets are no good for Ingresses.
    fn keep_ports(&mut self, routes: &Routes) -> (BTreeMap<u16, String>, Vec<(ObjectKey, String)>) {
        let is_needed =
            |port: &Port| routes.sites.get(&port.address.port()).is_some_and(|site| site.is_tls == port.is_tls());
        self.ports.retain(|_, (port, _)| is_needed(port));
        let services = self.world.services.list();
        let address = self.config.address.to_string();
        let (mut blocked, mut faults) = (BTreeMap::new(), Vec::new());
        for (number, site) in &routes.sites {
            let (port, certificates) = match self.ports.entry(*number) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let certificates = Arc::new(Certificates::new(self.config.certificate.clone()));
                    let tls = site.is_tls.then(|| Tls::new(certificates.clone())).transpose();
                    match tls {
                        Ok(tls) => {
                            let place = SocketAddr::new(self.config.http.ip(), *number);
                            entry.insert((Port::new(place, tls), certificates))
                        }
                        Err(error) => {
                            blocked.insert(*number, format!("port {number} cannot speak TLS: {error}"));
                            continue;
                        }
                    }
                }
            };
            let found = certificates.replace(&site.certificates, site.has_ingresses, |key| self.secrets.by_key(key));
            faults.extend(found.into_iter().filter(|_| site.has_ingresses));
            let reason = match (port.open(&mut self.lanes), status::port_owner(&services, &address, *number)) {
                (Err(error), _) => error.to_string(),
                (Ok(()), Some(service)) => format!("Service {service} has it"),
                (Ok(()), None) => continue,
            };
            blocked.insert(*number, format!(
                "port {number} of node address {address} cannot be served: {reason}; Ingresses are served there as soon as it is free"
            ));
        }
        (blocked, faults)
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
