//! A whole control plane in one process: the API server, the controllers and the scheduler, and an agent that only says
//! what a node's agent would say.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, ResourceQuota, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::ids::Ids;
use skiff_client::{Body, Change, Client, DeleteOptions, InProcess, Informers, Kind, ListOptions, Patch};
use skiff_controllers::{AutoscalerTiming, Config, ControllerManager, MANAGER};
use skiff_scheduler::Scheduler;
use skiff_store::{EmbeddedOptions, EmbeddedStore};
use tokio::sync::Notify;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client of the server in this process, in the name of `user` with `groups`.
fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str], agent: &str) -> Client {
    let (server, user) = (server.clone(), UserInfo::new(user, groups));
    let answer = move |mut request: http::Request<Body>| {
        request.extensions_mut().insert(user.clone());
        let server = server.clone();
        async move { server.handle(request).await }
    };
    Client::new(Arc::new(InProcess(answer)), agent)
}

/// A control plane in this process.
pub struct Cluster {
    /// Who may do everything.
    pub admin: Client,
    informers: Informers,
    changed: Arc<Notify>,
    server: Arc<ApiServer>,
    _parts: (skiff_controllers::Handle, skiff_scheduler::Handle),
    folder: std::path::PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.stop();
        std::fs::remove_dir_all(&self.folder).expect("the folder was made by this test");
    }
}

impl Cluster {
    /// Starts one with a store of its own.
    pub async fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("skiff-controllers-{}-{name}", std::process::id()));
        let clock: SharedClock = SystemClock::shared();
        let ids = Arc::new(Ids::seeded(7));
        let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::default() };
        let store = EmbeddedStore::open(&folder, options).expect("a store");
        let config = skiff_apiserver::Config::new(store, clock.clone(), ids.clone());
        let server = ApiServer::new(config).await.expect("a server");
        let client = |user: &str, groups: &[&str], agent: &str| client(&server, user, groups, agent);
        let admin = client("admin", &["system:masters"], "test");
        let informers = Informers::new(client("system:kube-controller-manager", &[], "kube-controller-manager"));
        let accounts = |name: &str| {
            if name == MANAGER {
                return client("system:kube-controller-manager", &[], name);
            }
            let user = format!("system:serviceaccount:kube-system:{name}");
            client(&user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"], name)
        };
        // An autoscaler that is asked often, so that its test is quick.
        let autoscaler = AutoscalerTiming { period: Duration::from_millis(200), ..AutoscalerTiming::default() };
        let manager = Config {
            root_ca: Arc::new(skiff_controllers::RootBundle::new("PEM")),
            node_ranges: vec![("10.244.0.0/16".parse().expect("a range"), 24)],
            signer: None,
            subjects: None,
            autoscaler,
            asked_for: Vec::new(),
            job_groups: false,
        };
        let controllers = ControllerManager::start(accounts, &informers, clock.clone(), ids, manager);
        let scheduler = client("system:kube-scheduler", &[], "kube-scheduler");
        let scheduler = Scheduler::start(scheduler, &informers, clock, skiff_scheduler::Config::default());
        let changed = Arc::new(Notify::new());
        let cluster = Self {
            informers: Informers::new(admin.clone()),
            admin,
            changed,
            server,
            _parts: (controllers, scheduler),
            folder,
        };
        cluster.play_agent();
        cluster.look_at::<Deployment>().look_at::<ReplicaSet>().look_at::<DaemonSet>().look_at::<StatefulSet>();
        cluster.look_at::<Job>().look_at::<Event>().look_at::<EndpointSlice>().look_at::<Endpoints>();
        cluster.look_at::<Namespace>().look_at::<Node>().look_at::<ServiceAccount>().look_at::<ConfigMap>();
        cluster.look_at::<ClusterRole>().look_at::<PodDisruptionBudget>().look_at::<HorizontalPodAutoscaler>();
        cluster.look_at::<ResourceQuota>().look_at::<ReplicationController>();
        cluster.has_account("default").await;
        cluster
    }

    /// Makes a namespace in which pods can be made.
    pub async fn add_namespace(&self, name: &str) {
        self.put::<Namespace>(json!({"metadata": {"name": name}})).await;
        self.has_account(name).await;
        let bundle = || async { self.found::<ConfigMap>(name, "kube-root-ca.crt").await };
        self.eventually("the authority's certificate", bundle).await;
    }

    async fn has_account(&self, namespace: &str) {
        let account = || async { self.found::<ServiceAccount>(namespace, "default").await };
        self.eventually("the account that pods run under", account).await;
    }

    /// An object, unless there is none.
    pub async fn found<K: Kind>(&self, namespace: &str, name: &str) -> Option<K> {
        match self.admin.get::<K>(namespace, name).await {
            Ok(object) => Some(object),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("get {} {name}: {error}", K::resource().plural),
        }
    }

    /// Deletes an object with a propagation policy.
    pub async fn delete<K: Kind>(&self, namespace: &str, name: &str, policy: &'static str) {
        let options = DeleteOptions { propagation_policy: Some(policy), ..DeleteOptions::default() };
        let deleted = self.admin.delete::<K>(namespace, name, &options).await;
        deleted.unwrap_or_else(|error| panic!("delete {} {name}: {error}", K::resource().plural));
    }

    /// Changes an object.
    pub async fn merge<K: Kind>(&self, namespace: &str, name: &str, subresource: &str, patch: Value) -> K {
        let patched = self.admin.patch::<K>(namespace, name, subresource, &Patch::Merge(patch)).await;
        patched.unwrap_or_else(|error| panic!("patch {} {name}: {error}", K::resource().plural))
    }

    /// Waits until an object is gone.
    pub async fn gone<K: Kind>(&self, namespace: &str, name: &str) {
        let gone = || async { self.found::<K>(namespace, name).await.is_none().then_some(()) };
        self.eventually(&format!("{name} gone"), gone).await;
    }

    /// Each change of an object of the kind is a reason for [`Cluster::eventually`] to look again.
    pub fn look_at<K: Kind>(&self) -> &Self {
        let changed = self.changed.clone();
        self.informers.of::<K>().on_change(move |_| changed.notify_waiters());
        self
    }

    /// Says of every pod that has a node that it runs and is ready, and lets go of those that are to go.
    fn play_agent(&self) {
        let pods = self.informers.of::<Pod>();
        let (client, changed) = (self.admin.clone(), self.changed.clone());
        pods.on_change(move |change| {
            changed.notify_waiters();
            if !matches!(change, Change::Deleted(_)) {
                tokio::spawn(attend(client.clone(), change.object().clone()));
            }
        });
    }

    /// Creates an object.
    pub async fn put<K: Kind>(&self, object: Value) -> K {
        let object: K = serde_json::from_value(object).expect("an object");
        self.admin.create(&object).await.unwrap_or_else(|error| panic!("create {}: {error}", K::resource().plural))
    }

    /// Says of a node that it is there and ready.
    pub async fn add_node(&self, name: &str, cpu: &str) {
        self.put::<Node>(json!({"metadata": {"name": name}})).await;
        let status = json!({"status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        self.admin.patch::<Node>("", name, "status", &Patch::Strategic(status)).await.expect("node status");
    }

    /// All objects of a namespace.
    pub async fn list<K: Kind>(&self, namespace: &str) -> Vec<K> {
        self.admin.list::<K>(namespace, &ListOptions::default()).await.expect("a list").items
    }

    /// Waits until `holds` gives something; looks again at each change in the cluster.
    pub async fn eventually<T, F: Future<Output = Option<T>>>(&self, what: &str, holds: impl Fn() -> F) -> T {
        let looking = async {
            loop {
                // Made before the look, so that no change after it is missed.
                let notified = self.changed.notified();
                if let Some(found) = holds().await {
                    return found;
                }
                notified.await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what} did not come true"))
    }

    /// Waits until a Deployment's rollout is done.
    pub async fn deployed(&self, name: &str, updated: i32) -> Deployment {
        self.eventually("the rollout", || async {
            let deployment = self.admin.get::<Deployment>("default", name).await.ok()?;
            let status = deployment.status.clone()?;
            let done = status.updated_replicas == Some(updated)
                && status.replicas == Some(updated)
                && status.available_replicas == Some(updated)
                && status.observed_generation == deployment.metadata.generation;
            done.then_some(deployment)
        })
        .await
    }

    /// The texts of the events in `default` with this reason.
    pub async fn told(&self, reason: &str) -> Vec<String> {
        let mut events = self.list::<Event>("default").await;
        events.retain(|event| event.reason.as_deref() == Some(reason));
        events.into_iter().map(|event| event.message.unwrap_or_default()).collect()
    }
}

async fn attend(client: Client, pod: Arc<Pod>) {
    let (namespace, name) =
        (pod.metadata.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""));
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let running = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() != Some("Pending"));
    let result = if pod.metadata.deletion_timestamp.is_some() {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        client.delete::<Pod>(namespace, name, &options).await
    } else if placed && !running {
        let address = name.bytes().fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let ip = format!("10.244.{}.{}", address >> 8, address & 255);
        let worker = pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key("job-name"));
        let status = json!({"status": {
            "phase": if worker { "Succeeded" } else { "Running" }, "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"}],
        }});
        client.patch::<Pod>(namespace, name, "status", &Patch::Strategic(status)).await.map(drop)
    } else {
        Ok(())
    };
    if let Err(error) = result {
        assert!(error.is_not_found() || error.is_conflict(), "agent, pod {name}: {error}");
    }
}

/// A Deployment of one container.
pub fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "app:v1", "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}
