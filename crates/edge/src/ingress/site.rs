//! Everything that the proxy goes by: what is served at which port of the node, for Ingresses and Gateways alike.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, ServiceBackendPort};
use skiff_client::ObjectKey;

use super::annotations::{Options, Protocol};
use super::certificates::Wanted;
use super::choice::Choice;
use super::filters::Filters;
use super::hosts::{Hosts, bare_host};
use super::routes::add_ingresses;
use super::table::{Ask, Table};
use super::upstream::Upstream;

/// What a request is sent by.
#[derive(Debug, Clone)]
pub struct Route {
    /// Whose route it is, for the log.
    pub owner: Arc<str>,
    /// What it asks for.
    pub options: Arc<Options>,
    /// Whether clients without TLS are sent to where there is some.
    pub to_tls: bool,
    /// What is done to requests and answers.
    pub filters: Arc<Filters>,
    /// The prefix that the path has, without a slash at its end; empty where it matches otherwise.
    pub prefix: Arc<str>,
    /// Who answers.
    pub choice: Arc<Choice>,
}

impl Route {
    /// Whether a request need only be carried to an endpoint by HTTP/1.1, and its answer back.
    pub fn is_plain(&self, by_tls: bool) -> bool {
        (by_tls || !self.to_tls) && self.filters.is_empty() && self.choice.is_plain()
    }
}

/// What is known of Services and their endpoints.
pub trait World {
    /// A Service.
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>>;
    /// Its slices.
    fn slices(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>>;
}

/// What becomes of a TLS connection, by the name that it asks for.
#[derive(Debug, Clone)]
pub enum Secured {
    /// It ends here, and its requests are looked at.
    Ended,
    /// Its bytes go to whoever the route chooses, as they are.
    Passed(Route),
    /// It ends here, and the bytes in it go to whoever the route chooses.
    Unwrapped(Route),
    /// Nobody serves it.
    Refused,
}

/// What is served at a port.
#[derive(Debug, Default)]
pub struct Site {
    /// Whether clients speak TLS.
    pub is_tls: bool,
    /// Whether Ingresses are served there, too.
    pub has_ingresses: bool,
    /// The routes of each listener, by its host: the most specific one alone is asked.
    pub listeners: Hosts<Table<Route>>,
    /// What becomes of TLS connections.
    pub names: Hosts<Secured>,
    /// The certificates.
    pub certificates: Vec<Wanted>,
}

/// A port of a Service as somebody names it, and how he wants to speak to it.
type BackendKey = (ObjectKey, Option<String>, Option<i32>, Option<Protocol>);

/// Everything that the proxy goes by.
#[derive(Debug, Default)]
pub struct Routes {
    /// Where requests go by Ingresses, at all ports that have these.
    pub ingresses: Table<Route>,
    /// What is served, by port.
    pub sites: BTreeMap<u16, Site>,
    /// The Services that are named.
    pub services: BTreeSet<ObjectKey>,
    upstreams: HashMap<BackendKey, Arc<Upstream>>,
    /// The choices among several, so that turns go on when routes are made anew.
    choices: HashMap<String, Arc<Choice>>,
}

impl Routes {
    /// The routes of these Ingresses, all of which are ours, at a port without and one with TLS. Turns go on where those
    /// of the routes `before` are.
    pub fn of_ingresses(ingresses: &[Arc<Ingress>], ports: (u16, u16), world: &dyn World, before: &Self) -> Self {
        let mut routes = Self::default();
        if ingresses.is_empty() {
            return routes;
        }
        let mut certificates = Vec::new();
        add_ingresses(&mut routes, &mut certificates, ingresses, world, before);
        let mut secure = Site { is_tls: true, has_ingresses: true, certificates, ..Site::default() };
        secure.names.entry("", || Secured::Ended);
        for wanted in &secure.certificates {
            secure.names.entry(&wanted.host, || Secured::Ended);
        }
        routes.sites.insert(ports.0, Site { has_ingresses: true, ..Site::default() });
        routes.sites.insert(ports.1, secure);
        routes
    }

    /// Where a request at a port goes. What an Ingress says goes before what a Gateway says, and an Ingress's default
    /// backend behind both.
    pub fn find(&self, port: u16, ask: &Ask<'_>) -> Option<&Route> {
        let site = self.sites.get(&port)?;
        let ingresses = site.has_ingresses.then_some(&self.ingresses);
        let of_gateway = || {
            let host = bare_host(ask.host);
            let (_, listener) = site.listeners.of(&host).next()?;
            listener.find(ask)
        };
        let by_ingress = ingresses.and_then(|table| table.find(ask));
        by_ingress.or_else(of_gateway).or_else(|| ingresses?.find_fallback(ask.host))
    }

    /// What becomes of a TLS connection at a port.
    pub fn secured(&self, port: u16, name: &str) -> Secured {
        let name = bare_host(name);
        let found = self.sites.get(&port).and_then(|site| site.names.of(&name).next().map(|(_, found)| found.clone()));
        found.unwrap_or(Secured::Refused)
    }

    /// The addresses of all endpoints.
    pub fn endpoints(&self) -> BTreeSet<SocketAddr> {
        self.upstreams.values().flat_map(|upstream| upstream.endpoints.iter().copied()).collect()
    }

    /// The endpoints behind a port of a Service.
    pub fn upstream(
        &mut self,
        world: &dyn World,
        before: &Self,
        service: &ObjectKey,
        port: &ServiceBackendPort,
        asked: Option<Protocol>,
    ) -> Arc<Upstream> {
        let ServiceBackendPort { name, number } = port.clone();
        let key = (service.clone(), name, number, asked);
        self.services.insert(service.clone());
        if let Some(known) = self.upstreams.get(&key) {
            return known.clone();
        }
        let found = world.service(service);
        let slices = world.slices(service);
        let former = before.upstreams.get(&key);
        let upstream = Upstream::of(found.as_deref(), &slices, port, asked).following(former.map(Arc::as_ref));
        let upstream = Arc::new(upstream);
        self.upstreams.insert(key, upstream.clone());
        upstream
    }

    /// A choice of that name, in whose turn the one `before` goes on.
    pub fn choice(&mut self, before: &Self, name: String, choice: Choice) -> Arc<Choice> {
        let choice = Arc::new(choice.following(before.choices.get(&name).map(Arc::as_ref)));
        self.choices.insert(name, choice.clone());
        choice
    }
}
