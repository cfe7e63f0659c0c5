//! Who may do what, and what is told about it.

use crate::support::Cluster;
use expect_test::{Expect, expect};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use skiff_apiserver::UserInfo;
use skiff_apiserver::config::ServiceAccountKeys;

async fn outcome(cluster: &Cluster, request: &str, expected: &str) {
    assert_eq!(cluster.outcome(request).await, expected, "{request}");
}

async fn check(cluster: &Cluster, request: &str, expected: Expect) {
    expected.assert_eq(&cluster.answer(request).await);
}

async fn with_tokens() -> Cluster {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
    let keys = ServiceAccountKeys::new(key.as_ref().to_vec(), "https://issuer");
    Cluster::with(|config| config.service_accounts = Some(keys)).await
}

#[tokio::test]
async fn who_may_not_is_told_so_in_upstreams_words() {
    let cluster = Cluster::new().await;
    outcome(
        &cluster,
        "GET /api/v1/namespaces/default/pods\nUser: jane",
        r#"403 pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
    )
    .await;
    outcome(
        &cluster,
        "GET /apis/apps/v1/deployments\nUser: jane",
        r#"403 deployments.apps is forbidden: User "jane" cannot list resource "deployments" in API group "apps" at the cluster scope"#,
    )
    .await;
    outcome(&cluster, "GET /metrics\nUser: jane", r#"403 forbidden: User "jane" cannot get path "/metrics""#).await;
    outcome(&cluster, "GET /version\nUser: jane", "200").await;
    outcome(&cluster, "GET /api\nUser: jane", "200").await;
}

#[tokio::test]
async fn bindings_give_rights_from_the_next_request_on() {
    let cluster = Cluster::new().await;
    let binding = r#"{"metadata":{"name":"jane"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},
        "subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"jane"}]}"#;
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    cluster.tree(&format!("POST {path}\n\n{binding}")).await;
    outcome(&cluster, "GET /api/v1/namespaces/default/pods\nUser: jane", "200").await;
    outcome(
        &cluster,
        "GET /api/v1/namespaces/kube-system/pods\nUser: jane",
        r#"403 pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "kube-system""#,
    )
    .await;
    let review = r#"{"spec":{"resourceAttributes":{"namespace":"default","verb":"list","resource":"pods"}}}"#;
    check(
        &cluster,
        &format!("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews\nUser: jane\n\n{review}"),
        expect![[r#"
            201
            {
              "apiVersion": "authorization.k8s.io/v1",
              "kind": "SelfSubjectAccessReview",
              "metadata": {},
              "spec": {
                "resourceAttributes": {
                  "namespace": "default",
                  "resource": "pods",
                  "verb": "list"
                }
              },
              "status": {
                "allowed": true,
                "reason": "RBAC: allowed by RoleBinding \"jane/default\" of ClusterRole \"view\" to User \"jane\""
              }
            }
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_service_accounts_token_stands_for_it_while_it_exists() {
    let cluster = with_tokens().await;
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"robot\"}}").await;
    let request = r#"{"spec":{"expirationSeconds":600}}"#;
    let issued =
        cluster.tree(&format!("POST /api/v1/namespaces/default/serviceaccounts/robot/token\n\n{request}")).await;
    assert_eq!(issued["status"]["expirationTimestamp"], "2026-01-02T03:14:05Z");
    let token = issued["status"]["token"].as_str().expect("a token");
    let review = format!(r#"{{"spec":{{"token":"{token}"}}}}"#);
    let reviewed = cluster.tree(&format!("POST /apis/authentication.k8s.io/v1/tokenreviews\n\n{review}")).await;
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(
        reviewed["status"]["user"]["groups"],
        serde_json::json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    cluster.clock.advance(std::time::Duration::from_secs(600));
    let late = cluster.tree(&format!("POST /apis/authentication.k8s.io/v1/tokenreviews\n\n{review}")).await;
    assert_eq!(late["status"]["error"], "[invalid bearer token, Token has expired]");
    let token =
        cluster.tree(&format!("POST /api/v1/namespaces/default/serviceaccounts/robot/token\n\n{request}")).await;
    let review = format!(r#"{{"spec":{{"token":{}}}}}"#, token["status"]["token"]);
    cluster.tree("DELETE /api/v1/namespaces/default/serviceaccounts/robot").await;
    let reviewed = cluster.tree(&format!("POST /apis/authentication.k8s.io/v1/tokenreviews\n\n{review}")).await;
    assert_ne!(reviewed["status"]["authenticated"], true);
    let short = r#"{"spec":{"expirationSeconds":60}}"#;
    outcome(
        &cluster,
        &format!("POST /api/v1/namespaces/default/serviceaccounts/robot/token\n\n{short}"),
        r#"404 serviceaccounts "robot" not found"#,
    )
    .await;
}

#[tokio::test]
async fn a_token_is_asked_for_the_account_that_is_meant() {
    let cluster = with_tokens().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let robot = cluster.tree(&format!("POST {accounts}\n\n{{\"metadata\":{{\"name\":\"robot\"}}}}")).await;
    let uid = robot["metadata"]["uid"].as_str().expect("a UID");
    let ask = |query: &str, metadata: serde_json::Value| {
        let request = serde_json::json!({"metadata": metadata, "spec": {"audiences": []}});
        format!("POST {accounts}/robot/token{query}\n\n{request}")
    };
    // No part of it is stored, so that a dry run is none: as with upstream, its token is good.
    for query in ["", "?dryRun=All"] {
        let meant = serde_json::json!({"name": "robot", "namespace": "default", "uid": uid});
        let issued = cluster.tree(&ask(query, meant)).await;
        let review = serde_json::json!({"spec": {"token": issued["status"]["token"]}});
        let reviewed = cluster.tree(&format!("POST /apis/authentication.k8s.io/v1/tokenreviews\n\n{review}")).await;
        assert_eq!(reviewed["status"]["user"]["uid"], uid);
    }
    assert_eq!(cluster.tree(&ask("", serde_json::json!({}))).await["metadata"]["uid"], uid);
    let other = format!(
        r#"409 Operation cannot be fulfilled on TokenRequest.authentication.k8s.io "robot": the UID in the token request (other) does not match the UID of the service account ({uid})"#
    );
    outcome(&cluster, &ask("", serde_json::json!({"uid": "other"})), &other).await;
    let other = r#"422 TokenRequest.authentication.k8s.io "robot" is invalid: metadata.name: Invalid value: "other": must match the service account name if specified"#;
    outcome(&cluster, &ask("", serde_json::json!({"name": "other"})), other).await;
    let dry = cluster.outcome(&ask("?dryRun=Some", serde_json::json!({}))).await;
    assert!(dry.starts_with("422") && dry.contains("dryRun: Unsupported value"), "{dry}");
}

#[tokio::test]
async fn impersonation_needs_the_right_to_it() {
    let cluster = Cluster::new().await;
    let who = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = cluster.tree(&format!("{who}\nImpersonate-User: jane\nImpersonate-Group: dev\n\n{{}}")).await;
    assert_eq!(me["status"]["userInfo"]["username"], "jane");
    assert_eq!(me["status"]["userInfo"]["groups"], serde_json::json!(["dev", "system:authenticated"]));
    outcome(
        &cluster,
        &format!("{who}\nUser: jane\nImpersonate-User: admin\n\n{{}}"),
        r#"403 users "admin" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#,
    )
    .await;
}

#[tokio::test]
async fn a_node_sees_what_its_pods_need_and_changes_only_its_own() {
    let mut cluster = Cluster::new().await;
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"default\"}}").await;
    for (pod, node, secret) in [("a", "n1", "sa"), ("b", "n2", "sb")] {
        let volume = format!(r#"{{"name":"v","secret":{{"secretName":"{secret}"}}}}"#);
        let spec = format!(r#"{{"nodeName":"{node}","containers":[{{"name":"c","image":"i"}}],"volumes":[{volume}]}}"#);
        let pod = format!(r#"{{"metadata":{{"name":"{pod}"}},"spec":{spec}}}"#);
        cluster.tree(&format!("POST /api/v1/namespaces/default/pods\n\n{pod}")).await;
        cluster
            .tree(&format!("POST /api/v1/namespaces/default/secrets\n\n{{\"metadata\":{{\"name\":\"{secret}\"}}}}"))
            .await;
    }
    cluster.user = UserInfo::new("system:node:n1", &["system:nodes"]);
    outcome(&cluster, "GET /api/v1/namespaces/default/secrets/sa", "200").await;
    outcome(
        &cluster,
        "GET /api/v1/namespaces/default/secrets/sb",
        r#"403 secrets "sb" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default""#,
    )
    .await;
    let by_name = "GET /api/v1/namespaces/default/secrets?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3D";
    assert_eq!(cluster.send(&format!("{by_name}sa")).await.status(), 200);
    assert_eq!(cluster.send(&format!("{by_name}sb")).await.status(), 403);
    outcome(
        &cluster,
        "DELETE /api/v1/namespaces/default/pods/b",
        r#"403 pods "b" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself"#,
    )
    .await;
    outcome(&cluster, "DELETE /api/v1/namespaces/default/pods/a?gracePeriodSeconds=0", "200").await;
}

#[tokio::test]
async fn a_node_asks_for_tokens_that_its_pods_want() {
    let mut cluster = with_tokens().await;
    let (admin, node) = (cluster.user.clone(), UserInfo::new("system:node:n1", &["system:nodes"]));
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"default\"}}").await;
    let driver = r#"{"metadata":{"name":"d.io"},"spec":{"tokenRequests":[{"audience":"vault"}]}}"#;
    cluster.tree(&format!("POST /apis/storage.k8s.io/v1/csidrivers\n\n{driver}")).await;
    let volumes = r#"[{"name":"t","projected":{"sources":[{"serviceAccountToken":{"audience":"mail","path":"p"}}]}},{"name":"d","csi":{"driver":"d.io"}}]"#;
    let mut uids = Vec::new();
    for (pod, node) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
        let volumes = if pod == "c" { "[]" } else { volumes };
        let spec = format!(r#"{{"nodeName":"{node}","containers":[{{"name":"c","image":"i"}}],"volumes":{volumes}}}"#);
        let pod = format!(r#"{{"metadata":{{"name":"{pod}"}},"spec":{spec}}}"#);
        let made = cluster.tree(&format!("POST /api/v1/namespaces/default/pods\n\n{pod}")).await;
        uids.push(made["metadata"]["uid"].as_str().expect("a UID").to_owned());
    }
    cluster.user = node.clone();
    let ask = |audiences: &str, bound: &str| {
        let bound = if bound.is_empty() { String::new() } else { format!(r#","boundObjectRef":{bound}"#) };
        let request = format!(r#"{{"spec":{{"audiences":{audiences}{bound}}}}}"#);
        format!("POST /api/v1/namespaces/default/serviceaccounts/default/token\n\n{request}")
    };
    let pod = |name: &str, uid: &str| format!(r#"{{"apiVersion":"v1","kind":"Pod","name":"{name}","uid":"{uid}"}}"#);
    let mut told = String::new();
    for (audiences, bound) in [
        (r#"["mail"]"#, pod("a", &uids[0])),
        (r#"["vault"]"#, pod("a", &uids[0])),
        ("[]", pod("a", &uids[0])),
        (r#"["bank"]"#, pod("a", &uids[0])),
        (r#"["mail"]"#, pod("c", &uids[2])),
        (r#"["mail","vault"]"#, pod("a", &uids[0])),
        (r#"["mail"]"#, pod("b", &uids[1])),
        (r#"["mail"]"#, r#"{"apiVersion":"v1","kind":"Pod","name":"a"}"#.to_owned()),
        (r#"["mail"]"#, r#"{"apiVersion":"v1","kind":"Secret","name":"a","uid":"u"}"#.to_owned()),
        (r#"["mail"]"#, String::new()),
    ] {
        told.push_str(&format!("{}\n", cluster.outcome(&ask(audiences, &bound)).await));
    }
    expect![[r#"
        201
        201
        201
        403 serviceaccounts "default" is forbidden: audience "bank" not found in pod spec volume
        403 serviceaccounts "default" is forbidden: audience "mail" not found in pod spec volume
        403 serviceaccounts "default" is forbidden: node may only request 0 or 1 audiences
        403 serviceaccounts "default" is forbidden: node requested token bound to a pod scheduled on a different node
        403 serviceaccounts "default" is forbidden: node requested token with a pod binding without a uid
        403 serviceaccounts "default" is forbidden: node requested token not bound to a pod
        403 serviceaccounts "default" is forbidden: node requested token not bound to a pod
    "#]]
    .assert_eq(&told);
    cluster.user = admin;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = r#"{"metadata":{"name":"r"},"rules":[{"apiGroups":[""],"resources":["bank"],"verbs":["request-serviceaccounts-token-audience"]}]}"#;
    cluster.tree(&format!("POST {rbac}/clusterroles\n\n{role}")).await;
    let binding = r#"{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"r"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"system:nodes"}]}"#;
    cluster.tree(&format!("POST {rbac}/clusterrolebindings\n\n{binding}")).await;
    cluster.tree(&format!("GET {rbac}/clusterrolebindings")).await;
    cluster.user = node;
    assert_eq!(cluster.outcome(&ask(r#"["bank"]"#, &pod("a", &uids[0]))).await, "201");
}
