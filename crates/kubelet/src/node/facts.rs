//! What the machine says about itself, read from `/proc`, `/sys` and `/etc`: plain files only.

use std::fs;
use std::path::Path;

/// The machine as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Processors.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// The file system of the agent's folder in bytes, where that is known.
    pub disk_bytes: Option<i64>,
    /// Huge pages: size as the API names it (`2Mi`) and bytes of all of them.
    pub hugepages: Vec<(String, i64)>,
    /// Whether the kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The hardware's UUID, else the machine id.
    pub system_uuid: String,
    /// New at every start of the kernel.
    pub boot_id: String,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution, `Debian GNU/Linux 13 (trixie)`.
    pub os_image: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// Swap in bytes.
    pub swap_bytes: i64,
}

/// Reads the machine.
pub fn read() -> Machine {
    let text = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let meminfo = text("/proc/meminfo");
    let machine_id = text("/etc/machine-id");
    let uuid = text("/sys/class/dmi/id/product_uuid");
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, |number| number.get() as i64),
        memory_bytes: kilobytes(&meminfo, "MemTotal"),
        disk_bytes: None,
        hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
        apparmor: text("/sys/module/apparmor/parameters/enabled") == "Y",
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel: text("/proc/sys/kernel/osrelease"),
        os_image: pretty_name(&text("/etc/os-release")),
        architecture: architecture(std::env::consts::ARCH).to_owned(),
        swap_bytes: kilobytes(&meminfo, "SwapTotal"),
    }
}

/// The processors and the memory of the machine, by where they sit.
pub fn parts(options: &crate::options::Options) -> crate::assign::Machine {
    let system = Path::new("/sys/devices/system");
    let topology = crate::assign::cpus::topology(system);
    let mut memory = std::collections::BTreeMap::new();
    for node in topology.values().map(|seat| seat.numa) {
        let text = fs::read_to_string(system.join(format!("node/node{node}/meminfo"))).unwrap_or_default();
        let line = text.lines().find_map(|line| line.split_once("MemTotal:"));
        let kilobytes = line.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<i64>().ok());
        let total = kilobytes.map_or_else(|| read().memory_bytes, |kilobytes| kilobytes * 1024);
        let reserved = options.reserved_memory.iter().filter(|reserved| reserved.numa_node == node);
        let reserved: i64 = reserved
            .filter_map(|reserved| reserved.limits.get("memory")?.parse::<skiff_base::Quantity>().ok())
            .map(|amount| amount.value())
            .sum();
        memory.insert(node, (total - reserved).max(0));
    }
    crate::assign::Machine { topology, memory }
}

/// Memory that programs can still have, in bytes; `None` where the kernel does not tell.
pub fn available_memory() -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    Some(kilobytes(&text, "MemAvailable")).filter(|bytes| *bytes > 0)
}

/// Time that all processors together have worked, in nanoseconds.
pub fn cpu_nanos() -> Option<u64> {
    /// The kernel counts in hundredths of a second.
    const NANOS_PER_TICK: u64 = 10_000_000;
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields = text.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted within user.
    let busy = ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    Some(busy.map(|(_, ticks)| ticks).sum::<u64>() * NANOS_PER_TICK)
}

/// When the kernel started.
pub fn boot_time(now: skiff_base::Timestamp) -> Option<skiff_base::Timestamp> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(now - std::time::Duration::from_secs_f64(seconds))
}

/// Processes that exist and that the kernel allows.
pub fn pids() -> Option<(i64, i64)> {
    let loadavg = fs::read_to_string("/proc/loadavg").ok()?;
    let running = loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let most = fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    Some((running, most))
}

fn kilobytes(meminfo: &str, name: &str) -> i64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
    number.unwrap_or(0) * 1024
}

fn hugepages(folder: &Path) -> Vec<(String, i64)> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let sizes = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kilobytes: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: i64 = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        let size = skiff_base::Quantity::from_units(kilobytes * 1024, skiff_base::quantity::Format::BinarySi);
        Some((size.to_string(), kilobytes * 1024 * pages))
    });
    let mut sizes: Vec<_> = sizes.collect();
    sizes.sort();
    sizes
}

fn pretty_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map(|name| name.trim_matches('"').to_owned()).unwrap_or_else(|| "Linux".to_owned())
}

/// Go's name of an architecture, which the API uses.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_texts() {
        assert_eq!(kilobytes("MemTotal:       4 kB\nSwapTotal: 2 kB\n", "SwapTotal"), 2048);
        assert_eq!(
            pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n"),
            "Debian GNU/Linux 13 (trixie)"
        );
        assert!(read().memory_bytes > 0);
    }
}
