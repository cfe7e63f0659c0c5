//! The life of Pods, Services and Deployments through the API, as the parts of a cluster drive it.

use crate::support::{Cluster, Watch};
use expect_test::{Expect, expect};

async fn check(cluster: &Cluster, request: &str, expected: Expect) {
    expected.assert_eq(&cluster.answer(request).await);
}

async fn outcome(cluster: &Cluster, request: &str, expected: &str) {
    assert_eq!(cluster.outcome(request).await, expected, "{request}");
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn cluster() -> Cluster {
    let cluster = Cluster::new().await;
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"default\"}}").await;
    cluster
}

fn pod(name: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"containers":[{{"name":"c","image":"busybox"}}]}}}}"#)
}

async fn bind(cluster: &Cluster, pod: &str) {
    let binding = r#"{"target":{"kind":"Node","name":"n1"}}"#;
    outcome(cluster, &format!("POST {PODS}/{pod}/binding\n\n{binding}"), "201").await;
}

#[tokio::test]
async fn a_proxy_does_not_lead_to_this_machine_itself() {
    let cluster = Cluster::new().await;
    cluster.tree("POST /api/v1/namespaces/default/serviceaccounts\n\n{\"metadata\":{\"name\":\"default\"}}").await;
    let pod = r#"{"metadata":{"name":"a"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}"#;
    cluster.tree(&format!("POST /api/v1/namespaces/default/pods\n\n{pod}")).await;
    let status = r#"{"status":{"podIP":"127.0.0.1","podIPs":[{"ip":"127.0.0.1"}]}}"#;
    let merge = "Content-Type: application/merge-patch+json";
    cluster.tree(&format!("PATCH /api/v1/namespaces/default/pods/a/status\n{merge}\n\n{status}")).await;
    let refused = cluster.outcome("GET /api/v1/namespaces/default/pods/a:80/proxy/x").await;
    assert_eq!(refused, "400 address not allowed");
}

#[tokio::test]
async fn a_pod_gets_its_account_its_token_and_its_tolerations() {
    let cluster = cluster().await;
    check(
        &cluster,
        &format!("POST {PODS}\n\n{}", pod("a")),
        expect![[r#"
            201
            {
              "apiVersion": "v1",
              "kind": "Pod",
              "metadata": {
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "generation": 1,
                "managedFields": [
                  {
                    "apiVersion": "v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {
                      "f:spec": {
                        "f:containers": {
                          "k:{\"name\":\"c\"}": {
                            ".": {},
                            "f:image": {},
                            "f:imagePullPolicy": {},
                            "f:name": {},
                            "f:resources": {},
                            "f:terminationMessagePath": {},
                            "f:terminationMessagePolicy": {}
                          }
                        },
                        "f:dnsPolicy": {},
                        "f:enableServiceLinks": {},
                        "f:restartPolicy": {},
                        "f:schedulerName": {},
                        "f:securityContext": {},
                        "f:terminationGracePeriodSeconds": {}
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
                "uid": "6b0a7692-573b-471d-9b01-616cb2f62f90"
              },
              "spec": {
                "containers": [
                  {
                    "image": "busybox",
                    "imagePullPolicy": "Always",
                    "name": "c",
                    "resources": {},
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "volumeMounts": [
                      {
                        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                        "name": "kube-api-access-sjl6l",
                        "readOnly": true
                      }
                    ]
                  }
                ],
                "dnsPolicy": "ClusterFirst",
                "enableServiceLinks": true,
                "preemptionPolicy": "PreemptLowerPriority",
                "priority": 0,
                "restartPolicy": "Always",
                "schedulerName": "default-scheduler",
                "securityContext": {},
                "serviceAccount": "default",
                "serviceAccountName": "default",
                "terminationGracePeriodSeconds": 30,
                "tolerations": [
                  {
                    "effect": "NoExecute",
                    "key": "node.kubernetes.io/not-ready",
                    "operator": "Exists",
                    "tolerationSeconds": 300
                  },
                  {
                    "effect": "NoExecute",
                    "key": "node.kubernetes.io/unreachable",
                    "operator": "Exists",
                    "tolerationSeconds": 300
                  }
                ],
                "volumes": [
                  {
                    "name": "kube-api-access-sjl6l",
                    "projected": {
                      "defaultMode": 420,
                      "sources": [
                        {
                          "serviceAccountToken": {
                            "expirationSeconds": 3607,
                            "path": "token"
                          }
                        },
                        {
                          "configMap": {
                            "items": [
                              {
                                "key": "ca.crt",
                                "path": "ca.crt"
                              }
                            ],
                            "name": "kube-root-ca.crt"
                          }
                        },
                        {
                          "downwardAPI": {
                            "items": [
                              {
                                "fieldRef": {
                                  "apiVersion": "v1",
                                  "fieldPath": "metadata.namespace"
                                },
                                "path": "namespace"
                              }
                            ]
                          }
                        }
                      ]
                    }
                  }
                ]
              },
              "status": {
                "phase": "Pending",
                "qosClass": "BestEffort"
              }
            }
        "#]],
    )
    .await;
    let unknown = pod("b").replace("\"spec\":{", "\"spec\":{\"serviceAccountName\":\"x\",");
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{unknown}"),
        r#"403 pods "b" is forbidden: error looking up service account default/x: serviceaccount "x" not found"#,
    )
    .await;
    let unknown = pod("b").replace("\"spec\":{", "\"spec\":{\"priorityClassName\":\"x\",");
    outcome(
        &cluster,
        &format!("POST {PODS}\n\n{unknown}"),
        r#"403 pods "b" is forbidden: no PriorityClass with name x was found"#,
    )
    .await;
}

#[tokio::test]
async fn a_pod_is_bound_once_and_deleted_gracefully() {
    let cluster = cluster().await;
    cluster.tree(&format!("POST {PODS}\n\n{}", pod("a"))).await;
    bind(&cluster, "a").await;
    let bound = cluster.tree(&format!("GET {PODS}/a")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    outcome(
        &cluster,
        &format!("POST {PODS}/a/binding\n\n{{\"target\":{{\"name\":\"n2\"}}}}"),
        r#"409 Operation cannot be fulfilled on pods/binding "a": pod a is already assigned to node "n1""#,
    )
    .await;
    let mut watch = Watch::open(&cluster, &format!("GET {PODS}?watch=1&fieldSelector=spec.nodeName%3Dn1")).await;
    assert_eq!(watch.short().await, "ADDED a");
    let deleting = cluster.tree(&format!("DELETE {PODS}/a")).await;
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(deleting["metadata"]["deletionTimestamp"], "2026-01-02T03:04:35Z");
    assert_eq!(watch.short().await, "MODIFIED a");
    let again = cluster.tree(&format!("DELETE {PODS}/a?gracePeriodSeconds=60")).await;
    assert_eq!(again["metadata"]["resourceVersion"], deleting["metadata"]["resourceVersion"]);
    let shorter = cluster.tree(&format!("DELETE {PODS}/a?gracePeriodSeconds=5")).await;
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-02T03:04:10Z");
    let uid = deleting["metadata"]["uid"].as_str().expect("a uid");
    let wrong = r#"{"gracePeriodSeconds":0,"preconditions":{"uid":"x"}}"#;
    outcome(
        &cluster,
        &format!("DELETE {PODS}/a\n\n{wrong}"),
        &format!(
            r#"409 Operation cannot be fulfilled on pods "a": Precondition failed: UID in precondition: x, UID in object meta: {uid}"#
        ),
    )
    .await;
    outcome(&cluster, &format!("DELETE {PODS}/a\n\n{{\"gracePeriodSeconds\":0}}"), "200").await;
    outcome(&cluster, &format!("GET {PODS}/a"), r#"404 pods "a" not found"#).await;
    cluster.tree(&format!("POST {PODS}\n\n{}", pod("never-scheduled"))).await;
    outcome(&cluster, &format!("DELETE {PODS}/never-scheduled"), "200").await;
    outcome(&cluster, &format!("GET {PODS}/never-scheduled"), r#"404 pods "never-scheduled" not found"#).await;
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_one_goes() {
    let cluster = cluster().await;
    let held = pod("a").replace("\"name\":\"a\"", "\"name\":\"a\",\"finalizers\":[\"example.com/hold\"]");
    cluster.tree(&format!("POST {PODS}\n\n{held}")).await;
    let marked = cluster.tree(&format!("DELETE {PODS}/a")).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let more = r#"{"metadata":{"finalizers":["example.com/hold","example.com/more"]}}"#;
    let merge = "Content-Type: application/merge-patch+json";
    outcome(
        &cluster,
        &format!("PATCH {PODS}/a\n{merge}\n\n{more}"),
        r#"422 Pod "a" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"example.com/more"}"#,
    )
    .await;
    outcome(&cluster, &format!("PATCH {PODS}/a\n{merge}\n\n{{\"metadata\":{{\"finalizers\":null}}}}"), "200").await;
    outcome(&cluster, &format!("GET {PODS}/a"), r#"404 pods "a" not found"#).await;
}

#[tokio::test]
async fn a_namespace_is_held_until_it_is_finalized() {
    let cluster = cluster().await;
    cluster.tree("POST /api/v1/namespaces\n\n{\"metadata\":{\"name\":\"n\"}}").await;
    let terminating = cluster.tree("DELETE /api/v1/namespaces/n").await;
    assert_eq!(terminating["status"]["phase"], "Terminating");
    outcome(
        &cluster,
        "POST /api/v1/namespaces/n/configmaps\n\n{\"metadata\":{\"name\":\"a\"}}",
        r#"403 configmaps "a" is forbidden: unable to create new content in namespace n because it is being terminated"#,
    )
    .await;
    let finalized = r#"{"metadata":{"name":"n"},"spec":{"finalizers":[]}}"#;
    outcome(&cluster, &format!("PUT /api/v1/namespaces/n/finalize\n\n{finalized}"), "200").await;
    outcome(&cluster, "GET /api/v1/namespaces/n", r#"404 namespaces "n" not found"#).await;
    outcome(
        &cluster,
        "DELETE /api/v1/namespaces/default",
        r#"403 namespaces "default" is forbidden: this namespace may not be deleted"#,
    )
    .await;
}

fn service(name: &str, spec: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"ports":[{{"port":80}}]{spec}}}}}"#)
}

#[tokio::test]
async fn services_get_addresses_and_node_ports() {
    let cluster = cluster().await;
    check(
        &cluster,
        "GET /api/v1/namespaces/default/services/kubernetes",
        expect![[r#"
            200
            {
              "apiVersion": "v1",
              "kind": "Service",
              "metadata": {
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": {
                  "component": "apiserver",
                  "provider": "kubernetes"
                },
                "name": "kubernetes",
                "namespace": "default",
                "resourceVersion": "1",
                "uid": "7b685470-aae3-4091-98e5-350faa241040"
              },
              "spec": {
                "clusterIP": "10.96.0.1",
                "clusterIPs": [
                  "10.96.0.1"
                ],
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": [
                  "IPv4"
                ],
                "ipFamilyPolicy": "SingleStack",
                "ports": [
                  {
                    "name": "https",
                    "port": 443,
                    "protocol": "TCP",
                    "targetPort": 6443
                  }
                ],
                "sessionAffinity": "None",
                "type": "ClusterIP"
              },
              "status": {
                "loadBalancer": {}
              }
            }
        "#]],
    )
    .await;
    let a = cluster.tree(&format!("POST {SERVICES}\n\n{}", service("a", r#","type":"LoadBalancer""#))).await;
    let (ip, port) = (a["spec"]["clusterIP"].as_str().expect("an address"), &a["spec"]["ports"][0]["nodePort"]);
    assert!(ip.starts_with("10.9") || ip.starts_with("10.1"), "{ip}");
    assert!((30000..=32767).contains(&port.as_i64().expect("a port")));
    outcome(
        &cluster,
        &format!("POST {SERVICES}\n\n{}", service("b", &format!(r#","clusterIP":"{ip}""#))),
        &format!(
            r#"422 Service "b" is invalid: spec.clusterIPs: Invalid value: ["{ip}"]: failed to allocate IP {ip}: provided IP is already allocated"#
        ),
    )
    .await;
    outcome(
        &cluster,
        &format!("POST {SERVICES}\n\n{}", service("b", r#","clusterIP":"10.0.0.1""#)),
        r#"422 Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.1"]: failed to allocate IP 10.0.0.1: the provided IP (10.0.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12"#,
    )
    .await;
    let taken = format!(
        r#"{{"metadata":{{"name":"b"}},"spec":{{"type":"NodePort","ports":[{{"port":80,"nodePort":{port}}}]}}}}"#
    );
    outcome(
        &cluster,
        &format!("POST {SERVICES}\n\n{taken}"),
        &format!(r#"422 Service "b" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"#),
    )
    .await;
    let kept = cluster.tree(&format!("PUT {SERVICES}/a\n\n{}", service("a", r#","type":"NodePort""#))).await;
    assert_eq!((&kept["spec"]["clusterIP"], &kept["spec"]["ports"][0]["nodePort"]), (&a["spec"]["clusterIP"], port));
    let headless = cluster.tree(&format!("POST {SERVICES}\n\n{}", service("h", r#","clusterIP":"None""#))).await;
    assert_eq!(headless["spec"]["clusterIPs"], serde_json::json!(["None"]));
    cluster.tree(&format!("DELETE {SERVICES}/a")).await;
    let again = cluster.tree(&format!("POST {SERVICES}\n\n{taken}")).await;
    assert_eq!(&again["spec"]["ports"][0]["nodePort"], port);
}

fn deployment(image: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"web"}},"spec":{{"selector":{{"matchLabels":{{"app":"web"}}}},
        "template":{{"metadata":{{"labels":{{"app":"web"}}}},"spec":{{"containers":[{{"name":"web","image":"{image}"}}]}}}}}}}}"#
    )
}

#[tokio::test]
async fn a_deployment_is_patched_scaled_and_its_status_kept_apart() {
    let cluster = cluster().await;
    cluster.tree(&format!("POST {DEPLOYMENTS}\n\n{}", deployment("web:v1"))).await;
    let strategic = "Content-Type: application/strategic-merge-patch+json";
    let sidecar = r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"side:v1"}]}}}}"#;
    let patched = cluster.tree(&format!("PATCH {DEPLOYMENTS}/web\n{strategic}\n\n{sidecar}")).await;
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().expect("a list").len(), 2);
    assert_eq!(patched["metadata"]["generation"], 2);
    let json = "Content-Type: application/json-patch+json";
    let replicas = r#"[{"op":"replace","path":"/spec/replicas","value":3}]"#;
    let patched = cluster.tree(&format!("PATCH {DEPLOYMENTS}/web\n{json}\n\n{replicas}")).await;
    assert_eq!(patched["spec"]["replicas"], 3);
    check(
        &cluster,
        &format!("GET {DEPLOYMENTS}/web/scale"),
        expect![[r#"
            200
            {
              "apiVersion": "autoscaling/v1",
              "kind": "Scale",
              "metadata": {
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "name": "web",
                "namespace": "default",
                "resourceVersion": "5",
                "uid": "f7b35c46-a739-42a5-9e28-916456307b8e"
              },
              "spec": {
                "replicas": 3
              },
              "status": {
                "replicas": 0,
                "selector": "app=web"
              }
            }
        "#]],
    )
    .await;
    let merge = "Content-Type: application/merge-patch+json";
    let scaled =
        cluster.tree(&format!("PATCH {DEPLOYMENTS}/web/scale\n{merge}\n\n{{\"spec\":{{\"replicas\":5}}}}")).await;
    assert_eq!(scaled["spec"]["replicas"], 5);
    let status = r#"{"spec":{"replicas":9},"status":{"replicas":4}}"#;
    let reported = cluster.tree(&format!("PATCH {DEPLOYMENTS}/web/status\n{merge}\n\n{status}")).await;
    assert_eq!((&reported["spec"]["replicas"], &reported["status"]["replicas"]), (&5.into(), &4.into()));
    assert_eq!(reported["metadata"]["generation"], 4);
    let dry =
        cluster.tree(&format!("PATCH {DEPLOYMENTS}/web?dryRun=All\n{merge}\n\n{{\"spec\":{{\"replicas\":0}}}}")).await;
    assert_eq!(dry["spec"]["replicas"], 0);
    assert_eq!(cluster.tree(&format!("GET {DEPLOYMENTS}/web")).await["spec"]["replicas"], 5);
    check(
        &cluster,
        &format!(
            "POST {DEPLOYMENTS}?fieldValidation=Warn\n\n{}",
            deployment("x").replace("\"spec\":{\"sel", "\"spec\":{\"nope\":1,\"sel").replace("\"web\"}", "\"web2\"}")
        ),
        expect![[r#"
            201
            Warning: 299 - "unknown field \"spec.nope\""
            {
              "apiVersion": "apps/v1",
              "kind": "Deployment",
              "metadata": {
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "generation": 1,
                "managedFields": [
                  {
                    "apiVersion": "apps/v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {
                      "f:spec": {
                        "f:progressDeadlineSeconds": {},
                        "f:replicas": {},
                        "f:revisionHistoryLimit": {},
                        "f:selector": {},
                        "f:strategy": {
                          "f:rollingUpdate": {
                            ".": {},
                            "f:maxSurge": {},
                            "f:maxUnavailable": {}
                          },
                          "f:type": {}
                        },
                        "f:template": {
                          "f:metadata": {
                            "f:labels": {
                              ".": {},
                              "f:app": {}
                            }
                          },
                          "f:spec": {
                            "f:containers": {
                              "k:{\"name\":\"web\"}": {
                                ".": {},
                                "f:image": {},
                                "f:imagePullPolicy": {},
                                "f:name": {},
                                "f:resources": {},
                                "f:terminationMessagePath": {},
                                "f:terminationMessagePolicy": {}
                              }
                            },
                            "f:dnsPolicy": {},
                            "f:restartPolicy": {},
                            "f:schedulerName": {},
                            "f:securityContext": {},
                            "f:terminationGracePeriodSeconds": {}
                          }
                        }
                      }
                    },
                    "manager": "unknown",
                    "operation": "Update",
                    "time": "2026-01-02T03:04:05Z"
                  }
                ],
                "name": "web2",
                "namespace": "default",
                "resourceVersion": "8",
                "uid": "0db1af5f-d696-4738-8cdd-dfb38bbd27d3"
              },
              "spec": {
                "progressDeadlineSeconds": 600,
                "replicas": 1,
                "revisionHistoryLimit": 10,
                "selector": {
                  "matchLabels": {
                    "app": "web2"
                  }
                },
                "strategy": {
                  "rollingUpdate": {
                    "maxSurge": "25%",
                    "maxUnavailable": "25%"
                  },
                  "type": "RollingUpdate"
                },
                "template": {
                  "metadata": {
                    "labels": {
                      "app": "web2"
                    }
                  },
                  "spec": {
                    "containers": [
                      {
                        "image": "x",
                        "imagePullPolicy": "Always",
                        "name": "web",
                        "resources": {},
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File"
                      }
                    ],
                    "dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Always",
                    "schedulerName": "default-scheduler",
                    "securityContext": {},
                    "terminationGracePeriodSeconds": 30
                  }
                }
              },
              "status": {}
            }
        "#]],
    )
    .await;
}

#[tokio::test]
async fn tables_and_metadata_are_shown_when_asked() {
    let cluster = cluster().await;
    cluster.tree(&format!("POST {PODS}\n\n{}", pod("a"))).await;
    let table = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let shown = cluster.tree(&format!("GET {PODS}?includeObject=None\n{table}")).await;
    assert_eq!(shown["kind"], "Table");
    let names: Vec<_> =
        shown["columnDefinitions"].as_array().expect("columns").iter().map(|c| c["name"].as_str()).collect();
    assert_eq!(names.len(), shown["rows"][0]["cells"].as_array().expect("cells").len());
    assert_eq!(names[..5], ["Name", "Ready", "Status", "Restarts", "Age"].map(Some));
    let partial = "Accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let shown = cluster.tree(&format!("GET {PODS}\n{partial}")).await;
    assert_eq!(shown["items"][0]["kind"], "PartialObjectMetadata");
    let mut watch = Watch::open(&cluster, &format!("GET {PODS}?watch=1\n{table}")).await;
    let events = watch.next().await;
    assert_eq!(events[0]["object"]["rows"][0]["cells"][0], "a");
    outcome(
        &cluster,
        &format!("GET {PODS}\nAccept: application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io"),
        "406 only the following media types are accepted: application/json, application/yaml, \
         application/vnd.kubernetes.protobuf",
    )
    .await;
}

#[tokio::test]
async fn evictions_ask_the_disruption_budget() {
    let cluster = cluster().await;
    let labelled = pod("a").replace("\"name\":\"a\"", "\"name\":\"a\",\"labels\":{\"app\":\"x\"}");
    cluster.tree(&format!("POST {PODS}\n\n{labelled}")).await;
    bind(&cluster, "a").await;
    let merge = "Content-Type: application/merge-patch+json";
    cluster.tree(&format!("PATCH {PODS}/a/status\n{merge}\n\n{{\"status\":{{\"phase\":\"Running\"}}}}")).await;
    let budget = r#"{"metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"x"}}}}"#;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    cluster.tree(&format!("POST {budgets}\n\n{budget}")).await;
    let status = r#"{"status":{"observedGeneration":1,"disruptionsAllowed":0,"desiredHealthy":1,"currentHealthy":0,"expectedPods":1}}"#;
    cluster.tree(&format!("PATCH {budgets}/b/status\n{merge}\n\n{status}")).await;
    let evict = format!("POST {PODS}/a/eviction\n\n{{\"metadata\":{{\"name\":\"a\"}}}}");
    outcome(&cluster, &evict, "429 Cannot evict pod as it would violate the pod's disruption budget.").await;
    let allow = r#"{"status":{"disruptionsAllowed":1,"currentHealthy":2}}"#;
    cluster.tree(&format!("PATCH {budgets}/b/status\n{merge}\n\n{allow}")).await;
    outcome(&cluster, &evict, "201").await;
    assert!(cluster.tree(&format!("GET {PODS}/a")).await["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test]
async fn nothing_of_what_is_tried_on_a_pod_stays() {
    let cluster = cluster().await;
    let labelled = pod("a").replace("\"name\":\"a\"", "\"name\":\"a\",\"labels\":{\"app\":\"x\"}");
    cluster.tree(&format!("POST {PODS}\n\n{labelled}")).await;
    let binding = r#"{"metadata":{"name":"a"},"target":{"kind":"Node","name":"n1"}}"#;
    let stays = async |request: String, expected: &str| {
        let before = cluster.tree(&format!("GET {PODS}/a")).await;
        outcome(&cluster, &request, expected).await;
        assert_eq!(cluster.tree(&format!("GET {PODS}/a")).await, before, "{request}");
    };
    stays(format!("POST {PODS}/a/binding?dryRun=All\n\n{binding}"), "201").await;
    stays(format!("POST /api/v1/namespaces/default/bindings?dryRun=All\n\n{binding}"), "201").await;
    bind(&cluster, "a").await;
    let taken = "409 Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\"";
    stays(format!("POST {PODS}/a/binding?dryRun=All\n\n{binding}"), taken).await;
    let merge = "Content-Type: application/merge-patch+json";
    cluster.tree(&format!("PATCH {PODS}/a/status\n{merge}\n\n{{\"status\":{{\"phase\":\"Running\"}}}}")).await;
    let strategic = "Content-Type: application/strategic-merge-patch+json";
    let debugged = r#"{"spec":{"ephemeralContainers":[{"name":"e","image":"busybox"}]}}"#;
    stays(format!("PATCH {PODS}/a/ephemeralcontainers?dryRun=All\n{strategic}\n\n{debugged}"), "200").await;
    let failed = r#"{"status":{"phase":"Failed"}}"#;
    stays(format!("PATCH {PODS}/a/status?dryRun=All\n{merge}\n\n{failed}"), "200").await;
    let budget = r#"{"metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"x"}}}}"#;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    cluster.tree(&format!("POST {budgets}\n\n{budget}")).await;
    let allows = |count: u32| {
        format!(
            r#"PATCH {budgets}/b/status
{merge}

{{"status":{{"observedGeneration":1,"disruptionsAllowed":{count},"desiredHealthy":1,"currentHealthy":2,"expectedPods":2}}}}"#
        )
    };
    let budget = cluster.tree(&allows(1)).await;
    let evict = r#"{"metadata":{"name":"a"}}"#;
    stays(format!("POST {PODS}/a/eviction?dryRun=All\n\n{evict}"), "201").await;
    let inside = r#"{"metadata":{"name":"a"},"deleteOptions":{"dryRun":["All"]}}"#;
    stays(format!("POST {PODS}/a/eviction\n\n{inside}"), "201").await;
    assert_eq!(cluster.tree(&format!("GET {budgets}/b")).await, budget);
    cluster.tree(&allows(0)).await;
    let kept = "429 Cannot evict pod as it would violate the pod's disruption budget.";
    cluster
        .tree(&format!(
            "PATCH {PODS}/a/status\n{merge}\n\n{}",
            r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#
        ))
        .await;
    stays(format!("POST {PODS}/a/eviction?dryRun=All\n\n{evict}"), kept).await;
    for door in ["", "/binding", "/eviction", "/status", "/ephemeralcontainers", "/resize"] {
        let verb = if matches!(door, "/binding" | "/eviction") { "POST" } else { "PUT" };
        let refused = cluster.outcome(&format!("{verb} {PODS}/a{door}?dryRun=Some\n\n{binding}")).await;
        assert!(refused.contains(r#"dryRun: Unsupported value: "Some": supported values: "All""#), "{door}: {refused}");
    }
}
