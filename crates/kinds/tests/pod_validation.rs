//! One bad Pod for each rule: what was wrong, and what is said of it. The bad part is put into a Pod that is good.

use expect_test::expect;

mod common;

use common::{each, each_change};

const CONTAINER: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {resourceClaims: [{name: gpu, resourceClaimName: g}], volumes: [{name: v, emptyDir: {}}, {name: c, persistentVolumeClaim: {claimName: c}}], containers: [{name: a, image: i, @}]}}";
const POD: &str =
    "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: x}}, spec: {containers: [{name: a, image: i}], @}}";
const VOLUME: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {serviceAccountName: s, containers: [{name: a, image: i}], volumes: [{name: v, @}]}}";

#[test]
fn containers() {
    each(
        CONTAINER,
        &[
            "livenessProbe: {httpGet: {port: 80, scheme: ftp}, successThreshold: 2}",
            "readinessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 1}",
            "startupProbe: {grpc: {port: 0}, initialDelaySeconds: -1, terminationGracePeriodSeconds: 0}",
            "livenessProbe: {exec: {command: []}, tcpSocket: {port: 80}}",
            "lifecycle: {preStop: {sleep: {seconds: 31}}, postStart: {}}",
            "lifecycle: {stopSignal: SIGUSR1}",
            "resources: {claims: [{name: gpu}, {name: gpu}, {name: other}]}",
            "resources: {limits: {hugepages-2Mi: 3Mi}, requests: {hugepages-2Mi: 3Mi}}",
            "resources: {requests: {example.com/gpu: 1}}",
            "resources: {limits: {example.com/gpu: 1500m}}",
            "resources: {limits: {cpu: 1, gpu: 1, requests.x.com/z: 1}}",
            "resizePolicy: [{resourceName: disk, restartPolicy: Never}]",
            "restartPolicyRules: [{action: Stop}]",
            "restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: Is}}]",
            "securityContext: {procMount: Unmasked}",
            "securityContext: {seccompProfile: {type: Localhost, localhostProfile: /a}, appArmorProfile: {type: Localhost}}",
            "securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: a}, runAsUser: -1}",
            "securityContext: {windowsOptions: {runAsUserName: 'a\\b\\c', gmsaCredentialSpec: ''}}",
            "volumeMounts: [{name: v, mountPath: /a, recursiveReadOnly: Enabled}]",
            "volumeMounts: [{name: v, mountPath: /a, subPath: a, subPathExpr: /b}]",
            "volumeMounts: [{name: c, mountPath: /a}], volumeDevices: [{name: c, devicePath: /a}]",
            "volumeDevices: [{name: v, devicePath: /../a}]",
            "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1k}}}]",
            "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: ../a, key: A}}}]",
            "ports: [{containerPort: 80, name: a}, {containerPort: 81, name: a, hostPort: 70000}]",
        ],
        expect![[r##"
            # livenessProbe: {httpGet: {port: 80, scheme: ftp}, successThreshold: 2}
            spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: "ftp": supported values: "HTTP", "HTTPS"
            spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1
            # readinessProbe: {exec: {command: [a]}, terminationGracePeriodSeconds: 1}
            spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes
            # startupProbe: {grpc: {port: 0}, initialDelaySeconds: -1, terminationGracePeriodSeconds: 0}
            spec.containers[0].startupProbe.grpc.port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.containers[0].startupProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0
            spec.containers[0].startupProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0
            # livenessProbe: {exec: {command: []}, tcpSocket: {port: 80}}
            spec.containers[0].livenessProbe.exec.command: Required value
            spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type
            # lifecycle: {preStop: {sleep: {seconds: 31}}, postStart: {}}
            spec.containers[0].lifecycle.postStart: Required value: must specify a handler type
            spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)
            # lifecycle: {stopSignal: SIGUSR1}
            spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`
            # resources: {claims: [{name: gpu}, {name: gpu}, {name: other}]}
            spec.containers[0].resources.claims[1]: Duplicate value: "gpu"
            spec.containers[0].resources.claims[2]: Not found: "other": must be one of the names in pod.spec.resourceClaims: gpu
            # resources: {limits: {hugepages-2Mi: 3Mi}, requests: {hugepages-2Mi: 3Mi}}
            spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi
            spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi
            spec.containers[0].resources: Forbidden: HugePages require cpu or memory
            # resources: {requests: {example.com/gpu: 1}}
            spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources
            # resources: {limits: {example.com/gpu: 1500m}}
            spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "1500m": must be an integer
            spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "1500m": must be an integer
            # resources: {limits: {cpu: 1, gpu: 1, requests.x.com/z: 1}}
            spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
            spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource for containers
            spec.containers[0].resources.limits[requests.x.com/z]: Invalid value: "requests.x.com/z": doesn't follow extended resource name standard
            spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
            spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers
            spec.containers[0].resources.requests[requests.x.com/z]: Invalid value: "requests.x.com/z": doesn't follow extended resource name standard
            # resizePolicy: [{resourceName: disk, restartPolicy: Never}]
            spec.containers[0].resizePolicy: Unsupported value: "disk": supported values: "cpu", "memory"
            spec.containers[0].resizePolicy: Unsupported value: "Never": supported values: "NotRequired", "RestartContainer"
            # restartPolicyRules: [{action: Stop}]
            spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used
            spec.containers[0].restartPolicyRules[0].action: Unsupported value: "Stop": supported values: "Restart", "RestartAllContainers"
            spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified
            # restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: Is}}]
            spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: "Is": supported values: "In", "NotIn"
            # securityContext: {procMount: Unmasked}
            spec.containers[0].securityContext.procMount: Invalid value: "Unmasked": `hostUsers` must be false to use `Unmasked`
            # securityContext: {seccompProfile: {type: Localhost, localhostProfile: /a}, appArmorProfile: {type: Localhost}}
            spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: "/a": must be a relative path
            spec.containers[0].securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost
            # securityContext: {seccompProfile: {type: RuntimeDefault, localhostProfile: a}, runAsUser: -1}
            spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive
            spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: {"localhostProfile":"a","type":"RuntimeDefault"}: can only be set when seccomp type is Localhost
            # securityContext: {windowsOptions: {runAsUserName: 'a\b\c', gmsaCredentialSpec: ''}}
            spec.containers[0].securityContext.windowsOptions.gmsaCredentialSpec: Invalid value: "": gmsaCredentialSpec cannot be an empty string
            spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value: "a\\b\\c": runAsUserName cannot contain more than one backslash
            # volumeMounts: [{name: v, mountPath: /a, recursiveReadOnly: Enabled}]
            spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true
            # volumeMounts: [{name: v, mountPath: /a, subPath: a, subPathExpr: /b}]
            spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: "/b": subPathExpr and subPath are mutually exclusive
            spec.containers[0].volumeMounts.subPathExpr: Invalid value: "/b": must be a relative path
            # volumeMounts: [{name: c, mountPath: /a}], volumeDevices: [{name: c, devicePath: /a}]
            spec.containers[0].volumeMounts[0].name: Invalid value: "c": must not already exist in volumeDevices
            spec.containers[0].volumeMounts[0].mountPath: Invalid value: "/a": must not already exist as a path in volumeDevices
            spec.containers[0].volumeDevices[0].name: Invalid value: "c": must not already exist in volumeMounts
            spec.containers[0].volumeDevices[0].devicePath: Invalid value: "/a": must not already exist as a path in volumeMounts
            # volumeDevices: [{name: v, devicePath: /../a}]
            spec.containers[0].volumeDevices[0].name: Invalid value: "v": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode
            spec.containers[0].volumeDevices[0].devicePath: Invalid value: "/../a": can not contain backsteps ('..')
            # env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1k}}}]
            spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource
            # env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: ../a, key: A}}}]
            spec.containers[0].env[0].valueFrom.fileKeyRef.path: Invalid value: "../a": must not contain '..'
            # ports: [{containerPort: 80, name: a}, {containerPort: 81, name: a, hostPort: 70000}]
            spec.containers[0].ports[1].name: Duplicate value: "a"
            spec.containers[0].ports[1].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive
        "##]],
    );
}

#[test]
fn pods() {
    each(
        POD,
        &[
            "terminationGracePeriodSeconds: 5, hostUsers: false, hostNetwork: true, hostPID: true",
            "resources: {limits: {cpu: 1, ephemeral-storage: 1Gi}, requests: {cpu: 2}}",
            "resourceClaims: [{name: a}, {name: a, resourceClaimName: b, resourceClaimTemplateName: c}]",
            "securityContext: {sysctls: [{name: net.a, value: a}, {name: net.a, value: b}, {name: A, value: c}]}, hostNetwork: true",
            "securityContext: {fsGroupChangePolicy: Never, supplementalGroupsPolicy: Some, seLinuxChangePolicy: Any}",
            "os: {name: windows}, securityContext: {fsGroup: 1, runAsUser: 1}, hostIPC: true",
            "os: {name: linux}, securityContext: {windowsOptions: {hostProcess: true}}",
            "os: {name: beos}",
            "dnsConfig: {nameservers: [010.0.0.1, 10.0.0.1], searches: [a_b, 'A'], options: [{value: x}]}",
            "hostname: a.b, subdomain: A, runtimeClassName: A, preemptionPolicy: ''",
            "hostnameOverride: a, hostNetwork: true, setHostnameAsFQDN: true",
            "overhead: {gpu: 1}",
            "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, minDomains: 0, labelSelector: {matchLabels: {app: x}}, matchLabelKeys: [app]}]",
            "topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [app]}]",
            "affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: a, labelSelector: {}, matchLabelKeys: [a], mismatchLabelKeys: [a], namespaces: [A]}]}}",
            "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, preference: {matchFields: [{key: a, operator: In, values: [x]}]}}]}}",
            "tolerations: [{key: a, operator: Gt, value: '1'}, {key: a, operator: Exists, value: x}]",
            "initContainers: [{name: b, image: i, livenessProbe: {exec: {command: [a]}}, restartPolicy: Odd}]",
            "ephemeralContainers: [{name: b, image: ' i', targetContainerName: x, ports: [{containerPort: 1}]}]",
            "shareProcessNamespace: true, hostPID: true",
            "schedulingGates: [{name: a}, {name: a}], nodeName: node",
        ],
        expect![[r##"
            # terminationGracePeriodSeconds: 5, hostUsers: false, hostNetwork: true, hostPID: true
            spec.hostNetwork: Forbidden: when `hostUsers` is false
            spec.HostPID: Forbidden: when `hostUsers` is false
            # resources: {limits: {cpu: 1, ephemeral-storage: 1Gi}, requests: {cpu: 2}}
            spec.resources.limits[ephemeral-storage]: Unsupported value: "ephemeral-storage": supported values: "cpu", "hugepages-", "memory"
            spec.resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1
            spec.resources.requests[ephemeral-storage]: Unsupported value: "ephemeral-storage": supported values: "cpu", "hugepages-", "memory"
            # resourceClaims: [{name: a}, {name: a, resourceClaimName: b, resourceClaimTemplateName: c}]
            spec.resourceClaims[0]: Invalid value: {"name":"a"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`
            spec.resourceClaims[1].name: Duplicate value: "a"
            spec.resourceClaims[1]: Invalid value: {"name":"a","resourceClaimName":"b","resourceClaimTemplateName":"c"}: at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified
            # securityContext: {sysctls: [{name: net.a, value: a}, {name: net.a, value: b}, {name: A, value: c}]}, hostNetwork: true
            spec.securityContext.sysctls[0].name: Invalid value: "net.a": may not be specified when 'hostNetwork' is true
            spec.securityContext.sysctls[1].name: Duplicate value: "net.a"
            spec.securityContext.sysctls[1].name: Invalid value: "net.a": may not be specified when 'hostNetwork' is true
            spec.securityContext.sysctls[2].name: Invalid value: "A": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$
            # securityContext: {fsGroupChangePolicy: Never, supplementalGroupsPolicy: Some, seLinuxChangePolicy: Any}
            spec.securityContext.fsGroupChangePolicy: Unsupported value: "Never": supported values: "Always", "OnRootMismatch"
            spec.securityContext.supplementalGroupsPolicy: Unsupported value: "Some": supported values: "Merge", "Strict"
            spec.securityContext.seLinuxChangePolicy: Unsupported value: "Any": supported values: "MountOption", "Recursive"
            # os: {name: windows}, securityContext: {fsGroup: 1, runAsUser: 1}, hostIPC: true
            spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod
            spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod
            spec.hostIPC: Forbidden: cannot be set for a windows pod
            # os: {name: linux}, securityContext: {windowsOptions: {hostProcess: true}}
            spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers
            spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod
            # os: {name: beos}
            spec.os: Unsupported value: "beos": supported values: "linux", "windows"
            # dnsConfig: {nameservers: [010.0.0.1, 10.0.0.1], searches: [a_b, 'A'], options: [{value: x}]}
            spec.dnsConfig.nameservers[0]: Invalid value: "010.0.0.1": must not have leading 0s
            spec.dnsConfig.searches[1]: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*')
            spec.dnsConfig.options[0]: Required value: must not be empty
            # hostname: a.b, subdomain: A, runtimeClassName: A, preemptionPolicy: ''
            spec.hostname: Invalid value: "a.b": must not contain dots
            spec.subdomain: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.runtimeClassName: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            # hostnameOverride: a, hostNetwork: true, setHostnameAsFQDN: true
            spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true
            spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true
            # overhead: {gpu: 1}
            spec.overhead.limits[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified
            spec.overhead.limits[gpu]: Invalid value: "gpu": must be a standard resource for containers
            # topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, minDomains: 0, labelSelector: {matchLabels: {app: x}}, matchLabelKeys: [app]}]
            spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero
            spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway
            spec.topologySpreadConstraints[0].matchLabelKeys[0]: Invalid value: "app": exists in both matchLabelKeys and labelSelector
            # topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule, matchLabelKeys: [app]}]
            spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set
            # affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: a, labelSelector: {}, matchLabelKeys: [a], mismatchLabelKeys: [a], namespaces: [A]}]}}
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespace: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].mismatchLabelKeys[0]: Invalid value: "a": exists in both matchLabelKeys and mismatchLabelKeys
            # affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, preference: {matchFields: [{key: a, operator: In, values: [x]}]}}]}}
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100
            spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].key: Invalid value: "a": not a valid field selector key
            # tolerations: [{key: a, operator: Gt, value: '1'}, {key: a, operator: Exists, value: x}]
            spec.tolerations[0].operator: Unsupported value: "Gt": supported values: "Equal", "Exists"
            spec.tolerations[1].operator: Invalid value: "x": value must be empty when `operator` is 'Exists'
            # initContainers: [{name: b, image: i, livenessProbe: {exec: {command: [a]}}, restartPolicy: Odd}]
            spec.initContainers[0].restartPolicy: Unsupported value: "Odd": supported values: "Always", "Never", "OnFailure"
            spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always
            # ephemeralContainers: [{name: b, image: ' i', targetContainerName: x, ports: [{containerPort: 1}]}]
            spec.ephemeralContainers[0].image: Invalid value: " i": must not have leading or trailing whitespace
            spec.ephemeralContainers[0].targetContainerName: Not found: "x"
            spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container
            spec.ephemeralContainers: Forbidden: cannot be set on create
            # shareProcessNamespace: true, hostPID: true
            spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled
            # schedulingGates: [{name: a}, {name: a}], nodeName: node
            spec.schedulingGates[1]: Duplicate value: "a"
            spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared
        "##]],
    );
}

#[test]
fn annotations_of_pods() {
    each(
        "{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {@}}, spec: {securityContext: {seccompProfile: {type: Unconfined}}, containers: [{name: a, image: i}]}}",
        &[
            "kubernetes.io/config.mirror: x",
            "controller.kubernetes.io/pod-deletion-cost: '+1'",
            "container.apparmor.security.beta.kubernetes.io/b: odd",
            "seccomp.security.alpha.kubernetes.io/pod: runtime/default",
        ],
        expect![[r##"
            # kubernetes.io/config.mirror: x
            metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set
            # controller.kubernetes.io/pod-deletion-cost: '+1'
            metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+1": must be a 32bit integer
            # container.apparmor.security.beta.kubernetes.io/b: odd
            metadata.annotations[container.apparmor.security.beta.kubernetes.io/b]: Invalid value: "b": container not found
            metadata.annotations[container.apparmor.security.beta.kubernetes.io/b]: Invalid value: "odd": invalid AppArmor profile name: "odd"
            # seccomp.security.alpha.kubernetes.io/pod: runtime/default
            spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match
        "##]],
    );
}

#[test]
fn volumes() {
    each(
        VOLUME,
        &[
            "emptyDir: {sizeLimit: -1}",
            "gitRepo: {repository: r, directory: ../a}",
            "iscsi: {targetPortal: p, iqn: x, lun: 256, chapAuthSession: true, initiatorName: z}",
            "iscsi: {targetPortal: p, iqn: iqn.2001-04.com.example:disk, lun: 1}",
            "fc: {}",
            "fc: {targetWWNs: [a], wwids: [b]}",
            "nfs: {server: s, path: a}",
            "csi: {driver: A_b, nodePublishSecretRef: {}}",
            "azureDisk: {diskName: d, diskURI: x, cachingMode: Odd, kind: Managed}",
            "quobyte: {registry: a, volume: v}",
            "flexVolume: {driver: d, options: {kubernetes.io/x: z}}",
            "storageos: {volumeName: A, secretRef: {}}",
            "flocker: {datasetName: a/b, datasetUUID: c}",
            "image: {pullPolicy: Sometimes}",
            "projected: {sources: [{configMap: {name: a, items: [{key: a, path: x}]}}, {secret: {name: b, items: [{key: a, path: x}]}}]}",
            "projected: {sources: [{clusterTrustBundle: {name: a, signerName: b, path: p}}, {clusterTrustBundle: {path: ..p}}]}",
            "projected: {sources: [{podCertificate: {signerName: a, keyType: DSA, maxExpirationSeconds: 5}}]}",
            "downwardAPI: {items: [{path: a, fieldRef: {fieldPath: status.podIP}}, {path: b, resourceFieldRef: {resource: limits.cpu}}]}",
            "ephemeral: {volumeClaimTemplate: {metadata: {name: x}, spec: {accessModes: [ReadWriteOnce]}}}",
            "hostPath: {path: /a/../b, type: Odd}",
        ],
        expect![[r##"
            # emptyDir: {sizeLimit: -1}
            spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity
            # gitRepo: {repository: r, directory: ../a}
            spec.volumes[0].gitRepo.directory: Invalid value: "../a": must not contain '..'
            # iscsi: {targetPortal: p, iqn: x, lun: 256, chapAuthSession: true, initiatorName: z}
            spec.volumes[0].iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa
            spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive
            spec.volumes[0].iscsi.secretRef: Required value
            spec.volumes[0].iscsi.initiatorName: Invalid value: "z": must be valid format
            # iscsi: {targetPortal: p, iqn: iqn.2001-04.com.example:disk, lun: 1}
            fine
            # fc: {}
            spec.volumes[0].fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both
            # fc: {targetWWNs: [a], wwids: [b]}
            spec.volumes[0].fc.targetWWNs: Invalid value: ["a"]: targetWWNs and wwids can not be specified simultaneously
            spec.volumes[0].fc.lun: Required value: lun is required if targetWWNs is specified
            # nfs: {server: s, path: a}
            spec.volumes[0].nfs.path: Invalid value: "a": must be an absolute path
            # csi: {driver: A_b, nodePublishSecretRef: {}}
            spec.volumes[0].csi.driver: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            spec.volumes[0].csi.nodePublishSecretRef.name: Required value
            # azureDisk: {diskName: d, diskURI: x, cachingMode: Odd, kind: Managed}
            spec.volumes[0].azureDisk.cachingMode: Unsupported value: "Odd": supported values: "None", "ReadOnly", "ReadWrite"
            spec.volumes[0].azureDisk.diskURI: Unsupported value: "x": supported values: "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
            # quobyte: {registry: a, volume: v}
            spec.volumes[0].quobyte.registry: Invalid value: "a": must be a host:port pair or multiple pairs separated by commas
            # flexVolume: {driver: d, options: {kubernetes.io/x: z}}
            spec.volumes[0].flexVolume.options[kubernetes.io/x]: Invalid value: "kubernetes.io/x": kubernetes.io and k8s.io namespaces are reserved
            # storageos: {volumeName: A, secretRef: {}}
            spec.volumes[0].storageos.volumeName: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            spec.volumes[0].storageos.secretRef.name: Required value
            # flocker: {datasetName: a/b, datasetUUID: c}
            spec.volumes[0].flocker: Invalid value: "resource": datasetName and datasetUUID can not be specified simultaneously
            spec.volumes[0].flocker.datasetName: Invalid value: "a/b": must not contain '/'
            # image: {pullPolicy: Sometimes}
            spec.volumes[0].image.reference: Required value
            spec.volumes[0].image.pullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"
            # projected: {sources: [{configMap: {name: a, items: [{key: a, path: x}]}}, {secret: {name: b, items: [{key: a, path: x}]}}]}
            spec.volumes[0].projected: Invalid value: "b": conflicting duplicate paths
            # projected: {sources: [{clusterTrustBundle: {name: a, signerName: b, path: p}}, {clusterTrustBundle: {path: ..p}}]}
            spec.volumes[0].projected.sources[0].clusterTrustBundle: Invalid value: {"name":"a","path":"p","signerName":"b"}: only one of name and signerName may be used
            spec.volumes[0].projected.sources[1].clusterTrustBundle: Required value: either name or signerName must be specified
            spec.volumes[0].projected.sources[1].clusterTrustBundle.path: Invalid value: "..p": must not start with '..'
            # projected: {sources: [{podCertificate: {signerName: a, keyType: DSA, maxExpirationSeconds: 5}}]}
            spec.volumes[0].projected.sources[0].podCertificate.signerName: Invalid value: "a": must be a fully qualified domain and path of the form 'example.com/signer-name'
            spec.volumes[0].projected.sources[0].podCertificate.keyType: Unsupported value: "DSA": supported values: "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"
            spec.volumes[0].projected.sources[0].podCertificate.maxExpirationSeconds: Invalid value: 5: if provided, maxExpirationSeconds must be >= 3600
            spec.volumes[0].projected.sources[0].podCertificate: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath
            # downwardAPI: {items: [{path: a, fieldRef: {fieldPath: status.podIP}}, {path: b, resourceFieldRef: {resource: limits.cpu}}]}
            spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"
            spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value
            # ephemeral: {volumeClaimTemplate: {metadata: {name: x}, spec: {accessModes: [ReadWriteOnce]}}}
            spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set
            spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value
            # hostPath: {path: /a/../b, type: Odd}
            spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'
            spec.volumes[0].hostPath.type: Unsupported value: "Odd": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"
        "##]],
    );
}

#[test]
fn changes_of_pods() {
    each_change(
        POD,
        "",
        &[
            ("activeDeadlineSeconds: 5", "activeDeadlineSeconds: 6"),
            ("activeDeadlineSeconds: 5", "activeDeadlineSeconds: -1"),
            ("schedulingGates: [{name: a}]", "schedulingGates: [{name: b}]"),
            (
                "schedulingGates: [{name: a}], nodeSelector: {a: b}",
                "schedulingGates: [{name: a}], nodeSelector: {a: c}",
            ),
            ("schedulingGates: [{name: a}]", "nodeSelector: {a: c}"),
            ("tolerations: [{key: a, operator: Exists}]", "tolerations: [{key: b, operator: Exists}]"),
            ("terminationGracePeriodSeconds: -1", "terminationGracePeriodSeconds: 1"),
            ("hostname: a", "hostname: b"),
        ],
        expect![[r##"
            # activeDeadlineSeconds: 5 -> activeDeadlineSeconds: 6
            spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value
            # activeDeadlineSeconds: 5 -> activeDeadlineSeconds: -1
            spec.activeDeadlineSeconds: Invalid value: -1: must be between 0 and 2147483647, inclusive
            # schedulingGates: [{name: a}] -> schedulingGates: [{name: b}]
            spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'b'
            # schedulingGates: [{name: a}], nodeSelector: {a: b} -> schedulingGates: [{name: a}], nodeSelector: {a: c}
            spec.nodeSelector: Invalid value: {"a":"c"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)
            # schedulingGates: [{name: a}] -> nodeSelector: {a: c}
            fine
            # tolerations: [{key: a, operator: Exists}] -> tolerations: [{key: b, operator: Exists}]
            spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds
            # terminationGracePeriodSeconds: -1 -> terminationGracePeriodSeconds: 1
            fine
            # hostname: a -> hostname: b
            spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)
            - hostname: "a"
            + hostname: "b"

        "##]],
    );
    let resized = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [@, {name: z, image: i}]}}";
    each_change(
        resized,
        "resize",
        &[
            (
                "{name: a, image: i, resources: {requests: {cpu: 1}}}",
                "{name: a, image: i, resources: {requests: {cpu: 2}}}",
            ),
            ("{name: a, image: i, resources: {requests: {cpu: 1}}}", "{name: a, image: i, resources: {}}"),
            (
                "{name: a, image: i, resources: {requests: {cpu: 1}}}",
                "{name: b, image: i, resources: {requests: {cpu: 1}}}",
            ),
            (
                "{name: a, image: i, resources: {requests: {cpu: 1}}}",
                "{name: a, image: i, resources: {requests: {cpu: 1, ephemeral-storage: 1}}}",
            ),
        ],
        expect![[r##"
            # {name: a, image: i, resources: {requests: {cpu: 1}}} -> {name: a, image: i, resources: {requests: {cpu: 2}}}
            fine
            # {name: a, image: i, resources: {requests: {cpu: 1}}} -> {name: a, image: i, resources: {}}
            spec: Invalid value: "BestEffort": Pod QOS Class may not change as a result of resizing
            spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed
            # {name: a, image: i, resources: {requests: {cpu: 1}}} -> {name: b, image: i, resources: {requests: {cpu: 1}}}
            spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize
            # {name: a, image: i, resources: {requests: {cpu: 1}}} -> {name: a, image: i, resources: {requests: {cpu: 1, ephemeral-storage: 1}}}
            spec: Forbidden: only cpu and memory resources are mutable
        "##]],
    );
    let status =
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: a, image: i}]}, status: {@}}";
    each_change(
        status,
        "status",
        &[
            ("", "podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.1}, {ip: x}]"),
            ("", "hostIP: 10.0.0.1, hostIPs: [{ip: 10.0.0.2}]"),
            ("", "nominatedNodeName: A, conditions: [{type: 'a b', status: 'True'}]"),
            ("", "resourceClaimStatuses: [{name: x}]"),
        ],
        expect![[r##"
            #  -> podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.1}, {ip: x}]
            status.podIPs[1]: Duplicate value: {"ip":"10.0.0.1"}
            status.podIPs[2]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.1"},{"ip":"x"}]: may specify no more than one IP for each IP family
            #  -> hostIP: 10.0.0.1, hostIPs: [{ip: 10.0.0.2}]
            status.hostIPs[0].ip: Invalid value: "10.0.0.2": must be equal to `hostIP`
            #  -> nominatedNodeName: A, conditions: [{type: 'a b', status: 'True'}]
            status.conditions[0].type: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            status.nominatedNodeName: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            #  -> resourceClaimStatuses: [{name: x}]
            status.resourceClaimStatuses[0].name: Invalid value: "x": must match the name of an entry in `spec.resourceClaims`
        "##]],
    );
}
