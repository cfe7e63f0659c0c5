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
            "n1 | Ready,SchedulingDisabled | control-plane,worker | <unknown> | v1.36.2 | 10.0.0.1 | <none> | <unknown> | <unknown> | <unknown>"
        ],
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}}",
        expect!["n1 | Unknown | <none> | <unknown> |  | <none> | <none> | <unknown> | <unknown> | <unknown>"],
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

#[test]
fn jobs_and_their_like() {
    check(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {completions: 3, selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: c, image: i}]}}}, status: {succeeded: 1, startTime: '2026-03-04T05:00:07Z'}}",
        expect!["j | Running | 1/3 | 6m | <unknown> | c | i | a=b"],
    );
    check(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {parallelism: 2, template: {}}, status: {startTime: '2026-03-04T05:00:07Z', completionTime: '2026-03-04T05:00:37Z', conditions: [{type: Complete, status: 'True'}]}}",
        expect!["j | Complete | 0/1 of 2 | 30s | <unknown> |  |  | <none>"],
    );
    check(
        "{apiVersion: batch/v1, kind: CronJob, metadata: {name: cj}, spec: {schedule: 5 4 1 1 *, suspend: false, jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: i}]}}}}}}",
        expect!["cj | 5 4 1 1 * | <none> | False | 0 | <none> | <unknown> | c | i | <none>"],
    );
    check(
        "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {replicas: 3, serviceName: x, selector: {}, template: {spec: {containers: [{name: c, image: i}]}}}, status: {readyReplicas: 2}}",
        expect!["s | 2/3 | <unknown> | c | i"],
    );
    check(
        "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d}, spec: {selector: {}, template: {spec: {nodeSelector: {a: b}, containers: [{name: c, image: i}]}}}, status: {desiredNumberScheduled: 2, numberReady: 1}}",
        expect!["d | 2 | 0 | 1 | 0 | 0 | a=b | <unknown> | c | i | <none>"],
    );
    check(
        "{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: r, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: u, controller: true}]}, revision: 3}",
        expect!["r | statefulset.apps/web | 3 | <unknown>"],
    );
    check(
        "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web}, spec: {minReplicas: 2, maxReplicas: 5, scaleTargetRef: {kind: Deployment, name: web}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}, status: {desiredReplicas: 0}}",
        expect!["web | Deployment/web | cpu: <unknown>/80% | 2 | 5 | 0 | <unknown>"],
    );
    check(
        "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: p}, spec: {minAvailable: 1}, status: {disruptionsAllowed: 1}}",
        expect!["p | 1 | N/A | 1 | <unknown>"],
    );
}

#[test]
fn network_kinds() {
    check(
        "{apiVersion: v1, kind: Endpoints, metadata: {name: e}, subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], ports: [{port: 80}, {port: 81}]}]}",
        expect!["e | 10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more... | <unknown>"],
    );
    check("{apiVersion: v1, kind: Endpoints, metadata: {name: e}}", expect!["e | <none> | <unknown>"]);
    check(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, ports: [{port: 80}], endpoints: [{addresses: [10.0.0.1]}]}",
        expect!["e | IPv4 | 80 | 10.0.0.1 | <unknown>"],
    );
    check(
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {tls: [{}], rules: [{host: a}, {host: b}, {host: c}, {host: d}]}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}}",
        expect!["i | <none> | a,b,c + 1 more... | 1.2.3.4 | 80, 443 | <unknown>"],
    );
    check(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {matchLabels: {a: b}}}}",
        expect!["p | a=b | <unknown>"],
    );
    check(
        "{apiVersion: networking.k8s.io/v1, kind: IPAddress, metadata: {name: 10.96.0.1}, spec: {parentRef: {resource: services, namespace: default, name: kubernetes}}}",
        expect!["10.96.0.1 | services/default/kubernetes"],
    );
    check(
        "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: c}, spec: {controller: x/y, parameters: {apiGroup: g, kind: K, name: n1}}}",
        expect!["c | x/y | K.g/n1 | <unknown>"],
    );
}

#[test]
fn storage_kinds() {
    check(
        "{apiVersion: v1, kind: PersistentVolume, metadata: {name: pv}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteMany, ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, storageClassName: c, claimRef: {namespace: a, name: b}, volumeMode: Filesystem}, status: {phase: Bound}}",
        expect!["pv | 1Gi | RWO,RWX | Retain | Bound | a/b | c | <unset> |  | <unknown> | Filesystem"],
    );
    check(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: pvc}, spec: {volumeName: pv, volumeMode: Filesystem}, status: {phase: Bound, accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}}}",
        expect!["pvc | Bound | pv | 1Gi | RWO |  | <unset> | <unknown> | Filesystem"],
    );
    check(
        "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: s, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: x, reclaimPolicy: Delete, volumeBindingMode: Immediate}",
        expect!["s (default) | x | Delete | Immediate | false | <unknown>"],
    );
    check(
        "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d}, spec: {volumeLifecycleModes: [Persistent]}}",
        expect!["d | true | false | false | <unset> | false | Persistent | <unknown>"],
    );
}

#[test]
fn events_in_both_groups() {
    check(
        "{apiVersion: v1, kind: Event, metadata: {name: e}, involvedObject: {kind: Pod, name: p}, type: Normal, reason: Pulled, message: done, source: {component: kubelet, host: n1}, firstTimestamp: '2026-03-04T05:05:07Z', lastTimestamp: '2026-03-04T05:06:02Z', count: 3}",
        expect!["5s | Normal | Pulled | pod/p |  | kubelet, n1 | done | 60s | 3 | e"],
    );
    check(
        "{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: e}, regarding: {kind: Pod, name: p}, type: Normal, reason: Scheduled, note: ok, eventTime: '2026-03-04T05:05:07.000000Z', reportingController: default-scheduler, reportingInstance: n1, action: Binding}",
        expect!["60s | Normal | Scheduled | pod/p |  | default-scheduler, n1 | ok | 60s | 1 | e"],
    );
}

#[test]
fn cluster_kinds() {
    check(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: rb}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}, subjects: [{kind: User, name: bob}, {kind: ServiceAccount, name: s, namespace: n1}]}",
        expect!["rb | Role/r | <unknown> | bob |  | n1/s"],
    );
    check(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, status: {hard: {pods: '10', configmaps: '4', limits.cpu: '2'}, used: {pods: '2'}}}",
        expect!["q | configmaps: 0/4, pods: 2/10 | limits.cpu: 0/2 | <unknown>"],
    );
    check(
        "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: p}, value: 5}",
        expect!["p | 5 | false | <unknown> | <unset>"],
    );
    check(
        "{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: c}, spec: {request: YQ==, signerName: s, username: bob}, status: {conditions: [{type: Approved, status: 'True'}], certificate: YQ==}}",
        expect!["c | <unknown> | s | bob | <none> | Approved,Issued"],
    );
    check(
        "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l}, spec: {holderIdentity: me}}",
        expect!["l | me | <unknown>"],
    );
    check(
        "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.}, spec: {version: v1, groupPriorityMinimum: 1, versionPriority: 1}, status: {conditions: [{type: Available, status: 'True'}]}}",
        expect!["v1. | Local | True | <unknown>"],
    );
    check(
        "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: b}, spec: {policyName: p, paramRef: {name: x, namespace: n1}}}",
        expect!["b | p | n1/x | <unknown>"],
    );
    check(
        "{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: p}, spec: {type: Limited, limited: {nominalConcurrencyShares: 30, limitResponse: {type: Reject}}}}",
        expect!["p | Limited | 30 | <none> | <none> | <none> | <unknown>"],
    );
    check(
        "{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, metadata: {name: r}, status: {allocation: {}, reservedFor: [{resource: pods, name: p, uid: u}]}}",
        expect!["r | allocated,reserved | <unknown>"],
    );
}
