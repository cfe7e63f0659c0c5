//! Which attached volumes the node uses, as its status tells whoever detaches them: from before a driver is asked for the
//! first time until it has undone the last of it, also across runs of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::{Memory, mounted, names, staged};
use crate::config::paths::Paths;

/// The volumes by what the Node's status calls them.
#[derive(Default)]
pub(super) struct Used {
    volumes: Mutex<BTreeMap<String, Holders>>,
    /// What an earlier run of the agent has left could not be read: what is here is not all.
    is_partial: bool,
}

#[derive(Default)]
struct Holders {
    /// UIDs of Pods.
    pods: BTreeSet<String>,
    /// While this is there, the node itself holds the volume.
    staging: PathBuf,
}

impl Used {
    /// What an earlier run of the agent has left in use.
    pub fn load(paths: &Paths) -> Self {
        let mut this = Self::default();
        let note = |memory: &Memory, uid: Option<&str>| {
            if memory.attached {
                this.hold(&memory.attached_name(), &memory.staging(paths), uid);
            }
        };
        let look = || {
            for uid in names(&paths.pods())? {
                mounted(paths, &uid)?.iter().for_each(|(_, memory)| note(memory, Some(&uid)));
            }
            staged(paths)?.iter().for_each(|memory| note(memory, None));
            std::io::Result::Ok(())
        };
        let looked = look();
        if let Err(error) = &looked {
            tracing::error!(%error, "cannot read which volumes of storage drivers are in use: what the Node tells of them is told on");
        }
        this.is_partial = looked.is_err();
        this
    }

    /// What the Node's status tells, and whether there may be more.
    pub fn names(&self) -> (Vec<String>, bool) {
        (self.volumes.lock().keys().cloned().collect(), self.is_partial)
    }

    /// A Pod begins to use a volume; whether that is to be told.
    pub fn hold(&self, name: &str, staging: &Path, pod: Option<&str>) -> bool {
        let mut volumes = self.volumes.lock();
        let new = !volumes.contains_key(name);
        let holders = volumes.entry(name.to_owned()).or_default();
        holders.staging = staging.to_owned();
        holders.pods.extend(pod.map(str::to_owned));
        new
    }

    /// Nothing of a Pod is left; whether a volume is used no longer.
    pub fn release(&self, pod: &str) -> bool {
        let mut volumes = self.volumes.lock();
        let before = volumes.len();
        volumes.retain(|_, holders| {
            holders.pods.remove(pod);
            !holders.pods.is_empty() || holders.staging.exists()
        });
        volumes.len() < before
    }
}
