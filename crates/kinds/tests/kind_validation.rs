//! One bad object for each rule: what was wrong, and what is said of it. The bad part is put into an object that is good.

use expect_test::expect;

mod common;

use common::{each, each_change};

#[test]
fn workloads() {
    let job = "{apiVersion: batch/v1, kind: Job, metadata: {name: j, uid: u}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: i}]}}, @}}";
    each(
        job,
        &[
            "completions: -1, parallelism: -1, backoffLimit: -1",
            "completionMode: Indexed",
            "completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: '0,5', succeededCount: 4}, {}]}",
            "completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: 2-1}, {succeededIndexes: '0-1', succeededCount: 3}]}",
            "completionMode: Indexed, completions: 3, maxFailedIndexes: 4, backoffLimitPerIndex: 1",
            "managedBy: me",
            "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [0, 2, 1, 1], containerName: x}}, {action: Odd}]}",
            "podReplacementPolicy: Sometimes",
            "manualSelector: true",
        ],
        expect![[r##"
            # completions: -1, parallelism: -1, backoffLimit: -1
            spec.parallelism: Invalid value: -1: must be greater than or equal to 0
            spec.completions: Invalid value: -1: must be greater than or equal to 0
            spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0
            # completionMode: Indexed
            fine
            # completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: '0,5', succeededCount: 4}, {}]}
            spec.successPolicy.rules[0].succeededIndexes: Invalid value: "0,5": error parsing succeededIndexes: too large index: "5"
            spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)
            spec.successPolicy.rules[1]: Required value: at least one of succeededCount or succeededIndexes must be specified
            # completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: 2-1}, {succeededIndexes: '0-1', succeededCount: 3}]}
            spec.successPolicy.rules[0].succeededIndexes: Invalid value: "2-1": error parsing succeededIndexes: non-increasing order, previous: 2, current: 1
            spec.successPolicy.rules[1].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)
            # completionMode: Indexed, completions: 3, maxFailedIndexes: 4, backoffLimitPerIndex: 1
            spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions
            # managedBy: me
            spec.managedBy: Invalid value: "me": must be a domain-prefixed path (such as "acme.io/foo")
            # podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [0, 2, 1, 1], containerName: x}}, {action: Odd}]}
            spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "x": must be one of the container or initContainer names in the pod template
            spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator
            spec.podFailurePolicy.rules[0].onExitCodes.values[3]: Duplicate value: 1
            spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [0,2,1,1]: must be ordered
            spec.podFailurePolicy.rules[1].action: Unsupported value: "Odd": supported values: "Count", "FailIndex", "FailJob", "Ignore"
            spec.podFailurePolicy.rules[1]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required
            # podReplacementPolicy: Sometimes
            spec.podReplacementPolicy: Unsupported value: "Sometimes": supported values: "Failed", "TerminatingOrFailed"
            # manualSelector: true
            spec.selector: Required value
            spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`
        "##]],
    );
    let status = "{apiVersion: batch/v1, kind: Job, metadata: {name: j, uid: u}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: i}]}}}, status: {@}}";
    each_change(
        status,
        "status",
        &[
            ("", "active: -1, ready: 2"),
            ("", "conditions: [{type: Complete, status: 'True'}], active: 1"),
            ("", "completionTime: '2026-01-01T00:00:00Z'"),
            (
                "",
                "conditions: [{type: Complete, status: 'True'}, {type: Failed, status: 'True'}], startTime: '2026-01-01T00:00:00Z', completionTime: '2026-01-01T00:00:00Z'",
            ),
        ],
        expect![[r##"
            #  -> active: -1, ready: 2
            status.active: Invalid value: -1: must be greater than or equal to 0
            status.ready: Invalid value: 2: cannot set more ready pods than active
            #  -> conditions: [{type: Complete, status: 'True'}], active: 1
            status.active: Invalid value: 1: active>0 is invalid for finished job
            status.startTime: Required value: startTime is required for finished job
            status.completionTime: Required value: completionTime is required for Complete jobs
            #  -> completionTime: '2026-01-01T00:00:00Z'
            status.completionTime: Invalid value: "2026-01-01T00:00:00Z": cannot set completionTime when there is no Complete=True condition
            #  -> conditions: [{type: Complete, status: 'True'}, {type: Failed, status: 'True'}], startTime: '2026-01-01T00:00:00Z', completionTime: '2026-01-01T00:00:00Z'
            status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions
        "##]],
    );
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: i}]}}}, status: {@}}";
    each_change(
        deployment,
        "status",
        &[("", "replicas: 1, updatedReplicas: 2, readyReplicas: 1, availableReplicas: 2, unavailableReplicas: -1")],
        expect![[r#"
            #  -> replicas: 1, updatedReplicas: 2, readyReplicas: 1, availableReplicas: 2, unavailableReplicas: -1
            status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas
            status.availableReplicas: Invalid value: 2: cannot be greater than status.replicas
            status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas
            status.unavailableReplicas: Invalid value: -1: must be greater than or equal to 0
        "#]],
    );
    let scaler = "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: h}, spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}, @}}";
    each(
        scaler,
        &[
            "minReplicas: 0",
            "metrics: [{type: Odd}]",
            "metrics: [{type: Pods, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]",
            "metrics: [{type: Resource, resource: {name: '', target: {type: Utilization, averageUtilization: 0, averageValue: 1}}}]",
            "metrics: [{type: Pods, pods: {metric: {name: ''}, target: {type: AverageValue}}}]",
            "metrics: [{type: External, external: {metric: {name: a}, target: {type: Odd, value: 1, averageValue: 2}}}]",
            "metrics: [{type: ContainerResource, containerResource: {name: cpu, container: '', target: {type: Utilization}}}]",
            "metrics: [{type: Object, object: {describedObject: {kind: A}, metric: {name: a}, target: {type: Value, value: -1}}}]",
            "behavior: {scaleUp: {stabilizationWindowSeconds: 3601, selectPolicy: Some, tolerance: -1, policies: [{type: Odd, value: 0, periodSeconds: 1801}]}}",
        ],
        expect![[r##"
            # minReplicas: 0
            spec.minReplicas: Invalid value: 0: must be greater than or equal to 1
            # metrics: [{type: Odd}]
            spec.metrics[0].type: Unsupported value: "Odd": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"
            # metrics: [{type: Pods, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
            spec.metrics[0].pods: Required value: must populate information for the given metric source
            # metrics: [{type: Resource, resource: {name: '', target: {type: Utilization, averageUtilization: 0, averageValue: 1}}}]
            spec.metrics[0].resource.name: Required value: must specify a resource name
            spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0
            spec.metrics[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization
            # metrics: [{type: Pods, pods: {metric: {name: ''}, target: {type: AverageValue}}}]
            spec.metrics[0].pods.metric.name: Required value: must specify a metric name
            spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue
            # metrics: [{type: External, external: {metric: {name: a}, target: {type: Odd, value: 1, averageValue: 2}}}]
            spec.metrics[0].external.target.type: Invalid value: "Odd": must be either Utilization, Value, or AverageValue
            spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target
            # metrics: [{type: ContainerResource, containerResource: {name: cpu, container: '', target: {type: Utilization}}}]
            spec.metrics[0].containerResource.container: Required value: must specify a container
            spec.metrics[0].containerResource.target.averageUtilization: Required value: must set either a target raw value or a target utilization
            # metrics: [{type: Object, object: {describedObject: {kind: A}, metric: {name: a}, target: {type: Value, value: -1}}}]
            spec.metrics[0].object.describedObject.name: Required value
            spec.metrics[0].object.target.value: Invalid value: "-1": must be positive
            # behavior: {scaleUp: {stabilizationWindowSeconds: 3601, selectPolicy: Some, tolerance: -1, policies: [{type: Odd, value: 0, periodSeconds: 1801}]}}
            spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600
            spec.behavior.scaleUp.selectPolicy: Unsupported value: "Some": supported values: "Disabled", "Max", "Min"
            spec.behavior.scaleUp.tolerance: Invalid value: "-1": must be greater or equal to zero
            spec.behavior.scaleUp.policies[0].type: Unsupported value: "Odd": supported values: "Percent", "Pods"
            spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero
            spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800
        "##]],
    );
}

#[test]
fn network() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s, annotations: {@}}, spec: {ports: [{port: 80}]}}";
    each(
        service,
        &[
            "service.kubernetes.io/topology-mode: Auto, service.kubernetes.io/topology-aware-hints: auto",
            "service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0/8",
        ],
        expect![[r##"
            # service.kubernetes.io/topology-mode: Auto, service.kubernetes.io/topology-aware-hints: auto
            metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: "Auto": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified
            # service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0/8
            metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only be used when `type` is 'LoadBalancer'
        "##]],
    );
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 80}], @}}";
    each(
        service,
        &[
            "clusterIPs: [10.96.0.1]",
            "clusterIP: None, clusterIPs: [None, 10.96.0.1]",
            "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 10.96.0.2], ipFamilies: [IPv4, IPv4]",
            "clusterIP: 10.96.0.1, ipFamilies: [IPv6]",
            "ipFamilies: [IPv5], ipFamilyPolicy: Both",
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
            "type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.1/8], loadBalancerClass: a b",
            "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 70000",
            "internalTrafficPolicy: Odd, trafficDistribution: Odd",
            "externalIPs: [169.254.0.1, '::ffff:1.2.3.4']",
        ],
        expect![[r##"
            # clusterIPs: [10.96.0.1]
            spec.clusterIPs: Invalid value: ["10.96.0.1"]: must be empty when `clusterIP` is not specified
            # clusterIP: None, clusterIPs: [None, 10.96.0.1]
            spec.clusterIPs: Invalid value: ["None","10.96.0.1"]: 'None' must be the first and only value
            # clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 10.96.0.2], ipFamilies: [IPv4, IPv4]
            spec.ipFamilies[1]: Duplicate value: "IPv4"
            spec.clusterIPs: Invalid value: ["10.96.0.1","10.96.0.2"]: may specify no more than one IP for each IP family
            # clusterIP: 10.96.0.1, ipFamilies: [IPv6]
            spec.clusterIPs[0]: Invalid value: "10.96.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`
            # ipFamilies: [IPv5], ipFamilyPolicy: Both
            spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"
            spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"
            # sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}
            spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400
            # type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.1/8], loadBalancerClass: a b
            spec.loadBalancerClass: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length
            # type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 70000
            spec.healthCheckNodePort: Invalid value: 70000: must be between 1 and 65535, inclusive
            # internalTrafficPolicy: Odd, trafficDistribution: Odd
            spec.internalTrafficPolicy: Unsupported value: "Odd": supported values: "Cluster", "Local"
            spec.trafficDistribution: Unsupported value: "Odd": supported values: "PreferClose", "PreferSameNode", "PreferSameZone"
            # externalIPs: [169.254.0.1, '::ffff:1.2.3.4']
            spec.externalIPs[0]: Invalid value: "169.254.0.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)
            spec.externalIPs[1]: Invalid value: "::ffff:1.2.3.4": must not be an IPv4-mapped IPv6 address
        "##]],
    );
    each_change(
        service,
        "",
        &[
            ("clusterIP: 10.96.0.1", "clusterIP: 10.96.0.2"),
            (
                "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, '::1'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack",
                "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack",
            ),
            ("type: LoadBalancer, loadBalancerClass: a.b/c", "type: LoadBalancer, loadBalancerClass: a.b/d"),
            ("type: LoadBalancer", "type: LoadBalancer, loadBalancerClass: a.b/d"),
            (
                "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000",
                "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31001",
            ),
        ],
        expect![[r##"
            # clusterIP: 10.96.0.1 -> clusterIP: 10.96.0.2
            spec.clusterIPs[0]: Invalid value: ["10.96.0.2"]: may not change once set
            # clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, '::1'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack -> clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack
            spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be set to 'SingleStack' when releasing the secondary clusterIP
            # type: LoadBalancer, loadBalancerClass: a.b/c -> type: LoadBalancer, loadBalancerClass: a.b/d
            spec.loadBalancerClass: Invalid value: "a.b/d": may not change once set
            # type: LoadBalancer -> type: LoadBalancer, loadBalancerClass: a.b/d
            spec.loadBalancerClass: Invalid value: "a.b/d": may not change once set
            # type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000 -> type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31001
            spec.healthCheckNodePort: Forbidden: field is immutable
        "##]],
    );
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv4, endpoints: [{@}]}";
    each(
        slice,
        &[
            "addresses: []",
            "addresses: ['::1', 127.0.0.1, x]",
            "addresses: [10.0.0.1], hostname: A, nodeName: B, hints: {forZones: [{name: a}, {name: a}], forNodes: [{name: A}]}",
        ],
        expect![[r##"
            # addresses: []
            endpoints[0].addresses: Required value: must contain at least 1 address
            # addresses: ['::1', 127.0.0.1, x]
            endpoints[0].addresses[0]: Invalid value: "::1": must be an IPv4 address
            endpoints[0].addresses[1]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
            endpoints[0].addresses[2]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            # addresses: [10.0.0.1], hostname: A, nodeName: B, hints: {forZones: [{name: a}, {name: a}], forNodes: [{name: A}]}
            endpoints[0].nodeName: Invalid value: "B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            endpoints[0].hostname: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            endpoints[0].hints.forZones[1].name: Duplicate value: "a"
            endpoints[0].hints.forNodes[0].name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        "##]],
    );
    let ingress = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, annotations: {kubernetes.io/ingress.class: a}}, spec: {@}}";
    each(
        ingress,
        &[
            "defaultBackend: {resource: {apiGroup: A, kind: K, name: a/b}}, ingressClassName: b",
            "rules: [{host: '1.2.3.4', http: {paths: [{path: a//b, pathType: Exact, backend: {service: {name: s, port: {}}}}]}}]",
        ],
        expect![[r##"
            # defaultBackend: {resource: {apiGroup: A, kind: K, name: a/b}}, ingressClassName: b
            spec.defaultBackend.resource.apiGroup: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.defaultBackend.resource.name: Invalid value: "a/b": may not contain '/'
            annotations.kubernetes.io/ingress.class: Invalid value: "a": must match `ingressClassName` when both are specified
            # rules: [{host: '1.2.3.4', http: {paths: [{path: a//b, pathType: Exact, backend: {service: {name: s, port: {}}}}]}}]
            spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address
            spec.rules[0].http.paths[0].path: Invalid value: "a//b": must be an absolute path
            spec.rules[0].http.paths[0].path: Invalid value: "a//b": must not contain '//'
            spec.rules[0].http.paths[0].backend.service.port: Required value: port name or number is required
        "##]],
    );
}

#[test]
fn storage() {
    let class = "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: c}, provisioner: a.b/c, @}";
    each(
        class,
        &[
            "volumeBindingMode: Odd, reclaimPolicy: Recycle",
            "allowedTopologies: [{matchLabelExpressions: [{key: a, values: [x, x]}, {key: a, values: []}]}]",
            "parameters: {'': x}",
        ],
        expect![[r##"
            # volumeBindingMode: Odd, reclaimPolicy: Recycle
            reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"
            volumeBindingMode: Unsupported value: "Odd": supported values: "Immediate", "WaitForFirstConsumer"
            # allowedTopologies: [{matchLabelExpressions: [{key: a, values: [x, x]}, {key: a, values: []}]}]
            allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "x"
            allowedTopologies[0].matchLabelExpressions[1].values: Required value
            allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: "a"
            # parameters: {'': x}
            parameters: Invalid value: "": field can not be empty.
        "##]],
    );
    let driver = "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: A.b}, spec: {@}}";
    each(
        driver,
        &[
            "fsGroupPolicy: Odd, volumeLifecycleModes: [Odd]",
            "tokenRequests: [{audience: a, expirationSeconds: 1}, {audience: a}], nodeAllocatableUpdatePeriodSeconds: 1",
        ],
        expect![[r##"
            # fsGroupPolicy: Odd, volumeLifecycleModes: [Odd]
            spec.fsGroupPolicy: Unsupported value: "Odd": supported values: "File", "None", "ReadWriteOnceWithFSType"
            spec.volumeLifecycleModes: Unsupported value: "Odd": supported values: "Ephemeral", "Persistent"
            # tokenRequests: [{audience: a, expirationSeconds: 1}, {audience: a}], nodeAllocatableUpdatePeriodSeconds: 1
            spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes
            spec.tokenRequests[1].audience: Duplicate value: "a"
            spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 1: must be greater than or equal to 10
        "##]],
    );
    each_change(
        driver,
        "",
        &[("attachRequired: true", "attachRequired: false")],
        expect![[r#"
        # attachRequired: true -> attachRequired: false
        spec.attachedRequired: Invalid value: false: field is immutable
    "#]],
    );
    let node = "{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: node}, spec: {drivers: [@]}}";
    each(
        node,
        &["{name: a, nodeID: ''}, {name: a, nodeID: b, topologyKeys: [x, x], allocatable: {count: -1}}"],
        expect![[r##"
            # {name: a, nodeID: ''}, {name: a, nodeID: b, topologyKeys: [x, x], allocatable: {count: -1}}
            spec.drivers[0].nodeID: Required value
            spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0
            spec.drivers[1].name: Duplicate value: "a"
            spec.drivers[1].topologyKeys: Duplicate value: "x"
        "##]],
    );
    each_change(
        node,
        "",
        &[("{name: a, nodeID: b}", "{name: a, nodeID: c}")],
        expect![[r##"
        # {name: a, nodeID: b} -> {name: a, nodeID: c}
        CSINodeDriver: Invalid value: {"name":"a","nodeID":"c","topologyKeys":null}: field is immutable
    "##]],
    );
    let volume = "{apiVersion: v1, kind: PersistentVolume, metadata: {name: p}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], @}}";
    each(
        volume,
        &[
            "csi: {driver: d, volumeHandle: '', nodePublishSecretRef: {name: A}}",
            "hostPath: {path: /}, persistentVolumeReclaimPolicy: Recycle",
            "local: {path: ../a}",
            "nfs: {server: s, path: /a}, volumeAttributesClassName: ''",
            "hostPath: {path: /a}, nodeAffinity: {}",
        ],
        expect![[r##"
            # csi: {driver: d, volumeHandle: '', nodePublishSecretRef: {name: A}}
            spec.csi.volumeHandle: Required value
            spec.csi.nodePublishSecretRef.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.csi.nodePublishSecretRef.namespace: Required value
            # hostPath: {path: /}, persistentVolumeReclaimPolicy: Recycle
            spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'
            # local: {path: ../a}
            spec.local.path: Invalid value: "../a": must not contain '..'
            spec.nodeAffinity: Required value: Local volume requires node affinity
            # nfs: {server: s, path: /a}, volumeAttributesClassName: ''
            spec.volumeAttributesClassName: Required value: an empty string is disallowed
            spec.csi: Required value: has to be specified when using volumeAttributesClassName
            # hostPath: {path: /a}, nodeAffinity: {}
            spec.nodeAffinity.required: Required value: must specify required node constraints
        "##]],
    );
    each_change(
        volume,
        "",
        &[
            ("hostPath: {path: /a}", "hostPath: {path: /b}"),
            (
                "csi: {driver: d, volumeHandle: h}",
                "csi: {driver: d, volumeHandle: h, controllerExpandSecretRef: {name: a, namespace: b}}",
            ),
            ("hostPath: {path: /a}, volumeMode: Block", "hostPath: {path: /a}"),
        ],
        expect![[r##"
            # hostPath: {path: /a} -> hostPath: {path: /b}
            spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation

            # csi: {driver: d, volumeHandle: h} -> csi: {driver: d, volumeHandle: h, controllerExpandSecretRef: {name: a, namespace: b}}
            fine
            # hostPath: {path: /a}, volumeMode: Block -> hostPath: {path: /a}
            volumeMode: Invalid value: "Filesystem": field is immutable
        "##]],
    );
    let claim = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p}, spec: {resources: {requests: {storage: 1Gi}}, @}}";
    each(
        claim,
        &[
            "accessModes: []",
            "accessModes: [ReadWriteOnce], dataSource: {kind: Odd, name: a}",
            "accessModes: [ReadWriteOncePod, ReadWriteOnce], dataSource: {kind: PersistentVolumeClaim, name: a}, dataSourceRef: {kind: PersistentVolumeClaim, name: b}",
        ],
        expect![[r##"
            # accessModes: []
            spec.accessModes: Required value: at least 1 access mode is required
            # accessModes: [ReadWriteOnce], dataSource: {kind: Odd, name: a}
            spec.dataSource: Invalid value: "Odd": must be 'PersistentVolumeClaim' when referencing the default apiGroup
            spec.dataSourceRef: Invalid value: "Odd": must be 'PersistentVolumeClaim' when referencing the default apiGroup
            # accessModes: [ReadWriteOncePod, ReadWriteOnce], dataSource: {kind: PersistentVolumeClaim, name: a}, dataSourceRef: {kind: PersistentVolumeClaim, name: b}
            spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes
            spec: Invalid value: "spec.dataSource": must match dataSourceRef
        "##]],
    );
    let attachment = "{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: a}, spec: {attacher: d, nodeName: node, source: {persistentVolumeName: v}}, @}";
    each_change(
        attachment,
        "",
        &[("status: {attached: true}", "status: {attached: true, attachmentMetadata: {a: b}}")],
        expect![[r#"
            # status: {attached: true} -> status: {attached: true, attachmentMetadata: {a: b}}
            fine
        "#]],
    );
}

#[test]
fn access_and_extension() {
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: r}, @}";
    each(
        role,
        &["aggregationRule: {clusterRoleSelectors: []}", "rules: [{verbs: [], nonResourceURLs: [/a], resources: [b]}]"],
        expect![[r##"
            # aggregationRule: {clusterRoleSelectors: []}
            aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil
            # rules: [{verbs: [], nonResourceURLs: [/a], resources: [b]}]
            rules[0].verbs: Required value: verbs must contain at least one value
            rules[0].nonResourceURLs: Invalid value: ["/a"]: rules cannot apply to both regular resources and non-resource URLs
        "##]],
    );
    let webhook = "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: w}, webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: 'https://a/b'}, @}]}";
    each(
        webhook,
        &[
            "rules: [{apiGroups: ['*', a], apiVersions: [''], operations: ['*', CREATE], resources: ['pods/*', pods/status, '*/*', '*', pods], scope: Odd}]",
            "matchConditions: [{name: a, expression: ' '}, {name: a, expression: 'true'}]",
            "namespaceSelector: {matchLabels: {'a b': c}}, timeoutSeconds: 31",
        ],
        expect![[r##"
            # rules: [{apiGroups: ['*', a], apiVersions: [''], operations: ['*', CREATE], resources: ['pods/*', pods/status, '*/*', '*', pods], scope: Odd}]
            webhooks[0].rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations
            webhooks[0].rules[0].apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other API groups
            webhooks[0].rules[0].apiVersions[0]: Required value
            webhooks[0].rules[0].resources[1]: Invalid value: "pods/status": if 'pods/*' is present, must not specify pods/status
            webhooks[0].rules[0].resources: Invalid value: ["pods/*","pods/status","*/*","*","pods"]: if '*/*' is present, must not specify other resources
            webhooks[0].rules[0].resources: Invalid value: ["pods/*","pods/status","*/*","*","pods"]: if '*' is present, must not specify other resources without subresources
            webhooks[0].rules[0].scope: Unsupported value: "Odd": supported values: "*", "Cluster", "Namespaced"
            # matchConditions: [{name: a, expression: ' '}, {name: a, expression: 'true'}]
            webhooks[0].matchConditions[0].expression: Required value
            webhooks[0].matchConditions[1].name: Duplicate value: "a"
            # namespaceSelector: {matchLabels: {'a b': c}}, timeoutSeconds: 31
            webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds
            webhooks[0].namespaceSelector.matchLabels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        "##]],
    );
    let client = "{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: w}, webhooks: [{name: a.b, sideEffects: Some, admissionReviewVersions: [v2, v2], clientConfig: {@}}]}";
    each(
        client,
        &["url: 'http://u@a/b?c#d'", "service: {name: s, path: a//b}", ""],
        expect![[r##"
        # url: 'http://u@a/b?c#d'
        webhooks[0].name: Invalid value: "a.b": should be a domain with at least three segments separated by dots
        webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"
        webhooks[0].clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]
        webhooks[0].clientConfig.url: Invalid value: "u": user information is not permitted in the URL
        webhooks[0].clientConfig.url: Invalid value: "d": fragments are not permitted in the URL
        webhooks[0].clientConfig.url: Invalid value: "c": query parameters are not permitted in the URL
        webhooks[0].admissionReviewVersions[1]: Invalid value: "v2": duplicate version
        webhooks[0].admissionReviewVersions: Invalid value: ["v2","v2"]: must include at least one of v1, v1beta1
        # service: {name: s, path: a//b}
        webhooks[0].name: Invalid value: "a.b": should be a domain with at least three segments separated by dots
        webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"
        webhooks[0].clientConfig.service.namespace: Required value: service namespace is required
        webhooks[0].clientConfig.service.path: Invalid value: "a//b": must start with a '/'
        webhooks[0].clientConfig.service.path: Invalid value: "a//b": segment[0] may not be empty
        webhooks[0].clientConfig.service.path: Invalid value: "a//b": segment[1] may not be empty
        webhooks[0].admissionReviewVersions[1]: Invalid value: "v2": duplicate version
        webhooks[0].admissionReviewVersions: Invalid value: ["v2","v2"]: must include at least one of v1, v1beta1
        # 
        webhooks[0].name: Invalid value: "a.b": should be a domain with at least three segments separated by dots
        webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"
        webhooks[0].clientConfig: Required value: exactly one of url or service is required
        webhooks[0].admissionReviewVersions[1]: Invalid value: "v2": duplicate version
        webhooks[0].admissionReviewVersions: Invalid value: ["v2","v2"]: must include at least one of v1, v1beta1
    "##]],
    );
    let policy = "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: p}, spec: {@}}";
    each(
        policy,
        &[
            "{}",
            "paramKind: {apiVersion: a/b/c, kind: ''}, matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}, validations: [{expression: '', message: \"a\\nb\", reason: Odd}], variables: [{name: in, expression: 'true'}], auditAnnotations: [{key: k, valueExpression: ''}]",
        ]
        .map(|part| part.trim_start_matches("{}")),
        expect![[r##"
            # 
            spec.matchConstraints: Required value
            spec.validations: Required value: validations or auditAnnotations must contain at least one item
            spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item
            # paramKind: {apiVersion: a/b/c, kind: ''}, matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}, validations: [{expression: '', message: "a\nb", reason: Odd}], variables: [{name: in, expression: 'true'}], auditAnnotations: [{key: k, valueExpression: ''}]
            spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c
            spec.paramKind.kind: Required value
            spec.variables[0].name: Invalid value: "in": name is not a valid CEL identifier
            spec.validations[0].expression: Required value: expression is not specified
            spec.validations[0].message: Invalid value: "a\nb": message must not contain line breaks
            spec.validations[0].reason: Unsupported value: "Odd": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"
            spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not specified
        "##]],
    );
    let binding = "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: b}, spec: {@}}";
    each(
        binding,
        &[
            "policyName: p",
            "policyName: p, validationActions: [Deny, Warn, Odd, Deny], paramRef: {name: a, selector: {}}",
        ],
        expect![[r##"
            # policyName: p
            spec.validationActions: Required value: at least one validation action is required
            # policyName: p, validationActions: [Deny, Warn, Odd, Deny], paramRef: {name: a, selector: {}}
            spec.paramRef.name: Forbidden: name and selector are mutually exclusive
            spec.paramRef.selector: Forbidden: name and selector are mutually exclusive
            spec.paramRef.parameterNotFoundAction: Required value
            spec.validationActions[2]: Unsupported value: "Odd": supported values: "Audit", "Deny", "Warn"
            spec.validationActions[3]: Duplicate value: "Deny"
            spec.validationActions: Invalid value: ["Deny","Warn","Odd","Deny"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)
        "##]],
    );
    let csr = "{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: c}, spec: {request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K, signerName: @, usages: [client auth, client auth, odd]}}";
    each(
        csr,
        &["kubernetes.io/legacy-unknown", "a/b", "a.b/C"],
        expect![[r##"
        # kubernetes.io/legacy-unknown
        spec.usages[1]: Duplicate value: "client auth"
        spec.usages[2]: Unsupported value: "odd": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"
        spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this API version
        # a/b
        spec.usages[1]: Duplicate value: "client auth"
        spec.usages[2]: Unsupported value: "odd": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"
        spec.signerName: Invalid value: "a": should be a domain with at least two segments separated by dots
        # a.b/C
        spec.usages[1]: Duplicate value: "client auth"
        spec.usages[2]: Unsupported value: "odd": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"
        spec.signerName: Invalid value: "C": validating label "C": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
    "##]],
    );
}

#[test]
fn requests_and_devices() {
    let schema = "{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: FlowSchema, metadata: {name: f}, spec: {priorityLevelConfiguration: {name: p}, @}}";
    each(
        schema,
        &[
            "matchingPrecedence: 1",
            "matchingPrecedence: 10001, distinguisherMethod: {type: Odd}",
            "rules: [{subjects: []}, {subjects: [{kind: User}, {kind: Odd}, {kind: ServiceAccount, serviceAccount: {name: a, namespace: ''}, user: {name: x}}], resourceRules: [{verbs: [odd], apiGroups: [], resources: ['*', a]}], nonResourceRules: [{verbs: ['*', get], nonResourceURLs: [a, /a*, '/a//b']}]}]",
        ],
        expect![[r##"
            # matchingPrecedence: 1
            spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1
            # matchingPrecedence: 10001, distinguisherMethod: {type: Odd}
            spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000
            spec.distinguisherMethod.type: Unsupported value: {"type":"Odd"}: supported values: "ByNamespace", "ByUser"
            # rules: [{subjects: []}, {subjects: [{kind: User}, {kind: Odd}, {kind: ServiceAccount, serviceAccount: {name: a, namespace: ''}, user: {name: x}}], resourceRules: [{verbs: [odd], apiGroups: [], resources: ['*', a]}], nonResourceRules: [{verbs: ['*', get], nonResourceURLs: [a, /a*, '/a//b']}]}]
            spec.rules[0].subjects: Required value: subjects must contain at least one value
            spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty
            spec.rules[1].subjects[0].user: Required value: user is required when subject kind is 'User'
            spec.rules[1].subjects[1].kind: Unsupported value: "Odd": supported values: "Group", "ServiceAccount", "User"
            spec.rules[1].subjects[2].serviceAccount.namespace: Required value: must specify namespace for service account
            spec.rules[1].subjects[2].user: Forbidden: user is forbidden when subject kind is not 'User'
            spec.rules[1].resourceRules[0].verbs: Unsupported value: ["odd"]: supported values: "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"
            spec.rules[1].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group
            spec.rules[1].resourceRules[0].resources: Invalid value: ["*","a"]: if '*' is present, must not specify other resources
            spec.rules[1].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace
            spec.rules[1].nonResourceRules[0].verbs: Invalid value: ["*","get"]: if '*' is present, must not specify other verbs
            spec.rules[1].nonResourceRules[0].nonResourceURLs[0]: Invalid value: "a": must start with slash
            spec.rules[1].nonResourceRules[0].nonResourceURLs[1]: Invalid value: "/a*": wildcard can only do suffix matching
            spec.rules[1].nonResourceRules[0].nonResourceURLs[2]: Invalid value: "/a//b": must not contain double slash
        "##]],
    );
    let level = "{apiVersion: flowcontrol.apiserver.k8s.io/v1, kind: PriorityLevelConfiguration, metadata: {name: l}, spec: {@}}";
    each(
        level,
        &[
            "type: Exempt",
            "type: Limited",
            "type: Limited, limited: {lendablePercent: 101, borrowingLimitPercent: -1, limitResponse: {type: Queue, queuing: {queues: 4, handSize: 8}}}",
            "type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: 10000001, handSize: 3}}}",
            "type: Limited, limited: {limitResponse: {type: Reject, queuing: {}}}",
        ],
        expect![[r##"
            # type: Exempt
            spec.type: Invalid value: "Exempt": type must be 'Exempt' if and only if name is 'exempt'
            # type: Limited
            spec.limited: Required value: must not be empty when type is Limited
            # type: Limited, limited: {lendablePercent: 101, borrowingLimitPercent: -1, limitResponse: {type: Queue, queuing: {queues: 4, handSize: 8}}}
            spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive
            spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer
            spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (4)
            # type: Limited, limited: {limitResponse: {type: Queue, queuing: {queues: 10000001, handSize: 3}}}
            spec.limited.limitResponse.queuing.queues: Invalid value: 10000001: must not be greater than 10000000
            spec.limited.limitResponse.queuing.handSize: Invalid value: 3: required entropy bits of deckSize 10000001 and handSize 3 should not be greater than 60
            # type: Limited, limited: {limitResponse: {type: Reject, queuing: {}}}
            spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited
        "##]],
    );
    let claim = "{apiVersion: resource.k8s.io/v1, kind: ResourceClaim, metadata: {name: c}, spec: {devices: {@}}}";
    each(
        claim,
        &[
            "requests: [{name: a}, {name: a, exactly: {deviceClassName: c}, firstAvailable: [{name: b, deviceClassName: c}]}]",
            "requests: [{name: a, exactly: {deviceClassName: '', allocationMode: All, count: 2, selectors: [{}], tolerations: [{operator: Odd, effect: Odd}]}}]",
            "requests: [{name: a, exactly: {deviceClassName: c}}], constraints: [{requests: [b, a, a], matchAttribute: x}, {}], config: [{requests: [a/b/c], opaque: {driver: d, parameters: 3}}]",
        ],
        expect![[r##"
            # requests: [{name: a}, {name: a, exactly: {deviceClassName: c}, firstAvailable: [{name: b, deviceClassName: c}]}]
            spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required
            spec.devices.requests[1]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set
            spec.devices.requests[1]: Duplicate value: "a"
            # requests: [{name: a, exactly: {deviceClassName: '', allocationMode: All, count: 2, selectors: [{}], tolerations: [{operator: Odd, effect: Odd}]}}]
            spec.devices.requests[0].exactly.deviceClassName: Required value
            spec.devices.requests[0].exactly.selectors[0].cel: Required value
            spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'
            spec.devices.requests[0].exactly.tolerations[0].operator: Unsupported value: "Odd": supported values: "Equal", "Exists"
            spec.devices.requests[0].exactly.tolerations[0].effect: Unsupported value: "Odd": supported values: "NoExecute", "NoSchedule", "None"
            # requests: [{name: a, exactly: {deviceClassName: c}}], constraints: [{requests: [b, a, a], matchAttribute: x}, {}], config: [{requests: [a/b/c], opaque: {driver: d, parameters: 3}}]
            spec.devices.constraints[0].requests[0]: Invalid value: "b": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
            spec.devices.constraints[0].requests[2]: Duplicate value: "a"
            spec.devices.constraints[0].matchAttribute: Invalid value: "x": must include a domain
            spec.devices.constraints[1]: Required value: exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set
            spec.devices.config[0].requests[0]: Invalid value: "a/b/c": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
            spec.devices.config[0].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object
        "##]],
    );
    let slice = "{apiVersion: resource.k8s.io/v1, kind: ResourceSlice, metadata: {name: s}, spec: {driver: d, pool: {name: p, generation: 0, resourceSliceCount: 1}, @}}";
    each(
        slice,
        &[
            "devices: []",
            "nodeName: node, allNodes: false, nodeSelector: {nodeSelectorTerms: []}",
            "nodeName: node, devices: [{name: A}, {name: b, attributes: {x/1: {version: '01.2.3'}, z: {}}, capacity: {c: {value: 1, requestPolicy: {default: 1}}}, allNodes: true}, {name: b}]",
            "nodeName: node, sharedCounters: [{name: c, counters: {}}]",
        ],
        expect![[r##"
            # devices: []
            spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required
            # nodeName: node, allNodes: false, nodeSelector: {nodeSelectorTerms: []}
            spec.nodeSelector.nodeSelectorTerms: Required value: must have at least one node selector term
            spec.nodeSelector.nodeSelectorTerms: Invalid value: []: must have exactly one node selector term
            spec.allNodes: Invalid value: false: must be either unset or set to true
            spec: Invalid value: "{`nodeName`, `nodeSelector`}": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set
            # nodeName: node, devices: [{name: A}, {name: b, attributes: {x/1: {version: '01.2.3'}, z: {}}, capacity: {c: {value: 1, requestPolicy: {default: 1}}}, allNodes: true}, {name: b}]
            spec.devices[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.devices[1].attributes[x/1]: Invalid value: "1": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')
            spec.devices[1].attributes[x/1].version: Invalid value: "01.2.3": must be a string compatible with semver.org spec 2.0.0
            spec.devices[1].attributes[z]: Invalid value: {}: exactly one value must be specified
            spec.devices[1].capacity[c].requestPolicy: Forbidden: allowMultipleAllocations must be true
            spec.devices[1]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec
            spec.devices[2]: Duplicate value: "b"
            # nodeName: node, sharedCounters: [{name: c, counters: {}}]
            spec.sharedCounters[0].counters: Required value
        "##]],
    );
    let quota = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {services: 1}, @}}";
    each(
        quota,
        &[
            "scopes: [BestEffort, NotBestEffort]",
            "scopeSelector: {matchExpressions: [{scopeName: Terminating, operator: In, values: [a]}, {scopeName: PriorityClass, operator: In}]}",
        ],
        expect![[r##"
            # scopes: [BestEffort, NotBestEffort]
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: unsupported scope applied to resource
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: unsupported scope applied to resource
            spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes
            # scopeSelector: {matchExpressions: [{scopeName: Terminating, operator: In, values: [a]}, {scopeName: PriorityClass, operator: In}]}
            spec.scopeSelector.matchExpressions: Invalid value: {"matchExpressions":[{"operator":"In","scopeName":"Terminating","values":["a"]},{"operator":"In","scopeName":"PriorityClass"}]}: unsupported scope applied to resource
            spec.scopeSelector.matchExpressions.operator: Invalid value: "In": must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity
            spec.scopeSelector.matchExpressions: Invalid value: {"matchExpressions":[{"operator":"In","scopeName":"Terminating","values":["a"]},{"operator":"In","scopeName":"PriorityClass"}]}: unsupported scope applied to resource
            spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector
        "##]],
    );
    let range = "{apiVersion: v1, kind: LimitRange, metadata: {name: r}, spec: {limits: [@]}}";
    each(
        range,
        &[
            "{type: Odd}",
            "{type: PersistentVolumeClaim}",
            "{type: Container, max: {gpu: 1}, min: {cpu: 2}, maxLimitRequestRatio: {cpu: 500m}}",
            "{type: Container, max: {cpu: 4}, min: {cpu: 2}, maxLimitRequestRatio: {cpu: 3}}",
        ],
        expect![[r##"
            # {type: Odd}
            spec.limits[0].type: Invalid value: "Odd": must be a standard limit type or fully qualified
            # {type: PersistentVolumeClaim}
            spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided
            # {type: Container, max: {gpu: 1}, min: {cpu: 2}, maxLimitRequestRatio: {cpu: 500m}}
            spec.limits[0].max[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
            spec.limits[0].max[gpu]: Invalid value: "gpu": must be a standard resource for containers
            spec.limits[0].default[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
            spec.limits[0].default[gpu]: Invalid value: "gpu": must be a standard resource for containers
            spec.limits[0].defaultRequest[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
            spec.limits[0].defaultRequest[gpu]: Invalid value: "gpu": must be a standard resource for containers
            spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1
            # {type: Container, max: {cpu: 4}, min: {cpu: 2}, maxLimitRequestRatio: {cpu: 3}}
            spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000
        "##]],
    );
    let event = "{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: e, namespace: default}, @}";
    each(
        event,
        &[
            "type: Odd, series: {count: 1}",
            "eventTime: '2026-01-01T00:00:00.000000Z', type: Normal, reason: r, action: a, reportingController: c, reportingInstance: i",
        ],
        expect![[r##"
            # type: Odd, series: {count: 1}
            eventTime: Required value
            series.count: Invalid value: "": should be at least 2
            series.lastObservedTime: Required value
            reportingController: Required value
            reportingInstance: Required value
            action: Required value
            reason: Required value
            type: Invalid value: "": has invalid value: Odd
            # eventTime: '2026-01-01T00:00:00.000000Z', type: Normal, reason: r, action: a, reportingController: c, reportingInstance: i
            fine
        "##]],
    );
}
