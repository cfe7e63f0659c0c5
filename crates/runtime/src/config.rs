//! Where the embedded runtime keeps things, and how it is told.

use std::path::PathBuf;

/// How the runtime is set up.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// What must outlast a reboot: records, containers' writable layers.
    pub root: PathBuf,
    /// What must not: sockets of shims, shared memory. On a tmpfs as `/run` is.
    pub run: PathBuf,
    /// The program that shims are started from; it calls [`crate::shim::main`] when [`crate::shim::is_invoked`].
    pub shim_program: PathBuf,
    /// The cgroup where shims live, so that they do not end with skiff's own; none leaves them in it. On v1 it also
    /// makes starts faster: the first move between cgroups after a rest waits in the kernel, and with it that move is
    /// the shim's, in the background.
    pub shim_cgroup: Option<String>,
    /// The cgroup of sandboxes that name none.
    pub default_cgroup_parent: String,
    /// The unified hierarchy to use, where it is not mounted at `/sys/fs/cgroup`; else the machine's usual ones.
    pub cgroup2_root: Option<PathBuf>,
    /// The runtime's version, as `kubectl get nodes -o wide` shows it.
    pub version: String,
}

impl RuntimeConfig {
    /// The usual set-up in these two folders, with this very binary as shim.
    pub fn new(root: PathBuf, run: PathBuf) -> std::io::Result<Self> {
        Ok(Self {
            root,
            run,
            shim_program: std::env::current_exe()?,
            shim_cgroup: None,
            default_cgroup_parent: "/skiff".to_owned(),
            cgroup2_root: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
