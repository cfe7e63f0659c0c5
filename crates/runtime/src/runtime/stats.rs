//! What containers and sandboxes use, as the interface reports it.

use std::path::Path;

use skiff_cri::*;

use super::Inner;
use super::containers::Container;
use super::sandboxes::Sandbox;
use crate::cgroups::Usage;

impl Inner {
    pub(crate) fn container_stats(&self, container: &Container) -> ContainerStats {
        let record = &container.record;
        let config = container.config();
        let usage = if container.is_running() { self.cgroups.usage(&record.cgroup) } else { Usage::default() };
        let at = self.now();
        let folder = self.container_root(&record.sandbox, &record.id).join("upper");
        let (bytes, inodes) = disk_usage(&folder);
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: record.id.clone(),
                metadata: config.metadata.clone(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
            }),
            cpu: Some(cpu(&usage, at)),
            memory: Some(memory(&usage, at)),
            writable_layer: Some(FilesystemUsage {
                timestamp: at,
                fs_id: Some(FilesystemIdentifier { mountpoint: self.config.root.display().to_string() }),
                used_bytes: value(bytes),
                inodes_used: value(inodes),
            }),
            swap: Some(SwapUsage {
                timestamp: at,
                swap_available_bytes: None,
                swap_usage_bytes: value(usage.swap_bytes),
            }),
            io: None,
        }
    }

    pub(crate) fn sandbox_stats(&self, sandbox: &Sandbox) -> PodSandboxStats {
        let at = self.now();
        let usage = self.cgroups.usage(&sandbox.cgroup_parent(&self.config.default_cgroup_parent));
        let containers = self.containers_of(&sandbox.id);
        let running = containers.iter().filter(|container| container.is_running());
        PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: Some(cpu(&usage, at)),
                memory: Some(memory(&usage, at)),
                network: sandbox.netns().and_then(|netns| network(&netns, at)),
                process: Some(ProcessUsage { timestamp: at, process_count: value(usage.processes) }),
                containers: running.map(|container| self.container_stats(container)).collect(),
                io: None,
            }),
        }
    }
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(usage: &Usage, at: i64) -> CpuUsage {
    CpuUsage { timestamp: at, usage_core_nano_seconds: value(usage.cpu_nanoseconds), usage_nano_cores: None, psi: None }
}

fn memory(usage: &Usage, at: i64) -> MemoryUsage {
    MemoryUsage {
        timestamp: at,
        working_set_bytes: value(usage.working_set_bytes),
        available_bytes: usage
            .memory_limit_bytes
            .and_then(|limit| value(limit.saturating_sub(usage.working_set_bytes))),
        usage_bytes: value(usage.memory_bytes),
        rss_bytes: value(usage.rss_bytes),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        psi: None,
    }
}

/// The counters of a network namespace, by the process that lives in it.
fn network(netns: &Path, at: i64) -> Option<NetworkUsage> {
    let process = netns.parent()?.parent()?;
    let table = std::fs::read_to_string(process.join("net/dev")).ok()?;
    let mut interfaces = interfaces(&table);
    let default =
        interfaces.iter().position(|interface| interface.name == "eth0").map(|index| interfaces.remove(index));
    Some(NetworkUsage { timestamp: at, default_interface: default, interfaces })
}

fn interfaces(table: &str) -> Vec<NetworkInterfaceUsage> {
    let parse = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|counter| counter.parse().ok()).collect();
        let usage = |index: usize| counters.get(index).and_then(|&counter| value(counter));
        let name = name.trim().to_owned();
        (name != "lo").then(|| NetworkInterfaceUsage {
            name,
            rx_bytes: usage(0),
            rx_errors: usage(2),
            tx_bytes: usage(8),
            tx_errors: usage(10),
        })
    };
    table.lines().filter_map(parse).collect()
}

/// Bytes and inodes of a folder and what is in it.
fn disk_usage(folder: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    const SECTOR_BYTES: u64 = 512;
    let (mut bytes, mut inodes) = (0, 0);
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        // What vanishes while it is counted does not count.
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * SECTOR_BYTES;
            inodes += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_counters_are_read() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                     lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
                     eth0:    2048      10    1    0    0     0          0         0     4096      20    2    0    0     0       0          0\n";
        let found = interfaces(table);
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].rx_bytes, &found[0].rx_errors), (&value(2048), &value(1)));
        assert_eq!((&found[0].tx_bytes, &found[0].tx_errors), (&value(4096), &value(2)));
    }
}
