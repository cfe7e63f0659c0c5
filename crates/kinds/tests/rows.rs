//! Rows of Tables, as kubectl shows them.

use expect_test::{Expect, expect};

mod common;

fn check(yaml: &str, expected: Expect) {
    expected.assert_eq(&common::row(yaml));
}

fn pod(rest: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a, creationTimestamp: '2026-03-04T05:00:00Z'}}, {rest}}}")
}

#[test]
fn pods_tell_what_they_wait_for() {
    check(
        &pod("spec: {containers: [{name: a}]}, status: {phase: Pending}"),
        expect!["a | 0/1 | Pending | 0 | 6m7s | <none> | <none> | <none> | <none>"],
    );
    check(
        &pod(
            "spec: {nodeName: n1, containers: [{name: a}]}, status: {phase: Running, podIPs: [{ip: 10.0.0.1}], containerStatuses: [{name: a, ready: true, restartCount: 3, state: {running: {}}, lastState: {terminated: {finishedAt: '2026-03-04T05:01:07Z'}}}]}",
        ),
        expect!["a | 1/1 | Running | 3 (5m ago) | 6m7s | 10.0.0.1 | n1 | <none> | <none>"],
    );
    check(
        &pod(
            "spec: {containers: [{name: a}]}, status: {phase: Running, containerStatuses: [{name: a, restartCount: 1, state: {waiting: {reason: CrashLoopBackOff}}}]}",
        ),
        expect!["a | 0/1 | CrashLoopBackOff | 1 | 6m7s | <none> | <none> | <none> | <none>"],
    );
    check(
        &pod(
            "spec: {initContainers: [{name: i}, {name: j}], containers: [{name: a}]}, status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}}, {name: j, state: {running: {}}}]}",
        ),
        expect!["a | 0/1 | Init:1/2 | 0 | 6m7s | <none> | <none> | <none> | <none>"],
    );
    check(
        &pod(
            "spec: {initContainers: [{name: i}], containers: [{name: a}]}, status: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 2, state: {terminated: {exitCode: 3}}}]}",
        ),
        expect!["a | 0/1 | Init:ExitCode:3 | 2 | 6m7s | <none> | <none> | <none> | <none>"],
    );
    check(
        &pod(
            "spec: {initContainers: [{name: i, restartPolicy: Always}], containers: [{name: a}]}, status: {phase: Running, initContainerStatuses: [{name: i, started: true, ready: true, state: {running: {}}}], containerStatuses: [{name: a, ready: true, state: {running: {}}}]}",
        ),
        expect!["a | 2/2 | Running | 0 | 6m7s | <none> | <none> | <none> | <none>"],
    );
    check(
        &pod(
            "spec: {containers: [{name: a}]}, status: {phase: Succeeded, containerStatuses: [{name: a, state: {terminated: {reason: Completed}}}]}",
        ),
        expect!["a | 0/1 | Completed | 0 | 6m7s | <none> | <none> | <none> | <none>"],
    );
    check(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, deletionTimestamp: '2026-03-04T05:00:00Z'}, spec: {containers: [{name: a}], readinessGates: [{conditionType: x}]}, status: {phase: Running}}",
        expect!["a | 0/1 | Terminating | 0 | <unknown> | <none> | <none> | <none> | 0/1"],
    );
    check(
        &pod("spec: {containers: [{name: a}]}, status: {phase: Failed, reason: Evicted}"),
        expect!["a | 0/1 | Evicted | 0 | 6m7s | <none> | <none> | <none> | <none>"],
    );
}

#[test]
fn services_show_their_addresses() {
    let service = |spec: &str| format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, {spec}}}");
    check(
        &service(
            "spec: {type: ClusterIP, clusterIPs: [10.96.0.1], ports: [{port: 443, protocol: TCP}], selector: {a: b}}",
        ),
        expect!["s | ClusterIP | 10.96.0.1 | <none> | 443/TCP | <unknown> | a=b"],
    );
    check(
        &service(
            "spec: {type: LoadBalancer, clusterIPs: [10.96.0.1], ports: [{port: 80, nodePort: 30080, protocol: TCP}]}",
        ),
        expect!["s | LoadBalancer | 10.96.0.1 | <pending> | 80:30080/TCP | <unknown> | <none>"],
    );
    check(
        &service(
            "spec: {type: LoadBalancer, externalIPs: [1.2.3.4], ports: [{port: 80, protocol: UDP}]}, status: {loadBalancer: {ingress: [{ip: 5.6.7.8}]}}",
        ),
        expect!["s | LoadBalancer | <none> | 5.6.7.8,1.2.3.4 | 80/UDP | <unknown> | <none>"],
    );
    check(
        &service("spec: {type: ExternalName, externalName: example.com}"),
        expect!["s | ExternalName | <none> | example.com | <none> | <unknown> | <none>"],
    );
    check(
        &service("spec: {type: ClusterIP, clusterIPs: [None], ports: [{port: 80, protocol: TCP}]}"),
        expect!["s | ClusterIP | None | <none> | 80/TCP | <unknown> | <none>"],
    );
}

#[test]
fn workloads_show_their_numbers() {
    check(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {spec: {containers: [{name: a, image: i}, {name: b, image: j}]}}}, status: {readyReplicas: 1, updatedReplicas: 2}}",
        expect!["d | 1/2 | 2 | 0 | <unknown> | a,b | i,j | app=web"],
    );
    check(
        "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: d}, spec: {replicas: 2, selector: {matchLabels: {app: web}}}, status: {replicas: 1}}",
        expect!["d | 2 | 1 | 0 | <unknown> |  |  | app=web"],
    );
}

#[test]
fn nodes_show_their_state_and_roles() {
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {node-role.kubernetes.io/worker: '', node-role.kubernetes.io/control-plane: ''}}, spec: {unschedulable: true}, status: {conditions: [{type: Ready, status: 'True'}], addresses: [{type: InternalIP, address: 10.0.0.1}], nodeInfo: {kubeletVersion: v1.36.2}}}",
        expect![
            " | Ready,SchedulingDisabled | control-plane,worker | <unknown> | v1.36.2 | 10.0.0.1 | <none> | <unknown> | <unknown> | <unknown>"
        ],
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}}",
        expect![" | Unknown | <none> | <unknown> |  | <none> | <none> | <unknown> | <unknown> | <unknown>"],
    );
}

#[test]
fn the_core_kinds() {
    check(
        "{apiVersion: v1, kind: Namespace, metadata: {name: n1, creationTimestamp: '2026-03-01T05:00:00Z'}, status: {phase: Active}}",
        expect!["n1 | Active | 3d"],
    );
    check(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: n1}, data: {a: b}, binaryData: {c: Yg==}}",
        expect!["n1 | 2 | <unknown>"],
    );
    check(
        "{apiVersion: v1, kind: Secret, metadata: {name: n1}, type: Opaque, data: {a: Yg==}}",
        expect!["n1 | Opaque | 1 | <unknown>"],
    );
}
