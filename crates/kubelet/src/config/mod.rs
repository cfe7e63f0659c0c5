//! From a Pod's spec to the messages of the Container Runtime Interface: pure functions, no I/O.

pub mod container;
pub mod dns;
pub mod env;
pub mod hosts;
pub mod paths;
pub mod resources;
pub mod sandbox;
pub mod security;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use skiff_base::Quantity;

/// What a node is to the Pods on it.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its addresses, the primary one first.
    pub ips: Vec<String>,
    /// Where folders and logs are.
    pub paths: paths::Paths,
    /// The addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The domain of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// The node's own resolver configuration.
    pub resolver: dns::Resolver,
    /// The node's own `/etc/hosts`.
    pub hosts: String,
    /// Memory of the node in bytes.
    pub memory_bytes: i64,
    /// What Pods can have.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Whether the runtime can make a mount read-only with all below it.
    pub recursive_read_only: bool,
    /// Whether the kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// Whether CPU limits are kept by a quota.
    pub cpu_quota: bool,
    /// Whether memory that was asked for is protected, and limits slow down before they kill (v2 only).
    pub memory_qos: bool,
    /// Where between request and limit memory slows down.
    pub memory_throttling: f64,
    /// Processes that each Pod may have; no bound where that is not positive.
    pub pod_pids: i64,
    /// Whether Pods that name no seccomp profile get the runtime's.
    pub seccomp_default: bool,
    /// Whether containers of Guaranteed Pods get processors for themselves.
    pub static_cpus: bool,
    /// Whether cgroup parents are named as systemd slices.
    pub systemd_cgroups: bool,
    /// Above all the node's cgroups, `/skiff-a`; empty for the machine's own node.
    pub cgroup_root: String,
}

/// The objects that a Pod refers to, as far as they exist.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// ConfigMaps of the Pod's namespace by name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets of the Pod's namespace by name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Services of the Pod's namespace, and `kubernetes` of the default one.
    pub services: Vec<Arc<Service>>,
    /// Claims of the Pod's namespace by name.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// The text of files in volumes that variables come from, by volume and path.
    pub files: BTreeMap<(String, String), String>,
    /// The volumes that they are bound to, by name.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// ClusterTrustBundles in the order of their names; `None` where the node or its API server has none at all.
    pub bundles: Option<Vec<Bundle>>,
}

/// A ClusterTrustBundle, of whichever version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Its name.
    pub name: String,
    /// Whose certificates they are; empty for nobody's.
    pub signer: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The certificates in PEM.
    pub certificates: String,
}

/// The names of the ConfigMaps, Secrets and the like that a Pod refers to, anywhere but in pull secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: std::collections::BTreeSet<String>,
    /// Secrets.
    pub secrets: std::collections::BTreeSet<String>,
    /// Claims.
    pub claims: std::collections::BTreeSet<String>,
    /// ClusterTrustBundles, as field selectors.
    pub bundles: std::collections::BTreeSet<String>,
}

impl References {
    /// Those of one Pod.
    pub fn of(pod: &Pod) -> Self {
        let mut found = Self::default();
        for spec in crate::pod::spec::containers(pod) {
            for source in spec.container.env_from.iter().flatten() {
                found.config_maps.extend(source.config_map_ref.as_ref().map(|source| source.name.clone()));
                found.secrets.extend(source.secret_ref.as_ref().map(|source| source.name.clone()));
            }
            for source in spec.container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
                found.config_maps.extend(source.config_map_key_ref.as_ref().map(|source| source.name.clone()));
                found.secrets.extend(source.secret_key_ref.as_ref().map(|source| source.name.clone()));
            }
        }
        for volume in crate::pod::spec::spec(pod).volumes.iter().flatten() {
            found.claims.extend(crate::volumes::claims::claim_name(pod, volume));
            found.config_maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
            found.secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
            let projections = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            for source in projections {
                found.config_maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
                found.secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
                found.bundles.extend(source.cluster_trust_bundle.as_ref().and_then(|source| {
                    let by_name = source.name.as_ref().map(|name| format!("metadata.name={name}"));
                    by_name.or_else(|| source.signer_name.as_ref().map(|signer| format!("spec.signerName={signer}")))
                }));
            }
        }
        found
    }
}

/// The namespace of a Pod.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("")
}

/// The name of a Pod.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("")
}

/// The UID of a Pod.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}
