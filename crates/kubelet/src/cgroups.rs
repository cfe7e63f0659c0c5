//! The cgroups above those of containers: one for all Pods, one for each class of service, one for each Pod. What their files say
//! is decided purely; a thin part makes folders and writes files. Containers' own cgroups are the runtime's.
//! See <https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/>.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use skiff_base::Quantity;
use skiff_cri::LinuxContainerResources;

use crate::config::NodeFacts;
use crate::config::resources::{self, amount, total};
use crate::pod::spec::{qos_class, spec};

/// The controllers that are of use here.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "hugetlb"];
/// The least and the most shares.
const SHARES: (i64, i64) = (2, 262_144);

/// How the machine's cgroups are laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One hierarchy for all, with its root.
    V2(PathBuf),
    /// Hierarchies by controller.
    V1(BTreeMap<String, PathBuf>),
}

/// The limits of a cgroup; what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative processor time.
    pub cpu_shares: Option<i64>,
    /// Quota (negative for none) and period in microseconds.
    pub cpu_quota: Option<(i64, i64)>,
    /// Bytes; negative for no limit.
    pub memory: Option<i64>,
    /// Bytes that the kernel does not take back (v2).
    pub memory_min: Option<i64>,
    /// Bytes that it takes back last (v2).
    pub memory_low: Option<i64>,
    /// Processes; negative for no limit.
    pub pids: Option<i64>,
    /// Bytes by page size, as the kernel names it (`2MB`).
    pub huge: BTreeMap<String, u64>,
}

/// One file of a cgroup.
type File = (&'static str, String, String);

impl Layout {
    /// The layout that a process's `/proc/self/mountinfo` tells of.
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut v1 = BTreeMap::new();
        for line in mountinfo.lines() {
            let Some((mount, system)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let system: Vec<&str> = system.split(' ').collect();
            match system.as_slice() {
                ["cgroup2", ..] if point == "/sys/fs/cgroup" => return Some(Self::V2(point.into())),
                ["cgroup", _, options] => {
                    for controller in options.split(',').filter(|option| CONTROLLERS.contains(option)) {
                        v1.entry(controller.to_owned()).or_insert_with(|| PathBuf::from(point));
                    }
                }
                _ => {}
            }
        }
        (!v1.is_empty()).then_some(Self::V1(v1))
    }

    /// The layout of this machine, if it has any.
    pub fn detect() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn folders(&self, cgroup: &str) -> Vec<PathBuf> {
        let inside = |root: &PathBuf| root.join(cgroup.trim_start_matches('/'));
        match self {
            Self::V2(root) => vec![inside(root)],
            Self::V1(roots) => {
                let mut folders: Vec<_> = roots.values().map(inside).collect();
                folders.sort();
                folders.dedup();
                folders
            }
        }
    }

    fn folder(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let root = match self {
            Self::V2(root) => root,
            Self::V1(roots) => roots.get(controller)?,
        };
        Some(root.join(cgroup.trim_start_matches('/')))
    }

    /// Makes a cgroup, with what is missing above it, and sets its limits.
    ///
    /// # Errors
    /// A folder cannot be made; or a limit cannot be set, then the others are set all the same.
    pub fn apply(&self, cgroup: &str, limits: &Limits) -> io::Result<()> {
        match self {
            Self::V2(root) => make_unified(root, cgroup)?,
            Self::V1(_) => {
                for folder in self.folders(cgroup) {
                    std::fs::create_dir_all(&folder).map_err(|error| named(error, "make", &folder))?;
                }
            }
        }
        let mut failed = None;
        for (controller, file, value) in files(matches!(self, Self::V2(_)), limits) {
            let Some(path) = self.folder(controller, cgroup).map(|folder| folder.join(file)) else { continue };
            if let Err(error) = std::fs::write(&path, &value)
                && error.kind() != io::ErrorKind::NotFound
            {
                failed.get_or_insert(named(error, &format!("write {value:?} to"), &path));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The names of the cgroups directly below one.
    pub fn below(&self, cgroup: &str) -> BTreeSet<String> {
        let entries = self.folders(cgroup).into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|folder| folder.file_name().into_string().ok()).collect()
    }

    /// Removes a cgroup of which the runtime has nothing any more, with what is left below it: a Pod's, or one in a Pod's. A
    /// runtime that was killed may have lost a process that it had begun: `end` is told to end those.
    pub fn remove(&self, cgroup: &str, end: &dyn Fn(i32)) {
        for folder in self.folders(cgroup) {
            remove_below(&folder, end);
        }
    }

    /// Memory that a cgroup uses without idle file pages, in bytes.
    pub fn working_set(&self, cgroup: &str) -> Option<i64> {
        let folder = self.folder("memory", cgroup)?;
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let (usage, idle) = match self {
            Self::V2(_) => (read("memory.current")?, "inactive_file "),
            Self::V1(_) => (read("memory.usage_in_bytes")?, "total_inactive_file "),
        };
        let stat = read("memory.stat").unwrap_or_default();
        let idle = stat.lines().find_map(|line| line.strip_prefix(idle)?.trim().parse::<i64>().ok()).unwrap_or(0);
        Some((usage.trim().parse::<i64>().ok()? - idle).max(0))
    }
}

/// How often it is looked whether the processes of a cgroup have ended.
const END_LOOKS: usize = 20;
const END_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

fn named(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

fn make_unified(root: &Path, cgroup: &str) -> io::Result<()> {
    let mut folder = root.to_path_buf();
    for part in cgroup.split('/').filter(|part| !part.is_empty()) {
        let available = std::fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
        for controller in CONTROLLERS.iter().chain(&["cpuset"]) {
            // What cannot be passed on shows when a limit is missing; the Pods run all the same.
            if available.split_whitespace().any(|name| name == *controller)
                && let Err(error) = std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
            {
                tracing::debug!(folder = %folder.display(), controller, %error, "controller is not passed on");
            }
        }
        folder.push(part);
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(error, "make", &folder)),
            _ => {}
        }
    }
    Ok(())
}

fn remove_below(folder: &Path, end: &dyn Fn(i32)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path(), end);
        }
    }
    for _ in 0..END_LOOKS {
        let members = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let pids: Vec<i32> = members.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect();
        if pids.is_empty() {
            break;
        }
        tracing::info!(folder = %folder.display(), ?pids, "ending what the runtime has lost");
        pids.into_iter().for_each(end);
        std::thread::sleep(END_PAUSE);
    }
    if let Err(error) = std::fs::remove_dir(folder) {
        tracing::trace!(folder = %folder.display(), %error, "a cgroup stays");
    }
}

/// The files that say what the limits are.
pub fn files(v2: bool, limits: &Limits) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    let mut set = |controller, file: &str, value: String| files.push((controller, file.to_owned(), value));
    if let Some(shares) = limits.cpu_shares {
        let shares = shares.clamp(SHARES.0, SHARES.1);
        if v2 {
            set("cpu", "cpu.weight", weight(shares).to_string())
        } else {
            set("cpu", "cpu.shares", shares.to_string())
        }
    }
    if let Some((quota, period)) = limits.cpu_quota {
        if v2 {
            let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
            set("cpu", "cpu.max", format!("{quota} {period}"));
        } else {
            set("cpu", "cpu.cfs_period_us", period.to_string());
            set("cpu", "cpu.cfs_quota_us", if quota > 0 { quota } else { -1 }.to_string());
        }
    }
    let most = |number: i64| if number >= 0 { number.to_string() } else { "max".to_owned() };
    if let Some(memory) = limits.memory {
        if v2 {
            set("memory", "memory.max", most(memory));
        } else {
            set("memory", "memory.limit_in_bytes", memory.max(-1).to_string());
        }
    }
    for (file, value) in [("memory.min", limits.memory_min), ("memory.low", limits.memory_low)] {
        if let Some(value) = value.filter(|_| v2) {
            set("memory", file, value.to_string());
        }
    }
    if let Some(pids) = limits.pids {
        set("pids", "pids.max", most(pids));
    }
    for (size, bytes) in &limits.huge {
        let file = if v2 { format!("hugetlb.{size}.max") } else { format!("hugetlb.{size}.limit_in_bytes") };
        set("hugetlb", &file, bytes.to_string());
    }
    files
}

/// The weight of v2 for shares of v1: from 2..262144 to 1..10000, in a line, as upstream's kubelet computes it.
fn weight(shares: i64) -> i64 {
    1 + (shares - SHARES.0) * 9999 / (SHARES.1 - SHARES.0)
}

/// Where the cgroup of a class of service is.
pub fn class(root: &str, class: &str, systemd: bool) -> String {
    match (class, systemd) {
        ("Burstable", false) => format!("{root}/kubepods/burstable"),
        ("BestEffort", false) => format!("{root}/kubepods/besteffort"),
        ("Burstable", true) => format!("{root}/kubepods.slice/kubepods-burstable.slice"),
        ("BestEffort", true) => format!("{root}/kubepods.slice/kubepods-besteffort.slice"),
        (_, false) => format!("{root}/kubepods"),
        (_, true) => format!("{root}/kubepods.slice"),
    }
}

/// The limits of one Pod.
pub fn pod(pod: &Pod, facts: &NodeFacts) -> Limits {
    let linux: LinuxContainerResources = resources::pod(pod);
    // Containers that have processors for themselves need no quota.
    let alone = facts.static_cpus && qos_class(pod) == "Guaranteed";
    let quota = facts.cpu_quota && linux.cpu_quota > 0 && !alone;
    let request = total(pod, false, "memory").map_or(0, |memory| memory.value());
    let class = qos_class(pod);
    let mut huge = BTreeMap::new();
    for (name, size) in huge_sizes(facts) {
        let wanted = spec(pod).resources.as_ref().and_then(|whole| amount(Some(whole), true, &name));
        let wanted = wanted.or_else(|| total(pod, true, &name).or_else(|| total(pod, false, &name)));
        huge.insert(size, wanted.map_or(0, |bytes| u64::try_from(bytes.value()).unwrap_or(0)));
    }
    Limits {
        cpu_shares: Some(linux.cpu_shares),
        cpu_quota: Some(if quota { (linux.cpu_quota, linux.cpu_period) } else { (-1, 100_000) }),
        memory: Some(if linux.memory_limit_in_bytes > 0 { linux.memory_limit_in_bytes } else { -1 }),
        memory_min: (facts.memory_qos && class == "Guaranteed").then_some(request),
        memory_low: (facts.memory_qos && class == "Burstable").then_some(request),
        pids: (facts.pod_pids > 0).then_some(facts.pod_pids),
        huge,
    }
}

/// The sizes of huge pages of the node: the resource's name and the kernel's name of the size.
pub fn huge_sizes(facts: &NodeFacts) -> Vec<(String, String)> {
    let resources = facts.allocatable.keys().filter_map(|name| Some((name, name.strip_prefix("hugepages-")?)));
    let sizes = resources.filter_map(|(name, size)| Some((name.clone(), kernel_size(size)?)));
    sizes.collect()
}

/// `2Mi` as the kernel names it, `2MB`.
pub fn kernel_size(size: &str) -> Option<String> {
    let bytes = size.parse::<Quantity>().ok()?.value();
    Some(match bytes {
        bytes if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        bytes => format!("{}KB", bytes >> 10),
    })
}

/// The limits of a class: its share grows with what its Pods ask for; the one for best effort gets what is left.
pub fn of_class<'a>(class: &str, pods: impl Iterator<Item = &'a Pod>, memory_qos: bool) -> Limits {
    let pods: Vec<&Pod> = pods.filter(|pod| qos_class(pod) == class).collect();
    let sum = |name: &str| pods.iter().filter_map(|pod| total(pod, false, name)).fold(Quantity::ZERO, Quantity::plus);
    let shares = if class == "BestEffort" { SHARES.0 } else { sum("cpu").milli_value() * 1024 / 1000 };
    Limits {
        cpu_shares: Some(shares),
        memory_low: (memory_qos && class == "Burstable").then(|| sum("memory").value()),
        ..Limits::default()
    }
}

/// The limits of all Pods together: what the node has but for what is reserved. Eviction begins below that.
pub fn of_node(capacity: &BTreeMap<String, Quantity>, reserved: impl Fn(&str) -> Quantity, enforce: bool) -> Limits {
    let left = |name: &str| capacity.get(name).map(|amount| amount.minus(reserved(name)));
    Limits {
        cpu_shares: left("cpu").map(|cpu| cpu.milli_value() * 1024 / 1000),
        memory: if enforce { left("memory").map(|memory| memory.value().max(0)) } else { Some(-1) },
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(v2: bool, limits: &Limits, expected: Expect) {
        let lines: Vec<_> = files(v2, limits).iter().map(|(_, file, value)| format!("{file} {value}\n")).collect();
        expected.assert_eq(&lines.concat());
    }

    fn facts() -> NodeFacts {
        let allocatable = [("hugepages-2Mi".to_owned(), Quantity::ZERO)].into();
        NodeFacts { allocatable, cpu_quota: true, memory_qos: true, pod_pids: 100, ..NodeFacts::default() }
    }

    fn burstable() -> Pod {
        serde_saphyr::from_str(
            "{spec: {containers: [{name: a, resources: {requests: {cpu: 500m, memory: 1Mi}, limits: {cpu: '1', memory: 2Mi}}}]}}",
        )
        .expect("a valid Pod")
    }

    #[test]
    fn what_the_runtime_has_lost_is_ended_with_its_pod() {
        let folder = std::env::temp_dir().join(format!("skiff-cgroups-{}", std::process::id()));
        let lost = folder.join("container");
        std::fs::create_dir_all(&lost).expect("a writable folder");
        std::fs::write(lost.join("cgroup.procs"), "17\n18\n").expect("written");
        let ended = std::cell::RefCell::new(Vec::new());
        let end = |pid| {
            ended.borrow_mut().push(pid);
            if ended.borrow().len() == 2 {
                std::fs::remove_file(lost.join("cgroup.procs")).expect("it goes");
            }
        };
        remove_below(&folder, &end);
        assert_eq!((ended.take(), folder.exists()), (vec![17, 18], false));
    }

    #[test]
    fn a_pods_limits_become_files_of_either_version() {
        let limits = pod(&burstable(), &facts());
        check(
            false,
            &limits,
            expect![[r#"
            cpu.shares 512
            cpu.cfs_period_us 100000
            cpu.cfs_quota_us 100000
            memory.limit_in_bytes 2097152
            pids.max 100
            hugetlb.2MB.limit_in_bytes 0
        "#]],
        );
        check(
            true,
            &limits,
            expect![[r#"
            cpu.weight 20
            cpu.max 100000 100000
            memory.max 2097152
            memory.low 1048576
            pids.max 100
            hugetlb.2MB.max 0
        "#]],
        );
    }

    #[test]
    fn a_class_weighs_as_much_as_its_pods_ask_for() {
        let pods = [burstable(), burstable()];
        let shares = |class| of_class(class, pods.iter(), false).cpu_shares;
        assert_eq!((shares("Burstable"), shares("BestEffort")), (Some(1024), Some(2)));
        assert_eq!(class("/a", "Burstable", false), "/a/kubepods/burstable");
    }

    #[test]
    fn all_pods_get_what_is_not_reserved() {
        let capacity = [("memory".to_owned(), "1Gi".parse().expect("valid"))].into();
        let reserved = |_: &str| "1Mi".parse().expect("valid");
        assert_eq!(of_node(&capacity, reserved, true).memory, Some((1 << 30) - (1 << 20)));
        assert_eq!(of_node(&capacity, reserved, false).memory, Some(-1));
    }

    #[test]
    fn layouts_are_read_from_the_mounts() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let Some(Layout::V1(roots)) = Layout::parse(v1) else { panic!("the older hierarchies were written") };
        assert_eq!(roots.get("cpu"), Some(&PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")));
        let v2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Layout::parse(v2), Some(Layout::V2("/sys/fs/cgroup".into())));
    }

    #[test]
    fn sizes_have_the_kernels_names() {
        assert_eq!(kernel_size("2Mi").as_deref(), Some("2MB"));
        assert_eq!(kernel_size("1Gi").as_deref(), Some("1GB"));
        assert_eq!(kernel_size("64Ki").as_deref(), Some("64KB"));
    }
}
