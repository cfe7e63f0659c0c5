//! The OpenAPI documents: whole, consistent, and with what kubectl looks for.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use serde_json::Value;
use skiff_kinds::builtin;
use skiff_kinds::openapi::{fingerprint, fingerprint_of, v2_document, v3_document, v3_index};
use skiff_object::GroupVersion;

fn v3(group: &str, version: &str) -> Value {
    v3_document(builtin(), &GroupVersion::new(group, version)).expect("it is served")
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.insert(reference.clone());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn assert_whole(document: &Value) {
    let mut found = BTreeSet::new();
    references(document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("references stay in their document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("there are paths") {
        for (method, operation) in
            item.as_object().expect("a path is a map").iter().filter(|(key, _)| *key != "parameters")
        {
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
            assert!(ids.insert(id.to_owned()), "{id} is named twice");
        }
    }
}

#[test]
fn documents_are_whole() {
    assert_whole(&v2_document(builtin()));
    let versions: BTreeSet<_> = builtin().iter().map(|def| def.group_version()).collect();
    assert_eq!(versions.len(), 22);
    for version in &versions {
        assert_whole(&v3_document(builtin(), version).expect("it is served"));
    }
    let index = v3_index(
        &[(GroupVersion::new("", "v1"), "X".to_owned()), (GroupVersion::new("apps", "v1"), "Y".to_owned())],
        &[("version".to_owned(), "Z".to_owned())],
    );
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=X");
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=Y");
    assert!(v3_document(builtin(), &GroupVersion::new("example.com", "v1")).is_none());
}

#[test]
fn every_patch_tells_what_kubectl_asks() {
    let document = v3("apps", "v1");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let content = patch["requestBody"]["content"].as_object().unwrap();
    assert!(content.contains_key("application/strategic-merge-patch+json"));
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
}

fn check(value: &Value, want: Expect) {
    want.assert_eq(&serde_json::to_string_pretty(value).expect("it is JSON"));
}

#[test]
fn schemas_look_like_upstreams() {
    let document = v3("apps", "v1");
    let schemas = &document["components"]["schemas"];
    check(
        &schemas["io.k8s.api.apps.v1.DeploymentStrategy"],
        expect![[r##"
        {
          "description": "DeploymentStrategy describes how to replace existing pods with new ones.",
          "properties": {
            "rollingUpdate": {
              "allOf": [
                {
                  "$ref": "#/components/schemas/io.k8s.api.apps.v1.RollingUpdateDeployment"
                }
              ],
              "description": "Rolling update config params. Present only if DeploymentStrategyType = RollingUpdate."
            },
            "type": {
              "description": "Type of deployment. Can be \"Recreate\" or \"RollingUpdate\". Default is RollingUpdate.\n\nPossible enum values:\n - `\"Recreate\"`\n - `\"RollingUpdate\"`",
              "enum": [
                "Recreate",
                "RollingUpdate"
              ],
              "type": "string"
            }
          },
          "type": "object"
        }"##]],
    );
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
    check(
        &spec["containers"],
        expect![[r##"
        {
          "description": "List of containers belonging to the pod. Containers cannot currently be added or removed. There must be at least one container in a Pod. Cannot be updated.",
          "items": {
            "allOf": [
              {
                "$ref": "#/components/schemas/io.k8s.api.core.v1.Container"
              }
            ],
            "default": {}
          },
          "type": "array",
          "x-kubernetes-list-map-keys": [
            "name"
          ],
          "x-kubernetes-list-type": "map",
          "x-kubernetes-patch-merge-key": "name",
          "x-kubernetes-patch-strategy": "merge"
        }"##]],
    );
    check(
        &spec["nodeSelector"],
        expect![[r#"
        {
          "additionalProperties": {
            "default": "",
            "type": "string"
          },
          "description": "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
          "type": "object",
          "x-kubernetes-map-type": "atomic"
        }"#]],
    );
    let document = v2_document(builtin());
    check(
        &document["definitions"]["io.k8s.api.apps.v1.DeploymentStrategy"],
        expect![[r##"
        {
          "description": "DeploymentStrategy describes how to replace existing pods with new ones.",
          "properties": {
            "rollingUpdate": {
              "$ref": "#/definitions/io.k8s.api.apps.v1.RollingUpdateDeployment",
              "description": "Rolling update config params. Present only if DeploymentStrategyType = RollingUpdate."
            },
            "type": {
              "description": "Type of deployment. Can be \"Recreate\" or \"RollingUpdate\". Default is RollingUpdate.\n\nPossible enum values:\n - `\"Recreate\"`\n - `\"RollingUpdate\"`",
              "enum": [
                "Recreate",
                "RollingUpdate"
              ],
              "type": "string"
            }
          },
          "type": "object"
        }"##]],
    );
    check(
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"],
        expect![[r##"
            {
              "consumes": [
                "*/*"
              ],
              "description": "read Deployment (Scale)",
              "operationId": "readAppsV1NamespacedDeploymentScale",
              "produces": [
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf"
              ],
              "responses": {
                "200": {
                  "description": "OK",
                  "schema": {
                    "$ref": "#/definitions/io.k8s.api.autoscaling.v1.Scale"
                  }
                },
                "401": {
                  "description": "Unauthorized"
                }
              },
              "schemes": [
                "https"
              ],
              "tags": [
                "apps_v1"
              ],
              "x-kubernetes-action": "get",
              "x-kubernetes-group-version-kind": {
                "group": "autoscaling",
                "kind": "Scale",
                "version": "v1"
              }
            }"##]],
    );
}

#[test]
fn fingerprints_follow_the_kinds() {
    let of = |count: usize| fingerprint(builtin()[..count].iter().map(|def| fingerprint_of(def)));
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}
