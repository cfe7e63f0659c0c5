//! One container as its shim knows it: from the fork to the exit, with its streams in between.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::logs::LineSplitter;
use super::process::{self, Stdio, UserNamespace};
use super::proto::*;
use super::server::Joined;
use super::{Step, StepContext, rootfs};
use crate::oci::Bundle;
use crate::sys;

/// The file with the container's bundle in its folder.
pub const BUNDLE_FILE: &str = "bundle.json";
/// As much of what a container said before the first one attached is kept for that one.
const UNHEARD_LIMIT: usize = 64 << 10;
/// How often processes that outlived their container's first one are looked for.
const KILL_ROUNDS: u32 = 20;

/// What a container's descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Tells whether the start succeeded.
    Status,
    /// Its output (0) or its error output (1); with a terminal the first is both.
    Output(usize),
    /// Its standard input can take more.
    Input,
    /// The input of someone attached.
    AttachedInput(u32),
    /// The output (0) or error output (1) of someone attached can take more.
    AttachedOutput(u32, usize),
}

/// A container.
pub struct Container {
    start: Start,
    pid: i32,
    started_at: i64,
    /// While starting: the socket to the child, and who wants to know.
    starting: Option<(OwnedFd, u32, u32)>,
    failed: bool,
    exit: Option<Exit>,
    log: Option<File>,
    outputs: [Option<Output>; 2],
    terminal: Option<OwnedFd>,
    input: Option<OwnedFd>,
    input_pending: Vec<u8>,
    attached: Vec<Attached>,
    next_attached: u32,
    /// What a container that waits for one visitor only has said so far. It may say all it has to say before that one
    /// has come in, and would then be heard by nobody.
    unheard: Option<[Vec<u8>; 2]>,
}

struct Output {
    fd: OwnedFd,
    splitter: LineSplitter,
}

/// Someone who follows the container's streams.
struct Attached {
    id: u32,
    input: Option<OwnedFd>,
    sinks: [Option<Sink>; 2],
}

struct Sink {
    fd: OwnedFd,
    pending: Vec<u8>,
}

/// The other side of the fork: what the container's first process needs.
pub struct Child {
    start: Start,
    stdio: Stdio,
    status: OwnedFd,
    user_namespace: Option<OwnedFd>,
}

impl Child {
    /// On v2, the cgroup to be made in.
    pub fn cgroup_folder(&self) -> Option<&str> {
        self.start.cgroup_folder.as_deref()
    }

    /// Becomes the container; never comes back.
    pub fn run(self, joined: Joined) -> ! {
        let Self { start, stdio, status, user_namespace } = self;
        let namespace = user_namespace.as_ref().map(AsFd::as_fd);
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match enter(&start, joined, namespace) {
                Ok(bundle) => {
                    let user_namespace = namespace.map(|namespace| UserNamespace { namespace, with_mounts: true });
                    process::become_process(&bundle.spec.process, stdio, user_namespace)
                }
                Err(error) => error,
            }));
        let error = outcome.unwrap_or_else(|_| "the container's first process panicked".to_owned());
        // If nobody listens any more there is nobody to tell.
        drop(sys::send_packet(status.as_fd(), format!("E{error}").as_bytes(), &[]));
        sys::exit_now(1)
    }
}

fn enter(start: &Start, joined: Joined, user_namespace: Option<BorrowedFd<'_>>) -> Step<Bundle> {
    for file in start.cgroup_files.iter().filter(|_| !joined.0) {
        std::fs::write(file, "0").step(|| format!("join {file}"))?;
    }
    let path = format!("{}/{BUNDLE_FILE}", start.dir);
    let text = std::fs::read(&path).step(|| format!("read {path}"))?;
    let bundle: Bundle = serde_json::from_slice(&text).map_err(|error| format!("read {path}: {error}"))?;
    super::set_oom_score(bundle.spec.process.oom_score_adj.unwrap_or(0))?;
    if bundle.spec.linux.namespaces.iter().any(|namespace| namespace.kind == "cgroup") {
        sys::unshare(libc::CLONE_NEWCGROUP).step(|| "unshare cgroup namespace".into())?;
    }
    rootfs::enter(&bundle, user_namespace)?;
    Ok(bundle)
}

impl Container {
    /// Makes the streams of a container; the caller forks.
    pub fn prepare(connection: u32, number: u32, start: Start, user_namespace: Option<OwnedFd>) -> Step<(Self, Child)> {
        let (status, child_status) = status_pair()?;
        let log = start.log.as_deref().map(open_log).transpose()?;
        let mut container = Self {
            pid: 0,
            started_at: sys::wall_nanoseconds(),
            starting: Some((status, connection, number)),
            failed: false,
            exit: None,
            log,
            outputs: [None, None],
            terminal: None,
            input: None,
            input_pending: Vec::new(),
            attached: Vec::new(),
            next_attached: 0,
            unheard: start.stdin_once.then(Default::default),
            start,
        };
        let stdio = container.make_streams(&child_status)?;
        let child = Child { start: container.start.clone(), stdio, status: child_status, user_namespace };
        Ok((container, child))
    }

    fn make_streams(&mut self, status: &OwnedFd) -> Step<Stdio> {
        if self.start.tty {
            // The terminal belongs to the container's own /dev/pts, so the child makes it and sends it.
            return Ok(Stdio::Terminal(status.try_clone().step(|| "keep the status socket".into())?));
        }
        let input = if self.start.stdin {
            let (reader, writer) = pipe()?;
            nonblocking(writer.as_fd())?;
            self.input = Some(writer);
            reader
        } else {
            rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .step(|| "open /dev/null".into())?
        };
        let mut output = |index: usize, name: &'static str| -> Step<OwnedFd> {
            let (reader, writer) = pipe()?;
            nonblocking(reader.as_fd())?;
            self.outputs[index] = Some(Output { fd: reader, splitter: LineSplitter::new(name) });
            Ok(writer)
        };
        let (out, error) = (output(0, "stdout")?, output(1, "stderr")?);
        Ok(Stdio::Files([input, out, error]))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.start.id
    }

    /// Its first process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Told once, after the fork.
    pub fn set_pid(&mut self, pid: i32) {
        self.pid = pid;
    }

    /// Where its processes are numbered.
    pub fn pid_namespace(&self) -> &PidNamespace {
        &self.start.pid_namespace
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        self.exit.is_some()
    }

    /// Whether it never came to run.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// What became of it; none while it is starting.
    pub fn report(&self) -> Option<ContainerReport> {
        (self.starting.is_none() && !self.failed).then(|| ContainerReport {
            id: self.start.id.clone(),
            pid: self.pid.unsigned_abs(),
            started_at: self.started_at,
            exit: self.exit.clone(),
        })
    }

    /// Names the descriptors that shall be waited for. While someone attached is behind, the container's
    /// output is not read, so that it waits too and nothing is lost.
    pub fn sources<'a>(&'a self, add: &mut dyn FnMut(Place, BorrowedFd<'a>, PollFlags)) {
        if let Some((status, ..)) = &self.starting {
            add(Place::Status, status.as_fd(), PollFlags::IN);
        }
        let mut behind = false;
        for attached in &self.attached {
            for (index, sink) in attached.sinks.iter().enumerate() {
                if let Some(sink) = sink.as_ref().filter(|sink| !sink.pending.is_empty()) {
                    behind = true;
                    add(Place::AttachedOutput(attached.id, index), sink.fd.as_fd(), PollFlags::OUT);
                }
            }
            if let Some(input) = attached.input.as_ref().filter(|_| self.input_pending.is_empty()) {
                add(Place::AttachedInput(attached.id), input.as_fd(), PollFlags::IN);
            }
        }
        if let Some(input) = self.input_descriptor().filter(|_| !self.input_pending.is_empty()) {
            add(Place::Input, input, PollFlags::OUT);
        }
        for (index, output) in self.outputs.iter().enumerate() {
            if let Some(output) = output.as_ref().filter(|_| !behind) {
                add(Place::Output(index), output.fd.as_fd(), PollFlags::IN);
            }
        }
    }

    /// Does what a descriptor is ready for; answers the start when it has come to an end.
    pub fn serve(&mut self, place: Place, buffer: &mut [u8]) -> Option<(u32, Reply)> {
        match place {
            Place::Status => return self.settle(buffer),
            Place::Output(index) => {
                self.read_output(index, buffer);
            }
            Place::Input => self.write_input(),
            Place::AttachedInput(id) => self.read_attached(id, buffer),
            Place::AttachedOutput(id, index) => {
                if let Some(attached) = self.attached.iter_mut().find(|attached| attached.id == id) {
                    flush(&mut attached.sinks[index]);
                }
                self.drop_idle_attached();
            }
        }
        None
    }

    /// Reads what the child says about the start. Nothing more to read means that it has become the container.
    pub fn settle(&mut self, buffer: &mut [u8]) -> Option<(u32, Reply)> {
        let (status, connection, number) = self.starting.as_ref()?;
        let (connection, number) = (*connection, *number);
        let outcome = loop {
            match sys::receive_packet(status.as_fd(), buffer) {
                Ok((0, _)) => break Ok(()),
                Ok((_, descriptors)) if buffer[0] == b'T' => {
                    let Some(terminal) = descriptors.into_iter().next() else { continue };
                    if let Err(error) = self.terminal_arrived(terminal) {
                        break Err(error);
                    }
                    return None;
                }
                Ok((length, _)) => break Err(String::from_utf8_lossy(&buffer[1..length]).into_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(error) => break Err(format!("hear from the container: {error}")),
            }
        };
        self.starting = None;
        self.failed = outcome.is_err();
        self.started_at = sys::wall_nanoseconds();
        let answer = |()| Answer { pid: self.pid.unsigned_abs(), at: self.started_at, containers: Vec::new() };
        Some((connection, Reply { number, result: outcome.map(answer) }))
    }

    fn terminal_arrived(&mut self, terminal: OwnedFd) -> Step<()> {
        nonblocking(terminal.as_fd())?;
        let output = terminal.try_clone().step(|| "keep the terminal".into())?;
        self.outputs[0] = Some(Output { fd: output, splitter: LineSplitter::new("stdout") });
        self.terminal = Some(terminal);
        Ok(())
    }

    fn input_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().or(self.input.as_ref()).map(AsFd::as_fd)
    }

    /// Reads once; false when there is nothing more now.
    fn read_output(&mut self, index: usize, buffer: &mut [u8]) -> bool {
        let Some(output) = &mut self.outputs[index] else { return false };
        let now = sys::wall_nanoseconds();
        let mut entries = Vec::new();
        let more = match rustix::io::read(output.fd.as_fd(), &mut *buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return false,
            // A terminal whose other side is closed reads as an error.
            Ok(0) | Err(_) => {
                output.splitter.finish(now, &mut entries);
                self.outputs[index] = None;
                false
            }
            Ok(length) => {
                // Lines are about a third longer in the log; a vector that grows would copy all of it again.
                entries.reserve(length + length / 2);
                output.splitter.push(&buffer[..length], now, &mut entries);
                if let Some(unheard) = &mut self.unheard {
                    keep_last(&mut unheard[index], &buffer[..length]);
                }
                for attached in &mut self.attached {
                    if let Some(sink) = &mut attached.sinks[index] {
                        sink.pending.extend_from_slice(&buffer[..length]);
                    }
                    flush(&mut attached.sinks[index]);
                }
                true
            }
        };
        self.write_log(&entries);
        self.drop_idle_attached();
        more
    }

    fn write_log(&mut self, entries: &[u8]) {
        if let Some(log) = &mut self.log
            && !entries.is_empty()
            && log.write_all(entries).is_err()
        {
            // A full disk must not stop the container; these lines are lost, later ones may find room.
        }
    }

    fn read_attached(&mut self, id: u32, buffer: &mut [u8]) {
        let Some(attached) = self.attached.iter_mut().find(|attached| attached.id == id) else { return };
        let Some(input) = &attached.input else { return };
        match rustix::io::read(input.as_fd(), &mut *buffer) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(0) | Err(_) => {
                attached.input = None;
                if self.start.stdin_once && !self.start.tty {
                    self.input = None;
                }
            }
            Ok(length) => {
                self.input_pending.extend_from_slice(&buffer[..length]);
                self.write_input();
            }
        }
    }

    fn write_input(&mut self) {
        let Some(input) = self.terminal.as_ref().or(self.input.as_ref()) else {
            self.input_pending = Vec::new();
            return;
        };
        match rustix::io::write(input.as_fd(), &self.input_pending) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.input_pending = Vec::new(),
            Ok(length) => {
                self.input_pending.drain(..length);
            }
        }
    }

    /// Opens the log file anew, after the old one was moved away.
    pub fn reopen_log(&mut self) -> Step<()> {
        self.log = self.start.log.as_deref().map(open_log).transpose()?;
        Ok(())
    }

    /// Sets the size of the terminal.
    pub fn resize(&mut self, width: u16, height: u16) -> Step<()> {
        let terminal = self.terminal.as_ref().ok_or_else(|| format!("container {} has no terminal", self.start.id))?;
        resize(terminal.as_fd(), width, height)
    }

    /// Lets someone follow the streams.
    pub fn attach(&mut self, streams: Streams, descriptors: Vec<OwnedFd>) -> Step<()> {
        if self.has_ended() {
            return Err(format!("container {} is not running", self.start.id));
        }
        let mut descriptors = descriptors.into_iter();
        let mut next = |wanted: bool| if wanted { descriptors.next() } else { None };
        let (input, out, error) = (next(streams.stdin), next(streams.stdout), next(streams.stderr));
        let [said, complained] = self.unheard.take().unwrap_or_default();
        let sink = |fd: Option<OwnedFd>, pending| fd.map(|fd| Sink { fd, pending });
        let mut sinks = [sink(out, said), sink(error, complained)];
        sinks.iter_mut().for_each(flush);
        self.attached.push(Attached { id: self.next_attached, input, sinks });
        self.next_attached += 1;
        self.drop_idle_attached();
        Ok(())
    }

    /// Lets go of sinks whose reader has left, and of those that have got everything of an ended stream.
    fn drop_idle_attached(&mut self) {
        let open = [self.outputs[0].is_some(), self.outputs[1].is_some()];
        for attached in &mut self.attached {
            for (index, sink) in attached.sinks.iter_mut().enumerate() {
                if sink.as_ref().is_some_and(|sink| sink.pending.is_empty() && !open[index]) {
                    *sink = None;
                }
            }
            if self.exit.is_some() {
                attached.input = None;
            }
        }
        self.attached.retain(|attached| attached.input.is_some() || attached.sinks.iter().any(Option::is_some));
    }

    /// The first process has ended: ends the others, saves what is left of the output, and leaves word on disk.
    pub fn end(&mut self, code: i32, buffer: &mut [u8]) -> ContainerReport {
        let at = sys::wall_nanoseconds();
        if self.start.pid_namespace != PidNamespace::Own {
            self.kill_leftovers();
        }
        for index in 0..self.outputs.len() {
            while self.read_output(index, buffer) {}
            if let Some(mut output) = self.outputs[index].take() {
                let mut entries = Vec::new();
                output.splitter.finish(at, &mut entries);
                self.write_log(&entries);
            }
        }
        let exit = Exit { code, at, started_at: self.started_at, oom: self.oom_killed(), ..Exit::default() };
        self.exit = Some(exit.clone());
        (self.terminal, self.input, self.log) = (None, None, None);
        self.drop_idle_attached();
        // If the disk refuses, skiff still hears of the exit by the socket.
        drop(write_exit(&self.start.dir, &exit));
        ContainerReport {
            id: self.start.id.clone(),
            pid: self.pid.unsigned_abs(),
            started_at: self.started_at,
            exit: Some(exit),
        }
    }

    fn oom_killed(&self) -> bool {
        let text = self.start.oom_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|count| count.trim().parse::<u64>().ok());
        count.is_some_and(|count| count > 0)
    }

    /// Without a pid namespace of its own, a container's other processes do not end with its first one.
    fn kill_leftovers(&self) {
        let Some(file) = self.start.cgroup_files.first() else { return };
        for _ in 0..KILL_ROUNDS {
            let members = std::fs::read_to_string(file).unwrap_or_default();
            let pids: Vec<i32> = members.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                drop(sys::kill(pid, libc::SIGKILL));
            }
        }
    }
}

/// Adds to what is kept, and forgets the beginning of what has become too long.
fn keep_last(kept: &mut Vec<u8>, more: &[u8]) {
    kept.extend_from_slice(more);
    let over = kept.len().saturating_sub(UNHEARD_LIMIT);
    kept.drain(..over);
}

/// Leaves word of an exit in a container's folder, whole or not at all.
pub fn write_exit(dir: &str, exit: &Exit) -> std::io::Result<()> {
    let text = serde_json::to_vec(exit)?;
    let (path, draft) = (format!("{dir}/{EXIT_FILE}"), format!("{dir}/.{EXIT_FILE}"));
    std::fs::write(&draft, text)?;
    std::fs::rename(draft, path)
}

fn flush(sink: &mut Option<Sink>) {
    let Some(open) = sink else { return };
    while !open.pending.is_empty() {
        match rustix::io::write(open.fd.as_fd(), &open.pending) {
            Err(Errno::AGAIN) => return,
            Err(Errno::INTR) => {}
            Err(_) => {
                *sink = None;
                return;
            }
            Ok(length) => {
                open.pending.drain(..length);
            }
        }
    }
    open.pending = Vec::new();
}

fn open_log(path: &str) -> Step<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.append(true).create(true).mode(0o640).open(path).step(|| format!("open log {path}"))
}

fn pipe() -> Step<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step(|| "make a pipe".into())
}

/// The socket by which a child tells how it fares; the shim's side does not block.
pub fn status_pair() -> Step<(OwnedFd, OwnedFd)> {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (own, child) = pair.step(|| "make a socket pair".into())?;
    nonblocking(own.as_fd())?;
    Ok((own, child))
}

fn nonblocking(fd: BorrowedFd<'_>) -> Step<()> {
    let flags = rustix::fs::fcntl_getfl(fd).step(|| "read descriptor flags".into())?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).step(|| "set descriptor flags".into())
}

/// Sets the size of a terminal.
pub fn resize(terminal: BorrowedFd<'_>, width: u16, height: u16) -> Step<()> {
    let size = rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).step(|| "resize the terminal".into())
}
