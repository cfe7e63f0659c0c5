//! Admission policies, validating and mutating, through the served API.

use serde_json::{Value, json};

use crate::support::{Cluster, Watch};

fn post(plural: &str, kind: &str, name: &str, spec: Value) -> String {
    let object = json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}, "spec": spec});
    format!("POST /apis/admissionregistration.k8s.io/v1/{plural}\n\n{object}")
}

fn constraints(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}]})
}

async fn validating(cluster: &Cluster, mut spec: Value, binding: Value) {
    spec["matchConstraints"] = constraints("", "configmaps");
    cluster.tree(&post("validatingadmissionpolicies", "ValidatingAdmissionPolicy", "p", spec)).await;
    cluster.tree(&post("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", "b", binding)).await;
    cluster.server.hub.fresh().await.expect("the store can be read");
}

fn map(name: &str, data: Value) -> String {
    format!("POST /api/v1/namespaces/default/configmaps\n\n{}", json!({"metadata": {"name": name}, "data": data}))
}

#[tokio::test]
async fn a_policy_refuses_with_its_variables_and_parameters() {
    let cluster = Cluster::new().await;
    cluster.tree(&map("limits", json!({"max": "2"}))).await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-me", "expression": "object.metadata.name != 'free'"}],
        "variables": [{"name": "count", "expression": "has(object.data) ? size(object.data) : 0"},
            {"name": "most", "expression": "int(params.data.max)"}],
        "validations": [
            {"expression": "variables.count <= variables.most", "messageExpression": "'at most ' + params.data.max + ' entries'", "reason": "Forbidden"},
            {"expression": "!has(object.data) || object.data.all(k, object.data[k] != 'bad')"}]});
    let binding = json!({"policyName": "p", "validationActions": ["Deny", "Audit"],
        "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}});
    validating(&cluster, spec, binding).await;
    assert_eq!(cluster.outcome(&map("a", json!({"x": "1"}))).await, "201");
    assert_eq!(
        cluster.outcome(&map("b", json!({"x": "1", "y": "2", "z": "3"}))).await,
        "403 configmaps \"b\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: at most 2 entries"
    );
    assert_eq!(
        cluster.outcome(&map("c", json!({"x": "bad"}))).await,
        "422 configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: !has(object.data) || object.data.all(k, object.data[k] != 'bad')"
    );
    assert_eq!(cluster.outcome(&map("free", json!({"x": "bad"}))).await, "201");
}

#[tokio::test]
async fn a_policy_may_warn_and_fail_open_or_closed() {
    let cluster = Cluster::new().await;
    let spec = json!({"validations": [{"expression": "object.data.nope == 'x'", "message": "no x"}]});
    validating(&cluster, spec, json!({"policyName": "p", "validationActions": ["Warn"]})).await;
    let answer = cluster.answer(&map("a", json!({"nope": "y"}))).await;
    let warned = "Warning: 299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no x\"";
    assert!(answer.starts_with("201\n") && answer.contains(warned), "{answer}");
    let answer = cluster.answer(&map("b", json!({"z": "y"}))).await;
    assert!(answer.contains("expression 'object.data.nope == 'x'' resulted in error: no such key: nope"), "{answer}");
    let bad = json!({"matchConstraints": constraints("", "pods"), "validations": [{"expression": "object.x +"}]});
    let refused = cluster.outcome(&post("validatingadmissionpolicies", "ValidatingAdmissionPolicy", "q", bad)).await;
    assert!(
        refused.contains("spec.validations[0].expression: Invalid value: \"object.x +\": compilation failed"),
        "{refused}"
    );
}

#[tokio::test]
async fn policies_ask_the_authorizer() {
    let cluster = Cluster::new().await;
    let spec = json!({"validations": [
        {"expression": "authorizer.group('').resource('secrets').namespace('default').check('list').allowed()", "message": "only who may list secrets"},
        {"expression": "authorizer.requestResource.check('delete').allowed() && request.userInfo.username != ''", "message": "only who may delete it"}]});
    validating(&cluster, spec, json!({"policyName": "p", "validationActions": ["Deny"]})).await;
    assert_eq!(cluster.outcome(&map("a", json!({}))).await, "201");
}

#[tokio::test]
async fn a_mutating_policy_applies_and_patches() {
    let cluster = Cluster::new().await;
    let spec = json!({"matchConstraints": constraints("", "configmaps"), "reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "variables": [{"name": "who", "expression": "request.userInfo.username"}],
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: {'made-by': variables.who}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('a.b'), value: 'c'}]"}}]});
    cluster.tree(&post("mutatingadmissionpolicies", "MutatingAdmissionPolicy", "m", spec)).await;
    let binding = json!({"policyName": "m"});
    cluster.tree(&post("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", "m", binding)).await;
    cluster.server.hub.fresh().await.expect("the store can be read");
    let made = cluster.tree(&map("x", json!({"k": "v"}))).await;
    assert_eq!(made["metadata"]["labels"], json!({"made-by": "admin"}));
    assert_eq!(made["data"], json!({"k": "v", "a.b": "c"}));
}

#[tokio::test]
async fn a_policy_s_expressions_are_checked_against_the_types_they_name() {
    let cluster = Cluster::new().await;
    cluster.server.check_policies();
    let spec = json!({"matchConstraints": constraints("apps", "deployments"),
        "validations": [{"expression": "object.spec.replicas > 1"}, {"expression": "object.spec.nope > 1"}]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    cluster.tree(&post("validatingadmissionpolicies", "ValidatingAdmissionPolicy", "t", spec)).await;
    let mut watch = Watch::open(
        &cluster,
        &format!(
            "GET {path}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        ),
    )
    .await;
    let status = loop {
        let events = watch.next().await;
        assert!(!events.is_empty(), "the watch ended");
        let told = events.iter().find(|event| event["object"]["status"]["observedGeneration"] == 1);
        if let Some(event) = told {
            break event["object"]["status"].clone();
        }
    };
    let warnings = status["typeChecking"]["expressionWarnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[1].expression");
    let warning = warnings[0]["warning"].as_str().expect("a text");
    assert!(warning.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'nope'"), "{warning}");
}
