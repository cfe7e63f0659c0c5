//! The controllers and the scheduler against the real API server in one process, with an agent that only says
//! what a node's agent would say. Every part has its own identity, so rights are tested too.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, Pod, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::clock::{Clock, SharedClock, SystemClock};
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

struct Cluster {
    admin: Client,
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
    async fn start(name: &str) -> Self {
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
            root_ca: "PEM".into(),
            cluster_cidr: "10.244.0.0/16".into(),
            node_cidr_mask_size: 24,
            signer: None,
            subjects: None,
            autoscaler,
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
        cluster.look_at::<ResourceQuota>();
        let account = || async { cluster.admin.get::<ServiceAccount>("default", "default").await.ok() };
        cluster.eventually("the account that pods run under", account).await;
        cluster
    }

    /// Each change of an object of the kind is a reason for [`Cluster::eventually`] to look again.
    fn look_at<K: Kind>(&self) -> &Self {
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

    async fn put<K: Kind>(&self, object: Value) -> K {
        let object: K = serde_json::from_value(object).expect("an object");
        self.admin.create(&object).await.unwrap_or_else(|error| panic!("create {}: {error}", K::resource().plural))
    }

    async fn add_node(&self, name: &str, cpu: &str) {
        self.put::<Node>(json!({"metadata": {"name": name}})).await;
        let status = json!({"status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        self.admin.patch::<Node>("", name, "status", &Patch::Strategic(status)).await.expect("node status");
    }

    async fn list<K: Kind>(&self, namespace: &str) -> Vec<K> {
        self.admin.list::<K>(namespace, &ListOptions::default()).await.expect("a list").items
    }

    /// Waits until `holds` gives something; looks again at each change in the cluster.
    async fn eventually<T, F: Future<Output = Option<T>>>(&self, what: &str, holds: impl Fn() -> F) -> T {
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

    async fn deployed(&self, name: &str, updated: i32) -> Deployment {
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

    async fn told(&self, reason: &str) -> Vec<String> {
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

fn deployment(name: &str, replicas: i32) -> Value {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_goes_its_way_from_creation_to_deletion() {
    let (cluster, clock) = (Cluster::start("deployment").await, SystemClock::new());
    cluster.add_node("n1", "64").await;
    let service = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.put::<Service>(service).await;
    let begun = clock.monotonic();
    cluster.put::<Deployment>(deployment("web", 50)).await;
    let deployment = cluster.deployed("web", 50).await;
    println!("50 pods: {:?}", clock.monotonic() - begun);
    assert_eq!(
        deployment.metadata.annotations.as_ref().expect("annotations")["deployment.kubernetes.io/revision"],
        "1"
    );
    let set = cluster.list::<ReplicaSet>("default").await.remove(0);
    let set_name = set.metadata.name.expect("a name");
    assert_eq!(cluster.list::<Pod>("default").await.len(), 50, "no pod is created twice");
    cluster
        .eventually("the events", || async {
            let scaled = cluster.told("ScalingReplicaSet").await;
            let (created, placed) =
                (cluster.told("SuccessfulCreate").await.len(), cluster.told("Scheduled").await.len());
            // About one object, the ReplicaSet, no more are written at once.
            (scaled == [format!("Scaled up replica set {set_name} from 0 to 50")] && created == 25 && placed == 50)
                .then_some(())
        })
        .await;
    cluster
        .eventually("all endpoints", || async {
            let slices = cluster.list::<EndpointSlice>("default").await;
            let slice = slices.iter().find(|slice| slice.metadata.generate_name.as_deref() == Some("web-"))?;
            let legacy = cluster.admin.get::<Endpoints>("default", "web").await.ok()?;
            let addresses = legacy.subsets?.first()?.addresses.as_ref()?.len();
            (slice.endpoints.as_ref()?.len() == 50 && addresses == 50).then_some(())
        })
        .await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "app:v2"}]}}}});
    let begun = clock.monotonic();
    cluster.admin.patch::<Deployment>("default", "web", "", &Patch::Strategic(image)).await.expect("a new image");
    let deployment = cluster.deployed("web", 50).await;
    println!("50 pods replaced: {:?}", clock.monotonic() - begun);
    assert_eq!(deployment.metadata.annotations.expect("annotations")["deployment.kubernetes.io/revision"], "2");
    let begun = clock.monotonic();
    cluster.admin.delete::<Deployment>("default", "web", &DeleteOptions::default()).await.expect("deleted");
    cluster
        .eventually("everything gone", || async {
            let left = cluster.list::<Pod>("default").await.len() + cluster.list::<ReplicaSet>("default").await.len();
            (left == 0).then_some(())
        })
        .await;
    println!("50 pods gone: {:?}", clock.monotonic() - begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_has_its_defaults_and_goes_with_all_that_is_in_it() {
    let (cluster, clock) = (Cluster::start("namespace").await, SystemClock::new());
    cluster.add_node("n1", "4").await;
    cluster.put::<Namespace>(json!({"metadata": {"name": "team"}})).await;
    cluster
        .eventually("the defaults", || async {
            cluster.admin.get::<ServiceAccount>("team", "default").await.ok()?;
            let bundle = cluster.admin.get::<ConfigMap>("team", "kube-root-ca.crt").await.ok()?;
            (bundle.data?["ca.crt"] == "PEM").then_some(())
        })
        .await;
    let pod =
        json!({"metadata": {"name": "p", "namespace": "team"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.put::<Pod>(pod).await;
    let begun = clock.monotonic();
    cluster.admin.delete::<Namespace>("", "team", &DeleteOptions::default()).await.expect("deleted");
    cluster
        .eventually("the namespace gone", || async {
            cluster.admin.get::<Namespace>("", "team").await.is_err_and(|error| error.is_not_found()).then_some(())
        })
        .await;
    println!("namespace gone: {:?}", clock.monotonic() - begun);
    assert!(cluster.list::<Pod>("team").await.is_empty());
    assert!(cluster.list::<ConfigMap>("team").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_fitted_out_and_a_pod_that_fits_nowhere_says_why() {
    let cluster = Cluster::start("node").await;
    cluster.add_node("n1", "1").await;
    cluster
        .eventually("the node's range, and no taint", || async {
            let node = cluster.admin.get::<Node>("", "n1").await.ok()?;
            let spec = node.spec?;
            (spec.pod_cidr.as_deref() == Some("10.244.0.0/24") && spec.taints.unwrap_or_default().is_empty())
                .then_some(())
        })
        .await;
    cluster
        .eventually("aggregated roles", || async {
            let role = cluster.admin.get::<ClusterRole>("", "view").await.ok()?;
            (!role.rules?.is_empty()).then_some(())
        })
        .await;
    let pod = json!({"metadata": {"name": "big", "namespace": "default"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]}});
    cluster.put::<Pod>(pod).await;
    let text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    cluster
        .eventually("event and condition", || async {
            let pod = cluster.admin.get::<Pod>("default", "big").await.ok()?;
            let conditions = pod.status?.conditions?;
            let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
            let told = cluster.told("FailedScheduling").await;
            (condition.message.as_deref() == Some(text) && told == [text]).then_some(())
        })
        .await;
    cluster.add_node("n2", "4").await;
    cluster
        .eventually("the pod placed on the new node", || async {
            let pod = cluster.admin.get::<Pod>("default", "big").await.ok()?;
            (pod.spec?.node_name.as_deref() == Some("n2")).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_a_higher_class_takes_the_place_of_a_lower_one() {
    let cluster = Cluster::start("preemption").await;
    cluster.add_node("n1", "1").await;
    cluster.put::<PriorityClass>(json!({"metadata": {"name": "high"}, "value": 1000})).await;
    let pod = |name: &str, class: Option<&str>, finalizers: &[&str]| {
        json!({"metadata": {"name": name, "namespace": "default", "finalizers": finalizers}, "spec": {
            "priorityClassName": class,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}})
    };
    let node_of = |name: &'static str| {
        let cluster = &cluster;
        async move { cluster.admin.get::<Pod>("default", name).await.ok()?.spec?.node_name }
    };
    cluster.put::<Pod>(pod("low", None, &["example.org/hold"])).await;
    cluster.eventually("the first pod placed", || node_of("low")).await;
    cluster.put::<Pod>(pod("high", Some("high"), &[])).await;
    cluster
        .eventually("the first pod told to go, and its place kept", || async {
            let low = cluster.admin.get::<Pod>("default", "low").await.ok()?;
            low.metadata.deletion_timestamp?;
            let conditions = low.status?.conditions?;
            let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget")?;
            assert_eq!((target.status.as_str(), target.reason.as_deref()), ("True", Some("PreemptionByScheduler")));
            let high = cluster.admin.get::<Pod>("default", "high").await.ok()?;
            assert_eq!(high.spec?.node_name, None, "the other one is there still");
            let told = cluster.told("Preempted").await;
            (high.status?.nominated_node_name.as_deref() == Some("n1") && told.len() == 1).then_some(())
        })
        .await;
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.admin.patch::<Pod>("default", "low", "", &release).await.expect("let go");
    assert_eq!(cluster.eventually("the second pod placed", || node_of("high")).await, "n1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_workloads_run() {
    let cluster = Cluster::start("workloads").await;
    cluster.add_node("n1", "4").await;
    cluster.add_node("n2", "4").await;
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let selector = json!({"matchLabels": {"app": "x"}});
    let daemons = json!({"metadata": {"name": "log", "namespace": "default"},
        "spec": {"selector": selector, "template": template}});
    cluster.put::<DaemonSet>(daemons).await;
    let stateful = json!({"metadata": {"name": "db", "namespace": "default"},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "y"}},
            "template": {"metadata": {"labels": {"app": "y"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.put::<StatefulSet>(stateful).await;
    let job = json!({"metadata": {"name": "sum", "namespace": "default"}, "spec": {
        "completions": 5, "parallelism": 2, "ttlSecondsAfterFinished": 0,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    cluster.put::<Job>(job).await;
    let cron = json!({"metadata": {"name": "tick", "namespace": "default"}, "spec": {
        "schedule": "@every 1s", "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 1,
        "jobTemplate": {"spec": {"completions": 2, "completionMode": "Indexed", "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
    cluster.put::<CronJob>(cron).await;
    cluster
        .eventually("a Job of the CronJob succeeded", || async {
            let cron = cluster.admin.get::<CronJob>("default", "tick").await.ok()?;
            cron.status?.last_successful_time?;
            (!cluster.told("SawCompletedJob").await.is_empty()).then_some(())
        })
        .await;
    cluster.admin.delete::<CronJob>("default", "tick", &DeleteOptions::default()).await.expect("deleted");
    cluster
        .eventually("nothing left of the CronJob", || async {
            let jobs = cluster.list::<Job>("default").await;
            let pods = cluster.list::<Pod>("default").await;
            let left = jobs.iter().filter_map(|job| job.metadata.name.clone());
            let left = left.chain(pods.iter().filter_map(|pod| pod.metadata.name.clone()));
            (!left.into_iter().any(|name| name.starts_with("tick-"))).then_some(())
        })
        .await;
    cluster
        .eventually("the Job completed and removed", || async {
            let gone = cluster.admin.get::<Job>("default", "sum").await.is_err_and(|error| error.is_not_found());
            (gone && cluster.told("Completed").await.contains(&"Job completed".to_owned())).then_some(())
        })
        .await;
    cluster
        .eventually("a daemon on every node", || async {
            let set = cluster.admin.get::<DaemonSet>("default", "log").await.ok()?;
            (set.status?.number_available == Some(2)).then_some(())
        })
        .await;
    cluster
        .eventually("three numbered pods", || async {
            let set = cluster.admin.get::<StatefulSet>("default", "db").await.ok()?;
            let status = set.status?;
            let names: Vec<_> =
                cluster.list::<Pod>("default").await.into_iter().filter_map(|pod| pod.metadata.name).collect();
            let all = ["db-0", "db-1", "db-2"].iter().all(|name| names.iter().any(|n| n == name));
            (status.available_replicas == Some(3) && all && names.len() == 5).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_orphans_or_waits_as_it_is_told() {
    let cluster = Cluster::start("deletion").await;
    cluster.add_node("n1", "4").await;
    cluster.put::<Deployment>(deployment("web", 2)).await;
    cluster.deployed("web", 2).await;
    let orphan = DeleteOptions { propagation_policy: Some("Orphan"), ..DeleteOptions::default() };
    cluster.admin.delete::<Deployment>("default", "web", &orphan).await.expect("deleted");
    cluster
        .eventually("the Deployment gone and its set let go", || async {
            let gone = cluster.admin.get::<Deployment>("default", "web").await.is_err_and(|error| error.is_not_found());
            let sets = cluster.list::<ReplicaSet>("default").await;
            (gone && sets.len() == 1 && sets[0].metadata.owner_references.is_none()).then_some(())
        })
        .await;
    assert_eq!(cluster.list::<Pod>("default").await.len(), 2);
    cluster.put::<Deployment>(deployment("web", 2)).await;
    cluster.deployed("web", 2).await;
    assert_eq!(cluster.list::<ReplicaSet>("default").await.len(), 1, "the set is adopted again");
    let foreground = DeleteOptions { propagation_policy: Some("Foreground"), ..DeleteOptions::default() };
    cluster.admin.delete::<Deployment>("default", "web", &foreground).await.expect("deleted");
    cluster
        .eventually("all gone", || async {
            let gone = cluster.admin.get::<Deployment>("default", "web").await.is_err_and(|error| error.is_not_found());
            if gone {
                assert!(cluster.list::<ReplicaSet>("default").await.is_empty(), "the owner goes last");
                assert!(cluster.list::<Pod>("default").await.is_empty(), "the owner goes last");
            }
            gone.then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_holds_evictions_back_and_an_autoscaler_keeps_its_bounds() {
    let cluster = Cluster::start("bounds").await;
    cluster.add_node("n1", "4").await;
    cluster.put::<Deployment>(deployment("web", 1)).await;
    cluster.deployed("web", 1).await;
    let budget = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.put::<PodDisruptionBudget>(budget).await;
    let allowed = |wanted: i32, expected: i32| {
        let cluster = &cluster;
        cluster.eventually("the budget", move || async move {
            let budget = cluster.admin.get::<PodDisruptionBudget>("default", "web").await.ok()?;
            let status = budget.status?;
            let is = status.disruptions_allowed == Some(wanted) && status.expected_pods == Some(expected);
            is.then_some(status.conditions?.remove(0).reason)
        })
    };
    assert_eq!(allowed(1, 1).await, "SufficientPods");
    let autoscaler = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 3, "maxReplicas": 5,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    cluster.put::<HorizontalPodAutoscaler>(autoscaler).await;
    cluster.deployed("web", 3).await;
    assert_eq!(allowed(1, 3).await, "SufficientPods");
    let told = cluster.told("SuccessfulRescale").await;
    assert_eq!(told, ["New size: 3; reason: Current number of replicas below Spec.MinReplicas"]);
    cluster
        .eventually("that there are no figures here", || async {
            let hpa = cluster.admin.get::<HorizontalPodAutoscaler>("default", "web").await.ok()?;
            let conditions = hpa.status?.conditions?;
            conditions.iter().any(|c| c.reason.as_deref() == Some("FailedGetResourceMetric")).then_some(())
        })
        .await;
    let name = cluster.list::<Pod>("default").await.remove(0).metadata.name.expect("a name");
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    cluster.admin.patch::<Pod>("default", &name, "status", &Patch::Strategic(unready)).await.expect("a status");
    assert_eq!(allowed(0, 3).await, "InsufficientPods");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_around_workloads_is_kept() {
    let cluster = Cluster::start("around").await;
    cluster.add_node("n1", "4").await;
    let quota = json!({"metadata": {"name": "q", "namespace": "default"}, "spec": {"hard": {
        "pods": "5", "requests.cpu": "1", "services": "3", "count/deployments.apps": "2", "secrets": "9"}}});
    cluster.put::<ResourceQuota>(quota).await;
    let range = json!({"metadata": {"name": "r", "namespace": "default"},
        "spec": {"limits": [{"type": "Container", "defaultRequest": {"cpu": "100m"}}]}});
    cluster.put::<LimitRange>(range).await;
    cluster.put::<Deployment>(deployment("web", 2)).await;
    let service = json!({"metadata": {"name": "db", "namespace": "default"}, "spec": {"ports": [{"port": 5432}]}});
    cluster.put::<Service>(service).await;
    let endpoints = json!({"metadata": {"name": "db", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]});
    cluster.put::<Endpoints>(endpoints).await;
    let secret = json!({"metadata": {"name": "t", "namespace": "default",
        "annotations": {"kubernetes.io/service-account.name": "default"}}, "type": "kubernetes.io/service-account-token"});
    cluster.put::<Secret>(secret).await;
    cluster
        .eventually("the quota", || async {
            let quota = cluster.admin.get::<ResourceQuota>("default", "q").await.ok()?;
            let used = quota.status?.used?;
            let is = |name: &str, amount: &str| used.get(name).is_some_and(|used| used.0 == amount);
            let counted = is("count/deployments.apps", "1") && is("secrets", "1") && is("services", "2");
            (counted && is("pods", "2") && is("requests.cpu", "200m")).then_some(())
        })
        .await;
    let more = Patch::Merge(json!({"spec": {"replicas": 7}}));
    cluster.admin.patch::<Deployment>("default", "web", "", &more).await.expect("a change");
    cluster
        .eventually("the failure that the quota is exceeded", || async {
            let set = cluster.list::<ReplicaSet>("default").await.pop()?.status?;
            let failure = set.conditions?.into_iter().find(|condition| condition.type_ == "ReplicaFailure")?;
            assert_eq!(failure.reason.as_deref(), Some("FailedCreate"));
            assert!(failure.message?.contains("exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5"));
            (set.replicas == 5).then_some(())
        })
        .await;
    cluster
        .eventually("the mirrored slice", || async {
            let slices = cluster.list::<EndpointSlice>("default").await;
            let mirror = slices.iter().find(|slice| slice.metadata.generate_name.as_deref() == Some("db-"))?;
            (mirror.endpoints.as_ref()?[0].addresses == ["192.0.2.7"]).then_some(())
        })
        .await;
}
