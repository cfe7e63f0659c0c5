//! Speaking to storage drivers: a volume is staged for the node and published for the Pod, and let go the other way round.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use parking_lot::Mutex;
use prost::Message;
use skiff_client::Client;
use skiff_cri::CriError;
use skiff_cri::grpc::Channel;

use super::messages::{
    Empty, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    SINGLE_NODE_MULTI_WRITER, STAGE_UNSTAGE_VOLUME, VOLUME_MOUNT_GROUP,
};
use super::registry::Told;
use super::{MEMORY, Memory, Wanted, mounted, staging};
use crate::config::{paths::Paths, uid};
use crate::volumes::owner;

/// How long a driver has for a call; upstream's number.
const PATIENCE: Duration = Duration::from_secs(120);
/// The prefix of what goes wrong here, as upstream has it.
const WHO: &str = "kubernetes.io/csi";

/// A driver that is there.
pub struct Driver {
    pub(super) channel: Arc<Channel>,
    pub(super) capabilities: HashSet<i32>,
    pub(super) node_id: String,
    pub(super) max_volumes: i64,
    pub(super) topology: BTreeMap<String, String>,
}

impl Driver {
    fn can(&self, capability: i32) -> bool {
        self.capabilities.contains(&capability)
    }

    async fn ask(&self, method: &str, request: &impl Message) -> Result<(), CriError> {
        let _: Empty = self.channel.unary(&format!("/csi.v1.Node/{method}"), request, Some(PATIENCE)).await?;
        Ok(())
    }
}

/// The drivers of the node, and what they have mounted.
pub struct Drivers {
    pub(super) paths: Paths,
    drivers: Mutex<BTreeMap<String, Arc<Driver>>>,
    /// What was published by this run of the agent: the UID of the Pod and the volume's name.
    published: Mutex<HashSet<(String, String)>>,
    /// One call at a time about each volume, by driver and handle.
    turns: Mutex<HashMap<(String, String), Arc<tokio::sync::Mutex<()>>>>,
}

/// What a driver's volumes of a Pod came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// A driver wants to be asked again from time to time.
    pub again: bool,
}

/// What is asked for beside the volume itself.
pub struct Subject<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// The node's name.
    pub node: &'a str,
    /// Tokens of the Pod's service account for the driver, as it reads them.
    pub tokens: Option<&'a str>,
}

impl Drivers {
    /// None yet.
    pub fn new(paths: Paths) -> Arc<Self> {
        Arc::new(Self { paths, drivers: Mutex::default(), published: Mutex::default(), turns: Mutex::default() })
    }

    pub(super) fn add(&self, name: String, driver: Driver) {
        self.drivers.lock().insert(name, Arc::new(driver));
    }

    pub(super) fn forget(&self, name: &str) {
        self.drivers.lock().remove(name);
    }

    /// What the API shall know of the drivers.
    pub(super) fn told(&self) -> BTreeMap<String, Told> {
        let told = |driver: &Driver| Told {
            node_id: driver.node_id.clone(),
            max_volumes: driver.max_volumes,
            topology: driver.topology.clone(),
        };
        self.drivers.lock().iter().map(|(name, driver)| (name.clone(), told(driver))).collect()
    }

    fn driver(&self, name: &str) -> Result<Arc<Driver>, String> {
        let found = self.drivers.lock().get(name).cloned();
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// The turn of whoever speaks about a volume.
    fn turn(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        // Those that nobody waits for or holds are only in this map.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry((driver.to_owned(), handle.to_owned())).or_default().clone()
    }

    /// Has a volume mounted for a Pod. May be repeated; the driver is asked again only where it wants to be.
    ///
    /// # Errors
    /// The driver is missing or refuses, or something that it needs is missing; in upstream's words.
    pub async fn publish(
        &self,
        client: &Client,
        subject: &Subject<'_>,
        wanted: &Wanted,
        about: &CSIDriverSpec,
    ) -> Result<Published, String> {
        let pod = subject.pod;
        let again = about.requires_republish == Some(true);
        let key = (uid(pod).to_owned(), wanted.name.clone());
        if self.published.lock().contains(&key) && !again {
            return Ok(Published { again });
        }
        let failed =
            |step: &str, error: String| format!("MountVolume.{step} failed for volume {:?} : {error}", wanted.name);
        let (step, calls) = match wanted.ephemeral {
            true => ("SetUp", "mounter.SetUpAt failed to get CSI client"),
            false => ("MountDevice", "attacher.MountDevice failed to create newCsiDriverClient"),
        };
        let driver = self.driver(&wanted.driver).map_err(|error| failed(step, format!("{WHO}: {calls}: {error}")))?;
        check_mode(wanted, about).map_err(|error| failed("SetUp", error))?;
        let turn = self.turn(&wanted.driver, &wanted.handle);
        let held = turn.lock().await;
        let context = self.attached(client, subject, wanted, about).await;
        let context = context.map_err(|error| failed("WaitForAttach", format!("{WHO}: {error}")))?;
        let group = owner::group(pod).filter(|_| !wanted.read_only);
        let by_driver = group.map(|(group, _)| group).filter(|_| driver.can(VOLUME_MOUNT_GROUP));
        let capability = wanted.capability(driver.can(SINGLE_NODE_MULTI_WRITER), by_driver);
        let memory = wanted.remembered(subject.node);
        let mut staged_at = String::new();
        if !wanted.ephemeral && driver.can(STAGE_UNSTAGE_VOLUME) {
            let place = staging(&self.paths, &wanted.driver, &wanted.handle);
            staged_at = place.display().to_string();
            let request = NodeStageVolumeRequest {
                volume_id: wanted.handle.clone(),
                publish_context: context.clone(),
                staging_target_path: staged_at.clone(),
                volume_capability: Some(capability.clone()),
                volume_context: wanted.attributes.clone(),
                secrets: HashMap::new(),
            };
            let staged = stage(client, &driver, wanted, request, &memory).await;
            staged.map_err(|error| failed("MountDevice", error))?;
        }
        let request = NodePublishVolumeRequest {
            volume_id: wanted.handle.clone(),
            publish_context: context,
            staging_target_path: staged_at,
            target_path: wanted.target(pod, &self.paths).display().to_string(),
            volume_capability: Some(capability),
            readonly: wanted.read_only,
            secrets: HashMap::new(),
            volume_context: wanted.context(pod, about, subject.tokens),
        };
        let folder = wanted.folder(pod, &self.paths);
        let asked = publish(client, &driver, wanted, request, (&folder, &memory)).await;
        asked.map_err(|error| failed("SetUp", error))?;
        if let Some((group, only_on_mismatch)) = group.filter(|_| by_driver.is_none() && wanted.takes_group(about)) {
            let target = wanted.target(pod, &self.paths);
            let given = tokio::task::spawn_blocking(move || owner::apply(&target, group, only_on_mismatch)).await;
            let given = given.map_err(std::io::Error::other).and_then(|given| given);
            let words = |error| failed("SetUp", format!("applyFSGroup failed for vol {}: {error}", wanted.handle));
            given.map_err(words)?;
        }
        self.published.lock().insert(key);
        drop(held);
        Ok(Published { again })
    }

    /// What the VolumeAttachment says, where the driver wants volumes to be attached.
    async fn attached(
        &self,
        client: &Client,
        subject: &Subject<'_>,
        wanted: &Wanted,
        about: &CSIDriverSpec,
    ) -> Result<HashMap<String, String>, String> {
        if wanted.ephemeral || about.attach_required == Some(false) {
            return Ok(HashMap::new());
        }
        let name = wanted.attachment(subject.node);
        let found = client.get::<VolumeAttachment>("", &name).await;
        let failed = |why: String| format!("attacher.WaitForAttach failed for volume [{}]: {why}", wanted.handle);
        match found.map_err(|error| failed(error.to_string()))?.status {
            Some(status) if status.attached => Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect()),
            status => {
                let error = status.and_then(|status| status.attach_error).and_then(|error| error.message);
                let why = error.unwrap_or_else(|| format!("volume attachment {name} has not been attached yet"));
                Err(failed(why))
            }
        }
    }

    /// Lets go of all volumes of drivers in a Pod's folder. May be repeated.
    ///
    /// # Errors
    /// A driver is missing or refuses, or a file cannot be read.
    pub async fn unpublish_all(&self, pod_folder: &Path) -> Result<(), String> {
        let found = mounted(pod_folder).map_err(|error| format!("{}: {error}", pod_folder.display()))?;
        let uid = pod_folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for (folder, memory) in found {
            let turn = self.turn(&memory.driver_name, &memory.volume_handle);
            let held = turn.lock().await;
            let named = |error: String| format!("{WHO}: unmounting volume {:?}: {error}", memory.spec_vol_id);
            let driver = self.driver(&memory.driver_name).map_err(named)?;
            let target = folder.join("mount");
            let request = NodeUnpublishVolumeRequest {
                volume_id: memory.volume_handle.clone(),
                target_path: target.display().to_string(),
            };
            driver.ask("NodeUnpublishVolume", &request).await.map_err(|error| named(error.to_string()))?;
            self.published.lock().remove(&(uid.clone(), memory.spec_vol_id.clone()));
            clear(&folder, &target).map_err(|error| named(error.to_string()))?;
            if memory.volume_lifecycle_mode != "Ephemeral" {
                self.unstage(&driver, &memory).await.map_err(named)?;
            }
            drop(held);
        }
        Ok(())
    }

    /// Undoes what was done for the whole node, once no Pod has the volume any more.
    async fn unstage(&self, driver: &Driver, memory: &Memory) -> Result<(), String> {
        let place = staging(&self.paths, &memory.driver_name, &memory.volume_handle);
        if !place.exists() || self.is_used(memory) {
            return Ok(());
        }
        let request = NodeUnstageVolumeRequest {
            volume_id: memory.volume_handle.clone(),
            staging_target_path: place.display().to_string(),
        };
        driver.ask("NodeUnstageVolume", &request).await.map_err(|error| error.to_string())?;
        let Some(folder) = place.parent() else { return Ok(()) };
        clear(folder, &place).map_err(|error| error.to_string())
    }

    /// Whether some Pod still has the volume.
    fn is_used(&self, memory: &Memory) -> bool {
        let Ok(pods) = std::fs::read_dir(self.paths.pods()) else { return false };
        let of_pod = |pod: std::fs::DirEntry| mounted(&pod.path()).unwrap_or_default();
        pods.flatten().flat_map(of_pod).any(|(_, other)| {
            (&other.driver_name, &other.volume_handle) == (&memory.driver_name, &memory.volume_handle)
        })
    }
}

/// Whether the driver has volumes that live as this one does.
fn check_mode(wanted: &Wanted, about: &CSIDriverSpec) -> Result<(), String> {
    let modes = about.volume_lifecycle_modes.as_deref().unwrap_or_default();
    let mode = if wanted.ephemeral { "Ephemeral" } else { "Persistent" };
    if modes.iter().any(|one| one == mode) || (modes.is_empty() && mode == "Persistent") {
        return Ok(());
    }
    Err(format!(
        "{WHO}: mounter.SetUpAt failed to check volume lifecycle mode: volume mode {mode:?} not supported by driver {} \
         (only supports {modes:?})",
        wanted.driver
    ))
}

async fn stage(
    client: &Client,
    driver: &Driver,
    wanted: &Wanted,
    mut request: NodeStageVolumeRequest,
    memory: &Memory,
) -> Result<(), String> {
    request.secrets = secret(client, wanted.stage_secret.as_ref()).await?;
    let place = Path::new(&request.staging_target_path);
    make(place, memory, place.parent())?;
    driver.ask("NodeStageVolume", &request).await.map_err(|error| error.to_string())
}

async fn publish(
    client: &Client,
    driver: &Driver,
    wanted: &Wanted,
    mut request: NodePublishVolumeRequest,
    (folder, memory): (&Path, &Memory),
) -> Result<(), String> {
    request.secrets = secret(client, wanted.publish_secret.as_ref()).await?;
    // The target itself is the driver's to make, beside what is remembered of it.
    make(folder, memory, Some(folder))?;
    let asked = driver.ask("NodePublishVolume", &request).await;
    asked.map_err(|error| format!("{WHO}: mounter.SetUp failed: {error}"))
}

/// What the API says of a driver; what it says of none is what upstream takes for that.
///
/// # Errors
/// It cannot be read.
pub async fn about(client: &Client, driver: &str) -> Result<CSIDriverSpec, String> {
    match client.get::<CSIDriver>("", driver).await {
        Ok(found) => Ok(found.spec),
        Err(error) if error.is_not_found() => Ok(CSIDriverSpec::default()),
        Err(error) => Err(format!("{WHO}: cannot read CSIDriver {driver}: {error}")),
    }
}

async fn secret(client: &Client, named: Option<&(String, String)>) -> Result<HashMap<String, String>, String> {
    let Some((namespace, name)) = named else { return Ok(HashMap::new()) };
    let found = client.get::<Secret>(namespace, name).await;
    let found = found.map_err(|error| {
        format!("failed to find the secret {name} in the namespace {namespace} with error: {error}")
    })?;
    // The interface carries texts alone: half a key would be worse than none.
    let text = |(key, value): (String, k8s_openapi::ByteString)| match String::from_utf8(value.0) {
        Ok(text) => Ok((key, text)),
        Err(_) => Err(format!("the value {key:?} of the secret {name} in the namespace {namespace} is no text")),
    };
    found.data.into_iter().flatten().map(text).collect()
}

/// Makes a folder and remembers, before the driver is asked for anything, whom to ask to undo it.
fn make(folder: &Path, memory: &Memory, beside: Option<&Path>) -> Result<(), String> {
    let made = std::fs::create_dir_all(folder).and_then(|()| beside.map_or(Ok(()), |place| memory.save(place)));
    made.map_err(|error| format!("{WHO}: cannot make {}: {error}", folder.display()))
}

/// Takes away what was mounted on, then what was remembered. What is still mounted is never removed.
fn clear(folder: &Path, target: &Path) -> std::io::Result<()> {
    let gone = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    gone(if target.is_file() { std::fs::remove_file(target) } else { std::fs::remove_dir(target) })?;
    gone(std::fs::remove_file(folder.join(MEMORY)))?;
    gone(std::fs::remove_dir(folder))
}
