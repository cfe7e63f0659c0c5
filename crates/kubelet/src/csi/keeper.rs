//! Speaking to storage drivers: a volume is staged for the node and published for the Pod, and let go the other way round.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as ApiNode, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, VolumeAttachment};
use parking_lot::Mutex;
use prost::Message;
use skiff_client::Client;
use skiff_cri::CriError;
use skiff_cri::grpc::Channel;
use tokio::sync::Notify;

use super::grow::{Grown, grow};
use super::messages::{
    Empty, NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    SINGLE_NODE_MULTI_WRITER, STAGE_UNSTAGE_VOLUME, VOLUME_MOUNT_GROUP, VolumeCapability,
};
use super::registry::Told;
use super::used::Used;
use super::{MEMORY, Memory, Place, Wanted, mounted, names, staged};
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
    pub(super) fn can(&self, capability: i32) -> bool {
        self.capabilities.contains(&capability)
    }

    pub(super) async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A, CriError> {
        self.channel.unary(&format!("/csi.v1.Node/{method}"), request, Some(PATIENCE)).await
    }

    async fn ask(&self, method: &str, request: &impl Message) -> Result<(), CriError> {
        self.call::<Empty>(method, request).await.map(drop)
    }
}

/// The drivers of the node, and what they have mounted.
pub struct Drivers {
    pub(super) paths: Paths,
    drivers: Mutex<BTreeMap<String, Arc<Driver>>>,
    /// What the Node's status tells of volumes.
    used: Used,
    /// Woken when that has to be told anew.
    tell: Arc<Notify>,
    /// The Pods whose volumes are not attached yet, by UID.
    waiting: Mutex<HashSet<String>>,
    /// What was published by this run of the agent, by the UID of the Pod and the volume's name, and how large it has grown.
    published: Mutex<HashMap<(String, String), i64>>,
    /// One call at a time about each volume, by driver and handle.
    turns: Mutex<HashMap<(String, String), Arc<tokio::sync::Mutex<()>>>>,
}

/// What a driver's volumes of a Pod came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// A driver wants to be asked again from time to time.
    pub again: bool,
    /// What came of a volume that was to grow.
    pub grown: Option<Grown>,
}

/// Why a volume is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It is not attached yet, which takes its time: what is waited for.
    Waits(String),
    /// Something is wrong, in upstream's words.
    Failed(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
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
    /// None yet. `tell` is woken when the Node's status has to say something else.
    pub fn new(paths: Paths, tell: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            used: Used::load(&paths),
            paths,
            tell,
            drivers: Mutex::default(),
            waiting: Mutex::default(),
            published: Mutex::default(),
            turns: Mutex::default(),
        })
    }

    pub(super) fn add(&self, name: String, driver: Driver) {
        self.drivers.lock().insert(name, Arc::new(driver));
    }

    /// The attached volumes that the node uses, as its status calls them, and whether there may be more.
    pub fn in_use(&self) -> (Vec<String>, bool) {
        self.used.names()
    }

    /// The UIDs of Pods that wait for a volume to be attached, for the last time: who waits on says so again.
    pub fn take_waiting(&self) -> HashSet<String> {
        std::mem::take(&mut self.waiting.lock())
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

    pub(super) fn find(&self, name: &str) -> Option<Arc<Driver>> {
        self.drivers.lock().get(name).cloned()
    }

    fn driver(&self, name: &str) -> Result<Arc<Driver>, String> {
        self.find(name).ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// The turn of whoever speaks about a volume.
    fn turn(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        // Those that nobody waits for or holds are only in this map.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry((driver.to_owned(), handle.to_owned())).or_default().clone()
    }

    /// Has a volume mounted for a Pod. May be repeated; the driver is asked again only where it wants to be, or where the
    /// volume has grown.
    ///
    /// # Errors
    /// The driver is missing or refuses, or something that it needs is missing.
    pub async fn publish(
        &self,
        client: &Client,
        subject: &Subject<'_>,
        wanted: &Wanted,
        about: &CSIDriverSpec,
    ) -> Result<Published, Trouble> {
        let again = about.requires_republish == Some(true);
        let key = (uid(subject.pod).to_owned(), wanted.name.clone());
        let known_size = self.published.lock().get(&key).copied();
        let (is_there, known_size) = (known_size.is_some(), known_size.unwrap_or(0));
        // The claim may not show yet that this was done.
        let growth = wanted.growth.as_ref().filter(|growth| growth.bytes > known_size);
        if is_there && !again && growth.is_none() {
            return Ok(Published { again, grown: None });
        }
        let driver = self.driver_for(wanted, about)?;
        let turn = self.turn(&wanted.driver, &wanted.handle);
        let held = turn.lock().await;
        let mounting = self.mounting(subject, wanted, about, &driver);
        let context = self.attached(client, subject, wanted, &mounting.memory).await?;
        if !is_there || again {
            mounting.mount(client, context).await?;
        }
        let grown = match growth {
            Some(growth) => {
                let places = (&*mounting.place.target.display().to_string(), &*mounting.staging);
                grow(client, &driver, (wanted, growth), places, &mounting.capability).await
            }
            None => None,
        };
        let is_grown = grown.as_ref().is_some_and(|grown| grown.refused.is_none());
        let size = growth.filter(|_| is_grown).map_or(known_size, |growth| growth.bytes);
        mounting.give_to_group().await?;
        self.published.lock().insert(key, size);
        drop(held);
        Ok(Published { again, grown })
    }

    /// The driver of a volume, if it is there and has volumes that live as this one does.
    fn driver_for(&self, wanted: &Wanted, about: &CSIDriverSpec) -> Result<Arc<Driver>, Trouble> {
        let (step, calls) = match wanted.ephemeral {
            true => ("SetUp", "mounter.SetUpAt failed to get CSI client"),
            false => ("MountDevice", "attacher.MountDevice failed to create newCsiDriverClient"),
        };
        let driver = self.driver(&wanted.driver);
        let driver = driver.map_err(|error| failed(wanted, step, format!("{WHO}: {calls}: {error}")))?;
        check_mode(wanted, about).map_err(|error| failed(wanted, "SetUp", error))?;
        Ok(driver)
    }

    /// Where and how a volume is mounted for a Pod.
    fn mounting<'a>(
        &self,
        subject: &'a Subject<'a>,
        wanted: &'a Wanted,
        about: &'a CSIDriverSpec,
        driver: &'a Driver,
    ) -> Mounting<'a> {
        let memory = wanted.remembered(subject.node, about);
        let group = owner::group(subject.pod).filter(|_| !wanted.read_only && !wanted.block);
        let by_driver = group.map(|(group, _)| group).filter(|_| driver.can(VOLUME_MOUNT_GROUP));
        let stages = !wanted.ephemeral && driver.can(STAGE_UNSTAGE_VOLUME);
        Mounting {
            capability: wanted.capability(driver.can(SINGLE_NODE_MULTI_WRITER), by_driver),
            group: group.filter(|_| by_driver.is_none() && wanted.takes_group(about)),
            staging: if stages { memory.staging(&self.paths).display().to_string() } else { String::new() },
            staging_memory: memory.staging_memory(&self.paths),
            place: wanted.place(subject.pod, &self.paths),
            memory,
            subject,
            wanted,
            about,
            driver,
        }
    }

    /// What the driver's controller says for the node about a volume, where it wants volumes to be attached. The Node's status
    /// must tell that the volume is used before it is looked whether the same status tells that it is there: whoever detaches
    /// writes the second only while the first is not told.
    async fn attached(
        &self,
        client: &Client,
        subject: &Subject<'_>,
        wanted: &Wanted,
        memory: &Memory,
    ) -> Result<HashMap<String, String>, Trouble> {
        if !memory.attached {
            return Ok(HashMap::new());
        }
        let name = wanted.attached_name();
        if self.used.hold(&name, &memory.staging(&self.paths), Some(uid(subject.pod))) {
            self.tell.notify_one();
        }
        // Noted before it is looked: a change between the two wakes the Pod.
        self.waiting.lock().insert(uid(subject.pod).to_owned());
        let failed = |error: String| {
            failed(wanted, "WaitForAttach", format!("{WHO}: attacher.WaitForAttach failed for {error}"))
        };
        let node = client.get::<ApiNode>("", subject.node).await.map_err(|error| failed(error.to_string()))?;
        let status = node.status.unwrap_or_default();
        if !status.volumes_in_use.iter().flatten().any(|used| *used == name) {
            let why = "Volume has not been added to the list of VolumesInUse in the node's volume status";
            return Err(Trouble::Waits(format!("{why} for volume {:?}", wanted.name)));
        }
        if !status.volumes_attached.iter().flatten().any(|attached| attached.name == name) {
            return Err(Trouble::Waits(format!("volume {:?} is not attached according to node status", wanted.name)));
        }
        self.waiting.lock().remove(uid(subject.pod));
        let found = client.get::<VolumeAttachment>("", &memory.attachment_id).await;
        let found = found.map_err(|error| failed(format!("volume [{}]: {error}", wanted.handle)))?;
        let metadata = found.status.and_then(|status| status.attachment_metadata);
        Ok(metadata.into_iter().flatten().collect())
    }

    /// Lets go of all volumes of drivers that a Pod has. May be repeated.
    ///
    /// # Errors
    /// A driver is missing or refuses, or a file cannot be read.
    pub async fn unpublish_all(&self, uid: &str) -> Result<(), String> {
        let found = mounted(&self.paths, uid).map_err(|error| format!("{}: {error}", self.paths.pod(uid).display()))?;
        for (place, memory) in found {
            let turn = self.turn(&memory.driver_name, &memory.volume_handle);
            let held = turn.lock().await;
            let named = |error: String| format!("{WHO}: unmounting volume {:?}: {error}", memory.spec_vol_id);
            let driver = self.driver(&memory.driver_name).map_err(named)?;
            let request = NodeUnpublishVolumeRequest {
                volume_id: memory.volume_handle.clone(),
                target_path: place.target.display().to_string(),
            };
            driver.ask("NodeUnpublishVolume", &request).await.map_err(|error| named(error.to_string()))?;
            self.published.lock().remove(&(uid.to_owned(), memory.spec_vol_id.clone()));
            place.clear().map_err(|error| named(error.to_string()))?;
            if memory.volume_lifecycle_mode != "Ephemeral" {
                self.unstage(&driver, &memory).await.map_err(named)?;
            }
            drop(held);
        }
        self.waiting.lock().remove(uid);
        if self.used.release(uid) {
            self.tell.notify_one();
        }
        Ok(())
    }

    /// Undoes what was done for the whole node, once no Pod has the volume any more.
    async fn unstage(&self, driver: &Driver, memory: &Memory) -> Result<(), String> {
        if self.is_used(memory) {
            return Ok(());
        }
        let staging = memory.staging(&self.paths);
        if staging.exists() {
            let request = NodeUnstageVolumeRequest {
                volume_id: memory.volume_handle.clone(),
                staging_target_path: staging.display().to_string(),
            };
            driver.ask("NodeUnstageVolume", &request).await.map_err(|error| error.to_string())?;
        }
        clear(&memory.staging_memory(&self.paths), &staging).map_err(|error| error.to_string())
    }

    /// Undoes what an earlier run of the agent has left of a driver's volumes that no Pod has.
    pub(super) async fn sweep(&self, driver_name: &str) -> Result<(), String> {
        let Some(driver) = self.find(driver_name) else { return Ok(()) };
        let left = staged(&self.paths).map_err(|error| error.to_string())?;
        for memory in left.iter().filter(|memory| memory.driver_name == driver_name) {
            let turn = self.turn(&memory.driver_name, &memory.volume_handle);
            let held = turn.lock().await;
            self.unstage(&driver, memory).await?;
            drop(held);
        }
        if self.used.release("") {
            self.tell.notify_one();
        }
        Ok(())
    }

    /// Whether some Pod still has the volume.
    fn is_used(&self, memory: &Memory) -> bool {
        let Ok(pods) = names(&self.paths.pods()) else { return true };
        pods.iter().any(|uid| match mounted(&self.paths, uid) {
            Ok(found) => found.iter().any(|(_, other)| other.is_of(memory)),
            // What cannot be read may be it.
            Err(_) => true,
        })
    }
}

/// What goes wrong with a volume, as upstream words it.
fn failed(wanted: &Wanted, step: &str, error: String) -> Trouble {
    let step = match (wanted.block, step) {
        (true, "MountDevice") => "MapVolume.SetUpDevice",
        (true, "SetUp") => "MapVolume.MapPodDevice",
        (true, _) => "MapVolume.WaitForAttach",
        (false, "MountDevice") => "MountVolume.MountDevice",
        (false, "SetUp") => "MountVolume.SetUp",
        (false, _) => "MountVolume.WaitForAttach",
    };
    Trouble::Failed(format!("{step} failed for volume {:?} : {error}", wanted.name))
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

/// A volume on its way to a Pod.
struct Mounting<'a> {
    subject: &'a Subject<'a>,
    wanted: &'a Wanted,
    about: &'a CSIDriverSpec,
    driver: &'a Driver,
    memory: Memory,
    place: Place,
    capability: VolumeCapability,
    /// Where it is staged for the whole node; nothing where the driver does not stage.
    staging: String,
    /// Where it is remembered what was staged.
    staging_memory: PathBuf,
    /// The group that the node gives the files to, and whether only where they are another's.
    group: Option<(u32, bool)>,
}

impl Mounting<'_> {
    /// Has the driver mount it: once for the node where it wants that, then for the Pod.
    async fn mount(&self, client: &Client, context: HashMap<String, String>) -> Result<(), Trouble> {
        if !self.staging.is_empty() {
            let staged = self.stage(client, context.clone()).await;
            staged.map_err(|error| failed(self.wanted, "MountDevice", error))?;
        }
        let asked = self.publish(client, context).await;
        asked.map_err(|error| failed(self.wanted, "SetUp", error))
    }

    async fn stage(&self, client: &Client, context: HashMap<String, String>) -> Result<(), String> {
        let request = NodeStageVolumeRequest {
            volume_id: self.wanted.handle.clone(),
            publish_context: context,
            staging_target_path: self.staging.clone(),
            volume_capability: Some(self.capability.clone()),
            volume_context: self.wanted.attributes.clone(),
            secrets: secret(client, self.wanted.stage_secret.as_ref()).await?,
        };
        make(Path::new(&self.staging), &self.staging_memory, &self.memory)?;
        self.driver.ask("NodeStageVolume", &request).await.map_err(|error| error.to_string())
    }

    async fn publish(&self, client: &Client, context: HashMap<String, String>) -> Result<(), String> {
        let request = NodePublishVolumeRequest {
            volume_id: self.wanted.handle.clone(),
            publish_context: context,
            staging_target_path: self.staging.clone(),
            target_path: self.place.target.display().to_string(),
            volume_capability: Some(self.capability.clone()),
            readonly: self.wanted.read_only,
            secrets: secret(client, self.wanted.publish_secret.as_ref()).await?,
            volume_context: self.wanted.context(self.subject.pod, self.about, self.subject.tokens),
        };
        // The link first: by it the Pod's end finds what is to be undone.
        if let Some(link) = &self.place.link {
            let linked = link_to(&self.place.target, link);
            linked.map_err(|error| format!("{WHO}: cannot make {}: {error}", link.display()))?;
        }
        // The target itself is the driver's to make.
        make(&self.place.parent(), &self.place.memory, &self.memory)?;
        let asked = self.driver.ask("NodePublishVolume", &request).await;
        asked.map_err(|error| format!("{WHO}: mounter.SetUp failed: {error}"))
    }

    /// Gives the files to the Pod's group, where that is not the driver's work.
    async fn give_to_group(&self) -> Result<(), Trouble> {
        let Some((group, only_on_mismatch)) = self.group else { return Ok(()) };
        let target = self.place.target.clone();
        let given = tokio::task::spawn_blocking(move || owner::apply(&target, group, only_on_mismatch)).await;
        given.map_err(std::io::Error::other).and_then(|given| given).map_err(|error| {
            failed(self.wanted, "SetUp", format!("applyFSGroup failed for vol {}: {error}", self.wanted.handle))
        })
    }
}

fn link_to(target: &Path, link: &Path) -> std::io::Result<()> {
    if std::fs::read_link(link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    link.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::os::unix::fs::symlink(target, link)
}

impl Place {
    fn parent(&self) -> PathBuf {
        self.target.parent().expect("it was joined to one").to_owned()
    }

    /// Takes away what is left of the Pod's volume once the driver has let go of it.
    fn clear(&self) -> std::io::Result<()> {
        match &self.link {
            Some(link) => {
                gone(remove(&self.target))?;
                not_empty(std::fs::remove_dir(self.parent()))?;
                // Last: without it nobody would come back.
                gone(std::fs::remove_file(link))
            }
            None => clear(&self.memory, &self.target),
        }
    }
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

pub(super) async fn secret(
    client: &Client,
    named: Option<&(String, String)>,
) -> Result<HashMap<String, String>, String> {
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
fn make(folder: &Path, beside: &Path, memory: &Memory) -> Result<(), String> {
    let made = std::fs::create_dir_all(folder).and_then(|()| memory.save(beside));
    made.map_err(|error| format!("{WHO}: cannot make {}: {error}", folder.display()))
}

/// Takes away what was mounted on, then what was remembered. What is still mounted is never removed.
fn clear(folder: &Path, target: &Path) -> std::io::Result<()> {
    gone(remove(target))?;
    gone(std::fs::remove_file(folder.join(MEMORY)))?;
    gone(std::fs::remove_dir(folder))?;
    // That of a block volume has a folder to itself.
    if folder.ends_with("data") {
        folder.parent().map_or(Ok(()), |parent| gone(std::fs::remove_dir(parent)))
    } else {
        Ok(())
    }
}

/// Removes an empty folder, or what stands for a device.
fn remove(target: &Path) -> std::io::Result<()> {
    if std::fs::symlink_metadata(target)?.is_dir() { std::fs::remove_dir(target) } else { std::fs::remove_file(target) }
}

fn gone(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Pods share the folder: the last one takes it away.
fn not_empty(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => gone(result),
    }
}
