//! Cgroups of containers, on the unified hierarchy (v2) and on the older ones (v1): which files say what,
//! decided purely, and a thin part that makes folders and writes files.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::oci::{DeviceRule, Resources};
use crate::{devices, sys};

/// Controllers that a pod's folder passes on to its containers on v2.
const V2_CONTROLLERS: &[&str] = &["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];
/// Controllers of v1 that containers are put under.
const V1_CONTROLLERS: &[&str] = &[
    "cpuset",
    "cpu",
    "cpuacct",
    "blkio",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "perf_event",
    "net_prio",
    "hugetlb",
    "pids",
    "rdma",
];
/// The least and the most that `cpu.shares` of v1 takes.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// The period that a quota refers to when none is given, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// How often the removal of a folder is tried again while its last process is on its way out.
const REMOVE_ROUNDS: u32 = 50;

/// How the machine's cgroups are laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One hierarchy for all.
    V2 {
        /// Where it is mounted.
        root: PathBuf,
    },
    /// One for each controller or group of them.
    V1 {
        /// Those with controllers.
        hierarchies: Vec<Hierarchy>,
        /// Those without, by which the system's manager knows its services.
        named: Vec<PathBuf>,
    },
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, joined by commas.
    pub controllers: String,
    /// Where it is mounted.
    pub root: PathBuf,
}

/// A value for a file of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The controller that the file belongs to.
    pub controller: &'static str,
    /// The file.
    pub file: String,
    /// What it shall say.
    pub value: String,
    /// Whether a machine without this file will do.
    pub optional: bool,
}

/// The cgroup that a process is made in, in the hierarchies that have no controllers of v1.
#[derive(Debug, Default)]
pub struct Birthplace {
    /// Its folder on v2.
    pub unified: Option<OwnedFd>,
    /// Its `tasks` files on v1, which the process writes itself into.
    pub join_files: Vec<CString>,
}

/// What a cgroup uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since its making.
    pub cpu_nanoseconds: u64,
    /// All memory.
    pub memory_bytes: u64,
    /// Memory without file pages that are idle.
    pub working_set_bytes: u64,
    /// Anonymous memory.
    pub rss_bytes: u64,
    /// Its limit; none when there is none.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read the disk.
    pub major_page_faults: u64,
    /// Swap.
    pub swap_bytes: u64,
    /// Processes.
    pub processes: u64,
}

impl Layout {
    /// The layout that a process's `/proc/self/mountinfo` tells of.
    pub fn parse(mountinfo: &str) -> Option<Self> {
        let mut hierarchies = Vec::new();
        let mut named = Vec::new();
        for line in mountinfo.lines() {
            let Some((mount, system)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let system: Vec<&str> = system.split(' ').collect();
            match system.as_slice() {
                ["cgroup2", ..] if point == "/sys/fs/cgroup" => return Some(Self::V2 { root: point.into() }),
                ["cgroup2", ..] => named.push(PathBuf::from(point)),
                ["cgroup", _, options] => {
                    let controllers: Vec<&str> =
                        options.split(',').filter(|option| V1_CONTROLLERS.contains(option)).collect();
                    let known = |hierarchy: &Hierarchy| hierarchy.controllers == controllers.join(",");
                    if controllers.is_empty() {
                        named.push(point.into());
                    } else if !hierarchies.iter().any(known) {
                        hierarchies.push(Hierarchy { controllers: controllers.join(","), root: point.into() });
                    }
                }
                _ => {}
            }
        }
        (!hierarchies.is_empty()).then_some(Self::V1 { hierarchies, named })
    }

    /// The layout of this machine.
    pub fn detect() -> io::Result<Self> {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
        Self::parse(&mountinfo)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted"))
    }

    /// Whether this is the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// The folders of a cgroup.
    pub fn folders(&self, cgroup: &str) -> Vec<PathBuf> {
        let inside = |root: &Path| root.join(cgroup.trim_start_matches('/'));
        match self {
            Self::V2 { root } => vec![inside(root)],
            Self::V1 { hierarchies, .. } => hierarchies.iter().map(|hierarchy| inside(&hierarchy.root)).collect(),
        }
    }

    fn folder_of(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let root = match self {
            Self::V2 { root } => root,
            Self::V1 { hierarchies, .. } => {
                &hierarchies
                    .iter()
                    .find(|hierarchy| hierarchy.controllers.split(',').any(|name| name == controller))?
                    .root
            }
        };
        Some(root.join(cgroup.trim_start_matches('/')))
    }

    /// The files that a process of a single thread writes `0` into to join a cgroup. On v1 a thread that moves itself
    /// by `tasks` waits for nobody; whoever moves by `cgroup.procs` waits until all processors were in the kernel once,
    /// which takes some ten milliseconds.
    pub fn join_files(&self, cgroup: &str) -> Vec<String> {
        let file = if self.is_v2() { "cgroup.procs" } else { "tasks" };
        self.folders(cgroup).iter().map(|folder| folder.join(file).display().to_string()).collect()
    }

    /// The folder that a process can be made in, on v2.
    pub fn birth_folder(&self, cgroup: &str) -> Option<String> {
        if self.is_v2() { self.folders(cgroup).first().map(|folder| folder.display().to_string()) } else { None }
    }

    /// The file that counts kills for want of memory.
    pub fn oom_file(&self, cgroup: &str) -> Option<String> {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        self.folder_of("memory", cgroup).map(|folder| folder.join(file).display().to_string())
    }

    /// The v1 folders to show in a container, by controllers. On v2 its namespace does that.
    pub fn mounts(&self, cgroup: &str) -> Vec<(String, String)> {
        match self {
            Self::V2 { .. } => Vec::new(),
            Self::V1 { hierarchies, .. } => hierarchies
                .iter()
                .map(|hierarchy| {
                    let folder = hierarchy.root.join(cgroup.trim_start_matches('/'));
                    (hierarchy.controllers.clone(), folder.display().to_string())
                })
                .collect(),
        }
    }

    /// Makes a cgroup, with what is missing above it, and sets its limits.
    pub fn create(&self, cgroup: &str, resources: &Resources) -> io::Result<()> {
        match self {
            Self::V2 { root } => {
                make_unified(root, cgroup)?;
                self.guard_devices(cgroup, &resources.devices)?;
            }
            Self::V1 { hierarchies, .. } => {
                for hierarchy in hierarchies {
                    make_v1(hierarchy, cgroup)?;
                }
            }
        }
        self.apply(cgroup, resources)
    }

    fn guard_devices(&self, cgroup: &str, rules: &[DeviceRule]) -> io::Result<()> {
        let Some(folder) = self.folders(cgroup).into_iter().next() else { return Ok(()) };
        let directory = std::fs::File::open(&folder)?;
        sys::attach_device_program(directory.as_fd(), &devices::program(rules))
            .map_err(|error| named(error, &format!("guard devices of {}", folder.display())))
    }

    /// Sets the limits of a cgroup.
    pub fn apply(&self, cgroup: &str, resources: &Resources) -> io::Result<()> {
        let write = |setting: &Setting| {
            let Some(folder) = self.folder_of(setting.controller, cgroup) else { return Ok(()) };
            let path = folder.join(&setting.file);
            match std::fs::write(&path, &setting.value) {
                Err(error) if !setting.optional => {
                    Err(named(error, &format!("write {:?} to {}", setting.value, path.display())))
                }
                _ => Ok(()),
            }
        };
        // On v1 the limit of memory may never be above that of memory and swap: which of them goes first depends on whether
        // they grow. What fails is tried once more when the others are set.
        let failed: Vec<_> = settings(self.is_v2(), resources).into_iter().filter(|one| write(one).is_err()).collect();
        failed.iter().try_for_each(write)
    }

    /// Makes the cgroup where shims live, outside of skiff's own, and says how to be born there.
    pub fn create_for_shims(&self, cgroup: &str) -> io::Result<Birthplace> {
        let roots = match self {
            Self::V2 { root } => std::slice::from_ref(root),
            Self::V1 { named, .. } => named,
        };
        let mut place = Birthplace::default();
        for root in roots {
            let folder = root.join(cgroup.trim_start_matches('/'));
            let failed = |error| named(error, &format!("make {}", folder.display()));
            std::fs::create_dir_all(&folder).map_err(failed)?;
            if folder.join("cgroup.controllers").exists() {
                place.unified = Some(std::fs::File::open(&folder).map_err(failed)?.into());
            } else {
                place.join_files.push(CString::new(folder.join("tasks").into_os_string().into_encoded_bytes())?);
            }
        }
        Ok(place)
    }

    /// The processes in a cgroup.
    pub fn processes(&self, cgroup: &str) -> Vec<i32> {
        let members = |folder: PathBuf| std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let text: Vec<String> = self.folders(cgroup).into_iter().map(members).collect();
        let mut pids: Vec<i32> =
            text.iter().flat_map(|text| text.lines()).filter_map(|line| line.parse().ok()).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Ends whatever is left in a cgroup, for containers whose shim is gone.
    pub fn kill(&self, cgroup: &str) {
        for pid in self.processes(cgroup) {
            // The descriptor makes sure that the signal meets the process that was in the list, if it still lives.
            let process = rustix::process::Pid::from_raw(pid)
                .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
            if let Some(process) = process
                && let Err(error) = rustix::process::pidfd_send_signal(process, rustix::process::Signal::KILL)
            {
                tracing::debug!(pid, %error, "could not end a left-over process");
            }
        }
    }

    /// Removes a cgroup. One that is gone already is fine.
    pub fn remove(&self, cgroup: &str) -> io::Result<()> {
        for folder in self.folders(cgroup) {
            remove_folder(&folder)?;
        }
        Ok(())
    }

    /// Removes a cgroup where nothing is left in it; leaves it otherwise.
    pub fn remove_if_empty(&self, cgroup: &str) {
        for folder in self.folders(cgroup) {
            if let Err(error) = std::fs::remove_dir(&folder) {
                tracing::trace!(folder = %folder.display(), %error, "cgroup stays");
            }
        }
    }

    /// The folders of a cgroup in every hierarchy, those without controllers too.
    fn all_folders(&self, cgroup: &str) -> Vec<PathBuf> {
        let mut folders = self.folders(cgroup);
        if let Self::V1 { named, .. } = self {
            folders.extend(named.iter().map(|root| root.join(cgroup.trim_start_matches('/'))));
        }
        folders
    }

    /// The processes in a cgroup and in all cgroups below it.
    pub fn processes_below(&self, cgroup: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        let mut folders = self.all_folders(cgroup);
        while let Some(folder) = folders.pop() {
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            folders.extend(child_folders(&folder));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes a cgroup and all below it, in every hierarchy.
    pub fn remove_below(&self, cgroup: &str) -> io::Result<()> {
        self.all_folders(cgroup).iter().try_for_each(|folder| remove_folder(folder))
    }

    /// Removes those of a cgroup and the ones below it that hold no process, in every hierarchy.
    pub fn remove_empty_below(&self, cgroup: &str) {
        for folder in self.all_folders(cgroup) {
            remove_children(&folder);
            if let Err(error) = std::fs::remove_dir(&folder) {
                tracing::trace!(folder = %folder.display(), %error, "cgroup stays");
            }
        }
    }

    /// What a cgroup uses; files that are missing count as zero.
    pub fn usage(&self, cgroup: &str) -> Usage {
        let read = |controller: &str, file: &str| {
            let folder = self.folder_of(controller, cgroup)?;
            std::fs::read_to_string(folder.join(file)).ok()
        };
        if self.is_v2() { usage_v2(&read) } else { usage_v1(&read) }
    }
}

fn named(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn make_unified(root: &Path, cgroup: &str) -> io::Result<()> {
    let mut folder = root.to_path_buf();
    for part in cgroup.split('/').filter(|part| !part.is_empty()) {
        pass_on_controllers(&folder);
        folder.push(part);
        match std::fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(named(error, &format!("make cgroup {}", folder.display()))),
        }
    }
    Ok(())
}

/// What cannot be passed on (not there, or held by processes of this level) shows when a limit is written.
fn pass_on_controllers(folder: &Path) {
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let (available, passed) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in V2_CONTROLLERS {
        let has = |list: &str| list.split_whitespace().any(|name| name == *controller);
        if has(&available)
            && !has(&passed)
            && let Err(error) = std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"))
        {
            tracing::debug!(folder = %folder.display(), controller, %error, "controller is not passed on");
        }
    }
}

fn make_v1(hierarchy: &Hierarchy, cgroup: &str) -> io::Result<()> {
    let folder = hierarchy.root.join(cgroup.trim_matches('/'));
    let has_cpuset = hierarchy.controllers.split(',').any(|name| name == "cpuset");
    make_below(&hierarchy.root, &folder, has_cpuset)
}

/// Makes a cgroup; those above it mostly are there, so they are looked at only where they are not.
fn make_below(root: &Path, folder: &Path, has_cpuset: bool) -> io::Result<()> {
    let failed = |error| named(error, &format!("make cgroup {}", folder.display()));
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder != root => {
            make_below(root, folder.parent().unwrap_or(root), has_cpuset)?;
            std::fs::create_dir(folder).or_else(unless_there).map_err(failed)?;
        }
        outcome => outcome.or_else(unless_there).map_err(failed)?,
    }
    if has_cpuset { inherit_cpuset(root, folder) } else { Ok(()) }
}

fn unless_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// A new cpuset of v1 has no processors and takes no process until it is given some: those of the one above it.
fn inherit_cpuset(root: &Path, folder: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !std::fs::read_to_string(folder.join(file))?.trim().is_empty() {
            continue;
        }
        let Some(parent) = folder.parent().filter(|_| folder != root) else { continue };
        let mut inherited = std::fs::read_to_string(parent.join(file))?;
        if inherited.trim().is_empty() {
            // Whoever made it was ended before it came to this.
            inherit_cpuset(root, parent)?;
            inherited = std::fs::read_to_string(parent.join(file))?;
        }
        std::fs::write(folder.join(file), inherited)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    let mut round = 0;
    loop {
        match std::fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The last process may still be on its way out, or have left folders of its own.
            Err(_) if round < REMOVE_ROUNDS => {
                remove_children(folder);
                std::thread::sleep(std::time::Duration::from_millis(u64::from(round)));
                round += 1;
            }
            Err(error) => return Err(named(error, &format!("remove cgroup {}", folder.display()))),
        }
    }
}

fn remove_children(folder: &Path) {
    for child in child_folders(folder) {
        remove_children(&child);
        if let Err(error) = std::fs::remove_dir(&child) {
            tracing::trace!(folder = %child.display(), %error, "cgroup stays for now");
        }
    }
}

fn child_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// The files that say what the resources ask for.
pub fn settings(v2: bool, resources: &Resources) -> Vec<Setting> {
    let mut list = Vec::new();
    let mut set = |controller: &'static str, file: &str, value: String, optional: bool| {
        list.push(Setting { controller, file: file.to_owned(), value, optional });
    };
    let cpu = &resources.cpu;
    if let Some(shares) = cpu.shares {
        let shares = shares.clamp(*SHARES.start(), *SHARES.end());
        if v2 {
            set("cpu", "cpu.weight", weight(shares).to_string(), false)
        } else {
            set("cpu", "cpu.shares", shares.to_string(), false)
        }
    }
    cpu_limits(v2, cpu.quota, cpu.period, &mut set);
    for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if !value.is_empty() {
            set("cpuset", file, value.clone(), false);
        }
    }
    memory_limits(v2, resources, &mut set);
    if let Some(pids) = &resources.pids {
        set("pids", "pids.max", if pids.limit > 0 { pids.limit.to_string() } else { "max".to_owned() }, false);
    }
    for huge in &resources.hugepage_limits {
        let file = if v2 {
            format!("hugetlb.{}.max", huge.page_size)
        } else {
            format!("hugetlb.{}.limit_in_bytes", huge.page_size)
        };
        // Kubernetes gives a zero for every size, also for those that the machine lacks.
        set("hugetlb", &file, huge.limit.to_string(), huge.limit == 0);
    }
    if v2 {
        for (file, value) in &resources.unified {
            set("unified", file, value.clone(), false);
        }
    } else {
        for rule in &resources.devices {
            set("devices", if rule.allow { "devices.allow" } else { "devices.deny" }, device_rule(rule), false);
        }
    }
    list
}

fn cpu_limits(
    v2: bool,
    quota: Option<i64>,
    period: Option<u64>,
    set: &mut impl FnMut(&'static str, &str, String, bool),
) {
    if v2 {
        if quota.is_some() || period.is_some() {
            let quota = quota.filter(|&quota| quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
            set("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD)), false);
        }
        return;
    }
    if let Some(period) = period {
        set("cpu", "cpu.cfs_period_us", period.to_string(), false);
    }
    if let Some(quota) = quota {
        set("cpu", "cpu.cfs_quota_us", quota.to_string(), false);
    }
}

fn memory_limits(v2: bool, resources: &Resources, set: &mut impl FnMut(&'static str, &str, String, bool)) {
    let (limit, swap) = (resources.memory.limit, resources.memory.swap);
    if !v2 {
        // First without swap, then with: the first may never be above the second.
        if let Some(limit) = limit {
            set("memory", "memory.limit_in_bytes", limit.to_string(), false);
        }
        if let Some(swap) = swap {
            set("memory", "memory.memsw.limit_in_bytes", swap.to_string(), true);
        }
        return;
    }
    if let Some(limit) = limit {
        set("memory", "memory.max", if limit < 0 { "max".to_owned() } else { limit.to_string() }, false);
    }
    if let (Some(limit), Some(swap)) = (limit, swap) {
        let only_swap = if swap < 0 { "max".to_owned() } else { (swap - limit).max(0).to_string() };
        set("memory", "memory.swap.max", only_swap, true);
    }
}

/// The weight of v2 for shares of v1, by the curve that OCI runtimes use since 2025: 1024 shares, one
/// processor, come out as the default weight of 100.
fn weight(shares: u64) -> u64 {
    if shares <= *SHARES.start() {
        return 1;
    }
    if shares >= *SHARES.end() {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

fn device_rule(rule: &DeviceRule) -> String {
    let number = |value: Option<i64>| value.map_or("*".to_owned(), |value| value.to_string());
    if rule.kind == "a" {
        return "a".to_owned();
    }
    format!("{} {}:{} {}", rule.kind, number(rule.major), number(rule.minor), rule.access)
}

fn value_of(text: &str, key: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    found.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn number(text: Option<String>) -> u64 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn usage_v2(read: &dyn Fn(&str, &str) -> Option<String>) -> Usage {
    let memory = read("memory", "memory.stat").unwrap_or_default();
    let total = number(read("memory", "memory.current"));
    Usage {
        cpu_nanoseconds: value_of(&read("cpu", "cpu.stat").unwrap_or_default(), "usage_usec") * 1000,
        memory_bytes: total,
        working_set_bytes: total.saturating_sub(value_of(&memory, "inactive_file")),
        rss_bytes: value_of(&memory, "anon"),
        memory_limit_bytes: read("memory", "memory.max").and_then(|text| text.trim().parse().ok()),
        page_faults: value_of(&memory, "pgfault"),
        major_page_faults: value_of(&memory, "pgmajfault"),
        swap_bytes: number(read("memory", "memory.swap.current")),
        processes: number(read("pids", "pids.current")),
    }
}

fn usage_v1(read: &dyn Fn(&str, &str) -> Option<String>) -> Usage {
    /// Where v1 says "no limit": the highest page-aligned number.
    const UNLIMITED: u64 = 1 << 62;
    let memory = read("memory", "memory.stat").unwrap_or_default();
    let total = number(read("memory", "memory.usage_in_bytes"));
    Usage {
        cpu_nanoseconds: number(read("cpuacct", "cpuacct.usage")),
        memory_bytes: total,
        working_set_bytes: total.saturating_sub(value_of(&memory, "total_inactive_file")),
        rss_bytes: value_of(&memory, "total_rss"),
        memory_limit_bytes: Some(number(read("memory", "memory.limit_in_bytes")))
            .filter(|&limit| limit > 0 && limit < UNLIMITED),
        page_faults: value_of(&memory, "total_pgfault"),
        major_page_faults: value_of(&memory, "total_pgmajfault"),
        swap_bytes: value_of(&memory, "total_swap"),
        processes: number(read("pids", "pids.current")),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::oci::{Cpu, HugepageLimit, Memory, Pids};

    const HYBRID: &str = "\
25 20 0:21 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:22 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
27 25 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn the_layout_is_read_from_the_mounts() {
        let v2 = Layout::parse("24 20 0:20 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
        let v2 = v2.expect("a layout");
        assert_eq!(v2.join_files("/pods/a"), ["/sys/fs/cgroup/pods/a/cgroup.procs"]);
        assert_eq!(v2.oom_file("/pods/a").as_deref(), Some("/sys/fs/cgroup/pods/a/memory.events"));
        assert_eq!(v2.mounts("/pods/a"), []);
        let v1 = Layout::parse(HYBRID).expect("a layout");
        assert_eq!(
            v1.join_files("/pods/a"),
            ["/sys/fs/cgroup/cpu,cpuacct/pods/a/tasks", "/sys/fs/cgroup/memory/pods/a/tasks"]
        );
        assert_eq!(v1.oom_file("/pods/a").as_deref(), Some("/sys/fs/cgroup/memory/pods/a/memory.oom_control"));
        assert_eq!(v1.mounts("/a")[0], ("cpu,cpuacct".to_owned(), "/sys/fs/cgroup/cpu,cpuacct/a".to_owned()));
        assert_eq!(Layout::parse("1 1 0:1 / / rw - ext4 /dev/sda rw\n"), None);
    }

    fn check(resources: &Resources, v1: Expect, v2: Expect) {
        let text = |unified| -> String {
            let list = settings(unified, resources);
            list.iter().map(|setting| format!("{} = {}\n", setting.file, setting.value)).collect()
        };
        v1.assert_eq(&text(false));
        v2.assert_eq(&text(true));
    }

    #[test]
    fn limits_become_values_of_files() {
        let resources = Resources {
            cpu: Cpu {
                shares: Some(512),
                quota: Some(50_000),
                period: Some(100_000),
                cpus: "0-1".into(),
                mems: String::new(),
            },
            memory: Memory { limit: Some(64 << 20), swap: Some(64 << 20) },
            pids: Some(Pids { limit: 100 }),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            unified: [("memory.high".to_owned(), "60000000".to_owned())].into(),
            devices: vec![DeviceRule {
                allow: true,
                kind: "c".into(),
                major: Some(1),
                minor: None,
                access: "rw".into(),
            }],
        };
        check(
            &resources,
            expect![[r#"
                cpu.shares = 512
                cpu.cfs_period_us = 100000
                cpu.cfs_quota_us = 50000
                cpuset.cpus = 0-1
                memory.limit_in_bytes = 67108864
                memory.memsw.limit_in_bytes = 67108864
                pids.max = 100
                hugetlb.2MB.limit_in_bytes = 0
                devices.allow = c 1:* rw
            "#]],
            expect![[r#"
                cpu.weight = 59
                cpu.max = 50000 100000
                cpuset.cpus = 0-1
                memory.max = 67108864
                memory.swap.max = 0
                pids.max = 100
                hugetlb.2MB.max = 0
                memory.high = 60000000
            "#]],
        );
        check(
            &Resources {
                cpu: Cpu { quota: Some(-1), ..Cpu::default() },
                memory: Memory { limit: Some(-1), swap: None },
                ..Resources::default()
            },
            expect![[r#"
                cpu.cfs_quota_us = -1
                memory.limit_in_bytes = -1
            "#]],
            expect![[r#"
                cpu.max = max 100000
                memory.max = max
            "#]],
        );
    }

    #[test]
    fn one_processor_of_shares_is_the_default_weight() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 100, 10_000]);
    }

    #[test]
    fn usage_is_read_on_both_versions() {
        let v2 = |_: &str, file: &str| {
            Some(
                match file {
                    "cpu.stat" => "usage_usec 12\nuser_usec 5\n",
                    "memory.current" => "1000\n",
                    "memory.max" => "max\n",
                    "memory.stat" => "anon 300\nfile 500\ninactive_file 400\npgfault 7\n",
                    _ => return None,
                }
                .to_owned(),
            )
        };
        let usage = usage_v2(&v2);
        assert_eq!((usage.cpu_nanoseconds, usage.working_set_bytes, usage.rss_bytes), (12_000, 600, 300));
        assert_eq!((usage.memory_limit_bytes, usage.page_faults), (None, 7));
        let v1 = |_: &str, file: &str| {
            Some(
                match file {
                    "cpuacct.usage" => "34\n",
                    "memory.usage_in_bytes" => "1000\n",
                    "memory.limit_in_bytes" => "9223372036854771712\n",
                    "memory.stat" => "total_rss 200\ntotal_inactive_file 100\n",
                    _ => return None,
                }
                .to_owned(),
            )
        };
        let usage = usage_v1(&v1);
        assert_eq!((usage.cpu_nanoseconds, usage.working_set_bytes, usage.memory_limit_bytes), (34, 900, None));
    }
}
