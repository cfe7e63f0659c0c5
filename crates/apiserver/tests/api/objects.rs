//! The life of objects through the API: created, read, listed, changed, watched, deleted.

use crate::support::{Cluster, Watch};
use expect_test::{Expect, expect};

async fn check(cluster: &Cluster, request: &str, expected: Expect) {
    expected.assert_eq(&cluster.answer(request).await);
}

async fn outcome(cluster: &Cluster, request: &str, expected: &str) {
    assert_eq!(cluster.outcome(request).await, expected, "{request}");
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str, data: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","labels":{{"app":"{data}"}}}},"data":{{"key":"{data}"}}}}"#)
}

#[tokio::test]
async fn what_a_patch_makes_must_fit_the_kind() {
    let cluster = Cluster::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    cluster.tree(&format!("POST {maps}\n\n{{\"metadata\":{{\"name\":\"a\"}}}}")).await;
    let patched = async |kind: &str, body: &str| {
        let head = format!("PATCH {maps}/a?fieldValidation=Strict\nContent-Type: application/{kind}+json");
        cluster.outcome(&format!("{head}\n\n{body}")).await
    };
    let fault = patched("strategic-merge-patch", r#"{"nope":{"b":[1],"a":null}}"#).await;
    let expected = r#"422  "" is invalid: patch: Invalid value: "map[nope:map[a:<nil> b:[1]]]": strict decoding error: unknown field "nope""#;
    assert_eq!(fault, expected);
    let fault = patched("merge-patch", r#"{"data":{"a":1}}"#).await;
    assert!(fault.starts_with(r#"422  "" is invalid: patch: Invalid value: "{"#), "{fault}");
    assert!(
        fault.ends_with("json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
        "{fault}"
    );
    assert_eq!(patched("json-patch", r#"[{"op":"add","path":"/data","value":{"a":"b"}}]"#).await, "200");
}

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let cluster = Cluster::new().await;
    check(
        &cluster,
        &format!("POST {CONFIG_MAPS}\n\n{}", config_map("a", "x")),
        expect![[r#"
            201
            {
              "apiVersion": "v1",
              "data": {
                "key": "x"
              },
              "kind": "ConfigMap",
              "metadata": {
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {
                  "app": "x"
                },
                "managedFields": [
                  {
                    "apiVersion": "v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {
                      "f:data": {
                        ".": {},
                        "f:key": {}
                      },
                      "f:metadata": {
                        "f:labels": {
                          ".": {},
                          "f:app": {}
                        }
                      }
                    },
                    "manager": "unknown",
                    "operation": "Update",
                    "time": "2026-01-02T03:04:05Z"
                  }
                ],
                "name": "a",
                "namespace": "default",
                "resourceVersion": "2",
                "uid": "c358f8b6-1335-48b6-a430-9baea76b6521"
              }
            }
        "#]],
    )
    .await;
    outcome(
        &cluster,
        &format!("POST {CONFIG_MAPS}\n\n{}", config_map("a", "x")),
        r#"409 configmaps "a" already exists"#,
    )
    .await;
    outcome(&cluster, "GET /api/v1/namespaces/default/configmaps/b", r#"404 configmaps "b" not found"#).await;
    outcome(
        &cluster,
        "POST /api/v1/namespaces/nope/configmaps\n\n{\"metadata\":{\"name\":\"a\"}}",
        r#"404 namespaces "nope" not found"#,
    )
    .await;
    check(
        &cluster,
        &format!("PUT {CONFIG_MAPS}/a\n\n{}", config_map("a", "y")),
        expect![[r#"
            200
            {
              "apiVersion": "v1",
              "data": {
                "key": "y"
              },
              "kind": "ConfigMap",
              "metadata": {
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {
                  "app": "y"
                },
                "managedFields": [
                  {
                    "apiVersion": "v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {
                      "f:data": {
                        ".": {},
                        "f:key": {}
                      },
                      "f:metadata": {
                        "f:labels": {
                          ".": {},
                          "f:app": {}
                        }
                      }
                    },
                    "manager": "unknown",
                    "operation": "Update",
                    "time": "2026-01-02T03:04:05Z"
                  }
                ],
                "name": "a",
                "namespace": "default",
                "resourceVersion": "3",
                "uid": "c358f8b6-1335-48b6-a430-9baea76b6521"
              }
            }
        "#]],
    )
    .await;
    let stale = r#"{"metadata":{"name":"a","resourceVersion":"1"}}"#;
    outcome(
        &cluster,
        &format!("PUT {CONFIG_MAPS}/a\n\n{stale}"),
        r#"409 Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again"#,
    )
    .await;
    check(
        &cluster,
        &format!("DELETE {CONFIG_MAPS}/a"),
        expect![[r#"
            200
            {
              "apiVersion": "v1",
              "details": {
                "kind": "configmaps",
                "name": "a",
                "uid": "c358f8b6-1335-48b6-a430-9baea76b6521"
              },
              "kind": "Status",
              "metadata": {},
              "status": "Success"
            }
        "#]],
    )
    .await;
    outcome(&cluster, &format!("GET {CONFIG_MAPS}/a"), r#"404 configmaps "a" not found"#).await;
}

#[tokio::test]
async fn lists_select_and_page() {
    let cluster = Cluster::new().await;
    for (name, data) in [("a", "x"), ("b", "y"), ("c", "x")] {
        cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", config_map(name, data))).await;
    }
    let names = |list: &serde_json::Value| -> String {
        let items = list["items"].as_array().expect("a list").iter();
        items.map(|item| item["metadata"]["name"].as_str().expect("a name")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&cluster.tree(&format!("GET {CONFIG_MAPS}")).await), "a b c");
    assert_eq!(names(&cluster.tree("GET /api/v1/configmaps").await), "a b c");
    assert_eq!(names(&cluster.tree(&format!("GET {CONFIG_MAPS}?labelSelector=app%3Dx")).await), "a c");
    assert_eq!(names(&cluster.tree(&format!("GET {CONFIG_MAPS}?fieldSelector=metadata.name%3Db")).await), "b");
    outcome(
        &cluster,
        &format!("GET {CONFIG_MAPS}?fieldSelector=x%3Db"),
        r#"400 "x" is not a known field selector: only "metadata.name", "metadata.namespace""#,
    )
    .await;
    let first = cluster.tree(&format!("GET {CONFIG_MAPS}?limit=2")).await;
    assert_eq!(names(&first), "a b");
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", config_map("bb", "z"))).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = cluster.tree(&format!("GET {CONFIG_MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), "c");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let revision = first["metadata"]["resourceVersion"].as_str().expect("a revision");
    let exact = format!("GET {CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    assert_eq!(names(&cluster.tree(&exact).await), "a b c");
}

#[tokio::test]
async fn watches_follow_the_selector() {
    let cluster = Cluster::new().await;
    cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", config_map("a", "x"))).await;
    let mut all = Watch::open(&cluster, &format!("GET {CONFIG_MAPS}?watch=true")).await;
    let mut selected = Watch::open(&cluster, &format!("GET {CONFIG_MAPS}?watch=1&labelSelector=app%3Dy")).await;
    assert_eq!(all.short().await, "ADDED a");
    cluster.tree(&format!("PUT {CONFIG_MAPS}/a\n\n{}", config_map("a", "y"))).await;
    assert_eq!(all.short().await, "MODIFIED a");
    assert_eq!(selected.short().await, "ADDED a");
    cluster.tree(&format!("PUT {CONFIG_MAPS}/a\n\n{}", config_map("a", "z"))).await;
    assert_eq!(all.short().await, "MODIFIED a");
    let events = selected.next().await;
    assert_eq!(events[0]["type"], "DELETED");
    assert_eq!(events[0]["object"]["data"]["key"], "y");
    cluster.tree(&format!("DELETE {CONFIG_MAPS}/a")).await;
    let gone = all.next().await;
    assert_eq!(gone[0]["type"], "DELETED");
    assert!(
        gone[0]["object"]["metadata"]["resourceVersion"].as_str()
            > events[0]["object"]["metadata"]["resourceVersion"].as_str()
    );
}

#[tokio::test]
async fn a_watch_resumes_from_a_revision_and_sends_initial_events_when_asked() {
    let cluster = Cluster::new().await;
    let a = cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", config_map("a", "x"))).await;
    let revision = a["metadata"]["resourceVersion"].as_str().expect("a revision");
    cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", config_map("b", "x"))).await;
    let mut resumed = Watch::open(&cluster, &format!("GET {CONFIG_MAPS}?watch=true&resourceVersion={revision}")).await;
    assert_eq!(resumed.short().await, "ADDED b");
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut listing = Watch::open(&cluster, &format!("GET {CONFIG_MAPS}?watch=true&{initial}")).await;
    assert_eq!(listing.short().await, "ADDED a, ADDED b");
    let end = listing.next().await;
    assert_eq!(end[0]["type"], "BOOKMARK");
    assert_eq!(end[0]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let mut old = Watch::open(&cluster, "GET /api/v1/namespaces?watch=true&resourceVersion=0").await;
    assert_eq!(old.short().await, "ADDED default, ADDED kube-node-lease, ADDED kube-public, ADDED kube-system");
}

#[tokio::test]
async fn what_is_applied_is_owned_and_conflicts_are_told() {
    let cluster = Cluster::new().await;
    let apply = |manager: &str, more: &str, data: &str| {
        format!(
            "PATCH {CONFIG_MAPS}/a?fieldManager={manager}{more}\nContent-Type: application/apply-patch+yaml\n\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n{data}"
        )
    };
    check(
        &cluster,
        &apply("one", "", "  x: '1'\n  y: '1'\n"),
        expect![[r#"
            201
            {
              "apiVersion": "v1",
              "data": {
                "x": "1",
                "y": "1"
              },
              "kind": "ConfigMap",
              "metadata": {
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "managedFields": [
                  {
                    "apiVersion": "v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {
                      "f:data": {
                        "f:x": {},
                        "f:y": {}
                      }
                    },
                    "manager": "one",
                    "operation": "Apply",
                    "time": "2026-01-02T03:04:05Z"
                  }
                ],
                "name": "a",
                "namespace": "default",
                "resourceVersion": "2",
                "uid": "c358f8b6-1335-48b6-a430-9baea76b6521"
              }
            }
        "#]],
    )
    .await;
    outcome(
        &cluster,
        &apply("two", "", "  x: '2'\n"),
        "409 Apply failed with 1 conflict: conflict with \"one\": .data.x",
    )
    .await;
    let taken = cluster.tree(&apply("two", "&force=true", "  x: '2'\n")).await;
    assert_eq!(taken["data"], serde_json::json!({"x": "2", "y": "1"}));
    let left = cluster.tree(&apply("one", "", "  z: '1'\n")).await;
    assert_eq!(left["data"], serde_json::json!({"x": "2", "z": "1"}));
    outcome(
        &cluster,
        &apply("", "", "  x: '2'\n"),
        r#"422 PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch"#,
    )
    .await;
}

#[tokio::test]
async fn kinds_that_share_a_storage_show_the_same_objects_each_in_its_shape() {
    let cluster = Cluster::new().await;
    let event = r#"{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p","namespace":"default"},
        "reason":"Started","message":"it did","type":"Normal"}"#;
    cluster.tree(&format!("POST /api/v1/namespaces/default/events\n\n{event}")).await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let shown = cluster.tree(&format!("GET {events}/e")).await;
    assert_eq!((&shown["note"], &shown["regarding"]["name"]), (&"it did".into(), &"p".into()));
    let mut watch = Watch::open(&cluster, &format!("GET {events}?watch=1")).await;
    assert_eq!(watch.next().await[0]["object"]["note"], "it did");
    let selected = "/api/v1/events?fieldSelector=involvedObject.name%3Dp,involvedObject.kind%3DPod";
    assert_eq!(cluster.tree(&format!("GET {selected}")).await["items"][0]["message"], "it did");

    let scaler = r#"{"metadata":{"name":"h"},"spec":{"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"},
        "maxReplicas":3,"targetCPUUtilizationPercentage":70}}"#;
    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    cluster.tree(&format!("POST {}\n\n{scaler}", path("v1"))).await;
    let v2 = cluster.tree(&format!("GET {}/h", path("v2"))).await;
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    let v1 = cluster.tree(&format!("GET {}/h", path("v1"))).await;
    assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 70);
    assert_eq!(v1["apiVersion"], "autoscaling/v1");
}

#[tokio::test]
async fn every_kind_is_listed_and_discovered() {
    let cluster = Cluster::new().await;
    let mut seen = 0;
    for def in skiff_kinds::builtin() {
        let version = def.group_version().to_string();
        let root = if def.group.is_empty() { format!("/api/{version}") } else { format!("/apis/{version}") };
        let resources = cluster.tree(&format!("GET {root}")).await;
        let names = resources["resources"].as_array().expect("a list").iter().map(|resource| &resource["name"]);
        assert!(names.into_iter().any(|name| *name == def.plural.as_ref()), "{version} {}", def.plural);
        if def.verbs.iter().any(|verb| verb == "list") {
            let list = cluster.tree(&format!("GET {root}/{}", def.plural)).await;
            assert_eq!(list["kind"], format!("{}List", def.kind));
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}
