//! The controllers and the scheduler against the real API server in one process, with an agent that only says
//! what a node's agent would say. Every part has its own identity, so rights are tested too.

mod harness;
mod namespaces;
mod owners;
mod quotas;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Endpoints, LimitRange, Node, Pod, ResourceQuota, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::json;
use skiff_base::clock::{Clock, SystemClock};
use skiff_client::{DeleteOptions, Patch};

use crate::harness::{Cluster, deployment};

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
            // Who tried before it knew the node as it is now has told something else first.
            let told = cluster.told("FailedScheduling").await;
            (condition.message.as_deref() == Some(text) && told.iter().any(|own| own == text)).then_some(())
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
