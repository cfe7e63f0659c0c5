//! What every kind can, whatever it is: the whole life of an object through the API, in all forms, on every store. A kind
//! that is added to the catalogue needs one line in `kinds.yaml` and nothing here.

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_kinds::decode::{FieldValidation, decode_tree};
use skiff_kinds::{ResourceDef, Subresource, builtin, protobuf};
use skiff_object::meta::Meta;
use skiff_store::{EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore};

use crate::etcd;
use crate::support::{Cluster, Folder, Watch, holds};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// The smallest valid object of each kind, by version and kind.
fn objects() -> BTreeMap<String, Value> {
    let parsed = include_str!("kinds.yaml")
        .split("---\n")
        .map(|document| skiff_object::yaml::parse(document.as_bytes()).expect("valid YAML").into_value());
    let key = |object: &Value| format!("{} {}", object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    parsed.map(|object| (key(&object), object)).collect()
}

/// One kind on its way through the API.
struct Trial<'a> {
    cluster: &'a Cluster,
    def: &'static ResourceDef,
    object: Value,
    collection: String,
}

impl Trial<'_> {
    fn path(&self) -> String {
        format!("{}/{}", self.collection, self.object.name())
    }

    fn what(&self) -> String {
        self.def.gvk().to_string()
    }

    fn serves(&self, verb: &str) -> bool {
        self.def.verbs.iter().any(|own| own == verb)
    }

    fn is_definition(&self) -> bool {
        self.def.kind == "CustomResourceDefinition"
    }

    /// The condition by which the server says that it is done with what it acts on.
    fn own_condition(&self) -> &'static str {
        if self.is_definition() { "Established" } else { "Available" }
    }

    async fn tree(&self, head: &str, body: &Value) -> Value {
        self.cluster.tree(&format!("{head}\n\n{body}")).await
    }

    async fn get(&self) -> Value {
        self.cluster.tree(&format!("GET {}", self.path())).await
    }

    /// Nothing of a dry run stays.
    async fn tries(&self) {
        let tried = self.tree(&format!("POST {}?dryRun=All", self.collection), &self.object).await;
        assert_eq!(tried.name(), self.object.name(), "{}", self.what());
        assert!(self.cluster.outcome(&format!("GET {}", self.path())).await.starts_with("404"), "{}", self.what());
    }

    async fn creates_and_reads(&self) {
        let mut created = self.tree(&format!("POST {}?fieldValidation=Strict", self.collection), &self.object).await;
        // The server itself acts on these; what it does must not come between what is done and seen here.
        if self.is_definition() || self.def.kind == "APIService" {
            holds(self.cluster, &self.collection, self.object.name(), self.own_condition()).await;
            created = self.get().await;
        }
        assert!(!created.uid().is_empty() && !created.resource_version().is_empty(), "{}", self.what());
        assert_eq!(created.str_at(&["kind"]), self.def.kind, "{}", self.what());
        assert_eq!(self.get().await, created, "{}", self.what());
        for query in ["", "?dryRun=All"] {
            let again = self.cluster.outcome(&format!("POST {}{query}\n\n{}", self.collection, self.object)).await;
            assert!(again.starts_with("409"), "{}{query}: {again}", self.what());
        }
        let selected = format!("{}?fieldSelector=metadata.name={}", self.collection, self.object.name());
        let list = self.cluster.tree(&format!("GET {selected}")).await;
        assert_eq!(list.str_at(&["kind"]), self.def.list_kind, "{}", self.what());
        assert_eq!(list.list_at(&["items"]).len(), 1, "{}", self.what());
        let mut watch = Watch::open(self.cluster, &format!("GET {selected}&watch=1")).await;
        let events = watch.next().await;
        assert_eq!((&events[0]["type"], &events[0]["object"]), (&json!("ADDED"), &created), "{}", self.what());
    }

    /// Updates and the four patches each set a label; the watch sees every one of them.
    async fn changes(&self) {
        let path = self.path();
        let query = format!("fieldSelector=metadata.name={}&watch=1", self.object.name());
        let from = self.get().await.resource_version().to_owned();
        let mut watch =
            Watch::open(self.cluster, &format!("GET {}?{query}&resourceVersion={from}", self.collection)).await;
        let mut object = self.get().await;
        object["metadata"]["labels"] = json!({"put": "1"});
        self.tree(&format!("PUT {path}"), &object).await;
        let stale = self.cluster.outcome(&format!("PUT {path}\n\n{object}")).await;
        assert!(stale.starts_with("409"), "{}: {stale}", self.what());
        let label = |name: &str| json!({"metadata": {"labels": {name: "1"}}});
        let patch = |kind: &str| format!("PATCH {path}\nContent-Type: application/{kind}");
        self.tree(&patch("json-patch+json"), &json!([{"op": "add", "path": "/metadata/labels/json", "value": "1"}]))
            .await;
        self.tree(&patch("merge-patch+json"), &label("merge")).await;
        self.tree(&patch("strategic-merge-patch+json"), &label("strategic")).await;
        let mut applied = label("apply");
        for field in ["apiVersion", "kind"] {
            applied[field] = self.object[field].clone();
        }
        applied["metadata"]["name"] = self.object.name().into();
        let head = format!("PATCH {path}?fieldManager=tests\nContent-Type: application/apply-patch+yaml");
        let object = self.tree(&head, &applied).await;
        for name in ["put", "json", "merge", "strategic", "apply"] {
            assert_eq!(object.label(name), Some("1"), "{} {name}", self.what());
        }
        let owners = object.list_at(&["metadata", "managedFields"]);
        assert!(owners.iter().any(|owner| owner.str_at(&["operation"]) == "Apply"), "{}", self.what());
        let (mut seen, mut last) = (0, Value::Null);
        while seen < 5 {
            for event in watch.next().await {
                assert_eq!(event["type"], "MODIFIED", "{}", self.what());
                (seen, last) = (seen + 1, event["object"].clone());
            }
        }
        assert_eq!((seen, &last), (5, &object), "{}", self.what());
    }

    /// The status is written by its own door; the annotations are too, but for some kinds.
    async fn has_status(&self) {
        if !self.def.has_status() {
            return;
        }
        let path = format!("{}/status", self.path());
        let object = self.cluster.tree(&format!("GET {path}")).await;
        assert_eq!(object, self.get().await, "{}", self.what());
        let note = json!({"metadata": {"annotations": {"status": "1"}}});
        let kept = self.def.status_keeps.iter().any(|field| field == "annotations");
        let wanted = (!kept).then_some("1");
        let tried = self.tries_to_patch(&path, &note).await;
        assert_eq!(tried.annotation("status"), wanted, "{}", self.what());
        self.tree(&format!("PUT {path}?dryRun=All"), &tried).await;
        assert_eq!(self.get().await, object, "{}", self.what());
        let patched = self.tree(&format!("PATCH {path}\nContent-Type: application/merge-patch+json"), &note).await;
        assert_eq!(patched.annotation("status"), wanted, "{}", self.what());
        let updated = self.tree(&format!("PUT {path}"), &patched).await;
        assert_eq!(updated.annotation("status"), wanted, "{}", self.what());
    }

    /// Patches by any door without anything of it staying.
    async fn tries_to_patch(&self, path: &str, patch: &Value) -> Value {
        let before = self.get().await;
        let head = format!("PATCH {path}?dryRun=All\nContent-Type: application/merge-patch+json");
        let tried = self.tree(&head, patch).await;
        assert_eq!(self.get().await, before, "{path}");
        tried
    }

    /// The doors to a part of the object show the object itself; a scale shows and sets the number of replicas.
    async fn has_other_doors(&self) {
        let own = (self.def.group.as_ref(), self.def.kind.as_ref());
        for subresource in self.def.subresources.iter() {
            let path = format!("{}/{}", self.path(), subresource.name());
            match subresource {
                Subresource::Special { name, kind: (group, _, kind), verbs } => {
                    let shows_itself = (group.as_ref(), kind.as_ref()) == own && name != "log";
                    if shows_itself && verbs.iter().any(|verb| verb == "get") {
                        assert_eq!(
                            self.cluster.tree(&format!("GET {path}")).await,
                            self.get().await,
                            "{}",
                            self.what()
                        );
                    }
                    if shows_itself && verbs.iter().any(|verb| verb == "patch") {
                        self.tries_to_patch(&path, &json!({"metadata": {"annotations": {"tried": "1"}}})).await;
                    }
                    if shows_itself && verbs.iter().any(|verb| verb == "update") {
                        let object = self.get().await;
                        self.tree(&format!("PUT {path}?dryRun=All"), &object).await;
                        assert_eq!(self.get().await, object, "{path}");
                    }
                }
                Subresource::Scale { .. } => {
                    let mut scale = self.cluster.tree(&format!("GET {path}")).await;
                    assert_eq!(
                        (scale.str_at(&["kind"]), scale.name()),
                        ("Scale", self.object.name()),
                        "{}",
                        self.what()
                    );
                    let tried = self.tries_to_patch(&path, &json!({"spec": {"replicas": 5}})).await;
                    assert_eq!(tried["spec"]["replicas"], 5, "{}", self.what());
                    scale["spec"]["replicas"] = 3.into();
                    let tried = self.tree(&format!("PUT {path}?dryRun=All"), &scale).await;
                    assert_eq!(tried["spec"]["replicas"], 3, "{}", self.what());
                    assert_eq!(self.get().await.resource_version(), tried.resource_version(), "{}", self.what());
                    let set = self.tree(&format!("PUT {path}"), &scale).await;
                    assert_eq!(set["spec"]["replicas"], 3, "{}", self.what());
                    let head = format!("PATCH {path}\nContent-Type: application/merge-patch+json");
                    let set = self.tree(&head, &json!({"spec": {"replicas": 2}})).await;
                    assert_eq!(set["spec"]["replicas"], 2, "{}", self.what());
                    assert_eq!(self.get().await["spec"]["replicas"], 2, "{}", self.what());
                    let encoded = self.body(&format!("GET {path}\nAccept: {PROTOBUF}")).await;
                    assert_eq!(protobuf::tree(&encoded).expect("a Scale")["spec"]["replicas"], 2, "{}", self.what());
                }
                Subresource::Status => {}
            }
        }
    }

    async fn is_shown_in_all_forms(&self) {
        let path = self.path();
        let table = self.cluster.tree(&format!("GET {}\nAccept: {TABLE}", self.collection)).await;
        let columns = table.list_at(&["columnDefinitions"]);
        assert!(columns.iter().any(|column| column["name"] == "Name"), "{}", self.what());
        for row in table.list_at(&["rows"]) {
            assert_eq!(row.list_at(&["cells"]).len(), columns.len(), "{}", self.what());
        }
        let object = self.get().await;
        let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        let metadata = self.cluster.tree(&format!("GET {path}\nAccept: {partial}")).await;
        assert_eq!(metadata["metadata"], object["metadata"], "{}", self.what());
        let yaml = self.body(&format!("GET {path}\nAccept: application/yaml")).await;
        assert_eq!(skiff_object::yaml::parse(&yaml).expect("YAML").into_value(), object, "{}", self.what());
        assert_eq!(self.in_protobuf(&path).await, object, "{}", self.what());
        let list = protobuf::tree(&self.body(&format!("GET {}\nAccept: {PROTOBUF}", self.collection)).await);
        assert_eq!(list.expect("a list").str_at(&["kind"]), self.def.list_kind, "{}", self.what());
    }

    async fn body(&self, request: &str) -> Vec<u8> {
        let answer = self.cluster.send(request).await;
        assert_eq!(answer.status(), 200, "{request}");
        answer.into_body().collect().await.expect("a whole body").to_bytes().to_vec()
    }

    /// The object as protobuf brings it, in the shape of its kind.
    async fn in_protobuf(&self, path: &str) -> Value {
        let encoded = self.body(&format!("GET {path}\nAccept: {PROTOBUF}")).await;
        let tree = protobuf::tree(&encoded).expect("a known kind");
        decode_tree(self.def, tree, FieldValidation::Strict).expect("of the kind").object
    }

    /// A second one is made of protobuf, and goes with the collection.
    async fn goes(&self) {
        let deleted = self.cluster.outcome(&format!("DELETE {}?dryRun=All", self.path())).await;
        assert_eq!(deleted, "200", "{}", self.what());
        let wrong = r#"{"preconditions":{"uid":"other"}}"#;
        let refused = self.cluster.outcome(&format!("DELETE {}\n\n{wrong}", self.path())).await;
        assert!(refused.starts_with("409"), "{}: {refused}", self.what());
        let uid = self.get().await.uid().to_owned();
        self.tree(&format!("DELETE {}", self.path()), &json!({"gracePeriodSeconds": 0})).await;
        self.is_gone(&uid).await;
        if !self.serves("deletecollection") {
            return;
        }
        let mut object = self.object.clone();
        object["metadata"]["labels"] = json!({"kind": "again"});
        let encoded = protobuf::encode_any(&object).expect("a known kind");
        let head = format!("POST {}\nContent-Type: {PROTOBUF}", self.collection);
        let answer = self.cluster.send_bytes(&head, encoded).await;
        assert_eq!(answer.status(), 201, "{}", self.what());
        let uid = self.get().await.uid().to_owned();
        let list = self.cluster.tree(&format!("DELETE {}?labelSelector=kind=again", self.collection)).await;
        assert_eq!(list.list_at(&["items"]).len(), 1, "{}", self.what());
        self.is_gone(&uid).await;
    }

    /// Gone, or on its way and held by whoever lets it go in a cluster.
    async fn is_gone(&self, uid: &str) {
        let answer = self.cluster.send(&format!("GET {}", self.path())).await;
        if answer.status() == 404 {
            return;
        }
        let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
        let object: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(object.uid() == uid && object.is_deleting(), "{}", self.what());
        if self.is_definition() {
            let from = object.resource_version();
            let mut watch =
                Watch::open(self.cluster, &format!("GET {}?watch=1&resourceVersion={from}", self.collection)).await;
            while !watch.next().await.iter().any(|event| event["type"] == "DELETED") {}
            return;
        }
        let free = json!({"metadata": {"finalizers": null}});
        let head = format!("PATCH {}\nContent-Type: application/merge-patch+json", self.path());
        self.tree(&head, &free).await;
        if self.def.kind == "Namespace" {
            let mut namespace = self.get().await;
            namespace["spec"] = json!({});
            self.tree(&format!("PUT {}/finalize", self.path()), &namespace).await;
        }
        let outcome = self.cluster.outcome(&format!("GET {}", self.path())).await;
        assert!(outcome.starts_with("404"), "{}: {outcome}", self.what());
    }
}

/// The whole suite, on one store.
async fn every_kind_lives(cluster: &Cluster) {
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"default\"}}").await;
    let mut objects = objects();
    for def in builtin().iter().filter(|def| def.stored) {
        let key = format!("{} {}", def.group_version(), def.kind);
        let mut object = objects.remove(&key).unwrap_or_else(|| panic!("kinds.yaml has no {key}"));
        if object.name().is_empty() {
            object.set_at(&["metadata", "name"], "trial");
        }
        let root = if def.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if def.is_namespaced() { "/namespaces/default" } else { "" };
        let collection = format!("{root}/{}{namespace}/{}", def.group_version(), def.plural);
        let trial = Trial { cluster, def, object, collection };
        trial.tries().await;
        trial.creates_and_reads().await;
        trial.changes().await;
        trial.has_status().await;
        trial.has_other_doors().await;
        trial.is_shown_in_all_forms().await;
        trial.goes().await;
    }
    assert!(objects.is_empty(), "no kinds of the catalogue: {:?}", objects.keys());
}

#[tokio::test]
async fn every_kind_lives_through_the_api() {
    every_kind_lives(&Cluster::new().await).await;
}

#[tokio::test]
async fn every_kind_lives_through_the_api_on_the_embedded_store() {
    let folder = Folder::new("embedded");
    let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).expect("a store in an empty folder");
    every_kind_lives(&Cluster::with(|config| config.store = store).await).await;
}

#[tokio::test]
async fn every_kind_lives_through_the_api_on_etcd() {
    if !etcd::is_there() {
        return;
    }
    let folder = Folder::new("etcd");
    let members = etcd::cluster(folder.path(), 1, None);
    let store = EtcdStore::open(EtcdOptions::new(vec![members[0].endpoint.clone()])).await.expect("a store on etcd");
    every_kind_lives(&Cluster::with(|config| config.store = store).await).await;
}
