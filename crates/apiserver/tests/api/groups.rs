//! Workloads and PodGroups: served where they are asked for; what is added to groups and what they may refer to; and what
//! becomes of Pods in groups where there are none.

use serde_json::{Value, json};
use skiff_apiserver::runtime_config;
use skiff_base::gates::Gates;

use crate::support::Cluster;

const GROUP: &str = "/apis/scheduling.k8s.io";
const GROUPS: &str = "/apis/scheduling.k8s.io/v1alpha2/namespaces/default/podgroups";
const WORKLOADS: &str = "/apis/scheduling.k8s.io/v1alpha2/namespaces/default/workloads";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn cluster(gates: &[&str], versions: &[&str]) -> Cluster {
    let gates = Gates::of(gates.iter().map(|name| (*name, true))).expect("they can be so");
    let versions: Vec<String> = versions.iter().map(|&version| version.to_owned()).collect();
    let cluster = Cluster::with(|config| {
        config.kinds = runtime_config::kinds(&versions, &gates).expect("it makes sense");
        config.gates = gates;
    })
    .await;
    let account = json!({"metadata": {"name": "default"}});
    cluster.tree(&format!("POST /api/v1/namespaces/default/serviceaccounts\n\n{account}")).await;
    cluster
}

async fn with_groups() -> Cluster {
    cluster(&["GenericWorkload"], &["scheduling.k8s.io/v1alpha2=true"]).await
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "containers": [{"name": "c", "image": "i"}], "schedulingGroup": {"podGroupName": "g"}}})
}

fn group(name: &str, spec: Value) -> Value {
    let mut group = json!({"metadata": {"name": name}, "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}});
    spec.as_object().into_iter().flatten().for_each(|(field, value)| group["spec"][field] = value.clone());
    group
}

#[tokio::test]
async fn they_are_served_where_they_are_asked_for() {
    let version = ["scheduling.k8s.io/v1alpha2=true"];
    for (gates, asked) in [(&[][..], &version[..]), (&["GenericWorkload"][..], &[][..])] {
        let without = cluster(gates, asked).await;
        assert_eq!(without.outcome(&format!("GET {GROUPS}")).await, "404");
        let made = without.tree(&format!("POST {PODS}\n\n{}", pod("p"))).await;
        assert_eq!(made["spec"]["schedulingGroup"].is_null(), gates.is_empty());
    }
    let with = with_groups().await;
    let list = with.tree(&format!("GET {GROUP}/v1alpha2")).await;
    let names: Vec<_> = list["resources"].as_array().expect("a list").iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["podgroups", "podgroups/status", "workloads"]);
    let made = with.tree(&format!("POST {PODS}\n\n{}", pod("p"))).await;
    assert_eq!(made["spec"]["schedulingGroup"]["podGroupName"], "g");
    let document = with.tree(&format!("GET /openapi/v3{GROUP}/v1alpha2")).await;
    let schema = &document["components"]["schemas"]["io.k8s.api.scheduling.v1alpha2.PodGroupSpec"]["properties"];
    let description = schema["schedulingPolicy"]["description"].as_str().expect("it is described");
    assert!(description.starts_with("SchedulingPolicy defines the scheduling policy"), "{description}");
    assert_eq!(schema["disruptionMode"]["enum"], json!(["Pod", "PodGroup"]));
}

#[tokio::test]
async fn a_group_is_protected_and_its_template_is_there() {
    let cluster = with_groups().await;
    let made = cluster.tree(&format!("POST {GROUPS}\n\n{}", group("g", json!({"priority": 5})))).await;
    assert_eq!(made["metadata"]["finalizers"], json!(["scheduling.k8s.io/podgroup-protection"]));
    let spec =
        json!({"disruptionMode": "Pod", "podGroupTemplateRef": null, "schedulingPolicy": {"gang": {"minCount": 2}}});
    assert_eq!(made["spec"], spec, "what has a gate of its own is not there");
    let reference = |workload: &str, template: &str| {
        let named = json!({"workloadName": workload, "podGroupTemplateName": template});
        json!({"podGroupTemplateRef": {"workload": named}})
    };
    let cluster_ref = &cluster;
    let refused = async |spec: Value| cluster_ref.outcome(&format!("POST {GROUPS}\n\n{}", group("h", spec))).await;
    let outcome = refused(reference("w", "t")).await;
    assert!(outcome.contains("PodGroup rejected: Workload \"w\" not found"), "{outcome}");
    let workload = json!({"metadata": {"name": "w"}, "spec": {"podGroupTemplates": [
        {"name": "t", "schedulingPolicy": {"basic": {}}}]}});
    cluster.tree(&format!("POST {WORKLOADS}\n\n{workload}")).await;
    let outcome = refused(reference("w", "u")).await;
    let words = "PodGroup rejected: PodGroupTemplate \"u\" not found in Workload \"w\"";
    assert!(outcome.contains(words), "{outcome}");
    cluster.tree(&format!("POST {GROUPS}\n\n{}", group("h", reference("w", "t")))).await;
    let table = cluster.tree(&format!("GET {GROUPS}\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io")).await;
    let cells = |row: &Value| row["cells"].as_array().expect("cells")[..4].to_vec();
    let rows: Vec<_> = table["rows"].as_array().expect("rows").iter().map(cells).collect();
    assert_eq!(json!(rows), json!([["g", "Gang", "<none>", "Pending"], ["h", "Gang", "w", "Pending"]]));
}

#[tokio::test]
async fn the_status_is_apart() {
    let cluster = with_groups().await;
    cluster.tree(&format!("POST {GROUPS}\n\n{}", group("g", json!({})))).await;
    let condition = json!({"type": "PodGroupScheduled", "status": "True", "reason": "Scheduled", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let patch = json!({"metadata": {"labels": {"a": "b"}}, "status": {"conditions": [condition],
        "resourceClaimStatuses": [{"name": "c"}]}});
    let request = format!("PATCH {GROUPS}/g/status\nContent-Type: application/strategic-merge-patch+json\n\n{patch}");
    let changed = cluster.tree(&request).await;
    assert_eq!(changed["status"], json!({"conditions": [condition]}));
    assert!(changed["metadata"]["labels"].is_null(), "a write of the status changes no metadata");
    let mut wanted = changed.clone();
    wanted["status"] = json!({});
    wanted["spec"]["schedulingPolicy"] = json!({"basic": {}});
    let outcome = cluster.outcome(&format!("PUT {GROUPS}/g\n\n{wanted}")).await;
    assert!(outcome.contains("spec.schedulingPolicy: Invalid value: \"null\": field is immutable"), "{outcome}");
    wanted["spec"] = changed["spec"].clone();
    let changed = cluster.tree(&format!("PUT {GROUPS}/g\n\n{wanted}")).await;
    assert_eq!(changed["status"], json!({"conditions": [condition]}));
}

#[tokio::test]
async fn a_group_has_a_priority_where_that_counts() {
    let gates = ["GenericWorkload", "GangScheduling", "WorkloadAwarePreemption", "TopologyAwareWorkloadScheduling"];
    let cluster = cluster(&gates, &["scheduling.k8s.io/v1alpha2=true"]).await;
    let class = json!({"metadata": {"name": "high"}, "value": 7});
    cluster.tree(&format!("POST {GROUP}/v1/priorityclasses\n\n{class}")).await;
    let spec = json!({"priorityClassName": "high", "disruptionMode": "PodGroup",
        "schedulingConstraints": {"topology": [{"key": "rack"}]}});
    let made = cluster.tree(&format!("POST {GROUPS}\n\n{}", group("g", spec.clone()))).await;
    assert_eq!(made["spec"]["priority"], 7);
    assert_eq!(made["spec"]["schedulingConstraints"], spec["schedulingConstraints"]);
    assert_eq!(made["spec"]["disruptionMode"], "PodGroup");
    let plain = cluster.tree(&format!("POST {GROUPS}\n\n{}", group("h", json!({})))).await;
    assert_eq!((&plain["spec"]["priority"], &plain["spec"]["disruptionMode"]), (&json!(0), &json!("Pod")));
    let mut wrong = group("i", spec);
    wrong["spec"]["priority"] = json!(9);
    let outcome = cluster.outcome(&format!("POST {GROUPS}\n\n{wrong}")).await;
    let words = "priority set in the pod group (9) must match the priority computed (7) based on the priority class set in the spec";
    assert!(outcome.contains(words), "{outcome}");
    let outcome =
        cluster.outcome(&format!("POST {GROUPS}\n\n{}", group("i", json!({"priorityClassName": "none"})))).await;
    assert!(outcome.contains("no PriorityClass with name none was found"), "{outcome}");
}

#[tokio::test]
async fn a_job_whose_pods_are_a_gang_keeps_their_number() {
    let cluster = with_groups().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let spec = json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    let job = json!({"metadata": {"name": "j"}, "spec": spec});
    let made = cluster.tree(&format!("POST {jobs}\n\n{job}")).await;
    let scale = |count: i64| {
        let patch = json!({"spec": {"parallelism": count, "completions": count}});
        format!("PATCH {jobs}/j\nContent-Type: application/merge-patch+json\n\n{patch}")
    };
    cluster.tree(&scale(3)).await;
    let mut owned = group("g", json!({}));
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j",
        "uid": made["metadata"]["uid"], "controller": true}]);
    cluster.tree(&format!("POST {GROUPS}\n\n{owned}")).await;
    // What a list has seen the plugin has seen.
    cluster.tree(&format!("GET {GROUPS}")).await;
    let outcome = cluster.outcome(&scale(2)).await;
    let words = "cannot change parallelism for a Job referencing gang-scheduled PodGroup \"g\"";
    assert!(outcome.contains(words), "{outcome}");
    cluster.tree(&scale(3)).await;
}
