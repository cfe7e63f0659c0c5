//! What is written down of requests.

use std::path::Path;

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use skiff_apiserver::audit::{Settings, log, policy::Policy};

use crate::support::{Cluster, Folder};

struct Audited {
    cluster: Cluster,
    folder: Folder,
}

impl Audited {
    async fn new(name: &str, rules: Value) -> Self {
        let folder = Folder::new(name);
        let path = folder.path().join("audit.log");
        let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitManagedFields": true,
            "omitStages": ["RequestReceived"], "rules": rules});
        let policy = Policy::read(&policy).expect("a policy");
        let log = log::Settings { path, ..log::Settings::default() };
        let cluster =
            Cluster::with(|config| config.audit = Some(Settings { policy, log: Some(log), webhook: None })).await;
        Self { cluster, folder }
    }

    fn records(&self) -> Vec<Value> {
        records(&self.folder.path().join("audit.log"))
    }

    /// Sends a request and shows what is written down of it, a line for each record.
    async fn check(&self, request: &str, expected: Expect) {
        let before = self.records().len();
        drop(self.cluster.answer(request).await);
        let records = self.records();
        let shown = records[before..].iter().map(|record| serde_json::to_string_pretty(record).expect("a tree"));
        expected.assert_eq(&shown.collect::<Vec<_>>().join("\n"));
    }
}

/// The records of a log, without names that differ each time.
fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a log");
    let read = |line: &str| {
        let mut record: Value = serde_json::from_str(line).expect("JSON");
        for field in ["kind", "apiVersion", "requestReceivedTimestamp", "stageTimestamp"] {
            let value = record.as_object_mut().expect("a record").remove(field);
            assert!(value.is_some_and(|value| !value.as_str().unwrap_or("").is_empty()), "{field} in {line}");
        }
        record
    };
    text.lines().map(read).collect()
}

#[tokio::test]
async fn requests_are_written_down_as_the_policy_has_it() {
    let rules = json!([
        {"level": "None", "users": ["quiet"]},
        {"level": "RequestResponse", "resources": [{"resources": ["configmaps"]}], "verbs": ["create"]},
        {"level": "Request", "resources": [{"resources": ["configmaps"]}], "verbs": ["patch"]},
        {"level": "Metadata"},
    ]);
    let audited = Audited::new("audited", rules).await;
    let create = "POST /api/v1/namespaces/default/configmaps\nAudit-ID: one\nUser-Agent: test\nX-Forwarded-For: 10.0.0.9\n\n\
        {\"metadata\": {\"name\": \"a\", \"labels\": {\"x\": \"y\"}}, \"data\": {\"k\": \"v\"}}";
    audited
        .check(
            create,
            expect![[r#"
                {
                  "annotations": {
                    "authorization.k8s.io/decision": "allow",
                    "authorization.k8s.io/reason": ""
                  },
                  "auditID": "one",
                  "level": "RequestResponse",
                  "objectRef": {
                    "apiVersion": "v1",
                    "name": "a",
                    "namespace": "default",
                    "resource": "configmaps"
                  },
                  "requestObject": {
                    "data": {
                      "k": "v"
                    },
                    "metadata": {
                      "labels": {
                        "x": "y"
                      },
                      "name": "a"
                    }
                  },
                  "requestURI": "/api/v1/namespaces/default/configmaps",
                  "responseObject": {
                    "apiVersion": "v1",
                    "data": {
                      "k": "v"
                    },
                    "kind": "ConfigMap",
                    "metadata": {
                      "creationTimestamp": "2026-01-02T03:04:05Z",
                      "labels": {
                        "x": "y"
                      },
                      "name": "a",
                      "namespace": "default",
                      "resourceVersion": "2",
                      "uid": "c358f8b6-1335-48b6-a430-9baea76b6521"
                    }
                  },
                  "responseStatus": {
                    "code": 201,
                    "metadata": {}
                  },
                  "sourceIPs": [
                    "10.0.0.9"
                  ],
                  "stage": "ResponseComplete",
                  "user": {
                    "groups": [
                      "system:masters",
                      "system:authenticated"
                    ],
                    "username": "admin"
                  },
                  "userAgent": "test",
                  "verb": "create"
                }"#]],
        )
        .await;
    let patch = "PATCH /api/v1/namespaces/default/configmaps/a\nAudit-ID: two\nContent-Type: application/merge-patch+json\n\n{\"data\": {\"k\": null}}";
    audited
        .check(
            patch,
            expect![[r#"
        {
          "annotations": {
            "authorization.k8s.io/decision": "allow",
            "authorization.k8s.io/reason": ""
          },
          "auditID": "two",
          "level": "Request",
          "objectRef": {
            "apiVersion": "v1",
            "name": "a",
            "namespace": "default",
            "resource": "configmaps"
          },
          "requestObject": {
            "data": {
              "k": null
            }
          },
          "requestURI": "/api/v1/namespaces/default/configmaps/a",
          "responseStatus": {
            "code": 200,
            "metadata": {}
          },
          "stage": "ResponseComplete",
          "user": {
            "groups": [
              "system:masters",
              "system:authenticated"
            ],
            "username": "admin"
          },
          "verb": "patch"
        }"#]],
        )
        .await;
    audited
        .check(
            "GET /api/v1/namespaces/default/secrets/none\nAudit-ID: three",
            expect![[r#"
        {
          "annotations": {
            "authorization.k8s.io/decision": "allow",
            "authorization.k8s.io/reason": ""
          },
          "auditID": "three",
          "level": "Metadata",
          "objectRef": {
            "apiVersion": "v1",
            "name": "none",
            "namespace": "default",
            "resource": "secrets"
          },
          "requestURI": "/api/v1/namespaces/default/secrets/none",
          "responseStatus": {
            "code": 404,
            "details": {
              "kind": "secrets",
              "name": "none"
            },
            "message": "secrets \"none\" not found",
            "metadata": {},
            "reason": "NotFound",
            "status": "Failure"
          },
          "stage": "ResponseComplete",
          "user": {
            "groups": [
              "system:masters",
              "system:authenticated"
            ],
            "username": "admin"
          },
          "verb": "get"
        }"#]],
        )
        .await;
    audited.check("GET /api/v1/namespaces/default/secrets\nAudit-ID: four\nUser: bob", expect![[r#"
        {
          "annotations": {
            "authorization.k8s.io/decision": "forbid",
            "authorization.k8s.io/reason": ""
          },
          "auditID": "four",
          "level": "Metadata",
          "objectRef": {
            "apiVersion": "v1",
            "namespace": "default",
            "resource": "secrets"
          },
          "requestURI": "/api/v1/namespaces/default/secrets",
          "responseStatus": {
            "code": 403,
            "details": {
              "kind": "secrets"
            },
            "message": "secrets is forbidden: User \"bob\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"",
            "metadata": {},
            "reason": "Forbidden",
            "status": "Failure"
          },
          "stage": "ResponseComplete",
          "user": {
            "groups": [
              "system:authenticated"
            ],
            "username": "bob"
          },
          "verb": "list"
        }"#]]).await;
    audited.check("GET /version\nAudit-ID: five\nImpersonate-User: carol", expect![[r#"
        {
          "annotations": {
            "authorization.k8s.io/decision": "allow",
            "authorization.k8s.io/reason": "RBAC: allowed by ClusterRoleBinding \"system:discovery\" of ClusterRole \"system:discovery\" to Group \"system:authenticated\""
          },
          "auditID": "five",
          "impersonatedUser": {
            "groups": [
              "system:authenticated"
            ],
            "username": "carol"
          },
          "level": "Metadata",
          "requestURI": "/version",
          "responseStatus": {
            "code": 200,
            "metadata": {}
          },
          "stage": "ResponseComplete",
          "user": {
            "groups": [
              "system:masters",
              "system:authenticated"
            ],
            "username": "admin"
          },
          "verb": "get"
        }"#]]).await;
    audited.check("GET /api/v1/pods\nUser: quiet", expect![[r#""#]]).await;
}

#[tokio::test]
async fn a_watch_is_written_down_when_it_begins_and_when_it_ends() {
    let audited = Audited::new("audited-watch", json!([{"level": "Metadata"}])).await;
    let answer = audited.cluster.send("GET /api/v1/configmaps?watch=true").await;
    let stages = || -> Vec<String> {
        audited.records().iter().map(|record| record["stage"].as_str().expect("a stage").to_owned()).collect()
    };
    assert_eq!(stages(), ["ResponseStarted"]);
    drop(answer);
    assert_eq!(stages(), ["ResponseStarted", "ResponseComplete"]);
}

#[tokio::test]
async fn admission_adds_its_notes() {
    let audited = Audited::new("audited-notes", json!([{"level": "Metadata"}])).await;
    let cluster = &audited.cluster;
    let policy = json!({"metadata": {"name": "no-tmp"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "object.metadata.name != 'tmp'", "message": "not this name"}],
        "auditAnnotations": [{"key": "name", "valueExpression": "'named ' + object.metadata.name"}]}});
    cluster.tree(&format!("POST /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies\n\n{policy}")).await;
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "no-tmp", "validationActions": ["Audit"]}});
    cluster
        .tree(&format!("POST /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings\n\n{binding}"))
        .await;
    let patch = json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "baseline"}}});
    cluster
        .tree(&format!("PATCH /api/v1/namespaces/default\nContent-Type: application/merge-patch+json\n\n{patch}"))
        .await;
    let account = "POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\": {\"name\": \"default\"}}";
    cluster.answer(account).await;
    // A consistent read: the caches know by then what was written.
    cluster.tree("GET /api/v1/namespaces").await;
    cluster.tree("POST /api/v1/namespaces/default/configmaps\n\n{\"metadata\": {\"name\": \"tmp\"}}").await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}});
    cluster.tree(&format!("POST /api/v1/namespaces/default/pods\n\n{pod}")).await;
    let notes: Vec<String> = audited
        .records()
        .iter()
        .filter(|record| record["verb"] == "create" && record["objectRef"]["apiGroup"].is_null())
        .flat_map(|record| record["annotations"].as_object().expect("notes").clone())
        .filter(|(key, _)| !key.starts_with("authorization"))
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    expect![[r#"
        no-tmp/name = "named tmp"
        validation.policy.admission.k8s.io/validation_failure = "[{\"binding\":\"b\",\"expressionIndex\":0,\"message\":\"not this name\",\"policy\":\"no-tmp\",\"validationActions\":[\"Audit\"]}]"
        pod-security.kubernetes.io/audit-violations = "would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
        pod-security.kubernetes.io/enforce-policy = "privileged:latest""#]].assert_eq(&notes.join("\n"));
}
