//! How full volumes are, as upstream's plugins count: what the node makes itself is added up, what has a file system of its
//! own tells by that. Blocking file work.

use std::path::Path;

use super::{FileSystem, Mounter, Plugin};
use crate::node::guard::disk_use;

/// How full a volume is, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes in all.
    pub capacity_bytes: Option<i64>,
    /// Bytes that are left.
    pub available_bytes: Option<i64>,
    /// Bytes that are used.
    pub used_bytes: Option<i64>,
    /// Inodes in all.
    pub inodes: Option<i64>,
    /// Inodes that are left.
    pub inodes_free: Option<i64>,
    /// Inodes that are used.
    pub inodes_used: Option<i64>,
}

/// The figures of a volume of the node's own; `None` where nothing is counted, as of a path of the node.
pub fn of(plugin: Plugin, path: &Path, mounter: &dyn Mounter) -> Option<Figures> {
    let used = match plugin {
        Plugin::EmptyDir | Plugin::ConfigMap | Plugin::Secret | Plugin::DownwardApi | Plugin::Projected => {
            Some(disk_use(path))
        }
        Plugin::Claim | Plugin::Nfs => None,
        Plugin::HostPath | Plugin::Image | Plugin::Csi => return None,
    };
    let system = mounter.file_system(path).ok()?;
    Some(figures(system, used))
}

fn figures(system: FileSystem, used: Option<(i64, i64)>) -> Figures {
    let (bytes, inodes) =
        used.unwrap_or((system.total_bytes - system.available_bytes, system.inodes - system.inodes_free));
    Figures {
        capacity_bytes: Some(system.total_bytes),
        available_bytes: Some(system.available_bytes),
        used_bytes: Some(bytes),
        inodes: Some(system.inodes),
        inodes_free: Some(system.inodes_free),
        inodes_used: Some(inodes),
    }
}
