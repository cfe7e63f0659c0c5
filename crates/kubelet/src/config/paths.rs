//! Where the agent keeps things: the same layout as upstream's under roots that can be chosen.

use std::path::{Path, PathBuf};

/// The two roots.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// `/var/lib/kubelet`.
    pub root: PathBuf,
    /// `/var/log`; below it are `pods` and `containers`.
    pub logs: PathBuf,
}

impl Paths {
    /// The folder of one Pod.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// The folder of all Pods.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// The folder of one volume; `plugin` as upstream names it, `kubernetes.io~empty-dir`.
    pub fn volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(plugin).join(name)
    }

    /// The managed hosts file.
    pub fn hosts(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc-hosts")
    }

    /// The file behind a container's termination message.
    pub fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(attempt.to_string())
    }

    /// The folder of a Pod's logs.
    pub fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs.join("pods").join(format!("{namespace}_{name}_{uid}"))
    }

    /// The log of one attempt of a container.
    pub fn container_log(&self, pod: &k8s_openapi::api::core::v1::Pod, container: &str, attempt: u32) -> PathBuf {
        self.pod_logs(super::namespace(pod), super::name(pod), super::uid(pod)).join(log_path(container, attempt))
    }

    /// The link by which log collectors find a container's log.
    pub fn log_link(&self, namespace: &str, pod: &str, container: &str, id: &str) -> PathBuf {
        self.logs.join("containers").join(format!("{pod}_{namespace}_{container}-{id}.log"))
    }
}

/// A container's log relative to its Pod's log folder.
pub fn log_path(container: &str, attempt: u32) -> PathBuf {
    Path::new(container).join(format!("{attempt}.log"))
}
