//! Volumes of CSI drivers: what a driver is asked for a Pod's volume, decided purely. Who speaks to the drivers is
//! [`keeper`].
//! See <https://kubernetes.io/docs/concepts/storage/volumes/#csi>.

mod grow;
mod keeper;
mod messages;
mod registry;
mod stats;
#[cfg(test)]
mod tests;
mod used;

pub use grow::{Grown, Growth, grown};
pub use keeper::{Drivers, Subject, Trouble, about};
pub use registry::keep;
pub use stats::Stats;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolumeSpec, Pod, Volume};
use k8s_openapi::api::storage::v1::CSIDriverSpec;
use serde::{Deserialize, Serialize};
use skiff_client::volumes::{attached_name, attachment_name, sha256_hex};

use crate::config::paths::Paths;
use crate::config::{name, namespace, uid};
use crate::pod::spec::spec;
use messages::{AccessMode, BlockVolume, MountVolume, VolumeCapability};

/// The folder of such volumes among a Pod's.
pub const FOLDER: &str = "kubernetes.io~csi";
/// What is remembered of a volume, beside where it is mounted.
const MEMORY: &str = "vol_data.json";
/// The node's own folder for what drivers mount once for all Pods.
const STAGING: &str = "plugins/kubernetes.io/csi";
/// In it, and in a Pod's folder: what concerns block volumes.
const DEVICES: &str = "volumeDevices";
/// Keys of what drivers are told of the Pod.
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A volume of a driver, as a Pod wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Its name among the Pod's folders: the Pod's own for it, or the PersistentVolume's.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// What the driver calls it.
    pub handle: String,
    /// Whether it lives only as long as the Pod.
    pub ephemeral: bool,
    /// Not to be written.
    pub read_only: bool,
    /// Whether containers get it as a device.
    pub block: bool,
    /// How large it shall become for its claim.
    pub growth: Option<Growth>,
    fs_type: String,
    mount_options: Vec<String>,
    access_mode: Option<String>,
    attributes: HashMap<String, String>,
    stage_secret: Option<(String, String)>,
    publish_secret: Option<(String, String)>,
    expand_secret: Option<(String, String)>,
}

/// Where one Pod's volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The folder of what is remembered of it. Pods share that of a block volume.
    memory: PathBuf,
    /// What the driver makes for the Pod.
    target: PathBuf,
    /// The Pod's link to that, by which its containers find a block volume.
    link: Option<PathBuf>,
}

impl Place {
    fn of(paths: &Paths, uid: &str, name: &str, block: bool) -> Self {
        if block {
            let devices = paths.root.join(STAGING).join(DEVICES);
            return Self {
                memory: devices.join(name).join("data"),
                target: devices.join("publish").join(name).join(uid),
                link: Some(paths.pod(uid).join(DEVICES).join(FOLDER).join(name)),
            };
        }
        let memory = paths.volume(uid, FOLDER, name);
        Self { target: memory.join("mount"), memory, link: None }
    }
}

impl Wanted {
    /// A volume that the Pod describes itself.
    pub fn inline(pod: &Pod, volume: &Volume, source: &CSIVolumeSource) -> Self {
        let secret = source.node_publish_secret_ref.as_ref();
        Self {
            name: volume.name.clone(),
            driver: source.driver.clone(),
            handle: format!("csi-{}", sha256_hex(&[uid(pod), &volume.name])),
            ephemeral: true,
            read_only: source.read_only == Some(true),
            block: false,
            growth: None,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            mount_options: Vec::new(),
            access_mode: None,
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            stage_secret: None,
            publish_secret: secret.map(|secret| (namespace(pod).to_owned(), secret.name.clone())),
            expand_secret: None,
        }
    }

    /// A PersistentVolume.
    pub fn persistent(
        volume: &str,
        spec: &PersistentVolumeSpec,
        source: &CSIPersistentVolumeSource,
        read_only: bool,
    ) -> Self {
        let secret = |secret: &Option<k8s_openapi::api::core::v1::SecretReference>| {
            let secret = secret.as_ref()?;
            Some((secret.namespace.clone()?, secret.name.clone()?))
        };
        Self {
            name: volume.to_owned(),
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            ephemeral: false,
            read_only: read_only || source.read_only == Some(true),
            block: spec.volume_mode.as_deref() == Some("Block"),
            growth: None,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            access_mode: spec.access_modes.iter().flatten().next().cloned(),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            stage_secret: secret(&source.node_stage_secret_ref),
            publish_secret: secret(&source.node_publish_secret_ref),
            expand_secret: secret(&source.node_expand_secret_ref),
        }
    }

    fn place(&self, pod: &Pod, paths: &Paths) -> Place {
        Place::of(paths, uid(pod), &self.name, self.block)
    }

    /// Where the Pod's containers find it.
    pub fn target(&self, pod: &Pod, paths: &Paths) -> PathBuf {
        let place = self.place(pod, paths);
        place.link.unwrap_or(place.target)
    }

    /// The name of the VolumeAttachment that says that the volume is at the node.
    fn attachment(&self, node: &str) -> String {
        attachment_name(&self.driver, &self.handle, node)
    }

    /// What the Node's status calls it.
    fn attached_name(&self) -> String {
        attached_name(&self.driver, &self.handle)
    }

    /// Whether it is only used while the Node's status says so, and after it was attached.
    fn is_attached_first(&self, about: &CSIDriverSpec) -> bool {
        !self.ephemeral && about.attach_required != Some(false)
    }

    fn remembered(&self, node: &str, about: &CSIDriverSpec) -> Memory {
        Memory {
            driver_name: self.driver.clone(),
            volume_handle: self.handle.clone(),
            spec_vol_id: self.name.clone(),
            node_name: node.to_owned(),
            attachment_id: if self.ephemeral { String::new() } else { self.attachment(node) },
            volume_lifecycle_mode: (if self.ephemeral { "Ephemeral" } else { "Persistent" }).to_owned(),
            attached: self.is_attached_first(about),
            block: self.block,
        }
    }

    /// How the volume is to be used. `group` is the Pod's, where the driver gives volumes to groups itself.
    fn capability(&self, tells_writers: bool, group: Option<u32>) -> VolumeCapability {
        let mount = MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_options.clone(),
            volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
        };
        let mode = AccessMode { mode: access_mode(self.access_mode.as_deref(), tells_writers) };
        let (block, mount) = if self.block { (Some(BlockVolume {}), None) } else { (None, Some(mount)) };
        VolumeCapability { block, mount, access_mode: Some(mode) }
    }

    /// Whether the node gives the volume's files to the Pod's group, by the driver's policy.
    fn takes_group(&self, driver: &CSIDriverSpec) -> bool {
        if self.block {
            return false;
        }
        match driver.fs_group_policy.as_deref() {
            Some("File") => true,
            Some("None") => false,
            _ => {
                !self.fs_type.is_empty()
                    && matches!(self.access_mode.as_deref(), Some("ReadWriteOnce" | "ReadWriteOncePod"))
            }
        }
    }

    /// What the driver is told of the volume for a Pod.
    fn context(&self, pod: &Pod, driver: &CSIDriverSpec, tokens: Option<&str>) -> HashMap<String, String> {
        let mut context = self.attributes.clone();
        if driver.pod_info_on_mount == Some(true) {
            let account = spec(pod).service_account_name.clone().unwrap_or_default();
            let told = [
                (POD_NAME, name(pod).to_owned()),
                (POD_NAMESPACE, namespace(pod).to_owned()),
                (POD_UID, uid(pod).to_owned()),
                (ACCOUNT, account),
                (EPHEMERAL, self.ephemeral.to_string()),
            ];
            context.extend(told.map(|(key, value)| (key.to_owned(), value)));
        }
        context.extend(tokens.map(|tokens| (TOKENS.to_owned(), tokens.to_owned())));
        context
    }
}

/// Numbers of the interface for the API's modes; a driver that tells writers apart gets the finer ones.
fn access_mode(mode: Option<&str>, tells_writers: bool) -> i32 {
    const SINGLE_NODE_WRITER: i32 = 1;
    const MULTI_NODE_READER_ONLY: i32 = 3;
    const MULTI_NODE_MULTI_WRITER: i32 = 5;
    const SINGLE_NODE_SINGLE_WRITER: i32 = 6;
    const SINGLE_NODE_MULTI_WRITER: i32 = 7;
    match (mode, tells_writers) {
        (Some("ReadOnlyMany"), _) => MULTI_NODE_READER_ONLY,
        (Some("ReadWriteMany"), _) => MULTI_NODE_MULTI_WRITER,
        (Some("ReadWriteOncePod"), true) => SINGLE_NODE_SINGLE_WRITER,
        (Some("ReadWriteOnce"), true) => SINGLE_NODE_MULTI_WRITER,
        _ => SINGLE_NODE_WRITER,
    }
}

/// What a later run of the agent needs to let a volume go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Memory {
    driver_name: String,
    volume_handle: String,
    #[serde(rename = "specVolID")]
    spec_vol_id: String,
    node_name: String,
    #[serde(rename = "attachmentID")]
    attachment_id: String,
    volume_lifecycle_mode: String,
    /// Whether the Node's status tells that it is used.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    attached: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    block: bool,
}

impl Memory {
    fn load(folder: &Path) -> std::io::Result<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(MEMORY))?).map_err(std::io::Error::other)
    }

    /// The same where nothing may be remembered: the driver was not asked for anything yet.
    fn find(folder: &Path) -> std::io::Result<Option<Self>> {
        match Self::load(folder) {
            Ok(memory) => Ok(Some(memory)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn save(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        let mut file = std::fs::File::create(folder.join(MEMORY))?;
        file.write_all(&bytes)?;
        // A driver has to be asked to undo it after a power cut too.
        file.sync_all()
    }

    /// Where the driver puts the volume for the whole node.
    fn staging(&self, paths: &Paths) -> PathBuf {
        let drivers = paths.root.join(STAGING);
        if self.block {
            return drivers.join(DEVICES).join("staging").join(&self.spec_vol_id);
        }
        drivers.join(&self.driver_name).join(sha256_hex(&[&self.volume_handle])).join("globalmount")
    }

    /// The folder of what is remembered of that.
    fn staging_memory(&self, paths: &Paths) -> PathBuf {
        match self.block {
            true => Place::of(paths, "", &self.spec_vol_id, true).memory,
            false => self.staging(paths).parent().expect("it was joined to one").to_owned(),
        }
    }

    fn attached_name(&self) -> String {
        attached_name(&self.driver_name, &self.volume_handle)
    }

    fn is_of(&self, other: &Self) -> bool {
        (&self.driver_name, &self.volume_handle) == (&other.driver_name, &other.volume_handle)
    }
}

/// The names in a folder that may be missing.
fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The volumes of drivers that a Pod has, each with what is remembered of it.
fn mounted(paths: &Paths, uid: &str) -> std::io::Result<Vec<(Place, Memory)>> {
    let mut found = Vec::new();
    for (part, block) in [("volumes", false), (DEVICES, true)] {
        for name in names(&paths.pod(uid).join(part).join(FOLDER))? {
            let place = Place::of(paths, uid, &name, block);
            found.extend(Memory::find(&place.memory)?.map(|memory| (place, memory)));
        }
    }
    Ok(found)
}

/// What is remembered of volumes that drivers have put there for the whole node.
fn staged(paths: &Paths) -> std::io::Result<Vec<Memory>> {
    let drivers = paths.root.join(STAGING);
    let mut folders = Vec::new();
    for driver in names(&drivers)? {
        let inner = drivers.join(&driver);
        folders.extend(names(&inner)?.into_iter().map(|name| match driver == DEVICES {
            true => inner.join(name).join("data"),
            false => inner.join(name),
        }));
    }
    let found = folders.iter().map(|folder| Memory::find(folder)).collect::<std::io::Result<Vec<_>>>()?;
    Ok(found.into_iter().flatten().filter(|memory| memory.staging(paths).exists()).collect())
}

/// The tokens that a driver wants of the Pod's service account: audience and seconds.
pub fn token_requests(driver: &CSIDriverSpec) -> Vec<crate::volumes::TokenSource> {
    const USUAL_SECONDS: i64 = 3600;
    let requests = driver.token_requests.iter().flatten();
    let source = |request: &k8s_openapi::api::storage::v1::TokenRequest| crate::volumes::TokenSource {
        audience: request.audience.clone(),
        expiration_seconds: request.expiration_seconds.unwrap_or(USUAL_SECONDS),
    };
    requests.map(source).collect()
}

/// The tokens as drivers read them.
pub fn tokens_text(tokens: &BTreeMap<crate::volumes::TokenSource, (String, String)>) -> Option<String> {
    let by_audience: BTreeMap<&str, serde_json::Value> = tokens
        .iter()
        .map(|(source, (token, expires))| {
            (source.audience.as_str(), serde_json::json!({"token": token, "expirationTimestamp": expires}))
        })
        .collect();
    (!by_audience.is_empty()).then(|| serde_json::to_string(&by_audience).expect("plain data"))
}
