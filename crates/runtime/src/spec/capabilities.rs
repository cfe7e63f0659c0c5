//! What a container's processes may do that others may not.

use std::collections::BTreeSet;

use skiff_cri::{Capability, CriError, CriResult, LinuxContainerSecurityContext};

use crate::oci::Capabilities;

/// What a container may do that asks for nothing: the set that containerd and CRI-O give.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability, by its number.
pub const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

pub(super) fn capabilities(security: &LinuxContainerSecurityContext) -> CriResult<Capabilities> {
    if security.privileged {
        let all: Vec<String> = ALL_CAPABILITIES.iter().map(|&name| name.to_owned()).collect();
        return Ok(Capabilities {
            bounding: all.clone(),
            effective: all.clone(),
            permitted: all,
            ..Capabilities::default()
        });
    }
    let Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } =
        security.capabilities.clone().unwrap_or_default();
    let (add, drop) = (capability_names(&add_capabilities)?, capability_names(&drop_capabilities)?);
    let ambient = capability_names(&add_ambient_capabilities)?;
    let everything = || ALL_CAPABILITIES.iter().copied();
    let mut set: BTreeSet<&str> = DEFAULT_CAPABILITIES.iter().copied().collect();
    // "ALL" comes first, so that single names can make exceptions from it.
    if add.contains("ALL") {
        set.extend(everything());
    }
    if drop.contains("ALL") {
        set.clear();
    }
    set.extend(add.iter().chain(&ambient).copied().filter(|&name| name != "ALL"));
    set.retain(|name| !drop.contains(name));
    let ambient: Vec<String> = ambient.into_iter().filter(|name| set.contains(name)).map(str::to_owned).collect();
    let set: Vec<String> = everything().filter(|name| set.contains(name)).map(str::to_owned).collect();
    Ok(Capabilities {
        bounding: set.clone(),
        effective: set.clone(),
        permitted: set,
        inheritable: ambient.clone(),
        ambient,
    })
}

fn capability_names(names: &[String]) -> CriResult<BTreeSet<&'static str>> {
    names.iter().map(|name| capability_name(name)).collect()
}

fn capability_name(name: &str) -> CriResult<&'static str> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok("ALL");
    }
    let wanted = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = ALL_CAPABILITIES.iter().find(|known| &known["CAP_".len()..] == wanted);
    known.copied().ok_or_else(|| CriError::invalid_argument(format!("unknown capability {name:?}")))
}
