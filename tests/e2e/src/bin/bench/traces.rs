//! What pods leave on a node while they live: folders, interfaces, cgroups, processes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skiff_e2e::Cluster;

/// Nothing takes longer to clear away.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A node as it was before some pods came.
pub struct Traces<'a> {
    cluster: &'a Cluster,
    interfaces: usize,
    processes: usize,
}

impl<'a> Traces<'a> {
    /// Remembers how the node is now.
    pub fn before(cluster: &'a Cluster) -> Self {
        Self { cluster, interfaces: interfaces(cluster), processes: processes(cluster).len() }
    }

    /// Waits until the node is again as it was.
    ///
    /// # Errors
    /// Something does not go: what it is.
    pub fn wait_until_gone(&self) -> Result<(), String> {
        let start = Instant::now();
        while let Some(left) = self.left() {
            if start.elapsed() > PATIENCE {
                return Err(format!("still there after {} s: {left}", PATIENCE.as_secs()));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn left(&self) -> Option<String> {
        let root = self.cluster.folder().join("isolated").join(&self.cluster.name);
        for folder in ["kubelet/pods", "log/pods", "log/containers"] {
            let count = std::fs::read_dir(root.join(folder)).map_or(0, Iterator::count);
            if count > 0 {
                return Some(format!("{count} in {folder}"));
            }
        }
        let now = interfaces(self.cluster);
        if now > self.interfaces {
            return Some(format!("{} interfaces", now - self.interfaces));
        }
        let groups = pod_cgroups(self.cluster);
        if groups > 0 {
            return Some(format!("{groups} cgroups"));
        }
        let now = processes(self.cluster).len();
        (now > self.processes).then(|| format!("{} processes", now - self.processes))
    }
}

fn interfaces(cluster: &Cluster) -> usize {
    let path = format!("/proc/{}/net/dev", cluster.keeper_pid());
    std::fs::read_to_string(path).expect("the node runs").lines().count()
}

fn pod_cgroups(cluster: &Cluster) -> usize {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
    let mut folders: Vec<PathBuf> = vec![root.join(format!("skiff-{}", cluster.name))];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("pod") {
                count += 1;
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    count
}

/// A process of the node.
pub struct Process {
    /// Its id on the host.
    pub pid: u32,
    /// Whether it is what a pod was made for.
    pub is_app: bool,
}

/// The processes of the node itself and of its pods.
pub fn processes(cluster: &Cluster) -> Vec<Process> {
    processes_of(cluster.keeper_pid(), &cluster.name)
}

/// The same of one of several nodes, by its first process and its name.
pub fn processes_of(keeper: u32, node: &str) -> Vec<Process> {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(keeper);
    let group = format!("/skiff-{node}/");
    let pids = std::fs::read_dir("/proc").expect("a mounted /proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_node = pids.filter_map(|pid| {
        let in_group =
            || std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&group));
        if namespace(pid) != own && !in_group() {
            return None;
        }
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Process { pid, is_app: command == b"sleep\x00100000\0" || command == b"/hello\0" })
    });
    of_node.collect()
}

/// What the node costs beyond what runs in its pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Proportional set sizes.
    pub memory_mib: f64,
    /// Processor time so far.
    pub cpu_seconds: f64,
    /// What was written to disks so far.
    pub written_bytes: f64,
}

/// The cost of all processes but pods' own, at this moment. Nothing else may run from the node's own binary meanwhile:
/// it would bear a part of the memory that they share.
pub fn cost(cluster: &Cluster) -> Cost {
    let server = BTreeSet::from([cluster.server_pid(), cluster.keeper_pid()]);
    let mut own: BTreeSet<u32> = processes(cluster).iter().filter(|one| !one.is_app).map(|one| one.pid).collect();
    own.extend(server);
    cost_of(own)
}

/// The cost of some processes, at this moment.
pub fn cost_of(pids: impl IntoIterator<Item = u32>) -> Cost {
    let mut total = Cost::default();
    for pid in pids {
        // One that has just ended costs nothing.
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
        total.memory_mib += pss.unwrap_or(0.0) / 1024.0;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<f64>().ok());
        total.cpu_seconds += ticks.sum::<f64>() / 100.0;
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse::<f64>().ok());
        total.written_bytes += written.unwrap_or(0.0);
    }
    total
}
