//! A netlink socket in this network namespace or in another: send a batch, collect the kernel's answers.
//! The kernel works a batch off while it is being sent, so nothing here ever waits.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use netlink_sys::SocketAddr;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};

use super::wire::{Batch, messages};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Room for the largest batch: all rules of some ten thousand Services are sent at once, so that they change at once.
const SEND_BUFFER_BYTES: usize = 64 << 20;
/// Room for the answers: one refused batch can earn an answer for each of its messages.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// What can go wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel said no to one message.
    #[error("cannot {label}: {errno}")]
    Refused {
        /// What was tried.
        label: String,
        /// Why not.
        errno: nix::errno::Errno,
    },
    /// The namespace could not be entered.
    #[error("cannot enter the network namespace {}: {source}", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The socket itself failed.
    #[error("cannot {what} a netlink socket: {source}")]
    Socket {
        /// What was tried with it.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl NetlinkError {
    /// The kernel's reason, if it was the kernel that refused.
    pub fn errno(&self) -> Option<nix::errno::Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    fn socket(what: &'static str, source: std::io::Error) -> Self {
        Self::Socket { what, source }
    }
}

/// The families that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes.
    Route,
    /// nftables.
    Netfilter,
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Namespace {
    file: std::fs::File,
    path: PathBuf,
}

impl Namespace {
    /// Opens the namespace that is mounted, or linked, at `path`.
    pub fn open(path: &Path) -> Result<Self, NetlinkError> {
        let file = std::fs::File::open(path).map_err(|source| NetlinkError::Namespace { path: path.into(), source })?;
        Ok(Self { file, path: path.into() })
    }

    /// The descriptor, as link messages want it.
    pub fn descriptor(&self) -> u32 {
        use std::os::fd::AsRawFd;
        u32::try_from(self.file.as_raw_fd()).expect("an open descriptor is not negative")
    }

    /// Runs `work` inside, on a thread that exists only for this: a thread of a pool must never change its namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetlinkError> {
        let inside = std::thread::scope(|scope| {
            let enter = || setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map(|()| work());
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, enter)?;
            thread.join().expect("the work in a namespace does not panic").map_err(std::io::Error::from)
        });
        inside.map_err(|source| NetlinkError::Namespace { path: self.path.clone(), source })
    }
}

/// An open socket. It stays in the namespace it was made in, wherever it is used.
pub struct Socket {
    inner: netlink_sys::Socket,
    kernel: SocketAddr,
}

impl Socket {
    /// A socket in the calling thread's namespace.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let number = match protocol {
            Protocol::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Protocol::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
        };
        let mut inner = netlink_sys::Socket::new(number).map_err(|source| NetlinkError::socket("open", source))?;
        inner.bind_auto().map_err(|source| NetlinkError::socket("bind", source))?;
        inner.set_non_blocking(true).map_err(|source| NetlinkError::socket("set up", source))?;
        // Without it, every refusal would carry the whole refused message back.
        inner.set_cap_ack(true).map_err(|source| NetlinkError::socket("set up", source))?;
        let raised = setsockopt(&inner, sockopt::SndBufForce, &SEND_BUFFER_BYTES)
            .and_then(|()| setsockopt(&inner, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES));
        raised.map_err(|errno| NetlinkError::socket("raise the buffers of", errno.into()))?;
        Ok(Self { inner, kernel: SocketAddr::new(0, 0) })
    }

    /// A socket in another namespace.
    pub fn open_in(namespace: &Namespace, protocol: Protocol) -> Result<Self, NetlinkError> {
        namespace.run(|| Self::open(protocol))?
    }

    /// Sends the batch; every refusal becomes an error. All messages are tried, also after one was refused.
    pub fn try_all(&self, batch: &Batch) -> Result<Vec<NetlinkError>, NetlinkError> {
        let mut refused = Vec::new();
        self.exchange(batch, |kind, sequence, payload| {
            if kind == NLMSG_ERROR
                && let Some(errno) = error_of(payload)
            {
                refused.push(NetlinkError::Refused { label: batch.label(sequence).to_owned(), errno });
            }
        })?;
        Ok(refused)
    }

    /// Sends the batch; the first refusal is the error.
    pub fn execute(&self, batch: &Batch) -> Result<(), NetlinkError> {
        match self.try_all(batch)?.into_iter().next() {
            Some(first) => Err(first),
            None => Ok(()),
        }
    }

    /// Sends the batch and hands every message of the answer (type and payload) to `each`.
    pub fn query(&self, batch: &Batch, mut each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        let mut refused = None;
        self.exchange(batch, |kind, sequence, payload| match kind {
            NLMSG_DONE => {}
            NLMSG_ERROR => {
                if let Some(errno) = error_of(payload) {
                    refused.get_or_insert(NetlinkError::Refused { label: batch.label(sequence).to_owned(), errno });
                }
            }
            _ => each(kind, payload),
        })?;
        refused.map_or(Ok(()), Err)
    }

    fn exchange(&self, batch: &Batch, mut each: impl FnMut(u16, u32, &[u8])) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        // What an earlier, failed exchange may have left behind must not be taken for an answer to this one.
        while self.receive()?.is_some() {}
        self.inner.send_to(batch.bytes(), &self.kernel, 0).map_err(|source| NetlinkError::socket("send on", source))?;
        while let Some(datagram) = self.receive()? {
            for (kind, sequence, payload) in messages(&datagram) {
                each(kind, sequence, payload);
            }
        }
        Ok(())
    }

    fn receive(&self) -> Result<Option<Vec<u8>>, NetlinkError> {
        match self.inner.recv_from_full() {
            Ok((datagram, _)) => Ok(Some(datagram)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.receive(),
            Err(source) => Err(NetlinkError::socket("receive from", source)),
        }
    }
}

fn error_of(payload: &[u8]) -> Option<nix::errno::Errno> {
    let number = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    (number != 0).then(|| nix::errno::Errno::from_raw(-number))
}
