//! Datagrams that came together, received by one call of the system and answered by another.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// How many are received at once: beyond these a call costs next to nothing compared with what the datagrams cost.
const MOST: usize = 32;
/// The largest request that is taken.
const MAX_REQUEST_BYTES: usize = 4096;

/// Requests as they came. One and the same room is used for all batches.
pub(super) struct Requests {
    room: Box<[u8]>,
    /// How long each is, and who sent it.
    received: Vec<(usize, SocketAddr)>,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self { room: vec![0; MOST * MAX_REQUEST_BYTES].into(), received: Vec::with_capacity(MOST) }
    }

    /// Waits for requests and takes those that are there, in place of the last ones.
    pub(super) async fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        loop {
            socket.readable().await?;
            match socket.try_io(Interest::READABLE, || self.take(socket)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }

    fn take(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.received.clear();
        let mut parts: Vec<_> = self.room.chunks_mut(MAX_REQUEST_BYTES).map(|part| [IoSliceMut::new(part)]).collect();
        let mut heads = MultiHeaders::<SockaddrStorage>::preallocate(MOST, None);
        let messages = recvmmsg(socket.as_raw_fd(), &mut heads, parts.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        // One from nowhere keeps its place, so that the others keep theirs; nobody can be answered there.
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let client = |address: Option<SockaddrStorage>| address.as_ref().and_then(plain).unwrap_or(nowhere);
        self.received.extend(messages.map(|message| (message.bytes, client(message.address))));
        Ok(())
    }

    /// Those that were taken last, each with who sent it.
    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let rooms = self.room.chunks(MAX_REQUEST_BYTES);
        rooms.zip(&self.received).map(|(room, (length, client))| (&room[..*length], *client))
    }

    /// Whether more may wait.
    pub(super) fn is_full(&self) -> bool {
        self.received.len() == MOST
    }
}

fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|own| SocketAddr::from((Ipv4Addr::from(own.ip()), own.port())));
    v4().or_else(|| address.as_sockaddr_in6().map(|own| SocketAddr::from((Ipv6Addr::from(own.ip()), own.port()))))
}

/// Answers that wait to be sent together.
#[derive(Default)]
pub(super) struct Replies {
    bytes: Vec<u8>,
    /// Where each begins and ends, and who gets it.
    places: Vec<(Range<usize>, SocketAddr)>,
}

impl Replies {
    /// Adds what `write` appends, if it says that this is an answer.
    pub(super) fn add(&mut self, client: SocketAddr, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let begin = self.bytes.len();
        let is_one = write(&mut self.bytes);
        if is_one {
            self.places.push((begin..self.bytes.len(), client));
        } else {
            self.bytes.truncate(begin);
        }
        is_one
    }

    /// Sends all of them. One that cannot be sent is left out: its client asks again.
    pub(super) async fn send(&mut self, socket: &UdpSocket) {
        let mut sent = 0;
        while sent < self.places.len() {
            match socket.try_io(Interest::WRITABLE, || self.give(&self.places[sent..], socket)) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = socket.writable().await {
                        tracing::debug!(%error, "the DNS socket is gone");
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(client = %self.places[sent].1, %error, "sending a DNS response failed");
                    sent += 1;
                }
            }
        }
        self.bytes.clear();
        self.places.clear();
    }

    /// How many of these were sent; an error is the first one's.
    fn give(&self, places: &[(Range<usize>, SocketAddr)], socket: &UdpSocket) -> io::Result<usize> {
        let parts: Vec<_> = places.iter().map(|(place, _)| [IoSlice::new(&self.bytes[place.clone()])]).collect();
        let clients: Vec<_> = places.iter().map(|(_, client)| Some(SockaddrStorage::from(*client))).collect();
        let mut heads = MultiHeaders::<SockaddrStorage>::preallocate(parts.len(), None);
        let nothing: [ControlMessage<'_>; 0] = [];
        let flags = MsgFlags::MSG_DONTWAIT;
        match sendmmsg(socket.as_raw_fd(), &mut heads, parts.iter(), &clients, nothing, flags) {
            Ok(sent) => Ok(sent.count()),
            Err(Errno::EAGAIN) => Err(ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.into()),
        }
    }
}
