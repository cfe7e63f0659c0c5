//! Keeping the Node object and its lease: registration at the start, a lease renewed every few seconds, and the status when
//! it has changed or has not been written for long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ContainerImage, Node as ApiNode, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::clock::{SharedClock, rfc3339_micro};
use skiff_client::{Change, Client, Error, Informer, Patch};
use skiff_cri::{ImageService, ListImagesRequest, RuntimeService, StatusRequest, VersionRequest};
use tokio::sync::Notify;

use super::facts::Machine;
use super::guard::Pressures;
use super::news::News;
use super::object::{self, Health, Identity};
use crate::csi::Drivers;

/// The lease's life and the time between renewals; upstream's numbers.
const LEASE_SECONDS: i32 = 40;
const RENEW: Duration = Duration::from_secs(10);
/// How often the node looks at itself, and how often it writes its status though nothing has changed.
const LOOK: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(300);
/// How often a node that is not ready looks at itself: people wait for it.
const LOOK_UNREADY: Duration = Duration::from_millis(200);
/// The wait after a failed write.
const RETRY: Duration = Duration::from_millis(200);
const LEASES: &str = "kube-node-lease";

/// Keeps the Node object up to date.
pub struct Keeper {
    /// The API.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// Who the node is.
    pub identity: Identity,
    /// What it runs on.
    pub machine: Machine,
    /// The runtime whose health is the node's.
    pub runtime: Arc<dyn RuntimeService>,
    /// Its images.
    pub images: Arc<dyn ImageService>,
    /// Woken when the node should look at itself at once.
    pub look: Arc<Notify>,
    /// What the node runs short of.
    pub pressures: Pressures,
    /// Devices of plugins by resource: all, and those that are well.
    pub devices: Arc<Mutex<BTreeMap<String, (i64, i64)>>>,
    /// Storage drivers, whose volumes the node uses.
    pub drivers: Arc<Drivers>,
    /// Whether the machine is being shut down.
    pub shutting_down: Arc<AtomicBool>,
    /// Tells people of the node.
    pub news: News,
    /// The last status that was written, by the node or by whoever doubts that it lives.
    pub written: Mutex<Option<NodeStatus>>,
}

impl Keeper {
    /// Registers the node and writes its first status; tries until that is done.
    pub async fn register(&self) {
        loop {
            match self.try_register().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(node = %self.identity.name, %error, "cannot register the node");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_register(&self) -> Result<(), Error> {
        let mut node = object::node(&self.identity, &self.machine);
        let health = self.health().await;
        let now = self.clock.now();
        node.status = Some(object::status(&self.identity, &self.machine, &health, None, now));
        let existing = match self.client.create(&node).await {
            Ok(created) => created,
            Err(error) if error.is_already_exists() => self.adopt(&node).await?,
            Err(error) => return Err(error),
        };
        // An API server drops the status of what is created, or kept the one from before.
        let status = object::status(&self.identity, &self.machine, &health, existing.status.as_ref(), now);
        if existing.status.as_ref().is_none_or(|old| !object::same(old, &status)) {
            self.write(&status).await?;
        }
        self.news.written(existing.status.as_ref(), &status);
        *self.written.lock() = Some(status);
        Ok(())
    }

    /// The node has been registered before: only its labels may need mending.
    async fn adopt(&self, node: &ApiNode) -> Result<ApiNode, Error> {
        let existing: ApiNode = self.client.get("", &self.identity.name).await?;
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let has = existing.metadata.labels.clone().unwrap_or_default();
        let missing = labels.iter().any(|(key, value)| has.get(key) != Some(value));
        let ranges = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone());
        let has_cidr = existing.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some());
        if !missing && (has_cidr || ranges.is_none()) {
            return Ok(existing);
        }
        let mut patch = json!({"metadata": {"labels": labels}});
        if let Some(ranges) = ranges.filter(|_| !has_cidr) {
            patch["spec"] = json!({"podCIDR": ranges[0], "podCIDRs": ranges});
        }
        self.client.patch("", &self.identity.name, "", &Patch::Strategic(patch)).await
    }

    async fn write(&self, status: &NodeStatus) -> Result<(), Error> {
        let path = format!("/api/v1/nodes/{}/status", self.identity.name);
        let body = json!({ "status": status });
        // Addresses are a list by type, in which two of one type cannot be told apart: they are replaced as a whole.
        let mut body = body;
        if let Some(addresses) = body["status"]["addresses"].as_array_mut() {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
        self.client.patch_raw(&path, &Patch::Strategic(body)).await.map(drop)
    }

    /// Looks at the node for ever, and writes what has changed.
    pub async fn keep_status(&self) {
        let mut reported = self.clock.monotonic();
        loop {
            tokio::select! {
                () = tokio::time::sleep(if self.is_ready() { LOOK } else { LOOK_UNREADY }) => {}
                () = self.look.notified() => {}
            }
            let health = self.health().await;
            let old = self.written.lock().clone();
            let status = object::status(&self.identity, &self.machine, &health, old.as_ref(), self.clock.now());
            let due = self.clock.monotonic() - reported >= REPORT;
            if !due && old.as_ref().is_some_and(|old| object::same(old, &status)) {
                continue;
            }
            match self.write(&status).await {
                Ok(()) => {
                    reported = self.clock.monotonic();
                    self.news.written(old.as_ref(), &status);
                    *self.written.lock() = Some(status);
                }
                // Somebody deleted the Node object of a node that lives: it registers anew.
                Err(error) if error.is_not_found() => self.register().await,
                Err(error) => tracing::warn!(%error, "cannot write the node's status"),
            }
        }
    }

    /// Follows what is said of the node: whoever has not heard of it for long writes that its conditions are not known. A
    /// node that reads this is heard of again, and says at once how it is.
    pub fn answer_doubts(self: &Arc<Self>, nodes: &Informer<ApiNode>) {
        let keeper = Arc::downgrade(self);
        nodes.on_change(move |change| {
            let (Change::Added(node) | Change::Updated { new: node, .. }) = change else { return };
            let doubted = node.status.as_ref().filter(|status| object::is_doubted(status));
            let (Some(keeper), Some(status)) = (keeper.upgrade(), doubted) else { return };
            *keeper.written.lock() = Some(status.clone());
            keeper.look.notify_one();
        });
    }

    fn is_ready(&self) -> bool {
        let written = self.written.lock();
        let conditions = written.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    async fn health(&self) -> Health {
        let (volumes_in_use, may_use_more) = self.drivers.in_use();
        let mut health = Health {
            pressures: self.pressures.lock().clone(),
            devices: self.devices.lock().clone(),
            volumes_in_use,
            may_use_more,
            ..Health::default()
        };
        if self.shutting_down.load(Ordering::Acquire) {
            health.not_ready.push("node is shutting down".to_owned());
        }
        match self.runtime.version(VersionRequest::default()).await {
            Ok(version) => health.runtime = format!("{}://{}", version.runtime_name, version.runtime_version),
            Err(error) => health.not_ready.push(format!("container runtime is down: {error}")),
        }
        match self.runtime.status(StatusRequest::default()).await {
            Ok(response) => {
                for condition in response.status.unwrap_or_default().conditions {
                    let network = condition.r#type == "NetworkReady";
                    if !condition.status && (network || condition.r#type == "RuntimeReady") {
                        let what =
                            if network { "container runtime network not ready" } else { "container runtime not ready" };
                        health.not_ready.push(format!(
                            "{what}: {}=false reason:{} message:{}",
                            condition.r#type, condition.reason, condition.message
                        ));
                    }
                }
                let features = |handler: &skiff_cri::RuntimeHandler| {
                    let features = handler.features.clone().unwrap_or_default();
                    (handler.name.clone(), features.recursive_read_only_mounts, features.user_namespaces)
                };
                health.handlers = response.runtime_handlers.iter().map(features).collect();
                health.supplemental_groups_policy =
                    response.features.is_some_and(|features| features.supplemental_groups_policy);
            }
            Err(error) => {
                health.not_ready.push(format!("container runtime status check may not have completed yet: {error}"))
            }
        }
        match self.images.list_images(ListImagesRequest::default()).await {
            Ok(response) => {
                health.images = response
                    .images
                    .into_iter()
                    .map(|image| ContainerImage {
                        names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
                        size_bytes: i64::try_from(image.size).ok(),
                    })
                    .collect();
            }
            Err(error) => tracing::warn!(%error, "cannot list the images of the node"),
        }
        health
    }

    /// Renews the lease for ever.
    pub async fn keep_lease(&self) {
        let mut exists = false;
        loop {
            let renewed = if exists { self.renew().await } else { self.acquire().await };
            let pause = match renewed {
                Ok(()) => {
                    exists = true;
                    RENEW
                }
                Err(error) => {
                    exists = false;
                    tracing::warn!(%error, "cannot renew the node's lease");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew(&self) -> Result<(), Error> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{LEASES}/leases/{}", self.identity.name);
        let patch = json!({"spec": {
            "holderIdentity": self.identity.name,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": rfc3339_micro(self.clock.now()),
        }});
        self.client.patch_raw(&path, &Patch::Merge(patch)).await.map(drop)
    }

    /// Makes the lease, owned by the Node object so that it goes with it, or takes over the one that is there.
    async fn acquire(&self) -> Result<(), Error> {
        let node: ApiNode = self.client.get("", &self.identity.name).await?;
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.identity.name.clone(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.identity.name.clone()),
                namespace: Some(LEASES.to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(self.clock.now())),
                ..LeaseSpec::default()
            }),
        };
        match self.client.create(&lease).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => self.renew().await,
            Err(error) => Err(error),
        }
    }
}
