//! Datagrams that came together, received by one call of the system and answered by another. Who receives waits in that very
//! call: to be told of news elsewhere, and to fetch them then, would be two more calls.

use std::array;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::AsRawFd;

use hickory_proto::op::Message;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, sendto};

use super::wire::encode;

/// How many are received at once: beyond these a call costs next to nothing compared with what the datagrams cost.
const MOST: usize = 32;
/// The largest request that is taken.
const MAX_REQUEST_BYTES: usize = 4096;

/// Who asked.
pub(super) type Client = SockaddrStorage;

fn heads() -> MultiHeaders<Client> {
    MultiHeaders::preallocate(MOST, None)
}

/// Requests as they came. One and the same room is used for all batches.
pub(super) struct Requests {
    room: Box<[u8]>,
    /// Where the system writes who sent them. One socket has one family, whose addresses are all of the same length.
    heads: MultiHeaders<Client>,
    /// How long each is, and who sent it.
    received: Vec<(usize, Client)>,
}

impl Requests {
    pub(super) fn new() -> Self {
        let room = vec![0; MOST * MAX_REQUEST_BYTES].into();
        Self { room, heads: heads(), received: Vec::with_capacity(MOST) }
    }

    /// Waits for requests and takes those that are there, in place of the last ones.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.received.clear();
        let mut rooms = self.room.chunks_mut(MAX_REQUEST_BYTES);
        let mut parts: [_; MOST] = array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap_or_default())]);
        let parts = parts.iter_mut();
        let messages = recvmmsg(socket.as_raw_fd(), &mut self.heads, parts, MsgFlags::MSG_WAITFORONE, None)?;
        self.received.extend(messages.filter_map(|message| Some((message.bytes, message.address?))));
        Ok(())
    }

    /// Those that were taken last, each with who sent it.
    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8], Client)> {
        let rooms = self.room.chunks(MAX_REQUEST_BYTES);
        rooms.zip(&self.received).map(|(room, (length, client))| (&room[..*length], *client))
    }
}

/// Answers that wait to be sent together.
pub(super) struct Replies {
    bytes: Vec<u8>,
    heads: MultiHeaders<Client>,
    /// Where each begins and ends.
    places: Vec<Range<usize>>,
    /// Who gets it.
    clients: Vec<Option<Client>>,
}

impl Replies {
    pub(super) fn new() -> Self {
        let (places, clients) = (Vec::with_capacity(MOST), Vec::with_capacity(MOST));
        Self { bytes: Vec::new(), heads: heads(), places, clients }
    }

    /// Adds what `write` appends, if it says that this is an answer.
    pub(super) fn add(&mut self, client: Client, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let begin = self.bytes.len();
        let is_one = write(&mut self.bytes);
        if is_one {
            self.places.push(begin..self.bytes.len());
            self.clients.push(Some(client));
        } else {
            self.bytes.truncate(begin);
        }
        is_one
    }

    /// Adds an answer of which no more than so many bytes fit.
    pub(super) fn add_encoded(&mut self, client: Client, reply: Message, limit: usize) {
        self.add(client, |bytes| encode(reply, Some(limit)).map(|own| bytes.extend(own)).is_some());
    }

    /// Sends all of them. One that cannot be sent is left out: its client asks again.
    pub(super) fn send(&mut self, socket: &UdpSocket) {
        let mut sent = 0;
        while sent < self.places.len() {
            match self.give(sent, socket) {
                Ok(count) => sent += count,
                Err(error) => {
                    tracing::debug!(%error, "sending a DNS response failed");
                    sent += 1;
                }
            }
        }
        self.bytes.clear();
        self.places.clear();
        self.clients.clear();
    }

    /// How many were sent, from the one at `from` on; an error is that one's.
    fn give(&mut self, from: usize, socket: &UdpSocket) -> io::Result<usize> {
        let mut places = self.places[from..].iter();
        let part = |place: &Range<usize>| IoSlice::new(&self.bytes[place.clone()]);
        let parts: [_; MOST] = array::from_fn(|_| [places.next().map_or(IoSlice::new(&[]), part)]);
        let clients = &self.clients[from..];
        let nothing: [ControlMessage<'_>; 0] = [];
        // There is one part for each client, and no more are looked at.
        let (parts, flags) = (parts.iter(), MsgFlags::empty());
        Ok(sendmmsg(socket.as_raw_fd(), &mut self.heads, parts, clients, nothing, flags)?.count())
    }
}

/// Sends one answer by itself, unless there is no room: then its client asks again.
pub(super) fn send_one(socket: &UdpSocket, client: Client, reply: Message, limit: usize) {
    let Some(bytes) = encode(reply, Some(limit)) else { return };
    if let Err(error) = sendto(socket.as_raw_fd(), &bytes, &client, MsgFlags::MSG_DONTWAIT) {
        tracing::debug!(%error, "sending a DNS response failed");
    }
}
