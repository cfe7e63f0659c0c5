//! The ports on which balancers ask for one Service each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use skiff_base::clock::SharedClock;
use skiff_client::{ObjectKey, Recorder};
use tokio::task::JoinHandle;

use super::answer::{Answer, NodeHealth};
use super::serve::{listen, serve};
use crate::rules::api;
use crate::rules::service::Backend;

/// Serves the ports of all Services that have one.
pub struct HealthChecks {
    node_name: String,
    /// Where the ports are: on every address of the node.
    everywhere: IpAddr,
    recorder: Recorder,
    health: Arc<NodeHealth>,
    clock: SharedClock,
    wanted: BTreeMap<ObjectKey, Wanted>,
    served: BTreeMap<ObjectKey, Served>,
}

struct Wanted {
    port: u16,
    /// How many endpoints on this node take new connections.
    endpoints: Arc<AtomicUsize>,
    /// It was told already that the port cannot be had.
    is_refused: bool,
}

struct Served {
    port: u16,
    task: JoinHandle<()>,
}

impl HealthChecks {
    /// None yet. A listener on the unspecified address of IPv6 is asked over IPv4 as well.
    pub fn new(
        node_name: String,
        everywhere: IpAddr,
        recorder: Recorder,
        health: Arc<NodeHealth>,
        clock: SharedClock,
    ) -> Self {
        Self { node_name, everywhere, recorder, health, clock, wanted: BTreeMap::new(), served: BTreeMap::new() }
    }

    /// Takes note of what the Service wants now, if it is still there.
    pub fn note(&mut self, key: &ObjectKey, service: Option<&Service>, backends: &[Backend]) {
        let Some(port) = service.and_then(api::health_check_port) else {
            self.wanted.remove(key);
            return;
        };
        let ready = backends.iter().filter(|backend| backend.is_local && backend.is_ready);
        let addresses: BTreeSet<IpAddr> = ready.map(|backend| backend.endpoint.address).collect();
        if self.wanted.get(key).is_none_or(|wanted| wanted.port != port) {
            self.wanted.insert(key.clone(), Wanted { port, endpoints: Arc::default(), is_refused: false });
        }
        self.wanted[key].endpoints.store(addresses.len(), Ordering::Relaxed);
    }

    /// Closes the ports that are not wanted any more, then opens those that are; one that cannot be opened is tried
    /// again the next time.
    pub async fn apply(&mut self) {
        let is_wanted =
            |key: &ObjectKey, served: &Served| self.wanted.get(key).is_some_and(|wanted| wanted.port == served.port);
        let gone: Vec<ObjectKey> =
            self.served.iter().filter(|(key, served)| !is_wanted(key, served)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            if let Some(served) = self.served.remove(&key) {
                served.task.abort();
                // Its port is free only when it has ended; that it was cancelled is what was asked for.
                drop(served.task.await);
            }
        }
        for (key, wanted) in &mut self.wanted {
            if self.served.contains_key(key) {
                continue;
            }
            match listen(SocketAddr::new(self.everywhere, wanted.port)) {
                Ok(listener) => {
                    let (key, endpoints) = (key.clone(), wanted.endpoints.clone());
                    let (health, clock) = (self.health.clone(), self.clock.clone());
                    let name = key.clone();
                    let answer = move |_: &str| {
                        let is_healthy = health.is_healthy(clock.now());
                        Answer::of_service(&key, endpoints.load(Ordering::Relaxed), is_healthy)
                    };
                    let task = tokio::spawn(serve(listener, answer));
                    self.served.insert(name, Served { port: wanted.port, task });
                }
                Err(error) if !wanted.is_refused => {
                    wanted.is_refused = true;
                    let (node, port) = (&self.node_name, wanted.port);
                    let message = format!("node {node} failed to start healthcheck \"{key}\" on port {port}: {error}");
                    tracing::warn!("{message}");
                    let service = ObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("Service".into()),
                        namespace: Some(key.namespace.clone()),
                        name: Some(key.name.clone()),
                        uid: Some(key.to_string()),
                        ..ObjectReference::default()
                    };
                    self.recorder.record(&service, true, "FailedToStartServiceHealthcheck", message);
                }
                Err(error) => tracing::debug!(service = %key, %error, "still no port for its health check"),
            }
        }
    }
}

impl Drop for HealthChecks {
    fn drop(&mut self) {
        self.served.values().for_each(|served| served.task.abort());
    }
}
