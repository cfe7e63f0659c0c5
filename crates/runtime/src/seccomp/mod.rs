//! Seccomp filters. Here: the runtime's default profile: the system calls that containers have no business with, refused as
//! containerd's default profile refuses them, unless a capability says that it is their business after all.
//! Filters are made here, purely; they are installed in the container's process, also in those that join later.

mod calls;
mod profile;
mod small;

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
const JUMP: u16 = 0x05;
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

/// Programs of 32 bits on this machine; other machines here have none.
#[cfg(target_arch = "x86_64")]
const SMALLER: Option<u32> = Some(0x4000_0003);
#[cfg(not(target_arch = "x86_64"))]
const SMALLER: Option<u32> = None;

/// What is refused to everyone.
const NEVER: &[&str] = &[
    "add_key",
    "keyctl",
    "request_key",
    "pivot_root",
    "swapon",
    "swapoff",
    "kexec_load",
    "kexec_file_load",
    "userfaultfd",
    "nfsservctl",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
];

/// What is refused unless the container has one of these capabilities.
const GUARDED: &[(&[&str], &[&str])] = &[
    (
        &["CAP_SYS_ADMIN"],
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "quotactl",
            "setdomainname",
            "sethostname",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (&["CAP_SYS_ADMIN", "CAP_BPF"], &["bpf"]),
    (&["CAP_SYS_ADMIN", "CAP_PERFMON"], &["perf_event_open"]),
    (&["CAP_SYS_ADMIN", "CAP_SYSLOG"], &["syslog"]),
    (&["CAP_DAC_READ_SEARCH"], &["open_by_handle_at"]),
    (&["CAP_SYS_BOOT"], &["reboot"]),
    (&["CAP_SYS_CHROOT"], &["chroot"]),
    (&["CAP_SYS_MODULE"], &["init_module", "finit_module", "delete_module"]),
    (&["CAP_SYS_NICE"], &["get_mempolicy", "mbind", "set_mempolicy"]),
    (&["CAP_SYS_PACCT"], &["acct"]),
    (&["CAP_SYS_PTRACE"], &["kcmp", "pidfd_getfd", "process_madvise"]),
    (&["CAP_SYS_TIME"], &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    (&["CAP_SYS_TTY_CONFIG"], &["vhangup"]),
    (&["CAP_SYS_RAWIO"], &["iopl", "ioperm", "vm86", "vm86old"]),
];

fn step(code: u16, value: u32, if_true: u8, if_false: u8) -> Step {
    Step { code, if_true, if_false, value }
}

/// The filter for a container with these capabilities in its bounding set. Programs of 32 bits, which number their calls
/// differently, are held to the same rules.
pub fn filter(capabilities: &[String]) -> Vec<Step> {
    let mut filter = vec![step(LOAD, ARCHITECTURE, 0, 0)];
    let native = rules(capabilities, calls::number);
    section(&mut filter, NATIVE, &native);
    if let Some(smaller) = SMALLER {
        section(&mut filter, smaller, &rules(capabilities, small::number));
    }
    filter.push(step(RETURN, UNKNOWN, 0, 0));
    filter
}

/// Rules that hold for the calls of one architecture; others go on behind them.
fn section(filter: &mut Vec<Step>, architecture: u32, rules: &[Step]) {
    let length = u32::try_from(rules.len()).expect("the kernel takes no filter of that many steps");
    // A test can only jump 255 steps far.
    filter.push(step(JUMP_IF_EQUAL, architecture, 1, 0));
    filter.push(step(JUMP, length, 0, 0));
    filter.extend_from_slice(rules);
}

/// What holds for calls with these numbers. All ways through it end with an answer.
fn rules(capabilities: &[String], number: fn(&str) -> Option<u32>) -> Vec<Step> {
    let has = |names: &[&str]| names.iter().any(|name| capabilities.iter().any(|own| own == name));
    let mut rules = vec![step(LOAD, NUMBER, 0, 0), step(JUMP_IF_AT_LEAST, X32, 0, 1), step(RETURN, UNKNOWN, 0, 0)];
    let guarded = GUARDED.iter().filter(|(names, _)| !has(names)).flat_map(|(_, calls)| calls.iter());
    // Calls that the architecture does not have need no rule.
    for call in NEVER.iter().chain(guarded).filter_map(|name| number(name)) {
        rules.push(step(JUMP_IF_EQUAL, call, 0, 1));
        rules.push(step(RETURN, REFUSE, 0, 0));
    }
    if let (false, Some(clone), Some(clone3)) = (has(&["CAP_SYS_ADMIN"]), number("clone"), number("clone3")) {
        // Its flags lie in memory, where no filter can look; programs fall back on `clone`, whose flags can be seen.
        rules.push(step(JUMP_IF_EQUAL, clone3, 0, 1));
        rules.push(step(RETURN, UNKNOWN, 0, 0));
        rules.push(step(JUMP_IF_EQUAL, clone, 0, 3));
        rules.push(step(LOAD, FIRST_ARGUMENT, 0, 0));
        rules.push(step(JUMP_IF_ANY_BIT, NEW_NAMESPACES, 0, 1));
        rules.push(step(RETURN, REFUSE, 0, 0));
    }
    rules.push(step(RETURN, ALLOW, 0, 0));
    rules
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
                JUMP => at += step.value as usize,
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
        let number = |call: std::ffi::c_long| u32::try_from(call).expect("a small number");
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
        if let Some(smaller) = SMALLER {
            let check = |filter: &[Step], call: &str, argument| {
                ask(filter, smaller, small::number(call).expect("a call"), argument)
            };
            // Number 3, which is `close` to others.
            assert_eq!(ask(&plain, smaller, 3, 0), ALLOW);
            assert_eq!((check(&plain, "umount", 0), check(&admin, "umount", 0)), (REFUSE, ALLOW));
            assert_eq!(check(&plain, "clock_settime64", 0), REFUSE);
            assert_eq!(check(&plain, "clone", libc::CLONE_NEWUSER as u32), REFUSE);
            assert_eq!(check(&plain, "clone3", 0), UNKNOWN);
        }
        assert_eq!(ask(&admin, NATIVE, X32 + 1, 0), UNKNOWN);
    }
}
