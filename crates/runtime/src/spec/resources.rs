//! What of the machine a container gets: its devices, and how much of everything.

use std::collections::BTreeMap;

use skiff_cri::LinuxContainerResources;

use super::SpecInput;
use crate::oci::{Cpu, Device, DeviceRule, HugepageLimit, Memory, Resources};

/// A device of the host that the container gets, with what it may do with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GrantedDevice {
    /// The node.
    pub node: Device,
    /// Some of `rwm`.
    pub access: String,
}

/// The devices of every container: their name in `/dev`, major and minor number.
const STANDARD_DEVICES: &[(&str, i64, i64)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

pub(super) fn devices(input: &SpecInput<'_>) -> Vec<Device> {
    let standard = STANDARD_DEVICES.iter().map(|&(name, major, minor)| Device {
        path: format!("/dev/{name}"),
        kind: "c".to_owned(),
        major,
        minor,
        file_mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let mut by_path: BTreeMap<String, Device> = standard.map(|device| (device.path.clone(), device)).collect();
    for granted in &input.devices {
        by_path.insert(granted.node.path.clone(), granted.node.clone());
    }
    by_path.into_values().collect()
}

pub(super) fn device_rules(input: &SpecInput<'_>, privileged: bool) -> Vec<DeviceRule> {
    let rule = |allow, kind: &str, major, minor, access: &str| DeviceRule {
        allow,
        kind: kind.to_owned(),
        major,
        minor,
        access: access.to_owned(),
    };
    if privileged {
        return vec![rule(true, "a", None, None, "rwm")];
    }
    // Nodes may be made of any device, but only these be opened. 136 is pts, 5:2 is ptmx, 5:1 the console.
    let mut rules =
        vec![rule(false, "a", None, None, "rwm"), rule(true, "c", None, None, "m"), rule(true, "b", None, None, "m")];
    for &(_, major, minor) in STANDARD_DEVICES {
        rules.push(rule(true, "c", Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, "c", Some(136), None, "rwm"));
    rules.push(rule(true, "c", Some(5), Some(2), "rwm"));
    rules.push(rule(true, "c", Some(5), Some(1), "rwm"));
    for granted in &input.devices {
        rules.push(rule(true, &granted.node.kind, Some(granted.node.major), Some(granted.node.minor), &granted.access));
    }
    rules
}

/// Limits as the OCI specification has them; zero means "not given" in the interface.
pub fn limits(wanted: &LinuxContainerResources) -> Resources {
    let positive = |value: i64| (value > 0).then_some(value);
    let nonzero = |value: i64| (value != 0).then_some(value);
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|&value| value > 0);
    Resources {
        devices: Vec::new(),
        memory: Memory {
            limit: nonzero(wanted.memory_limit_in_bytes),
            swap: positive(wanted.memory_swap_limit_in_bytes),
        },
        cpu: Cpu {
            shares: unsigned(wanted.cpu_shares),
            quota: nonzero(wanted.cpu_quota),
            period: unsigned(wanted.cpu_period),
            cpus: wanted.cpuset_cpus.clone(),
            mems: wanted.cpuset_mems.clone(),
        },
        pids: None,
        hugepage_limits: wanted
            .hugepage_limits
            .iter()
            .map(|limit| HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: wanted.unified.clone().into_iter().collect(),
    }
}
