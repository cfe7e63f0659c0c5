//! What makes a machine a node, on servers and agents alike: its range of pod addresses, network, runtime and node agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use skiff_base::Cidr;
use skiff_client::{Client, Informers, ListOptions};
use skiff_kubelet::{Kubelet, LocalPaths};
use tokio::task::JoinHandle;

use crate::agent::{self, KernelMounts};
use crate::commands::CommandError;
use crate::machine::Machine;
use crate::network::{self, Network};
use crate::runtime::{self, NodeRuntime};
use crate::server::bind;

/// The version of the Kubernetes API that is served.
pub const KUBERNETES_VERSION: &str = "v1.36.2+skiff";
/// The domain of the cluster's names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The API server's name towards nodes' agents.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often it is looked whether the node has been given its addresses.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How the node's parts reach the API server.
pub struct Ways {
    /// In the node's name.
    pub node: Client,
    /// In the name of the provisioner of the node's disk.
    pub provisioner: Client,
    /// What Services, EndpointSlices and Nodes are read from.
    pub informers: Informers,
}

/// The running node.
pub struct Worker {
    kubelet: Kubelet,
    /// Sandboxes, containers and images.
    pub runtime: NodeRuntime,
    network: Network,
    volumes: JoinHandle<()>,
}

impl Worker {
    /// Starts the node. It must have its range of pod addresses.
    ///
    /// # Errors
    /// A part does not start; the error says which and why.
    pub async fn start(machine: &Machine, ways: Ways, tls: Arc<rustls::ServerConfig>) -> Result<Self, CommandError> {
        let network = network::start(machine, &ways.informers, &ways.node)?;
        let runtime = runtime::start(machine, &network).await?;
        let kubelet = start_kubelet(machine, ways.node, &runtime, tls).await?;
        let volumes = tokio::spawn(LocalPaths::run(
            ways.provisioner,
            ways.informers,
            machine.clock.clone(),
            machine.facts.node_name.clone(),
            machine.paths.volumes(),
        ));
        Ok(Self { kubelet, runtime, network, volumes })
    }

    /// Ends the node; containers run on unless they are to end too.
    ///
    /// # Errors
    /// The runtime does not say what runs.
    pub async fn end(self, containers_too: bool) -> Result<(), CommandError> {
        drop(self.kubelet);
        if containers_too {
            agent::stop_everything(&self.runtime.containers).await?;
        }
        drop(self.network);
        self.volumes.abort();
        Ok(())
    }
}

async fn start_kubelet(
    machine: &Machine,
    client: Client,
    runtime: &NodeRuntime,
    tls: Arc<rustls::ServerConfig>,
) -> Result<Kubelet, CommandError> {
    let cluster = machine.facts.ranges();
    let any = cluster.any_address().to_string();
    let listener = bind((&any, skiff_kubelet::DEFAULT_PORT), "perhaps another kubelet; end that one")?;
    listener.set_nonblocking(true)?;
    let config = skiff_kubelet::Config {
        informers: Informers::new(client.clone()),
        client,
        runtime: runtime.containers.clone(),
        images: runtime.images.clone(),
        mounter: Arc::new(KernelMounts),
        clock: machine.clock.clone(),
        ids: machine.ids.clone(),
        node_name: machine.facts.node_name.clone(),
        node_ips: machine.addresses.iter().map(ToString::to_string).collect(),
        root_dir: machine.paths.kubelet(),
        log_dir: machine.paths.container_logs(),
        pod_cidrs: network::node_ranges(&machine.facts)?.iter().map(ToString::to_string).collect(),
        cluster_dns: cluster.dns().iter().map(ToString::to_string).collect(),
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        resolv_conf: PathBuf::from(RESOLV_CONF),
        version: KUBERNETES_VERSION.to_owned(),
        options: machine.kubelet_options()?.with_gates(machine.options.feature_gates.iter().cloned())?,
        credentials: Arc::new(machine.credential_providers()?),
        manifests: machine.paths.manifests(),
        cgroups: true,
        disk_bytes: machine.disk_bytes(),
        cgroup_root: machine.paths.cgroup_parent(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        server: Some(skiff_kubelet::ServerConfig {
            listener: tokio::net::TcpListener::from_std(listener)?,
            tls,
            allowed_names: vec![KUBELET_CLIENT.to_owned()],
        }),
    };
    Ok(Kubelet::start(config).await)
}

/// Registers the node with these ranges of pod addresses, if they are free, or waits until it is given some. What is kept of
/// an earlier run stays, so that a node starts without its API server.
///
/// # Errors
/// The API server refuses.
pub async fn ensure_pod_range(
    machine: &mut Machine,
    client: &Client,
    preferred: Option<Vec<Cidr>>,
) -> Result<(), CommandError> {
    if machine.facts.pod_range.is_some() {
        return Ok(());
    }
    let name = machine.facts.node_name.clone();
    let preferred = match preferred {
        Some(ranges) if are_free(client, &name, &ranges).await? => Some(ranges),
        _ => None,
    };
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
        "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}});
    if let Some(ranges) = preferred {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        node["spec"] = json!({"podCIDR": ranges.first(), "podCIDRs": ranges});
    }
    match client.send_json::<Value>(Method::POST, "/api/v1/nodes", &node).await {
        Err(error) if !error.is_already_exists() => return Err(error.into()),
        _ => {}
    }
    loop {
        let node: Node = client.get("", &name).await?;
        let ranges = ranges_of(&node);
        if !ranges.is_empty() {
            machine.facts.pod_range = Some(ranges.join(","));
            machine.facts.save(&machine.paths)?;
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn ranges_of(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.clone().unwrap_or_default();
    let all = if all.is_empty() { spec.pod_cidr.clone().into_iter().collect() } else { all };
    all.into_iter().filter(|range| !range.is_empty()).collect()
}

async fn are_free(client: &Client, own_name: &str, ranges: &[Cidr]) -> Result<bool, CommandError> {
    let nodes = client.list::<Node>("", &ListOptions::default()).await?.items;
    let mut others = nodes.iter().filter(|node| node.metadata.name.as_deref() != Some(own_name)).flat_map(ranges_of);
    Ok(!others.any(|taken| taken.parse().is_ok_and(|taken: Cidr| ranges.contains(&taken))))
}
