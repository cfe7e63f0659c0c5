//! Where a node keeps its files, and the few facts of it that survive a restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ranges::{NodeMasks, Ranges};

/// The state of the machine's own node.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/skiff";

/// The folders of one node.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Everything of the node stands below this.
    pub root: PathBuf,
    /// The name of the isolated node; `None` for the machine's own.
    pub isolated: Option<String>,
}

impl Paths {
    /// The folders of the machine's own node, or of the isolated node `name`.
    pub fn new(data_dir: &Path, isolated: Option<&str>) -> Self {
        let root = match isolated {
            Some(name) => data_dir.join("isolated").join(name),
            None => data_dir.to_owned(),
        };
        Self { root, isolated: isolated.map(str::to_owned) }
    }

    /// The folders of another isolated node of the same data folder.
    pub fn beside(&self, name: &str) -> Self {
        Self { root: self.root.with_file_name(name), isolated: Some(name.to_owned()) }
    }

    /// A path below the node's folder.
    pub fn join(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The database of the API server.
    pub fn store(&self) -> PathBuf {
        self.join("store")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.join("pki")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.join("kubeconfig")
    }

    /// Where the running server listens for this program's other commands.
    pub fn control_socket(&self) -> PathBuf {
        self.join("run/control.sock")
    }

    /// The running server.
    pub fn server_pid(&self) -> PathBuf {
        self.join("run/server.pid")
    }

    /// The first process of the isolated node's process namespace.
    pub fn keeper_pid(&self) -> PathBuf {
        self.join("run/keeper.pid")
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.join("skiff.log")
    }

    /// What must not outlast a reboot: shims' sockets, namespaces that are held by mounts.
    pub fn volatile(&self) -> PathBuf {
        match &self.isolated {
            // Short, because a socket's path may have 108 letters only.
            Some(name) => Path::new("/run/skiff").join("isolated").join(name),
            None => PathBuf::from("/run/skiff/node"),
        }
    }

    /// Where the embedded runtime speaks CRI.
    pub fn cri_socket(&self) -> PathBuf {
        match &self.isolated {
            Some(_) => self.volatile().join("cri.sock"),
            None => PathBuf::from("/run/skiff/cri.sock"),
        }
    }

    /// Images, packed and unpacked.
    pub fn images(&self) -> PathBuf {
        self.join("images")
    }

    /// Sandboxes and containers.
    pub fn runtime(&self) -> PathBuf {
        self.join("runtime")
    }

    /// Volumes and the like.
    pub fn kubelet(&self) -> PathBuf {
        self.join("kubelet")
    }

    /// Manifests of static Pods.
    pub fn manifests(&self) -> PathBuf {
        self.join("manifests")
    }

    /// What Pods keep: the persistent volumes on this node's disk.
    pub fn volumes(&self) -> PathBuf {
        self.join("volumes")
    }

    /// The pod network's memory.
    pub fn network(&self) -> PathBuf {
        self.join("network")
    }

    /// The containers' logs: where log collectors look, except in isolation.
    pub fn container_logs(&self) -> PathBuf {
        if self.isolated.is_some() { self.join("log") } else { PathBuf::from("/var/log") }
    }

    /// The parent of all the node's cgroups.
    pub fn cgroup_parent(&self) -> String {
        match &self.isolated {
            Some(name) => format!("/skiff-{name}"),
            None => String::new(),
        }
    }

    /// The cgroup of the runtime's own, and of sandboxes that name none.
    pub fn runtime_cgroup(&self) -> String {
        format!("{}/skiff", self.cgroup_parent())
    }

    /// Makes the folders that everything else expects.
    ///
    /// # Errors
    /// A folder cannot be made; the error names it.
    pub fn create(&self) -> io::Result<()> {
        for folder in [self.root.clone(), self.join("run"), self.pki()] {
            fs::create_dir_all(&folder).map_err(|error| named(&folder, "create folder", error))?;
        }
        Ok(())
    }
}

/// What a node decides once and keeps: written when it is first started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The name of the Node object.
    pub node_name: String,
    /// The port of the API server on the host's loopback.
    pub api_port: u16,
    /// Which of the link networks an isolated node has; 0 for the machine's own node.
    pub link: u8,
    /// Which address of the link network it has.
    #[serde(default = "default_seat")]
    pub seat: u8,
    /// The isolated node whose network joins the links of a cluster's nodes; without it the link leads to the host alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<String>,
    /// How many leading bits the addresses of the node's pods share.
    #[serde(default = "default_node_mask")]
    pub node_mask: u8,
    /// The same of those in IPv6.
    #[serde(default = "default_node_mask_ipv6", skip_serializing_if = "is_default_node_mask_ipv6")]
    pub node_mask_ipv6: u8,
    /// The cluster's ranges of addresses; the usual ones where there was no choice yet, and what an agent has to learn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Ranges>,
    /// The etcd that keeps the cluster's objects; without it they are in the node's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<Datastore>,
    /// The members of the etcd that the cluster's servers run themselves, this one among them; none where it has no such.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub etcd: Vec<EtcdPeer>,
    /// The ranges of the node's pods, once it has been given them: one, or one of each family with a comma between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_range: Option<String>,
    /// The cluster that an agent belongs to; a server has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
}

/// The cluster of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Its servers as far as they are known, `host:port` each.
    pub servers: Vec<String>,
    /// The token that the first certificate is got by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Upstream's size of a node's part of the pod range: 254 addresses.
pub const DEFAULT_NODE_MASK: u8 = 24;

/// Upstream's size of a node's part of an IPv6 pod range.
pub const DEFAULT_NODE_MASK_IPV6: u8 = 64;

/// The first address of a link network is the host's.
pub const FIRST_SEAT: u8 = 2;

fn default_seat() -> u8 {
    FIRST_SEAT
}

fn default_node_mask() -> u8 {
    DEFAULT_NODE_MASK
}

fn default_node_mask_ipv6() -> u8 {
    DEFAULT_NODE_MASK_IPV6
}

fn is_default_node_mask_ipv6(bits: &u8) -> bool {
    *bits == DEFAULT_NODE_MASK_IPV6
}

/// A member of an etcd that a cluster's servers run themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdPeer {
    /// The server's name.
    pub name: String,
    /// Its address.
    pub address: std::net::Ipv4Addr,
}

/// An etcd cluster, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datastore {
    /// The members.
    pub endpoints: Vec<String>,
    /// The authorities of their certificates; without it the system's.
    pub cafile: Option<PathBuf>,
    /// The certificate to show.
    pub certfile: Option<PathBuf>,
    /// Its key.
    pub keyfile: Option<PathBuf>,
    /// What the cluster's keys begin with.
    pub prefix: String,
    /// The secret by which servers of several machines give each other what signs the cluster's certificates and tokens.
    #[serde(default)]
    pub server_token: Option<String>,
}

impl NodeFacts {
    /// A node of this name that has decided nothing yet.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            api_port: 0,
            link: 0,
            seat: FIRST_SEAT,
            switch: None,
            node_mask: DEFAULT_NODE_MASK,
            node_mask_ipv6: DEFAULT_NODE_MASK_IPV6,
            ranges: None,
            datastore: None,
            etcd: Vec::new(),
            pod_range: None,
            join: None,
        }
    }

    /// The cluster's ranges of addresses, as far as they are known.
    pub fn ranges(&self) -> Ranges {
        self.ranges.clone().unwrap_or_default()
    }

    /// How the cluster's ranges are cut for nodes.
    pub fn node_masks(&self) -> NodeMasks {
        NodeMasks { v4: self.node_mask, v6: self.node_mask_ipv6 }
    }

    /// Reads the facts of a node that was started before.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn load(paths: &Paths) -> io::Result<Option<Self>> {
        let path = paths.join("node.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| named(&path, "read", io::Error::other(error)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(named(&path, "read", error)),
        }
    }

    /// Writes the facts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, paths: &Paths) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        // An agent's has a token in it.
        write_atomically(&paths.join("node.json"), &bytes, 0o600)
    }
}

/// Writes a file so that it is there whole or not at all.
///
/// # Errors
/// The file cannot be written; the error names it.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let staged = path.with_extension("new");
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().map_err(|error| named(path, "write", error))
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// It cannot be removed.
pub fn remove_file(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(file, "remove", error)),
        _ => Ok(()),
    }
}

/// The same error, saying what was done to which file.
pub fn named(path: &Path, operation: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{operation} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_the_time_before_there_was_a_choice_of_ranges_are_read() {
        let old = r#"{"node_name": "n", "api_port": 6443, "link": 0, "node_mask": 22, "pod_range": "10.244.0.0/22"}"#;
        let facts: NodeFacts = serde_json::from_str(old).expect("facts");
        assert_eq!((facts.ranges.clone(), facts.ranges()), (None, Ranges::default()));
        assert_eq!(facts.node_masks(), NodeMasks { v4: 22, v6: 64 });
        let written = serde_json::to_string(&facts).expect("JSON");
        assert!(!written.contains("ranges") && !written.contains("ipv6"), "{written}");
        let new = NodeFacts { ranges: Some(Ranges::default()), ..facts };
        let again: NodeFacts = serde_json::from_str(&serde_json::to_string(&new).expect("JSON")).expect("facts");
        assert_eq!(again.ranges, new.ranges);
    }

    #[test]
    fn isolated_nodes_have_folders_of_their_own() {
        let own = Paths::new(Path::new("/d"), None);
        let other = Paths::new(Path::new("/d"), Some("a"));
        assert_eq!(own.store(), Path::new("/d/store"));
        assert_eq!(other.store(), Path::new("/d/isolated/a/store"));
        assert_ne!(own.cgroup_parent(), other.cgroup_parent());
        assert_eq!(own.container_logs(), Path::new("/var/log"));
    }
}
