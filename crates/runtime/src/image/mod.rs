//! Images: fetched from registries or read from archives, kept by digest, unpacked layer by layer for overlayfs.
//! Nothing here knows containers; what they stand on is told by [`ImageStore::set_usage`].
//!
//! | folder | what |
//! |---|---|
//! | `blobs/sha256/` | content as it was fetched, verified |
//! | `snapshots/` | unpacked layers by chain id |
//! | `index.json` | the images and their names |
//! | `staging/` | unfinished work, emptied at the start |

mod apply;
mod content;
mod digest;
mod import;
mod index;
mod manifest;
mod pipeline;
mod platform;
mod pull;
mod reference;
mod registries;
mod save;
mod service;
mod snapshots;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use skiff_base::SystemClock;
use skiff_base::clock::SharedClock;
use skiff_cri::{CriError, CriResult};
use tokio::sync::{RwLock, Semaphore};

pub use apply::Usage;
pub use digest::Digest;
pub use index::ImageRecord;
pub use manifest::RunConfig;
pub use reference::{Reference, ReferenceError, Version};

use content::{Content, disk_error};
use index::Index;
use manifest::{ConfigFile, Manifest};
use snapshots::Snapshots;

/// Layers that are unpacked at a time, over all images: unpacking is bound by one core and the disk.
const UNPACKING: usize = 2;

/// A container that is being made is not yet seen by whoever tells what is in use; it has this long to show up.
const HANDED_OUT_GRACE: Duration = Duration::from_secs(600);

/// What can be set on the image store.
#[derive(Clone)]
pub struct ImageStoreOptions {
    /// Registries that are spoken to without TLS, beside those on this machine; `host[:port]`.
    pub insecure_registries: Vec<String>,
    /// The administrator's `registries.yaml`; it is read anew at every pull, and need not be there.
    pub registries: Option<PathBuf>,
    /// Layers of one image that are fetched at a time (containerd's default).
    pub downloads: usize,
    /// How long a registry may be silent in the middle of an answer.
    pub silence: Duration,
    /// Where the time comes from.
    pub clock: SharedClock,
}

/// A registry that says nothing for so long will say nothing more.
const SILENCE: Duration = Duration::from_secs(60);

impl Default for ImageStoreOptions {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            registries: None,
            downloads: 3,
            silence: SILENCE,
            clock: SystemClock::shared(),
        }
    }
}

/// An image that is ready to be a container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The image.
    pub image: ImageRecord,
    /// Its layers' folders in overlayfs' form, the lowest first.
    pub layers: Vec<PathBuf>,
}

/// Tells which layer folders containers stand on.
pub type InUse = Arc<dyn Fn() -> HashSet<PathBuf> + Send + Sync>;

/// The images of this node.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    options: ImageStoreOptions,
    content: Content,
    snapshots: Snapshots,
    index: Mutex<Index>,
    /// Unpacked by this process, and not yet on the disk for good: it must not be in an index that is saved.
    fresh: Mutex<HashMap<Digest, Usage>>,
    /// Whoever adds content holds this shared; removing what nobody needs takes it alone.
    adding: RwLock<()>,
    sweep_wanted: AtomicBool,
    unpacking: Arc<Semaphore>,
    locks: KeyedLocks,
    in_use: Mutex<Option<InUse>>,
    handed_out: Mutex<HashMap<Digest, Duration>>,
    /// Held as long as the store is open.
    _lock: File,
}

impl ImageStore {
    /// Opens or makes the store in the folder `root`; what an earlier process left unfinished is removed.
    pub fn open(root: impl AsRef<Path>, options: ImageStoreOptions) -> CriResult<Self> {
        let root = root.as_ref();
        std::fs::create_dir_all(root).map_err(|error| disk_error("creating", root, &error))?;
        // Images bring programs that run as their owner, root among them: nobody else on the host is to reach them.
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| disk_error("closing", root, &error))?;
        let lock = lock(root)?;
        let content = Content::open(root)?;
        let snapshots = Snapshots::open(root)?;
        let mut index = Index::load(&root.join("index.json"))?;
        for name in snapshots.names()? {
            // What was not in the index before the last end may be incomplete.
            if !format!("sha256:{name}").parse().is_ok_and(|chain| index.snapshots.contains_key(&chain)) {
                snapshots.remove(&content, &name)?;
            }
        }
        index.snapshots.retain(|chain, _| snapshots.has(chain));
        let present = |chain: &Digest| index.snapshots.contains_key(chain);
        let whole = |image: &ImageRecord| image.chain.iter().all(present);
        let lost: Vec<_> = index.images.values().filter(|image| !whole(image)).map(|image| image.id.clone()).collect();
        for id in lost {
            tracing::warn!(%id, "a layer of an image is missing; it has to be fetched again");
            index.images.remove(&id);
        }
        let inner = Inner {
            root: root.to_owned(),
            options,
            content,
            snapshots,
            index: Mutex::new(index),
            fresh: Mutex::new(HashMap::new()),
            adding: RwLock::new(()),
            sweep_wanted: AtomicBool::new(false),
            unpacking: Arc::new(Semaphore::new(UNPACKING)),
            locks: KeyedLocks::default(),
            in_use: Mutex::new(None),
            handed_out: Mutex::new(HashMap::new()),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Has `in_use` asked before unpacked layers are removed.
    pub fn set_usage(&self, in_use: InUse) {
        *self.inner.in_use.lock() = Some(in_use);
    }

    /// All images, by id.
    pub fn images(&self) -> Vec<ImageRecord> {
        self.inner.index.lock().images.values().cloned().collect()
    }

    /// The image that an id, the beginning of one, or a name leads to.
    pub fn find(&self, name: &str) -> Option<ImageRecord> {
        self.inner.index.lock().find(name).cloned()
    }

    /// The image, unpacked; its layers stay at least until whoever asked has had time to use them.
    pub fn rootfs(&self, name: &str) -> CriResult<Rootfs> {
        let image = self.find(name).ok_or_else(|| CriError::not_found(format!("image {name:?}: not found")))?;
        let now = self.inner.options.clock.monotonic();
        self.inner.handed_out.lock().extend(image.chain.iter().map(|chain| (chain.clone(), now)));
        let layers = image.chain.iter().map(|chain| self.inner.snapshots.path(chain)).collect();
        Ok(Rootfs { image, layers })
    }

    /// Keeps an image whatever room is needed, or no longer.
    pub async fn set_pinned(&self, name: &str, pinned: bool) -> CriResult<()> {
        let id = self.find(name).ok_or_else(|| CriError::not_found(format!("image {name:?}: not found")))?.id;
        self.change(move |index| {
            if let Some(image) = index.images.get_mut(&id) {
                image.pinned = pinned;
            }
        })
        .await
    }

    /// Removes the image with all its names, and what only it needed. Nothing happens where there is none.
    pub async fn remove(&self, name: &str) -> CriResult<()> {
        let Some(image) = self.find(name) else { return Ok(()) };
        self.change(move |index| {
            index.images.remove(&image.id);
        })
        .await?;
        self.sweep().await
    }

    /// Removes one name of an image, and the image with its last one.
    pub async fn untag(&self, name: &str) -> CriResult<()> {
        let reference = parse(name)?.to_string();
        let image = self.find(&reference).ok_or_else(|| CriError::not_found(format!("image {name:?}: not found")))?;
        self.change(move |index| {
            let Some(image) = index.images.get_mut(&image.id) else { return };
            image.tags.retain(|tag| *tag != reference);
            image.digests.retain(|digest| *digest != reference);
            if image.tags.is_empty() && image.digests.is_empty() {
                let id = image.id.clone();
                index.images.remove(&id);
            }
        })
        .await?;
        self.sweep().await
    }

    /// What all content and all unpacked layers take.
    pub fn usage(&self) -> Usage {
        let index = self.inner.index.lock();
        let unpacked = index.snapshots.values().fold(Usage::default(), |sum, usage| Usage {
            bytes: sum.bytes + usage.bytes,
            inodes: sum.inodes + usage.inodes,
        });
        let fetched: u64 = index.images.values().map(|image| image.size_bytes).sum();
        Usage { bytes: unpacked.bytes + fetched, inodes: unpacked.inodes + index.images.len() as u64 }
    }

    /// Where the store lies.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Removes content and unpacked layers that no image and no container needs; later, if images are being added now.
    pub async fn sweep(&self) -> CriResult<()> {
        self.inner.sweep_wanted.store(true, Ordering::Release);
        let Ok(alone) = self.inner.adding.try_write() else { return Ok(()) };
        self.inner.sweep_wanted.store(false, Ordering::Release);
        let inner = self.inner.clone();
        let swept = blocking(move || inner.sweep()).await;
        drop(alone);
        swept
    }

    /// After content was added: does what had to wait.
    async fn sweep_if_wanted(&self) {
        if self.inner.sweep_wanted.load(Ordering::Acquire)
            && let Err(error) = self.sweep().await
        {
            tracing::warn!(%error, "removing what no image needs");
        }
    }

    /// Changes the index in memory and on the disk.
    async fn change(&self, change: impl FnOnce(&mut Index) + Send + 'static) -> CriResult<()> {
        let inner = self.inner.clone();
        blocking(move || inner.change(change)).await
    }

    /// Unpacks what is not unpacked yet, and enters the image into the index.
    async fn finish(&self, record: ImageRecord) -> CriResult<ImageRecord> {
        let id = record.id.clone();
        let inner = self.inner.clone();
        blocking(move || {
            inner.snapshots.sync()?;
            let synced: Vec<_> = {
                let mut fresh = inner.fresh.lock();
                record.chain.iter().filter_map(|chain| fresh.remove_entry(chain)).collect()
            };
            inner.change(move |index| {
                index.snapshots.extend(synced);
                index.add(record);
            })
        })
        .await?;
        let index = self.inner.index.lock();
        index.images.get(&id).cloned().ok_or_else(|| CriError::not_found(format!("image {id} was removed meanwhile")))
    }

    /// Unpacks layer `number` of an image; the layers below are unpacked.
    async fn unpack(&self, layer: Digest, config: &ConfigFile, number: usize) -> CriResult<()> {
        let chain = config.chain_ids();
        let _one = self.inner.locks.lock(&chain[number].to_string()).await;
        if self.inner.is_unpacked(&chain[number]) {
            return Ok(());
        }
        let turn = self.inner.unpacking.clone().acquire_owned().await;
        let turn = turn.map_err(|_| CriError::internal("the image store is closed"))?;
        let (inner, diff_id) = (self.inner.clone(), config.rootfs.diff_ids[number].clone());
        blocking(move || {
            let usage = inner.snapshots.unpack(&inner.content, &layer, &diff_id, &chain[number], &chain[..number])?;
            inner.fresh.lock().insert(chain[number].clone(), usage);
            drop(turn);
            Ok(())
        })
        .await
    }
}

impl Inner {
    fn is_unpacked(&self, chain: &Digest) -> bool {
        self.fresh.lock().contains_key(chain) || self.index.lock().snapshots.contains_key(chain)
    }

    fn change(&self, change: impl FnOnce(&mut Index)) -> CriResult<()> {
        // Held while the disk is written, so that the later change is the one that stays.
        let mut index = self.index.lock();
        let mut changed = index.clone();
        change(&mut changed);
        changed.save(&self.content, &self.root.join("index.json"))?;
        *index = changed;
        Ok(())
    }

    fn sweep(&self) -> CriResult<()> {
        let used = self.in_use.lock().clone().map(|in_use| in_use()).unwrap_or_default();
        let now = self.options.clock.monotonic();
        let recent: HashSet<Digest> = {
            let mut handed_out = self.handed_out.lock();
            handed_out.retain(|_, at| now.saturating_sub(*at) < HANDED_OUT_GRACE);
            handed_out.keys().cloned().collect()
        };
        let mut unneeded = Vec::new();
        let abandoned: Vec<Digest> = self.fresh.lock().drain().map(|(chain, _)| chain).collect();
        self.change(|index| {
            let needed = |chain: &Digest| {
                index.needs_snapshot(chain) || recent.contains(chain) || used.contains(&self.snapshots.path(chain))
            };
            unneeded = index.snapshots.keys().filter(|chain| !needed(chain)).cloned().collect();
            index.snapshots.retain(|chain, _| !unneeded.contains(chain));
        })?;
        for chain in unneeded.into_iter().chain(abandoned) {
            self.snapshots.remove(&self.content, chain.hex())?;
        }
        let index = self.index.lock().clone();
        self.content.sweep(|digest| index.needs_blob(digest))
    }
}

/// What a pull or an import has found, to be made a record.
struct Found {
    /// From the name's own digest to the manifest.
    manifests: Vec<Digest>,
    manifest: Manifest,
    manifest_bytes: u64,
    config: ConfigFile,
}

impl Found {
    fn record(self, tags: Vec<String>, digests: Vec<String>) -> ImageRecord {
        let layers: u64 = self.manifest.layers.iter().map(|layer| layer.size).sum();
        ImageRecord {
            id: self.manifest.config.digest,
            tags,
            digests,
            manifests: self.manifests,
            layers: self.manifest.layers.into_iter().map(|layer| layer.digest).collect(),
            chain: self.config.chain_ids(),
            size_bytes: layers + self.manifest.config.size + self.manifest_bytes,
            pinned: false,
            config: self.config.config.unwrap_or_default(),
        }
    }

    /// The layers of the manifest and those of the configuration are the same ones.
    fn check(&self) -> CriResult<()> {
        let (layers, diffs) = (self.manifest.layers.len(), self.config.rootfs.diff_ids.len());
        if layers == diffs {
            return Ok(());
        }
        let message = format!("mismatched image rootfs and manifest layers: {diffs} and {layers}");
        Err(CriError::invalid_argument(message))
    }
}

/// A complete name.
fn parse(name: &str) -> CriResult<Reference> {
    name.parse()
        .map_err(|error| CriError::invalid_argument(format!("failed to parse image reference {name:?}: {error}")))
}

fn lock(root: &Path) -> CriResult<File> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(|error| disk_error("creating", &path, &error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(CriError::failed_precondition(format!("{} is in use by another process", root.display())))
        }
        Err(error) => Err(disk_error("locking", &path, &error.into())),
    }
}

/// Runs what waits for the disk on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> CriResult<T> + Send + 'static) -> CriResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(CriError::internal(format!("a task of the image store ended early: {error}"))))
}

/// One holder at a time for each key.
#[derive(Default)]
struct KeyedLocks {
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl KeyedLocks {
    async fn lock(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(key.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}
