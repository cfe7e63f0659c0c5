//! A Pod's volumes: where each one is, what the generated ones hold, and putting them there and away again.
//! What needs more than plain files (mounting) goes through [`Mounter`], which the program's main part hands in.

mod atomic;
pub mod bundles;
pub mod claims;
mod empty;
pub mod figures;
pub mod owner;
mod payload;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Volume};

pub use payload::{DEFAULT_EXPIRATION_SECONDS, TokenSource, Tokens, token_sources};
pub use setup::{prepare_sub_paths, set_up, tear_down};

use crate::config::{Objects, paths::Paths, uid};
use crate::csi::Wanted;
use crate::pod::spec::spec;

/// The few things about mounts that the agent cannot do with plain files.
pub trait Mounter: Send + Sync + 'static {
    /// Mounts an empty file system in memory, bounded by `size_bytes` where that is given.
    ///
    /// # Errors
    /// The kernel refused.
    fn mount_tmpfs(&self, target: &Path, size_bytes: Option<u64>) -> std::io::Result<()>;

    /// Mounts an empty file system of huge pages of a size.
    ///
    /// # Errors
    /// The kernel refused, or this mounter cannot.
    fn mount_huge_pages(&self, _target: &Path, _page_bytes: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Takes the uppermost mount at a path away, also while files in it are still open; returns whether there was one.
    ///
    /// # Errors
    /// The kernel refused.
    fn unmount(&self, target: &Path) -> std::io::Result<bool>;

    /// Ends a process at once; one that is gone already is none to care for.
    fn end_process(&self, _pid: i32) {}

    /// Mounts a folder of a file server with the system's own tool.
    ///
    /// # Errors
    /// The tool is missing or says why not.
    fn mount_nfs(&self, _source: &str, _target: &Path, _options: &[String]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Makes a file a block device; the same device where it is one already.
    ///
    /// # Errors
    /// The kernel has no device left, or the file cannot be opened.
    fn attach_loop(&self, _file: &Path) -> std::io::Result<PathBuf> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Undoes [`Mounter::attach_loop`], where nothing else uses the device.
    ///
    /// # Errors
    /// The kernel refused.
    fn detach_loop(&self, _device: &Path) -> std::io::Result<()> {
        Ok(())
    }

    /// Bind-mounts what is at `part` below `root` on `target`, without ever leaving `root` by links, also if they are
    /// exchanged meanwhile; folders that are missing are made. Returns where it is to be found.
    ///
    /// # Errors
    /// The path leads out of the volume, or the kernel refused.
    fn bind_below(&self, root: &Path, part: &Path, _target: &Path) -> std::io::Result<PathBuf> {
        // Without mounts it is only looked at once.
        let root = std::fs::canonicalize(root)?;
        let wanted = root.join(part);
        let nearest = wanted.ancestors().find(|path| path.exists()).map(Path::to_owned).unwrap_or_default();
        let outside = || std::io::Error::other("the path leads out of the volume");
        if !std::fs::canonicalize(nearest)?.starts_with(&root) {
            return Err(outside());
        }
        if std::fs::metadata(&wanted).is_err() {
            std::fs::create_dir_all(&wanted)?;
            std::fs::set_permissions(&wanted, std::fs::metadata(&root)?.permissions())?;
        }
        let real = std::fs::canonicalize(&wanted)?;
        if real.starts_with(&root) { Ok(wanted) } else { Err(outside()) }
    }

    /// How full the file system at `path` is.
    ///
    /// # Errors
    /// The kernel refused, or this mounter cannot tell.
    fn file_system(&self, _path: &Path) -> std::io::Result<FileSystem> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Bind-mounts `source` on `target`.
    ///
    /// # Errors
    /// The kernel refused, or this mounter cannot.
    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> std::io::Result<()>;
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Bytes in all.
    pub total_bytes: i64,
    /// Bytes that programs can still have.
    pub available_bytes: i64,
    /// Inodes in all; zero where the file system counts none.
    pub inodes: i64,
    /// Inodes left.
    pub inodes_free: i64,
}

/// A mounter for where nothing can be mounted: what should be in memory is on disk. For tests.
#[derive(Debug, Default)]
pub struct NoMounts;

impl Mounter for NoMounts {
    fn mount_tmpfs(&self, _target: &Path, _size_bytes: Option<u64>) -> std::io::Result<()> {
        Ok(())
    }

    fn unmount(&self, _target: &Path) -> std::io::Result<bool> {
        Ok(false)
    }

    fn bind(&self, _source: &Path, _target: &Path, _read_only: bool) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// The kinds of volumes that a node can set up by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// An empty folder that lives as long as the Pod.
    EmptyDir,
    /// A path of the node.
    HostPath,
    /// Files from a ConfigMap.
    ConfigMap,
    /// Files from a Secret.
    Secret,
    /// Files from the Pod's own fields.
    DownwardApi,
    /// Files from several sources.
    Projected,
    /// The files of an image, mounted by the runtime.
    Image,
    /// A folder of a file server.
    Nfs,
    /// What a claim is bound to.
    Claim,
    /// A volume of a driver that the Pod describes itself.
    Csi,
}

impl Plugin {
    /// The plugin of a volume; none where the node has none for its type.
    pub fn of(volume: &Volume) -> Option<Self> {
        let plugins = [
            (volume.empty_dir.is_some(), Self::EmptyDir),
            (volume.host_path.is_some(), Self::HostPath),
            (volume.config_map.is_some(), Self::ConfigMap),
            (volume.secret.is_some(), Self::Secret),
            (volume.downward_api.is_some(), Self::DownwardApi),
            (volume.projected.is_some(), Self::Projected),
            (volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some(), Self::Claim),
            (volume.csi.is_some(), Self::Csi),
            (volume.nfs.is_some(), Self::Nfs),
            (volume.image.is_some(), Self::Image),
        ];
        plugins.into_iter().find_map(|(is_this, plugin)| is_this.then_some(plugin))
    }

    /// The name of its folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::EmptyDir => "kubernetes.io~empty-dir",
            Self::HostPath => "kubernetes.io~host-path",
            Self::ConfigMap => "kubernetes.io~configmap",
            Self::Secret => "kubernetes.io~secret",
            Self::DownwardApi => "kubernetes.io~downward-api",
            Self::Projected => "kubernetes.io~projected",
            Self::Image => "kubernetes.io~image",
            Self::Nfs => "kubernetes.io~nfs",
            Self::Claim => "kubernetes.io~claim",
            Self::Csi => crate::csi::FOLDER,
        }
    }
}

/// Where each volume of the Pod is on the node.
pub fn locations(pod: &Pod, paths: &Paths, objects: &Objects) -> BTreeMap<String, PathBuf> {
    let volumes = spec(pod).volumes.iter().flatten();
    let known = volumes.filter_map(|volume| {
        let plugin = Plugin::of(volume).filter(|plugin| *plugin != Plugin::Image)?;
        let path = match &volume.host_path {
            Some(host_path) => PathBuf::from(&host_path.path),
            // What is not bound was told when the volumes were set up.
            None if let Some(source) = &volume.csi => Wanted::inline(pod, volume, source).target(pod, paths),
            None if plugin == Plugin::Claim => claims::bound(pod, volume, objects).ok()?.path(pod, paths),
            None => paths.volume(uid(pod), plugin.folder(), &volume.name),
        };
        Some((volume.name.clone(), path))
    });
    known.collect()
}

/// The volumes of storage drivers that the Pod has.
///
/// # Errors
/// A claim is missing or not bound.
pub fn of_drivers(pod: &Pod, objects: &Objects) -> Result<Vec<Wanted>, String> {
    let mut found = Vec::new();
    for volume in spec(pod).volumes.iter().flatten() {
        if let Some(source) = &volume.csi {
            found.push(Wanted::inline(pod, volume, source));
        } else if Plugin::of(volume) == Some(Plugin::Claim)
            && let claims::Source::Csi(wanted) = claims::bound(pod, volume, objects)?.source
        {
            found.push(*wanted);
        }
    }
    Ok(found)
}

/// Whether a change of the Pod's labels or annotations must reach files of it.
pub fn shows_metadata(pod: &Pod) -> bool {
    spec(pod).volumes.iter().flatten().any(|volume| {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        volume.downward_api.is_some() || sources.into_iter().any(|source| source.downward_api.is_some())
    })
}
