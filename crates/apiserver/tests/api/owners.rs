//! Who owns which fields, as `metadata.managedFields` tells after each kind of write.

use crate::support::{Cluster, established};
use crate::webhooks::Hook;
use expect_test::{Expect, expect};
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const APPLY: &str = "Content-Type: application/apply-patch+yaml";
const MERGE: &str = "Content-Type: application/merge-patch+json";

/// A line for each owner: who, how, through what, and what.
fn owners(object: &Value) -> String {
    let line = |entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap_or("-").to_owned();
        let fields = entry["fieldsV1"].to_string();
        let shown = if fields.len() > 120 { "..." } else { &fields };
        format!("{} {} {} {} {shown}\n", text("manager"), text("operation"), text("apiVersion"), text("subresource"))
    };
    object["metadata"]["managedFields"].as_array().into_iter().flatten().map(line).collect()
}

async fn check(cluster: &Cluster, request: &str, expected: Expect) {
    let written = cluster.tree(request).await;
    // What a subresource shows has other owners.
    let of = if written["kind"] == "End" { format!("{ENDS}/v1/ends/e") } else { format!("{DEPLOYMENTS}/d") };
    expected.assert_eq(&owners(&cluster.tree(&format!("GET {of}")).await));
}

async fn deployed(cluster: &Cluster, more: &str) {
    let body = format!(
        r#"{{"metadata":{{"name":"d"{more}}},"spec":{{"replicas":1,"selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"a","image":"i"}}]}}}}}}}}"#
    );
    cluster.tree(&format!("POST {DEPLOYMENTS}?fieldManager=one\n\n{body}")).await;
}

#[tokio::test]
async fn a_key_may_not_be_applied_twice() {
    let cluster = Cluster::new().await;
    let applied = async |validation: &str| {
        let head = format!("PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=m&fieldValidation={validation}");
        let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: b\n  a: c\n";
        cluster.answer(&format!("{head}\nContent-Type: application/apply-patch+yaml\n\n{body}")).await
    };
    let refused = applied("Strict").await;
    assert!(refused.starts_with("400") && refused.contains(r#"line 6: key \"a\" already set in map"#), "{refused}");
    assert!(applied("Warn").await.starts_with("201\nWarning: 299 - \"line 6: key \\\"a\\\" already set in map\""));
    assert!(applied("Ignore").await.starts_with("200\n"));
}

#[tokio::test]
async fn a_scale_is_updated_and_applied() {
    let cluster = Cluster::new().await;
    deployed(&cluster, "").await;
    let path = format!("{DEPLOYMENTS}/d/scale");
    check(
        &cluster,
        &format!("PATCH {path}?fieldManager=two\n{MERGE}\n\n{{\"spec\":{{\"replicas\":2}}}}"),
        expect![[r#"
            one Update apps/v1 - ...
            two Update apps/v1 scale {"f:spec":{"f:replicas":{}}}
        "#]],
    )
    .await;
    let apply = |manager: &str, more: &str, replicas: u8| {
        format!(
            "PATCH {path}?fieldManager={manager}{more}\n{APPLY}\n\n\
             {{apiVersion: autoscaling/v1, kind: Scale, metadata: {{name: d}}, spec: {{replicas: {replicas}}}}}"
        )
    };
    assert_eq!(
        cluster.outcome(&apply("three", "", 3)).await,
        r#"409 Apply failed with 1 conflict: conflict with "two" with subresource "scale" using autoscaling/v1: .spec.replicas"#
    );
    check(
        &cluster,
        &apply("three", "&force=true", 3),
        expect![[r#"
            three Apply apps/v1 scale {"f:spec":{"f:replicas":{}}}
            one Update apps/v1 - ...
        "#]],
    )
    .await;
    check(
        &cluster,
        &apply("four", "", 3),
        expect![[r#"
            four Apply apps/v1 scale {"f:spec":{"f:replicas":{}}}
            three Apply apps/v1 scale {"f:spec":{"f:replicas":{}}}
            one Update apps/v1 - ...
        "#]],
    )
    .await;
    assert_eq!(cluster.tree(&format!("GET {path}")).await["spec"]["replicas"], 3);
}

#[tokio::test]
async fn owners_are_reset_on_purpose_only() {
    let cluster = Cluster::new().await;
    deployed(&cluster, "").await;
    let path = format!("{DEPLOYMENTS}/d");
    let with = |entries: &str| format!("PATCH {path}\n{MERGE}\n\n{{\"metadata\":{{\"managedFields\":{entries}}}}}");
    check(
        &cluster,
        &with("[]"),
        expect![[r#"
            one Update apps/v1 - ...
        "#]],
    )
    .await;
    check(&cluster, &with("[{}]"), expect![[""]]).await;
    // What is not tracked is tracked again from the first apply on.
    let config = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, labels: {x: z}}}";
    check(
        &cluster,
        &format!("PATCH {path}?fieldManager=two\n{APPLY}\n\n{config}"),
        expect![[r#"
            two Apply apps/v1 - {"f:metadata":{"f:labels":{"f:x":{}}}}
            before-first-apply Update apps/v1 - ...
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_write_of_the_status_owns_nothing_else() {
    let cluster = Cluster::new().await;
    deployed(&cluster, "").await;
    let body =
        r#"{"metadata":{"labels":{"x":"y"},"annotations":{"n":"1"}},"spec":{"replicas":5},"status":{"replicas":1}}"#;
    check(
        &cluster,
        &format!("PATCH {DEPLOYMENTS}/d/status?fieldManager=two\n{MERGE}\n\n{body}"),
        expect![[r#"
            one Update apps/v1 - ...
            two Update apps/v1 status {"f:metadata":{"f:annotations":{".":{},"f:n":{}}},"f:status":{"f:replicas":{}}}
        "#]],
    )
    .await;
    let after = cluster.tree(&format!("GET {DEPLOYMENTS}/d")).await;
    assert_eq!((&after["metadata"]["labels"], &after["spec"]["replicas"]), (&Value::Null, &Value::from(1)));
    assert_eq!(after["metadata"]["generation"], 1);
}

#[tokio::test]
async fn kubectl_keeps_its_annotation_in_step() {
    let cluster = Cluster::new().await;
    deployed(&cluster, r#","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}"#).await;
    let config = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, labels: {x: z}}}";
    let apply = |manager: &str| format!("PATCH {DEPLOYMENTS}/d?fieldManager={manager}\n{APPLY}\n\n{config}");
    let annotation = |object: &Value| {
        object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(annotation(&cluster.tree(&apply("other")).await).as_deref(), Some("{}"));
    expect![[r#"
        {"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"x":"z"},"name":"d"}}
    "#]]
    .assert_eq(&annotation(&cluster.tree(&apply("kubectl")).await).unwrap_or_default());
}

const GADGETS: &str = "/apis/example.com/v1/namespaces/default/gadgets";
const GADGET: &str = r#"{"metadata":{"name":"gadgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced",
    "names":{"plural":"gadgets","singular":"gadget","kind":"Gadget","listKind":"GadgetList"},
    "versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{
        "spec":{"type":"object","properties":{
            "parts":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name","port"],
                "items":{"type":"object","required":["name"],"properties":{
                    "name":{"type":"string"},"port":{"type":"integer","default":80},"size":{"type":"integer"}}}},
            "tags":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
            "plain":{"type":"array","items":{"type":"string"}},
            "whole":{"type":"object","x-kubernetes-map-type":"atomic","additionalProperties":{"type":"string"}}}}}}}}]}}"#;

#[tokio::test]
async fn custom_kinds_merge_as_their_schemas_say() {
    let cluster = Cluster::new().await;
    cluster.tree(&format!("POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions\n\n{GADGET}")).await;
    established(&cluster, "gadgets.example.com").await;
    let apply = |manager: &str, spec: &str| {
        format!(
            "PATCH {GADGETS}/g?fieldManager={manager}\n{APPLY}\n\n\
             {{apiVersion: example.com/v1, kind: Gadget, metadata: {{name: g, finalizers: [x/{manager}]}}, spec: {{{spec}}}}}"
        )
    };
    cluster.tree(&apply("one", "parts: [{name: a, size: 1}], tags: [x], plain: [p], whole: {k: v}")).await;
    let both = cluster.tree(&apply("two", "parts: [{name: a, port: 81}, {name: b, size: 2}], tags: [w]")).await;
    expect![[r#"
        {"parts":[{"name":"a","port":80,"size":1},{"name":"a","port":81},{"name":"b","port":80,"size":2}],"plain":["p"],"tags":["x","w"],"whole":{"k":"v"}}
    "#]].assert_eq(&format!("{}\n", both["spec"]));
    assert_eq!(both["metadata"]["finalizers"].to_string(), r#"["x/one","x/two"]"#);
    assert_eq!(
        cluster.outcome(&apply("two", "parts: [{name: a, size: 3}], plain: [q], whole: {l: w}")).await,
        "409 Apply failed with 3 conflicts: conflicts with \"one\":\n- .spec.plain\n- .spec.whole\n\
         - .spec.parts[name=\"a\",port=80].size"
    );
    assert_eq!(
        cluster.outcome(&apply("two", "other: 1")).await,
        "500 failed to create typed patch object (/g; example.com/v1, Kind=Gadget): .spec.other: field not declared in schema"
    );
    let odd = "apiVersion: example.com/v1, kind: Gadget, metadata: {name: g, odd: x}";
    let odd = cluster.outcome(&format!("PATCH {GADGETS}/g?fieldManager=three\n{APPLY}\n\n{{{odd}}}")).await;
    assert!(odd.ends_with(".metadata.odd: field not declared in schema"), "{odd}");
    let left = cluster.tree(&apply("two", "tags: [x]")).await;
    expect![[r#"
        {"parts":[{"name":"a","port":80,"size":1}],"plain":["p"],"tags":["x"],"whole":{"k":"v"}}
    "#]]
    .assert_eq(&format!("{}\n", left["spec"]));
}

const ENDS: &str = "/apis/example.com";

/// An `End` has a host and a port in `v1`, and both in one text in `v2`; its definition's webhook converts.
async fn ends(cluster: &Cluster) {
    let own = Hook::start(|_, asked| {
        let wanted = asked["desiredAPIVersion"].as_str().expect("a version").to_owned();
        let convert = |object: &Value| {
            let mut object = object.clone();
            if object["apiVersion"] != wanted.as_str() {
                let spec = object["spec"].take();
                object["spec"] = if wanted.ends_with("/v2") {
                    json!({"end": format!("{}:{}", spec["host"].as_str().unwrap_or(""), spec["port"]), "note": spec["note"]})
                } else {
                    let (host, port) = spec["end"].as_str().and_then(|both| both.split_once(':')).unwrap_or(("", "0"));
                    json!({"host": host, "port": port.parse::<i64>().unwrap_or(0), "note": spec["note"]})
                };
                object["apiVersion"] = wanted.as_str().into();
            }
            object
        };
        let objects: Vec<Value> = asked["objects"].as_array().expect("objects").iter().map(convert).collect();
        Some(json!({"convertedObjects": objects, "result": {"status": "Success"}}))
    })
    .await;
    let version = |name: &str, storage: bool, mut fields: Value| {
        fields["note"] = json!({"type": "string", "nullable": true});
        let spec = json!({"type": "object", "properties": fields});
        json!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
    };
    let webhook = json!({"conversionReviewVersions": ["v1"], "clientConfig": own.client("/convert")});
    let definition = json!({"metadata": {"name": "ends.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "ends", "kind": "End"}, "conversion": {"strategy": "Webhook", "webhook": webhook},
        "versions": [version("v1", true, json!({"host": {"type": "string"}, "port": {"type": "integer"}})),
            version("v2", false, json!({"end": {"type": "string"}}))]}});
    cluster.tree(&format!("POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions\n\n{definition}")).await;
    established(cluster, "ends.example.com").await;
}

/// Fields of custom objects are owned in the version in which they were written, and looked at there.
#[tokio::test]
async fn owners_of_custom_fields_are_told_across_versions() {
    let cluster = Cluster::new().await;
    ends(&cluster).await;
    let apply = |version: &str, manager: &str, spec: Value| {
        let object = json!({"apiVersion": format!("example.com/{version}"), "kind": "End", "metadata": {"name": "e"}, "spec": spec});
        format!("PATCH {ENDS}/{version}/ends/e?fieldManager={manager}\n{APPLY}\n\n{object}")
    };
    check(
        &cluster,
        &apply("v1", "one", json!({"host": "h", "port": 1})),
        expect![[r#"
            one Apply example.com/v1 - {"f:spec":{"f:host":{},"f:port":{}}}
        "#]],
    )
    .await;
    // What stays the same is nobody's loss, whichever version it is said in.
    check(
        &cluster,
        &apply("v2", "two", json!({"end": "h:1"})),
        expect![[r#"
            two Apply example.com/v2 - {"f:spec":{"f:end":{}}}
            one Apply example.com/v1 - {"f:spec":{"f:host":{},"f:port":{}}}
        "#]],
    )
    .await;
    // Whoever changes the one text of the second version changes the port of the first.
    assert_eq!(
        cluster.outcome(&apply("v2", "two", json!({"end": "h:2"}))).await,
        "409 Apply failed with 1 conflict: conflict with \"one\": .spec.port"
    );
    let forced = apply("v2", "two", json!({"end": "h:2"})).replace("?fieldManager", "?force=true&fieldManager");
    check(
        &cluster,
        &forced,
        expect![[r#"
            one Apply example.com/v1 - {"f:spec":{"f:host":{}}}
            two Apply example.com/v2 - {"f:spec":{"f:end":{}}}
        "#]],
    )
    .await;
    // A plain write takes what it changes, and leaves what it does not.
    check(
        &cluster,
        &format!("PATCH {ENDS}/v1/ends/e?fieldManager=three\n{MERGE}\n\n{}", json!({"spec": {"note": "n"}})),
        expect![[r#"
            one Apply example.com/v1 - {"f:spec":{"f:host":{}}}
            two Apply example.com/v2 - {"f:spec":{"f:end":{}}}
            three Update example.com/v1 - {"f:spec":{"f:note":{}}}
        "#]],
    )
    .await;
    check(
        &cluster,
        &format!("PATCH {ENDS}/v1/ends/e?fieldManager=three\n{MERGE}\n\n{}", json!({"spec": {"port": 3}})),
        expect![[r#"
            one Apply example.com/v1 - {"f:spec":{"f:host":{}}}
            three Update example.com/v1 - {"f:spec":{"f:note":{},"f:port":{}}}
        "#]],
    )
    .await;
    // What its manager applies no longer goes where nobody else owns it, in the shape of the other version.
    let left = cluster.tree(&apply("v2", "one", json!({"note": "n"}))).await;
    assert_eq!(left["spec"], json!({"end": "h:3", "note": "n"}));
}
