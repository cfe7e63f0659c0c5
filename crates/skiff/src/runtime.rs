//! The node's container runtime: the embedded one, which is also served on a CRI socket, or another one behind a socket.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use skiff_base::clock::SharedClock;
use skiff_cri::{
    CriClient, CriServer, ImageService, ListPodSandboxRequest, NetworkConfig, RuntimeService,
    UpdateRuntimeConfigRequest, VersionRequest,
};
use skiff_netd::PodNetworkConfig;
use skiff_runtime::image::{ImageStore, ImageStoreOptions};
use skiff_runtime::{CniConfig, CniNetwork, EmbeddedRuntime, RuntimeConfig};

use crate::agent::{NetworkMaker, PluggedNetwork};
use crate::cli::MachineOptions;
use crate::commands::CommandError;
use crate::machine::Machine;
use crate::network::{BRIDGE, Network};
use crate::paths::{Paths, write_atomically};

/// How long another runtime may take to answer when the node starts, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// What the administrator says of registries.
const REGISTRIES_FILE: &str = "/etc/skiff/registries.yaml";
/// Where runtimes look for the pod network, unless they are told otherwise.
const CNI_FOLDER: &str = "/etc/cni/net.d";
/// Where the distributions and the plugins' own packages put them.
const CNI_PLUGIN_FOLDERS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
const CNI_FILE: &str = "10-skiff.conflist";

/// The node's runtime, and where its images are.
pub struct NodeRuntime {
    /// Sandboxes and containers.
    pub containers: Arc<dyn RuntimeService>,
    /// Images, as any runtime has them.
    pub images: Arc<dyn ImageService>,
    /// The embedded runtime's own images, which can do more.
    pub store: Option<ImageStore>,
    /// The endpoint of another runtime.
    pub endpoint: Option<String>,
    _served: Option<CriServer>,
}

/// Starts the runtime that the options ask for.
///
/// # Errors
/// It does not start, or does not answer.
pub async fn start(machine: &Machine, network: &Network) -> Result<NodeRuntime, CommandError> {
    match &machine.options.container_runtime_endpoint {
        Some(endpoint) => connect(&machine.paths, network, endpoint).await,
        None => embedded(&machine.paths, &machine.options, &machine.clock, network).await,
    }
}

async fn embedded(
    paths: &Paths,
    options: &MachineOptions,
    clock: &SharedClock,
    network: &Network,
) -> Result<NodeRuntime, CommandError> {
    let image_options = ImageStoreOptions {
        insecure_registries: options.insecure_registry.clone(),
        registries: options
            .private_registry
            .clone()
            .or_else(|| paths.isolated.is_none().then(|| PathBuf::from(REGISTRIES_FILE))),
        clock: clock.clone(),
        ..ImageStoreOptions::default()
    };
    let folder = paths.images();
    let store = tokio::task::spawn_blocking(move || ImageStore::open(folder, image_options)).await??;
    let cgroup = paths.runtime_cgroup();
    let config = RuntimeConfig {
        shim_cgroup: Some(format!("{cgroup}/shims")),
        default_cgroup_parent: cgroup,
        ..RuntimeConfig::new(paths.runtime(), paths.volatile())?
    };
    let plugins = cni_network(paths, options)?;
    let maker = plugins.clone().map_or_else(|| NetworkMaker::Node(network.pods.clone()), NetworkMaker::Plugins);
    let plugin = Arc::new(PluggedNetwork { maker, gate: network.gate() });
    let runtime = EmbeddedRuntime::start(config, Arc::new(store.clone()), plugin, clock.clone()).await?;
    // Sandboxes that were removed while nobody kept the books have addresses still.
    let known = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.items;
    match plugins {
        Some(plugins) => {
            let networks = runtime.networks();
            plugins.tidy(networks.iter().map(|(id, _)| id.clone()).collect()).await;
            tokio::task::spawn_blocking(move || plugins.look_at(&networks));
        }
        None => network.pods.retain(|id| known.iter().any(|sandbox| sandbox.id == id))?,
    }
    let (containers, images) = (Arc::new(runtime), Arc::new(store.clone()));
    let served = CriServer::start(&paths.cri_socket(), containers.clone(), images.clone())?;
    Ok(NodeRuntime { containers, images, store: Some(store), endpoint: None, _served: Some(served) })
}

/// The pod network by plugins of others, where the administrator wants that.
fn cni_network(paths: &Paths, options: &MachineOptions) -> Result<Option<CniNetwork>, CommandError> {
    let Some(config_folder) = options.cni_conf_dir.clone() else { return Ok(None) };
    let plugin_folders = match options.cni_bin_dir.as_slice() {
        [] => CNI_PLUGIN_FOLDERS.map(PathBuf::from).to_vec(),
        given => given.to_vec(),
    };
    let config = CniConfig { config_folder, plugin_folders, state_folder: paths.network().join("cni") };
    Ok(Some(CniNetwork::open(config)?))
}

async fn connect(paths: &Paths, network: &Network, endpoint: &str) -> Result<NodeRuntime, CommandError> {
    let client = Arc::new(CriClient::new(endpoint)?);
    let config = network.pods.config();
    offer_network(paths, config)?;
    let asked = async {
        loop {
            match client.version(VersionRequest::default()).await {
                Ok(version) => return version,
                Err(error) => tracing::info!(endpoint, %error, "waiting for the container runtime"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    let version = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| {
        format!("the container runtime at {endpoint} did not answer for {} s; is it running?", PATIENCE.as_secs())
    })?;
    tracing::info!(endpoint, name = version.runtime_name, version = version.runtime_version, "container runtime");
    let ranges: Vec<String> = config.node_ranges.iter().map(ToString::to_string).collect();
    let network_config = Some(NetworkConfig { pod_cidr: ranges.join(",") });
    let runtime_config = Some(skiff_cri::RuntimeConfig { network_config });
    client.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await?;
    Ok(NodeRuntime {
        containers: client.clone(),
        images: client,
        store: None,
        endpoint: Some(endpoint.to_owned()),
        _served: None,
    })
}

/// Writes the pod network as CNI plugins take it into the node's folder, and, on the machine's own node, where runtimes
/// look, unless somebody has set up another network there.
fn offer_network(paths: &Paths, config: &PodNetworkConfig) -> Result<(), CommandError> {
    let text = serde_json::to_vec_pretty(&own_network(config, &paths.join("cni-addresses")))?;
    let mut folders = vec![paths.join("cni")];
    let theirs = Path::new(CNI_FOLDER);
    if paths.isolated.is_none() && !has_other_network(theirs) {
        folders.push(theirs.to_owned());
    }
    for folder in folders {
        std::fs::create_dir_all(&folder)?;
        write_atomically(&folder.join(CNI_FILE), &text, 0o644)?;
    }
    Ok(())
}

/// What [`offer_network`] left outside the node's folder.
pub fn network_file() -> PathBuf {
    Path::new(CNI_FOLDER).join(CNI_FILE)
}

fn has_other_network(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name != CNI_FILE && [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end))
    })
}

/// Pods on the node's own bridge, so that Services find them where the embedded runtime would have put them.
fn own_network(config: &PodNetworkConfig, addresses: &Path) -> serde_json::Value {
    let gateways = config.gateways();
    let ranges = config.node_ranges.iter().zip(&gateways);
    let ranges: Vec<_> = ranges
        .map(|(range, gateway)| json!([{ "subnet": range.to_string(), "gateway": gateway.to_string() }]))
        .collect();
    let everywhere = |gateway: &IpAddr| if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let routes: Vec<_> = gateways.iter().map(|gateway| json!({ "dst": everywhere(gateway) })).collect();
    json!({
        "cniVersion": "0.4.0",
        "name": "skiff",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": addresses,
                    "ranges": ranges,
                    "routes": routes,
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}
