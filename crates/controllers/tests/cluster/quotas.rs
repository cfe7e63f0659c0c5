//! ResourceQuotas over the life of what they count: charged by the API server, told and given back by the controller.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ReplicationController, ResourceQuota, Secret, Service};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};
use skiff_client::{DeleteOptions, Kind};

use crate::harness::Cluster;

const TEAM: &str = "team";

async fn start(name: &str) -> Cluster {
    let cluster = Cluster::start(name).await;
    cluster.add_namespace(TEAM).await;
    cluster
}

/// Makes a quota and waits until it is told with nothing used but `used`.
async fn quota(cluster: &Cluster, name: &str, spec: Value, used: &[(&str, &str)]) {
    let hard = spec["hard"].clone();
    cluster.put::<ResourceQuota>(json!({"metadata": {"name": name, "namespace": TEAM}, "spec": spec})).await;
    is_used(cluster, name, used).await;
    let told = cluster.found::<ResourceQuota>(TEAM, name).await.and_then(|quota| quota.status);
    assert_eq!(json!(told.expect("a status").hard), hard);
}

/// Waits until exactly this is used of a quota; what is not named is not used.
async fn is_used(cluster: &Cluster, name: &str, expected: &[(&str, &str)]) {
    let what = format!("{expected:?} used of {name}");
    cluster
        .eventually(&what, || async {
            let quota = cluster.found::<ResourceQuota>(TEAM, name).await?;
            let hard = quota.spec.as_ref()?.hard.as_ref()?;
            let mut all: BTreeMap<_, _> = hard.keys().map(|name| (name.clone(), "0".to_owned())).collect();
            all.extend(expected.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())));
            let used: BTreeMap<_, _> = quota.status?.used?.into_iter().map(|(name, amount)| (name, amount.0)).collect();
            (used == all).then_some(())
        })
        .await;
}

async fn make<K: Kind>(cluster: &Cluster, name: &str, more: Value) {
    let mut object = json!({"metadata": {"name": name, "namespace": TEAM}});
    for (key, value) in more.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    cluster.put::<K>(object).await;
}

fn pod(requests: Value, more: Value) -> Value {
    let mut spec = json!({"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i", "resources": {"requests": requests, "limits": requests}}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"spec": spec})
}

/// Why a pod is refused.
async fn refused(cluster: &Cluster, name: &str, pod: Value) -> String {
    let mut object = json!({"metadata": {"name": name, "namespace": TEAM}});
    object["spec"] = pod["spec"].clone();
    let object: Pod = serde_json::from_value(object).expect("a pod");
    cluster.admin.create(&object).await.err().map(|error| error.to_string()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counted_objects_are_charged_and_given_back() {
    let cluster = start("counted").await;
    let hard = json!({"configmaps": "5", "secrets": "5", "services": "5", "services.nodeports": "2", "replicationcontrollers": "5",
        "count/replicasets.apps": "5", "resourcequotas": "1", "pods": "5"});
    // A namespace's own ConfigMap, and the quota itself.
    let empty = [("configmaps", "1"), ("resourcequotas", "1")];
    quota(&cluster, "q", json!({"hard": hard}), &empty).await;
    make::<ConfigMap>(&cluster, "map", json!({})).await;
    make::<Secret>(&cluster, "secret", json!({})).await;
    make::<Service>(&cluster, "plain", json!({"spec": {"ports": [{"port": 80}]}})).await;
    make::<Service>(&cluster, "outer", json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}})).await;
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let controller = json!({"spec": {"replicas": 0, "selector": {"app": "x"}, "template": template}});
    make::<ReplicationController>(&cluster, "controller", controller).await;
    let full = [
        ("configmaps", "2"),
        ("replicationcontrollers", "1"),
        ("resourcequotas", "1"),
        ("secrets", "1"),
        ("services", "2"),
        ("services.nodeports", "1"),
    ];
    is_used(&cluster, "q", &full).await;
    cluster.delete::<ConfigMap>(TEAM, "map", "Background").await;
    cluster.delete::<Secret>(TEAM, "secret", "Background").await;
    cluster.delete::<Service>(TEAM, "plain", "Background").await;
    cluster.delete::<Service>(TEAM, "outer", "Background").await;
    cluster.delete::<ReplicationController>(TEAM, "controller", "Background").await;
    is_used(&cluster, "q", &empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_charged_over_its_life() {
    let cluster = start("charged").await;
    let hard = json!({"pods": "5", "cpu": "1", "memory": "500Mi", "requests.ephemeral-storage": "50Gi", "requests.example.com/dongle": "3"});
    quota(&cluster, "q", json!({"hard": hard}), &[]).await;
    let asks =
        |cpu: &str| json!({"cpu": cpu, "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"});
    make::<Pod>(&cluster, "first", pod(asks("500m"), json!({}))).await;
    let charged = [
        ("cpu", "500m"),
        ("memory", "252Mi"),
        ("pods", "1"),
        ("requests.ephemeral-storage", "30Gi"),
        ("requests.example.com/dongle", "2"),
    ];
    is_used(&cluster, "q", &charged).await;
    let why = refused(&cluster, "second", pod(asks("600m"), json!({}))).await;
    let expected = "exceeded quota: q, requested: cpu=600m,memory=252Mi,requests.ephemeral-storage=30Gi,requests.example.com/dongle=2, \
        used: cpu=500m,memory=252Mi,requests.ephemeral-storage=30Gi,requests.example.com/dongle=2, \
        limited: cpu=1,memory=500Mi,requests.ephemeral-storage=50Gi,requests.example.com/dongle=3";
    assert!(why.contains(expected), "{why}");
    let bigger = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}});
    let changed = cluster.admin.patch::<Pod>(TEAM, "first", "", &skiff_client::Patch::Strategic(bigger)).await;
    assert!(changed.is_err_and(|error| error.to_string().contains("Forbidden: pod updates may not change fields")));
    is_used(&cluster, "q", &charged).await;
    cluster.delete::<Pod>(TEAM, "first", "Background").await;
    is_used(&cluster, "q", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_say_which_pods_are_counted() {
    let cluster = start("scoped").await;
    for (name, value) in [("high", 1000), ("low", 10)] {
        cluster.put::<PriorityClass>(json!({"metadata": {"name": name}, "value": value})).await;
    }
    let by_class = |operator: &str, values: &[&str]| {
        let expression = match values {
            [] => json!({"scopeName": "PriorityClass", "operator": operator}),
            _ => json!({"scopeName": "PriorityClass", "operator": operator, "values": values}),
        };
        json!({"scopeSelector": {"matchExpressions": [expression]}})
    };
    let quotas = [
        ("best-effort", json!({"scopes": ["BestEffort"]})),
        ("not-best-effort", json!({"scopes": ["NotBestEffort"]})),
        ("terminating", json!({"scopes": ["Terminating"]})),
        ("not-terminating", json!({"scopes": ["NotTerminating"]})),
        ("high", by_class("In", &["high"])),
        ("not-high", by_class("NotIn", &["high"])),
        ("classed", by_class("Exists", &[])),
        ("plain", by_class("DoesNotExist", &[])),
    ];
    for (name, mut spec) in quotas.clone() {
        spec["hard"] = json!({"pods": "5"});
        quota(&cluster, name, spec, &[]).await;
    }
    let asks = json!({"cpu": "100m"});
    let pods = [
        ("free", pod(json!({}), json!({})), ["best-effort", "not-terminating", "not-high", "plain"]),
        (
            "bounded",
            pod(asks.clone(), json!({"activeDeadlineSeconds": 3600})),
            ["not-best-effort", "terminating", "not-high", "plain"],
        ),
        (
            "high",
            pod(asks.clone(), json!({"priorityClassName": "high"})),
            ["not-best-effort", "not-terminating", "high", "classed"],
        ),
        (
            "low",
            pod(asks, json!({"priorityClassName": "low"})),
            ["not-best-effort", "not-terminating", "not-high", "classed"],
        ),
    ];
    let count = |name: &str, first: usize, last: usize| {
        pods[first..last].iter().filter(|(_, _, counted)| counted.contains(&name)).count().to_string()
    };
    for (name, pod, _) in &pods {
        make::<Pod>(&cluster, name, pod.clone()).await;
    }
    for (name, _) in &quotas {
        is_used(&cluster, name, &[("pods", &count(name, 0, 4))]).await;
    }
    for (name, ..) in &pods[..2] {
        cluster.delete::<Pod>(TEAM, name, "Background").await;
    }
    for (name, _) in &quotas {
        is_used(&cluster, name, &[("pods", &count(name, 2, 4))]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_changed_told_and_deleted() {
    let cluster = start("changed").await;
    quota(&cluster, "q", json!({"hard": {"cpu": "500m", "memory": "500Mi"}}), &[]).await;
    let hard = json!({"cpu": "1", "memory": "1Gi"});
    cluster.merge::<ResourceQuota>(TEAM, "q", "", json!({"spec": {"hard": hard}})).await;
    let is_told = || {
        cluster.eventually("the new limits", || async {
            let quota = cluster.found::<ResourceQuota>(TEAM, "q").await?;
            assert_eq!(json!(quota.spec?.hard), hard, "what is written to the status does not change the spec");
            (json!(quota.status?.hard) == hard).then_some(())
        })
    };
    is_told().await;
    let status = json!({"status": {"hard": {"cpu": "2", "memory": "2Gi"}}, "spec": {"hard": {"cpu": "9"}}});
    let patched = cluster.merge::<ResourceQuota>(TEAM, "q", "status", status.clone()).await;
    assert_eq!(json!(patched.status.expect("a status").hard), status["status"]["hard"]);
    // The controller puts right what others say of its quotas.
    is_told().await;
    cluster.delete::<ResourceQuota>(TEAM, "q", "Background").await;
    cluster.gone::<ResourceQuota>(TEAM, "q").await;
    make::<Pod>(&cluster, "any", pod(json!({"cpu": "5"}), json!({}))).await;
    cluster.admin.delete::<Pod>(TEAM, "any", &DeleteOptions::default()).await.expect("deleted");
}
