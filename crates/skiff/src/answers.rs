//! What a running node answers on its control socket, and how it is told to end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_client::Informer;
use skiff_store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::certificates::Certificates;
use crate::commands::CommandError;
use crate::control::Control;
use crate::foundations::Foundations;
use crate::images::{self, NodeImages};
use crate::join::member::Follower;
use crate::machine::{Ending, Machine};
use crate::ranges::{self, Ranges};
use crate::snapshot;
use crate::worker::KUBERNETES_VERSION;

/// What can be saved of a server.
pub struct Savable {
    /// The cluster's objects.
    pub store: Arc<dyn Store>,
    /// The cluster's keys.
    pub pki: PathBuf,
}

/// What the node's other commands can ask of it.
pub struct NodeControl {
    /// The node as the API server has it.
    pub node: Informer<Node>,
    /// Its name.
    pub node_name: String,
    /// Where the API server is.
    pub api: String,
    /// The cluster's ranges of addresses.
    pub ranges: Ranges,
    /// Tells everything to end.
    pub end: watch::Sender<bool>,
    /// Whether containers end too.
    pub containers_too: Mutex<bool>,
    /// None where this machine is no node.
    pub images: Option<NodeImages>,
    /// None where this machine is no server.
    pub savable: Option<Savable>,
    /// What the node shows that it is itself.
    pub certificates: Arc<Certificates>,
    /// None where this machine is no server.
    pub foundations: Option<Arc<Foundations>>,
    /// None where this machine is no agent.
    pub follower: Option<Arc<Follower>>,
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
                let savable = self.savable.as_ref();
                let Savable { store, pki } = savable.ok_or("the cluster is saved on one of its servers, not here")?;
                let saved = snapshot::save(&**store, pki, &file).await;
                saved.map(|revision| json!({ "revision": revision })).map_err(|error| error.to_string())
            }
            (&Method::POST, "/foundations") => match (&self.foundations, &self.follower) {
                (Some(foundations), _) => foundations.reload().await,
                (None, Some(follower)) => {
                    let learnt = follower.look().await;
                    learnt.map(|is_new| json!({ "new": is_new })).map_err(|error| error.to_string())
                }
                (None, None) => Err("this machine is no server of its cluster".to_owned()),
            },
            (&Method::PUT, "/server-token") => {
                let foundations = self.foundations.as_ref().ok_or("this machine is no server of its cluster")?;
                foundations.exchange_server_token(body["token"].as_str().unwrap_or_default()).await
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
        let role = if self.savable.is_some() { "server" } else { "agent" };
        json!({"node": self.node_name, "ready": ready, "agent": agent, "role": role,
            "version": KUBERNETES_VERSION, "api": self.api, "certificates": self.certificates.told(),
            "cluster_cidr": ranges::text(&self.ranges.pods), "service_cidr": ranges::text(&self.ranges.services)})
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

/// Waits for SIGTERM, SIGINT, a command on the control socket, or another address of the machine.
///
/// # Errors
/// Signals cannot be listened to.
pub async fn wait_for_end(stop: &watch::Sender<bool>, machine: &Machine) -> Result<Ending, CommandError> {
    let mut asked = stop.subscribe();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ending = tokio::select! {
        _ = terminate.recv() => Ending::Asked,
        _ = interrupt.recv() => Ending::Asked,
        _ = asked.wait_for(|stop| *stop) => Ending::Asked,
        address = machine.moved() => Ending::Moved(address),
    };
    tracing::info!(?ending, "ending");
    stop.send_replace(true);
    Ok(ending)
}
