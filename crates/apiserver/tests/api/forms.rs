//! The forms in which the API speaks: protobuf, YAML, Tables, metadata alone, as they are negotiated.

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_kinds::decode::{FieldValidation, decode_tree};
use skiff_kinds::protobuf;

use crate::support::Cluster;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PROTOBUF: &str = "Accept: application/vnd.kubernetes.protobuf";
const METADATA: &str = "Accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str =
    "Accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// The code, the media type and the body of an answer.
async fn bytes(cluster: &Cluster, request: &str) -> (u16, String, Bytes) {
    parts(cluster.send(request).await).await
}

async fn parts(answer: http::Response<skiff_apiserver::Body>) -> (u16, String, Bytes) {
    let media = answer.headers().get("content-type").map(|value| value.to_str().expect("text").to_owned());
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
    (code, media.unwrap_or_default(), body)
}

/// Drops what is empty, which protobuf does not tell from what is not there.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), pruned(value)));
            kept.filter(|(_, value)| !is_empty(value)).collect()
        }
        Value::Array(items) => items.iter().map(pruned).collect(),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    [json!(null), json!(""), json!(0), json!({}), json!([]), json!(false)].contains(value)
}

/// A request answered in protobuf says what it says in JSON.
async fn same(cluster: &Cluster, request: &str) {
    let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
    let mut plain = cluster.tree(request).await;
    if plain["apiVersion"].is_null() {
        // Discovery of the core group leaves it out in JSON.
        plain["apiVersion"] = json!("v1");
    }
    let (code, media, encoded) = bytes(cluster, &format!("{head}\n{PROTOBUF}\n\n{body}")).await;
    assert!((200..300).contains(&code), "{request}: {code}");
    assert_eq!(media, "application/vnd.kubernetes.protobuf", "{request}");
    let tree = protobuf::tree(&encoded).expect("a known kind");
    assert_eq!(pruned(&tree), pruned(&plain), "{request}");
}

#[tokio::test]
async fn answers_in_protobuf_say_what_answers_in_json_say() {
    let cluster = Cluster::new().await;
    for name in ["a", "b"] {
        let object = format!(r#"{{"metadata":{{"name":"{name}","labels":{{"x":"y"}}}},"data":{{"k":"v"}}}}"#);
        cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{object}")).await;
    }
    let merge = "Content-Type: application/merge-patch+json";
    for request in [
        format!("GET {CONFIG_MAPS}/a"),
        format!("GET {CONFIG_MAPS}"),
        format!("GET {CONFIG_MAPS}?limit=1"),
        format!("PATCH {CONFIG_MAPS}/a?dryRun=All\n{merge}\n\n{{\"data\":{{\"k\":\"w\"}}}}"),
        format!("DELETE {CONFIG_MAPS}/a?dryRun=All"),
        "GET /api".to_owned(),
        "GET /apis".to_owned(),
        "GET /api/v1".to_owned(),
        "GET /apis/apps".to_owned(),
        "GET /apis/apps/v1".to_owned(),
        "GET /api/v1/nodes".to_owned(),
        "GET /apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
    ] {
        same(&cluster, &request).await;
    }
    let (code, media, status) = bytes(&cluster, &format!("GET {CONFIG_MAPS}/none\n{PROTOBUF}")).await;
    assert_eq!((code, media.as_str()), (404, "application/vnd.kubernetes.protobuf"));
    let status = protobuf::tree(&status).expect("a Status");
    assert_eq!((&status["reason"], &status["details"]["name"]), (&json!("NotFound"), &json!("none")));
}

#[tokio::test]
async fn objects_are_written_in_protobuf() {
    let cluster = Cluster::new().await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let encoded = protobuf::encode_any(&object).expect("a known kind");
    let content = "Content-Type: application/vnd.kubernetes.protobuf";
    let answer = cluster.send_bytes(&format!("POST {CONFIG_MAPS}\n{content}\n{PROTOBUF}"), encoded).await;
    let (code, _, body) = parts(answer).await;
    assert_eq!(code, 201);
    let mut created = protobuf::tree(&body).expect("a ConfigMap");
    assert_eq!(created["data"], json!({"k": "v"}));
    created["data"]["k"] = json!("w");
    let def = skiff_kinds::by_kind(&skiff_object::GroupVersionKind::of(&created).expect("a kind")).expect("known");
    let wanted = decode_tree(def, created, FieldValidation::Strict).expect("of the kind").object;
    let encoded = protobuf::encode_any(&wanted).expect("a known kind");
    let answer = cluster.send_bytes(&format!("PUT {CONFIG_MAPS}/a\n{content}"), encoded).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(cluster.tree(&format!("GET {CONFIG_MAPS}/a")).await["data"], json!({"k": "w"}));
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let encoded = protobuf::encode_any(&options).expect("known options");
    let answer = cluster.send_bytes(&format!("DELETE {CONFIG_MAPS}/a\n{content}"), encoded).await;
    assert_eq!(answer.status(), 409);
    assert_eq!(
        cluster.outcome(&format!("POST {CONFIG_MAPS}\nContent-Type: text/plain\n\nx")).await,
        "415 the body of the request was in an unknown format - accepted media types include: application/json, \
         application/yaml, application/vnd.kubernetes.protobuf"
    );
}

#[tokio::test]
async fn metadata_alone_is_had_in_protobuf() {
    let cluster = Cluster::new().await;
    cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", r#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#)).await;
    let (_, _, body) = bytes(&cluster, &format!("GET {CONFIG_MAPS}/a\n{METADATA}")).await;
    let one = protobuf::tree(&body).expect("metadata");
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("a")));
    let (_, _, body) = bytes(&cluster, &format!("GET {CONFIG_MAPS}\n{METADATA_LIST}")).await;
    let list = protobuf::tree(&body).expect("a list");
    assert_eq!(list["kind"], json!("PartialObjectMetadataList"));
    assert_eq!(list["items"][0]["metadata"]["name"], json!("a"));
    assert_eq!(
        cluster
            .outcome(&format!(
                "GET {CONFIG_MAPS}\nAccept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
            ))
            .await,
        "406 you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)"
    );
    let reviews = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let table = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let outcome = cluster.outcome(&format!("{reviews}\n{table}\n\n{}", r#"{"spec":{"resourceAttributes":{}}}"#)).await;
    assert!(outcome.starts_with("406"), "{outcome}");
    let beta = "Accept: application/json;as=Table;g=meta.k8s.io;v=v1beta1";
    assert_eq!(cluster.tree(&format!("GET {CONFIG_MAPS}\n{beta}")).await["apiVersion"], "meta.k8s.io/v1beta1");
}

/// The events of a watch in protobuf, as far as they came in the first piece.
async fn watched(cluster: &Cluster, request: &str) -> Vec<Value> {
    let answer = cluster.send(request).await;
    assert_eq!(answer.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let piece = answer.into_body().frame().await.expect("a piece").expect("whole").into_data().expect("data");
    let (mut rest, mut events) = (&piece[..], Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (event, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        // The event's type is its first field; the object is in its second, within another message.
        let name = &event[2..2 + event[1] as usize];
        let start = event.windows(4).position(|part| part == b"k8s\0").expect("an object");
        let object = protobuf::tree(&event[start..]).expect("an object of a known kind");
        events.push(json!({"type": String::from_utf8_lossy(name), "object": object}));
        rest = tail;
    }
    events
}

#[tokio::test]
async fn watches_are_had_in_protobuf() {
    let cluster = Cluster::new().await;
    cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", r#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#)).await;
    let events = watched(&cluster, &format!("GET {CONFIG_MAPS}?watch=1\n{PROTOBUF}")).await;
    assert_eq!((&events[0]["type"], &events[0]["object"]["data"]), (&json!("ADDED"), &json!({"k": "v"})));
    let events = watched(&cluster, &format!("GET {CONFIG_MAPS}?watch=1\n{METADATA}")).await;
    assert_eq!(events[0]["object"]["kind"], json!("PartialObjectMetadata"));
    let (code, media, body) = bytes(&cluster, &format!("GET {CONFIG_MAPS}?watch=1\nAccept: application/yaml")).await;
    assert_eq!((code, media.as_str()), (406, "application/yaml"));
    let text = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert!(String::from_utf8_lossy(&body).replace("\n  ", " ").contains(text), "{body:?}");
}
