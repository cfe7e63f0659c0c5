//! Custom resources: defined, served, checked, listed, and gone with their definition.

use expect_test::expect;
use serde_json::json;

use crate::support::{Cluster, Watch, established};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

const DEFINITION: &str = r#"{"metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced",
    "names":{"plural":"widgets","singular":"widget","kind":"Widget","listKind":"WidgetList","shortNames":["wd"]},
    "versions":[{"name":"v1","served":true,"storage":true,
        "subresources":{"status":{},"scale":{"specReplicasPath":".spec.n","statusReplicasPath":".status.n"}},
        "additionalPrinterColumns":[{"name":"N","type":"integer","jsonPath":".spec.n"}],
        "schema":{"openAPIV3Schema":{"type":"object","properties":{
            "spec":{"type":"object","required":["n"],"properties":{
                "n":{"type":"integer","minimum":1},"max":{"type":"integer","default":5}}},
            "status":{"type":"object","properties":{"n":{"type":"integer"}}}}}}}]}}"#;

async fn outcome(cluster: &Cluster, request: &str, expected: &str) {
    assert_eq!(cluster.outcome(request).await, expected, "{request}");
}

/// Waits until the definition is established, by watching it.
async fn define(cluster: &Cluster) {
    cluster.tree(&format!("POST {DEFINITIONS}\n\n{DEFINITION}")).await;
    let mut watch = Watch::open(cluster, &format!("GET {DEFINITIONS}?watch=1")).await;
    loop {
        let events = watch.next().await;
        assert!(!events.is_empty(), "the watch ended");
        let established = |event: &serde_json::Value| {
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
        };
        if events.iter().any(established) {
            return;
        }
    }
}

#[tokio::test]
async fn a_custom_kind_takes_the_same_path_as_all_others() {
    let cluster = Cluster::new().await;
    outcome(&cluster, &format!("GET {WIDGETS}"), "404").await;
    define(&cluster).await;
    let made = cluster
        .tree(&format!(
            "POST {WIDGETS}\n\n{{\"metadata\":{{\"name\":\"w\"}},\"spec\":{{\"n\":2}},\"status\":{{\"n\":9}}}}"
        ))
        .await;
    assert_eq!(made["spec"], serde_json::json!({"max": 5, "n": 2}));
    assert!(made.get("status").is_none());
    outcome(
        &cluster,
        &format!("POST {WIDGETS}\n\n{{\"metadata\":{{\"name\":\"x\"}},\"spec\":{{\"n\":0}}}}"),
        r#"422 Widget.example.com "x" is invalid: spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1"#,
    )
    .await;
    let unknown = r#"{"metadata":{"name":"y"},"spec":{"n":1,"nope":1}}"#;
    outcome(
        &cluster,
        &format!("POST {WIDGETS}?fieldValidation=Strict\n\n{unknown}"),
        r#"400 Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown field "spec.nope""#,
    )
    .await;
    let merge = "Content-Type: application/merge-patch+json";
    let scaled = cluster.tree(&format!("PATCH {WIDGETS}/w/scale\n{merge}\n\n{{\"spec\":{{\"replicas\":4}}}}")).await;
    assert_eq!(scaled["spec"]["replicas"], 4);
    let status = cluster.tree(&format!("PATCH {WIDGETS}/w/status\n{merge}\n\n{{\"status\":{{\"n\":3}}}}")).await;
    assert_eq!((&status["status"]["n"], &status["metadata"]["generation"]), (&3.into(), &2.into()));
    let table = cluster
        .tree(&format!("GET {WIDGETS}?includeObject=None\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io"))
        .await;
    assert_eq!(table["rows"][0]["cells"], serde_json::json!(["w", 4]));
    expect![[r#"
        200
        {
          "apiVersion": "v1",
          "groupVersion": "example.com/v1",
          "kind": "APIResourceList",
          "resources": [
            {
              "kind": "Widget",
              "name": "widgets",
              "namespaced": true,
              "shortNames": [
                "wd"
              ],
              "singularName": "widget",
              "storageVersionHash": "gIwvi5rymmg=",
              "verbs": [
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch"
              ]
            },
            {
              "group": "autoscaling",
              "kind": "Scale",
              "name": "widgets/scale",
              "namespaced": true,
              "singularName": "",
              "verbs": [
                "get",
                "patch",
                "update"
              ],
              "version": "v1"
            },
            {
              "kind": "Widget",
              "name": "widgets/status",
              "namespaced": true,
              "singularName": "",
              "verbs": [
                "get",
                "patch",
                "update"
              ]
            }
          ]
        }
    "#]]
    .assert_eq(&cluster.answer("GET /apis/example.com/v1").await);
}

#[tokio::test]
async fn objects_go_with_their_definition() {
    let cluster = Cluster::new().await;
    define(&cluster).await;
    cluster.tree(&format!("POST {WIDGETS}\n\n{{\"metadata\":{{\"name\":\"w\"}},\"spec\":{{\"n\":2}}}}")).await;
    let mut watch = Watch::open(&cluster, &format!("GET {DEFINITIONS}?watch=1")).await;
    cluster.tree(&format!("DELETE {DEFINITIONS}/widgets.example.com")).await;
    while !watch.short().await.ends_with("DELETED widgets.example.com") {}
    outcome(
        &cluster,
        &format!("GET {DEFINITIONS}/widgets.example.com"),
        r#"404 customresourcedefinitions.apiextensions.k8s.io "widgets.example.com" not found"#,
    )
    .await;
}

/// A definition with rules, which are checked when it is written and whenever an object is.
#[tokio::test]
async fn rules_of_a_definition_are_kept() {
    let cluster = Cluster::new().await;
    let with = |rule: &str| {
        format!(
            r#"POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions

{{"metadata":{{"name":"gears.example.com"}},"spec":{{"group":"example.com","scope":"Cluster",
    "names":{{"plural":"gears","singular":"gear","kind":"Gear","listKind":"GearList"}},
    "versions":[{{"name":"v1","served":true,"storage":true,"schema":{{"openAPIV3Schema":{{"type":"object","properties":{{
        "spec":{{"type":"object","x-kubernetes-validations":[{{"rule":"{rule}","message":"teeth must not be lost"}}],
            "properties":{{"teeth":{{"type":"integer"}}}}}}}}}}}}}}]}}}}"#
        )
    };
    let refused = cluster.outcome(&with("self.tooth > 1")).await;
    assert!(refused.contains("compilation failed: ERROR: <input>:1:5: undefined field 'tooth'"), "{refused}");
    cluster.tree(&with("self.teeth >= oldSelf.teeth")).await;
    let put = |teeth: i64, rv: &str| {
        format!(
            r#"PUT /apis/example.com/v1/gears/g

{{"apiVersion":"example.com/v1","kind":"Gear","metadata":{{"name":"g","resourceVersion":"{rv}"}},"spec":{{"teeth":{teeth}}}}}"#
        )
    };
    let mut made = serde_json::Value::Null;
    for _ in 0..200 {
        let created = cluster
            .send(
                r#"POST /apis/example.com/v1/gears

{"apiVersion":"example.com/v1","kind":"Gear","metadata":{"name":"g"},"spec":{"teeth":5}}"#,
            )
            .await;
        if created.status() == 201 {
            made = cluster.tree("GET /apis/example.com/v1/gears/g").await;
            break;
        }
        tokio::task::yield_now().await;
    }
    let rv = made["metadata"]["resourceVersion"].as_str().expect("the object was made").to_owned();
    assert_eq!(
        cluster.outcome(&put(4, &rv)).await,
        r#"422 Gear.example.com "g" is invalid: spec: Invalid value: "object": teeth must not be lost"#
    );
    assert_eq!(cluster.outcome(&put(6, &rv)).await, "200");
}

/// Two definitions want one name: the second gets it when the first is gone.
#[tokio::test]
async fn names_are_given_once() {
    let cluster = Cluster::new().await;
    define(&cluster).await;
    let second =
        DEFINITION.replace("\"widgets.example.com\"", "\"gadgets.example.com\"").replace("\"widgets\"", "\"gadgets\"");
    cluster.tree(&format!("POST {DEFINITIONS}\n\n{second}")).await;
    let mut watch = Watch::open(
        &cluster,
        &format!("GET {DEFINITIONS}?watch=1&fieldSelector=metadata.name%3Dgadgets.example.com&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"),
    )
    .await;
    let mut told = Vec::new();
    let mut removed = false;
    loop {
        let events = watch.next().await;
        assert!(!events.is_empty(), "the watch ended: {told:?}");
        for event in &events {
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let shown: Vec<String> = conditions
                .iter()
                .map(|condition| {
                    format!("{}={} {}", condition["type"], condition["status"], condition["reason"]).replace('"', "")
                })
                .collect();
            if !shown.is_empty() && told.last() != Some(&shown) {
                told.push(shown);
            }
        }
        let last = told.last().map(|shown| shown.join(", ")).unwrap_or_default();
        if !removed && !last.is_empty() {
            assert_eq!(last, "NamesAccepted=False SingularConflict, Established=False NotAccepted");
            cluster.tree(&format!("DELETE {DEFINITIONS}/widgets.example.com")).await;
            removed = true;
        } else if last.starts_with("NamesAccepted=True") {
            assert_eq!(last, "NamesAccepted=True NoConflicts, Established=True InitialNamesAccepted");
            break;
        }
    }
}

#[tokio::test]
async fn schemas_that_came_from_elsewhere_are_looked_at() {
    let cluster = Cluster::new().await;
    let definition = json!({"metadata": {"name": "parts.example.com"}, "spec": {"group": "example.com",
        "scope": "Cluster", "names": {"plural": "parts", "kind": "Part"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"spec": {"type": "object"}}}}}]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.tree(&format!("POST {path}\n\n{definition}")).await;
    established(&cluster, "parts.example.com").await;
    let everything = skiff_store::KeyRange::prefix("/registry/apiextensions.k8s.io/customresourcedefinitions/");
    let pair = cluster.store.range(&everything, None, 0).await.expect("it can be read").items.remove(0);
    let stored = String::from_utf8(pair.value.to_vec()).expect("JSON");
    let bent = stored.replace(r#""spec":{"type":"object"}"#, r#""spec":{}"#);
    assert_ne!(bent, stored);
    let change = skiff_store::Change::Put { key: pair.key, value: bent.into() };
    let transaction = skiff_store::Transaction { changes: vec![change], ..Default::default() };
    cluster.store.commit(transaction).await.expect("it can be written");
    let target = format!("GET {path}?watch=1&fieldSelector=metadata.name=parts.example.com");
    let mut watch = Watch::open(&cluster, &target).await;
    let told = loop {
        let events = watch.next().await;
        let conditions = events
            .iter()
            .flat_map(|event| event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default());
        if let Some(found) = conditions.into_iter().find(|one| one["type"] == "NonStructuralSchema") {
            break found;
        }
    };
    assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("Violations")));
    let expected = "spec.versions[0].schema.openAPIV3Schema.properties[spec].type: Required value";
    assert!(told["message"].as_str().is_some_and(|text| text.starts_with(expected)), "{told}");
}

/// The way of a storage-version migration: another version is stored, all objects are written anew, the old one goes.
#[tokio::test]
async fn objects_move_to_another_stored_version() {
    const CRATES: &str = "crates.example.com";
    let cluster = Cluster::new().await;
    let version = |name: &str, is_stored: bool| {
        json!({"name": name, "served": true, "storage": is_stored, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}}}})
    };
    let definition = json!({"metadata": {"name": CRATES}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "crates", "kind": "Crate"}, "versions": [version("v1", true), version("v2", false)]}});
    cluster.tree(&format!("POST {DEFINITIONS}\n\n{definition}")).await;
    established(&cluster, CRATES).await;
    for name in ["a", "b"] {
        let object = json!({"metadata": {"name": name}, "spec": {"n": 1}});
        cluster.tree(&format!("POST /apis/example.com/v1/crates\n\n{object}")).await;
    }
    let stored = async || {
        let all = skiff_store::KeyRange::prefix("/registry/example.com/crates/");
        let pairs = cluster.store.range(&all, None, 0).await.expect("it can be read").items;
        let text = |pair: &skiff_store::KeyValue| String::from_utf8(pair.value.to_vec()).expect("JSON");
        let is_new = |text: &String| text.contains("\"v2/");
        let is_old = |text: &String| text.contains("\"v1/");
        let texts: Vec<_> = pairs.iter().map(text).collect();
        assert!(texts.iter().all(|text| is_new(text) != is_old(text)), "{texts:?}");
        (texts.iter().filter(|text| is_old(text)).count(), texts.iter().filter(|text| is_new(text)).count())
    };
    assert_eq!(stored().await, (2, 0));
    let patch = |at: &str, change: serde_json::Value| {
        format!("PATCH {DEFINITIONS}/{CRATES}{at}\nContent-Type: application/merge-patch+json\n\n{change}")
    };
    let turned = json!({"spec": {"versions": [version("v1", false), version("v2", true)]}});
    let turned = cluster.tree(&patch("", turned)).await;
    assert_eq!(turned["status"]["storedVersions"], json!(["v1", "v2"]));
    let alone = json!({"spec": {"versions": [version("v2", true)]}});
    let refused = cluster.outcome(&patch("", alone.clone())).await;
    assert!(refused.starts_with("422") && refused.contains("v1 was previously a storage version"), "{refused}");
    // What is written from now on is written in the new version, even where nothing of it changes; that the server has
    // seen the change is told by one that is new.
    let mut number = 0;
    while stored().await.1 == 0 {
        let object = json!({"metadata": {"name": format!("new{number}")}});
        cluster.tree(&format!("POST /apis/example.com/v1/crates\n\n{object}")).await;
        number += 1;
    }
    for name in ["a", "b"].map(str::to_owned).into_iter().chain((0..number).map(|number| format!("new{number}"))) {
        let object = cluster.tree(&format!("GET /apis/example.com/v2/crates/{name}")).await;
        cluster.tree(&format!("PUT /apis/example.com/v2/crates/{name}\n\n{object}")).await;
    }
    assert_eq!(stored().await, (0, number + 2));
    // Who writes the same again changes nothing more, whichever version it goes through.
    for version in ["v1", "v2"] {
        let path = format!("/apis/example.com/{version}/crates/a");
        let object = cluster.tree(&format!("GET {path}")).await;
        assert_eq!(cluster.tree(&format!("PUT {path}\n\n{object}")).await, object);
    }
    let forgets_new = cluster.outcome(&patch("/status", json!({"status": {"storedVersions": ["v1"]}}))).await;
    assert!(forgets_new.starts_with("422"), "{forgets_new}");
    cluster.tree(&patch("/status", json!({"status": {"storedVersions": ["v2"]}}))).await;
    let left = cluster.tree(&patch("", alone)).await;
    assert_eq!(left["status"]["storedVersions"], json!(["v2"]));
    while cluster.send("GET /apis/example.com/v1/crates").await.status() == 200 {
        tokio::task::yield_now().await;
    }
    let list = cluster.tree("GET /apis/example.com/v2/crates").await;
    let items = list["items"].as_array().expect("items");
    assert_eq!(items.len(), number + 2);
    assert!(items.iter().all(|item| item["apiVersion"] == "example.com/v2"), "{list}");
    assert_eq!(cluster.tree("GET /apis/example.com/v2/crates/a").await["spec"], json!({"n": 1}));
}
