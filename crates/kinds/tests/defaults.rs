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
            spec.ipFamilies[0]: "IPv4"
            spec.ipFamilyPolicy: "SingleStack"
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
        spec.ipFamilies[0]: "IPv4"
        spec.ipFamilies[1]: "IPv6"
        spec.ipFamilyPolicy: "RequireDualStack"
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
