//! The part of the OCI runtime specification that containers here need, as plain data.
//! It serialises to the field names of that specification, so that another OCI runtime can read it.

use serde::{Deserialize, Serialize};

/// A container as the OCI runtime specification describes it (`config.json`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Version of the specification.
    pub oci_version: String,
    /// What runs.
    pub process: Process,
    /// Its root file system.
    pub root: Root,
    /// Host name; empty when the container joins a namespace that has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// What is mounted, in order.
    pub mounts: Vec<Mount>,
    /// What is particular to Linux.
    pub linux: Linux,
}

/// The root file system.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Root {
    /// Where it is on the host.
    pub path: String,
    /// Whether the container may not write to it.
    pub readonly: bool,
}

/// A process, be it the first of a container or a later one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// As whom it runs.
    pub user: User,
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Where it starts.
    pub cwd: String,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Its limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Whether it can never gain privileges.
    pub no_new_privileges: bool,
    /// How eagerly the kernel kills it when memory runs out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// Whether the runtime's default seccomp profile holds. Not a field of the OCI specification, which would list
    /// every call by name.
    pub default_seccomp: bool,
    /// The filter of a profile of the administrator, made from its JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp_filter: Option<crate::seccomp::Filter>,
    /// The ids of the pod's user namespace, if it has one. Not a field of the OCI specification, which has it once for
    /// all processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_namespace: Option<IdMaps>,
    /// The AppArmor profile, if any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// The SELinux label, if any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
}

/// Numbers of user and groups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Mask of new files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Further groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// Capability sets by name (`CAP_CHOWN`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// What may ever be gained.
    pub bounding: Vec<String>,
    /// What is in force.
    pub effective: Vec<String>,
    /// What survives an exec of a file that asks for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// What can be put in force.
    pub permitted: Vec<String>,
    /// What survives an exec of any file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// A limit of a process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// Which (`RLIMIT_NOFILE`).
    #[serde(rename = "type")]
    pub kind: String,
    /// In force.
    pub soft: u64,
    /// At most.
    pub hard: u64,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Where in the container.
    pub destination: String,
    /// File system, or `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What on the host.
    pub source: String,
    /// Options as mount(8) writes them.
    pub options: Vec<String>,
    /// The layers of an image that is mounted as a volume, the lowest first. Not a field of the OCI specification.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// The part of the image that is mounted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sub_path: String,
    /// How user ids in it are seen in the container's user namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdRange>,
    /// The same for groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdRange>,
}

/// A range of user or group ids inside a user namespace and outside of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdRange {
    /// Its first id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// Its first id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// The ids of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// User and group outside that an id pair inside stands for.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |ranges: &[IdRange], id: u32| {
            let range = ranges.iter().find(|range| id >= range.container_id && id - range.container_id < range.size)?;
            Some(range.host_id + (id - range.container_id))
        };
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }
}

/// What is particular to Linux.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Namespaces that the container has of its own or joins.
    pub namespaces: Vec<Namespace>,
    /// Device nodes that it finds.
    pub devices: Vec<Device>,
    /// Its cgroup.
    pub cgroups_path: String,
    /// Its limits.
    pub resources: Resources,
    /// How mounts propagate from and to the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_propagation: String,
    /// The SELinux label of its files, if any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
    /// Paths that it cannot read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
    /// Paths that it cannot write.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<String>,
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Which (`pid`, `network`, `ipc`, `uts`, `mount`, `cgroup`).
    #[serde(rename = "type")]
    pub kind: String,
    /// The one to join; a new one when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Where in the container.
    pub path: String,
    /// `c`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub file_mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Limits, by controller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Which devices may be used; later rules win.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceRule>,
    /// Memory.
    pub memory: Memory,
    /// Processor time.
    pub cpu: Cpu,
    /// Number of processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
    /// Huge pages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Files of cgroup v2, written as they are.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub unified: std::collections::BTreeMap<String, String>,
}

/// A rule of the device controller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRule {
    /// Allowed or denied.
    pub allow: bool,
    /// `a`, `c` or `b`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number; any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// Minor number; any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Some of `rwm`.
    pub access: String,
}

/// Limits of memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Memory and swap together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<i64>,
}

/// Limits of processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    /// Relative weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// Microseconds per period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<i64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
    /// Which processors.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpus: String,
    /// Which memory nodes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mems: String,
}

/// The number of processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// At most.
    pub limit: i64,
}

/// A limit of huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HugepageLimit {
    /// Such as `2MB`.
    pub page_size: String,
    /// In bytes.
    pub limit: u64,
}

/// What the shim needs to start a container: the specification and the layers of its root.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bundle {
    /// The container.
    pub spec: Spec,
    /// The layers of its root file system.
    pub rootfs: Rootfs,
    /// Directories of the v1 hierarchies that belong to the container, as controllers and path; empty on v2.
    pub cgroup_mounts: Vec<(String, String)>,
}

/// An overlay: read-only layers and what the container writes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rootfs {
    /// Layer folders, the lowest first.
    pub layers: Vec<String>,
    /// Where writes go.
    pub upper: String,
    /// The overlay's own work folder, beside `upper`.
    pub work: String,
}
