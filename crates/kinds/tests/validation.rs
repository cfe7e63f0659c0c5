//! What is wrong with objects, in upstream's words.

use expect_test::{Expect, expect};

mod common;

fn check(yaml: &str, expected: Expect) {
    expected.assert_eq(&common::faults(yaml));
}

fn check_update(old: &str, new: &str, expected: Expect) {
    expected.assert_eq(&common::update_faults(old, new));
}

fn pod(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{{spec}}}}}")
}

#[test]
fn a_deployment_with_everything_wrong() {
    check(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: -1
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: c}}
    spec:
      containers:
      - name: X
        imagePullPolicy: Sometimes
        resources: {requests: {cpu: 2}, limits: {cpu: 1}}
",
        expect![[r#"
            spec.replicas: Invalid value: -1: must be greater than or equal to 0
            spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match template `labels`
            spec.template.spec.containers[0].name: Invalid value: "X": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.template.spec.containers[0].image: Required value
            spec.template.spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"
            spec.template.spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
        "#]],
    );
    check(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {}, strategy: {type: Recreate, rollingUpdate: {}}, progressDeadlineSeconds: 1, minReadySeconds: 2, template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}",
        expect![[r#"
            spec.selector: Invalid value: {}: empty selector is invalid for deployment
            spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
            spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'
            spec.progressDeadlineSeconds: Invalid value: 1: must be greater than minReadySeconds
        "#]],
    );
    check(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: '0%'}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a}]}}}}",
        expect![[r#"
            spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0
        "#]],
    );
}

#[test]
fn a_good_pod_is_fine() {
    check(
        &pod(
            "containers: [{name: a, image: a, ports: [{containerPort: 80, name: http}], livenessProbe: {httpGet: {port: http}}, volumeMounts: [{name: v, mountPath: /v}], env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}], initContainers: [{name: i, image: a}], volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: token}}]}}], tolerations: [{operator: Exists}], affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [b]}]}]}}}, topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule}], serviceAccountName: robot",
        ),
        expect![[""]],
    );
}

#[test]
fn containers() {
    check(
        &pod(""),
        expect![[r#"
        spec.containers: Required value
    "#]],
    );
    check(
        &pod("containers: [{name: a}, {name: a, image: ' a'}], restartPolicy: Sometimes, dnsPolicy: Never"),
        expect![[r#"
            spec.containers[0].image: Required value
            spec.containers[1].name: Duplicate value: "a"
            spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"
            spec.dnsPolicy: Unsupported value: "Never": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"
            spec.containers[1].image: Invalid value: " a": must not have leading or trailing whitespace
        "#]],
    );
    check(
        &pod(
            "containers: [{name: a, image: a, ports: [{containerPort: 0}, {containerPort: 70000, hostPort: 80, name: UP}, {containerPort: 1, hostPort: 80, protocol: X}, {containerPort: 1, hostPort: 80}]}]",
        ),
        expect![[r#"
            spec.containers[0].ports[0].containerPort: Required value
            spec.containers[0].ports[1].name: Invalid value: "UP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
            spec.containers[0].ports[1].name: Invalid value: "UP": must contain at least one letter (a-z)
            spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive
            spec.containers[0].ports[2].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"
            spec.containers[0].ports[3].hostPort: Duplicate value: "TCP//80"
        "#]],
    );
    check(
        &pod(
            "containers: [{name: a, image: a, env: [{name: a=b}, {name: A, value: x, valueFrom: {fieldRef: {fieldPath: spec.x}}}, {name: B, valueFrom: {}}, {name: C, valueFrom: {configMapKeyRef: {key: a/b}}}], envFrom: [{}]}]",
        ),
        expect![[r#"
            spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='
            spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "spec.x": error converting fieldPath: field label not supported: spec.x
            spec.containers[0].env[1].valueFrom: Invalid value: "": may not be specified when `value` is not empty
            spec.containers[0].env[2].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`
            spec.containers[0].env[3].valueFrom.configMapKeyRef.name: Invalid value: "": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.containers[0].env[3].valueFrom.configMapKeyRef.key: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            spec.containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`
        "#]],
    );
    check(
        &pod(
            "containers: [{name: a, image: a, livenessProbe: {successThreshold: 2}, readinessProbe: {exec: {}, tcpSocket: {port: x_y}, periodSeconds: -1}, lifecycle: {preStop: {}}}]",
        ),
        expect![[r#"
            spec.containers[0].lifecycle.preStop: Required value: must specify a handler type
            spec.containers[0].livenessProbe: Required value: must specify a handler type
            spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
            spec.containers[0].readinessProbe.exec.command: Required value
            spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type
            spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0
        "#]],
    );
    check(
        &pod(
            "containers: [{name: a, image: a, resources: {limits: {cpu: '-1', foo: 1, example.com/gpu: 1500m}, requests: {example.com/gpu: 1}}}]",
        ),
        expect![[r#"
            spec.containers[0].resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0
            spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "1500m": must be an integer
            spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource type or fully qualified
            spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource for containers
            spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0
            spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 1500m
            spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified
            spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers
        "#]],
    );
    check(
        &pod(
            "containers: [{name: a, image: a, securityContext: {runAsUser: -1, privileged: true, allowPrivilegeEscalation: false, seccompProfile: {type: Localhost}}}]",
        ),
        expect![[r#"
            spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive
            spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost
            spec.containers[0].securityContext: Invalid value: {"allowPrivilegeEscalation":false,"privileged":true,"runAsUser":-1,"seccompProfile":{"type":"Localhost"}}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true
        "#]],
    );
    check(
        &pod(
            "initContainers: [{name: i, image: a, livenessProbe: {exec: {command: [a]}}}], containers: [{name: a, image: a}]",
        ),
        expect![[r#"
            spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always
        "#]],
    );
}

#[test]
fn volumes() {
    check(
        &pod(
            "containers: [{name: a, image: a, volumeMounts: [{name: x, mountPath: /a}, {name: v, mountPath: /a, subPath: ../b}, {name: v, mountPath: '', mountPropagation: Bidirectional}]}], volumes: [{name: v, emptyDir: {}, hostPath: {path: /a/../b}}, {name: v, hostPath: {path: '', type: Nothing}}, {name: s, secret: {defaultMode: 512, items: [{key: a, path: /a}]}}]",
        ),
        expect![[r#"
            spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type
            spec.volumes[1].hostPath.path: Required value
            spec.volumes[1].name: Duplicate value: "v"
            spec.volumes[2].secret.secretName: Required value
            spec.volumes[2].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive
            spec.volumes[2].secret.items[0].path: Invalid value: "/a": must be a relative path
            spec.containers[0].volumeMounts[0].name: Not found: "x"
            spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique
            spec.containers[0].volumeMounts.subPath: Invalid value: "../b": must not contain '..'
            spec.containers[0].volumeMounts[2].mountPath: Required value
            spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers
        "#]],
    );
    check(
        &pod(
            "containers: [{name: a, image: a}], volumes: [{name: p, projected: {sources: [{serviceAccountToken: {path: t, expirationSeconds: 5}}, {downwardAPI: {items: [{path: ../x}]}}]}}]",
        ),
        expect![[r#"
            spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes
            spec.volumes[0].projected.sources[1].downwardAPI.path: Invalid value: "../x": must not contain '..'
            spec.volumes[0].projected.sources[1].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required
            spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set
        "#]],
    );
}

#[test]
fn where_pods_run() {
    check(
        &pod(
            "containers: [{name: a, image: a}], nodeName: A_B, hostname: A, tolerations: [{value: x}, {key: a, operator: Exists, value: x, tolerationSeconds: 3}], topologySpreadConstraints: [{maxSkew: 0, topologyKey: '', whenUnsatisfiable: Perhaps}], affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, podAffinityTerm: {topologyKey: ''}}]}, nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}]}]}}}",
        ),
        expect![[r#"
            spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'
            spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100
            spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Required value: can not be empty
            spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Invalid value: "": name part must be non-empty
            spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero
            spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty
            spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Perhaps": supported values: "DoNotSchedule", "ScheduleAnyway"
            spec.nodeName: Invalid value: "A_B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.hostname: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys"
            spec.tolerations[1].effect: Invalid value: "": effect must be 'NoExecute' when `tolerationSeconds` is set
            spec.tolerations[1].operator: Invalid value: "x": value must be empty when `operator` is 'Exists'
        "#]],
    );
    check(
        &pod(
            "containers: [{name: a, image: a}], dnsPolicy: None, hostAliases: [{ip: x}], activeDeadlineSeconds: 0, terminationGracePeriodSeconds: -1, nodeName: n1, schedulingGates: [{name: a/b}]",
        ),
        expect![[r#"
            spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None
            spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive
            spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared
        "#]],
    );
}

#[test]
fn pods_can_hardly_change() {
    let old = pod("containers: [{name: a, image: a}]");
    check_update(
        &old,
        &pod("containers: [{name: a, image: b}], tolerations: [{operator: Exists}], activeDeadlineSeconds: 5"),
        expect![""],
    );
    check_update(
        &old,
        &pod("containers: [{name: a, image: a}, {name: b, image: b}]"),
        expect![[r#"
        spec.containers: Forbidden: pod updates may not add or remove containers
    "#]],
    );
    check_update(
        &old,
        &pod("containers: [{name: a, image: a}], hostname: other"),
        expect![[r#"
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            - hostname: null
            + hostname: "other"

        "#]],
    );
}

#[test]
fn jobs() {
    check(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: j, uid: u}, spec: {completionMode: Indexed, completions: 2, successPolicy: {rules: [{}, {succeededCount: 3}]}, podFailurePolicy: {rules: [{action: Odd}, {action: FailIndex, onExitCodes: {containerName: x, operator: In, values: [3, 0, 3]}}]}, template: {spec: {restartPolicy: OnFailure, containers: [{name: a, image: a}]}}}}",
        expect![[r#"
            spec.podFailurePolicy.rules[0].action: Unsupported value: "Odd": supported values: "Count", "FailIndex", "FailJob", "Ignore"
            spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required
            spec.podFailurePolicy.rules[1].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set
            spec.podFailurePolicy.rules[1].onExitCodes.containerName: Invalid value: "x": must be one of the container or initContainer names in the pod template
            spec.podFailurePolicy.rules[1].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator
            spec.podFailurePolicy.rules[1].onExitCodes.values[2]: Duplicate value: 3
            spec.podFailurePolicy.rules[1].onExitCodes.values: Invalid value: [3,0,3]: must be ordered
            spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified
            spec.successPolicy.rules[1].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of specified completions)
            spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified
        "#]],
    );
}

#[test]
fn other_workloads() {
    check(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: j, uid: u}, spec: {parallelism: -1, completionMode: Indexed, template: {spec: {containers: [{name: a, image: a}]}}}}",
        expect![[r#"
            spec.parallelism: Invalid value: -1: must be greater than or equal to 0
            spec.completions: Required value: when completion mode is Indexed
            spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"
        "#]],
    );
    check(
        "{apiVersion: batch/v1, kind: CronJob, metadata: {name: j}, spec: {schedule: often, concurrencyPolicy: Maybe, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}}}",
        expect![[r#"
            spec.schedule: Invalid value: "often": expected exactly 5 fields, found 1: [often]
            spec.concurrencyPolicy: Unsupported value: "Maybe": supported values: "Allow", "Forbid", "Replace"
        "#]],
    );
    check(
        "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: s}, spec: {serviceName: x, podManagementPolicy: Any, selector: {matchLabels: {a: b}}, updateStrategy: {type: OnDelete, rollingUpdate: {}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: a, volumeMounts: [{name: d, mountPath: /d}]}]}}, volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}",
        expect![[r#"
            spec.podManagementPolicy: Invalid value: "Any": must be 'OrderedReady' or 'Parallel'
            spec.updateStrategy.rollingUpdate: Invalid value: {}: only allowed for updateStrategy 'RollingUpdate'
        "#]],
    );
    check(
        "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: s}, spec: {selector: {matchLabels: {a: b}}, updateStrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: a}]}}}}",
        expect![[r#"
            spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match template `labels`
            spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero
        "#]],
    );
    let deployment = |labels: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d}}, spec: {{selector: {{matchLabels: {labels}}}, template: {{metadata: {{labels: {labels}}}, spec: {{containers: [{{name: a, image: a}}]}}}}}}}}"
        )
    };
    check_update(
        &deployment("{a: b}"),
        &deployment("{a: c}"),
        expect![[r#"
        spec.selector: Invalid value: {"matchLabels":{"a":"c"}}: field is immutable
    "#]],
    );
}
