//! From Gateways and their routes to what is served, and to what is told of them: one pure function over everything
//! that is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use skiff_client::selectors::Labels;
use skiff_client::{Kind, ObjectKey};

use super::super::certificates::Wanted;
use super::super::site::{Routes, Secured, World};
use super::super::table::Table;
use super::api::{Custom, Gateway, GrpcRoute, HttpRoute, ParentRef, ReferenceGrant, TlsRoute};
use super::attach::{RouteSpec, attach};
use super::backends::Finder;
use super::conditions::Condition;
use super::listeners::{ListenerState, listeners};

/// What there is. The Gateways are all of classes of ours.
pub struct Observed<'a> {
    /// The Gateways.
    pub gateways: &'a [Arc<Gateway>],
    /// Routes by HTTP.
    pub http: &'a [Arc<HttpRoute>],
    /// Routes by gRPC.
    pub grpc: &'a [Arc<GrpcRoute>],
    /// Routes by names in TLS.
    pub tls: &'a [Arc<TlsRoute>],
    /// What is allowed across namespaces.
    pub grants: &'a [Arc<ReferenceGrant>],
    /// The labels of a namespace.
    pub labels: &'a dyn Fn(&str) -> Option<Labels>,
    /// Whether a Secret is a certificate that can be shown, or why not.
    pub certificate: &'a dyn Fn(&ObjectKey) -> Result<(), String>,
}

/// What was found out about a Gateway.
#[derive(Debug)]
pub struct GatewayPlan {
    /// Which one.
    pub gateway: Arc<Gateway>,
    /// Why it is not served at all.
    pub refused: Option<Condition>,
    /// Its listeners.
    pub listeners: Vec<ListenerState>,
}

/// What is told of one parent of a route.
#[derive(Debug)]
pub struct ParentPlan {
    /// Which one.
    pub parent: ParentRef,
    /// What.
    pub conditions: Vec<Condition>,
}

/// What is told of a route.
#[derive(Debug)]
pub struct RoutePlan {
    /// The path of its status.
    pub path: String,
    /// Which version of its spec was looked at.
    pub generation: i64,
    /// Which version of the object was looked at.
    pub version: Option<String>,
    /// What its status says now.
    pub status: Value,
    /// What is told.
    pub parents: Vec<ParentPlan>,
}

/// What is told of everything.
#[derive(Debug)]
pub struct Plan {
    /// Of Gateways.
    pub gateways: Vec<GatewayPlan>,
    /// Of routes.
    pub routes: Vec<RoutePlan>,
}

/// Adds what Gateways and their routes ask for to what is served. Who is older goes first; turns go on where those of
/// the routes `before` are.
pub fn plan(observed: &Observed<'_>, world: &dyn World, routes: &mut Routes, before: &Routes) -> Plan {
    let mut ports: BTreeMap<u16, bool> = routes.sites.iter().map(|(port, site)| (*port, site.is_tls)).collect();
    let mut gateways: Vec<GatewayPlan> = Vec::new();
    for gateway in by_age(observed.gateways) {
        let plan = GatewayPlan {
            gateway: gateway.clone(),
            refused: refused(gateway),
            listeners: listeners(gateway, &mut ports, observed),
        };
        if plan.refused.is_none() {
            open(&plan, routes);
        }
        gateways.push(plan);
    }
    let mut plans = Vec::new();
    add(observed.http, &mut gateways, &mut plans, observed, world, routes, before);
    add(observed.grpc, &mut gateways, &mut plans, observed, world, routes, before);
    add(observed.tls, &mut gateways, &mut plans, observed, world, routes, before);
    for plan in gateways.iter().filter(|plan| plan.refused.is_none()) {
        refuse_the_rest(plan, routes);
    }
    Plan { gateways, routes: plans }
}

fn by_age<S: super::api::Spec>(objects: &[Arc<Custom<S>>]) -> Vec<&Arc<Custom<S>>> {
    let mut sorted: Vec<_> = objects.iter().collect();
    sorted.sort_by_key(|object| (object.metadata.creation_timestamp.clone(), object.key()));
    sorted
}

/// Why a Gateway is not served at all.
fn refused(gateway: &Gateway) -> Option<Condition> {
    let parameters = gateway.spec.infrastructure.as_ref().and_then(|asked| asked.parameters_ref.as_ref());
    if parameters.is_some() {
        return Some(Condition::no("Accepted", "InvalidParameters", "This controller has no parameters"));
    }
    let addresses = !gateway.spec.addresses.is_empty();
    let message = "Addresses cannot be chosen: Gateways are served at those of the nodes";
    addresses.then(|| Condition::no("Accepted", "UnsupportedAddress", message))
}

/// Makes place for a Gateway's listeners.
fn open(plan: &GatewayPlan, routes: &mut Routes) {
    for state in plan.listeners.iter().filter(|state| state.is_usable()) {
        let site = routes.sites.entry(state.spec.port).or_default();
        site.is_tls = state.is_tls();
        if state.spec.protocol != "TLS" {
            site.listeners.entry(state.host(), Table::default);
        }
        if state.spec.protocol == "HTTPS" {
            site.names.entry(state.host(), || Secured::Ended);
        }
        let wanted = |secret: &ObjectKey| Wanted {
            host: state.host().to_ascii_lowercase(),
            secret: secret.clone(),
            one_label: false,
        };
        site.certificates.extend(state.certificates.iter().map(wanted));
    }
}

/// Names of TLS listeners that no route is for.
fn refuse_the_rest(plan: &GatewayPlan, routes: &mut Routes) {
    let is_stream = |state: &&ListenerState| state.spec.protocol == "TLS" && state.is_usable();
    for state in plan.listeners.iter().filter(is_stream) {
        routes.sites.entry(state.spec.port).or_default().names.entry(state.host(), || Secured::Refused);
    }
}

/// Adds all routes of a kind.
fn add<S: RouteSpec>(
    objects: &[Arc<Custom<S>>],
    gateways: &mut [GatewayPlan],
    plans: &mut Vec<RoutePlan>,
    observed: &Observed<'_>,
    world: &dyn World,
    routes: &mut Routes,
    before: &Routes,
) {
    for route in by_age(objects) {
        let (kind, namespace, protocol) = (S::KIND, route.namespace(), S::PROTOCOL);
        let finder = Finder { observed, world, routes, before, kind, namespace, protocol, fault: None };
        let parents = attach(route, gateways, finder);
        let key = route.key();
        plans.push(RoutePlan {
            path: Custom::<S>::resource().object_path(&key.namespace, &key.name, "status"),
            generation: route.generation(),
            version: route.metadata.resource_version.clone(),
            status: route.status.clone(),
            parents,
        });
    }
}
