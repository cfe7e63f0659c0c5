//! Protobuf: bytes as upstream's encoder writes them, and every kind there and back.

use base64::Engine;
use serde_json::{Value, json};
use skiff_kinds::decode::{FieldValidation, blank, decode_tree};
use skiff_kinds::protobuf::{ListFrame, encode, encode_any, encode_event, message, tree};
use skiff_kinds::schema::definition;
use skiff_kinds::{ResourceDef, builtin, by_kind, subresource_kinds};
use skiff_object::GroupVersionKind;
use skiff_object::node::{Format, Node};

fn there_and_back(def: &ResourceDef, object: &Value) -> Value {
    let encoded = encode(definition(&def.schema).expect("it is in the facts"), object);
    let tree = tree(&encoded).expect("it was encoded just now");
    decode_tree(def, tree, FieldValidation::Strict).expect("it has the shape of its kind").object
}

#[test]
fn every_kind_goes_there_and_back() {
    for def in builtin().iter().chain(subresource_kinds()) {
        let object = blank(def);
        assert_eq!(there_and_back(def, &object), object, "{}", def.kind);
    }
}

#[test]
fn all_sorts_of_values_go_there_and_back() {
    let check = |group: &str, kind: &str, text: &str| {
        let def = by_kind(&GroupVersionKind::new(group, "v1", kind)).expect("it is in the catalogue");
        let tree = Node::parse(text.as_bytes(), Format::Yaml).expect("it is YAML").into_value();
        let object = decode_tree(def, tree, FieldValidation::Strict).expect("it is well formed").object;
        assert_eq!(there_and_back(def, &object), object);
    };
    check(
        "apps",
        "Deployment",
        "
metadata: {name: a, labels: {x: z}, creationTimestamp: '2020-01-02T03:04:05Z', generation: 3, managedFields: [{manager: m, fieldsV1: {f:a: {}}}]}
spec:
  replicas: 0
  strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 1}}
  template:
    spec:
      nodeSelector: {a: b}
      containers:
      - {name: a, livenessProbe: {httpGet: {port: http, path: /}}, resources: {limits: {cpu: 100m}}, securityContext: {runAsUser: -1}}
      volumes: [{name: v, configMap: {name: c}}, {name: w, emptyDir: {sizeLimit: 1Gi}}]
",
    );
    check("", "Secret", "{metadata: {name: a}, data: {k: aGVsbG8=, e: ''}}");
    check("coordination.k8s.io", "Lease", "spec: {renewTime: '2020-01-02T03:04:05.123456Z', leaseDurationSeconds: 40}");
    check("apps", "ControllerRevision", "{revision: 2, data: {spec: {a: [1, null, 1.5]}}}");
    check("rbac.authorization.k8s.io", "Role", "rules: [{verbs: [get], resources: [pods], apiGroups: ['']}]");
    check("authentication.k8s.io", "TokenReview", "status: {user: {username: a, extra: {k: [a, b]}}}");
    check(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "
metadata: {name: a}
spec:
  group: g
  names: {plural: p, kind: K}
  scope: Cluster
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        default: {a: 1}
        maximum: 1.5
        properties: {l: {type: array, items: {type: string, enum: [a, null]}}, m: {additionalProperties: {x-kubernetes-int-or-string: true}}}
        additionalProperties: false
",
    );
}

#[test]
fn bytes_are_upstreams() {
    let def = by_kind(&GroupVersionKind::new("", "v1", "ConfigMap")).expect("it is in the catalogue");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let encoded = encode(definition(&def.schema).expect("it is in the facts"), &object);
    // ObjectMeta: name, the empty texts, generation 0 and the zero creation time, in the order of their numbers.
    let metadata = b"\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00";
    let data = b"\x12\x06\x0a\x01k\x12\x01v";
    let message = [&[0x0a, metadata.len() as u8][..], metadata, data].concat();
    let kind = b"\x0a\x02v1\x12\x09ConfigMap";
    let head = [b"k8s\0\x0a", &[kind.len() as u8][..], kind, &[0x12, message.len() as u8]].concat();
    assert_eq!(encoded, [&head[..], &message, b"\x1a\x00\x22\x00"].concat());
    let event = encode_event("ADDED", b"xyz");
    assert_eq!(event, b"\0\0\0\x0e\x0a\x05ADDED\x12\x05\x0a\x03xyz");
}

/// Objects in which every field is set, in JSON and as upstream's encoder writes them.
fn golden() -> Vec<(Value, Vec<u8>)> {
    let packed = include_bytes!("golden/upstream.json.gz");
    let pairs: Vec<Value> =
        serde_json::from_reader(flate2::read::GzDecoder::new(&packed[..])).expect("a list of objects");
    let pair = |pair: &Value| {
        let protobuf = pair["protobuf"].as_str().expect("a text");
        let protobuf = base64::engine::general_purpose::STANDARD.decode(protobuf).expect("base64");
        (pair["json"].clone(), protobuf)
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn golden_objects_are_written_as_upstream_writes_them() {
    for (object, protobuf) in golden() {
        let encoded = encode_any(&object).expect("a known kind");
        assert!(encoded == protobuf, "{}\nours   {}\ntheirs {}", object["kind"], shown(&encoded), shown(&protobuf));
    }
}

#[test]
fn golden_objects_are_read_as_upstream_reads_them() {
    for (object, protobuf) in golden() {
        assert_eq!(tree(&protobuf), Ok(object));
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[test]
fn a_list_around_its_items_is_the_list() {
    let item = |name: &str, data: &str| json!({"metadata": {"name": name}, "data": {"k": data}});
    let items = [item("a", "v"), item("b", &"x".repeat(300))];
    let head = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}});
    let mut list = head.clone();
    list["items"] = json!(items);
    let definition = definition("io.k8s.api.core.v1.ConfigMap").expect("it is in the facts");
    let messages = items.map(|item| message(definition, &item));
    let frame = ListFrame::new(&head, messages.iter().map(Vec::len)).expect("a known list");
    let mut written = frame.head.clone();
    for message in &messages {
        frame.item(&mut written, message.len());
        written.extend(message);
    }
    written.extend(frame.tail());
    assert_eq!(Some(written), encode_any(&list));
}

#[test]
fn options_of_any_group_are_read() {
    let options = definition("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions").expect("it is in the facts");
    let object = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Orphan"});
    assert_eq!(tree(&encode(options, &object)), Ok(object));
}

#[test]
fn bad_bodies() {
    let nothing = b"k8s\0\x0a\x0b\x0a\x02v1\x12\x05Thing";
    assert_eq!(tree(nothing), Err("no kind v1, Kind=Thing is known in protobuf".to_owned()));
    assert!(tree(b"{}").is_err());
    assert!(tree(b"k8s\0\xff").is_err());
    let broken = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x02\x0a\x7f";
    assert_eq!(tree(broken), Err("the message of v1, Kind=Pod is malformed".to_owned()));
}
