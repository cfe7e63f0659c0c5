//! Running commands in containers, joining their streams, and reaching their ports.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use rustix::fs::{MemfdFlags, OFlags};
use rustix::pipe::PipeFlags;
use skiff_cri::*;
use skiff_streams::{ExitStatus, TerminalSize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::containers::Container;
use super::{Inner, internal};
use crate::client::ShimClient;
use crate::oci::{Bundle, Process};
use crate::shim::proto::{Call, Exec, Streams};
use crate::streaming::{self, StreamBackend};

/// The most output of a synchronous command that is kept; the rest is dropped, as the interface demands.
const MAX_SYNC_OUTPUT_BYTES: usize = 16 << 20;
/// How long a command's output is read after its end, in case a child of it keeps the pipe open.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// A command that runs.
struct Running {
    id: String,
    shim: Arc<ShimClient>,
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    end: oneshot::Receiver<i32>,
}

impl Inner {
    fn shim_of(&self, container: &Container) -> CriResult<Arc<ShimClient>> {
        if !container.is_running() {
            return Err(CriError::failed_precondition(format!("container {:?} is not running", container.record.id)));
        }
        self.sandbox(&container.record.sandbox)?.shim()
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> CriResult<()> {
        let container = self.container(id)?;
        self.shim_of(&container)?.call(Call::Reopen { id: id.to_owned() }).await.map(drop)
    }

    async fn run_command(&self, id: &str, command: &[String], tty: bool, streams: Streams) -> CriResult<Running> {
        if command.is_empty() {
            return Err(CriError::invalid_argument("no command is given"));
        }
        let container = self.container(id)?;
        let shim = self.shim_of(&container)?;
        let process = self.process_of(&container, command, tty)?;
        let exec = Exec {
            id: self.ids.hex(32),
            container: id.to_owned(),
            tty,
            streams: if tty { Streams::default() } else { streams },
            cgroup_files: self.cgroups.join_files(&container.record.cgroup),
            cgroup_folder: self.cgroups.birth_folder(&container.record.cgroup),
        };
        let mut pipes = Pipes::default();
        if !tty {
            pipes.open(streams)?;
        }
        let mut beside: Vec<BorrowedFd<'_>> = vec![process.as_fd()];
        beside.extend(pipes.theirs.iter().map(AsFd::as_fd));
        let (exec_id, end) = (exec.id.clone(), shim.exec_end(&exec.id));
        let (_, terminal) = shim.call_with(Call::Exec(exec), &beside).await.map_err(|error| CriError {
            code: error.code,
            message: format!("failed to exec in container: {}", error.message),
        })?;
        let terminal = terminal.into_iter().next().map(nonblocking_terminal).transpose()?;
        let (stdin, stdout, stderr) = (pipes.stdin, pipes.stdout, pipes.stderr);
        Ok(Running { id: exec_id, shim, stdin, stdout, stderr, terminal, end })
    }

    /// The process to run: the container's own, with another command. It goes as a file, since it can be long.
    fn process_of(&self, container: &Container, command: &[String], tty: bool) -> CriResult<OwnedFd> {
        let folder = self.container_root(&container.record.sandbox, &container.record.id);
        let text = std::fs::read(folder.join("bundle.json")).map_err(internal("read the container's bundle"))?;
        let bundle: Bundle = serde_json::from_slice(&text)
            .map_err(|error| CriError::internal(format!("read the container's bundle: {error}")))?;
        let mut process = Process { args: command.to_vec(), terminal: tty, ..bundle.spec.process };
        if tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        let write = || -> io::Result<OwnedFd> {
            use std::io::{Seek, Write};
            let mut file = std::fs::File::from(rustix::fs::memfd_create("process", MemfdFlags::CLOEXEC)?);
            file.write_all(&serde_json::to_vec(&process)?)?;
            file.rewind()?;
            Ok(file.into())
        };
        write().map_err(internal("hand the process over"))
    }

    pub(crate) async fn exec_sync(&self, request: ExecSyncRequest) -> CriResult<ExecSyncResponse> {
        let streams = Streams { stdin: false, stdout: true, stderr: true };
        let running = self.run_command(&request.container_id, &request.cmd, false, streams).await?;
        let Running { id, shim, stdout, stderr, mut end, .. } = running;
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let finished = {
            let mut read = std::pin::pin!(async { tokio::join!(keep(stdout, &mut out), keep(stderr, &mut errors)) });
            let run = async {
                let mut all_read = false;
                let code = loop {
                    tokio::select! {
                        code = &mut end => break code,
                        _ = &mut read, if !all_read => all_read = true,
                    }
                };
                if !all_read && tokio::time::timeout(DRAIN_LIMIT, &mut read).await.is_err() {
                    tracing::debug!(exec = id, "a child of the command keeps its output open");
                }
                code
            };
            match u64::try_from(request.timeout).ok().filter(|&seconds| seconds > 0) {
                Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), run).await.ok(),
                None => Some(run.await),
            }
        };
        match finished {
            Some(Ok(exit_code)) => Ok(ExecSyncResponse { stdout: out, stderr: errors, exit_code }),
            Some(Err(_)) => Err(CriError::unavailable("the container's shim is gone")),
            None => {
                shim.call(Call::Signal { id: id.clone(), signal: libc::SIGKILL }).await?;
                // The command is over with this answer, unless the kernel holds it up.
                if tokio::time::timeout(DRAIN_LIMIT, &mut end).await.is_err() {
                    tracing::debug!(exec = id, "a command that took too long does not end");
                }
                let why = format!(
                    "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
                    request.timeout
                );
                Err(CriError::deadline_exceeded(why))
            }
        }
    }
}

/// Reads to the end and keeps what fits.
async fn keep(from: Option<pipe::Receiver>, kept: &mut Vec<u8>) {
    const CHUNK_BYTES: usize = 4096;
    let Some(mut from) = from else { return };
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let room = MAX_SYNC_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..length.min(room)]);
    }
}

/// Pipes to a process: this side's ends, and the others in the order in which the shim takes them.
#[derive(Default)]
struct Pipes {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    theirs: Vec<OwnedFd>,
}

impl Pipes {
    fn open(&mut self, wanted: Streams) -> CriResult<()> {
        let mut make = || -> io::Result<()> {
            if wanted.stdin {
                let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                self.stdin = Some(pipe::Sender::from_owned_fd(writer)?);
                self.theirs.push(reader);
            }
            let mut output = |wanted: bool| -> io::Result<Option<pipe::Receiver>> {
                if !wanted {
                    return Ok(None);
                }
                let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                self.theirs.push(writer);
                Ok(Some(pipe::Receiver::from_owned_fd(reader)?))
            };
            self.stdout = output(wanted.stdout)?;
            self.stderr = output(wanted.stderr)?;
            Ok(())
        };
        make().map_err(internal("make pipes"))
    }
}

/// This side of a process's terminal.
struct Terminal(Arc<AsyncFd<OwnedFd>>);

fn nonblocking_terminal(terminal: OwnedFd) -> CriResult<Arc<AsyncFd<OwnedFd>>> {
    let make = || -> io::Result<_> {
        let flags = rustix::fs::fcntl_getfl(&terminal)?;
        rustix::fs::fcntl_setfl(&terminal, flags | OFlags::NONBLOCK)?;
        Ok(Arc::new(crate::sys::watch(terminal)?))
    };
    make().map_err(internal("use the terminal"))
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            match guard.try_io(|fd| Ok(rustix::io::read(fd, buffer.initialize_unfilled())?)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // A terminal that nobody holds open on the other side any more reads as an error: that is its end.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A terminal has no half to close; whoever types ends the input by a character.
        Poll::Ready(Ok(()))
    }
}

fn reader(pipe: Option<pipe::Receiver>) -> Option<Box<dyn AsyncRead + Send + Unpin>> {
    pipe.map(|pipe| Box::new(pipe) as _)
}

fn writer(pipe: Option<pipe::Sender>) -> Option<Box<dyn AsyncWrite + Send + Unpin>> {
    pipe.map(|pipe| Box::new(pipe) as _)
}

/// How many sizes of a terminal may wait; a newer one is as good as all before it.
const SIZES_AHEAD: usize = 4;

#[async_trait]
impl StreamBackend for Inner {
    async fn exec(&self, request: &ExecRequest) -> Result<streaming::Process, CriError> {
        let streams = Streams { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr && !request.tty };
        let running = self.run_command(&request.container_id, &request.cmd, request.tty, streams).await?;
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(SIZES_AHEAD);
        let Running { end, terminal, .. } = running;
        let exit = Box::pin(async move {
            match end.await {
                Ok(code) => ExitStatus::Exited(code),
                Err(_) => ExitStatus::Failed("the container's shim is gone".to_owned()),
            }
        });
        let Some(terminal) = terminal else {
            let (stdin, stdout, stderr) = (writer(running.stdin), reader(running.stdout), reader(running.stderr));
            return Ok(streaming::Process { stdin, stdout, stderr, resize, exit });
        };
        let resized = Arc::downgrade(&terminal);
        tokio::spawn(async move {
            while let (Some(size), Some(terminal)) = (sizes.recv().await, resized.upgrade()) {
                if let Err(error) = crate::shim::resize(terminal.get_ref().as_fd(), size.width, size.height) {
                    tracing::debug!(error, "terminal of an exec");
                }
            }
        });
        let stdin: Option<Box<dyn AsyncWrite + Send + Unpin>> =
            request.stdin.then(|| Box::new(Terminal(terminal.clone())) as _);
        Ok(streaming::Process { stdin, stdout: Some(Box::new(Terminal(terminal))), stderr: None, resize, exit })
    }

    async fn attach(&self, request: &AttachRequest) -> Result<streaming::Process, CriError> {
        let id = request.container_id.clone();
        let container = self.container(&id)?;
        let shim = self.shim_of(&container)?;
        let streams = Streams { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr && !request.tty };
        let mut pipes = Pipes::default();
        pipes.open(streams)?;
        for fd in &pipes.theirs {
            // The shim must never wait for whoever watches.
            let flags = rustix::fs::fcntl_getfl(fd).map_err(|error| CriError::internal(error.to_string()))?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)
                .map_err(|error| CriError::internal(error.to_string()))?;
        }
        let beside: Vec<BorrowedFd<'_>> = pipes.theirs.iter().map(AsFd::as_fd).collect();
        shim.call_with(Call::Attach { id: id.clone(), streams }, &beside).await?;
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(SIZES_AHEAD);
        tokio::spawn(async move {
            while let Some(TerminalSize { width, height }) = sizes.recv().await {
                if let Err(error) = shim.call(Call::Resize { id: id.clone(), width, height }).await {
                    tracing::debug!(%error, "terminal of a container");
                }
            }
        });
        let (stdin, stdout, stderr) = (writer(pipes.stdin), reader(pipes.stdout), reader(pipes.stderr));
        let exit = Box::pin(async move {
            container.wait_end().await;
            // How the container ended is told by its status; attaching to it went well.
            ExitStatus::Exited(0)
        });
        Ok(streaming::Process { stdin, stdout, stderr, resize, exit })
    }

    async fn connect(&self, sandbox_id: &str, port: u16) -> Result<TcpStream, CriError> {
        let shim = self.sandbox(sandbox_id)?.shim()?;
        let (_, sockets) = shim.call_with(Call::Connect { port }, &[]).await?;
        let socket = sockets.into_iter().next().ok_or_else(|| CriError::internal("the shim sent no socket"))?;
        let socket = std::net::TcpStream::from(socket);
        socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket)).map_err(internal("use the connection"))
    }
}
