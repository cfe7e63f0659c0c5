//! Datagrams that came together, received by one call of the system and answered by another.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::Duration;

use hickory_proto::op::Message;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::wire::encode;

/// How many are received at once: beyond these a call costs next to nothing compared with what the datagrams cost.
const MOST: usize = 32;
/// The largest request that is taken.
const MAX_REQUEST_BYTES: usize = 4096;
/// How long it is waited for room to send, and how often.
const ROOM: (Duration, usize) = (Duration::from_millis(1), 100);

/// A socket of which it is only told when there is something to receive. To be told of room to send as well would cost a
/// turn of the runtime for each datagram that was sent.
pub(super) type Socket = AsyncFd<UdpSocket>;

/// Such a socket of one that is bound.
#[expect(deprecated, reason = "a socket of std keeps its descriptor, which is what the newer, unsafe way asks for")]
pub(super) fn socket(bound: UdpSocket) -> io::Result<Socket> {
    bound.set_nonblocking(true)?;
    AsyncFd::with_interest(bound, Interest::READABLE)
}

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
    pub(super) async fn receive(&mut self, socket: &Socket) -> io::Result<()> {
        loop {
            let mut readable = socket.readable().await?;
            if let Ok(outcome) = readable.try_io(|socket| self.take(socket.get_ref())) {
                if outcome.is_ok() && !self.is_full() {
                    // What comes from now on is told anew.
                    readable.clear_ready();
                }
                return outcome;
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
    let v4 = || address.as_sockaddr_in().map(|own| SocketAddr::from((own.ip(), own.port())));
    v4().or_else(|| address.as_sockaddr_in6().map(|own| SocketAddr::from((own.ip(), own.port()))))
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

    /// Adds an answer of which no more than so many bytes fit.
    pub(super) fn add_encoded(&mut self, client: SocketAddr, reply: Message, limit: usize) {
        self.add(client, |bytes| encode(reply, Some(limit)).map(|own| bytes.extend(own)).is_some());
    }

    /// Sends all of them. One that cannot be sent is left out: its client asks again.
    pub(super) async fn send(&mut self, socket: &Socket) {
        let (mut sent, mut waits) = (0, 0);
        while sent < self.places.len() {
            match self.give(&self.places[sent..], socket.get_ref()) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock && waits < ROOM.1 => {
                    waits += 1;
                    tokio::time::sleep(ROOM.0).await;
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
