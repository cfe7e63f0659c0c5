//! What is wrong with objects that are no workloads, in upstream's words.

use expect_test::{Expect, expect};

mod common;

fn check(yaml: &str, expected: Expect) {
    expected.assert_eq(&common::faults(yaml));
}

fn check_update(old: &str, new: &str, expected: Expect) {
    expected.assert_eq(&common::update_faults(old, new));
}

#[test]
fn services() {
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 99999}]}}",
        expect![[r#"
        spec.ports[0].port: Invalid value: 99999: must be between 1 and 65535, inclusive
        spec.ports[0].targetPort: Invalid value: 99999: must be between 1 and 65535, inclusive
    "#]],
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {}}",
        expect![[r#"
        spec.ports: Required value
    "#]],
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: NodePort, clusterIP: None, ports: [{port: 80}, {port: 80, name: A, nodePort: 30000, targetPort: BAD}], sessionAffinity: Maybe}}",
        expect![[r#"
            spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services
            spec.ports[0].name: Required value
            spec.ports[1].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.ports[1].targetPort: Invalid value: "BAD": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
            spec.ports[1].targetPort: Invalid value: "BAD": must contain at least one letter (a-z)
            spec.sessionAffinity: Unsupported value: "Maybe": supported values: "ClientIP", "None"
            spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {type: ExternalName, externalName: 'a_b'}}",
        expect![[r#"
            spec.externalName: Invalid value: "a_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {externalTrafficPolicy: Local, loadBalancerClass: a/b, externalIPs: [127.0.0.1, x], ports: [{port: 80, nodePort: 30000}]}}",
        expect![[r#"
            spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
            spec.externalIPs[1]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
            spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
        expect![[""]],
    );
    check_update(
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.1], ports: [{port: 80}]}}",
        expect![[r#"
            spec.clusterIPs[0]: Invalid value: ["10.96.0.2"]: may not change once set
        "#]],
    );
    check_update(
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 81}]}}",
        expect![[""]],
    );
}

#[test]
fn configuration() {
    check(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: k}, data: {a/b: c, d: e}, binaryData: {d: Zg==}}",
        expect![[r#"
            data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            data[d]: Invalid value: "d": duplicate of key present in binaryData
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Secret, metadata: {name: t}, type: kubernetes.io/tls}",
        expect![[r#"
        data[tls.crt]: Required value
        data[tls.key]: Required value
    "#]],
    );
    check(
        "{apiVersion: v1, kind: Secret, metadata: {name: t}, type: kubernetes.io/dockerconfigjson, data: {.dockerconfigjson: eA==}}",
        expect![[r#"
            data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": expected value at line 1 column 1
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Secret, metadata: {name: t}, type: kubernetes.io/service-account-token}",
        expect![[r#"
            metadata.annotations[kubernetes.io/service-account.name]: Required value
        "#]],
    );
    check_update(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: k}, immutable: true, data: {a: b}}",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: k}, data: {a: c}}",
        expect![[r#"
            immutable: Forbidden: field is immutable when `immutable` is set
            data: Forbidden: field is immutable when `immutable` is set
        "#]],
    );
    check_update(
        "{apiVersion: v1, kind: Secret, metadata: {name: t}, type: a}",
        "{apiVersion: v1, kind: Secret, metadata: {name: t}, type: b}",
        expect![[r#"
            type: Invalid value: "b": field is immutable
        "#]],
    );
    check_update(
        "{apiVersion: v1, kind: Secret, metadata: {name: t}, type: a}",
        "{apiVersion: v1, kind: Secret, metadata: {name: t}, data: {a: Yg==}}",
        expect![[r#"
            type: Invalid value: "Opaque": field is immutable
        "#]],
    );
}

#[test]
fn roles() {
    check(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r}, rules: [{verbs: []}, {verbs: [get], nonResourceURLs: [/a]}]}",
        expect![[r#"
            rules[0].verbs: Required value: verbs must contain at least one value
            rules[0].apiGroups: Required value: resource rules must supply at least one api group
            rules[0].resources: Required value: resource rules must supply at least one resource
            rules[1].nonResourceURLs: Invalid value: ["/a"]: namespaced rules cannot apply to non-resource URLs
        "#]],
    );
    check(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: r}, roleRef: {apiGroup: x, kind: Role, name: ''}, subjects: [{kind: ServiceAccount, name: s}, {kind: Robot, name: r}]}",
        expect![[r#"
            roleRef.apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"
            roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"
            roleRef.name: Required value
            subjects[0].namespace: Required value
            subjects[1].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"
        "#]],
    );
    check_update(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r}, roleRef: {kind: Role, name: a}}",
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r}, roleRef: {kind: Role, name: b}}",
        expect![[r#"
            roleRef: Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"b"}: cannot change roleRef
        "#]],
    );
}

#[test]
fn storage() {
    check(
        "{apiVersion: v1, kind: PersistentVolume, metadata: {name: p}, spec: {}}",
        expect![[r#"
            spec.accessModes: Required value
            spec.capacity: Required value
            spec.capacity: Unsupported value: null: supported values: "storage"
            spec: Required value: must specify a volume type
        "#]],
    );
    check(
        "{apiVersion: v1, kind: PersistentVolume, metadata: {name: p}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce, Sometimes], hostPath: {path: /a}, nfs: {server: a, path: /b}}}",
        expect![[r#"
            spec.accessModes: Unsupported value: "Sometimes": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"
            spec.nfs: Forbidden: may not specify more than 1 volume type
        "#]],
    );
    check(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p}, spec: {accessModes: [ReadWriteOnce, ReadWriteOncePod], resources: {requests: {storage: 0}}}}",
        expect![[r#"
            spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes
            spec.resources[storage]: Invalid value: "0": must be greater than zero
        "#]],
    );
    check(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p}, spec: {}}",
        expect![[r#"
            spec.accessModes: Required value: at least 1 access mode is required
            spec.resources[storage]: Required value
        "#]],
    );
    check(
        "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: s}, provisioner: '', reclaimPolicy: Keep}",
        expect![[r#"
            provisioner: Required value
            reclaimPolicy: Unsupported value: "Keep": supported values: "Delete", "Retain"
        "#]],
    );
    check_update(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}}",
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p}, spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}}",
        expect![[r#"
            spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims

        "#]],
    );
}

#[test]
fn network() {
    check(
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {rules: [{host: 1.2.3.4, http: {paths: [{path: a, pathType: Prefix, backend: {}}, {path: /a, backend: {service: {name: s, port: {}}}}]}}]}}",
        expect![[r#"
            spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address
            spec.rules[0].http.paths[0].path: Invalid value: "a": must be an absolute path
            spec.rules[0].http.paths[0].backend: Required value: service or resource backend is required
            spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified
            spec.rules[0].http.paths[1].backend.service.port: Required value: port name or number is required
        "#]],
    );
    check(
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {}}",
        expect![[r#"
        spec: Invalid value: null: either `defaultBackend` or `rules` must be specified
    "#]],
    );
    check(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {policyTypes: [Sideways], ingress: [{from: [{}, {ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}, podSelector: {}}], ports: [{port: 80, endPort: 70}]}]}}",
        expect![[r#"
            spec.ingress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`
            spec.ingress[0].from[0]: Required value: must specify a peer
            spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`
            spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer
            spec.policyTypes[0]: Unsupported value: "Sideways": supported values: "Ingress", "Egress"
        "#]],
    );
    check(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, endpoints: [{addresses: []}, {addresses: ['::1']}], ports: [{}, {}]}",
        expect![[r#"
            endpoints[0].addresses: Required value: must contain at least 1 address
            endpoints[1].addresses[0]: Invalid value: "::1": must be an IPv4 address
            ports[1].name: Duplicate value: ""
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Endpoints, metadata: {name: e}, subsets: [{}, {addresses: [{ip: x}], ports: [{port: 0}]}]}",
        expect![[r#"
            subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`
            subsets[1].addresses[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
        "#]],
    );
}

#[test]
fn policies() {
    check(
        "{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [{type: Container, min: {cpu: 2}, max: {cpu: 1}}]}}",
        expect![[r#"
            spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1
            spec.limits[0].defaultRequest[cpu]: Invalid value: "1": min value 2 is greater than default request value 1
            spec.limits[0].default[cpu]: Invalid value: "1": min value 2 is greater than default value 1
        "#]],
    );
    check(
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: -1, nonsense: 1}, scopes: [Odd]}}",
        expect![[r#"
            spec.hard[nonsense]: Invalid value: "nonsense": must be a standard resource type or fully qualified
            spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0
            spec.scopes: Invalid value: ["Odd"]: unsupported scope
        "#]],
    );
    check(
        "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: p}, spec: {minAvailable: 1, maxUnavailable: 101%}}",
        expect![[r#"
            spec: Invalid value: {"maxUnavailable":"101%","minAvailable":1}: minAvailable and maxUnavailable cannot be both set
            spec.maxUnavailable: Invalid value: "101%": must not be greater than 100%
        "#]],
    );
    check(
        "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {minReplicas: 3, maxReplicas: 2, scaleTargetRef: {kind: '', name: a}, metrics: [{type: Resource}, {type: Odd}]}}",
        expect![[r#"
            spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`
            spec.scaleTargetRef.kind: Required value
            spec.metrics[0].resource: Required value: must populate information for the given metric source
            spec.metrics[1].type: Unsupported value: "Odd": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"
        "#]],
    );
    check(
        "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: system-mine}, value: 5}",
        expect![[r#"
            metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class
        "#]],
    );
    check(
        "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: mine}, value: 2000000000}",
        expect![[r#"
            value: Forbidden: maximum allowed value of a user defined priority is 1000000000
        "#]],
    );
}

#[test]
fn extensions() {
    check(
        "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: wrong}, spec: {group: example.com, scope: Galaxy, names: {kind: Widget, plural: widgets}, versions: [{name: v1, served: true, storage: false, schema: {openAPIV3Schema: {type: object, properties: {a: {}}}}}, {name: v2, served: true, storage: false}]}}",
        expect![[r#"
            metadata.name: Invalid value: "wrong": must be spec.names.plural+"."+spec.group
            spec.scope: Unsupported value: "Galaxy": supported values: "Cluster", "Namespaced"
            spec.versions: Invalid value: [{"name":"v1","schema":{"openAPIV3Schema":{"properties":{"a":{}},"type":"object"}},"served":true,"storage":false},{"name":"v2","served":true,"storage":false}]: must have exactly one version marked as storage version
            spec.versions[1].schema.openAPIV3Schema: Required value: schemas are required
            spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields
        "#]],
    );
    check(
        "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: v}, webhooks: [{name: a, clientConfig: {}, admissionReviewVersions: [], sideEffects: Some, timeoutSeconds: 31}]}",
        expect![[r#"
            webhooks[0].name: Invalid value: "a": should be a domain with at least three segments separated by dots
            webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"
            webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds
            webhooks[0].clientConfig: Required value: exactly one of url or service is required
            webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1
        "#]],
    );
    check(
        "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: x}, spec: {group: g.io, version: v1, groupPriorityMinimum: 0, versionPriority: 1}}",
        expect![[r#"
            metadata.name: Invalid value: "x": must be `spec.version+"."+spec.group`: "v1.g.io"
            spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000
        "#]],
    );
    check(
        "{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: c}, spec: {request: YQ==, signerName: x}}",
        expect![[r#"
            spec.request: Invalid value: "YQ==": PEM block type must be CERTIFICATE REQUEST
            spec.usages: Required value: usages must be provided
            spec.signerName: Invalid value: "x": must be a fully qualified domain and path of the form 'example.com/signer-name'
        "#]],
    );
    check(
        "{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: a}, spec: {attacher: '', nodeName: n1, source: {}}}",
        expect![[r#"
            spec.attacher: Required value
            spec.attacher: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName
        "#]],
    );
    check(
        "{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {taints: [{key: a, effect: Odd}, {key: a, effect: NoExecute}, {key: a, effect: NoExecute}]}}",
        expect![[r#"
            metadata.taints[0].effect: Unsupported value: "Odd": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            metadata.taints[2]: Duplicate value: {"effect":"NoExecute","key":"a"}: taints must be unique by key and effect pair
        "#]],
    );
    check(
        "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l}, spec: {leaseDurationSeconds: 0, holderIdentity: ''}}",
        expect![[r#"
            spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0
            spec.holderIdentity: Invalid value: "": must not be empty
        "#]],
    );
}
