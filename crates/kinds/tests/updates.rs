//! What an update keeps of the old object, and what writes warn of.

use expect_test::{Expect, expect};
use serde_json::Value;
use skiff_object::meta::Meta;

mod common;

/// The lines in which the prepared update differs from what the client sent.
fn check(old: &str, new: &str, subresource: &str, expected: Expect) {
    let (_, prepared, _) = common::updated(old, new, subresource);
    let sent = common::lines(&common::object(new).1);
    let added: String = common::lines(&prepared)
        .lines()
        .filter(|line| !sent.lines().any(|sent| sent == *line))
        .map(|line| format!("{line}\n"))
        .collect();
    expected.assert_eq(&added);
}

fn check_warnings(yaml: &str, expected: Expect) {
    let (def, object) = common::object(yaml);
    expected.assert_eq(&(def.warnings)(&object).join("\n"));
}

#[test]
fn a_service_keeps_what_was_allocated() {
    let old = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: NodePort, clusterIP: 10.96.0.7, ports: [{port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30081}]}}";
    check(
        old,
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: NodePort, ports: [{port: 80}, {name: b, port: 82}]}}",
        "",
        expect![[r#"
            spec.clusterIP: "10.96.0.7"
            spec.clusterIPs[0]: "10.96.0.7"
            spec.externalTrafficPolicy: "Cluster"
            spec.internalTrafficPolicy: "Cluster"
            spec.ports[0].nodePort: 30080
            spec.ports[0].protocol: "TCP"
            spec.ports[0].targetPort: 80
            spec.ports[1].protocol: "TCP"
            spec.ports[1].targetPort: 82
            spec.sessionAffinity: "None"
        "#]],
    );
    check(
        old,
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: ClusterIP, ports: [{port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30081}]}}",
        "",
        expect![[r#"
            spec.clusterIP: "10.96.0.7"
            spec.clusterIPs[0]: "10.96.0.7"
            spec.internalTrafficPolicy: "Cluster"
            spec.ports[0].protocol: "TCP"
            spec.ports[0].targetPort: 80
            spec.ports[1].protocol: "TCP"
            spec.ports[1].targetPort: 81
            spec.sessionAffinity: "None"
        "#]],
    );
    check(
        old,
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: ExternalName, externalName: a.b, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{port: 80}]}}",
        "",
        expect![[r#"
            spec.ports[0].protocol: "TCP"
            spec.ports[0].targetPort: 80
            spec.sessionAffinity: "None"
        "#]],
    );
    check(
        old,
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: NodePort, clusterIP: 10.96.0.8, clusterIPs: [10.96.0.7], ports: [{port: 80}]}}",
        "",
        expect![[r#"
            spec.clusterIPs[0]: "10.96.0.8"
            spec.externalTrafficPolicy: "Cluster"
            spec.internalTrafficPolicy: "Cluster"
            spec.ports[0].nodePort: 30080
            spec.ports[0].protocol: "TCP"
            spec.ports[0].targetPort: 80
            spec.sessionAffinity: "None"
        "#]],
    );
}

#[test]
fn a_pod_is_resized_and_debugged_through_subresources() {
    let old = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: n1, containers: [{name: a, image: a:v1, resources: {requests: {cpu: 1}}}]}}";
    let changed =
        |spec: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{hostname: other, {spec}}}}}");
    let (_, resized, _) = common::updated(
        old,
        &changed("containers: [{name: a, image: a:v2, resources: {requests: {cpu: 2}}}]"),
        "resize",
    );
    let container = &resized["spec"]["containers"][0];
    assert_eq!((container.str_at(&["image"]), container.str_at(&["resources", "requests", "cpu"])), ("a:v1", "2"));
    assert_eq!((resized.generation(), resized.at(&["spec", "hostname"])), (2, None));
    let (_, debugged, _) = common::updated(
        old,
        &changed("containers: [], ephemeralContainers: [{name: d, image: d:v1}]"),
        "ephemeralcontainers",
    );
    assert_eq!(debugged.list_at(&["spec", "ephemeralContainers"]).len(), 1);
    assert_eq!(debugged.list_at(&["spec", "containers"]).len(), 1);
}

#[test]
fn a_namespace_is_let_go_only_by_finalize() {
    let old = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}";
    let finalized = |subresource: &str| {
        let new = "{apiVersion: v1, kind: Namespace, metadata: {name: a}, spec: {finalizers: []}}";
        let (_, new, _) = common::updated(old, new, subresource);
        new.list_at(&["spec", "finalizers"]).to_vec()
    };
    assert_eq!(finalized(""), [Value::from("kubernetes")]);
    assert_eq!(finalized("finalize"), Vec::<Value>::new());
}

#[test]
fn a_status_write_may_label() {
    let old = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {}, template: {}}}";
    let new = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, annotations: {a: b}, ownerReferences: [{apiVersion: v1, kind: Pod, name: x, uid: u}]}, spec: {replicas: 9, selector: {}, template: {}}, status: {replicas: 1}}";
    let (_, written, _) = common::updated(old, new, "status");
    assert_eq!((written.annotation("a"), written.int_at(&["spec", "replicas"])), (Some("b"), Some(1)));
    assert_eq!(
        (written.int_at(&["status", "replicas"]), written.at(&["metadata", "ownerReferences"])),
        (Some(1), None)
    );
}

#[test]
fn warnings() {
    check_warnings(
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeSelector: {beta.kubernetes.io/os: linux}, volumes: [{name: g, gitRepo: {repository: x}}], containers: [{name: a, env: [{name: A, value: x}, {name: A, value: z}], resources: {limits: {memory: 100m}}}]}}",
        expect![[r#"
            spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead
            spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+
            spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer
            spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply"#]],
    );
    check_warnings(
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: None, sessionAffinity: ClientIP, externalName: x}}",
        expect![[r#"
            spec.SessionAffinity is ignored for headless services
            spec.externalName is ignored when spec.type is not "ExternalName""#]],
    );
    check_warnings(
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, annotations: {kubernetes.io/ingress.class: nginx}}}",
        expect![[
            r#"annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead"#
        ]],
    );
    check_warnings(
        "{apiVersion: batch/v1, kind: CronJob, metadata: {name: c}, spec: {schedule: '* * * * *', jobTemplate: {spec: {template: {spec: {containers: [], imagePullSecrets: [{name: a}, {name: a}]}}}}}}",
        expect![[r#"spec.jobTemplate.spec.template.spec.imagePullSecrets[1].name: duplicate name "a""#]],
    );
}

#[test]
fn generations_follow_what_is_to_be_observed() {
    let generation = |old: &str, new: &str, subresource: &str| {
        let (_, new, old) = common::updated(old, new, subresource);
        new.generation() - old.generation()
    };
    let of = |head: &str, part: &str| format!("{{{head}, metadata: {{name: a, generation: 3, {part}}}}}");
    let deployment = |part: &str| of("apiVersion: apps/v1, kind: Deployment", part);
    let set = |part: &str| of("apiVersion: apps/v1, kind: ReplicaSet", part);
    let raised = [
        generation(&deployment(""), &deployment("annotations: {a: b}"), ""),
        generation(&deployment(""), &deployment("annotations: {a: b}"), "status"),
        generation(&deployment(""), &deployment("labels: {a: b}"), ""),
        generation(&set(""), &set("annotations: {a: b}"), ""),
    ];
    assert_eq!(raised, [1, 0, 0, 0]);
}

#[test]
fn daemon_sets_count_their_templates() {
    let set = |count: &str, image: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: a, annotations: {{{count}}}}}, spec: {{template: {{spec: {{containers: [{{name: a, image: {image}}}]}}}}}}}}"
        )
    };
    let counted = "deprecated.daemonset.template.generation: '4'";
    let count = |old: &str, new: &str| {
        let (_, new, _) = common::updated(&set(counted, old), &set("", new), "");
        new.annotation("deprecated.daemonset.template.generation").map(str::to_owned)
    };
    assert_eq!(count("a:1", "a:1").as_deref(), Some("4"));
    assert_eq!(count("a:1", "a:2").as_deref(), Some("5"));
}

#[test]
fn a_volume_knows_since_when_it_is_in_its_phase() {
    let volume = |phase: &str| {
        format!("{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: a}}, status: {{phase: {phase}}}}}")
    };
    let (_, new, _) = common::updated(&volume("Available"), &volume("Bound"), "status");
    assert_eq!(new.str_at(&["status", "lastPhaseTransitionTime"]), "2026-03-04T05:06:07Z");
}
