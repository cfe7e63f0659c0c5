//! What a machine must have, and how to get what it lacks: `skiff check`.

use std::fs;
use std::path::Path;

use skiff_netd::Abilities;

/// The state folder's file system should have at least this left.
const MIN_FREE_BYTES: u64 = 1 << 30;

/// One thing that a node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is needed.
    pub what: &'static str,
    /// What there is.
    pub found: Result<String, String>,
    /// Whether a node cannot run without it.
    pub required: bool,
}

/// What was read of the machine; deciding on it is [`judge`]'s business.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// The effective user.
    pub uid: u32,
    /// `/proc/filesystems`.
    pub filesystems: String,
    /// Whether the kernel can load a module for overlays.
    pub overlay_module: bool,
    /// What the kernel can do for the network; none where it could not be tried.
    pub network: Option<Abilities>,
    /// The mount points of cgroup v1 controllers.
    pub cgroup_v1: Vec<String>,
    /// `cgroup.controllers` of the unified hierarchy, where it is the main one.
    pub cgroup_v2: Option<String>,
    /// Free bytes where the state is kept.
    pub free_bytes: Option<u64>,
    /// Where kubectl is.
    pub kubectl: Option<String>,
}

impl Machine {
    /// Looks at this machine.
    pub fn observe(data_dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let release = read("/proc/sys/kernel/osrelease");
        let filesystems = read("/proc/filesystems");
        let modules = || read(&format!("/lib/modules/{}/modules.dep", release.trim()));
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            overlay_module: !has_overlay(&filesystems) && modules().contains("/overlay.ko"),
            filesystems,
            network: Abilities::observe().ok(),
            cgroup_v1: ["cpu", "memory", "pids"]
                .into_iter()
                .filter(|controller| Path::new("/sys/fs/cgroup").join(controller).exists())
                .map(str::to_owned)
                .collect(),
            cgroup_v2: fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok(),
            free_bytes: free_bytes(data_dir),
            kubectl: find_program("kubectl"),
        }
    }
}

fn has_overlay(filesystems: &str) -> bool {
    filesystems.contains("\toverlay")
}

/// Free bytes of the file system that holds `path` or its nearest existing ancestor.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

/// Where the program of this name is.
pub fn find_program(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .map(|f| f.display().to_string())
}

/// Decides what a machine lacks.
pub fn judge(machine: &Machine) -> Vec<Finding> {
    let finding = |what, required, found| Finding { what, required, found };
    let network = |ability: fn(&Abilities) -> &Result<(), String>, cure: &str| match &machine.network {
        Some(abilities) => match ability(abilities) {
            Ok(()) => Ok("present".to_owned()),
            Err(error) => Err(format!("{cure}: {error}")),
        },
        None => Ok("not tried".to_owned()),
    };
    let cgroups = match &machine.cgroup_v2 {
        Some(controllers) => {
            let missing: Vec<_> = ["cpu", "memory", "pids"]
                .into_iter()
                .filter(|c| !controllers.split_whitespace().any(|x| x == *c))
                .collect();
            if missing.is_empty() {
                Ok("v2".to_owned())
            } else {
                Err(format!("v2 lacks {}; remove cgroup_disable= from the kernel's command line", missing.join(", ")))
            }
        }
        None if machine.cgroup_v1.len() == 3 => Ok("v1".to_owned()),
        None => Err("mount them: mount -t cgroup2 none /sys/fs/cgroup".to_owned()),
    };
    vec![
        finding(
            "root",
            true,
            if machine.uid == 0 { Ok("yes".into()) } else { Err("run skiff as root, with sudo".into()) },
        ),
        finding(
            "overlay file system",
            true,
            if has_overlay(&machine.filesystems) || machine.overlay_module {
                Ok("present".into())
            } else {
                Err("load it: modprobe overlay (the kernel needs CONFIG_OVERLAY_FS)".into())
            },
        ),
        finding("cgroups", true, cgroups),
        finding(
            "nftables",
            true,
            network(|network| &network.nftables, "load it with modprobe nf_tables (CONFIG_NF_TABLES)"),
        ),
        finding("bridge", true, network(|network| &network.bridge, "load it with modprobe bridge (CONFIG_BRIDGE)")),
        finding("veth", true, network(|network| &network.veth, "load it with modprobe veth (CONFIG_VETH)")),
        finding(
            "free disk space",
            true,
            match machine.free_bytes {
                Some(bytes) if bytes < MIN_FREE_BYTES => {
                    Err(format!("only {} MiB; free some, or choose another place with --data-dir", bytes >> 20))
                }
                Some(bytes) => Ok(format!("{} MiB", bytes >> 20)),
                None => Ok("unknown".into()),
            },
        ),
        finding(
            "kubectl",
            false,
            machine.kubectl.clone().ok_or_else(|| "install it: https://kubernetes.io/docs/tasks/tools/".to_owned()),
        ),
    ]
}

/// What is required and not there, as an error text; `None` where a node can run.
pub fn obstacle(findings: &[Finding]) -> Option<String> {
    let missing: Vec<_> = findings
        .iter()
        .filter(|finding| finding.required)
        .filter_map(|finding| finding.found.as_ref().err().map(|cure| format!("{}: {cure}", finding.what)))
        .collect();
    (!missing.is_empty()).then(|| missing.join("\n"))
}

/// The findings as a table.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let (mark, words) = match &finding.found {
            Ok(found) => ("ok     ", found),
            Err(cure) if finding.required => ("MISSING", cure),
            Err(cure) => ("absent ", cure),
        };
        text.push_str(&format!("{mark}  {:<20} {words}\n", finding.what));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Machine {
        Machine {
            uid: 0,
            filesystems: "nodev\toverlay\n".into(),
            network: Some(Abilities { bridge: Ok(()), veth: Ok(()), nftables: Ok(()) }),
            cgroup_v2: Some("cpuset cpu io memory pids".into()),
            free_bytes: Some(MIN_FREE_BYTES),
            kubectl: Some("/usr/bin/kubectl".into()),
            ..Machine::default()
        }
    }

    #[test]
    fn a_whole_machine_has_no_obstacle() {
        assert_eq!(obstacle(&judge(&whole())), None);
    }

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let check = |change: fn(&mut Machine), expected: &str| {
            let mut machine = whole();
            change(&mut machine);
            let obstacle = obstacle(&judge(&machine)).expect(expected);
            assert!(obstacle.contains(expected), "{obstacle}");
        };
        check(|machine| machine.uid = 1000, "run skiff as root");
        check(|machine| machine.filesystems.clear(), "modprobe overlay");
        let lacking = Abilities { bridge: Ok(()), veth: Err("make a veth: refused".into()), nftables: Ok(()) };
        let mut machine = Machine { network: Some(lacking), ..whole() };
        assert_eq!(
            obstacle(&judge(&machine)).as_deref(),
            Some("veth: load it with modprobe veth (CONFIG_VETH): make a veth: refused")
        );
        machine.network = None;
        assert_eq!(obstacle(&judge(&machine)), None, "what could not be tried is no obstacle");
        check(|machine| machine.cgroup_v2 = Some("cpu pids".into()), "v2 lacks memory");
        check(|machine| machine.cgroup_v2 = None, "mount -t cgroup2");
        check(|machine| machine.free_bytes = Some(1 << 20), "only 1 MiB");
        let mut machine = whole();
        machine.kubectl = None;
        assert_eq!(obstacle(&judge(&machine)), None, "kubectl is not the node's business");
    }
}
