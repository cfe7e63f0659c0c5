//! What the server tells of itself: discovery and OpenAPI, with their ETags, custom resources among them.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::{Cluster, established};

const AGGREGATED: &str = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The code, the header of that name, and the body.
async fn answer(cluster: &Cluster, request: &str, header: &str) -> (u16, String, Vec<u8>) {
    let answer = cluster.send(request).await;
    let value = answer.headers().get(header).map(|value| value.to_str().expect("text").to_owned());
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
    (code, value.unwrap_or_default(), body.to_vec())
}

async fn define(cluster: &Cluster, plural: &str, kind: &str) {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "either": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "maybe": {"type": "string", "nullable": true}}}}});
    define_as(cluster, plural, kind, schema).await;
}

async fn define_as(cluster: &Cluster, plural: &str, kind: &str, schema: Value) {
    let definition = json!({
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.tree(&format!("POST {path}\n\n{definition}")).await;
    established(cluster, &format!("{plural}.example.com")).await;
}

#[tokio::test]
async fn discovery_in_one_document_is_told_once() {
    let cluster = Cluster::new().await;
    for path in ["/api", "/apis"] {
        let request = format!("GET {path}\n{AGGREGATED}");
        let (code, etag, body) = answer(&cluster, &request, "etag").await;
        assert_eq!(code, 200);
        let tree: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(tree["kind"], "APIGroupDiscoveryList");
        let (code, again, body) = answer(&cluster, &format!("{request}\nIf-None-Match: {etag}"), "etag").await;
        assert_eq!((code, again, body.len()), (304, etag, 0));
        let protobuf = request.replace("application/json", "application/vnd.kubernetes.protobuf");
        let (_, media, body) = answer(&cluster, &protobuf, "content-type").await;
        assert!(media.starts_with("application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io"), "{media}");
        let list = skiff_kinds::protobuf::tree(&body).expect("a list");
        assert_eq!(list["items"][0]["versions"][0]["version"], "v1");
    }
    let (_, before, _) = answer(&cluster, &format!("GET /apis\n{AGGREGATED}"), "etag").await;
    define(&cluster, "widgets", "Widget").await;
    let (_, after, body) = answer(&cluster, &format!("GET /apis\n{AGGREGATED}"), "etag").await;
    assert_ne!(before, after);
    assert!(String::from_utf8_lossy(&body).contains("widgets"));
}

#[tokio::test]
async fn each_version_has_its_own_document_and_hash() {
    let cluster = Cluster::new().await;
    let index = cluster.tree("GET /openapi/v3").await;
    let place = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a place").to_owned();
    let (code, etag, body) = answer(&cluster, &format!("GET {place}"), "etag").await;
    assert_eq!(code, 200);
    assert!(place.ends_with(&format!("?hash={}", etag.trim_matches('"'))), "{place} {etag}");
    let document: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    let (code, _, _) = answer(&cluster, &format!("GET {place}\nIf-None-Match: {etag}"), "etag").await;
    assert_eq!(code, 304);
    let (_, cache, _) = answer(&cluster, &format!("GET {place}"), "cache-control").await;
    assert_eq!(cache, "public, immutable");
    let (code, moved, _) = answer(&cluster, "GET /openapi/v3/apis/apps/v1?hash=old", "location").await;
    assert_eq!((code, moved), (301, place.clone()));
    for name in ["version", "api", "apis", "apis/apps", "openid/v1/jwks", ".well-known/openid-configuration"] {
        let place = index["paths"][name]["serverRelativeURL"].as_str().unwrap_or_else(|| panic!("{name} is listed"));
        let document = cluster.tree(&format!("GET {place}")).await;
        assert!(document["paths"][format!("/{name}/")]["get"]["operationId"].is_string(), "{name}");
    }
    define(&cluster, "widgets", "Widget").await;
    let index = cluster.tree("GET /openapi/v3").await;
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], place);
    let custom = cluster.tree("GET /openapi/v3/apis/example.com/v1").await;
    let fields = &custom["components"]["schemas"]["com.example.v1.Widget"]["properties"];
    assert!(fields["spec"].is_object());
    for name in ["apiVersion", "kind", "metadata"] {
        assert!(!fields[name]["description"].as_str().unwrap_or_default().is_empty(), "{name} is explained");
    }
}

#[tokio::test]
async fn the_v2_document_is_had_in_gnostics_protobuf() {
    let cluster = Cluster::new().await;
    define(&cluster, "widgets", "Widget").await;
    let document = cluster.tree("GET /openapi/v2").await;
    let spec = &document["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"];
    assert_eq!(spec, &json!({"either": {"x-kubernetes-int-or-string": true}, "maybe": {}}));
    // kubectl would refuse every field that is not named beside one that is.
    define_as(&cluster, "things", "Thing", json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))
        .await;
    let open = &cluster.tree("GET /openapi/v2").await["definitions"]["com.example.v1.Thing"];
    let kinds = json!([{"group": "example.com", "kind": "Thing", "version": "v1"}]);
    assert_eq!(open, &json!({"type": "object", "x-kubernetes-group-version-kind": kinds}));
    let asked = "GET /openapi/v2\nAccept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (code, media, body) = answer(&cluster, asked, "content-type").await;
    assert_eq!((code, media.as_str()), (200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"));
    assert!(body.starts_with(b"\x0a\x032.0\x12"), "{:?}", &body[..8]);
    let name = b"com.example.v1.Widget";
    assert!(body.windows(name.len()).any(|part| part == name));
    let (code, _, _) = answer(&cluster, "GET /openapi/v2\nAccept: text/html", "etag").await;
    assert_eq!(code, 406);
}
