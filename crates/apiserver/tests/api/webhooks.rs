//! Webhooks of admission and conversion, by a real TLS server on loopback.

use std::time::Duration;

use serde_json::{Value, json};

use crate::peer::Peer;
use crate::support::{Cluster, Watch};

/// A webhook: for a path and the request of a review it gives the response, or hangs.
pub struct Hook(Peer);

impl Hook {
    pub async fn start(answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        let whole = move |path: &str, mut review: Value| {
            let asked = review["request"].take();
            let mut response = answer(path, &asked)?;
            response["uid"] = asked["uid"].clone();
            Some(json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response}))
        };
        Self(Peer::start(whole).await)
    }

    pub fn client(&self, path: &str) -> Value {
        use base64::Engine as _;
        let bundle = base64::engine::general_purpose::STANDARD.encode(&self.0.authority);
        json!({"url": format!("{}{path}", self.0.url), "caBundle": bundle})
    }
}

pub fn patched(operations: Value) -> Value {
    use base64::Engine as _;
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

pub fn registration(kind: &str, name: &str, hooks: Value) -> String {
    let plural = format!("{}s", kind.to_lowercase());
    let object = json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name},
        "webhooks": hooks});
    format!("POST /apis/admissionregistration.k8s.io/v1/{plural}\n\n{object}")
}

pub fn hook(name: &str, client: Value, more: Value) -> Value {
    let mut hook = json!({"name": name, "clientConfig": client, "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": ["configmaps"]}]});
    for (key, value) in more.as_object().expect("fields") {
        hook[key] = value.clone();
    }
    hook
}

pub fn map(name: &str, data: Value) -> String {
    let object = json!({"metadata": {"name": name}, "data": data});
    format!("POST /api/v1/namespaces/default/configmaps\n\n{object}")
}

/// Waits until the server's caches have what was written last.
pub async fn settled(cluster: &Cluster) {
    cluster.server.hub.fresh().await.expect("the store can be read");
}

#[tokio::test]
async fn validating_webhooks_refuse_and_warn() {
    let cluster = Cluster::new().await;
    let own = Hook::start(|path, asked| match path {
        "/hang" => None,
        _ => {
            let is_bad = asked["object"]["data"]["bad"] == "yes" || asked["oldObject"]["data"]["keep"] == "yes";
            Some(json!({"allowed": !is_bad, "warnings": ["seen"], "status": {"message": "no good", "code": 403}}))
        }
    })
    .await;
    let hooks = json!([
        hook(
            "a.example.com",
            own.client("/"),
            json!({"matchConditions": [{"name": "not-me", "expression": "request.name != 'skip-me'"}]})
        ),
        hook(
            "b.example.com",
            own.client("/hang"),
            json!({"timeoutSeconds": 1, "objectSelector": {"matchLabels": {"hang": "yes"}}})
        ),
        hook(
            "c.example.com",
            own.client("/hang"),
            json!({"timeoutSeconds": 1, "failurePolicy": "Ignore", "objectSelector": {"matchLabels": {"slow": "yes"}}})
        ),
    ]);
    cluster.tree(&registration("ValidatingWebhookConfiguration", "v", hooks)).await;
    settled(&cluster).await;
    let answer = cluster.answer(&map("good", json!({"keep": "yes"}))).await;
    assert!(answer.starts_with("201\nWarning: 299 - \"seen\""), "{answer}");
    let denied = r#"403 admission webhook "a.example.com" denied the request: no good"#;
    assert_eq!(cluster.outcome(&map("bad", json!({"bad": "yes"}))).await, denied);
    assert_eq!(cluster.outcome(&map("skip-me", json!({"bad": "yes"}))).await, "201");
    settled(&cluster).await;
    assert_eq!(cluster.outcome("DELETE /api/v1/namespaces/default/configmaps/good").await, denied);
    let labelled = |label: &str| {
        let object = json!({"metadata": {"name": label, "labels": {label: "yes"}}});
        format!("POST /api/v1/namespaces/default/configmaps\n\n{object}")
    };
    let hung = cluster.outcome(&labelled("hang")).await;
    assert!(hung.starts_with(r#"500 Internal error occurred: failed calling webhook "b.example.com": failed to call webhook: Post "https://localhost:"#), "{hung}");
    assert!(hung.ends_with("context deadline exceeded"), "{hung}");
    assert_eq!(cluster.outcome(&labelled("slow")).await, "201");
}

#[tokio::test]
async fn mutating_webhooks_change_in_turn() {
    let cluster = Cluster::new().await;
    let own = Hook::start(|path, asked| {
        let data = &asked["object"]["data"];
        let add = |key: &str| patched(json!([{"op": "add", "path": format!("/data/{key}"), "value": "yes"}]));
        Some(match path {
            "/one" if data["start"] == "yes" && data["one"].is_null() => add("one"),
            "/two" if data["one"] == "yes" => add("two"),
            "/again" if data["two"] == "yes" => add("again"),
            _ => json!({"allowed": true}),
        })
    })
    .await;
    let hooks = json!([
        hook("again.example.com", own.client("/again"), json!({"reinvocationPolicy": "IfNeeded"})),
        hook("one.example.com", own.client("/one"), json!({})),
        hook("two.example.com", own.client("/two"), json!({})),
    ]);
    cluster.tree(&registration("MutatingWebhookConfiguration", "m", hooks)).await;
    settled(&cluster).await;
    let made = cluster.tree(&map("x", json!({"start": "yes"}))).await;
    assert_eq!(made["data"], json!({"start": "yes", "one": "yes", "two": "yes", "again": "yes"}));
    let plain = cluster.tree(&map("y", json!({"a": "b"}))).await;
    assert_eq!(plain["data"], json!({"a": "b"}));
}

#[tokio::test]
async fn a_webhook_that_cannot_be_reached_or_trusted_refuses_all() {
    let cluster = Cluster::new().await;
    let own = Hook::start(|_, _| Some(json!({"allowed": true}))).await;
    let untrusted = json!({"url": own.client("/")["url"]});
    let hooks = json!([hook("closed.example.com", untrusted, json!({}))]);
    cluster.tree(&registration("ValidatingWebhookConfiguration", "v", hooks)).await;
    settled(&cluster).await;
    let refused = cluster.outcome(&map("x", json!({}))).await;
    assert!(
        refused.starts_with(
            r#"500 Internal error occurred: failed calling webhook "closed.example.com": failed to call webhook: Post"#
        ),
        "{refused}"
    );
    let bad = json!([hook(
        "bad.example.com",
        own.client("/"),
        json!({"matchConditions": [{"name": "x", "expression": "object.a +"}]})
    )]);
    let refused = cluster.outcome(&registration("ValidatingWebhookConfiguration", "w", bad)).await;
    assert!(refused.contains("webhooks[0].matchConditions[0].expression: Invalid value: \"object.a +\": compilation failed: ERROR: <input>:1:11: Syntax error"), "{refused}");
}

#[tokio::test]
async fn custom_objects_are_converted_between_versions() {
    let cluster = Cluster::new().await;
    let own = Hook::start(|_, asked| {
        let wanted = asked["desiredAPIVersion"].as_str().expect("a version").to_owned();
        let convert = |object: &Value| {
            let mut object = object.clone();
            let spec = object["spec"].take();
            object["spec"] = if wanted.ends_with("/v2") {
                json!({"hostPort": format!("{}:{}", spec["host"].as_str().unwrap_or(""), spec["port"])})
            } else {
                let (host, port) = spec["hostPort"].as_str().and_then(|both| both.split_once(':')).unwrap_or(("", "0"));
                json!({"host": host, "port": port.parse::<i64>().unwrap_or(0)})
            };
            object["apiVersion"] = wanted.as_str().into();
            object
        };
        let objects: Vec<Value> = asked["objects"].as_array().expect("objects").iter().map(convert).collect();
        Some(json!({"convertedObjects": objects, "result": {"status": "Success"}}))
    })
    .await;
    let version = |name: &str, storage: bool, spec: Value| {
        let selectable: Vec<Value> =
            spec.as_object().expect("fields").keys().map(|key| json!({"jsonPath": format!(".spec.{key}")})).collect();
        json!({"name": name, "served": true, "selectableFields": selectable, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": spec}}}}})
    };
    let definition = json!({"metadata": {"name": "ends.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "ends", "singular": "end", "kind": "End", "listKind": "EndList"},
        "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": own.client("/convert")}},
        "versions": [version("v1", true, json!({"host": {"type": "string"}, "port": {"type": "integer"}})),
            version("v2", false, json!({"hostPort": {"type": "string"}}))]}});
    cluster.tree(&format!("POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions\n\n{definition}")).await;
    for _ in 0..500 {
        if cluster.send("GET /apis/example.com/v2/ends").await.status() == 200 {
            break;
        }
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::ZERO).await;
    }
    let end = |version: &str, name: &str, spec: Value| {
        let object = json!({"kind": "End", "apiVersion": format!("example.com/{version}"), "metadata": {"name": name}, "spec": spec});
        format!("POST /apis/example.com/{version}/ends\n\n{object}")
    };
    cluster.tree(&end("v1", "a", json!({"host": "h", "port": 1}))).await;
    let made = cluster.tree(&end("v2", "b", json!({"hostPort": "g:2"}))).await;
    assert_eq!((&made["apiVersion"], &made["spec"]), (&json!("example.com/v2"), &json!({"hostPort": "g:2"})));
    let read = cluster.tree("GET /apis/example.com/v1/ends/b").await;
    assert_eq!((&read["apiVersion"], &read["spec"]), (&json!("example.com/v1"), &json!({"host": "g", "port": 2})));
    settled(&cluster).await;
    let list = cluster.tree("GET /apis/example.com/v2/ends").await;
    let specs: Vec<&Value> = list["items"].as_array().expect("items").iter().map(|item| &item["spec"]).collect();
    assert_eq!(specs, [&json!({"hostPort": "h:1"}), &json!({"hostPort": "g:2"})]);
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("items").iter();
        items.map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    let selected = cluster.tree("GET /apis/example.com/v2/ends?fieldSelector=spec.hostPort%3Dg:2").await;
    assert_eq!(names(&selected), ["b"]);
    let selected = cluster.tree("GET /apis/example.com/v1/ends?fieldSelector=spec.host%3Dh,spec.port%3D1").await;
    assert_eq!(names(&selected), ["a"]);
    let watched = "GET /apis/example.com/v2/ends?watch=1&fieldSelector=spec.hostPort%3Dh:1";
    let mut watch = Watch::open(&cluster, watched).await;
    assert_eq!(watch.short().await, "ADDED a");
    let merge = "content-type: application/merge-patch+json";
    let patch = format!("PATCH /apis/example.com/v2/ends/a\n{merge}\n\n{}", json!({"spec": {"hostPort": "i:3"}}));
    assert_eq!(cluster.tree(&patch).await["spec"], json!({"hostPort": "i:3"}));
    assert_eq!(cluster.tree("GET /apis/example.com/v1/ends/a").await["spec"], json!({"host": "i", "port": 3}));
    assert_eq!(watch.short().await, "DELETED a");
    assert_eq!(cluster.outcome("DELETE /apis/example.com/v2/ends/a").await, "200");
}
