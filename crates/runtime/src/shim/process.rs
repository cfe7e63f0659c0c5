//! The last steps of a process on its way into a container: terminal, limits, identity, rights, exec.
//! The same for a container's first process and for those that join later.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use super::{Step, StepContext};
use crate::oci::{Capabilities, Process};
use crate::spec::ALL_CAPABILITIES;
use crate::sys;

/// Where the process's streams come from.
pub enum Stdio {
    /// Three descriptors, in order.
    Files([OwnedFd; 3]),
    /// A terminal made here; its master goes out by this socket.
    Terminal(OwnedFd),
}

/// Becomes the process. Returns only when that fails, with the reason.
pub fn become_process(process: &Process, stdio: Stdio, user_namespace: Option<UserNamespace<'_>>) -> String {
    match prepare(process, stdio, user_namespace) {
        Ok(exec) => exec,
        Err(error) => error,
    }
}

fn prepare(process: &Process, stdio: Stdio, user_namespace: Option<UserNamespace<'_>>) -> Step<String> {
    rustix::process::setsid().step(|| "setsid".into())?;
    let terminal = install(process, stdio)?;
    if let Some(namespace) = user_namespace {
        namespace.enter()?;
    }
    if let Some(socket) = terminal {
        open_terminal(process, socket.as_fd())?;
    }
    if let Some(mask) = process.user.umask {
        rustix::process::umask(Mode::from_raw_mode(mask));
    } else {
        rustix::process::umask(Mode::from_raw_mode(0o022));
    }
    for limit in &process.rlimits {
        let number = rlimit(&limit.kind).ok_or_else(|| format!("unknown limit {}", limit.kind))?;
        sys::set_rlimit(number, limit.soft, limit.hard).step(|| format!("set {}", limit.kind))?;
    }
    if !process.apparmor_profile.is_empty() {
        std::fs::write("/proc/self/attr/apparmor/exec", format!("exec {}", process.apparmor_profile))
            .step(|| format!("set AppArmor profile {}", process.apparmor_profile))?;
    }
    if !process.selinux_label.is_empty() {
        std::fs::write("/proc/self/attr/exec", &process.selinux_label)
            .step(|| format!("set SELinux label {}", process.selinux_label))?;
    }
    // As root first, since the folder may not be open to the user; as the user it may be on a network share.
    let entered = rustix::process::chdir(process.cwd.as_str());
    become_user(process)?;
    if entered.is_err() {
        rustix::process::chdir(process.cwd.as_str())
            .step(|| format!("chdir to cwd ({:?}) set in config.json failed", process.cwd))?;
    }
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).step(|| "set no_new_privs".into())?;
    }
    // Set after the change of user, which clears it: no container outlives the shim that answers for it.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).step(|| "bind to the shim".into())?;
    // Descriptors are opened to be closed on exec; this is the belt to those braces.
    let closed = sys::close_others_on_exec();
    if let Err(error) = closed
        && error.raw_os_error() != Some(libc::ENOSYS)
    {
        return Err(format!("close descriptors: {error}"));
    }
    sys::reset_signals().step(|| "reset signals".into())?;
    let exec = Exec::of(process)?;
    if process.no_new_privileges {
        // As late as can be, so that a profile need not allow what is only done on the way in.
        install_seccomp(process)?;
    }
    Ok(exec.run())
}

fn install_seccomp(process: &Process) -> Step<()> {
    let installed = match &process.seccomp_filter {
        Some(filter) => sys::install_seccomp(&filter.steps, filter.flags),
        None if process.default_seccomp => {
            sys::install_seccomp(&crate::seccomp::filter(&process.capabilities.bounding), 0)
        }
        None => Ok(()),
    };
    installed.step(|| "install the seccomp filter".into())
}

/// The user namespace that a process goes into.
pub struct UserNamespace<'a> {
    /// The namespace.
    pub namespace: BorrowedFd<'a>,
    /// Whether the process is a container's first, whose mounts shall belong to the namespace too.
    pub with_mounts: bool,
}

impl UserNamespace<'_> {
    fn enter(&self) -> Step<()> {
        sys::setns(self.namespace, libc::CLONE_NEWUSER).step(|| "join user namespace".into())?;
        sys::set_ids(0, 0, &[]).step(|| "become the user namespace's root".into())?;
        if self.with_mounts {
            sys::unshare(libc::CLONE_NEWNS).step(|| "unshare mount namespace".into())?;
        }
        Ok(())
    }
}

/// Sets the standard streams; a terminal is made later, in the user namespace.
fn install(process: &Process, stdio: Stdio) -> Step<Option<OwnedFd>> {
    match stdio {
        Stdio::Files(files) => {
            for (number, file) in (0..).zip(&files) {
                own(file.as_fd(), process)?;
                sys::install_stdio(file.as_fd(), number).step(|| "set standard streams".into())?;
            }
            Ok(None)
        }
        Stdio::Terminal(socket) => Ok(Some(socket)),
    }
}

/// Pipes belong to the process's user, so that it can open `/dev/stdout` anew.
fn own(file: BorrowedFd<'_>, process: &Process) -> Step<()> {
    let user = &process.user;
    let outside = process.user_namespace.as_ref().and_then(|maps| maps.outside(user.uid, user.gid));
    let uid = outside.map_or(user.uid, |(uid, _)| uid);
    let kind = rustix::fs::fstat(file).step(|| "look at standard streams".into())?;
    let is_pipe = rustix::fs::FileType::from_raw_mode(kind.st_mode) == rustix::fs::FileType::Fifo;
    if uid == 0 || !is_pipe {
        return Ok(());
    }
    rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(uid)), None)
        .step(|| "give standard streams to the user".into())
}

fn open_terminal(process: &Process, socket: BorrowedFd<'_>) -> Step<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).step(|| "open a terminal".into())?;
    let terminal = sys::terminal_peer(master.as_fd()).step(|| "open the terminal's other side".into())?;
    if process.user.uid != 0 {
        let uid = rustix::fs::Uid::from_raw(process.user.uid);
        rustix::fs::fchown(terminal.as_fd(), Some(uid), None).step(|| "give the terminal to the user".into())?;
    }
    sys::send_packet(socket, b"T", &[master.as_fd()]).step(|| "hand the terminal over".into())?;
    for number in 0..3 {
        sys::install_stdio(terminal.as_fd(), number).step(|| "set standard streams".into())?;
    }
    sys::control_terminal(terminal.as_fd()).step(|| "take control of the terminal".into())
}

fn become_user(process: &Process) -> Step<()> {
    let sets = &process.capabilities;
    let bounding = bits(&sets.bounding);
    for number in 0..u32::try_from(ALL_CAPABILITIES.len()).expect("a handful") {
        if bounding & (1 << number) == 0 {
            match sys::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number)) {
                // A kernel that does not know a capability does not grant it either.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                result => result.step(|| format!("drop {}", ALL_CAPABILITIES[number as usize]))?,
            }
        }
    }
    if !process.no_new_privileges {
        // Now, while it is still allowed without giving up all later privileges.
        install_seccomp(process)?;
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1).step(|| "keep capabilities".into())?;
    let user = &process.user;
    sys::set_ids(user.uid, user.gid, &user.additional_gids)
        .step(|| format!("become user {}:{}", user.uid, user.gid))?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0).step(|| "keep capabilities".into())?;
    set_capabilities(sets)
}

fn set_capabilities(sets: &Capabilities) -> Step<()> {
    // What skiff does not have itself (an old kernel's lack, or being run in a container), it cannot hand on.
    let known = sys::permitted_capabilities().step(|| "read capabilities".into())?;
    let (effective, permitted) = (bits(&sets.effective) & known, bits(&sets.permitted) & known);
    let inheritable = bits(&sets.inheritable) & known;
    sys::set_capabilities(effective, permitted, inheritable).step(|| "set capabilities".into())?;
    let ambient = bits(&sets.ambient) & known;
    for number in (0..64).filter(|number| ambient & (1 << number) != 0) {
        sys::raise_ambient(number).step(|| format!("raise {}", ALL_CAPABILITIES[number as usize]))?;
    }
    Ok(())
}

fn bits(names: &[String]) -> u64 {
    let number = |name: &String| ALL_CAPABILITIES.iter().position(|known| known == name);
    names.iter().filter_map(number).fold(0, |set, number| set | (1 << number))
}

fn rlimit(kind: &str) -> Option<u32> {
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let name = kind.strip_prefix("RLIMIT_")?;
    NAMES.iter().position(|known| *known == name).and_then(|index| u32::try_from(index).ok())
}

/// All that the last call needs, made before a filter is in force.
struct Exec<'a> {
    name: &'a str,
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl<'a> Exec<'a> {
    fn of(process: &'a Process) -> Step<Self> {
        let zero = |item: &str| format!("{item:?} holds a zero byte");
        let text = |list: &[String]| -> Step<Vec<CString>> {
            list.iter().map(|item| CString::new(item.as_str()).map_err(|_| zero(item))).collect()
        };
        let name = &process.args[0];
        let path = CString::new(find(name, &process.env)?).map_err(|_| zero(name))?;
        Ok(Self { name, path, args: text(&process.args)?, env: text(&process.env)? })
    }

    /// Becomes the program; what went wrong if that fails.
    fn run(self) -> String {
        let args: Vec<&CStr> = self.args.iter().map(CString::as_c_str).collect();
        let env: Vec<&CStr> = self.env.iter().map(CString::as_c_str).collect();
        let error = sys::exec(&self.path, &args, &env);
        format!("exec: {:?}: {}", self.name, reason(&error))
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        _ => error.to_string(),
    }
}

/// The file of a command: as it is when it names a folder, else the first that can be run in the search path.
fn find(name: &str, env: &[String]) -> Step<String> {
    if name.contains('/') {
        return match rustix::fs::stat(name) {
            Ok(_) => Ok(name.to_owned()),
            Err(error) => Err(format!("exec: {name:?}: stat {name}: {}", reason(&error.into()))),
        };
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
    let mut denied = false;
    for folder in path.split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let candidate = format!("{folder}/{name}");
        let is_file = rustix::fs::stat(candidate.as_str())
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile);
        match is_file.then(|| rustix::fs::access(candidate.as_str(), Access::EXEC_OK)) {
            Some(Ok(())) => return Ok(candidate),
            Some(Err(Errno::ACCESS)) => denied = true,
            _ => {}
        }
    }
    let why = if denied { "permission denied" } else { "executable file not found in $PATH" };
    Err(format!("exec: {name:?}: {why}"))
}
