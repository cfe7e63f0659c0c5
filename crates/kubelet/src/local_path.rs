//! The default provisioner: makes volumes on the node's own disk for claims whose first Pod was sent here, grows them, and
//! removes them with their data when nobody has them any more and their class says so. One folder is one volume, or one
//! file where a claim wants a block device: the node makes devices of files when a Pod uses them.
//! See <https://kubernetes.io/docs/concepts/storage/dynamic-provisioning/>.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};
use skiff_base::clock::rfc3339;
use skiff_base::{Clock, Quantity, Timestamp};
use skiff_client::volumes::{
    BETA_STORAGE_PROVISIONER, PROVISIONED_BY, SELECTED_NODE, STORAGE_PROVISIONER, annotation, capacity, claim_class,
    claim_ref, is_bound, requested, volume_class, volume_name, waits_for_consumer,
};
use skiff_client::{Change, Client, DeleteOptions, Error, Informer, Informers, ObjectKey, Patch, Recorder, WorkQueue};

/// The provisioner's name in StorageClasses.
pub const PROVISIONER: &str = "skiff.io/local-path";
/// The condition of a claim that grows.
const RESIZING: &str = "Resizing";
/// Keeps a volume until its folder is gone.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// Keeps a volume while a claim has it.
const PROTECTION: &str = "kubernetes.io/pv-protection";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Whatever user a container runs as must be able to write.
const FOLDER_MODE: u32 = 0o777;
/// What is behind a block device only the node itself opens.
const FILE_MODE: u32 = 0o600;

/// What is to be done about a claim or a volume.
#[derive(Debug, PartialEq)]
enum Deed {
    /// Makes the folder, or a file of this size for a block device, then this volume.
    Provision { volume: Box<Value>, folder: PathBuf, block_bytes: Option<u64> },
    /// Tells why no volume can be made.
    Refuse(String),
    /// Lets the file behind a block device, then the volume, then the claim, have this much.
    Grow { volume: String, size: Value, file: Option<(PathBuf, u64)> },
    /// Deletes the volume; it stays until its folder is gone.
    Delete(String),
    /// Removes the folder, if there is one to be removed, then lets the volume go.
    Remove { volume: String, folder: Option<PathBuf>, finalizers: Vec<String> },
}

/// Where volumes are made.
struct Place {
    base: PathBuf,
    node: String,
    /// The node's value of the label `kubernetes.io/hostname`.
    hostname: String,
    /// Whether claims that do not wait for a Pod are this node's.
    first: bool,
}

/// Decides about a claim.
fn for_claim(
    place: &Place,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volume: impl Fn(&str) -> Option<Arc<PersistentVolume>>,
) -> Option<Deed> {
    if is_bound(claim) {
        return grow(place, claim, class, &*volume(volume_name(claim))?);
    }
    let class = class.filter(|class| class.provisioner == PROVISIONER)?;
    let asked = [STORAGE_PROVISIONER, BETA_STORAGE_PROVISIONER].map(|key| annotation(&claim.metadata, key));
    if !asked.contains(&Some(PROVISIONER))
        || !volume_name(claim).is_empty()
        || claim.metadata.deletion_timestamp.is_some()
    {
        return None;
    }
    let here = match annotation(&claim.metadata, SELECTED_NODE) {
        Some(node) => node == place.node,
        None => place.first && !waits_for_consumer(class),
    };
    let name = format!("pvc-{}", claim.metadata.uid.as_deref()?);
    if !here || volume(&name).is_some() {
        return None;
    }
    let spec = claim.spec.as_ref()?;
    let problem = match () {
        () if spec.selector.is_some() => "claim Selector is not supported",
        () if spec.data_source.is_some() || spec.data_source_ref.is_some() => "data sources are not supported",
        () => return Some(provision(place, claim, class, name)),
    };
    let class = class.metadata.name.as_deref().unwrap_or_default();
    Some(Deed::Refuse(format!("failed to provision volume with StorageClass \"{class}\": {problem}")))
}

fn provision(place: &Place, claim: &PersistentVolumeClaim, class: &StorageClass, name: String) -> Deed {
    let meta = &claim.metadata;
    let folder = place.base.join(format!(
        "{name}_{}_{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    ));
    let spec = claim.spec.as_ref();
    let block_bytes = spec.filter(|spec| spec.volume_mode.as_deref() == Some("Block")).map(|_| bytes(requested(claim)));
    let storage = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage").cloned());
    let on_this_node = json!({"key": HOSTNAME, "operator": "In", "values": [place.hostname]});
    let volume = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}, "finalizers": [FINALIZER]},
        "spec": {
            "capacity": {"storage": storage},
            "accessModes": spec.and_then(|spec| spec.access_modes.clone()),
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "mountOptions": class.mount_options,
            "volumeMode": if block_bytes.is_some() { "Block" } else { "Filesystem" },
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name,
                "uid": meta.uid, "resourceVersion": meta.resource_version,
            },
            "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_this_node]}]}},
        },
    });
    Deed::Provision { volume: Box::new(volume), folder, block_bytes }
}

/// A size in whole bytes.
fn bytes(size: Option<Quantity>) -> u64 {
    size.and_then(|size| u64::try_from(size.value()).ok()).unwrap_or(0)
}

/// A folder has no size of its own: to grow is to say so. A file has.
fn grow(
    place: &Place,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volume: &PersistentVolume,
) -> Option<Deed> {
    let allowed = class.is_some_and(|class| class.allow_volume_expansion == Some(true));
    let wanted = requested(claim)?;
    let told = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage")?.0.parse().ok());
    let (folder, done) = (own_folder(place, volume)?, capacity(volume) >= Some(wanted) && told >= Some(wanted));
    if !allowed || done || told.is_none() {
        return None;
    }
    let is_block = volume.spec.as_ref()?.volume_mode.as_deref() == Some("Block");
    let size = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    let file = is_block.then(|| (folder, bytes(Some(wanted))));
    Some(Deed::Grow { volume: volume.metadata.name.clone()?, size: json!(size), file })
}

/// Whether the claim says already that it grows to this size.
fn is_resizing(claim: &PersistentVolumeClaim, size: &Value) -> bool {
    let Some(status) = claim.status.as_ref() else { return false };
    let allocated = status.allocated_resources.as_ref().and_then(|resources| resources.get("storage"));
    let says = status.conditions.iter().flatten().any(|told| told.type_ == RESIZING && told.status == "True");
    says && allocated.is_some_and(|allocated| json!(allocated) == *size)
}

/// What a claim says while it grows. Its file system needs nothing of the node: it is the node's own.
/// See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims>.
fn resizing(size: &Value, now: Timestamp) -> Value {
    let condition = json!({"type": RESIZING, "status": "True", "lastTransitionTime": rfc3339(now)});
    json!({"status": {
        "allocatedResources": {"storage": size},
        "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"},
        "conditions": [condition],
    }})
}

/// The folder of a volume that was made here; never anything beside the place of such folders.
fn own_folder(place: &Place, volume: &PersistentVolume) -> Option<PathBuf> {
    if annotation(&volume.metadata, PROVISIONED_BY) != Some(PROVISIONER) {
        return None;
    }
    let path = Path::new(&volume.spec.as_ref()?.local.as_ref()?.path);
    let name = path.file_name()?.to_str()?;
    let own = path.parent() == Some(&place.base) && name.starts_with(volume.metadata.name.as_deref()?);
    (own && runs_on(place, volume)).then(|| path.to_owned())
}

fn runs_on(place: &Place, volume: &PersistentVolume) -> bool {
    let terms = skiff_client::volumes::node_terms(volume).unwrap_or_default();
    let mut requirements = terms.iter().flat_map(|term| term.match_expressions.iter().flatten());
    requirements.any(|r| r.key == HOSTNAME && r.values.iter().flatten().any(|value| *value == place.hostname))
}

/// Decides about a volume.
fn for_volume(place: &Place, volume: &PersistentVolume) -> Option<Deed> {
    let folder = own_folder(place, volume)?;
    let name = volume.metadata.name.clone()?;
    let delete = volume.spec.as_ref()?.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    let finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
    let has = |name: &str| finalizers.iter().any(|held| held == name);
    if volume.metadata.deletion_timestamp.is_none() {
        return (released && delete).then_some(Deed::Delete(name));
    }
    if !has(FINALIZER) || has(PROTECTION) {
        return None;
    }
    let finalizers = finalizers.into_iter().filter(|held| held != FINALIZER).collect();
    Some(Deed::Remove { volume: name, folder: delete.then_some(folder), finalizers })
}

/// The provisioner at work on one node.
pub struct LocalPaths {
    client: Client,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    queue: Arc<WorkQueue<ObjectKey>>,
    place: Place,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

impl LocalPaths {
    /// Provisions volumes below `base` on the node of this name until dropped. Writes with the rights of `client`.
    pub async fn run(client: Client, informers: Informers, clock: Arc<dyn Clock>, node: String, base: PathBuf) {
        let recorder = Recorder::start(client.clone(), clock.clone(), PROVISIONER, &node);
        let queue: Arc<WorkQueue<ObjectKey>> = Arc::default();
        let (claims, volumes) = (informers.of::<PersistentVolumeClaim>(), informers.of::<PersistentVolume>());
        let (classes, nodes) = (informers.of::<StorageClass>(), informers.of::<Node>());
        let keys = queue.clone();
        claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
            keys.add(ObjectKey::of(&change.object().metadata))
        });
        let keys = queue.clone();
        volumes.on_change(move |change: &Change<PersistentVolume>| {
            let volume = change.object();
            keys.add(ObjectKey::of(&volume.metadata));
            if let Some(claim) = claim_ref(volume) {
                let (namespace, name) = (claim.namespace.clone(), claim.name.clone());
                keys.add(ObjectKey::new(namespace.unwrap_or_default(), name.unwrap_or_default()));
            }
        });
        tokio::join!(claims.synced(), volumes.synced(), classes.synced(), nodes.synced());
        let place = Place { hostname: node.clone(), base, node, first: true };
        let mut this = Self { client, clock, recorder, queue, place, claims, volumes, classes };
        while let Some(key) = this.queue.next().await {
            this.place.look_around(&nodes.list());
            match this.attend_to(&key).await {
                Ok(()) => this.queue.forget(&key),
                Err(error) => {
                    tracing::debug!(%key, %error, "local volume");
                    this.queue.retry(key.clone());
                }
            }
            this.queue.done(&key);
        }
    }

    async fn attend_to(&self, key: &ObjectKey) -> Result<(), Problem> {
        if key.namespace.is_empty() {
            let Some(volume) = self.volumes.by_key(key) else { return Ok(()) };
            return match for_volume(&self.place, &volume) {
                Some(deed) => self.carry_out(deed, None).await,
                None => Ok(()),
            };
        }
        let Some(claim) = self.claims.by_key(key) else { return Ok(()) };
        let volume = |name: &str| self.volumes.get("", name);
        let class = match claim_class(&claim) {
            Some(class) => self.classes.get("", class),
            None => volume(volume_name(&claim)).and_then(|volume| self.classes.get("", volume_class(&volume))),
        };
        match for_claim(&self.place, &claim, class.as_deref(), volume) {
            Some(deed) => self.carry_out(deed, Some(&claim)).await,
            None => Ok(()),
        }
    }

    async fn carry_out(&self, deed: Deed, claim: Option<&PersistentVolumeClaim>) -> Result<(), Problem> {
        match deed {
            Deed::Refuse(why) => {
                if let Some(claim) = claim {
                    self.recorder.warning(claim, "ProvisioningFailed", why);
                }
            }
            Deed::Provision { volume, folder, block_bytes } => {
                let Some(claim) = claim else { return Ok(()) };
                let text = format!(
                    "External provisioner is provisioning volume for claim \"{}\"",
                    ObjectKey::of(&claim.metadata)
                );
                self.recorder.normal(claim, "Provisioning", text);
                match block_bytes {
                    Some(size_bytes) => make_file(&folder, size_bytes)?,
                    None => make_folder(&folder)?,
                }
                let made =
                    self.client.send_json::<Value>(http::Method::POST, "/api/v1/persistentvolumes", &volume).await;
                match made {
                    Err(error) if error.is_already_exists() => {}
                    made => drop(made?),
                }
                let name = volume["metadata"]["name"].as_str().unwrap_or_default();
                self.recorder.normal(claim, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
            }
            Deed::Grow { volume, size, file } => {
                let Some(claim) = claim else { return Ok(()) };
                let key = ObjectKey::of(&claim.metadata);
                if !is_resizing(claim, &size) {
                    let text = format!("External resizer is resizing volume {volume}");
                    self.recorder.normal(claim, "Resizing", text);
                    let patch = Patch::Strategic(resizing(&size, self.clock.now()));
                    self.client.patch::<PersistentVolumeClaim>(&key.namespace, &key.name, "status", &patch).await?;
                }
                if let Some((file, size_bytes)) = file {
                    make_file(&file, size_bytes).inspect_err(|error| {
                        let text = format!("resize volume \"{volume}\" failed: {error}");
                        self.recorder.warning(claim, "VolumeResizeFailed", text);
                    })?;
                }
                let patch = Patch::Merge(json!({"spec": {"capacity": {"storage": size}}}));
                self.client.patch::<PersistentVolume>("", &volume, "", &patch).await?;
                let patch = Patch::Strategic(json!({"status": crate::csi::grown(&size)}));
                self.client.patch::<PersistentVolumeClaim>(&key.namespace, &key.name, "status", &patch).await?;
                self.recorder.normal(claim, "VolumeResizeSuccessful", "Resize volume succeeded");
            }
            Deed::Delete(name) => {
                match self.client.delete::<PersistentVolume>("", &name, &DeleteOptions::default()).await {
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    _ => {}
                }
            }
            Deed::Remove { volume, folder, finalizers } => {
                if let Some(folder) = folder {
                    remove_folder(&folder)?;
                }
                let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
                match self.client.patch::<PersistentVolume>("", &volume, "", &patch).await {
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Place {
    /// The node's label may come late, and other nodes may come and go.
    fn look_around(&mut self, nodes: &[Arc<Node>]) {
        let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
        self.first = nodes.iter().all(|node| name(node) >= self.node);
        let own = nodes.iter().find(|node| name(node) == self.node);
        if let Some(hostname) = own.and_then(|node| node.metadata.labels.as_ref()?.get(HOSTNAME)) {
            self.hostname.clone_from(hostname);
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Api(#[from] Error),
    #[error("{0}")]
    Disk(#[from] io::Error),
}

fn make_base(of: &Path) -> io::Result<()> {
    of.parent().map_or(Ok(()), |base| std::fs::DirBuilder::new().recursive(true).mode(0o711).create(base))
}

/// A file of at least this size, which takes from the disk only what is written into it.
fn make_file(path: &Path, size_bytes: u64) -> io::Result<()> {
    make_base(path)?;
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(path)?;
    if file.metadata()?.len() < size_bytes { file.set_len(size_bytes) } else { Ok(()) }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    make_base(folder)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(FOLDER_MODE))
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    let is_file = std::fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_file());
    let removed = if is_file { std::fs::remove_file(folder) } else { std::fs::remove_dir_all(folder) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).expect("of that kind")
    }

    fn place() -> Place {
        Place { base: "/data/volumes".into(), node: "n1".into(), hostname: "host1".into(), first: true }
    }

    fn class(mode: &str) -> StorageClass {
        object(json!({"metadata": {"name": "local-path"}, "provisioner": PROVISIONER, "volumeBindingMode": mode,
            "allowVolumeExpansion": true}))
    }

    fn claim(node: Option<&str>) -> PersistentVolumeClaim {
        let mut annotations = json!({STORAGE_PROVISIONER: PROVISIONER});
        if let Some(node) = node {
            annotations[SELECTED_NODE] = json!(node);
        }
        object(json!({
            "metadata": {"name": "data", "namespace": "d", "uid": "u", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }))
    }

    fn made() -> PersistentVolume {
        let deed = for_claim(&place(), &claim(Some("n1")), Some(&class("WaitForFirstConsumer")), |_| None);
        let Some(Deed::Provision { volume, folder, block_bytes }) = deed else { panic!("{deed:?}") };
        assert_eq!((folder.as_path(), block_bytes), (Path::new("/data/volumes/pvc-u_d_data"), None));
        object(*volume)
    }

    #[test]
    fn a_volume_is_made_where_the_pod_is_to_run() {
        let waiting = class("WaitForFirstConsumer");
        assert_eq!(for_claim(&place(), &claim(None), Some(&waiting), |_| None), None);
        assert_eq!(for_claim(&place(), &claim(Some("n2")), Some(&waiting), |_| None), None);
        assert!(for_claim(&place(), &claim(None), Some(&class("Immediate")), |_| None).is_some());
        let volume = made();
        assert!(runs_on(&place(), &volume));
        assert_eq!(for_claim(&place(), &claim(Some("n1")), Some(&waiting), |_| Some(Arc::new(made()))), None);
    }

    #[test]
    fn a_block_device_is_a_file_that_grows() {
        let mut block = claim(Some("n1"));
        block.spec.as_mut().expect("set").volume_mode = Some("Block".into());
        let deed = for_claim(&place(), &block, Some(&class("Immediate")), |_| None);
        let Some(Deed::Provision { volume, folder, block_bytes: Some(size) }) = deed else { panic!("{deed:?}") };
        assert_eq!((size, volume["spec"]["volumeMode"].as_str()), (1 << 30, Some("Block")));
        let volume: PersistentVolume = object(*volume);
        block.spec = Some(object(json!({"volumeName": "pvc-u", "volumeMode": "Block",
            "resources": {"requests": {"storage": "2Gi"}}})));
        block.status = Some(object(json!({"capacity": {"storage": "1Gi"}})));
        let deed = grow(&place(), &block, Some(&class("Immediate")), &volume);
        let file = Some((folder, 2 << 30));
        assert_eq!(deed, Some(Deed::Grow { volume: "pvc-u".into(), size: json!("2Gi"), file }));
        let path = std::env::temp_dir().join(format!("skiff-block-{}", std::process::id())).join("volume");
        make_file(&path, 4096).expect("made");
        make_file(&path, 8192).expect("grown");
        make_file(&path, 4096).expect("left as it is");
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 8192);
        remove_folder(&path).expect("removed");
        remove_folder(&path).expect("gone already");
        std::fs::remove_dir(path.parent().expect("a folder")).expect("empty");
    }

    #[test]
    fn a_released_volume_goes_with_its_data_unless_it_is_retained() {
        let mut volume = made();
        assert_eq!(for_volume(&place(), &volume), None);
        volume.status = Some(object(json!({"phase": "Released"})));
        assert_eq!(for_volume(&place(), &volume), Some(Deed::Delete("pvc-u".into())));
        volume.metadata.deletion_timestamp = Some(object(json!("2026-01-31T12:00:00Z")));
        volume.metadata.finalizers.as_mut().expect("set").push(PROTECTION.into());
        assert_eq!(for_volume(&place(), &volume), None);
        volume.metadata.finalizers.as_mut().expect("set").pop();
        let folder = Some(PathBuf::from("/data/volumes/pvc-u_d_data"));
        let gone = |folder| Some(Deed::Remove { volume: "pvc-u".into(), folder, finalizers: vec![] });
        assert_eq!(for_volume(&place(), &volume), gone(folder));
        volume.spec.as_mut().expect("set").persistent_volume_reclaim_policy = Some("Retain".into());
        assert_eq!(for_volume(&place(), &volume), gone(None));
    }

    #[test]
    fn no_folder_elsewhere_is_ever_touched() {
        let mut volume = made();
        volume.status = Some(object(json!({"phase": "Released"})));
        let local = volume.spec.as_mut().and_then(|spec| spec.local.as_mut()).expect("set");
        local.path = "/data/volumes/pvc-u_d_data/../../../etc".into();
        assert_eq!(for_volume(&place(), &volume), None);
    }

    #[test]
    fn a_claim_may_grow() {
        let mut claim = claim(Some("n1"));
        claim
            .metadata
            .annotations
            .as_mut()
            .expect("set")
            .insert(skiff_client::volumes::BIND_COMPLETED.into(), "yes".into());
        claim.spec.as_mut().expect("set").volume_name = Some("pvc-u".into());
        claim.status = Some(object(json!({"phase": "Bound", "capacity": {"storage": "1Gi"}})));
        let deed = |claim: &PersistentVolumeClaim| {
            for_claim(&place(), claim, Some(&class("Immediate")), |_| Some(Arc::new(made())))
        };
        assert_eq!(deed(&claim), None);
        claim.spec = Some(object(json!({"volumeName": "pvc-u", "resources": {"requests": {"storage": "3Gi"}}})));
        assert_eq!(deed(&claim), Some(Deed::Grow { volume: "pvc-u".into(), size: json!("3Gi"), file: None }));
        let mut told = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        told["status"]
            .as_object_mut()
            .expect("a map")
            .extend(resizing(&json!("3Gi"), Timestamp::UNIX_EPOCH)["status"].as_object().expect("a map").clone());
        claim.status = Some(object(told["status"].clone()));
        assert!(is_resizing(&claim, &json!("3Gi")) && !is_resizing(&claim, &json!("4Gi")));
        assert!(deed(&claim).is_some(), "it goes on after a restart");
    }
}
