//! Skiff's side of the talk with a shim: starting one, finding one again, asking it things.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, WaitOptions};
use skiff_cri::{CriError, CriResult};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::cgroups::Birthplace;
use crate::shim::PROGRAM_NAME;
use crate::shim::proto::*;
use crate::sys::{self, MountAttr};

/// What shims tell without being asked.
#[derive(Debug)]
pub enum ShimEvent {
    /// A container ended.
    Exited(ContainerReport),
    /// The shim of this sandbox is gone.
    Lost(String),
}

type Answered = (Result<Answer, String>, Vec<OwnedFd>);

/// A shim that listens.
pub struct ShimClient {
    sandbox: String,
    pid: u32,
    socket: AsyncFd<OwnedFd>,
    next: AtomicU32,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    gone: bool,
    replies: HashMap<u32, oneshot::Sender<Answered>>,
    execs: HashMap<String, oneshot::Sender<i32>>,
}

/// The program that shims are started from: a read-only view of skiff's own binary, so that no container
/// can ever write to it by way of a shim's `/proc/PID/exe`.
pub struct ShimProgram {
    file: OwnedFd,
    birthplace: Birthplace,
}

impl ShimProgram {
    /// The view of this binary, for shims that begin in a cgroup.
    pub fn open(path: &Path, birthplace: Birthplace) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let file = rustix::mount::open_tree(CWD, path, flags)?;
        let read_only = MountAttr { set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), ..MountAttr::default() };
        sys::mount_setattr(file.as_fd(), false, &read_only)?;
        Ok(Self { file, birthplace })
    }

    fn spawn(&self, sandbox: &str, log: &Path, control: OwnedFd) -> io::Result<Pid> {
        let arguments = [CString::new(PROGRAM_NAME)?, CString::new(sandbox)?];
        let null = std::fs::File::options().write(true).open("/dev/null")?;
        let log = std::fs::File::create(log)?;
        let pid = sys::spawn(&sys::Program {
            file: self.file.as_fd(),
            arguments: &arguments.each_ref().map(CString::as_c_str),
            streams: [control.as_fd(), null.as_fd(), log.as_fd()],
            birthplace: &self.birthplace,
        })?;
        Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl ShimClient {
    /// Starts a shim for a sandbox. It is asked to set up by the caller.
    pub fn spawn(
        program: &ShimProgram,
        sandbox: &str,
        log: &Path,
        events: mpsc::UnboundedSender<ShimEvent>,
    ) -> io::Result<Arc<Self>> {
        let flags = SocketFlags::CLOEXEC;
        let (own, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let child = program.spawn(sandbox, log, other)?;
        Self::serve(sandbox, child, own, true, events)
    }

    /// Finds the shim that holds a sandbox, by the socket in its folder.
    pub fn connect(sandbox: &str, folder: &Path, events: mpsc::UnboundedSender<ShimEvent>) -> io::Result<Arc<Self>> {
        let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()))?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &address)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket)?;
        Self::serve(sandbox, peer.pid, socket, false, events)
    }

    fn serve(
        sandbox: &str,
        pid: Pid,
        socket: OwnedFd,
        is_child: bool,
        events: mpsc::UnboundedSender<ShimEvent>,
    ) -> io::Result<Arc<Self>> {
        let flags = rustix::fs::fcntl_getfl(&socket)?;
        rustix::fs::fcntl_setfl(&socket, flags | OFlags::NONBLOCK)?;
        let client = Arc::new(Self {
            sandbox: sandbox.to_owned(),
            pid: pid.as_raw_nonzero().get().unsigned_abs(),
            socket: sys::watch(socket)?,
            next: AtomicU32::new(1),
            waiting: Mutex::default(),
        });
        let listener = client.clone();
        tokio::spawn(async move {
            listener.listen(&events).await;
            if is_child {
                // It has closed its socket, so it is as good as ended; this only takes its entry off the table.
                let wait = move || rustix::process::waitpid(Some(pid), WaitOptions::empty());
                let waited = tokio::task::spawn_blocking(wait).await;
                tracing::debug!(sandbox = listener.sandbox, ?waited, "shim ended");
            }
        });
        Ok(client)
    }

    /// The shim's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    async fn listen(&self, events: &mpsc::UnboundedSender<ShimEvent>) {
        loop {
            let Ok(mut ready) = self.socket.readable().await else { break };
            let mut buffer = vec![0; MAX_MESSAGE_BYTES];
            match ready.try_io(|socket| sys::receive_packet(socket, &mut buffer)) {
                Ok(Ok((length, descriptors))) if length > 0 => match serde_json::from_slice(&buffer[..length]) {
                    Ok(message) => self.heard(message, descriptors, events),
                    Err(error) => tracing::warn!(sandbox = self.sandbox, %error, "a shim's message cannot be read"),
                },
                Ok(_) => break,
                Err(_would_block) => {}
            }
        }
        let mut waiting = self.waiting.lock();
        waiting.gone = true;
        waiting.replies.clear();
        waiting.execs.clear();
        drop(waiting);
        if events.send(ShimEvent::Lost(self.sandbox.clone())).is_err() {
            tracing::debug!(sandbox = self.sandbox, "nobody listens to shims any more");
        }
    }

    fn heard(&self, message: Message, descriptors: Vec<OwnedFd>, events: &mpsc::UnboundedSender<ShimEvent>) {
        match message {
            Message::Reply(reply) => {
                let waiter = self.waiting.lock().replies.remove(&reply.number);
                if waiter.is_none_or(|waiter| waiter.send((reply.result, descriptors)).is_err()) {
                    tracing::debug!(sandbox = self.sandbox, "nobody waits for a shim's answer any more");
                }
            }
            Message::ContainerExited(report) => {
                if events.send(ShimEvent::Exited(report)).is_err() {
                    tracing::debug!(sandbox = self.sandbox, "nobody listens to shims any more");
                }
            }
            Message::ExecExited { id, code } => {
                let waiter = self.waiting.lock().execs.remove(&id);
                if waiter.is_none_or(|waiter| waiter.send(code).is_err()) {
                    tracing::debug!(exec = id, "nobody waits for an exec any more");
                }
            }
        }
    }

    /// Asks the shim something and waits for its answer.
    pub async fn call(&self, call: Call) -> CriResult<Answer> {
        Ok(self.call_with(call, &[]).await?.0)
    }

    /// The same with descriptors to and fro.
    pub async fn call_with(&self, call: Call, descriptors: &[BorrowedFd<'_>]) -> CriResult<(Answer, Vec<OwnedFd>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.gone {
                return Err(self.lost());
            }
            waiting.replies.insert(number, sender);
        }
        let bytes = serde_json::to_vec(&Request { number, call }).expect("requests are plain data");
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(CriError::invalid_argument("request is too long for the shim"));
        }
        self.send(&bytes, descriptors).await?;
        let (result, descriptors) = receiver.await.map_err(|_| self.lost())?;
        result.map(|answer| (answer, descriptors)).map_err(CriError::internal)
    }

    async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> CriResult<()> {
        loop {
            let mut ready = self.socket.writable().await.map_err(|_| self.lost())?;
            match ready.try_io(|socket| sys::send_packet(socket, bytes, descriptors)) {
                Ok(result) => return result.map_err(|_| self.lost()),
                Err(_would_block) => {}
            }
        }
    }

    /// Waits for the end of an exec. To be asked before the exec is started, since it may end at once.
    pub fn exec_end(&self, exec: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if !waiting.gone {
            waiting.execs.insert(exec.to_owned(), sender);
        }
        receiver
    }

    fn lost(&self) -> CriError {
        CriError::unavailable(format!("the shim of sandbox {} is gone", self.sandbox))
    }
}
