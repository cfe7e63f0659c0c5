//! Keeping the node from running short: it looks at memory, disks, inodes and processes, removes what nothing uses, and ends
//! Pods where that is not enough. What to do is decided in [`crate::evict`] and [`crate::collect`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use parking_lot::Mutex;
use skiff_cri::{
    ImageService, ImageSpec, ListContainerStatsRequest, ListContainersRequest, ListImagesRequest,
    ListPodSandboxStatsRequest, RemoveImageRequest, UInt64Value,
};
use tokio::sync::Notify;

use crate::agent::Workers;
use crate::cgroups;
use crate::collect::{self, Held, Memories, Rules};
use crate::config::{name, namespace, sandbox, uid};
use crate::evict::{self, Candidate, ContainerUse, Observation, Observations, Pressure, Signal, Threshold};
use crate::node::facts;
use crate::options::Options;
use crate::pod::spec::spec;
use crate::volumes::Plugin;
use crate::worker::Mailbox;

/// How often the node looks at what is left; upstream's number.
const LOOK: Duration = Duration::from_secs(10);
/// What is mounted where.
const MOUNTS: &str = "/proc/self/mountinfo";
/// How often images are collected; upstream's number.
const COLLECT: Duration = Duration::from_secs(300);
/// A folder with more entries than this is not measured to its end: it is over any limit by then.
const MOST_ENTRIES: u64 = 5_000_000;

/// The conditions that hold, shared with who writes the node's status.
pub type Pressures = Arc<Mutex<Vec<Pressure>>>;

/// What keeps the node from running short.
pub struct Guard {
    /// The Pods.
    pub workers: Arc<Workers>,
    /// Images.
    pub images: Arc<dyn ImageService>,
    /// Thresholds and the like.
    pub options: Arc<Options>,
    /// Where the conditions go.
    pub pressures: Pressures,
    /// Woken when they change.
    pub changed: Arc<Notify>,
    /// The Node object.
    pub reference: ObjectReference,
    /// What is remembered of images.
    pub memories: Mutex<Memories>,
}

impl Guard {
    /// Looks after the node for ever.
    pub async fn keep(self) {
        tokio::join!(self.keep_pods(), self.keep_images());
    }

    async fn keep_pods(&self) {
        let thresholds = evict::thresholds(&self.options).expect("the options were checked when they were read");
        let mut state = evict::State::default();
        let mut read_only = Vec::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let still = std::mem::replace(&mut read_only, self.read_only().await);
            self.tell_read_only(&still, &read_only);
            self.settle_storage().await;
            let observations = self.observe().await;
            let now = self.workers.node().clock.now();
            let transition = self.options.eviction_pressure_transition_period.0;
            let (next, verdict) = evict::look(&state, &thresholds, &observations, transition, now);
            state = next;
            let mut pressures = verdict.pressures;
            if !read_only.is_empty() && !pressures.contains(&Pressure::Disk) {
                // No room at all for what is new; what runs may run on.
                pressures.push(Pressure::Disk);
                pressures.sort_unstable();
            }
            let before = std::mem::replace(&mut *self.pressures.lock(), pressures.clone());
            if before != pressures {
                self.changed.notify_one();
            }
            if let Some(threshold) = verdict.threshold {
                self.relieve(&threshold, &observations).await;
            }
        }
    }

    /// The folders of Pods and images that can no longer be written to: kernels make a disk that fails read-only.
    async fn read_only(&self) -> Vec<PathBuf> {
        let node = self.workers.node();
        let mut paths = vec![node.facts().paths.root.clone()];
        paths.extend(self.image_path().await);
        let look = move || -> std::io::Result<Vec<PathBuf>> {
            let mounts = std::fs::read_to_string(MOUNTS)?;
            let is_read_only = |path: &PathBuf| path.canonicalize().is_ok_and(|path| is_read_only(&mounts, &path));
            Ok(paths.into_iter().filter(is_read_only).collect())
        };
        let looked = tokio::task::spawn_blocking(look).await.map_err(std::io::Error::other).and_then(|looked| looked);
        looked.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look whether disks are read-only");
            Vec::new()
        })
    }

    /// Tells of disks that became read-only, and of those that no longer are; reasons as the node problem detector has them.
    fn tell_read_only(&self, before: &[PathBuf], now: &[PathBuf]) {
        let recorder = &self.workers.node().recorder;
        for path in now.iter().filter(|path| !before.contains(path)) {
            let path = path.display();
            tracing::error!(%path, "the file system is read-only: nothing new can be started");
            recorder.record(
                &self.reference,
                true,
                "FilesystemIsReadOnly",
                format!("Filesystem of {path} is read-only"),
            );
        }
        for path in before.iter().filter(|path| !now.contains(path)) {
            let path = path.display();
            tracing::info!(%path, "the file system is no longer read-only");
            let words = format!("Filesystem of {path} is not read-only");
            recorder.record(&self.reference, false, "FilesystemIsNotReadOnly", words);
        }
    }

    /// Does something about a shortage: first removes what nothing uses, then ends a Pod.
    async fn relieve(&self, threshold: &Threshold, observations: &Observations) {
        let resource = threshold.signal.resource();
        tracing::warn!(resource, "the node runs short");
        let words = format!("Attempting to reclaim {resource}");
        self.workers.node().recorder.record(&self.reference, true, "EvictionThresholdMet", words);
        if threshold.signal.pressure() == Pressure::Disk {
            self.collect_images(u64::MAX, Duration::ZERO).await;
            let thresholds = [*threshold];
            let seen = self.observe().await;
            let now = self.workers.node().clock.now();
            let (_, again) = evict::look(&evict::State::default(), &thresholds, &seen, Duration::ZERO, now);
            if again.pressures.is_empty() {
                return;
            }
        }
        let mailboxes = self.workers.active();
        if mailboxes.iter().any(|mailbox| mailbox.is_evicted()) {
            // One at a time: what the last one frees is not seen before it is gone.
            return;
        }
        let measured = threshold.signal.pressure() == Pressure::Disk;
        let candidates = self.candidates(&mailboxes, |_| measured).await;
        let most = self.options.eviction_max_pod_grace_period;
        match evict::choose(threshold, observations, candidates, most) {
            Some((victim, eviction)) => {
                if let Some(mailbox) = mailboxes.iter().find(|mailbox| uid(&mailbox.pod()) == victim) {
                    tracing::warn!(pod = %crate::pod::spec::pod_ref(&mailbox.pod()), resource, "evicting a Pod");
                    mailbox.evict(eviction);
                }
            }
            None => tracing::warn!(resource, "the node runs short and has no Pod that it may end"),
        }
    }

    /// Ends Pods that have written more than they may.
    async fn settle_storage(&self) {
        let limited = |mailbox: &Arc<Mailbox>| !mailbox.is_evicted() && evict::storage::is_limited(&mailbox.pod());
        let mailboxes: Vec<_> = self.workers.active().into_iter().filter(limited).collect();
        if mailboxes.is_empty() {
            return;
        }
        for candidate in self.candidates(&mailboxes, |_| true).await {
            let mailbox = mailboxes.iter().find(|mailbox| uid(&mailbox.pod()) == uid(&candidate.pod));
            if let (Some(mailbox), Some(eviction)) = (mailbox, evict::storage::excess(&candidate)) {
                mailbox.evict(eviction);
            }
        }
    }

    async fn observe(&self) -> Observations {
        let node = self.workers.node();
        let facts = node.facts();
        let mut seen = Observations::new();
        if let Some(available) = facts::available_memory() {
            seen.insert(Signal::MemoryAvailable, Observation { available, capacity: facts.memory_bytes });
        }
        let cgroup = cgroups::class(&facts.cgroup_root, "", facts.systemd_cgroups);
        if let Some(used) = node.cgroups.as_ref().and_then(|layout| layout.working_set(&cgroup)) {
            let capacity = facts.memory_bytes - self.options.reserved("memory").value();
            let observation = Observation { available: capacity - used, capacity };
            seen.insert(Signal::AllocatableMemoryAvailable, observation);
        }
        if let Some((used, capacity)) = facts::pids() {
            seen.insert(Signal::PidAvailable, Observation { available: capacity - used, capacity });
        }
        let mut disk = |path: &Path, bytes: Signal, inodes: Signal| match node.mounter.file_system(path) {
            Ok(system) => {
                seen.insert(bytes, Observation { available: system.available_bytes, capacity: system.total_bytes });
                // Some file systems make inodes as they go and count none.
                if system.inodes > 0 {
                    let observation = Observation { available: system.inodes_free, capacity: system.inodes };
                    seen.insert(inodes, observation);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot look at a file system"),
        };
        disk(&facts.paths.root, Signal::NodeFsAvailable, Signal::NodeFsInodesFree);
        if let Some(path) = self.image_path().await {
            disk(&path, Signal::ImageFsAvailable, Signal::ImageFsInodesFree);
        }
        seen
    }

    async fn image_path(&self) -> Option<PathBuf> {
        self.workers.node().images.file_system().await.map(|(path, _)| path)
    }

    /// The Pods with what they use; their folders are measured where `measured` says so.
    async fn candidates(&self, mailboxes: &[Arc<Mailbox>], measured: impl Fn(&Pod) -> bool) -> Vec<Candidate> {
        let runtime = &self.workers.node().runtime;
        let stats = runtime.list_container_stats(ListContainerStatsRequest::default()).await;
        let stats = stats.map(|response| response.stats).unwrap_or_else(|error| {
            tracing::warn!(%error, "the runtime does not say what containers use");
            Vec::new()
        });
        let number = |value: &Option<UInt64Value>| value.as_ref().map_or(0, |value| value.value as i64);
        let mut by_pod: HashMap<String, BTreeMap<String, ContainerUse>> = HashMap::new();
        for one in stats {
            let labels = one.attributes.map(|attributes| attributes.labels).unwrap_or_default();
            let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
            let layer = one.writable_layer.unwrap_or_default();
            let used = ContainerUse {
                memory: number(&one.memory.unwrap_or_default().working_set_bytes),
                disk: number(&layer.used_bytes),
                inodes: number(&layer.inodes_used),
            };
            by_pod.entry(label(sandbox::POD_UID)).or_default().insert(label(sandbox::CONTAINER_NAME), used);
        }
        let pids = self.processes().await;
        let mut candidates = Vec::new();
        for mailbox in mailboxes {
            let pod = mailbox.allocated_pod();
            let mut containers = by_pod.remove(uid(&pod)).unwrap_or_default();
            let mut volumes = BTreeMap::new();
            if measured(&pod) {
                let (facts, subject) = (self.workers.node().facts(), pod.clone());
                let work = move || measure(&subject, &facts.paths);
                if let Ok((sizes, logs)) = tokio::task::spawn_blocking(work).await {
                    volumes = sizes;
                    for (name, (bytes, inodes)) in logs {
                        let used = containers.entry(name).or_default();
                        used.disk += bytes;
                        used.inodes += inodes;
                    }
                }
            }
            let pids = pids.get(uid(&pod)).copied().unwrap_or(0);
            candidates.push(Candidate { pod, containers, volumes, pids });
        }
        candidates
    }

    async fn processes(&self) -> HashMap<String, i64> {
        let request = ListPodSandboxStatsRequest::default();
        let Ok(response) = self.workers.node().runtime.list_pod_sandbox_stats(request).await else {
            return HashMap::new();
        };
        let each = response.stats.into_iter().filter_map(|one| {
            let uid = one.attributes?.labels.get(sandbox::POD_UID)?.clone();
            let count = one.linux?.process?.process_count?.value;
            Some((uid, i64::try_from(count).unwrap_or(i64::MAX)))
        });
        each.collect()
    }

    async fn keep_images(&self) {
        loop {
            tokio::time::sleep(COLLECT).await;
            let Some(path) = self.image_path().await else { continue };
            let (high, low) =
                (self.options.image_gc_high_threshold_percent, self.options.image_gc_low_threshold_percent);
            let wanted = match self.workers.node().mounter.file_system(&path) {
                Ok(system) => {
                    let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
                    collect::wanted(bytes(system.total_bytes), bytes(system.available_bytes), high, low)
                }
                Err(_) => 0,
            };
            let won = self.collect_images(wanted, self.options.image_minimum_gc_age.0).await;
            if won < wanted {
                let words = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {won} bytes eligible to free."
                );
                self.workers.node().recorder.record(&self.reference, true, "FreeDiskSpaceFailed", words);
            }
        }
    }

    /// Removes images that nothing uses; returns the bytes won.
    async fn collect_images(&self, wanted_bytes: u64, min_age: Duration) -> u64 {
        let (images, in_use) = match self.images_in_use().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot tell which images are in use");
                return 0;
            }
        };
        let node = self.workers.node();
        node.images.pulled().keep_only(&images.iter().map(|image| image.id.as_str()).collect());
        let now = node.clock.now();
        let rules = Rules { min_age, max_age: self.options.image_maximum_gc_age.0, wanted_bytes };
        let (chosen, _) = {
            let mut memories = self.memories.lock();
            *memories = collect::remember(&memories, &images, &in_use, now);
            collect::choose(&memories, &images, &in_use, rules, now)
        };
        let mut won = 0;
        for id in chosen {
            let image = ImageSpec { image: id.clone(), ..ImageSpec::default() };
            match self.images.remove_image(RemoveImageRequest { image: Some(image) }).await {
                Ok(_) => {
                    tracing::info!(image = %id, "removed an image that nothing uses");
                    won += images.iter().find(|image| image.id == id).map_or(0, |image| image.bytes);
                }
                Err(error) => tracing::warn!(image = %id, %error, "cannot remove an image"),
            }
        }
        won
    }

    async fn images_in_use(&self) -> skiff_cri::CriResult<(Vec<Held>, BTreeSet<String>)> {
        let images = self.images.list_images(ListImagesRequest::default()).await?.images;
        let runtime = &self.workers.node().runtime;
        let containers = runtime.list_containers(ListContainersRequest::default()).await?.containers;
        let mut names: BTreeSet<String> = BTreeSet::new();
        for container in containers {
            names.extend([container.image_ref, container.image_id]);
            names.extend(container.image.map(|image| image.image));
        }
        // Also what Pods are just about to use, and the images of volumes.
        for pod in self.workers.active().iter().map(|mailbox| mailbox.pod()) {
            let all = crate::pod::spec::containers(&pod);
            names.extend(all.iter().filter_map(|container| crate::images::with_tag(container.image())));
            let volumes = spec(&pod).volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
            names.extend(volumes.filter_map(|image| crate::images::with_tag(image.reference.as_deref()?)));
        }
        let used = images.iter().filter(|image| {
            let all = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
            all.into_iter().any(|name| names.contains(name))
        });
        let used = used.map(|image| image.id.clone()).collect();
        let held = images.into_iter().map(|image| Held { id: image.id, bytes: image.size, pinned: image.pinned });
        Ok((held.collect(), used))
    }
}

/// Whether what is mounted at a path, as a process's `mountinfo` tells it, cannot be written to. Nothing is written to find
/// that out: an idle node leaves its disk alone.
/// See <https://www.kernel.org/doc/html/latest/filesystems/proc.html#proc-pid-mountinfo-information-about-mounts>.
fn is_read_only(mountinfo: &str, path: &Path) -> bool {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        let (point, options) = (unescaped(fields.next()?), fields.next()?);
        path.starts_with(&point).then(|| (point.len(), options, system.rsplit(' ').next().unwrap_or_default()))
    });
    // Of several at one place the last is on top.
    let Some((_, options, of_system)) = mounts.max_by_key(|(length, ..)| *length) else { return false };
    // A file system that an error has stopped may still call itself writable.
    options.split(',').chain(of_system.split(',')).any(|option| matches!(option, "ro" | "emergency_ro"))
}

/// A mount's place; what would part its line is written in octal.
fn unescaped(point: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(point.to_owned(), |text, (code, meant)| text.replace(code, meant))
}

type Sizes = BTreeMap<String, (i64, i64)>;

/// The bytes and inodes of a Pod's local volumes and of its containers' logs. Blocking.
fn measure(pod: &Pod, paths: &crate::config::paths::Paths) -> (Sizes, Sizes) {
    let volumes = spec(pod).volumes.iter().flatten().filter_map(|volume| {
        let plugin = Plugin::of(volume).filter(|plugin| *plugin == Plugin::EmptyDir)?;
        Some((volume.name.clone(), disk_use(&paths.volume(uid(pod), plugin.folder(), &volume.name))))
    });
    let logs = paths.pod_logs(namespace(pod), name(pod), uid(pod));
    let containers = crate::pod::spec::containers(pod);
    let logs = containers.iter().map(|spec| (spec.name().to_owned(), disk_use(&logs.join(spec.name()))));
    (volumes.collect(), logs.collect())
}

/// The bytes and inodes that a folder takes on its file system; what vanishes meanwhile is passed over.
pub fn disk_use(folder: &Path) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt;
    /// What the kernel counts blocks in.
    const BLOCK: u64 = 512;
    let (mut bytes, mut inodes) = (0, 0);
    let Ok(top) = std::fs::symlink_metadata(folder) else { return (0, 0) };
    let mut linked = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() || (meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * BLOCK;
            inodes += 1;
            if meta.is_dir() && inodes < MOST_ENTRIES {
                folders.push(entry.path());
            }
        }
    }
    (i64::try_from(bytes).unwrap_or(i64::MAX), i64::try_from(inodes).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_above_a_folder_tells_whether_it_can_be_written_to() {
        let mounts = "\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
2 1 8:2 / /var/lib/skiff rw,relatime - ext4 /dev/sdb rw,abort,emergency_ro
3 1 8:3 / /ro rw - ext4 /dev/sdc ro
4 1 8:4 / /bound ro,relatime - xfs /dev/sdd rw
5 1 8:5 / /over ro - ext4 /dev/sde ro
6 1 8:6 / /over rw - ext4 /dev/sdf rw
7 1 8:7 / /with\\040space ro - ext4 /dev/sdg ro
";
        let check = |path: &str| is_read_only(mounts, Path::new(path));
        for path in ["/var/lib/skiff", "/var/lib/skiff/kubelet", "/ro/a", "/bound", "/with space/a"] {
            assert!(check(path), "{path}");
        }
        for path in ["/", "/var/lib/skiffs", "/over/a", "/rot"] {
            assert!(!check(path), "{path}");
        }
    }
}
