//! System calls that have no safe wrapper elsewhere, and packets with descriptors.
//! Each wrapper does one call; nothing here decides anything.
#![allow(unsafe_code, reason = "the one module of this crate that talks to the kernel past the safe wrappers")]

use std::ffi::CStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::cgroups::Birthplace;
use crate::devices::Instruction;
use crate::shim::proto::MAX_DESCRIPTORS;

/// Which side of a fork one is on.
pub enum Fork {
    /// The child.
    Child,
    /// The parent, with the child's process id.
    Parent(i32),
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks. In a process with a single thread the child may go on with ordinary code; in another, see [`spawn`].
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the shim has one thread, so no lock can be held by another at this moment; `spawn` minds the rest.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Forks like [`fork`], with the child in a cgroup of v2 from its first moment: joining later would wait for the
/// kernel's lock over all processes.
pub fn fork_into_cgroup(cgroup: BorrowedFd<'_>) -> io::Result<Fork> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    #[repr(C)]
    #[derive(Default)]
    struct CloneArguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArguments::default()
    };
    // SAFETY: without a stack or shared memory this is a fork; the shim has one thread, so no lock can be held by
    // another, and `spawn` minds the rest; the structure is the one of the size that is given.
    match unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of::<CloneArguments>()) } {
        0 => Ok(Fork::Child),
        pid if pid > 0 => Ok(Fork::Parent(pid as i32)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A program to start.
pub struct Program<'a> {
    /// The open file that is executed.
    pub file: BorrowedFd<'a>,
    /// Its arguments, its name first. It has no environment.
    pub arguments: &'a [&'a CStr],
    /// Its standard streams.
    pub streams: [BorrowedFd<'a>; 3],
    /// The cgroup that it begins in, where that can be had; else it begins in this process's own.
    pub birthplace: &'a Birthplace,
}

/// Starts a program from a process with many threads, and gives its process id. One that cannot be executed ends with
/// 127. Nothing but a shim moves between cgroups later: that waits for the kernel's lock over all processes, and whoever
/// makes a cgroup meanwhile waits too.
pub fn spawn(program: &Program<'_>) -> io::Result<i32> {
    let arguments: Vec<*const libc::c_char> =
        program.arguments.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
    let unified = program.birthplace.unified.as_ref();
    let forked = match unified.map(|cgroup| fork_into_cgroup(cgroup.as_fd())) {
        Some(Ok(forked)) => forked,
        // Old kernels and sandboxes do not know the call.
        Some(Err(_)) | None => fork()?,
    };
    match forked {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => execute(program, &arguments),
    }
}

/// The child's side of [`spawn`]. Other threads may have held locks when it was forked, so it takes none: no memory is
/// asked for, and everything is a plain system call.
fn execute(program: &Program<'_>, arguments: &[*const libc::c_char]) -> ! {
    const NOT_EXECUTED: i32 = 127;
    const FILE: i32 = 3;
    let no_environment = [std::ptr::null()];
    // SAFETY: all pointers are to C strings, arrays that end with null and plain data that live until the program is
    // replaced; only functions that are safe after a fork are called.
    unsafe {
        for (number, stream) in (0..).zip(program.streams) {
            if libc::dup2(stream.as_raw_fd(), number) < 0 {
                libc::_exit(NOT_EXECUTED);
            }
        }
        libc::dup3(program.file.as_raw_fd(), FILE, libc::O_CLOEXEC);
        // At once: whoever is started anew after this process was killed must find its sockets free.
        libc::syscall(libc::SYS_close_range, FILE + 1, u32::MAX, 0);
        for file in &program.birthplace.join_files {
            let file = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(file, c"0".as_ptr().cast(), 1);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::chdir(c"/".as_ptr());
        libc::execve(c"/proc/self/fd/3".as_ptr(), arguments.as_ptr(), no_environment.as_ptr());
        libc::_exit(NOT_EXECUTED)
    }
}

/// Has the kernel ask a device program for every process of a cgroup. The program goes with the cgroup.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    use std::os::fd::FromRawFd;
    const LOAD: libc::c_int = 5;
    const ATTACH: libc::c_int = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version_and_flags: u64,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0, 0],
        version_and_flags: 0,
    };
    // SAFETY: both structures begin as the kernel's union of arguments does, their sizes are given, and what they
    // point at lives until the calls are over.
    unsafe {
        let loaded = libc::syscall(libc::SYS_bpf, LOAD, &load, size_of::<Load>());
        if loaded < 0 {
            return Err(io::Error::last_os_error());
        }
        let loaded = OwnedFd::from_raw_fd(loaded as i32);
        let attach = Attach {
            target: cgroup.as_raw_fd() as u32,
            program: loaded.as_raw_fd() as u32,
            kind: ATTACH_CGROUP_DEVICE,
            flags: ALLOW_MULTI,
        };
        if libc::syscall(libc::SYS_bpf, ATTACH, &attach, size_of::<Attach>()) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Ends this process at once, without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns and touches nothing.
    unsafe { libc::_exit(code) }
}

/// Takes a descriptor that was inherited under a known number.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: fcntl only reads the number.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the descriptor is open (just checked), and the caller takes it once, at the start of the process.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `target` (0, 1 or 2) the same as `fd`, open across an exec.
pub fn install_stdio(fd: BorrowedFd<'_>, target: i32) -> io::Result<()> {
    if fd.as_raw_fd() == target {
        // SAFETY: fcntl changes a flag of an open descriptor.
        return check(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: both are plain numbers; the standard streams of this process are not used by anything else.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// Marks every descriptor from three on to be closed by the next exec.
pub fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: changes flags of descriptors only. An old kernel refuses, and then the flags that each
    // descriptor was opened with have to do.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets all signals to their defaults but SIGPIPE, which is ignored: the shim writes to pipes whose readers leave.
/// What was ignored by whoever started skiff would else be ignored by every container.
pub fn prepare_signals() {
    const LAST: libc::c_int = 64;
    // SAFETY: signal() with these constants installs no code. The two that cannot be changed refuse, which is fine.
    unsafe {
        for signal in 1..=LAST {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Undoes what [`prepare_signals`] and the shim's own mask change, for the program that comes next.
pub fn reset_signals() -> io::Result<()> {
    // SAFETY: sigset_t is plain data and is filled by sigemptyset before use; signal() with SIG_DFL installs no code.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())).map(drop)
    }
}

/// A plain `prctl` with numbers.
pub fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers, not pointers.
    check(unsafe { libc::prctl(option, argument, 0, 0, 0) }).map(drop)
}

/// Names the process, as `ps` shows it.
pub fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: the kernel copies at most 16 bytes of a valid C string.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

/// Raises or lowers one ambient capability.
pub fn raise_ambient(capability: u32) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, libc::c_ulong::from(capability), 0, 0)
    })
    .map(drop)
}

/// What the capability calls of version 3 take.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// Half of the capability sets of a thread.
#[repr(C)]
#[derive(Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITIES_OF_THIS_THREAD: CapabilityHeader = CapabilityHeader { version: 0x2008_0522, pid: 0 };

/// The capabilities that this thread may use.
pub fn permitted_capabilities() -> io::Result<u64> {
    let mut data = [CapabilityData::default(), CapabilityData::default()];
    // SAFETY: version 3 of the call reads one header and writes two data blocks of this layout.
    let result = unsafe { libc::syscall(libc::SYS_capget, &CAPABILITIES_OF_THIS_THREAD, data.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Sets the capabilities of this thread, as bit sets.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let half = |shift: u32| CapabilityData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let header = CAPABILITIES_OF_THIS_THREAD;
    let data = [half(0), half(32)];
    // SAFETY: version 3 of the call reads one header and two data blocks of this layout.
    let result = unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets user, group and further groups of this process. It has one thread, so the raw calls are enough
/// (the library's own would signal threads that do not exist).
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let run = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: the pointer and the length describe a live slice; the other arguments are numbers.
    unsafe {
        run(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        run(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        run(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
    }
}

/// Has the kernel ask a filter at every system call of this process from now on.
pub fn install_seccomp(filter: &[crate::seccomp::Step], flags: u32) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    #[repr(C)]
    struct Program {
        length: u16,
        steps: *const crate::seccomp::Step,
    }
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program { length, steps: filter.as_ptr() };
    // SAFETY: the structure is the kernel's `sock_fprog`; it and the steps that it points at outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Replaces the program.
pub fn exec(path: &CStr, args: &[&CStr], env: &[&CStr]) -> io::Error {
    let pointers = |list: &[&CStr]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point at live C strings.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Sets a resource limit by its number.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one rlimit structure.
    check(unsafe { libc::setrlimit(resource as _, &limit) }).map(drop)
}

/// Makes the terminal behind `fd` the controlling one of this session.
pub fn control_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes a number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY as _, 0) }).map(drop)
}

/// Opens the other side of a terminal's master, which is also unlocked.
pub fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let unlocked: libc::c_int = 0;
    // SAFETY: the first request reads one int; the second takes flags as a number and gives a new descriptor.
    let peer = unsafe {
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &unlocked))?;
        check(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC))?
    };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(peer) })
}

/// Moves this process, or with `CLONE_NEWPID` its future children, into a namespace.
pub fn setns(fd: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a descriptor and a number.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) }).map(drop)
}

/// Gives this process, or with `CLONE_NEWPID` its future children, new namespaces.
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a number. The shim and its children have one thread.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Sends a signal to a child that was not waited for yet, whose id therefore cannot belong to another.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// What [`mount_setattr`] changes; the layout of the kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE` or `MS_SHARED`; zero leaves it.
    pub propagation: u64,
    /// A user namespace for an id-mapped mount.
    pub user_namespace: u64,
}

/// Changes a mount, or with `recursive` the tree below it.
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, and the size given is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Brings the loopback of the current network namespace up.
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is plain data; the name is shorter than its field; the ioctls read and write this structure only.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request)).map(drop)
    }
}

/// Opens a path as it is inside a root: no link and no `..` leads out of it.
pub fn open_inside(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    /// Far more than a machine full of starting containers needs.
    const MAX_TRIES: u32 = 10_000;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_TRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel gives up on ".." when anything was renamed or mounted anywhere meanwhile.
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Wall-clock time in nanoseconds, for the shim, which has no other clock.
pub fn wall_nanoseconds() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure; the realtime clock exists everywhere.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Sends one packet with descriptors beside it.
pub fn send_packet(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::WriteZero, "packet was cut")) }
}

/// Receives one packet into `buffer`: its length and the descriptors beside it. Zero bytes: the other side is gone.
pub fn receive_packet(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let length = message.bytes;
    let mut descriptors = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            descriptors.extend(rights);
        }
    }
    Ok((length, descriptors))
}

/// Registers a descriptor with the asynchronous runtime.
pub fn watch(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, stays the same number, and is closed only when the wrapper drops it.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(io::Error::from)
}
