//! What containers need of images. The image store implements it; tests bring a folder.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use skiff_cri::CriResult;

use crate::image::ImageStore;

/// Tells which layer folders containers stand on.
pub type LayersInUse = Arc<dyn Fn() -> HashSet<PathBuf> + Send + Sync>;

/// An unpacked image, ready to be a container's root.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UnpackedImage {
    /// The image's id: the digest of its configuration (`sha256:...`).
    pub id: String,
    /// A digested reference (`registry/name@sha256:...`), or the id when it has none.
    pub reference: String,
    /// Layer folders in overlayfs form (whiteouts as devices), the lowest first.
    pub layers: Vec<PathBuf>,
    /// What the image says about running it.
    pub config: ImageConfig,
}

/// The part of an image's configuration that shapes a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The command.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub cmd: Vec<String>,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// Where the command starts.
    pub working_dir: String,
    /// Such as `SIGQUIT` or `3`.
    pub stop_signal: String,
}

/// Where containers find their images.
#[async_trait]
pub trait ImageSource: Send + Sync + 'static {
    /// The image with this id or name, unpacked; `NotFound` when it is not on the node.
    async fn unpacked(&self, image: &str) -> CriResult<UnpackedImage>;

    /// Told once, by the runtime: whom to ask before layers are removed.
    fn watch_usage(&self, _in_use: LayersInUse) {}
}

#[async_trait]
impl ImageSource for ImageStore {
    async fn unpacked(&self, image: &str) -> CriResult<UnpackedImage> {
        let rootfs = self.rootfs(image)?;
        let record = rootfs.image;
        let id = record.id.to_string();
        Ok(UnpackedImage {
            reference: record.digests.into_iter().next().unwrap_or_else(|| id.clone()),
            id,
            layers: rootfs.layers,
            config: ImageConfig {
                entrypoint: record.config.entrypoint.unwrap_or_default(),
                cmd: record.config.cmd.unwrap_or_default(),
                env: record.config.env.unwrap_or_default(),
                user: record.config.user.unwrap_or_default(),
                working_dir: record.config.working_dir.unwrap_or_default(),
                stop_signal: record.config.stop_signal.unwrap_or_default(),
            },
        })
    }

    fn watch_usage(&self, in_use: LayersInUse) {
        self.set_usage(in_use);
    }
}
