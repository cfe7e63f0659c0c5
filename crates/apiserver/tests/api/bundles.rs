//! ClusterTrustBundles: served where they are asked for, in two versions of one storage; who may write which; and what
//! becomes of Pods that want them where they are off.

use expect_test::expect;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use skiff_apiserver::runtime_config;
use skiff_base::gates::Gates;

use crate::support::{Cluster, Watch};

const GROUP: &str = "/apis/certificates.k8s.io";
const BETA: &str = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles";
const ALPHA: &str = "/apis/certificates.k8s.io/v1alpha1/clustertrustbundles";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server with these gates and versions.
async fn cluster(gates: &[&str], versions: &[&str]) -> Cluster {
    let gates = Gates::of(gates.iter().map(|name| (*name, true))).expect("they can be so");
    let versions: Vec<String> = versions.iter().map(|&version| version.to_owned()).collect();
    Cluster::with(|config| {
        config.kinds = runtime_config::kinds(&versions, &gates).expect("it makes sense");
        config.gates = gates;
    })
    .await
}

async fn with_both() -> Cluster {
    let gates = ["ClusterTrustBundle", "ClusterTrustBundleProjection"];
    cluster(&gates, &["certificates.k8s.io/v1beta1=true", "certificates.k8s.io/v1alpha1=true"]).await
}

fn authority() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").pem()
}

fn bundle(name: &str, signer: &str) -> Value {
    let mut bundle = json!({"metadata": {"name": name}, "spec": {"trustBundle": authority()}});
    if !signer.is_empty() {
        bundle["spec"]["signerName"] = signer.into();
    }
    bundle
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

async fn versions(cluster: &Cluster) -> String {
    let group = cluster.tree(&format!("GET {GROUP}")).await;
    let versions = group["versions"].as_array().expect("versions");
    let versions: Vec<_> = versions.iter().filter_map(|version| version["version"].as_str()).collect();
    format!("{} of {}", group["preferredVersion"]["version"].as_str().expect("a version"), versions.join(" "))
}

#[tokio::test]
async fn they_are_served_where_they_are_asked_for() {
    let (gate, version) = (["ClusterTrustBundle"], ["certificates.k8s.io/v1beta1/clustertrustbundles=true"]);
    for (gates, asked) in [(&[][..], &[][..]), (&gate[..], &[][..]), (&[][..], &version[..])] {
        let without = cluster(gates, asked).await;
        assert_eq!(versions(&without).await, "v1 of v1");
        assert_eq!(without.outcome(&format!("GET {BETA}")).await, "404");
        let rule = without
            .outcome("GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system:cluster-trust-bundle-discovery");
        assert_eq!(rule.await.starts_with("404"), gates.is_empty());
    }
    let with = cluster(&gate, &version).await;
    assert_eq!(versions(&with).await, "v1 of v1 v1beta1");
    let list = with.tree(&format!("GET {GROUP}/v1beta1")).await;
    assert_eq!(list["resources"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["resources"][0]["singularName"], "clustertrustbundle");
    let service = with.tree("GET /apis/apiregistration.k8s.io/v1/apiservices/v1beta1.certificates.k8s.io").await;
    assert_eq!(service["spec"]["versionPriority"], 9);
    let document = with.tree(&format!("GET /openapi/v3{GROUP}/v1beta1")).await;
    let schema = &document["components"]["schemas"]["io.k8s.api.certificates.v1beta1.ClusterTrustBundleSpec"];
    let description = schema["properties"]["trustBundle"]["description"].as_str().expect("it is described");
    assert!(description.starts_with("trustBundle contains the individual X.509 trust anchors"), "{description}");
    assert_eq!(versions(&with_both().await).await, "v1 of v1 v1beta1 v1alpha1");
}

#[tokio::test]
async fn both_versions_are_of_one_storage() {
    let cluster = with_both().await;
    let mut alpha = Watch::open(&cluster, &format!("GET {ALPHA}?watch=true")).await;
    let mut beta = Watch::open(&cluster, &format!("GET {BETA}?watch=true")).await;
    let made = cluster.send(&format!("POST {BETA}\n\n{}", bundle("a", ""))).await;
    assert_eq!(made.status(), 201);
    let warning = made.headers()["warning"].to_str().expect("text").to_owned();
    let words = "certificates.k8s.io/v1beta1 ClusterTrustBundle is deprecated in v1.36+, unavailable in v1.39+";
    assert_eq!(warning, format!("299 - {words:?}"));
    cluster.tree(&format!("POST {ALPHA}\n\n{}", bundle("x.io:s:b", "x.io/s"))).await;
    for (watch, version) in [(&mut alpha, "v1alpha1"), (&mut beta, "v1beta1")] {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            seen.extend(watch.next().await);
        }
        let version = format!("certificates.k8s.io/{version}");
        assert!(seen.iter().all(|event| event["object"]["apiVersion"] == version.as_str()), "{seen:?}");
    }
    let found = cluster.tree(&format!("GET {ALPHA}/a")).await;
    assert_eq!(found["apiVersion"], "certificates.k8s.io/v1alpha1");
    let chosen = cluster.tree(&format!("GET {BETA}?fieldSelector=spec.signerName%3Dx.io%2Fs")).await;
    assert_eq!((names(&chosen), &chosen["apiVersion"]), (vec!["x.io:s:b"], &json!("certificates.k8s.io/v1beta1")));
    let table = cluster.tree(&format!("GET {BETA}\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io")).await;
    let rows = table["rows"].as_array().expect("rows");
    let cells: Vec<_> = rows.iter().map(|row| row["cells"].to_string()).collect();
    assert_eq!(cells, [r#"["a","<none>"]"#, r#"["x.io:s:b","x.io/s"]"#]);
    let moved = r#"{"spec":{"signerName":"x.io/t"}}"#;
    let patch = format!("PATCH {BETA}/x.io:s:b\nContent-Type: application/merge-patch+json\n\n{moved}");
    expect![[r#"422 ClusterTrustBundle.certificates.k8s.io "x.io:s:b" is invalid: [metadata.name: Invalid value: "x.io:s:b": ClusterTrustBundle for signerName x.io/t must be named with prefix x.io:t:, spec.signerName: Invalid value: "x.io/t": field is immutable]"#]].assert_eq(&cluster.outcome(&patch).await);
}

#[tokio::test]
async fn only_who_may_attest_writes_a_signers_bundles() {
    let cluster = with_both().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"], "verbs": ["*"]},
        {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["x.io/s", "y.io/*"],
            "verbs": ["attest"]}]});
    cluster.tree(&format!("POST {rbac}/clusterroles\n\n{rule}")).await;
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User",
        "name": "joe"}], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"}});
    cluster.tree(&format!("POST {rbac}/clusterrolebindings\n\n{binding}")).await;
    cluster.tree(&format!("GET {rbac}/clusterrolebindings")).await;
    let mut told = String::new();
    for (name, signer) in [("a", ""), ("x.io:s:a", "x.io/s"), ("y.io:t:a", "y.io/t"), ("x.io:t:a", "x.io/t")] {
        let made = cluster.outcome(&format!("POST {BETA}\nUser: joe\n\n{}", bundle(name, signer))).await;
        told.push_str(&format!("{made}\n"));
    }
    expect![[r#"
        201
        201
        201
        403 clustertrustbundles.certificates.k8s.io "x.io:t:a" is forbidden: user not permitted to attest for signerName "x.io/t"
    "#]].assert_eq(&told);
    cluster.tree(&format!("POST {BETA}\n\n{}", bundle("x.io:t:a", "x.io/t"))).await;
    let patch = |change: &str| {
        format!("PATCH {BETA}/x.io:t:a\nUser: joe\nContent-Type: application/merge-patch+json\n\n{change}")
    };
    assert_eq!(cluster.outcome(&patch(r#"{"metadata":{"finalizers":["x.io/f"]}}"#)).await, "200");
    let labelled = cluster.outcome(&patch(r#"{"metadata":{"labels":{"a":"b"}}}"#)).await;
    assert!(labelled.starts_with("403 "), "{labelled}");
}

#[tokio::test]
async fn pods_get_them_where_they_are_on() {
    let sources = json!([{"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"clusterTrustBundle": {"name": "a", "path": "p"}}]);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "projected": {"sources": sources}}]}});
    let account = r#"{"metadata":{"name":"default"}}"#;
    for (cluster, count) in [(Cluster::new().await, 1), (with_both().await, 2)] {
        cluster.tree(&format!("POST /api/v1/namespaces/default/serviceaccounts\n\n{account}")).await;
        cluster.tree("GET /api/v1/namespaces").await;
        let made = cluster.tree(&format!("POST {PODS}\n\n{pod}")).await;
        assert_eq!(made["spec"]["volumes"][0]["projected"]["sources"].as_array().map(Vec::len), Some(count));
    }
}
