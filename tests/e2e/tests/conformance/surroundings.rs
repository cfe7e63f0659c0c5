//! What surrounds a container: its environment, users, rights, names of hosts, settings of the kernel.

use expect_test::expect;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

use crate::{run_once, said, shell};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: fooservice}
spec: {selector: {app: nobody}, ports: [{port: 8765, targetPort: 8080}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: named}
data: {KEY: value}
";

const ENVIRONMENT: &str = r#"    resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 1250m, memory: 64Mi}}
    envFrom:
    - {prefix: "1-", configMapRef: {name: named}}
    - {prefix: "%_", configMapRef: {name: named}}
    - {prefix: "a.b ", configMapRef: {name: named}}
    env:
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: CPU_LIMIT_MILLI, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: CPU_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: MEMORY_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}
"#;

const UNLIMITED: &str = r#"    env:
    - {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: MEMORY_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
"#;

/// The fields of the three Pods that run as somebody else.
const USERS: [(&str, &str, &str); 3] = [
    ("nobody", "runAsUser: 65534", "id -u; id -g"),
    ("grouped", "runAsUser: 1001, runAsGroup: 2002", "id -u; id -g"),
    ("held", "runAsUser: 1000, allowPrivilegeEscalation: false", "grep NoNewPrivs /proc/self/status | tr -d '\\t'"),
];

pub fn begin(cluster: &Cluster) {
    cluster.create(SERVICE);
    run_once(cluster, "surroundings", &shell("env", ENVIRONMENT));
    run_once(cluster, "unlimited", &shell("echo $CPU_LIMIT; echo $MEMORY_LIMIT", UNLIMITED));
    for (name, context, line) in USERS {
        run_once(cluster, name, &shell(line, &format!("    securityContext: {{{context}}}\n")));
    }
    let line = "ip link add dummy0 type dummy 2>/dev/null || echo refused";
    run_once(cluster, "plain", &shell(line, "    securityContext: {privileged: false}\n"));
    let line = "touch /file 2>/dev/null || echo refused";
    run_once(cluster, "read-only", &shell(line, "    securityContext: {readOnlyRootFilesystem: true}\n"));
    let aliases = "  hostAliases: [{ip: 123.45.67.89, hostnames: [foo, bar]}]\n";
    run_once(cluster, "aliased", &format!("{aliases}{}", shell("cat /etc/hosts", "")));
    run_once(cluster, "on-host", &format!("  hostNetwork: true\n{}", shell("cat /etc/hosts", "")));
    let own = "    volumeMounts: [{name: hosts, mountPath: /etc/hosts}]\n  volumes: [{name: hosts, hostPath: {path: /etc/hosts, type: File}}]\n";
    run_once(cluster, "own-hosts", &shell("cat /etc/hosts", own));
    let sysctls = "  securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: \"1\"}]}\n";
    run_once(cluster, "settings", &format!("{sysctls}{}", shell("cat /proc/sys/kernel/shm_rmid_forced", "")));
    let unsafe_one = "  securityContext: {sysctls: [{name: kernel.msgmax, value: \"65536\"}]}\n";
    run_once(cluster, "unsafe-settings", &format!("{unsafe_one}{}", shell("true", "")));
}

pub fn look(cluster: &Cluster) {
    environment(cluster);
    services(cluster);
    assert_eq!(said(cluster, "nobody"), "65534\n0\n");
    assert_eq!(said(cluster, "grouped"), "1001\n2002\n");
    assert_eq!(said(cluster, "held"), "NoNewPrivs:1\n");
    assert_eq!(said(cluster, "plain"), "refused\n");
    assert_eq!(said(cluster, "read-only"), "refused\n");
    let hosts = said(cluster, "aliased");
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n"), "{hosts}");
    assert!(hosts.contains("123.45.67.89\tfoo\tbar"), "{hosts}");
    assert!(!said(cluster, "own-hosts").contains("Kubernetes-managed"));
    let hosts = said(cluster, "on-host");
    assert!(hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"), "{hosts}");
    assert_eq!(said(cluster, "settings"), "1\n");
    eventually("what the node does not allow is refused", || {
        cluster.get("pod unsafe-settings")["status"]["reason"] == "SysctlForbidden"
    });
}

fn environment(cluster: &Cluster) {
    let text = said(cluster, "surroundings");
    let pod = cluster.get("pod surroundings")["status"].clone();
    let has = |line: &str| assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    for (name, field) in [("HOST_IP", "hostIP"), ("HOST_IPS", "hostIP"), ("POD_IP", "podIP"), ("POD_IPS", "podIP")] {
        has(&format!("{name}={}", pod[field].as_str().unwrap()));
    }
    let mut sizes: Vec<&str> = text
        .lines()
        .filter(|line| ["NAMESPACE=", "CPU_", "MEMORY_", "1-", "%_", "a.b"].iter().any(|name| line.starts_with(name)))
        .collect();
    sizes.sort_unstable();
    expect![[r#"
        CPU_LIMIT=2
        CPU_LIMIT_MILLI=1250
        CPU_REQUEST=250
        MEMORY_REQUEST=32
        NAMESPACE=default"#]]
    .assert_eq(&sizes.join("\n"));
    let allocatable = cluster.get("nodes")["items"][0]["status"]["allocatable"].clone();
    let cpu = allocatable["cpu"].as_str().unwrap();
    let milli = cpu.strip_suffix('m').map_or_else(|| format!("{cpu}000"), str::to_owned);
    let memory = allocatable["memory"].as_str().unwrap();
    let bytes: u64 = memory.strip_suffix("Ki").unwrap_or(memory).parse().unwrap();
    let bytes = if memory.ends_with("Ki") { bytes * 1024 } else { bytes };
    assert_eq!(said(cluster, "unlimited"), format!("{milli}\n{bytes}\n"), "{allocatable}");
}

/// A container is told of the Services that its node knows of when it begins; so some may be too early.
fn services(cluster: &Cluster) {
    let address = cluster.get("svc fooservice")["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let (mut text, mut tries) = (said(cluster, "surroundings"), 0);
    eventually("a container is told of the Service", || {
        if !text.contains("FOOSERVICE_") {
            tries += 1;
            let name = format!("served-{tries}");
            run_once(cluster, &name, &shell("env", ""));
            text = said(cluster, &name);
        }
        text.contains("FOOSERVICE_")
    });
    for line in [
        format!("FOOSERVICE_SERVICE_HOST={address}"),
        "FOOSERVICE_SERVICE_PORT=8765".to_owned(),
        format!("FOOSERVICE_PORT=tcp://{address}:8765"),
        format!("FOOSERVICE_PORT_8765_TCP_ADDR={address}"),
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
}
