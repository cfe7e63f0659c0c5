//! What the server tells of itself: discovery and OpenAPI, with their ETags, custom resources among them.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::{Cluster, established};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
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
    define_in(cluster, "example.com", &["v1"], plural, kind, schema).await;
}

/// The first version is the stored one.
async fn define_in(cluster: &Cluster, group: &str, versions: &[&str], plural: &str, kind: &str, schema: Value) {
    let version = |name: &&str| json!({"name": name, "served": true, "storage": *name == versions[0], "schema": {"openAPIV3Schema": schema}});
    let definition = json!({
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": versions.iter().map(version).collect::<Vec<_>>()},
    });
    cluster.tree(&format!("POST {DEFINITIONS}\n\n{definition}")).await;
    established(cluster, &format!("{plural}.{group}")).await;
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

/// The definitions of `/openapi/v2` under a domain, which are also those of all v3 documents of it.
async fn described(cluster: &Cluster, domain: &str) -> Vec<String> {
    let own = |schemas: &Value| {
        let all = schemas.as_object().into_iter().flatten();
        let own = all.filter(|(name, _)| name.starts_with(domain) && !name.ends_with("List"));
        own.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let v2 = own(&cluster.tree("GET /openapi/v2").await["definitions"]);
    let index = cluster.tree("GET /openapi/v3").await;
    let mut v3 = Vec::new();
    for place in index["paths"].as_object().into_iter().flatten() {
        let document = cluster.tree(&format!("GET {}", place.1["serverRelativeURL"].as_str().expect("a place"))).await;
        v3.extend(own(&document["components"]["schemas"]));
    }
    v3.sort();
    assert_eq!(v2, v3, "both versions of OpenAPI describe the same");
    v2
}

#[tokio::test]
async fn definitions_of_several_groups_and_versions_are_described_as_they_are_served() {
    let cluster = Cluster::new().await;
    let schema = || json!({"type": "object", "properties": {"spec": {"type": "object"}}});
    define_in(&cluster, "one.test", &["v1"], "foos", "Foo", schema()).await;
    define_in(&cluster, "two.test", &["v1"], "foos", "Foo", schema()).await;
    define_in(&cluster, "one.test", &["v1"], "bars", "Bar", schema()).await;
    define_in(&cluster, "one.test", &["v2", "v3"], "cars", "Car", schema()).await;
    let all = ["test.one.v1.Bar", "test.one.v1.Foo", "test.one.v2.Car", "test.one.v3.Car", "test.two.v1.Foo"];
    assert_eq!(described(&cluster, "test.").await, all);
    let change = async |patch: Value, gone: &str| {
        let head = format!("PATCH {DEFINITIONS}/cars.one.test\nContent-Type: application/json-patch+json");
        cluster.tree(&format!("{head}\n\n{patch}")).await;
        while cluster.send(&format!("GET /apis/one.test/{gone}/cars")).await.status() == 200 {
            tokio::task::yield_now().await;
        }
    };
    change(json!([{"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]), "v3").await;
    let renamed = ["test.one.v1.Bar", "test.one.v1.Foo", "test.one.v2.Car", "test.one.v4.Car", "test.two.v1.Foo"];
    assert_eq!(described(&cluster, "test.").await, renamed);
    change(json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]), "v4").await;
    let served = ["test.one.v1.Bar", "test.one.v1.Foo", "test.one.v2.Car", "test.two.v1.Foo"];
    assert_eq!(described(&cluster, "test.").await, served);
    assert_eq!(cluster.send("GET /openapi/v3/apis/one.test/v4").await.status(), 404);
}

#[tokio::test]
async fn objects_within_custom_objects_are_described_as_objects() {
    let cluster = Cluster::new().await;
    let embedded = |more: Value| {
        let mut schema = json!({"type": "object", "x-kubernetes-embedded-resource": true});
        schema.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        schema
    };
    let schema = json!({"type": "object", "properties": {
        "open": embedded(json!({"x-kubernetes-preserve-unknown-fields": true})),
        "closed": embedded(json!({"required": ["spec"], "properties": {"spec": {"type": "object"}}})),
        "many": {"type": "array", "items": embedded(json!({"x-kubernetes-preserve-unknown-fields": true}))},
        "maybe": {"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "string", "nullable": true}, "b": {"type": "string"}}}}});
    define_as(&cluster, "shells", "Shell", schema).await;
    let v2 = cluster.tree("GET /openapi/v2").await["definitions"]["com.example.v1.Shell"]["properties"].take();
    let open = json!({"x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    assert_eq!((&v2["open"], &v2["many"]["items"]), (&open, &open));
    assert_eq!(v2["maybe"]["required"], json!(["b"]));
    let mut v3 = cluster.tree("GET /openapi/v3/apis/example.com/v1").await;
    let v3 = v3["components"]["schemas"]["com.example.v1.Shell"]["properties"].take();
    assert_eq!(v3["maybe"]["required"], json!(["a", "b"]));
    assert_eq!(v3["open"]["x-kubernetes-preserve-unknown-fields"], true);
    assert_eq!(v3["closed"]["required"], json!(["spec", "kind", "apiVersion"]));
    assert!(v3["closed"]["properties"]["spec"].is_object() && v2["closed"]["properties"]["spec"].is_object());
    for (whole, meta) in
        [(&v2["closed"], "$ref"), (&v3["closed"], "allOf"), (&v3["open"], "allOf"), (&v3["many"]["items"], "allOf")]
    {
        let fields = &whole["properties"];
        for name in ["apiVersion", "kind", "metadata"] {
            assert!(fields[name]["description"].is_string(), "{whole}");
        }
        assert!(fields["metadata"].get(meta).is_some(), "{whole}");
    }
}

#[tokio::test]
async fn fields_by_which_custom_objects_are_selected_are_told() {
    let cluster = Cluster::new().await;
    let definition = json!({"metadata": {"name": "paints.example.com"}, "spec": {"group": "example.com",
        "scope": "Cluster", "names": {"plural": "paints", "kind": "Paint"}, "versions": [{"name": "v1",
        "served": true, "storage": true, "selectableFields": [{"jsonPath": ".spec.color"}], "schema": {
        "openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "color": {"type": "string"}}}}}}}]}});
    cluster.tree(&format!("POST {DEFINITIONS}\n\n{definition}")).await;
    established(&cluster, "paints.example.com").await;
    let v2 = cluster.tree("GET /openapi/v2").await;
    let v3 = cluster.tree("GET /openapi/v3/apis/example.com/v1").await;
    for schemas in [&v2["definitions"], &v3["components"]["schemas"]] {
        for name in ["com.example.v1.Paint", "com.example.v1.PaintList"] {
            assert_eq!(schemas[name]["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.color"}]), "{name}");
        }
    }
}

#[tokio::test]
async fn each_group_prefers_one_of_its_versions_and_all_documents_agree() {
    let cluster = Cluster::new().await;
    let schema = json!({"type": "object"});
    define_in(&cluster, "ranks.test", &["v1alpha1", "v10", "v2", "v11beta2", "foo1"], "ranks", "Rank", schema).await;
    let groups = cluster.tree("GET /apis").await["groups"].take();
    let aggregated = cluster.tree(&format!("GET /apis\n{AGGREGATED}")).await["items"].take();
    let groups = groups.as_array().expect("groups");
    let whole = aggregated.as_array().expect("groups");
    assert_eq!(groups.len(), whole.len());
    for (group, whole) in groups.iter().zip(whole) {
        let name = group["name"].as_str().expect("a name");
        let mut alone = cluster.tree(&format!("GET /apis/{name}")).await;
        for field in ["kind", "apiVersion"] {
            alone.as_object_mut().expect("a map").remove(field);
        }
        assert_eq!(*group, alone, "{name}");
        assert_eq!(whole["metadata"]["name"], name);
        let versions = group["versions"].as_array().expect("versions");
        assert!(versions.contains(&group["preferredVersion"]), "{group}");
        let in_one: Vec<_> =
            whole["versions"].as_array().expect("versions").iter().map(|one| &one["version"]).collect();
        assert_eq!(in_one, versions.iter().map(|one| &one["version"]).collect::<Vec<_>>(), "{name}");
        assert_eq!(in_one[0], &group["preferredVersion"]["version"], "clients take the first one: {name}");
        for (version, whole) in versions.iter().zip(whole["versions"].as_array().expect("versions")) {
            let list =
                cluster.tree(&format!("GET /apis/{name}/{}", version["version"].as_str().expect("a name"))).await;
            assert_eq!(list["groupVersion"], version["groupVersion"]);
            let plain = list["resources"].as_array().expect("resources").iter();
            let plain: Vec<_> = plain.map(|one| &one["name"]).filter(|name| !name.to_string().contains('/')).collect();
            let resources = whole["resources"].as_array().expect("resources").iter();
            assert_eq!(plain, resources.map(|one| &one["resource"]).collect::<Vec<_>>(), "{version}");
            assert!(!plain.is_empty(), "{version}");
        }
    }
    let ranks = groups.iter().find(|group| group["name"] == "ranks.test").expect("the group of the definition");
    let order: Vec<_> = ranks["versions"].as_array().expect("versions").iter().map(|one| &one["version"]).collect();
    assert_eq!(order, ["v10", "v2", "v11beta2", "v1alpha1", "foo1"]);
}
