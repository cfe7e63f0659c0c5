//! What strangers send, as functions of bytes: the entries of the fuzzers in `fuzz/`, and of the bounded run beside this
//! file. None of them may panic, overflow the stack, or take more than its input is worth.

use http::Method;
use skiff_apiserver::http::query::Query;
use skiff_apiserver::http::request::RequestInfo;
use skiff_kinds::decode::{FieldValidation, blank, decode, decode_tree};
use skiff_kinds::def::Context;
use skiff_kinds::schema::apply::of_definition;
use skiff_kinds::schema::definition;
use skiff_kinds::{ResourceDef, protobuf};
use skiff_object::apply::{self, Write};
use skiff_object::node::Format;
use skiff_object::patch::{json_patch, merge_patch, strategic_merge};
use skiff_object::{FieldSelector, GroupVersionKind, LabelSelector, Object};

/// What a policy's expressions may cost altogether.
const COST_LIMIT: u64 = 1_000_000;

/// An entry, with the name of its fuzzer and what its inputs look like.
pub struct Entry {
    /// The name of its fuzzer.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: &'static [&'static str],
}

const DEPLOYMENT: &str = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","labels":{"a":"b"}},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"env":[{"name":"x","value":"y"}],"resources":{"limits":{"cpu":"100m"}}}]}}}}"#;
const DEFINITION: &str = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"things","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,"additionalPrinterColumns":[{"name":"r","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}],"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-validations":[{"rule":"self.a > oldSelf.a","message":"no"}],"properties":{"a":{"type":"integer","minimum":1,"default":2},"l":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string","pattern":"^a+$","maxLength":5}}}}}}}}}}]}}"#;

/// All of them.
pub const ENTRIES: [Entry; 7] = [
    Entry {
        name: "paths",
        run: paths,
        seeds: &[
            "GET /api/v1/namespaces/a/pods/b/log?follow=true&container=x",
            "POST /apis/apps/v1/namespaces/a/deployments?dryRun=All&fieldValidation=Strict",
            "GET /api/v1/watch/namespaces/a/services/https:b:80/proxy/x/y%20z?%61=b",
        ],
    },
    Entry {
        name: "patches",
        run: patches,
        seeds: &[
            r#"[{"op":"add","path":"/spec/template/spec/containers/0/env/-","value":{"name":"z"}},{"op":"move","from":"/metadata/labels/a","path":"/metadata/labels/b"}]"#,
            r#"[{"op":"copy","from":"/spec","path":"/spec/template/spec"},{"op":"test","path":"","value":1},{"op":"remove","path":"/spec/replicas"}]"#,
            r#"{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"}],"containers":[{"$patch":"delete","name":"c"},{"name":"d","$retainKeys":["name"]}]}}}}"#,
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"managedFields":[{"manager":"a","operation":"Apply","apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{".":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}},"v:1":{},"i:0":{}}}}}}}]},"spec":{"replicas":2}}"#,
            r#"{"metadata":{"labels":null,"$deleteFromPrimitiveList/finalizers":["a"]},"spec":{"$patch":"replace"}}"#,
        ],
    },
    Entry {
        name: "selectors",
        run: selectors,
        seeds: &["a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2", "metadata.name=a,spec.nodeName!=b", "a==b\\,c"],
    },
    Entry {
        name: "protobuf",
        run: encoded,
        seeds: &["k8s\0\n\x08\n\x02v1\x12\x02Pod", "k8s\0\n\x1c\n\x07apps/v1\x12\nDeployment\x12\x05\n\x03\n\x01a"],
    },
    Entry {
        name: "cel",
        run: expressions,
        seeds: &[
            "object.spec.replicas > 1 && has(object.metadata.labels) ? object.metadata.name.startsWith('a') : true",
            "[1, 2, 3].map(x, x * 2).exists_one(x, x == 4) || {'a': 1}.all(k, k.matches('^a{2,3}$'))",
            "quantity('1Gi').isGreaterThan(quantity('1M')) && ip('10.0.0.1') in cidr('10.0.0.0/8')",
            "b'\\x00'.size() == 1 && duration('1h').getSeconds() > 0x10u && r\"\\d\" != '''x'''",
        ],
    },
    Entry {
        name: "yaml",
        run: bodies,
        seeds: &[
            DEPLOYMENT,
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: &n a\n  labels: {a: *n}\ndata:\n  x: |\n    line\n  y: >-\n    0644\n",
        ],
    },
    Entry { name: "schemas", run: schemas, seeds: &[DEFINITION] },
];

/// Gives an input to the entry of that name.
#[allow(dead_code, reason = "the fuzzers call it")]
pub fn run(name: &str, input: &[u8]) {
    let entry = ENTRIES.iter().find(|entry| entry.name == name).expect("a fuzzer has an entry's name");
    (entry.run)(input);
}

fn kind(group: &str, version: &str, kind: &str) -> &'static ResourceDef {
    skiff_kinds::by_kind(&GroupVersionKind::new(group, version, kind)).expect("it is built in")
}

/// `METHOD path?query`.
fn paths(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (method, target) = text.split_once(' ').unwrap_or(("GET", &text));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET);
    let query = Query::parse(query);
    let info = RequestInfo::parse(&method, path, &query);
    assert!(info.rest.len() <= path.len(), "{path:?}");
}

fn patches(input: &[u8]) {
    let def = kind("apps", "v1", "Deployment");
    let old: Object = serde_json::from_str(DEPLOYMENT).expect("JSON");
    let check = |made: Object| {
        // What can be stored can be read again.
        let text = made.to_string();
        serde_json::from_str::<Object>(&text).expect("it is no deeper than what is read");
        drop(decode_tree(def, made, FieldValidation::Strict));
    };
    if let Ok(made) = json_patch(old.clone(), input) {
        check(made);
    }
    let Ok(part) = serde_json::from_slice::<Object>(input) else { return };
    check(merge_patch(old.clone(), part.clone()));
    let schema = definition(&def.schema).expect("it is in the table");
    if let Ok(made) = strategic_merge(old.clone(), part.clone(), schema) {
        check(made);
    }
    applied(def, &old, part);
}

/// A configuration that is applied, and an object whose owners a stranger has written.
fn applied(def: &ResourceDef, old: &Object, part: Object) {
    let (blank, ignored) = (blank(def), apply::ignored_fields(true, "", &[""; 0]));
    let write = Write {
        manager: "stranger",
        subresource: "",
        api_version: "apps/v1",
        now: "2026-01-02T03:04:05Z",
        schema: of_definition(definition(&def.schema).expect("it is in the table")),
        blank: &blank,
        ignored: &ignored,
        versions: Some(def),
    };
    for live in [None, Some(old), Some(&part)] {
        if let Ok(made) = apply::apply(live, &part, &write, true) {
            drop(decode_tree(def, made, FieldValidation::Ignore));
        }
    }
    let mut new = part;
    if new.is_object() {
        apply::track(Some(old), &mut new, &write);
    }
}

fn selectors(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(selector) = LabelSelector::parse(&text) {
        selector.matches(|key| (key.len() % 2 == 0).then_some("1"));
    }
    drop(FieldSelector::parse(&text));
}

fn encoded(input: &[u8]) {
    if let Ok(tree) = protobuf::tree(input) {
        drop(tree.to_string());
    }
}

fn expressions(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let env = skiff_cel::Env::new().with("object", skiff_cel::types::any());
    let Ok(program) = skiff_cel::compile(&env, &text) else { return };
    let object: Object = serde_json::from_str(DEPLOYMENT).expect("JSON");
    let activation = vec![("object", skiff_cel::Value::json(&object, None))];
    drop(program.run(&activation, None, COST_LIMIT).value);
}

fn bodies(input: &[u8]) {
    for format in [Format::Json, Format::Yaml] {
        for def in [kind("apps", "v1", "Deployment"), kind("", "v1", "ConfigMap")] {
            if let Ok(decoded) = decode(def, input, format, FieldValidation::Warn) {
                let (now, mut object) = (skiff_base::Timestamp::UNIX_EPOCH, decoded.object);
                (def.default)(&mut object);
                drop((def.validate)(&Context { def, subresource: "", now }, &object));
            }
        }
    }
}

fn schemas(input: &[u8]) {
    let def = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    if let Ok(decoded) = decode(def, input, Format::Json, FieldValidation::Warn) {
        let (now, mut object) = (skiff_base::Timestamp::UNIX_EPOCH, decoded.object);
        (def.default)(&mut object);
        drop((def.validate)(&Context { def, subresource: "", now }, &object));
    }
}
