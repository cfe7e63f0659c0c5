//! Defaults and the first state of new objects.

use expect_test::{Expect, expect};

mod common;

fn check(yaml: &str, expected: Expect) {
    expected.assert_eq(&common::lines(&common::created(yaml).1));
}

#[test]
fn a_deployment() {
    check(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, creationTimestamp: null}
spec:
  selector: {matchLabels: {app: web}}
  strategy: {}
  template:
    metadata: {labels: {app: web}, creationTimestamp: null}
    spec:
      containers: [{name: web, image: 'localhost/web:v1', ports: [{containerPort: 8080}], resources: {}}]
status: {}
",
        expect![[r#"
            apiVersion: "apps/v1"
            kind: "Deployment"
            metadata.generation: 1
            metadata.name: "web"
            spec.progressDeadlineSeconds: 600
            spec.replicas: 1
            spec.revisionHistoryLimit: 10
            spec.selector.matchLabels.app: "web"
            spec.strategy.rollingUpdate.maxSurge: "25%"
            spec.strategy.rollingUpdate.maxUnavailable: "25%"
            spec.strategy.type: "RollingUpdate"
            spec.template.metadata.labels.app: "web"
            spec.template.spec.containers[0].image: "localhost/web:v1"
            spec.template.spec.containers[0].imagePullPolicy: "IfNotPresent"
            spec.template.spec.containers[0].name: "web"
            spec.template.spec.containers[0].ports[0].containerPort: 8080
            spec.template.spec.containers[0].ports[0].protocol: "TCP"
            spec.template.spec.containers[0].resources: {}
            spec.template.spec.containers[0].terminationMessagePath: "/dev/termination-log"
            spec.template.spec.containers[0].terminationMessagePolicy: "File"
            spec.template.spec.dnsPolicy: "ClusterFirst"
            spec.template.spec.restartPolicy: "Always"
            spec.template.spec.schedulerName: "default-scheduler"
            spec.template.spec.securityContext: {}
            spec.template.spec.terminationGracePeriodSeconds: 30
            status: {}
        "#]],
    );
}

#[test]
fn a_pod() {
    check(
        "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  hostNetwork: true
  serviceAccountName: robot
  containers:
  - name: a
    image: nginx
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: '1'}}
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    livenessProbe: {httpGet: {port: 80}}
    lifecycle: {preStop: {httpGet: {port: 80}}}
  volumes:
  - name: nothing
  - {name: host, hostPath: {path: /x}}
  - {name: cm, configMap: {name: c}}
  - {name: all, projected: {sources: [{serviceAccountToken: {path: t}}, {downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}]}}
",
        expect![[r#"
            apiVersion: "v1"
            kind: "Pod"
            metadata.generation: 1
            metadata.name: "a"
            spec.containers[0].env[0].name: "IP"
            spec.containers[0].env[0].valueFrom.fieldRef.apiVersion: "v1"
            spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: "status.podIP"
            spec.containers[0].image: "nginx"
            spec.containers[0].imagePullPolicy: "Always"
            spec.containers[0].lifecycle.preStop.httpGet.path: "/"
            spec.containers[0].lifecycle.preStop.httpGet.port: 80
            spec.containers[0].lifecycle.preStop.httpGet.scheme: "HTTP"
            spec.containers[0].livenessProbe.failureThreshold: 3
            spec.containers[0].livenessProbe.httpGet.path: "/"
            spec.containers[0].livenessProbe.httpGet.port: 80
            spec.containers[0].livenessProbe.httpGet.scheme: "HTTP"
            spec.containers[0].livenessProbe.periodSeconds: 10
            spec.containers[0].livenessProbe.successThreshold: 1
            spec.containers[0].livenessProbe.timeoutSeconds: 1
            spec.containers[0].name: "a"
            spec.containers[0].ports[0].containerPort: 80
            spec.containers[0].ports[0].hostPort: 80
            spec.containers[0].ports[0].protocol: "TCP"
            spec.containers[0].resources.limits.cpu: "1"
            spec.containers[0].resources.requests.cpu: "1"
            spec.containers[0].terminationMessagePath: "/dev/termination-log"
            spec.containers[0].terminationMessagePolicy: "File"
            spec.dnsPolicy: "ClusterFirst"
            spec.enableServiceLinks: true
            spec.hostNetwork: true
            spec.preemptionPolicy: "PreemptLowerPriority"
            spec.priority: 0
            spec.restartPolicy: "Always"
            spec.schedulerName: "default-scheduler"
            spec.securityContext: {}
            spec.serviceAccount: "robot"
            spec.serviceAccountName: "robot"
            spec.terminationGracePeriodSeconds: 30
            spec.volumes[0].emptyDir: {}
            spec.volumes[0].name: "nothing"
            spec.volumes[1].hostPath.path: "/x"
            spec.volumes[1].hostPath.type: ""
            spec.volumes[1].name: "host"
            spec.volumes[2].configMap.defaultMode: 420
            spec.volumes[2].configMap.name: "c"
            spec.volumes[2].name: "cm"
            spec.volumes[3].name: "all"
            spec.volumes[3].projected.defaultMode: 420
            spec.volumes[3].projected.sources[0].serviceAccountToken.expirationSeconds: 3600
            spec.volumes[3].projected.sources[0].serviceAccountToken.path: "t"
            spec.volumes[3].projected.sources[1].downwardAPI.items[0].fieldRef.apiVersion: "v1"
            spec.volumes[3].projected.sources[1].downwardAPI.items[0].fieldRef.fieldPath: "metadata.labels"
            spec.volumes[3].projected.sources[1].downwardAPI.items[0].path: "l"
            status.phase: "Pending"
            status.qosClass: "Burstable"
        "#]],
    );
}

#[test]
fn a_service() {
    check(
        "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {type: LoadBalancer, ports: [{port: 80}], sessionAffinity: ClientIP}
",
        expect![[r#"
            apiVersion: "v1"
            kind: "Service"
            metadata.name: "a"
            spec.allocateLoadBalancerNodePorts: true
            spec.externalTrafficPolicy: "Cluster"
            spec.internalTrafficPolicy: "Cluster"
            spec.ports[0].port: 80
            spec.ports[0].protocol: "TCP"
            spec.ports[0].targetPort: 80
            spec.sessionAffinity: "ClientIP"
            spec.sessionAffinityConfig.clientIP.timeoutSeconds: 10800
            spec.type: "LoadBalancer"
            status.loadBalancer: {}
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None}}",
        expect![[r#"
            apiVersion: "v1"
            kind: "Service"
            metadata.name: "a"
            spec.clusterIP: "None"
            spec.clusterIPs[0]: "None"
            spec.internalTrafficPolicy: "Cluster"
            spec.sessionAffinity: "None"
            spec.type: "ClusterIP"
            status.loadBalancer: {}
        "#]],
    );
}

#[test]
fn the_core_kinds() {
    check(
        "{apiVersion: v1, kind: Namespace, metadata: {name: a}}",
        expect![[r#"
        apiVersion: "v1"
        kind: "Namespace"
        metadata.labels.kubernetes.io/metadata.name: "a"
        metadata.name: "a"
        spec.finalizers[0]: "kubernetes"
        status.phase: "Active"
    "#]],
    );
    check(
        "{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {password: secret}, data: {a: Yg==}}",
        expect![[r#"
            apiVersion: "v1"
            data.a: "Yg=="
            data.password: "c2VjcmV0"
            kind: "Secret"
            metadata.name: "a"
            type: "Opaque"
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: a}, status: {capacity: {cpu: '2'}}}",
        expect![[r#"
            apiVersion: "v1"
            kind: "Node"
            metadata.name: "a"
            spec: {}
            status.allocatable.cpu: "2"
            status.capacity.cpu: "2"
            status.daemonEndpoints.kubeletEndpoint.Port: 0
            status.nodeInfo.architecture: ""
            status.nodeInfo.bootID: ""
            status.nodeInfo.containerRuntimeVersion: ""
            status.nodeInfo.kernelVersion: ""
            status.nodeInfo.kubeProxyVersion: ""
            status.nodeInfo.kubeletVersion: ""
            status.nodeInfo.machineID: ""
            status.nodeInfo.operatingSystem: ""
            status.nodeInfo.osImage: ""
            status.nodeInfo.systemUUID: ""
        "#]],
    );
}

#[test]
fn workloads() {
    check(
        "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: hl, selector: {matchLabels: {a: s}}, template: {metadata: {labels: {a: s}}, spec: {containers: [{name: c, image: x}]}}, volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}",
        expect![[r#"
        apiVersion: "apps/v1"
        kind: "StatefulSet"
        metadata.generation: 1
        metadata.name: "s"
        spec.persistentVolumeClaimRetentionPolicy.whenDeleted: "Retain"
        spec.persistentVolumeClaimRetentionPolicy.whenScaled: "Retain"
        spec.podManagementPolicy: "OrderedReady"
        spec.replicas: 1
        spec.revisionHistoryLimit: 10
        spec.selector.matchLabels.a: "s"
        spec.serviceName: "hl"
        spec.template.metadata.labels.a: "s"
        spec.template.spec.containers[0].image: "x"
        spec.template.spec.containers[0].imagePullPolicy: "Always"
        spec.template.spec.containers[0].name: "c"
        spec.template.spec.containers[0].resources: {}
        spec.template.spec.containers[0].terminationMessagePath: "/dev/termination-log"
        spec.template.spec.containers[0].terminationMessagePolicy: "File"
        spec.template.spec.dnsPolicy: "ClusterFirst"
        spec.template.spec.restartPolicy: "Always"
        spec.template.spec.schedulerName: "default-scheduler"
        spec.template.spec.securityContext: {}
        spec.template.spec.terminationGracePeriodSeconds: 30
        spec.updateStrategy.rollingUpdate.partition: 0
        spec.updateStrategy.type: "RollingUpdate"
        spec.volumeClaimTemplates[0].apiVersion: "v1"
        spec.volumeClaimTemplates[0].kind: "PersistentVolumeClaim"
        spec.volumeClaimTemplates[0].metadata.name: "d"
        spec.volumeClaimTemplates[0].spec.accessModes[0]: "ReadWriteOnce"
        spec.volumeClaimTemplates[0].spec.resources.requests.storage: "1Gi"
        spec.volumeClaimTemplates[0].spec.volumeMode: "Filesystem"
        spec.volumeClaimTemplates[0].status.phase: "Pending"
        status.availableReplicas: 0
        status.replicas: 0
    "#]],
    );
    check(
        "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: s}, spec: {selector: {matchLabels: {a: s}}, template: {spec: {}}}}",
        expect![[r#"
            apiVersion: "apps/v1"
            kind: "DaemonSet"
            metadata.annotations.deprecated.daemonset.template.generation: "1"
            metadata.generation: 1
            metadata.name: "s"
            spec.revisionHistoryLimit: 10
            spec.selector.matchLabels.a: "s"
            spec.template.metadata: {}
            spec.template.spec.containers: null
            spec.template.spec.dnsPolicy: "ClusterFirst"
            spec.template.spec.restartPolicy: "Always"
            spec.template.spec.schedulerName: "default-scheduler"
            spec.template.spec.securityContext: {}
            spec.template.spec.terminationGracePeriodSeconds: 30
            spec.updateStrategy.rollingUpdate.maxSurge: 0
            spec.updateStrategy.rollingUpdate.maxUnavailable: 1
            spec.updateStrategy.type: "RollingUpdate"
            status.currentNumberScheduled: 0
            status.desiredNumberScheduled: 0
            status.numberMisscheduled: 0
            status.numberReady: 0
        "#]],
    );
    check(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: j, uid: u}, spec: {template: {spec: {restartPolicy: Never}}}}",
        expect![[r#"
            apiVersion: "batch/v1"
            kind: "Job"
            metadata.generation: 1
            metadata.labels.batch.kubernetes.io/controller-uid: "u"
            metadata.labels.batch.kubernetes.io/job-name: "j"
            metadata.labels.controller-uid: "u"
            metadata.labels.job-name: "j"
            metadata.name: "j"
            metadata.uid: "u"
            spec.backoffLimit: 6
            spec.completionMode: "NonIndexed"
            spec.completions: 1
            spec.parallelism: 1
            spec.podReplacementPolicy: "TerminatingOrFailed"
            spec.selector.matchLabels.batch.kubernetes.io/controller-uid: "u"
            spec.suspend: false
            spec.template.metadata.labels.batch.kubernetes.io/controller-uid: "u"
            spec.template.metadata.labels.batch.kubernetes.io/job-name: "j"
            spec.template.metadata.labels.controller-uid: "u"
            spec.template.metadata.labels.job-name: "j"
            spec.template.spec.containers: null
            spec.template.spec.dnsPolicy: "ClusterFirst"
            spec.template.spec.restartPolicy: "Never"
            spec.template.spec.schedulerName: "default-scheduler"
            spec.template.spec.securityContext: {}
            spec.template.spec.terminationGracePeriodSeconds: 30
            status: {}
        "#]],
    );
    check(
        "{apiVersion: batch/v1, kind: CronJob, metadata: {name: j}, spec: {schedule: '* * * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never}}}}}}",
        expect![[r#"
        apiVersion: "batch/v1"
        kind: "CronJob"
        metadata.generation: 1
        metadata.name: "j"
        spec.concurrencyPolicy: "Allow"
        spec.failedJobsHistoryLimit: 1
        spec.jobTemplate.metadata: {}
        spec.jobTemplate.spec.template.metadata: {}
        spec.jobTemplate.spec.template.spec.containers: null
        spec.jobTemplate.spec.template.spec.dnsPolicy: "ClusterFirst"
        spec.jobTemplate.spec.template.spec.restartPolicy: "Never"
        spec.jobTemplate.spec.template.spec.schedulerName: "default-scheduler"
        spec.jobTemplate.spec.template.spec.securityContext: {}
        spec.jobTemplate.spec.template.spec.terminationGracePeriodSeconds: 30
        spec.schedule: "* * * * *"
        spec.successfulJobsHistoryLimit: 3
        spec.suspend: false
        status: {}
    "#]],
    );
    check(
        "{apiVersion: v1, kind: ReplicationController, metadata: {name: r}, spec: {template: {metadata: {labels: {a: b}}}}}",
        expect![[r#"
        apiVersion: "v1"
        kind: "ReplicationController"
        metadata.generation: 1
        metadata.labels.a: "b"
        metadata.name: "r"
        spec.replicas: 1
        spec.selector.a: "b"
        spec.template.metadata.labels.a: "b"
        spec.template.spec.containers: null
        spec.template.spec.dnsPolicy: "ClusterFirst"
        spec.template.spec.restartPolicy: "Always"
        spec.template.spec.schedulerName: "default-scheduler"
        spec.template.spec.securityContext: {}
        spec.template.spec.terminationGracePeriodSeconds: 30
        status.replicas: 0
    "#]],
    );
    check(
        "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: d}, behavior: {scaleDown: {stabilizationWindowSeconds: 5}}}}",
        expect![[r#"
        apiVersion: "autoscaling/v2"
        kind: "HorizontalPodAutoscaler"
        metadata.name: "h"
        spec.behavior.scaleDown.policies[0].periodSeconds: 15
        spec.behavior.scaleDown.policies[0].type: "Percent"
        spec.behavior.scaleDown.policies[0].value: 100
        spec.behavior.scaleDown.selectPolicy: "Max"
        spec.behavior.scaleDown.stabilizationWindowSeconds: 5
        spec.behavior.scaleUp.policies[0].periodSeconds: 15
        spec.behavior.scaleUp.policies[0].type: "Pods"
        spec.behavior.scaleUp.policies[0].value: 4
        spec.behavior.scaleUp.policies[1].periodSeconds: 15
        spec.behavior.scaleUp.policies[1].type: "Percent"
        spec.behavior.scaleUp.policies[1].value: 100
        spec.behavior.scaleUp.selectPolicy: "Max"
        spec.behavior.scaleUp.stabilizationWindowSeconds: 0
        spec.maxReplicas: 3
        spec.metrics[0].resource.name: "cpu"
        spec.metrics[0].resource.target.averageUtilization: 80
        spec.metrics[0].resource.target.type: "Utilization"
        spec.metrics[0].type: "Resource"
        spec.minReplicas: 1
        spec.scaleTargetRef.kind: "Deployment"
        spec.scaleTargetRef.name: "d"
        status.currentMetrics: null
        status.desiredReplicas: 0
    "#]],
    );
}

#[test]
fn the_other_kinds() {
    check(
        "{apiVersion: v1, kind: PersistentVolume, metadata: {name: p}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}}}",
        expect![[r#"
            apiVersion: "v1"
            kind: "PersistentVolume"
            metadata.name: "p"
            spec.accessModes[0]: "ReadWriteOnce"
            spec.capacity.storage: "1Gi"
            spec.hostPath.path: "/x"
            spec.hostPath.type: ""
            spec.persistentVolumeReclaimPolicy: "Retain"
            spec.volumeMode: "Filesystem"
            status.lastPhaseTransitionTime: "2026-03-04T05:06:07Z"
            status.phase: "Pending"
        "#]],
    );
    check(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p}, spec: {dataSourceRef: {kind: PersistentVolumeClaim, name: other}}}",
        expect![[r#"
        apiVersion: "v1"
        kind: "PersistentVolumeClaim"
        metadata.name: "p"
        spec.dataSource.apiGroup: null
        spec.dataSource.kind: "PersistentVolumeClaim"
        spec.dataSource.name: "other"
        spec.dataSourceRef.apiGroup: null
        spec.dataSourceRef.kind: "PersistentVolumeClaim"
        spec.dataSourceRef.name: "other"
        spec.resources: {}
        spec.volumeMode: "Filesystem"
        status.phase: "Pending"
    "#]],
    );
    check(
        "{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container, max: {cpu: '2'}, min: {memory: 1Mi}}]}}",
        expect![[r#"
        apiVersion: "v1"
        kind: "LimitRange"
        metadata.name: "l"
        spec.limits[0].default.cpu: "2"
        spec.limits[0].defaultRequest.cpu: "2"
        spec.limits[0].defaultRequest.memory: "1Mi"
        spec.limits[0].max.cpu: "2"
        spec.limits[0].min.memory: "1Mi"
        spec.limits[0].type: "Container"
    "#]],
    );
    check(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: n1}, spec: {egress: [{ports: [{port: 53}]}]}}",
        expect![[r#"
        apiVersion: "networking.k8s.io/v1"
        kind: "NetworkPolicy"
        metadata.generation: 1
        metadata.name: "n1"
        spec.egress[0].ports[0].port: 53
        spec.egress[0].ports[0].protocol: "TCP"
        spec.podSelector: {}
        spec.policyTypes[0]: "Ingress"
        spec.policyTypes[1]: "Egress"
    "#]],
    );
    check(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r}, roleRef: {kind: Role, name: r}, subjects: [{kind: User, name: bob}, {kind: ServiceAccount, name: s}]}",
        expect![[r#"
        apiVersion: "rbac.authorization.k8s.io/v1"
        kind: "RoleBinding"
        metadata.name: "r"
        roleRef.apiGroup: "rbac.authorization.k8s.io"
        roleRef.kind: "Role"
        roleRef.name: "r"
        subjects[0].apiGroup: "rbac.authorization.k8s.io"
        subjects[0].kind: "User"
        subjects[0].name: "bob"
        subjects[1].kind: "ServiceAccount"
        subjects[1].name: "s"
    "#]],
    );
    check(
        "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: c}, spec: {}}",
        expect![[r#"
        apiVersion: "storage.k8s.io/v1"
        kind: "CSIDriver"
        metadata.generation: 1
        metadata.name: "c"
        spec.attachRequired: true
        spec.fsGroupPolicy: "ReadWriteOnceWithFSType"
        spec.podInfoOnMount: false
        spec.requiresRepublish: false
        spec.seLinuxMount: false
        spec.storageCapacity: false
        spec.volumeLifecycleModes[0]: "Persistent"
    "#]],
    );
    check(
        "{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: m}, webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {service: {name: s, namespace: n1}}, rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]}]}",
        expect![[r#"
        apiVersion: "admissionregistration.k8s.io/v1"
        kind: "MutatingWebhookConfiguration"
        metadata.generation: 1
        metadata.name: "m"
        webhooks[0].admissionReviewVersions[0]: "v1"
        webhooks[0].clientConfig.service.name: "s"
        webhooks[0].clientConfig.service.namespace: "n1"
        webhooks[0].clientConfig.service.port: 443
        webhooks[0].failurePolicy: "Fail"
        webhooks[0].matchPolicy: "Equivalent"
        webhooks[0].name: "a.b.c"
        webhooks[0].namespaceSelector: {}
        webhooks[0].objectSelector: {}
        webhooks[0].reinvocationPolicy: "Never"
        webhooks[0].rules[0].apiGroups[0]: ""
        webhooks[0].rules[0].apiVersions[0]: "v1"
        webhooks[0].rules[0].operations[0]: "CREATE"
        webhooks[0].rules[0].resources[0]: "pods"
        webhooks[0].rules[0].scope: "*"
        webhooks[0].sideEffects: "None"
        webhooks[0].timeoutSeconds: 10
    "#]],
    );
    check(
        "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.example.com}, spec: {group: example.com, scope: Namespaced, names: {kind: Widget, plural: widgets}, versions: [{name: v1, served: true, storage: true}]}}",
        expect![[r#"
        apiVersion: "apiextensions.k8s.io/v1"
        kind: "CustomResourceDefinition"
        metadata.generation: 1
        metadata.name: "widgets.example.com"
        spec.conversion.strategy: "None"
        spec.group: "example.com"
        spec.names.kind: "Widget"
        spec.names.listKind: "WidgetList"
        spec.names.plural: "widgets"
        spec.names.singular: "widget"
        spec.scope: "Namespaced"
        spec.versions[0].name: "v1"
        spec.versions[0].served: true
        spec.versions[0].storage: true
        status.acceptedNames.kind: ""
        status.acceptedNames.plural: ""
        status.conditions: []
        status.storedVersions[0]: "v1"
    "#]],
    );
    check(
        "{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: p}, spec: {type: Limited, limited: {limitResponse: {type: Queue, queuing: {}}}}}",
        expect![[r#"
        apiVersion: "flowcontrol.apiserver.k8s.io/v1"
        kind: "PriorityLevelConfiguration"
        metadata.generation: 1
        metadata.name: "p"
        spec.limited.lendablePercent: 0
        spec.limited.limitResponse.queuing.handSize: 8
        spec.limited.limitResponse.queuing.queueLengthLimit: 50
        spec.limited.limitResponse.queuing.queues: 64
        spec.limited.limitResponse.type: "Queue"
        spec.limited.nominalConcurrencyShares: 30
        spec.type: "Limited"
        status: {}
    "#]],
    );
}
