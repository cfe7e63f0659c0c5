//! Follows the Gateway API's objects, as far as there is a reason to: nothing where its kinds are not defined, classes
//! and Gateways where they are, and routes only while there is a Gateway to serve. Definitions may come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};
use skiff_base::{Timestamp, clock};
use skiff_client::{Client, Definition, Informer, Informers, Kind, ObjectKey, Patch};
use skiff_kinds::bootstrap::{self, BUNDLE_VERSION, GATEWAY_CONTROLLER, GATEWAY_GROUP};
use tokio::sync::Notify;

use super::super::site::{Routes, World};
use super::super::status;
use super::api::{
    ClassSpec, Custom, Gateway, GatewayClass, GatewaySpec, GrantSpec, GrpcRouteSpec, HttpRouteSpec, Spec, TlsRouteSpec,
};
use super::class::class_status;
use super::plan::{Observed, Plan, plan};
use super::report::{addresses, gateway_status, ports, route_status};

/// How long a list may take before nobody waits for it any more; whoever changes something wakes all the same.
const LIST_PATIENCE: Duration = Duration::from_secs(10);

type Followed<S> = Option<Informer<Custom<S>>>;

/// What is followed.
pub struct Follower {
    informers: Informers,
    client: Client,
    wake: Arc<Notify>,
    definitions: Informer<Definition>,
    classes: Followed<ClassSpec>,
    gateways: Followed<GatewaySpec>,
    routes: Option<RouteInformers>,
    namespaces: Option<Informer<Namespace>>,
    /// Whether the first class was made, or was there; who deletes it has it no more until the next start.
    has_class: bool,
}

#[derive(Default)]
struct RouteInformers {
    http: Followed<HttpRouteSpec>,
    grpc: Followed<GrpcRouteSpec>,
    tls: Followed<TlsRouteSpec>,
    grants: Followed<GrantSpec>,
}

impl Follower {
    /// Follows definitions, and wakes whoever looks when something has changed.
    pub fn new(informers: Informers, client: Client, wake: Arc<Notify>) -> Self {
        let definitions = informers.of::<Definition>();
        let woken = wake.clone();
        definitions.on_change(move |change| {
            if change.object().spec.group == GATEWAY_GROUP {
                woken.notify_one();
            }
        });
        Self {
            informers,
            client,
            wake,
            definitions,
            classes: None,
            gateways: None,
            routes: None,
            namespaces: None,
            has_class: false,
        }
    }

    /// Follows what there is a reason to follow, and says of classes what is so; false if something is still to come.
    pub async fn refresh(&mut self, now: Timestamp) -> bool {
        let mut classes = self.classes.take();
        let mut gateways = self.gateways.take();
        self.keep(&mut classes);
        self.keep(&mut gateways);
        (self.classes, self.gateways) = (classes, gateways);
        let is_known = is_synced(&self.classes) && is_synced(&self.gateways);
        if !is_known {
            return false;
        }
        self.tell_classes(now).await;
        let is_needed = !self.ours().is_empty() || self.routes.as_ref().is_some_and(RouteInformers::still_tell_of_us);
        if !is_needed {
            self.routes = None;
            return true;
        }
        let mut routes = self.routes.take().unwrap_or_default();
        self.keep(&mut routes.http);
        self.keep(&mut routes.grpc);
        self.keep(&mut routes.tls);
        self.keep(&mut routes.grants);
        let mut is_known = routes.are_synced();
        self.routes = Some(routes);
        if self.namespaces.is_none() {
            let namespaces = self.informers.of::<Namespace>();
            self.wake_on(&namespaces);
            self.namespaces = Some(namespaces);
        }
        is_known &= self.namespaces.as_ref().is_some_and(Informer::is_synced);
        is_known
    }

    /// Starts to follow a kind that is served, and ends where it is not any more.
    fn keep<S: Spec>(&self, slot: &mut Followed<S>) {
        if !self.serves(S::PLURAL, S::VERSION) {
            *slot = None;
        } else if slot.is_none() {
            let informer = Informers::new(self.client.clone()).selected("", "", "");
            self.wake_on(&informer);
            *slot = Some(informer);
        }
    }

    fn wake_on<K: serde::de::DeserializeOwned + Send + Sync + 'static>(&self, informer: &Informer<K>) {
        let wake = self.wake.clone();
        informer.on_change(move |_| wake.notify_one());
        // An empty list is no change.
        let (wake, informer) = (self.wake.clone(), informer.clone());
        tokio::spawn(async move {
            if tokio::time::timeout(LIST_PATIENCE, informer.synced()).await.is_ok() {
                wake.notify_one();
            }
        });
    }

    /// Whether a version of a kind is defined, and served.
    fn serves(&self, plural: &str, version: &str) -> bool {
        let Some(definition) = self.definitions.get("", &format!("{plural}.{GATEWAY_GROUP}")) else { return false };
        definition.is_established()
            && definition.metadata.deletion_timestamp.is_none()
            && definition.spec.versions.iter().any(|known| known.name == version && known.served)
    }

    /// The Gateways of classes of ours.
    fn ours(&self) -> Vec<Arc<Gateway>> {
        let classes = self.classes.as_ref().map(Informer::list).unwrap_or_default();
        let is_ours = |gateway: &Arc<Gateway>| {
            let name = Some(gateway.spec.gateway_class_name.as_str());
            classes.iter().any(|class| is_class_of_ours(class) && class.metadata.name.as_deref() == name)
        };
        self.gateways.as_ref().map(Informer::list).unwrap_or_default().into_iter().filter(is_ours).collect()
    }

    /// Adds what Gateways ask for to what is served; nothing where not everything is known yet, or there is nothing.
    pub fn plan(
        &self,
        certificate: &dyn Fn(&ObjectKey) -> Result<(), String>,
        world: &dyn World,
        routes: &mut Routes,
        before: &Routes,
    ) -> Option<Plan> {
        let followed = self.routes.as_ref()?;
        let namespaces = self.namespaces.as_ref()?;
        let labels = |name: &str| namespaces.get("", name)?.metadata.labels.clone();
        let observed = Observed {
            gateways: &self.ours(),
            http: &list(&followed.http),
            grpc: &list(&followed.grpc),
            tls: &list(&followed.tls),
            grants: &list(&followed.grants),
            labels: &labels,
            certificate,
        };
        Some(plan(&observed, world, routes, before))
    }

    /// Writes what is not told yet. `ready` are the addresses of nodes that are ready.
    pub async fn report(
        &self,
        plan: &Plan,
        address: &str,
        ready: &BTreeSet<String>,
        is_open: impl Fn(u16) -> bool,
        now: Timestamp,
    ) {
        // What is not known yet is not told.
        if !self.routes.as_ref().is_some_and(RouteInformers::are_synced) {
            return;
        }
        let now = clock::rfc3339(now);
        for gateway in &plan.gateways {
            let serves = ports(gateway).into_iter().any(&is_open);
            let current = addresses(&gateway.gateway.status);
            let wanted = status::wanted(&current, address, serves, ready);
            let by_others = wanted.iter().any(|other| other != address);
            let status = gateway_status(gateway, &wanted, |port| by_others || is_open(port), &now);
            if status != gateway.gateway.status {
                let addresses = status.get("addresses").cloned().unwrap_or_default();
                let body = json!({"conditions": status["conditions"], "listeners": status["listeners"],
                    "addresses": addresses});
                let key = gateway.gateway.key();
                let path = Gateway::resource().object_path(&key.namespace, &key.name, "status");
                self.write(&path, gateway.gateway.metadata.resource_version.as_deref(), &body).await;
            }
        }
        for route in &plan.routes {
            if let Some(parents) = route_status(route, &now) {
                self.write(&route.path, route.version.as_deref(), &json!({"parents": parents})).await;
            }
        }
    }

    async fn write(&self, path: &str, version: Option<&str>, status: &Value) {
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
        match self.client.patch_raw(path, &patch).await {
            Ok(_) => {}
            // Who changed or deleted it wakes us.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => tracing::warn!(path, %error, "cannot write a status of the Gateway API"),
        }
    }

    /// Makes the first class, and says of all classes of ours what is so.
    async fn tell_classes(&mut self, now: Timestamp) {
        let Some(classes) = self.classes.as_ref().map(Informer::list) else { return };
        let first = bootstrap::gateway_class();
        let name = first["metadata"]["name"].as_str().unwrap_or_default();
        if !self.has_class && !classes.iter().any(|class| class.metadata.name.as_deref() == Some(name)) {
            let path = GatewayClass::resource().path("");
            match self.client.send_json::<Value>(Method::POST, &path, &first).await {
                Err(error) if !error.is_already_exists() => {
                    tracing::warn!(%error, "cannot make the first GatewayClass");
                    return;
                }
                _ => {}
            }
        }
        self.has_class = true;
        let definition = self.definitions.get("", &format!("{}.{GATEWAY_GROUP}", ClassSpec::PLURAL));
        let annotations: BTreeMap<String, String> =
            definition.and_then(|definition| definition.metadata.annotations.clone()).unwrap_or_default();
        let bundle = annotations.get(BUNDLE_VERSION).map(String::as_str);
        for class in classes.iter().filter(|class| is_class_of_ours(class)) {
            let status = class_status(class, bundle, &clock::rfc3339(now));
            if status != class.status {
                let key = class.key();
                let path = GatewayClass::resource().object_path("", &key.name, "status");
                self.write(&path, class.metadata.resource_version.as_deref(), &status).await;
            }
        }
    }
}

impl RouteInformers {
    fn are_synced(&self) -> bool {
        is_synced(&self.http) && is_synced(&self.grpc) && is_synced(&self.tls) && is_synced(&self.grants)
    }

    /// Whether the status of some route still says that a Gateway of ours serves it.
    fn still_tell_of_us(&self) -> bool {
        fn tells<S: Spec>(followed: &Followed<S>) -> bool {
            let is_own = |parent: &Value| parent["controllerName"] == GATEWAY_CONTROLLER;
            list(followed).iter().any(|route| route.status["parents"].as_array().into_iter().flatten().any(is_own))
        }
        tells(&self.http) || tells(&self.grpc) || tells(&self.tls)
    }
}

fn is_class_of_ours(class: &GatewayClass) -> bool {
    class.spec.controller_name == GATEWAY_CONTROLLER
}

/// What is not defined needs no list.
fn is_synced<S: Spec>(followed: &Followed<S>) -> bool {
    followed.as_ref().is_none_or(Informer::is_synced)
}

fn list<S: Spec>(followed: &Followed<S>) -> Vec<Arc<Custom<S>>> {
    followed.as_ref().map(Informer::list).unwrap_or_default()
}
