//! Seccomp filters. Here: the runtime's default profile: the system calls that containers have no business with, refused as
//! containerd's default profile refuses them, unless a capability says that it is their business after all.
//! Filters are made here, purely; they are installed in the container's process, also in those that join later.

mod calls;
mod profile;

use std::ffi::c_long;

pub use profile::{Filter, compile};

/// One step of a filter, as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(u16, u8, u8, u32)", into = "(u16, u8, u8, u32)")]
pub struct Step {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

impl From<(u16, u8, u8, u32)> for Step {
    fn from((code, if_true, if_false, value): (u16, u8, u8, u32)) -> Self {
        Self { code, if_true, if_false, value }
    }
}

impl From<Step> for (u16, u8, u8, u32) {
    fn from(step: Step) -> Self {
        (step.code, step.if_true, step.if_false, step.value)
    }
}

const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_ABOVE: u16 = 0x25;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const MASK: u16 = 0x54;
const RETURN: u16 = 0x06;

// Where things lie in what the filter sees of a call.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = 0x0005_0000 | libc::EPERM as u32;
/// For calls that programs try first and do without.
const UNKNOWN: u32 = 0x0005_0000 | libc::ENOSYS as u32;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
/// Calls of the x32 form begin here; nobody uses them, and they would go past every number below.
const X32: u32 = 0x4000_0000;
/// The flags of `clone` that make namespaces.
const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// What is refused to everyone.
const NEVER: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_pivot_root,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_userfaultfd,
    libc::SYS_nfsservctl,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// What is refused unless the container has one of these capabilities.
const GUARDED: &[(&[&str], &[c_long])] = &[
    (
        &["CAP_SYS_ADMIN"],
        &[
            libc::SYS_fanotify_init,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_lookup_dcookie,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_quotactl,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_setns,
            libc::SYS_umount2,
            libc::SYS_unshare,
        ],
    ),
    (&["CAP_SYS_ADMIN", "CAP_BPF"], &[libc::SYS_bpf]),
    (&["CAP_SYS_ADMIN", "CAP_PERFMON"], &[libc::SYS_perf_event_open]),
    (&["CAP_SYS_ADMIN", "CAP_SYSLOG"], &[libc::SYS_syslog]),
    (&["CAP_DAC_READ_SEARCH"], &[libc::SYS_open_by_handle_at]),
    (&["CAP_SYS_BOOT"], &[libc::SYS_reboot]),
    (&["CAP_SYS_CHROOT"], &[libc::SYS_chroot]),
    (&["CAP_SYS_MODULE"], &[libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module]),
    (&["CAP_SYS_NICE"], &[libc::SYS_get_mempolicy, libc::SYS_mbind, libc::SYS_set_mempolicy]),
    (&["CAP_SYS_PACCT"], &[libc::SYS_acct]),
    (&["CAP_SYS_PTRACE"], &[libc::SYS_kcmp, libc::SYS_pidfd_getfd, libc::SYS_process_madvise]),
    (&["CAP_SYS_TIME"], &[libc::SYS_settimeofday, libc::SYS_clock_settime]),
    (&["CAP_SYS_TTY_CONFIG"], &[libc::SYS_vhangup]),
    #[cfg(target_arch = "x86_64")]
    (&["CAP_SYS_RAWIO"], &[libc::SYS_iopl, libc::SYS_ioperm]),
];

fn step(code: u16, value: u32, if_true: u8, if_false: u8) -> Step {
    Step { code, if_true, if_false, value }
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).expect("numbers of system calls are small")
}

/// The filter for a container with these capabilities in its bounding set.
pub fn filter(capabilities: &[String]) -> Vec<Step> {
    let has = |names: &[&str]| names.iter().any(|name| capabilities.iter().any(|own| own == name));
    let mut filter = vec![
        step(LOAD, ARCHITECTURE, 0, 0),
        // Programs for another form of the machine number their calls differently; they are not run under this profile.
        step(JUMP_IF_EQUAL, NATIVE, 1, 0),
        step(RETURN, UNKNOWN, 0, 0),
        step(LOAD, NUMBER, 0, 0),
        step(JUMP_IF_AT_LEAST, X32, 0, 1),
        step(RETURN, UNKNOWN, 0, 0),
    ];
    let guarded = GUARDED.iter().filter(|(names, _)| !has(names)).flat_map(|(_, calls)| calls.iter());
    for &call in NEVER.iter().chain(guarded) {
        filter.push(step(JUMP_IF_EQUAL, number(call), 0, 1));
        filter.push(step(RETURN, REFUSE, 0, 0));
    }
    if !has(&["CAP_SYS_ADMIN"]) {
        // Its flags lie in memory, where no filter can look; programs fall back on `clone`, whose flags can be seen.
        filter.push(step(JUMP_IF_EQUAL, number(libc::SYS_clone3), 0, 1));
        filter.push(step(RETURN, UNKNOWN, 0, 0));
        filter.push(step(JUMP_IF_EQUAL, number(libc::SYS_clone), 0, 3));
        filter.push(step(LOAD, FIRST_ARGUMENT, 0, 0));
        filter.push(step(JUMP_IF_ANY_BIT, NEW_NAMESPACES, 0, 1));
        filter.push(step(RETURN, REFUSE, 0, 0));
    }
    filter.push(step(RETURN, ALLOW, 0, 0));
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(filter: &[Step], architecture: u32, call: u32, argument: u32) -> u32 {
        ask_all(filter, architecture, call, [argument.into(), 0, 0, 0, 0, 0])
    }

    /// What the kernel would answer to a call.
    pub(super) fn ask_all(filter: &[Step], architecture: u32, call: u32, arguments: [u64; 6]) -> u32 {
        let word = |at: u32| match at {
            NUMBER => call,
            ARCHITECTURE => architecture,
            _ => {
                let (argument, upper) = ((at - FIRST_ARGUMENT) / 8, at % 8 == 4);
                let value = arguments[argument as usize];
                if upper { (value >> 32) as u32 } else { value as u32 }
            }
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let step = filter[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.if_true } else { step.if_false });
            match step.code {
                LOAD => value = word(step.value),
                MASK => value &= step.value,
                JUMP_IF_EQUAL => at += jump(value == step.value),
                JUMP_IF_ABOVE => at += jump(value > step.value),
                JUMP_IF_AT_LEAST => at += jump(value >= step.value),
                JUMP_IF_ANY_BIT => at += jump(value & step.value != 0),
                _ => return step.value,
            }
        }
    }

    #[test]
    fn dangerous_calls_are_refused_unless_a_capability_allows_them() {
        let plain = filter(&[]);
        let admin = filter(&["CAP_SYS_ADMIN".to_owned()]);
        let check = |filter: &[Step], call, argument| ask(filter, NATIVE, number(call), argument);
        assert_eq!(check(&plain, libc::SYS_read, 0), ALLOW);
        assert_eq!(check(&plain, libc::SYS_mount, 0), REFUSE);
        assert_eq!(check(&admin, libc::SYS_mount, 0), ALLOW);
        assert_eq!(check(&admin, libc::SYS_keyctl, 0), REFUSE);
        assert_eq!(check(&plain, libc::SYS_clone, libc::CLONE_NEWUSER as u32), REFUSE);
        assert_eq!(check(&plain, libc::SYS_clone, libc::CLONE_VM as u32), ALLOW);
        assert_eq!(check(&plain, libc::SYS_clone3, 0), UNKNOWN);
        assert_eq!(check(&admin, libc::SYS_clone3, 0), ALLOW);
        assert_eq!(ask(&plain, 1, 0, 0), UNKNOWN);
        assert_eq!(ask(&admin, NATIVE, X32 + 1, 0), UNKNOWN);
    }
}
