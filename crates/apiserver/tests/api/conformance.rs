//! What conformance tests of Kubernetes ask of the API machinery, where no other test here does already.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::support::{Cluster, Watch, established, holds};
use crate::webhooks::{Hook, hook, map, patched, registration, settled};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1";
const MERGE: &str = "Content-Type: application/merge-patch+json";

/// Defines cluster-wide `things.example.com` with these versions, the first of which is stored.
async fn define(cluster: &Cluster, versions: &[&str], schema: Value, conversion: Value) {
    let version = |name: &&str| {
        json!({"name": name, "served": true, "storage": *name == versions[0],
        "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}})
    };
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com",
        "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"}, "conversion": conversion,
        "versions": versions.iter().map(version).collect::<Vec<_>>()}});
    cluster.tree(&format!("POST {DEFINITIONS}\n\n{definition}")).await;
    established(cluster, "things.example.com").await;
}

fn open_schema() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn thing(version: &str, name: &str, more: Value) -> Value {
    let mut object =
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Thing", "metadata": {"name": name}});
    for (key, value) in more.as_object().expect("fields") {
        object[key] = value.clone();
    }
    object
}

/// What a webhook is asked about.
fn of(group: &str, resource: &str, operations: &[&str]) -> Value {
    json!({"rules": [{"apiGroups": [group], "apiVersions": ["*"], "operations": operations, "resources": [resource]}]})
}

#[tokio::test]
async fn webhooks_are_listed_and_go_with_their_label() {
    let cluster = Cluster::new().await;
    let own = Hook::start(|_, _| Some(json!({"allowed": false, "status": {"message": "never"}}))).await;
    for index in 0..10 {
        let name = format!("deny-{index}");
        let object = json!({"metadata": {"name": name, "labels": {"list": "me"}},
            "webhooks": [hook("deny.example.com", own.client("/"), json!({}))]});
        cluster.tree(&format!("POST {HOOKS}/validatingwebhookconfigurations\n\n{object}")).await;
    }
    let selected = format!("{HOOKS}/validatingwebhookconfigurations?labelSelector=list%3Dme");
    settled(&cluster).await;
    assert_eq!(cluster.tree(&format!("GET {selected}")).await["items"].as_array().map(Vec::len), Some(10));
    let denied = r#"400 admission webhook "deny.example.com" denied the request: never"#;
    assert_eq!(cluster.outcome(&map("a", json!({}))).await, denied);
    assert_eq!(cluster.outcome(&format!("DELETE {selected}")).await, "200");
    settled(&cluster).await;
    assert_eq!(cluster.outcome(&map("a", json!({}))).await, "201");
}

#[tokio::test]
async fn a_webhook_acts_as_it_was_last_written() {
    let cluster = Cluster::new().await;
    let own = Hook::start(|path, _| {
        Some(match path {
            "/deny" => json!({"allowed": false}),
            _ => patched(json!([{"op": "add", "path": "/data/mutated", "value": "yes"}])),
        })
    })
    .await;
    for (kind, path) in [("MutatingWebhookConfiguration", "/mutate"), ("ValidatingWebhookConfiguration", "/deny")] {
        let at = format!("{HOOKS}/{}s/w", kind.to_lowercase());
        let hooks = json!([hook("w.example.com", own.client(path), of("", "configmaps", &["CREATE"]))]);
        let acts = async |name: &str| {
            settled(&cluster).await;
            let answer = cluster.send(&map(name, json!({"a": "b"}))).await;
            let code = answer.status().as_u16();
            code >= 400 || cluster.tree(&format!("GET {MAPS}/{name}")).await["data"]["mutated"] == "yes"
        };
        let mut object = cluster.tree(&registration(kind, "w", hooks)).await;
        assert!(acts(&format!("first{}", path.len())).await, "{kind}");
        object["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
        object["webhooks"][0]["matchConditions"] = json!([{"name": "x", "expression": "true"}]);
        let object = cluster.tree(&format!("PUT {at}\n\n{object}")).await;
        assert_eq!(object["webhooks"][0]["matchConditions"][0]["expression"], "true", "{kind}");
        assert!(!acts(&format!("second{}", path.len())).await, "{kind}");
        let patch = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]);
        cluster.tree(&format!("PATCH {at}\nContent-Type: application/json-patch+json\n\n{patch}")).await;
        assert!(acts(&format!("third{}", path.len())).await, "{kind}");
        assert_eq!(cluster.outcome(&format!("DELETE {at}")).await, "200");
    }
}

#[tokio::test]
async fn a_webhook_denies_custom_objects_definitions_and_pods() {
    let cluster = Cluster::new().await;
    define(&cluster, &["v1"], open_schema(), json!({"strategy": "None"})).await;
    let own = Hook::start(|_, asked| {
        let object = if asked["object"].is_null() { &asked["oldObject"] } else { &asked["object"] };
        let is_bad = object["spec"]["bad"] == true || object["metadata"]["labels"]["bad"] == "yes";
        Some(json!({"allowed": !is_bad, "status": {"message": "no good"}}))
    })
    .await;
    let all = ["CREATE", "UPDATE", "DELETE"];
    let mut spared = of("", "configmaps", &all);
    spared["namespaceSelector"] =
        json!({"matchExpressions": [{"key": "spared", "operator": "NotIn", "values": ["yes"]}]});
    let hooks = json!([
        hook("a.example.com", own.client("/"), of("example.com", "things", &all)),
        hook("a.example.org", own.client("/"), of("apiextensions.k8s.io", "customresourcedefinitions", &all)),
        hook("a.example.net", own.client("/"), of("", "pods", &all)),
        hook("b.example.net", own.client("/"), spared),
    ]);
    let things = "/apis/example.com/v1/things";
    let bad = thing("v1", "old", json!({"spec": {"bad": true}}));
    cluster.tree(&format!("POST {things}\n\n{bad}")).await;
    cluster.tree(&registration("ValidatingWebhookConfiguration", "v", hooks)).await;
    let spared = json!({"metadata": {"name": "spared", "labels": {"spared": "yes"}}});
    cluster.tree(&format!("POST /api/v1/namespaces\n\n{spared}")).await;
    settled(&cluster).await;
    let denied = |name: &str| format!("400 admission webhook {name:?} denied the request: no good");
    let outcome = async |request: String| cluster.outcome(&request).await;
    let bad = thing("v1", "new", json!({"spec": {"bad": true}}));
    assert_eq!(outcome(format!("POST {things}\n\n{bad}")).await, denied("a.example.com"));
    assert_eq!(outcome(format!("DELETE {things}/old")).await, denied("a.example.com"));
    let good = thing("v1", "good", json!({"spec": {}}));
    assert_eq!(outcome(format!("POST {things}\n\n{good}")).await, "201");
    let to_bad = json!({"spec": {"bad": true}});
    assert_eq!(outcome(format!("PATCH {things}/good\n{MERGE}\n\n{to_bad}")).await, denied("a.example.com"));
    let definition = json!({"metadata": {"name": "bads.example.com", "labels": {"bad": "yes"}}, "spec": {
        "group": "example.com", "scope": "Cluster", "names": {"plural": "bads", "kind": "Bad"}, "versions": [
        {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": open_schema()}}]}});
    assert_eq!(outcome(format!("POST {DEFINITIONS}\n\n{definition}")).await, denied("a.example.org"));
    let bad = json!({"metadata": {"name": "a", "labels": {"bad": "yes"}}});
    assert_eq!(outcome(format!("POST {MAPS}\n\n{bad}")).await, denied("b.example.net"));
    assert_eq!(outcome(format!("POST /api/v1/namespaces/spared/configmaps\n\n{bad}")).await, "201");
    let account = json!({"metadata": {"name": "default"}});
    cluster.tree(&format!("POST /api/v1/namespaces/default/serviceaccounts\n\n{account}")).await;
    let mut pod = bad.clone();
    pod["spec"] = json!({"containers": [{"name": "c", "image": "i"}]});
    assert_eq!(outcome(format!("POST /api/v1/namespaces/default/pods\n\n{pod}")).await, denied("a.example.net"));
}

#[tokio::test]
async fn what_webhooks_make_of_pods_gets_its_defaults() {
    let cluster = Cluster::new().await;
    let own = Hook::start(|_, _| {
        let added = json!([{"name": "added", "image": "i"}]);
        Some(patched(json!([{"op": "add", "path": "/spec/initContainers", "value": added}])))
    })
    .await;
    let hooks = json!([hook("a.example.com", own.client("/"), of("", "pods", &["CREATE"]))]);
    cluster.tree(&registration("MutatingWebhookConfiguration", "m", hooks)).await;
    let account = json!({"metadata": {"name": "default"}});
    cluster.tree(&format!("POST /api/v1/namespaces/default/serviceaccounts\n\n{account}")).await;
    settled(&cluster).await;
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = cluster.tree(&format!("POST /api/v1/namespaces/default/pods\n\n{pod}")).await;
    let added = &made["spec"]["initContainers"][0];
    assert_eq!((&added["name"], &added["terminationMessagePolicy"]), (&json!("added"), &json!("File")));
}

#[tokio::test]
async fn mutated_custom_objects_survive_another_storage_version() {
    let cluster = Cluster::new().await;
    define(&cluster, &["v1", "v2"], open_schema(), json!({"strategy": "None"})).await;
    let own = Hook::start(|_, asked| {
        let grows = |key: &str| patched(json!([{"op": "add", "path": format!("/data/{key}"), "value": "yes"}]));
        Some(match &asked["object"]["data"] {
            data if data["start"] == "yes" && data["one"].is_null() => grows("one"),
            _ => json!({"allowed": true}),
        })
    })
    .await;
    let hooks = json!([hook("a.example.com", own.client("/"), of("example.com", "things", &["CREATE", "UPDATE"]))]);
    cluster.tree(&registration("MutatingWebhookConfiguration", "m", hooks)).await;
    settled(&cluster).await;
    let made = thing("v1", "a", json!({"data": {"start": "yes"}}));
    let made = cluster.tree(&format!("POST /apis/example.com/v1/things\n\n{made}")).await;
    assert_eq!(made["data"], json!({"start": "yes", "one": "yes"}));
    let turn = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let definition = format!("{DEFINITIONS}/things.example.com");
    cluster.tree(&format!("PATCH {definition}\nContent-Type: application/json-patch+json\n\n{turn}")).await;
    let add = json!({"data": {"more": "yes"}});
    let patched = cluster.tree(&format!("PATCH /apis/example.com/v1/things/a\n{MERGE}\n\n{add}")).await;
    assert_eq!(patched["data"], json!({"start": "yes", "one": "yes", "more": "yes"}));
    assert_eq!(cluster.tree("GET /apis/example.com/v2/things/a").await["data"], patched["data"]);
}

#[tokio::test]
async fn objects_of_two_stored_versions_are_listed_in_one() {
    let cluster = Cluster::new().await;
    let own = Hook::start(|_, asked| {
        let wanted = asked["desiredAPIVersion"].as_str().expect("a version");
        let mut objects = asked["objects"].as_array().expect("objects").clone();
        for object in &mut objects {
            object["converted"] = object["apiVersion"].clone();
            object["apiVersion"] = wanted.into();
        }
        Some(json!({"convertedObjects": objects, "result": {"status": "Success"}}))
    })
    .await;
    let conversion = json!({"strategy": "Webhook",
        "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": own.client("/convert")}});
    define(&cluster, &["v1", "v2"], open_schema(), conversion).await;
    cluster.tree(&format!("POST /apis/example.com/v1/things\n\n{}", thing("v1", "a", json!({})))).await;
    let turn = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let path = format!("{DEFINITIONS}/things.example.com");
    let mut watch = Watch::open(&cluster, &format!("GET {DEFINITIONS}?watch=1")).await;
    cluster.tree(&format!("PATCH {path}\nContent-Type: application/json-patch+json\n\n{turn}")).await;
    let stored = json!(["v1", "v2"]);
    while !watch.next().await.iter().any(|event| event["object"]["status"]["storedVersions"] == stored) {}
    cluster.tree(&format!("POST /apis/example.com/v2/things\n\n{}", thing("v2", "b", json!({})))).await;
    settled(&cluster).await;
    for (version, converted) in [("v2", ["example.com/v1", "-"]), ("v1", ["-", "example.com/v2"])] {
        let list = cluster.tree(&format!("GET /apis/example.com/{version}/things")).await;
        let items = list["items"].as_array().expect("items");
        assert!(items.iter().all(|item| item["apiVersion"] == format!("example.com/{version}")), "{list}");
        let shown: Vec<_> = items.iter().map(|item| item["converted"].as_str().unwrap_or("-")).collect();
        assert_eq!(shown, converted, "{version}");
    }
}

#[tokio::test]
async fn a_version_that_is_served_no_longer_is_described_no_longer() {
    let cluster = Cluster::new().await;
    define(&cluster, &["v1", "v2"], open_schema(), json!({"strategy": "None"})).await;
    let described = async || {
        let two = cluster.tree("GET /openapi/v2").await["definitions"]["com.example.v2.Thing"].is_object();
        let three = cluster.tree("GET /openapi/v3").await["paths"]["apis/example.com/v2"].is_object();
        assert_eq!(two, three);
        two
    };
    assert!(described().await);
    let path = format!("{DEFINITIONS}/things.example.com");
    let hide = json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}]);
    cluster.tree(&format!("PATCH {path}\nContent-Type: application/json-patch+json\n\n{hide}")).await;
    while cluster.send("GET /apis/example.com/v2/things").await.status() == 200 {
        tokio::task::yield_now().await;
    }
    assert!(!described().await);
    assert!(cluster.tree("GET /openapi/v2").await["definitions"]["com.example.v1.Thing"].is_object());
}

#[tokio::test]
async fn fields_are_checked_by_the_schema_and_the_metadata() {
    let cluster = Cluster::new().await;
    let embedded = json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
                "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}, "spec": {"type": "object"}}},
            "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["containerPort", "protocol"], "items": {"type": "object",
                "required": ["containerPort", "protocol"], "properties": {"containerPort": {"type": "integer",
                "format": "int32"}, "name": {"type": "string"}, "protocol": {"type": "string"}}}}}}}});
    define(&cluster, &["v1"], embedded, json!({"strategy": "None"})).await;
    let apply = |text: &str| {
        let head = "PATCH /apis/example.com/v1/things/a?fieldManager=m&fieldValidation=Strict";
        let kind = "Content-Type: application/apply-patch+yaml";
        format!("{head}\n{kind}\n\napiVersion: example.com/v1\nkind: Thing\n{text}")
    };
    let ports = "  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP\n";
    let outcome = async |text: String| cluster.outcome(&apply(&text)).await;
    assert_eq!(outcome(format!("metadata: {{name: a, finalizers: [x/y]}}\nspec:\n  any: 1\n{ports}")).await, "201");
    let unknown = outcome(format!("metadata: {{name: a}}\nunknownField: x\nspec:\n{ports}")).await;
    assert!(unknown.contains(".unknownField: field not declared in schema"), "{unknown}");
    let meta = outcome(format!("metadata: {{name: a, unknownMeta: x}}\nspec:\n{ports}")).await;
    assert!(meta.contains(".metadata.unknownMeta: field not declared in schema"), "{meta}");
    // Lines are counted from the first of the body, which is empty here.
    let body = format!(
        "\napiVersion: example.com/v1\nkind: Thing\nmetadata:\n  name: a\n  finalizers:\n  - x/y\nspec:\n  unknown: uk1\n  \
         foo: foo1\n  foo: foo2\n{ports}"
    );
    let head = "PATCH /apis/example.com/v1/things/a?fieldManager=m&fieldValidation=Strict";
    let answer = cluster.send_bytes(&format!("{head}\nContent-Type: application/apply-patch+yaml"), body).await;
    let twice = answer.into_body().collect().await.expect("a whole body").to_bytes();
    let twice = String::from_utf8_lossy(&twice);
    assert!(twice.contains(r#"line 11: key \"foo\" already set in map"#), "{twice}");
    let template = r#"{"apiversion":"foo/v1","kind":"Sub","metadata":{"unknownSubMeta":"x","name":"y"}}"#;
    let object = format!(
        r#"{{"apiVersion":"example.com/v1","kind":"Thing","metadata":{{"name":"b","unknownMeta":1}},"spec":{{"template":{template},"one":1,"one":2}}}}"#
    );
    assert_eq!(
        cluster.outcome(&format!("POST /apis/example.com/v1/things?fieldValidation=Strict\n\n{object}")).await,
        r#"400 Thing in version "v1" cannot be handled as a Thing: strict decoding error: duplicate field "spec.one", unknown field "metadata.unknownMeta", unknown field "spec.template.apiversion", unknown field "spec.template.metadata.unknownSubMeta""#
    );
    let deployment = |meta: &str, spec: &str| {
        let template = r#"{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}"#;
        format!(
            "POST /apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict\n\n{{\"apiVersion\":\"apps/v1\",\
             \"kind\":\"Deployment\",\"metadata\":{{\"name\":\"d\"{meta}}},\"spec\":{{{spec}\"selector\":{{\"matchLabels\":\
             {{\"a\":\"b\"}}}},\"template\":{template}}}}}"
        )
    };
    let refused = cluster.outcome(&deployment("", r#""unknownField":"foo","replicas":2,"replicas":3,"#)).await;
    let expected = r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#;
    assert!(refused.contains(expected), "{refused}");
    let refused = cluster.outcome(&deployment(r#","unknownMeta":"foo""#, "")).await;
    assert!(refused.contains(r#"strict decoding error: unknown field "metadata.unknownMeta""#), "{refused}");
}

#[tokio::test]
async fn statuses_are_written_as_controllers_and_tests_do() {
    let cluster = Cluster::new().await;
    let namespace = "/api/v1/namespaces/default";
    let condition = json!({"status": {"conditions": [{"type": "StatusPatch", "status": "True"}]}});
    let mut patched = cluster.tree(&format!("PATCH {namespace}/status\n{MERGE}\n\n{condition}")).await;
    assert_eq!(
        (&patched["status"]["phase"], &patched["status"]["conditions"][0]["type"]),
        (&json!("Active"), &json!("StatusPatch"))
    );
    let more = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set by a test",
        "lastTransitionTime": "2026-01-02T03:04:05Z"});
    patched["status"]["conditions"].as_array_mut().expect("conditions").push(more.clone());
    let updated = cluster.tree(&format!("PUT {namespace}/status\n\n{patched}")).await;
    assert_eq!(updated["status"]["conditions"][1], more);
    let mut finalized = updated.clone();
    finalized["spec"]["finalizers"].as_array_mut().expect("finalizers").push(json!("e2e.example.com/fake"));
    let mut held = cluster.tree(&format!("PUT {namespace}/finalize\n\n{finalized}")).await;
    assert_eq!(held["spec"]["finalizers"], json!(["kubernetes", "e2e.example.com/fake"]));
    held["spec"]["finalizers"] = json!(["kubernetes"]);
    assert_eq!(
        cluster.tree(&format!("PUT {namespace}/finalize\n\n{held}")).await["spec"]["finalizers"],
        json!(["kubernetes"])
    );

    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"cpu": "500m", "memory": "500Mi"}}});
    let mut quota = cluster.tree(&format!("POST {quotas}\n\n{quota}")).await;
    quota["status"] = json!({"hard": {"cpu": "500m", "memory": "500Mi"}});
    cluster.tree(&format!("PUT {quotas}/q/status\n\n{quota}")).await;
    let spec = json!({"spec": {"hard": {"cpu": "1", "memory": "1Gi"}}});
    cluster.tree(&format!("PATCH {quotas}/q\n{MERGE}\n\n{spec}")).await;
    let status = json!({"status": {"hard": {"cpu": "2", "memory": "2Gi"}}, "spec": {"hard": {"cpu": "9"}}});
    let patched = cluster.tree(&format!("PATCH {quotas}/q/status\n{MERGE}\n\n{status}")).await;
    assert_eq!((&patched["spec"], &patched["status"]["hard"]), (&spec["spec"], &status["status"]["hard"]));
    assert_eq!(cluster.tree(&format!("GET {quotas}/q/status")).await["status"]["hard"], status["status"]["hard"]);
}

#[tokio::test]
async fn volumes_and_claims_have_statuses_of_their_own() {
    let cluster = Cluster::new().await;
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/v"}}});
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}}}});
    for (collection, object, name, told) in [
        ("/api/v1/persistentvolumes", volume, "v", json!({"reason": "Patched", "message": "by a test"})),
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            claim,
            "c",
            json!({"conditions": [{"type": "StatusPatched", "status": "True", "reason": "E2E patchedStatus",
                "lastProbeTime": null, "lastTransitionTime": null}]}),
        ),
    ] {
        cluster.tree(&format!("POST {collection}\n\n{object}")).await;
        let path = format!("{collection}/{name}/status");
        let before = cluster.tree(&format!("GET {path}")).await;
        assert_eq!(before["status"]["phase"], "Pending", "{before}");
        // What is no status is not taken by this door.
        let change = json!({"status": told, "spec": {"accessModes": ["ReadWriteMany"]}});
        let mut patched = cluster.tree(&format!("PATCH {path}\n{MERGE}\n\n{change}")).await;
        assert_eq!(patched["spec"], before["spec"]);
        for (field, value) in told.as_object().expect("fields") {
            assert_eq!(&patched["status"][field], value, "{patched}");
        }
        patched["status"] = json!({"phase": "Available"});
        patched["spec"]["accessModes"] = json!(["ReadWriteMany"]);
        if name == "c" {
            patched["status"] =
                json!({"phase": "Pending", "conditions": [{"type": "StatusUpdated", "status": "True"}]});
        }
        let updated = cluster.tree(&format!("PUT {path}\n\n{patched}")).await;
        assert_eq!((&updated["status"]["phase"], &updated["spec"]), (&patched["status"]["phase"], &before["spec"]));
        assert_eq!(updated["status"]["conditions"][0]["type"], patched["status"]["conditions"][0]["type"]);
    }
}

#[tokio::test]
async fn a_pods_generation_counts_the_changes_of_its_spec() {
    const UPDATES: i64 = 499;
    let cluster = Cluster::new().await;
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"default\"}}").await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "a", "generation": 77}, "spec": {"activeDeadlineSeconds": 5000, "containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1000m", "memory": "64Mi"}}}]}});
    let created = cluster.tree(&format!("POST {pods}\n\n{pod}")).await;
    assert_eq!(created["metadata"]["generation"], 1);
    for number in 1..=UPDATES {
        let change = json!({"spec": {"activeDeadlineSeconds": 5000 - number}});
        cluster.tree(&format!("PATCH {pods}/a\n{MERGE}\n\n{change}")).await;
    }
    let generation = async || cluster.tree(&format!("GET {pods}/a")).await["metadata"]["generation"].clone();
    assert_eq!(generation().await, UPDATES + 1);
    let label = json!({"metadata": {"labels": {"a": "b"}, "generation": 7}, "status": {"phase": "Running"}});
    cluster.tree(&format!("PATCH {pods}/a\n{MERGE}\n\n{label}")).await;
    assert_eq!(generation().await, UPDATES + 1);
    // The same in other units is no change; what is put through the other door counts as one, and is seen by both.
    let resources = |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "65536Ki"}}}]}});
    let strategic = "Content-Type: application/strategic-merge-patch+json";
    cluster.tree(&format!("PATCH {pods}/a/resize\n{strategic}\n\n{}", resources("1"))).await;
    assert_eq!(generation().await, UPDATES + 1);
    let mut wanted = cluster.tree(&format!("GET {pods}/a/resize")).await;
    wanted["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("1500m");
    let resized = cluster.tree(&format!("PUT {pods}/a/resize\n\n{wanted}")).await;
    assert_eq!(resized["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1500m");
    assert_eq!(generation().await, UPDATES + 2);
    assert_eq!(cluster.tree(&format!("GET {pods}/a")).await, cluster.tree(&format!("GET {pods}/a/resize")).await);
}

#[tokio::test]
async fn events_are_patched_updated_and_deleted_by_their_label() {
    let cluster = Cluster::new().await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = |name: &str| {
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name, "labels": {"set": "one"}},
        "eventTime": "2026-01-02T03:04:05.000000Z", "reportingController": "test.example.com/c",
        "reportingInstance": "i", "action": "Do", "reason": "Test", "type": "Normal", "note": "first",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}})
    };
    for name in ["a", "b", "c"] {
        cluster.tree(&format!("POST {events}\n\n{}", event(name))).await;
    }
    let series = json!({"count": 2, "lastObservedTime": "2026-01-02T03:05:05.000005Z"});
    let patch = json!({"series": series});
    let patched = cluster
        .tree(&format!("PATCH {events}/a\nContent-Type: application/strategic-merge-patch+json\n\n{patch}"))
        .await;
    assert_eq!(patched["series"], series);
    let mut update = patched;
    update["series"]["count"] = 100.into();
    let updated = cluster.tree(&format!("PUT {events}/a\n\n{update}")).await;
    assert_eq!(updated["series"]["count"], 100);
    let old = cluster.tree("GET /api/v1/namespaces/default/events/a").await;
    assert_eq!((&old["message"], &old["involvedObject"]["name"]), (&json!("first"), &json!("p")));
    let note = json!({"message": "second"});
    let noted = cluster.tree(&format!("PATCH /api/v1/namespaces/default/events/a\n{MERGE}\n\n{note}")).await;
    assert_eq!(noted["message"], "second");
    assert_eq!(cluster.outcome(&format!("DELETE {events}/a")).await, "200");
    settled(&cluster).await;
    let selected = "?labelSelector=set%3Done";
    let names = async |path: &str| {
        let list = cluster.tree(&format!("GET {path}{selected}")).await;
        list["items"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((names(events).await, names("/api/v1/events").await), (2, 2));
    cluster.tree(&format!("DELETE /api/v1/namespaces/default/events{selected}")).await;
    settled(&cluster).await;
    assert_eq!(names(events).await, 0);
}

#[tokio::test]
async fn policies_mutate_deployments_and_tell_how_they_are() {
    let cluster = Cluster::new().await;
    let rules = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]});
    let spec = json!({"matchConstraints": rules, "reinvocationPolicy": "Never", "failurePolicy": "Fail", "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{spec: Object.spec{replicas: object.spec.replicas + 100, template: Object.spec.template{spec: Object.spec.template.spec{\
             containers: [Object.spec.template.spec.containers{name: 'c', env: [Object.spec.template.spec.containers.env{name: 'X', value: 'y'}]}]}}}}"}}]});
    let policy = json!({"metadata": {"name": "m"}, "spec": spec});
    cluster.tree(&format!("POST {HOOKS}/mutatingadmissionpolicies\n\n{policy}")).await;
    let binding = json!({"metadata": {"name": "m"}, "spec": {"policyName": "m"}});
    cluster.tree(&format!("POST {HOOKS}/mutatingadmissionpolicybindings\n\n{binding}")).await;
    settled(&cluster).await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let made = cluster.tree(&format!("POST /apis/apps/v1/namespaces/default/deployments\n\n{deployment}")).await;
    let container = &made["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&made["spec"]["replicas"], &container["image"]), (&json!(101), &json!("i")));
    assert_eq!(container["env"], json!([{"name": "X", "value": "y"}]));
}

#[tokio::test]
async fn reviews_have_no_table() {
    let cluster = Cluster::new().await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let request = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io";
    assert!(cluster.outcome(&format!("{request}\n\n{review}")).await.starts_with("406"));
}

#[tokio::test]
async fn watchers_see_one_order_and_take_up_where_they_were() {
    let cluster = Cluster::new().await;
    let mut first = Watch::open(&cluster, &format!("GET {MAPS}?watch=1&resourceVersion=0")).await;
    for index in 0..20 {
        cluster.tree(&map(&format!("m{index}"), json!({}))).await;
        if index % 3 == 0 {
            cluster.tree(&format!("DELETE {MAPS}/m{index}")).await;
        }
    }
    let revision =
        |event: &Value| event["object"]["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 27 {
        seen.extend(first.next().await.iter().map(&revision));
    }
    for from in 0..seen.len() - 1 {
        let mut later = Watch::open(&cluster, &format!("GET {MAPS}?watch=1&resourceVersion={}", seen[from])).await;
        let mut told: Vec<String> = Vec::new();
        while told.len() < seen.len() - from - 1 {
            told.extend(later.next().await.iter().map(&revision));
        }
        assert_eq!(told, seen[from + 1..]);
    }
}

/// A condition of the definition is told by `holds`; here its whole life is watched.
#[tokio::test]
async fn definitions_are_watched_from_creation_to_deletion() {
    let cluster = Cluster::new().await;
    let mut watch =
        Watch::open(&cluster, &format!("GET {DEFINITIONS}?watch=1&fieldSelector=metadata.name%3Dthings.example.com"))
            .await;
    define(&cluster, &["v1"], open_schema(), json!({"strategy": "None"})).await;
    holds(&cluster, DEFINITIONS, "things.example.com", "NamesAccepted").await;
    cluster.tree(&format!("DELETE {DEFINITIONS}/things.example.com")).await;
    let mut told = String::new();
    while !told.ends_with("DELETED things.example.com") {
        told = format!("{told}, {}", watch.short().await);
    }
    assert!(told.starts_with(", ADDED things.example.com") && told.contains("MODIFIED things.example.com"), "{told}");
}
