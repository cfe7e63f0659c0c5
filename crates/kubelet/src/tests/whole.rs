//! A node that registers, runs a Pod, follows its changes, and lets it go.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_base::SystemClock;
use skiff_base::ids::Ids;
use skiff_client::{Client, Informers};
use skiff_cri::fake::FakeRuntime;
use skiff_object::meta::Meta;

use super::api::{FakeApi, InMemory};
use crate::{Config, Kubelet, NoMounts};

const POD: &str = "/api/v1/namespaces/default/pods/web";
const MAP: &str = "/api/v1/namespaces/default/configmaps/config";

struct Trial {
    api: Arc<FakeApi>,
    runtime: Arc<FakeRuntime>,
    folder: PathBuf,
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

impl Trial {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("skiff-kubelet-{}", Ids::random().suffix(10)));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let runtime = Arc::new(FakeRuntime::new(SystemClock::shared()));
        Self { api: FakeApi::new(), runtime, folder }
    }

    async fn kubelet(&self) -> Kubelet {
        self.kubelet_with(crate::Options::default()).await
    }

    async fn kubelet_with(&self, options: crate::Options) -> Kubelet {
        let client = Client::new(Arc::new(InMemory(self.api.clone())), "kubelet");
        let config = Config {
            cgroup_root: String::new(),
            informers: Informers::new(client.clone()),
            client,
            runtime: self.runtime.clone(),
            images: self.runtime.clone(),
            mounter: Arc::new(NoMounts),
            clock: SystemClock::shared(),
            ids: Arc::new(Ids::random()),
            node_name: "n1".into(),
            node_ips: vec!["192.0.2.1".into()],
            root_dir: self.folder.join("kubelet"),
            log_dir: self.folder.join("log"),
            pod_cidrs: vec!["10.244.0.0/24".into()],
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/dev/null".into(),
            version: "v1.36.0".into(),
            options,
            credentials: Arc::new(crate::CredentialProviders::none(SystemClock::shared())),
            manifests: self.folder.join("manifests"),
            cgroups: false,
            disk_bytes: None,
            labels: [].into(),
            taints: vec![],
            server: None,
        };
        let started = tokio::time::timeout(Duration::from_secs(120), Kubelet::start(config)).await;
        started.expect("the agent starts")
    }

    /// Waits for the Pod to be ready, with all that it needs.
    async fn run_pod(&self) {
        self.runtime.add_image("web:v1");
        self.api
            .put(MAP, json!({"metadata": {"name": "config", "namespace": "default"}, "data": {"greeting": "hello"}}));
        self.api.put(POD, pod());
        self.api
            .until("a Pod that is ready", |api| condition(&api.get(POD).unwrap_or_default(), "Ready") == "True")
            .await;
    }

    fn pod(&self) -> Value {
        self.api.get(POD).unwrap_or_default()
    }

    /// Waits for something on the disk.
    async fn until_file(&self, path: &str, expected: &str) {
        let path = self.folder.join(path);
        let waiting = async {
            while std::fs::read_to_string(&path).ok().as_deref() != Some(expected) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(120), waiting).await;
        waited.unwrap_or_else(|_| panic!("{} does not become {expected:?}", path.display()));
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let all = object.list_at(&["status", "conditions"]);
    all.iter().find(|condition| condition.str_at(&["type"]) == kind).map_or("", |found| found.str_at(&["status"]))
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": "u1", "generation": 1},
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "default",
            "containers": [{
                "name": "web", "image": "web:v1", "imagePullPolicy": "IfNotPresent",
                "command": ["/web", "$(GREETING)"],
                "env": [
                    {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "greeting"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ],
                "volumeMounts": [
                    {"name": "config", "mountPath": "/config"},
                    {"name": "token", "mountPath": "/token", "readOnly": true},
                ],
            }],
            "volumes": [
                {"name": "config", "configMap": {"name": "config"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            ],
        },
        "status": {"phase": "Pending"},
    })
}

#[tokio::test]
async fn a_node_registers_ready_and_holds_a_lease() {
    let trial = Trial::new();
    let kubelet = trial.kubelet().await;
    let node = trial.api.get("/api/v1/nodes/n1").expect("the node is registered when the start returns");
    assert_eq!(condition(&node, "Ready"), "True");
    assert_eq!(node.label("kubernetes.io/hostname"), Some("n1"));
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    trial.api.until("the lease", |api| api.get(lease).is_some()).await;
    kubelet.shutdown().await;
}

#[tokio::test]
async fn a_node_that_was_given_up_says_at_once_how_it_is() {
    let trial = Trial::new();
    let kubelet = trial.kubelet().await;
    let path = "/api/v1/nodes/n1";
    for _ in 0..2 {
        let mut node = trial.api.get(path).expect("the node is registered");
        for condition in node["status"]["conditions"].as_array_mut().expect("there are some") {
            condition["status"] = "Unknown".into();
        }
        trial.api.put(path, node);
        let is_well = |node: &Value| condition(node, "Ready") == "True" && condition(node, "MemoryPressure") == "False";
        trial.api.until("its own word", |api| api.get(path).is_some_and(|node| is_well(&node))).await;
    }
    kubelet.shutdown().await;
}

#[tokio::test]
async fn a_pod_runs_follows_its_objects_and_leaves_nothing() {
    let trial = Trial::new();
    let kubelet = trial.kubelet().await;
    trial.run_pod().await;

    let shown = trial.pod();
    assert_eq!(shown.str_at(&["status", "phase"]), "Running");
    assert!(shown.str_at(&["status", "podIP"]).starts_with("10.244.0."));
    let config = trial.runtime.container_config("web").expect("the container was made");
    assert_eq!(config.command, ["/web", "hello"]);
    let ip = config.envs.iter().find(|env| env.key == "IP").map(|env| env.value.clone());
    assert_eq!(ip.as_deref(), Some(shown.str_at(&["status", "podIP"])));

    let volumes = "kubelet/pods/u1/volumes";
    trial.until_file(&format!("{volumes}/kubernetes.io~projected/token/token"), "a-token").await;
    let file = format!("{volumes}/kubernetes.io~configmap/config/greeting");
    trial.until_file(&file, "hello").await;
    trial.api.put(MAP, json!({"metadata": {"name": "config", "namespace": "default"}, "data": {"greeting": "bye"}}));
    trial.until_file(&file, "bye").await;

    // A link of a container that the runtime has lost meanwhile.
    let lost = trial.folder.join("log/containers/web_default_web-lost.log");
    std::os::unix::fs::symlink(trial.folder.join("log/pods/default_web_u1/web/9.log"), lost).expect("a link");
    let mut leaving = trial.pod();
    leaving.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:30Z");
    leaving.set_at(&["metadata", "deletionGracePeriodSeconds"], 30);
    trial.api.put(POD, leaving);
    trial.api.until("the Pod to go", |api| api.get(POD).is_none()).await;
    let waiting = async {
        let left = ["kubelet/pods/u1", "log/pods/default_web_u1"];
        while left.iter().any(|path| trial.folder.join(path).exists()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.expect("the Pod's folders go");
    assert!(trial.runtime.container_id("web").is_none());
    let links = std::fs::read_dir(trial.folder.join("log/containers")).expect("the folder of links was made");
    assert_eq!(links.count(), 0);
    kubelet.shutdown().await;
}

/// What a Pod has begun goes on while it is looked at: else one that is next in a line, and is not asked how far it is, would
/// hold up all others behind it.
#[tokio::test]
async fn what_was_begun_goes_on_while_a_pod_is_looked_at() {
    let trial = Trial::new();
    let kubelet = trial.kubelet().await;
    trial.run_pod().await;
    let line = trial.runtime.hold().await;
    let in_line = async |count: usize| {
        let waiting = async {
            while trial.runtime.in_line() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), waiting).await.expect("somebody waits in the line");
    };
    let mut leaving = trial.pod();
    leaving.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:30Z");
    leaving.set_at(&["metadata", "deletionGracePeriodSeconds"], 30);
    trial.api.put(POD, leaving);
    in_line(1).await;
    trial.runtime.exit("web", 0);
    in_line(3).await;
    drop(line);
    trial.api.until("the Pod to go", |api| api.get(POD).is_none()).await;
    kubelet.shutdown().await;
}

#[tokio::test]
async fn many_updates_in_a_row_are_all_observed_in_the_end() {
    const UPDATES: i64 = 500;
    let trial = Trial::new();
    let kubelet = trial.kubelet().await;
    trial.run_pod().await;
    let id = trial.runtime.container_id("web");
    for generation in 2..=UPDATES {
        let mut changed = trial.pod();
        changed.set_at(&["metadata", "generation"], generation);
        changed.set_at(&["spec", "activeDeadlineSeconds"], 1_000_000 - generation);
        trial.api.put(POD, changed);
    }
    let observed = |api: &FakeApi| {
        let pod = api.get(POD).unwrap_or_default();
        let conditions = pod.list_at(&["status", "conditions"]).iter();
        pod.int_at(&["status", "observedGeneration"]) == Some(UPDATES)
            && conditions.clone().count() > 0
            && conditions.filter_map(|one| one.int_at(&["observedGeneration"])).all(|seen| seen == UPDATES)
    };
    trial.api.until("the last of them to be observed", observed).await;
    assert_eq!(trial.runtime.container_id("web"), id, "none of them concerned the container");
    kubelet.shutdown().await;
}

#[tokio::test]
async fn a_new_agent_starts_nothing_twice_and_clears_away_what_is_gone() {
    let trial = Trial::new();
    let kubelet = trial.kubelet().await;
    trial.runtime.add_image("web:v1");
    trial.api.put(MAP, json!({"metadata": {"name": "config", "namespace": "default"}, "data": {"greeting": "hello"}}));
    trial.api.put(POD, pod());
    let ready = |api: &FakeApi| condition(&api.get(POD).unwrap_or_default(), "Ready") == "True";
    trial.api.until("a Pod that is ready", ready).await;
    let id = trial.runtime.container_id("web");
    kubelet.shutdown().await;
    trial.runtime.take_calls();

    let kubelet = trial.kubelet().await;
    trial.until_file("kubelet/pods/u1/volumes/kubernetes.io~configmap/config/greeting", "hello").await;
    assert_eq!(trial.runtime.container_id("web"), id);
    assert!(ready(&trial.api));
    kubelet.shutdown().await;
    let calls = trial.runtime.take_calls();
    let made = |call: &&String| call.starts_with("RunPodSandbox") || call.starts_with("CreateContainer");
    assert_eq!(calls.iter().filter(made).count(), 0, "{calls:?}");

    trial.api.remove(POD);
    let kubelet = trial.kubelet().await;
    let waiting = async {
        while trial.runtime.container_id("web").is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.expect("the orphan goes");
    kubelet.shutdown().await;
}

#[tokio::test]
async fn a_missing_config_map_is_told_and_waited_for() {
    let trial = Trial::new();
    let kubelet = trial.kubelet().await;
    trial.runtime.add_image("web:v1");
    trial.api.put(POD, pod());
    let told = |api: &FakeApi| {
        let events = api.list("/api/v1/namespaces/default/events");
        events.iter().any(|event| {
            event.str_at(&["reason"]) == "FailedMount"
                && event.str_at(&["message"])
                    == "MountVolume.SetUp failed for volume \"config\" : configmap \"config\" not found"
        })
    };
    trial.api.until("the event", told).await;
    trial.api.put(MAP, json!({"metadata": {"name": "config", "namespace": "default"}, "data": {"greeting": "hello"}}));
    trial.api.until("a Pod that is ready", |api| condition(&api.get(POD).unwrap_or_default(), "Ready") == "True").await;
    kubelet.shutdown().await;
}

#[tokio::test]
async fn a_critical_pod_comes_when_those_that_it_replaces_are_gone() {
    const CRITICAL: i32 = 2_000_000_000;
    let trial = Trial::new();
    let kubelet = trial.kubelet_with(crate::Options { max_pods: 1, ..crate::Options::default() }).await;
    trial.runtime.add_image("web:v1");
    let path = |name: &str| format!("/api/v1/namespaces/default/pods/{name}");
    let come = async |name: &str, priority: i32| {
        let container = json!({"name": name, "image": "web:v1", "imagePullPolicy": "IfNotPresent"});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": name, "generation": 1},
            "spec": {"nodeName": "n1", "priority": priority, "containers": [container]},
            "status": {"phase": "Pending"},
        });
        trial.api.put(&path(name), pod);
        let ready = |api: &FakeApi| condition(&api.get(&path(name)).unwrap_or_default(), "Ready") == "True";
        trial.api.until("a Pod that is ready", ready).await;
    };
    come("low", 0).await;
    trial.runtime.take_calls();
    come("critical", CRITICAL).await;
    let low = trial.api.get(&path("low")).expect("it is still there");
    assert_eq!((low.str_at(&["status", "phase"]), low.str_at(&["status", "reason"])), ("Failed", "Preempting"));
    let calls = trial.runtime.take_calls();
    let at = |what: &str| calls.iter().position(|call| call.starts_with(what));
    assert!(at("StopContainer").is_some() && at("StopContainer") < at("RunPodSandbox"), "{calls:?}");
    kubelet.shutdown().await;
}
