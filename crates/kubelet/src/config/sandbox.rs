//! The configuration of a Pod's sandbox.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use skiff_cri::{LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol};

use super::{NodeFacts, dns, hosts, name, namespace, resources, security, uid};
use crate::pod::spec;

/// The labels by which a Pod's sandboxes and containers are found again; log collectors know them too.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The Pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The Pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// The labels that every sandbox and container of the Pod has.
pub fn identity(pod: &Pod) -> HashMap<String, String> {
    [(POD_NAME, name(pod)), (POD_NAMESPACE, namespace(pod)), (POD_UID, uid(pod))]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The sandbox of one attempt.
pub fn config(pod: &Pod, attempt: u32, node: &NodeFacts) -> PodSandboxConfig {
    let mut labels: HashMap<_, _> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity(pod));
    let mut annotations: HashMap<_, _> = pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.entry("kubernetes.io/config.source".to_owned()).or_insert_with(|| "api".to_owned());
    let sysctls = spec::spec(pod).security_context.as_ref().and_then(|context| context.sysctls.clone());
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name(pod).to_owned(),
            uid: uid(pod).to_owned(),
            namespace: namespace(pod).to_owned(),
            attempt,
        }),
        hostname: if spec::host_network(pod) {
            node.name.clone()
        } else {
            hosts::visible_hostname(pod, &node.cluster_domain)
        },
        log_directory: node.paths.pod_logs(namespace(pod), name(pod), uid(pod)).to_string_lossy().into_owned(),
        dns_config: Some(dns::config(pod, node)),
        port_mappings: port_mappings(pod),
        labels,
        annotations,
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup(pod, node),
            security_context: Some(security::sandbox(pod)),
            sysctls: sysctls.into_iter().flatten().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
            overhead: overhead(pod),
            resources: Some(resources::pod(pod)),
        }),
    }
}

/// The cgroup in which the Pod's containers get theirs.
pub fn cgroup(pod: &Pod, node: &NodeFacts) -> String {
    format!("{}{}", node.cgroup_root, resources::cgroup_parent(pod, node.systemd_cgroups))
}

/// What the Pod's runtime class takes beside its containers.
fn overhead(pod: &Pod) -> Option<skiff_cri::LinuxContainerResources> {
    let overhead = spec::spec(pod).overhead.clone().filter(|overhead| !overhead.is_empty())?;
    Some(resources::of_limits(overhead))
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let specs = spec::containers(pod);
    let ports = specs.iter().flat_map(|spec| spec.container.ports.iter().flatten());
    let mappings = ports.map(|port| PortMapping {
        protocol: match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        } as i32,
        container_port: port.container_port,
        host_port: if spec::host_network(pod) { 0 } else { port.host_port.unwrap_or(0) },
        host_ip: port.host_ip.clone().unwrap_or_default(),
    });
    mappings.collect()
}
