//! Volumes of CSI drivers: what a driver is asked for a Pod's volume, decided purely. Who speaks to the drivers is
//! [`keeper`].
//! See <https://kubernetes.io/docs/concepts/storage/volumes/#csi>.

mod keeper;
mod messages;
mod registry;
#[cfg(test)]
mod tests;

pub use keeper::{Drivers, Subject, about};
pub use registry::keep;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolumeSpec, Pod, Volume};
use k8s_openapi::api::storage::v1::CSIDriverSpec;
use serde::{Deserialize, Serialize};

use crate::config::paths::Paths;
use crate::config::{name, namespace, uid};
use crate::pod::spec::spec;
use messages::{AccessMode, MountVolume, VolumeCapability};

/// The folder of such volumes among a Pod's.
pub const FOLDER: &str = "kubernetes.io~csi";
/// What is remembered of a volume, beside where it is mounted.
const MEMORY: &str = "vol_data.json";
/// The node's own folder for what drivers mount once for all Pods.
const STAGING: &str = "plugins/kubernetes.io/csi";
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
    fs_type: String,
    mount_options: Vec<String>,
    access_mode: Option<String>,
    attributes: HashMap<String, String>,
    stage_secret: Option<(String, String)>,
    publish_secret: Option<(String, String)>,
}

/// The SHA-256 of texts, in hexadecimal.
fn digest(texts: &[&str]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    texts.iter().for_each(|text| context.update(text.as_bytes()));
    context.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes all text");
        hex
    })
}

impl Wanted {
    /// A volume that the Pod describes itself.
    pub fn inline(pod: &Pod, volume: &Volume, source: &CSIVolumeSource) -> Self {
        let secret = source.node_publish_secret_ref.as_ref();
        Self {
            name: volume.name.clone(),
            driver: source.driver.clone(),
            handle: format!("csi-{}", digest(&[uid(pod), &volume.name])),
            ephemeral: true,
            read_only: source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            mount_options: Vec::new(),
            access_mode: None,
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            stage_secret: None,
            publish_secret: secret.map(|secret| (namespace(pod).to_owned(), secret.name.clone())),
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
            fs_type: source.fs_type.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            access_mode: spec.access_modes.iter().flatten().next().cloned(),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            stage_secret: secret(&source.node_stage_secret_ref),
            publish_secret: secret(&source.node_publish_secret_ref),
        }
    }

    /// The folder of the volume among the Pod's.
    fn folder(&self, pod: &Pod, paths: &Paths) -> PathBuf {
        paths.volume(uid(pod), FOLDER, &self.name)
    }

    /// Where the driver mounts it for the Pod.
    pub fn target(&self, pod: &Pod, paths: &Paths) -> PathBuf {
        self.folder(pod, paths).join("mount")
    }

    /// The name of the VolumeAttachment that says that the volume is at the node.
    fn attachment(&self, node: &str) -> String {
        format!("csi-{}", digest(&[&self.handle, &self.driver, node]))
    }

    fn remembered(&self, node: &str) -> Memory {
        Memory {
            driver_name: self.driver.clone(),
            volume_handle: self.handle.clone(),
            spec_vol_id: self.name.clone(),
            node_name: node.to_owned(),
            attachment_id: if self.ephemeral { String::new() } else { self.attachment(node) },
            volume_lifecycle_mode: (if self.ephemeral { "Ephemeral" } else { "Persistent" }).to_owned(),
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
        VolumeCapability { mount: Some(mount), access_mode: Some(mode) }
    }

    /// Whether the node gives the volume's files to the Pod's group, by the driver's policy.
    fn takes_group(&self, driver: &CSIDriverSpec) -> bool {
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

/// Where a driver mounts a volume for the whole node.
fn staging(paths: &Paths, driver: &str, handle: &str) -> PathBuf {
    paths.root.join(STAGING).join(driver).join(digest(&[handle])).join("globalmount")
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
}

impl Memory {
    fn load(folder: &Path) -> std::io::Result<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(MEMORY))?).map_err(std::io::Error::other)
    }

    fn save(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        std::fs::write(folder.join(MEMORY), bytes)
    }
}

/// The volumes of drivers that a Pod's folder has, each with what is remembered of it.
fn mounted(pod_folder: &Path) -> std::io::Result<Vec<(PathBuf, Memory)>> {
    let entries = match std::fs::read_dir(pod_folder.join("volumes").join(FOLDER)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        match Memory::load(&folder) {
            Ok(memory) => found.push((folder, memory)),
            // The driver was not asked for anything yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
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
