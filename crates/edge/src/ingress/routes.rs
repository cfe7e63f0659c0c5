//! From Ingresses to the table of routes, and to the certificates that are shown to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass, IngressSpec, ServiceBackendPort};
use skiff_client::ObjectKey;
use skiff_kinds::bootstrap::INGRESS_CONTROLLER;

use super::annotations::{Options, Protocol};
use super::table::{PathKind, Table, bare_host, parent};
use super::upstream::Upstream;

/// How Ingresses named their class before it was a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What a request is sent by.
#[derive(Debug, Clone)]
pub struct Route {
    /// Whose route it is.
    pub ingress: Arc<ObjectKey>,
    /// What its Ingress asks for.
    pub options: Arc<Options>,
    /// Whether its Ingress has a certificate for the host.
    pub has_tls: bool,
    /// Who answers.
    pub upstream: Arc<Upstream>,
}

/// What is known of Services and their endpoints.
pub trait World {
    /// A Service.
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>>;
    /// Its slices.
    fn slices(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>>;
}

/// A port of a Service, as an Ingress names it, and how it wants to speak to it.
type BackendKey = (ObjectKey, Option<String>, Option<i32>, bool, bool);

/// Everything that the proxy goes by.
#[derive(Debug, Default)]
pub struct Routes {
    /// Where requests go.
    pub table: Table<Route>,
    /// Which secret has the certificate for a host; all hosts, if it is empty. The first one for a host counts.
    pub certificates: Vec<(String, ObjectKey)>,
    /// The Services that are named.
    pub services: BTreeSet<ObjectKey>,
    upstreams: BTreeMap<BackendKey, Arc<Upstream>>,
}

impl Routes {
    /// The routes of these Ingresses, all of which are ours. Where two want the same, the older one gets it. Turns go on
    /// where those of the routes `before` are.
    pub fn of(ingresses: &[Arc<Ingress>], world: &dyn World, before: &Self) -> Self {
        let mut by_age: Vec<&Arc<Ingress>> = ingresses.iter().collect();
        by_age.sort_by_key(|it| (it.metadata.creation_timestamp.clone(), ObjectKey::of(&it.metadata)));
        let mut routes = Self::default();
        for ingress in by_age {
            let key = Arc::new(ObjectKey::of(&ingress.metadata));
            let (options, _) = Options::read(ingress.metadata.annotations.as_ref());
            let options = Arc::new(options);
            if let Some(spec) = &ingress.spec {
                Reader { routes: &mut routes, world, before, key, options, spec }.read();
            }
        }
        routes
    }

    /// The addresses of all endpoints.
    pub fn endpoints(&self) -> BTreeSet<std::net::SocketAddr> {
        self.upstreams.values().flat_map(|upstream| upstream.endpoints.iter().copied()).collect()
    }
}

/// Whether the Ingress is for one of these classes to serve; those of others' are not counted among them.
pub fn is_ours(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    let annotation = || ingress.metadata.annotations.as_ref()?.get(CLASS_ANNOTATION);
    let Some(name) = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref()).or_else(annotation) else {
        return false;
    };
    let is_served = |class: &IngressClass| {
        class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(INGRESS_CONTROLLER)
    };
    classes.iter().any(|class| class.metadata.name.as_ref() == Some(name) && is_served(class))
}

struct Reader<'a> {
    routes: &'a mut Routes,
    world: &'a dyn World,
    before: &'a Routes,
    key: Arc<ObjectKey>,
    options: Arc<Options>,
    spec: &'a IngressSpec,
}

impl Reader<'_> {
    fn read(&mut self) {
        self.read_certificates();
        let rules = || self.spec.rules.iter().flatten();
        for rule in rules() {
            let host = rule.host.as_deref().unwrap_or_default();
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let kind = if path.path_type == "Exact" { PathKind::Exact } else { PathKind::Prefix };
                let route = self.route(host, &path.backend);
                self.routes.table.add(host, kind, path.path.as_deref().unwrap_or("/"), route);
            }
        }
        if let Some(backend) = &self.spec.default_backend {
            // What its own hosts do not know goes there first, and what nobody knows.
            let hosts = rules().filter_map(|rule| rule.host.as_deref());
            for host in hosts.chain([""]) {
                let route = self.route(host, backend);
                self.routes.table.add_fallback(host, route);
            }
        }
    }

    /// A certificate for no host in particular is for those of the rules.
    fn read_certificates(&mut self) {
        for tls in self.spec.tls.iter().flatten() {
            let Some(secret) = tls.secret_name.as_ref().filter(|name| !name.is_empty()) else { continue };
            let secret = ObjectKey::new(self.key.namespace.as_str(), secret.as_str());
            let named: Vec<&String> = tls.hosts.iter().flatten().collect();
            let of_rules = self.spec.rules.iter().flatten().map(|rule| rule.host.as_deref().unwrap_or_default());
            let hosts: Vec<String> = if named.is_empty() {
                of_rules.map(bare_host).collect()
            } else {
                named.into_iter().map(|host| bare_host(host)).collect()
            };
            let hosts = if hosts.is_empty() { vec![String::new()] } else { hosts };
            self.routes.certificates.extend(hosts.into_iter().map(|host| (host, secret.clone())));
        }
    }

    fn route(&mut self, host: &str, backend: &IngressBackend) -> Route {
        Route {
            ingress: self.key.clone(),
            options: self.options.clone(),
            has_tls: self.has_tls(host),
            upstream: self.upstream(backend),
        }
    }

    fn has_tls(&self, host: &str) -> bool {
        let host = bare_host(host);
        self.spec.tls.iter().flatten().any(|tls| {
            let mut hosts = tls.hosts.iter().flatten().map(|host| bare_host(host)).peekable();
            let covers = |known: String| {
                known == host || known.strip_prefix("*.").is_some_and(|domain| parent(&host) == Some(domain))
            };
            hosts.peek().is_none() || hosts.any(covers)
        })
    }

    fn upstream(&mut self, backend: &IngressBackend) -> Arc<Upstream> {
        // A backend that is some other resource is nothing that could be asked by HTTP.
        let Some(named) = &backend.service else { return Arc::new(Upstream::none()) };
        let service = ObjectKey::new(self.key.namespace.as_str(), named.name.as_str());
        let port = named.port.clone().unwrap_or_default();
        let asked = self.options.protocol;
        let ServiceBackendPort { name, number } = port.clone();
        let key = (service.clone(), name, number, asked.is_some(), asked == Some(Protocol::Http2));
        self.routes.services.insert(service.clone());
        if let Some(known) = self.routes.upstreams.get(&key) {
            return known.clone();
        }
        let found = self.world.service(&service);
        let slices = self.world.slices(&service);
        let before = self.before.upstreams.get(&key);
        let upstream = Upstream::of(found.as_deref(), &slices, &port, asked).following(before.map(Arc::as_ref));
        let upstream = Arc::new(upstream);
        self.routes.upstreams.insert(key, upstream.clone());
        upstream
    }
}
