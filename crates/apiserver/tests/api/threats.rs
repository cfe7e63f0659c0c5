//! What `docs/SECURITY.md` says that nobody can do, where no other test tries it.

use serde_json::json;

use crate::support::Cluster;

/// A user who may do much in one namespace, and a Secret in another.
async fn cluster() -> Cluster {
    let cluster = Cluster::new().await;
    let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"});
    let binding = json!({"metadata": {"name": "jane"}, "roleRef": role, "subjects": [subject]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    cluster.tree(&format!("POST {bindings}\n\n{binding}")).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"key": "treasure"}});
    cluster.tree(&format!("POST /api/v1/namespaces/kube-system/secrets\n\n{secret}")).await;
    cluster
}

#[tokio::test]
async fn no_spelling_of_a_path_leads_elsewhere() {
    let cluster = cluster().await;
    assert_eq!(cluster.outcome("GET /api/v1/namespaces/default/secrets\nUser: jane").await, "200");
    for path in [
        "/api/v1/namespaces/kube-system/secrets/s",
        "/api/v1/namespaces/default/../kube-system/secrets/s",
        "/api/v1/namespaces/default/%2e%2e/kube-system/secrets/s",
        "/api/v1/namespaces/default%2f..%2fkube-system/secrets/s",
        "/api/v1/namespaces/default/secrets/..%2f..%2fkube-system%2fsecrets%2fs",
        "/api/v1/namespaces/default/secrets/%2e%2e/kube-system/s",
        "/api/v1/namespaces/default/secrets/../../kube-system/secrets/s",
        "/api/v1/namespaces//kube-system/secrets/s",
        "//api/v1/namespaces/kube-system/secrets/s",
        "/api//v1/namespaces/kube-system/secrets/s",
        "/api/v1/watch/namespaces/kube-system/secrets",
        "/api/v1/namespaces/kube%2dsystem/secrets/s",
        "/api/v1/namespaces/kube-system/secrets/s/",
        "/api/v1/./namespaces/kube-system/secrets/s",
        "/api/v1/secrets?fieldSelector=metadata.namespace%3Ddefault",
        "/api/v1/secrets?namespace=default",
        "/api/v1/namespaces/default/secrets/s%00",
        "/healthz/../api/v1/namespaces/kube-system/secrets/s",
        "/api/v1/namespaces/default/services/http:x:1/proxy/../../../../kube-system/secrets/s",
    ] {
        let answer = cluster.answer(&format!("GET {path}\nUser: jane")).await;
        assert!(["400", "403", "404", "503"].contains(&&answer[..3]), "{path}\n{answer}");
        assert!(!answer.contains("dHJlYXN1cmU"), "{path}\n{answer}");
    }
}

#[tokio::test]
async fn what_comes_compressed_is_not_unpacked() {
    use std::io::Write as _;
    let cluster = cluster().await;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&vec![b' '; 8 * 1024 * 1024]).expect("packed");
    let bomb = packer.finish().expect("packed");
    let head = "POST /api/v1/namespaces/default/configmaps\ncontent-type: application/json\ncontent-encoding: gzip";
    assert_eq!(cluster.send_bytes(head, bomb).await.status(), 400);
}

#[tokio::test]
async fn a_secret_is_in_no_refusal() {
    let cluster = cluster().await;
    let key = "dHJlYXN1cmUgaXNsYW5k";
    let secrets = "/api/v1/namespaces/default/secrets";
    for body in [
        format!(r#"{{"metadata":{{"name":"A_"}},"data":{{"k":"{key}"}}}}"#),
        format!(r#"{{"metadata":{{"name":"a"}},"data":{{"k":"{key}!"}}}}"#),
        format!(r#"{{"metadata":{{"name":"a"}},"type":"kubernetes.io/tls","data":{{"tls.crt":"{key}"}}}}"#),
        format!(
            r#"{{"metadata":{{"name":"a"}},"type":"kubernetes.io/dockerconfigjson","data":{{".dockerconfigjson":"{key}"}}}}"#
        ),
    ] {
        let answer = cluster.answer(&format!("POST {secrets}\n\n{body}")).await;
        assert!(answer.starts_with('4'), "{body}\n{answer}");
        assert!(!answer.contains(&key[..12]) && !answer.contains("treasure"), "{body}\n{answer}");
    }
}
