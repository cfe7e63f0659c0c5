//! Who decides: a chain of authorizers with programs in it; and that nobody gives rights that they do not have.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use expect_test::expect;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_apiserver::authz::abac::Policies;
use skiff_apiserver::authz::{Chain, Settings};

use crate::peer::Peer;
use crate::support::{Cluster, Folder};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// The kubeconfigs of these tests hold all that is in them.
fn kubeconfig(path: &Path) -> Result<Value, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn config(authorizers: Value) -> Value {
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": authorizers})
}

/// A program that allows what concerns `allowed`, refuses what concerns `denied`, and notes what it was asked.
struct Program {
    asked: Arc<Mutex<Vec<Value>>>,
    folder: Folder,
}

impl Program {
    async fn start(name: &str) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let peer = Peer::start(move |path, review| {
            let spec = review["spec"].clone();
            noted.lock().push(spec.clone());
            let namespace = spec["resourceAttributes"]["namespace"].clone();
            match path {
                "/broken" => Some(Value::Null),
                _ => Some(json!({"status": {"allowed": namespace == "allowed", "denied": namespace == "denied", "reason": "so it is"}})),
            }
        })
        .await;
        let folder = Folder::new(name);
        for path in ["asks", "broken"] {
            let own = peer.kubeconfig(&format!("/{path}"));
            std::fs::write(folder.path().join(path), own.to_string()).expect("written");
        }
        Self { asked, folder }
    }

    fn webhook(&self, file: &str, more: Value) -> Value {
        let mut webhook = json!({"timeout": "10s", "subjectAccessReviewVersion": "v1", "failurePolicy": "NoOpinion",
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": self.folder.path().join(file)}});
        for (field, value) in more.as_object().expect("fields") {
            webhook[field] = value.clone();
        }
        json!({"type": "Webhook", "name": file, "webhook": webhook})
    }
}

async fn cluster(settings: Settings) -> Cluster {
    let settings = Settings { kubeconfig: Some(kubeconfig), ..settings };
    Cluster::with(|config| config.access.authorization = settings).await
}

async fn given(authorizers: Value) -> Cluster {
    cluster(Settings { chain: Chain::Given(config(authorizers)), ..Settings::default() }).await
}

fn rbac() -> Value {
    json!({"type": "RBAC", "name": "rbac"})
}

async fn bound(cluster: &Cluster, user: &str, role: &str) {
    let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
    let binding = json!({"metadata": {"name": user}, "roleRef": role, "subjects": [subject]});
    cluster.tree(&format!("POST {RBAC}/clusterrolebindings\n\n{binding}")).await;
}

async fn pods(cluster: &Cluster, user: &str, namespace: &str) -> String {
    cluster.outcome(&format!("GET /api/v1/namespaces/{namespace}/pods\nUser: {user}")).await
}

#[tokio::test]
async fn the_first_with_an_opinion_decides() {
    let program = Program::start("deciders-first").await;
    let cluster = given(json!([program.webhook("asks", json!({})), rbac()])).await;
    bound(&cluster, "jane", "view").await;
    assert_eq!(pods(&cluster, "joe", "allowed").await, "200");
    assert_eq!(pods(&cluster, "jane", "other").await, "200");
    // What a program refuses no role allows; who is in `system:masters` is not asked about.
    let refused = r#"403 pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "denied": so it is"#;
    assert_eq!(pods(&cluster, "jane", "denied").await, refused);
    assert_eq!(cluster.outcome("GET /api/v1/namespaces/denied/pods").await, "200");
    let before = program.asked.lock().len();
    assert_eq!(pods(&cluster, "joe", "allowed").await, "200");
    assert_eq!(program.asked.lock().len(), before, "what was answered holds for a while");
    cluster.clock.advance(Duration::from_secs(301));
    assert_eq!(pods(&cluster, "joe", "allowed").await, "200");
    assert_eq!(program.asked.lock().len(), before + 1);
    let review = json!({"spec": {"user": "jane", "resourceAttributes": {"namespace": "denied", "verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1";
    let reviewed = cluster.tree(&format!("POST {path}/subjectaccessreviews\n\n{review}")).await;
    assert_eq!(reviewed["status"], json!({"allowed": false, "denied": true, "reason": "so it is"}));
    let review = json!({"spec": {"namespace": "default"}});
    let rules = cluster.tree(&format!("POST {path}/selfsubjectrulesreviews\nUser: jane\n\n{review}")).await;
    assert_eq!(rules["status"]["incomplete"], true);
}

#[tokio::test]
async fn a_program_is_asked_where_its_conditions_hold_and_told_of_selectors() {
    let program = Program::start("deciders-conditions").await;
    let conditions = json!({"matchConditionSubjectAccessReviewVersion": "v1", "matchConditions": [
        {"expression": "has(request.resourceAttributes)"},
        {"expression": "request.user == 'jane' && request.resourceAttributes.?fieldSelector.hasValue()"}]});
    let cluster = given(json!([program.webhook("asks", conditions)])).await;
    assert!(pods(&cluster, "joe", "allowed").await.starts_with("403"));
    assert!(cluster.outcome("GET /version\nUser: jane").await.starts_with("403"));
    assert!(program.asked.lock().is_empty());
    let narrowed =
        "GET /api/v1/namespaces/allowed/pods?fieldSelector=spec.nodeName%3Dn1&labelSelector=a,b+in+(c,d)\nUser: jane";
    assert_eq!(cluster.outcome(narrowed).await, "200");
    expect![[r#"{"groups":["system:authenticated"],"resourceAttributes":{"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"In","values":["n1"]}]},"labelSelector":{"requirements":[{"key":"a","operator":"Exists"},{"key":"b","operator":"In","values":["c","d"]}]},"namespace":"allowed","resource":"pods","verb":"list","version":"v1"},"user":"jane"}"#]]
        .assert_eq(&program.asked.lock()[0].to_string());
    let review = |selector: Value| {
        let spec = json!({"spec": {"user": "jane", "resourceAttributes": {"namespace": "allowed", "verb": "list",
            "resource": "pods", "fieldSelector": selector}}});
        format!("POST /apis/authorization.k8s.io/v1/subjectaccessreviews\n\n{spec}")
    };
    let reviewed = cluster.tree(&review(json!({"rawSelector": "spec.nodeName=n1"}))).await;
    assert_eq!(reviewed["status"]["allowed"], true);
    let fault = cluster.outcome(&review(json!({}))).await;
    assert_eq!(
        fault,
        r#"422 SubjectAccessReview.authorization.k8s.io "" is invalid: spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"#
    );
}

#[tokio::test]
async fn a_program_that_is_away_refuses_all_or_is_passed_over() {
    let program = Program::start("deciders-away").await;
    let fields = |policy: &str| json!({"timeout": "100ms", "failurePolicy": policy});
    let open = given(json!([program.webhook("broken", fields("NoOpinion")), rbac()])).await;
    bound(&open, "jane", "view").await;
    assert_eq!(pods(&open, "jane", "x").await, "200");
    let closed = given(json!([program.webhook("broken", fields("Deny")), rbac()])).await;
    bound(&closed, "jane", "view").await;
    assert!(pods(&closed, "jane", "x").await.starts_with("403"));
}

#[tokio::test]
async fn policies_and_plain_modes_take_part() {
    let policy = r#"{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"jane","namespace":"a","resource":"pods"}}"#;
    let policies = Arc::new(Policies::read(policy, "f").expect("a policy"));
    let modes = |modes: &[&str]| {
        let entries: Vec<Value> = modes.iter().map(|mode| json!({"type": mode, "name": mode.to_lowercase()})).collect();
        Chain::Given(config(entries.into()))
    };
    let cluster = cluster(Settings { chain: modes(&["ABAC", "RBAC"]), policies, kubeconfig: None }).await;
    assert_eq!(pods(&cluster, "jane", "a").await, "200");
    let refused = r#"403 pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "b": No policy matched."#;
    assert_eq!(pods(&cluster, "jane", "b").await, refused);
    let open = self::cluster(Settings { chain: modes(&["AlwaysAllow"]), ..Settings::default() }).await;
    assert_eq!(pods(&open, "jane", "b").await, "200");
    let closed = self::cluster(Settings { chain: modes(&["AlwaysDeny"]), ..Settings::default() }).await;
    assert!(pods(&closed, "jane", "b").await.ends_with("Everything is forbidden."));
}

#[tokio::test]
async fn a_changed_chain_holds_and_a_wrong_one_does_not() {
    let program = Program::start("deciders-reload").await;
    let file = program.folder.path().join("authorization.yaml");
    let write = |authorizers: Value| std::fs::write(&file, config(authorizers).to_string()).expect("written");
    write(json!([rbac()]));
    let cluster = cluster(Settings { chain: Chain::File(file.clone()), ..Settings::default() }).await;
    assert!(pods(&cluster, "joe", "allowed").await.starts_with("403"));
    write(json!([program.webhook("asks", json!({})), rbac()]));
    cluster.server.reload().await;
    assert_eq!(pods(&cluster, "joe", "allowed").await, "200");
    // Without its own authorizers the server would refuse its own parts.
    write(json!([program.webhook("asks", json!({}))]));
    cluster.server.reload().await;
    bound(&cluster, "jane", "view").await;
    assert_eq!(pods(&cluster, "jane", "other").await, "200");
}

#[tokio::test]
async fn nobody_gives_rights_that_they_do_not_have() {
    let cluster = Cluster::new().await;
    let rules = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["get", "create", "update", "patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    cluster
        .tree(&format!("POST {RBAC}/clusterroles\n\n{}", json!({"metadata": {"name": "author"}, "rules": rules})))
        .await;
    bound(&cluster, "jane", "author").await;
    let role = |name: &str, rules: Value| {
        let role = json!({"metadata": {"name": name}, "rules": rules});
        format!("POST {RBAC}/namespaces/default/roles\nUser: jane\n\n{role}")
    };
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let secrets = json!([{"apiGroups": [""], "resources": ["secrets", "pods"], "verbs": ["get", "list"]}]);
    assert_eq!(cluster.outcome(&role("fine", pods.clone())).await, "201");
    expect![[r#"
        403 roles.rbac.authorization.k8s.io "more" is forbidden: user "jane" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:
        {APIGroups:[""], Resources:["pods"], Verbs:["list"]}
        {APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#]]
        .assert_eq(&cluster.outcome(&role("more", secrets.clone())).await);
    // A patch is no way around it, and what one does not touch is not asked about.
    let merge = "User: jane\ncontent-type: application/merge-patch+json";
    let patch = |what: Value| format!("PATCH {RBAC}/namespaces/default/roles/fine\n{merge}\n\n{what}");
    assert!(cluster.outcome(&patch(json!({"rules": secrets}))).await.contains("not currently held"));
    assert_eq!(cluster.outcome(&patch(json!({"metadata": {"labels": {"a": "b"}}}))).await, "200");
    let aggregated = json!({"metadata": {"name": "agg"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let refused = cluster.outcome(&format!("POST {RBAC}/clusterroles\nUser: jane\n\n{aggregated}")).await;
    assert_eq!(
        refused,
        r#"403 clusterroles.rbac.authorization.k8s.io "agg" is forbidden: must have cluster-admin privileges to use an aggregationRule"#
    );
    let binding = |name: &str, role: &str| {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"});
        let binding = json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]});
        format!("POST {RBAC}/clusterrolebindings\nUser: jane\n\n{binding}")
    };
    let refused = cluster.outcome(&binding("all", "cluster-admin")).await;
    assert!(
        refused.starts_with(r#"403 clusterrolebindings.rbac.authorization.k8s.io "all" is forbidden: user "jane""#),
        "{refused}"
    );
    assert!(refused.contains(r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#), "{refused}");
    assert_eq!(cluster.outcome(&binding("own", "author")).await, "201");
    assert_eq!(
        cluster.outcome(&binding("none", "nowhere")).await,
        r#"404 clusterroles.rbac.authorization.k8s.io "nowhere" not found"#
    );
    // Who may bind a role or escalate is trusted with it.
    let trusted = json!({"metadata": {"name": "trusted"}, "rules": [
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"], "verbs": ["bind"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"]}]});
    cluster.tree(&format!("POST {RBAC}/clusterroles\n\n{trusted}")).await;
    let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"});
    let more = json!({"metadata": {"name": "jane-trusted"}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "trusted"}});
    cluster.tree(&format!("POST {RBAC}/clusterrolebindings\n\n{more}")).await;
    assert_eq!(cluster.outcome(&role("more", secrets)).await, "201");
    assert_eq!(cluster.outcome(&binding("all", "cluster-admin")).await, "201");
}
