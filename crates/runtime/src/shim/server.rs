//! The shim's loop: requests, output, exits. Everything that can block goes through one `poll`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::WaitOptions;

use super::containers::{Container, Place};
use super::execs::Running;
use super::proto::*;
use super::{Step, StepContext, users};
use crate::sys;

/// How much output is read at once: as much as a pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// How eagerly the kernel may kill the shim for want of memory: last of all, as upstream protects its own.
const OOM_SCORE: i32 = -998;
/// How long ended containers are waited for when the shim ends.
const SHUTDOWN_ROUNDS: u32 = 500;

/// Whether a forked process is in its cgroup already, or has to join it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined(pub bool);

/// Who is connected.
struct Connection {
    id: u32,
    socket: OwnedFd,
}

/// What a descriptor in the poll set is for.
#[derive(Debug, Clone, PartialEq)]
enum Source {
    Signals,
    Listener,
    Connection(u32),
    Container(String, Place),
    ExecStatus(String),
}

/// All that a shim knows.
pub struct Server {
    connections: Vec<Connection>,
    next_connection: u32,
    listener: Option<OwnedFd>,
    signals: SignalFd,
    /// This process's own pid namespace, to come back to after a fork into another.
    pid_namespace: OwnedFd,
    /// The first process of the pid namespace that containers share.
    sandbox_init: Option<i32>,
    /// The namespace of the users of the sandbox's containers, if it is not the host's.
    user_namespace: Option<OwnedFd>,
    containers: Vec<Container>,
    execs: Vec<Running>,
    ending: bool,
}

impl Server {
    /// A shim that so far only listens to its starter.
    pub fn new(control: OwnedFd) -> Step<Self> {
        sys::prepare_signals();
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(|error| format!("block SIGCHLD: {error}"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(|error| format!("signalfd: {error}"))?;
        // The starter's terminal and its Ctrl-C are none of the shim's business.
        rustix::process::setsid().step(|| "setsid".into())?;
        // Nobody in a container may look into this process or its children on their way in.
        sys::prctl(libc::PR_SET_DUMPABLE, 0).step(|| "hide from containers".into())?;
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).step(|| "become a reaper".into())?;
        let pid_namespace = open_namespace("self", "pid")?;
        Ok(Self {
            connections: vec![Connection { id: 0, socket: control }],
            next_connection: 1,
            listener: None,
            signals,
            pid_namespace,
            sandbox_init: None,
            user_namespace: None,
            containers: Vec::new(),
            execs: Vec::new(),
            ending: false,
        })
    }

    /// Serves until a request ends it, or until a shim that never became one loses its starter.
    pub fn run(mut self) -> Step<()> {
        let mut buffer = vec![0_u8; MAX_MESSAGE_BYTES.max(READ_BYTES)];
        while !self.ending && (self.listener.is_some() || !self.connections.is_empty()) {
            for source in self.wait()? {
                self.handle(source, &mut buffer);
            }
        }
        self.end_everything(&mut buffer);
        Ok(())
    }

    /// The sources that have something to do.
    fn wait(&self) -> Step<Vec<Source>> {
        let mut sources = vec![(Source::Signals, self.signals.as_fd(), PollFlags::IN)];
        if let Some(listener) = &self.listener {
            sources.push((Source::Listener, listener.as_fd(), PollFlags::IN));
        }
        for connection in &self.connections {
            sources.push((Source::Connection(connection.id), connection.socket.as_fd(), PollFlags::IN));
        }
        for container in &self.containers {
            container.sources(&mut |place, fd, flags| {
                sources.push((Source::Container(container.id().to_owned(), place), fd, flags))
            });
        }
        for exec in &self.execs {
            if let Some(status) = exec.status() {
                sources.push((Source::ExecStatus(exec.id().to_owned()), status, PollFlags::IN));
            }
        }
        let mut polled: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        let ready: Vec<bool> = polled.iter().map(|entry| !entry.revents().is_empty()).collect();
        drop(polled);
        Ok(sources.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|((source, ..), _)| source).collect())
    }

    fn handle(&mut self, source: Source, buffer: &mut [u8]) {
        match source {
            Source::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap(buffer);
            }
            Source::Listener => self.accept(),
            Source::Connection(id) => self.receive(id, buffer),
            Source::Container(id, place) => {
                let Some(container) = self.containers.iter_mut().find(|container| container.id() == id) else { return };
                if let Some((connection, reply)) = container.serve(place, buffer) {
                    self.send(connection, &Message::Reply(reply), &[]);
                }
            }
            Source::ExecStatus(id) => self.exec_status(&id),
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        if let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            self.connections.push(Connection { id: self.next_connection, socket });
            self.next_connection += 1;
        }
    }

    fn receive(&mut self, id: u32, buffer: &mut [u8]) {
        let Some(connection) = self.connections.iter().find(|connection| connection.id == id) else { return };
        match sys::receive_packet(&connection.socket, buffer) {
            Ok((0, _)) | Err(_) => self.connections.retain(|connection| connection.id != id),
            Ok((length, descriptors)) => match serde_json::from_slice::<Request>(&buffer[..length]) {
                Ok(request) => self.call(id, request, descriptors),
                // Whoever speaks another language cannot be answered in this one.
                Err(_) => self.connections.retain(|connection| connection.id != id),
            },
        }
    }

    fn call(&mut self, connection: u32, request: Request, descriptors: Vec<OwnedFd>) {
        let number = request.number;
        let mut beside = None;
        let result = match request.call {
            Call::Setup(setup) => self.set_up(&setup),
            Call::Start(start) => match self.start(connection, number, start) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Call::Exec(exec) => match self.exec(connection, number, exec, descriptors) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Call::Signal { id, signal } => self.signal(&id, signal),
            Call::Resize { id, width, height } => {
                self.container(&id).and_then(|container| container.resize(width, height))
            }
            Call::Reopen { id } => self.container(&id).and_then(Container::reopen_log),
            Call::Attach { id, streams } => {
                self.container(&id).and_then(|container| container.attach(streams, descriptors))
            }
            Call::Connect { port } => connect(port).map(|socket| beside = Some(socket)),
            Call::List => Ok(()),
            Call::Forget { id } => {
                self.containers.retain(|container| container.id() != id || !container.has_ended());
                Ok(())
            }
            Call::Shutdown => {
                self.ending = true;
                Ok(())
            }
        };
        let answer = |()| Answer {
            pid: std::process::id(),
            at: sys::wall_nanoseconds(),
            containers: self.containers.iter().filter_map(Container::report).collect(),
        };
        let reply = Message::Reply(Reply { number, result: result.map(answer) });
        let beside: Vec<BorrowedFd<'_>> = beside.iter().map(AsFd::as_fd).collect();
        self.send(connection, &reply, &beside);
    }

    fn send(&mut self, connection: u32, message: &Message, descriptors: &[BorrowedFd<'_>]) {
        let Some(to) = self.connections.iter().find(|known| known.id == connection) else { return };
        let bytes = serde_json::to_vec(message).expect("messages are plain data");
        if sys::send_packet(&to.socket, &bytes, descriptors).is_err() {
            self.connections.retain(|known| known.id != connection);
        }
    }

    fn container(&mut self, id: &str) -> Step<&mut Container> {
        self.containers
            .iter_mut()
            .find(|container| container.id() == id)
            .ok_or_else(|| format!("no container {id} was started here"))
    }

    fn set_up(&mut self, setup: &Setup) -> Step<()> {
        if self.listener.is_some() {
            return Err("this shim has a sandbox already".to_owned());
        }
        super::set_oom_score(OOM_SCORE)?;
        self.user_namespace = enter_namespaces(setup)?;
        if setup.share_pid {
            self.sandbox_init = Some(self.fork_sandbox_init()?);
        }
        self.listener = Some(listen(&setup.dir)?);
        Ok(())
    }

    fn fork_sandbox_init(&mut self) -> Step<i32> {
        sys::unshare(libc::CLONE_NEWPID).step(|| "unshare pid namespace".into())?;
        let forked = sys::fork().step(|| "fork".into());
        match forked {
            Ok(sys::Fork::Child) => sandbox_init(&self.signals),
            Ok(sys::Fork::Parent(pid)) => {
                self.leave_pid_namespace()?;
                Ok(pid)
            }
            Err(error) => {
                self.leave_pid_namespace()?;
                Err(error)
            }
        }
    }

    fn leave_pid_namespace(&self) -> Step<()> {
        sys::setns(self.pid_namespace.as_fd(), libc::CLONE_NEWPID).step(|| "come back to the own pid namespace".into())
    }

    /// Forks into the pid namespace and the cgroup that are wanted.
    fn fork_into(&self, wanted: &PidNamespace, folder: Option<&str>) -> Step<(sys::Fork, Joined)> {
        let join = |pid: i32| -> Step<()> {
            let namespace = open_namespace(&pid.to_string(), "pid")?;
            sys::setns(namespace.as_fd(), libc::CLONE_NEWPID).step(|| "join pid namespace".into())
        };
        match wanted {
            PidNamespace::Host => return fork_into_cgroup(folder),
            PidNamespace::Own => sys::unshare(libc::CLONE_NEWPID).step(|| "unshare pid namespace".into())?,
            PidNamespace::Sandbox => join(self.sandbox_init.ok_or("the sandbox shares no pid namespace")?)?,
            PidNamespace::Container(id) => join(self.running_pid(id)?)?,
        }
        let forked = fork_into_cgroup(folder);
        if !matches!(forked, Ok((sys::Fork::Child, _))) {
            self.leave_pid_namespace()?;
        }
        forked
    }

    fn users(&self) -> Step<Option<OwnedFd>> {
        let namespace = self.user_namespace.as_ref().map(OwnedFd::try_clone);
        namespace.transpose().step(|| "keep the user namespace".into())
    }

    fn running_pid(&self, id: &str) -> Step<i32> {
        let container = self.containers.iter().find(|container| container.id() == id && !container.has_ended());
        container.map(Container::pid).ok_or_else(|| format!("container {id} is not running"))
    }

    fn start(&mut self, connection: u32, number: u32, start: Start) -> Step<()> {
        if self.containers.iter().any(|container| container.id() == start.id) {
            return Err(format!("container {} was started already", start.id));
        }
        let (mut container, child) = Container::prepare(connection, number, start, self.users()?)?;
        match self.fork_into(container.pid_namespace(), child.cgroup_folder())? {
            (sys::Fork::Child, joined) => child.run(joined),
            (sys::Fork::Parent(pid), _) => {
                container.set_pid(pid);
                self.containers.push(container);
                Ok(())
            }
        }
    }

    fn exec(&mut self, connection: u32, number: u32, exec: Exec, descriptors: Vec<OwnedFd>) -> Step<()> {
        let target = self.running_pid(&exec.container)?;
        let wanted = PidNamespace::Container(exec.container.clone());
        let (mut running, child) = Running::prepare(connection, number, target, exec, descriptors, self.users()?)?;
        match self.fork_into(&wanted, child.cgroup_folder())? {
            (sys::Fork::Child, joined) => child.run(joined),
            (sys::Fork::Parent(pid), _) => {
                running.set_pid(pid);
                self.execs.push(running);
                Ok(())
            }
        }
    }

    fn exec_status(&mut self, id: &str) {
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.id() == id) else { return };
        let Some((connection, reply, terminal)) = exec.read_status() else { return };
        let failed = reply.result.is_err();
        let beside: Vec<BorrowedFd<'_>> = terminal.iter().map(AsFd::as_fd).collect();
        self.send(connection, &Message::Reply(reply), &beside);
        if failed {
            self.execs.retain(|exec| exec.id() != id);
        }
    }

    fn signal(&mut self, id: &str, signal: i32) -> Step<()> {
        if let Some(exec) = self.execs.iter().find(|exec| exec.id() == id) {
            return sys::kill(exec.pid(), signal).step(|| format!("signal {signal} to exec {id}"));
        }
        let container = self.container(id)?;
        // One that has ended needs no signal; that is no error, the caller could not know.
        if container.has_ended() {
            Ok(())
        } else {
            sys::kill(container.pid(), signal).step(|| format!("signal {signal} to container {id}"))
        }
    }

    fn reap(&mut self, buffer: &mut [u8]) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let code = status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(127));
            self.ended(pid.as_raw_nonzero().get(), code, buffer);
        }
    }

    fn ended(&mut self, pid: i32, code: i32, buffer: &mut [u8]) {
        if let Some(index) =
            self.containers.iter().position(|container| container.pid() == pid && !container.has_ended())
        {
            let container = &mut self.containers[index];
            if let Some((connection, reply)) = container.settle(buffer) {
                self.send(connection, &Message::Reply(reply), &[]);
            }
            if self.containers[index].has_failed() {
                self.containers.remove(index);
                return;
            }
            let report = self.containers[index].end(code, buffer);
            let everyone: Vec<u32> = self.connections.iter().map(|connection| connection.id).collect();
            for connection in everyone {
                self.send(connection, &Message::ContainerExited(report.clone()), &[]);
            }
            return;
        }
        let Some(id) = self.execs.iter().find(|exec| exec.pid() == pid).map(|exec| exec.id().to_owned()) else {
            return;
        };
        self.exec_status(&id);
        if let Some(index) = self.execs.iter().position(|exec| exec.pid() == pid) {
            let exec = self.execs.remove(index);
            self.send(exec.connection(), &Message::ExecExited { id, code }, &[]);
        }
    }

    /// Ends every container and waits for them, so that their exits are on disk.
    fn end_everything(&mut self, buffer: &mut [u8]) {
        for _ in 0..SHUTDOWN_ROUNDS {
            let alive: Vec<i32> =
                self.containers.iter().filter(|container| !container.has_ended()).map(Container::pid).collect();
            if alive.is_empty() {
                return;
            }
            for pid in alive {
                // It may have ended a moment ago; then there is nothing to kill.
                drop(sys::kill(pid, libc::SIGKILL));
            }
            std::thread::sleep(Duration::from_millis(2));
            self.reap(buffer);
        }
    }
}

/// Forks, with the child in the cgroup from its first moment where the kernel can do that.
fn fork_into_cgroup(folder: Option<&str>) -> Step<(sys::Fork, Joined)> {
    if let Some(folder) = folder {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, rustix::fs::Mode::empty()).step(|| format!("open {folder}"))?;
        match sys::fork_into_cgroup(folder.as_fd()) {
            // Kernels before 5.7, and sandboxes that do not know the call.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::E2BIG | libc::EPERM)) => {}
            result => return Ok((result.step(|| "fork into the cgroup".into())?, Joined(true))),
        }
    }
    Ok((sys::fork().step(|| "fork".into())?, Joined(false)))
}

/// The first process of a shared pid namespace: it takes over orphans and waits for them. It ends with the shim.
fn sandbox_init(signals: &SignalFd) -> ! {
    let bound = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
    if bound.is_err() || sys::set_name(c"pause").is_err() {
        sys::exit_now(1);
    }
    loop {
        let mut polled = [PollFd::new(signals, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => sys::exit_now(1),
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

/// Gives this process the namespaces of the sandbox; the one of users only goes to containers, and is handed back.
fn enter_namespaces(setup: &Setup) -> Step<Option<OwnedFd>> {
    let mut flags = 0;
    for (wanted, flag) in [
        (setup.new_network, libc::CLONE_NEWNET),
        (setup.new_ipc, libc::CLONE_NEWIPC),
        (setup.hostname.is_some(), libc::CLONE_NEWUTS),
    ] {
        flags |= if wanted { flag } else { 0 };
    }
    let user_namespace = match &setup.user_namespace {
        Some(maps) => Some(users::make(maps, flags)?),
        None => {
            sys::unshare(flags).step(|| "unshare the sandbox's namespaces".into())?;
            None
        }
    };
    if setup.new_network {
        sys::loopback_up().step(|| "bring the loopback up".into())?;
    }
    if let Some(hostname) = &setup.hostname {
        rustix::system::sethostname(hostname.as_bytes()).step(|| format!("set host name {hostname:?}"))?;
    }
    for (path, value) in &setup.sysctls {
        std::fs::write(format!("/proc/sys/{path}"), value).step(|| format!("set sysctl {path}"))?;
    }
    Ok(user_namespace)
}

/// Listens in the sandbox's folder. The path goes by way of a descriptor, since a socket's path may have 107 bytes only.
fn listen(dir: &str) -> Step<OwnedFd> {
    use std::os::fd::AsRawFd;
    let folder =
        rustix::fs::open(dir, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
            .step(|| format!("open {dir}"))?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()))
        .step(|| "name the socket".into())?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .step(|| "make the socket".into())?;
    rustix::net::bind(&socket, &address).step(|| format!("bind {dir}/{SOCKET_NAME}"))?;
    rustix::fs::chmod(format!("{dir}/{SOCKET_NAME}"), rustix::fs::Mode::from_raw_mode(0o600))
        .step(|| "protect the socket".into())?;
    rustix::net::listen(&socket, 4).step(|| "listen".into())?;
    Ok(socket)
}

/// Connects to the sandbox's own loopback, by IPv4 and then by IPv6.
fn connect(port: u16) -> Step<OwnedFd> {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    let attempt = |address: SocketAddr| -> rustix::io::Result<OwnedFd> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &address)?;
        Ok(socket)
    };
    attempt((Ipv4Addr::LOCALHOST, port).into())
        .or_else(|first| attempt((Ipv6Addr::LOCALHOST, port).into()).map_err(|_| first))
        .map_err(|error| format!("dial tcp4 127.0.0.1:{port}: {error}"))
}

/// Opens a namespace of a process.
pub fn open_namespace(process: &str, kind: &str) -> Step<OwnedFd> {
    let path = format!("/proc/{process}/ns/{kind}");
    rustix::fs::open(path.as_str(), rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .step(|| format!("open {path}"))
}
