//! From Ingresses to routes, and to the certificates that are shown to whom.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass, IngressSpec};
use skiff_client::ObjectKey;
use skiff_kinds::bootstrap::INGRESS_CONTROLLER;

use super::annotations::{Options, Redirect};
use super::certificates::Wanted;
use super::choice::Choice;
use super::filters::Filters;
use super::hosts::{bare_host, parent};
use super::site::{Route, Routes, World};
use super::table::PathMatch;
use super::upstream::Upstream;

/// How Ingresses named their class before it was a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Adds the routes of these Ingresses, all of which are ours. Where two want the same, the older one gets it.
pub fn add_ingresses(
    routes: &mut Routes,
    certificates: &mut Vec<Wanted>,
    ingresses: &[Arc<Ingress>],
    world: &dyn World,
    before: &Routes,
) {
    let mut by_age: Vec<&Arc<Ingress>> = ingresses.iter().collect();
    by_age.sort_by_key(|it| (it.metadata.creation_timestamp.clone(), ObjectKey::of(&it.metadata)));
    for ingress in by_age {
        let key = ObjectKey::of(&ingress.metadata);
        let owner: Arc<str> = format!("Ingress {key}").into();
        let (options, _) = Options::read(ingress.metadata.annotations.as_ref());
        let options = Arc::new(options);
        if let Some(spec) = &ingress.spec {
            Reader { routes, certificates, world, before, key, owner, options, spec }.read();
        }
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
    certificates: &'a mut Vec<Wanted>,
    world: &'a dyn World,
    before: &'a Routes,
    key: ObjectKey,
    owner: Arc<str>,
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
                let route = self.route(host, &path.backend);
                let text = path.path.as_deref().unwrap_or("/");
                let is_exact = path.path_type == "Exact";
                let path = if is_exact { PathMatch::Exact(text.to_owned()) } else { PathMatch::prefix(text) };
                self.routes.ingresses.add(host, path, route);
            }
        }
        if let Some(backend) = &self.spec.default_backend {
            // What its own hosts do not know goes there first, and what nobody knows.
            let hosts = rules().filter_map(|rule| rule.host.as_deref());
            for host in hosts.chain([""]) {
                let route = self.route(host, backend);
                self.routes.ingresses.add_fallback(host, route);
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
                of_rules.map(|host| bare_host(host).into_owned()).collect()
            } else {
                named.into_iter().map(|host| bare_host(host).into_owned()).collect()
            };
            let hosts = if hosts.is_empty() { vec![String::new()] } else { hosts };
            let wanted = hosts.into_iter().map(|host| Wanted { host, secret: secret.clone(), one_label: true });
            self.certificates.extend(wanted);
        }
    }

    fn route(&mut self, host: &str, backend: &IngressBackend) -> Route {
        let to_tls = match self.options.redirect {
            Redirect::Never => false,
            Redirect::IfTls => self.has_tls(host),
            Redirect::Always => true,
        };
        Route {
            owner: self.owner.clone(),
            options: self.options.clone(),
            to_tls,
            filters: Arc::new(Filters::default()),
            prefix: "".into(),
            choice: Arc::new(Choice::one(self.upstream(backend))),
        }
    }

    fn has_tls(&self, host: &str) -> bool {
        let host = bare_host(host);
        self.spec.tls.iter().flatten().any(|tls| {
            let mut hosts = tls.hosts.iter().flatten().map(|host| bare_host(host)).peekable();
            let covers = |known: Cow<'_, str>| {
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
        self.routes.upstream(self.world, self.before, &service, &port, self.options.protocol)
    }
}
