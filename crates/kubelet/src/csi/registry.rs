//! Which drivers are there: they put a socket into the folder of plugins, are asked who they are, and are told that they are
//! known. The API learns of them by the node's CSINode, an annotation and labels.
//! See <https://kubernetes-csi.github.io/docs/node-driver-registrar.html>.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;
use skiff_client::{Client, Patch};
use skiff_cri::grpc::Channel;
use skiff_cri::{CriError, CriResult};

use super::keeper::{Driver, Drivers};
use super::messages::{Empty, NodeGetCapabilitiesResponse, NodeGetInfoResponse, PluginInfo, RegistrationStatus};

/// How often the folder is looked at. Looking costs one call where nothing is in it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a plugin has to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kind of plugin that is known here.
const KIND: &str = "CSIPlugin";
/// Where the node's names among drivers are told.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// How often a write to an object that others change too is tried.
const TRIES: usize = 5;

/// A socket, told from one of the same name that came later.
type Sighting = (PathBuf, u64);

/// The longest that a plugin is left alone which could not be registered, in looks at the folder; upstream's two minutes.
const MOST_LOOKS: u32 = 120;

/// What became of a socket.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// The driver of this name is known by it.
    Registered(String),
    /// It could not be: drivers whose storage is not ready yet say so. So many looks are left until it is tried again.
    Refused { looks: u32, left: u32 },
}

impl Default for Standing {
    fn default() -> Self {
        Self::Refused { looks: 0, left: 0 }
    }
}

impl Standing {
    /// Whether it is to be tried at this look.
    fn is_due(&mut self) -> bool {
        match self {
            Self::Refused { left: 0, .. } => true,
            Self::Refused { left, .. } => {
                *left -= 1;
                false
            }
            Self::Registered(_) => false,
        }
    }

    /// Notes what came of trying.
    fn note(&mut self, name: Option<String>) {
        *self = match (name, &*self) {
            (Some(name), _) => Self::Registered(name),
            (None, Self::Refused { looks, .. }) => {
                let looks = (looks * 2).clamp(1, MOST_LOOKS);
                Self::Refused { looks, left: looks }
            }
            (None, Self::Registered(_)) => Self::default(),
        };
    }
}

/// Follows the folder of plugins for ever.
pub async fn keep(drivers: Arc<Drivers>, client: Client, node: String) {
    let folder = drivers.paths.root.join("plugins_registry");
    if let Err(error) = std::fs::create_dir_all(&folder) {
        return tracing::warn!(folder = %folder.display(), %error, "storage drivers cannot register");
    }
    let mut known: HashMap<Sighting, Standing> = HashMap::new();
    let mut told = None;
    loop {
        let found = sockets(&folder);
        let gone: Vec<_> = known.keys().filter(|socket| !found.contains(socket)).cloned().collect();
        for socket in gone {
            if let Some(Standing::Registered(name)) = known.remove(&socket)
                && !known.values().any(|other| *other == Standing::Registered(name.clone()))
            {
                tracing::info!(driver = name, "a storage driver has gone");
                drivers.forget(&name);
            }
        }
        for socket in found {
            let standing = known.entry(socket.clone()).or_default();
            if standing.is_due() {
                let name = register(&drivers, &socket.0).await;
                if let Some(name) = name.clone() {
                    let drivers = drivers.clone();
                    tokio::spawn(async move {
                        if let Err(error) = drivers.sweep(&name).await {
                            tracing::warn!(driver = name, error, "cannot let go of volumes that no Pod has");
                        }
                    });
                }
                standing.note(name);
            }
        }
        let now = drivers.told();
        if told.as_ref() != Some(&now) && tell(&client, &node, &now).await {
            told = Some(now);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The sockets in the folder and below.
fn sockets(folder: &Path) -> Vec<Sighting> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(meta) = entry.metadata() else { continue };
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if meta.is_dir() {
            found.extend(sockets(&path));
        } else if meta.file_type().is_socket() {
            found.push((path, meta.ino()));
        }
    }
    found
}

/// Asks a plugin who it is and tells it what came of that; its name where it is known from now on.
async fn register(drivers: &Drivers, socket: &Path) -> Option<String> {
    let known = async {
        let channel = Channel::new(&socket.display().to_string())?;
        let info: PluginInfo =
            channel.unary("/pluginregistration.Registration/GetInfo", &Empty {}, Some(PATIENCE)).await?;
        let outcome = take(drivers, &info).await;
        let status = RegistrationStatus {
            plugin_registered: outcome.is_ok(),
            error: outcome.as_ref().err().map(|error| error.message.clone()).unwrap_or_default(),
        };
        let call = "/pluginregistration.Registration/NotifyRegistrationStatus";
        let _: Empty = channel.unary(call, &status, Some(PATIENCE)).await?;
        outcome.map(|()| info.name)
    };
    match known.await {
        Ok(name) => {
            tracing::info!(driver = name, "a storage driver has registered");
            Some(name)
        }
        Err(error) => {
            tracing::warn!(socket = %socket.display(), %error, "a plugin cannot be registered");
            None
        }
    }
}

async fn take(drivers: &Drivers, info: &PluginInfo) -> CriResult<()> {
    if info.r#type != KIND {
        return Err(CriError::invalid_argument(format!("no handler registered for plugin type: {}", info.r#type)));
    }
    if !info.supported_versions.iter().any(|version| version.trim_start_matches('v').starts_with("1.")) {
        let versions = info.supported_versions.join(", ");
        return Err(CriError::invalid_argument(format!(
            "none of the CSI versions reported by this driver are supported: {versions}"
        )));
    }
    let channel = Channel::new(&info.endpoint)?;
    let about: NodeGetInfoResponse = channel.unary("/csi.v1.Node/NodeGetInfo", &Empty {}, Some(PATIENCE)).await?;
    let can: NodeGetCapabilitiesResponse =
        channel.unary("/csi.v1.Node/NodeGetCapabilities", &Empty {}, Some(PATIENCE)).await?;
    let capabilities = can.capabilities.into_iter().filter_map(|one| one.rpc).map(|rpc| rpc.r#type).collect();
    let topology = about.accessible_topology.map(|topology| topology.segments).unwrap_or_default();
    drivers.add(
        info.name.clone(),
        Driver {
            channel: Arc::new(channel),
            capabilities,
            node_id: about.node_id,
            max_volumes: about.max_volumes_per_node,
            topology: topology.into_iter().collect(),
        },
    );
    Ok(())
}

/// What the API is told of one driver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// The driver's name for the node.
    pub node_id: String,
    /// The most volumes that it mounts; no bound where that is zero.
    pub max_volumes: i64,
    /// Where the node is.
    pub topology: BTreeMap<String, String>,
}

/// Writes CSINode, annotation and labels; whether that went well.
async fn tell(client: &Client, node: &str, drivers: &BTreeMap<String, Told>) -> bool {
    for _ in 0..TRIES {
        match try_to_tell(client, node, drivers).await {
            Ok(()) => return true,
            Err(error) if error.is_conflict() || error.is_already_exists() => {}
            Err(error) => {
                tracing::warn!(%error, "the node's storage drivers cannot be told of");
                return false;
            }
        }
    }
    false
}

async fn try_to_tell(client: &Client, node: &str, drivers: &BTreeMap<String, Told>) -> Result<(), skiff_client::Error> {
    let api_node = client.get::<k8s_openapi::api::core::v1::Node>("", node).await?;
    let spec = CSINodeSpec { drivers: drivers.iter().map(|(name, told)| entry(name, told)).collect() };
    match client.get::<CSINode>("", node).await {
        Ok(found) if found.spec == spec => {}
        Ok(found) => drop(client.update(&CSINode { spec, ..found }).await?),
        Err(error) if error.is_not_found() => {
            let owner = OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.to_owned(),
                uid: api_node.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            };
            let metadata = ObjectMeta {
                name: Some(node.to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            };
            client.create(&CSINode { metadata, spec }).await?;
        }
        Err(error) => return Err(error),
    }
    let ids: BTreeMap<&str, &str> = drivers.iter().map(|(name, told)| (name.as_str(), told.node_id.as_str())).collect();
    let ids = (!ids.is_empty()).then(|| serde_json::to_string(&ids).expect("plain data"));
    let labels: BTreeMap<&str, &str> = drivers
        .values()
        .flat_map(|told| told.topology.iter().map(|(key, value)| (key.as_str(), value.as_str())))
        .collect();
    let has = |map: &Option<BTreeMap<String, String>>, key: &str, value: Option<&str>| {
        map.as_ref().and_then(|map| map.get(key)).map(String::as_str) == value
    };
    let same = has(&api_node.metadata.annotations, NODE_IDS, ids.as_deref())
        && labels.iter().all(|(key, value)| has(&api_node.metadata.labels, key, Some(value)));
    if same {
        return Ok(());
    }
    let patch = json!({"metadata": {"annotations": {NODE_IDS: ids}, "labels": labels}});
    client.patch_raw(&format!("/api/v1/nodes/{node}"), &Patch::Merge(patch)).await.map(drop)
}

fn entry(name: &str, told: &Told) -> CSINodeDriver {
    let count = i32::try_from(told.max_volumes).ok().filter(|count| *count > 0);
    CSINodeDriver {
        name: name.to_owned(),
        node_id: told.node_id.clone(),
        topology_keys: Some(told.topology.keys().cloned().collect::<Vec<_>>()).filter(|keys| !keys.is_empty()),
        allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_was_refused_is_tried_again_ever_later() {
        let mut standing = Standing::default();
        let mut tried = Vec::new();
        for look in 0..400 {
            if standing.is_due() {
                tried.push(look);
                standing.note(None);
            }
        }
        assert_eq!(tried, [0, 2, 5, 10, 19, 36, 69, 134, 255, 376]);
        while !standing.is_due() {}
        standing.note(Some("d".to_owned()));
        assert!(!standing.is_due() && standing == Standing::Registered("d".to_owned()));
    }
}
