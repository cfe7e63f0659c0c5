//! A request on its way to an endpoint, and the answer on its way back. Both go on at the same time, in the one task of the
//! client's connection.

use std::future::poll_fn;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::annotations::Options;
use super::super::proxy::Failure;
use super::super::upstream::Upstream;
use super::answer::{self, Besides, Head};
use super::framing::Framing;
use super::pipe::{self, PIECE};
use super::{Asked, Session};

/// How much is read at once where a head is expected.
const FIRST_PIECE: usize = 16 * 1024;
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Nothing is waited for longer, whatever is asked for: later points in time may be none.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Why there is no answer to pass on.
pub enum Lost {
    /// The client is not there any more.
    Client(io::Error),
    /// No endpoint has given one.
    Answer(Failure),
}

/// Who does not go on.
enum Gone {
    Client(io::Error),
    Endpoint(io::Error),
}

/// An answer whose head is on its way to the client.
pub struct Answering {
    /// Who answers.
    pub endpoint: SocketAddr,
    /// The connection.
    pub stream: TcpStream,
    /// The status.
    pub status: StatusCode,
    /// How the end of the body is told.
    pub framing: Framing,
    /// Whether the client is told the end by chunks.
    pub in_chunks: bool,
    /// Whether the endpoint keeps the connection.
    pub is_kept: bool,
    /// Whether the client's connection ends with the answer.
    pub is_last: bool,
}

/// What the head of an answer says.
struct Told {
    status: StatusCode,
    framing: Framing,
    is_kept: bool,
    is_last: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Sends the request to the endpoint whose turn it is; to another one, if that one does not take it.
    pub async fn ask(&mut self, upstream: &Upstream, options: &Options, asked: &Asked<'_>) -> Result<Answering, Lost> {
        let limit = options.request_timeout.map(|limit| Instant::now() + limit.min(LONGEST));
        let in_time = |patience: Duration| {
            let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            left.map_or(patience, |left| left.min(patience)).min(LONGEST)
        };
        let mut failure = Failure::Nobody;
        let mut may_be_old = true;
        for endpoint in upstream.tries() {
            let kept = may_be_old.then(|| self.proxy.connections.take_bare(endpoint)).flatten();
            let mut stream = match kept {
                Some(stream) => stream,
                None => match self.proxy.connections.connect_bare(endpoint, in_time(options.connect_timeout)).await {
                    Ok(stream) => stream,
                    Err(_) if in_time(Duration::MAX).is_zero() => return Err(Lost::Answer(Failure::Late)),
                    Err(error) => {
                        failure = Failure::Unreachable(error);
                        continue;
                    }
                },
            };
            self.timer.as_mut().reset(Instant::now() + in_time(options.read_timeout));
            self.up.written = 0;
            self.reply.clear();
            self.seen = 0;
            self.refused = None;
            let told = poll_fn(|context| self.poll_answer(&mut stream, asked, context)).await;
            match told {
                Ok(Told { status, framing, is_kept, is_last }) => {
                    let in_chunks = !matches!(framing, Framing::Length(_));
                    return Ok(Answering { endpoint, stream, status, framing, in_chunks, is_kept, is_last });
                }
                Err(Lost::Answer(Failure::Broken(error)))
                    if self.has_head && (self.up.written == 0 || asked.is_spare) =>
                {
                    failure = Failure::Broken(error);
                    // An old connection may have been closed by the other side in this very moment, and so may the next.
                    may_be_old = false;
                }
                Err(lost) => return Err(lost),
            }
        }
        Err(Lost::Answer(failure))
    }

    /// The head of the answer, written for the client.
    fn poll_answer(
        &mut self,
        stream: &mut TcpStream,
        asked: &Asked<'_>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Told, Lost>> {
        let broken = |error: io::Error| Poll::Ready(Err(Lost::Answer(Failure::Broken(error.into()))));
        if self.refused.is_none() {
            match self.poll_up(stream, context) {
                Poll::Ready(Err(Gone::Client(error))) => return Poll::Ready(Err(Lost::Client(error))),
                // Who does not want to hear more may have answered all the same.
                Poll::Ready(Err(Gone::Endpoint(error))) => self.refused = Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        loop {
            if !self.reply.is_empty() {
                match self.read_head(asked) {
                    Ok(Some(told)) => return Poll::Ready(Ok(told)),
                    Ok(None) => {}
                    Err(error) => return broken(error),
                }
            }
            let reply = &mut self.reply;
            let read = pipe::poll_read(stream, FIRST_PIECE, context, |bytes, _| {
                reply.extend_from_slice(bytes);
                bytes.len()
            });
            let error = match read {
                Poll::Ready(Ok(1..)) => continue,
                Poll::Ready(Ok(0)) => io::ErrorKind::UnexpectedEof.into(),
                Poll::Ready(Err(error)) => error,
                Poll::Pending => break,
            };
            return broken(self.refused.take().unwrap_or(error));
        }
        if let Err(error) = self.listen(context) {
            return Poll::Ready(Err(Lost::Client(error)));
        }
        ready!(self.poll_timer(context));
        Poll::Ready(Err(Lost::Answer(Failure::Late)))
    }

    /// Reads the head of the answer, if it is all there, and writes it for the client.
    fn read_head(&mut self, asked: &Asked<'_>) -> io::Result<Option<Told>> {
        let said_all = self.body_left == 0 && self.up.is_empty();
        loop {
            // Empty lines before a head are passed over, as by all. They go at once, so that nobody counts them again.
            let empty = empty_lines(&self.reply);
            if empty > 0 {
                pipe::take(&mut self.reply, empty);
                self.seen = 0;
            }
            // A head ends with a line; without another end of one there is nothing new to see.
            let seen = std::mem::replace(&mut self.seen, self.reply.len());
            if seen > 0 && self.reply.len() < answer::MAX_HEAD && !self.reply[seen..].contains(&b'\n') {
                return Ok(None);
            }
            let mut room = answer::room();
            let Some(head) = Head::find(&self.reply, &asked.method, &mut room)? else { return Ok(None) };
            let length = head.length;
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(io::Error::other("the endpoint speaks another protocol, and nobody asked it to"));
            }
            if head.status.is_informational() {
                pipe::take(&mut self.reply, length);
                self.seen = 0;
                continue;
            }
            // What the client has not said of its request would be taken for another one.
            let is_last = asked.is_last || !said_all;
            let told = Told { status: head.status, framing: head.framing, is_kept: head.is_kept && said_all, is_last };
            self.down.clear();
            head.write(&Besides { is_last, dates: &self.proxy.dates }, &mut self.down.bytes);
            pipe::take(&mut self.reply, length);
            return Ok(Some(told));
        }
    }

    /// Passes the answer on, to its end.
    pub fn poll_pass(&mut self, answering: &mut Answering, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // An endpoint that does not want to hear more may go on with its answer.
            if let Poll::Ready(Err(Gone::Client(error))) = self.poll_up(&mut answering.stream, context) {
                return Poll::Ready(Err(error));
            }
            if !self.reply.is_empty() && !answering.framing.is_done() {
                let taken = carry(&mut answering.framing, answering.in_chunks, &self.reply, &mut self.down.bytes)?;
                pipe::take(&mut self.reply, taken);
            }
            ready!(self.poll_down(context))?;
            if answering.framing.is_done() {
                return Poll::Ready(Ok(()));
            }
            self.down.clear();
            let (client, down, reply) = (&mut self.stream, &mut self.down, &mut self.reply);
            let Answering { stream, framing, in_chunks, .. } = answering;
            let read = pipe::poll_read(stream, PIECE, context, |bytes, context| {
                if bytes.is_empty() {
                    return end_of_connection(framing, &mut down.bytes);
                }
                let taken = if let Framing::Length(_) = framing {
                    let piece = framing.next(bytes)?;
                    down.write_or_keep(piece.data, client, context)?;
                    piece.taken
                } else {
                    carry(framing, *in_chunks, bytes, &mut down.bytes)?
                };
                reply.extend_from_slice(&bytes[taken..]);
                Ok(())
            });
            let Poll::Ready(read) = read else {
                self.listen(context)?;
                return Poll::Pending;
            };
            read??;
        }
    }

    /// Sends what the client says to the endpoint, to the end of the request.
    fn poll_up(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        loop {
            ready!(self.up.poll_write(stream, context)).map_err(Gone::Endpoint)?;
            if self.body_left == 0 {
                return Poll::Ready(Ok(()));
            }
            self.has_head = false;
            self.up.clear();
            let most = usize::try_from(self.body_left).map_or(PIECE, |left| left.min(PIECE));
            let up = &mut self.up;
            let read = pipe::poll_read(&mut self.stream, most, context, |bytes, context| {
                up.write_or_keep(bytes, stream, context).map_err(Gone::Endpoint)?;
                Ok(bytes.len())
            });
            match ready!(read).map_err(Gone::Client)?? {
                0 => return Poll::Ready(Err(Gone::Client(io::ErrorKind::UnexpectedEof.into()))),
                read => self.body_left -= read as u64,
            }
        }
    }

    /// Writes what is on its way to the client.
    pub fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.down.poll_write(&mut self.stream, context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Listens to a client that is being answered: what it says now is its next request, and if it goes away nobody need be
    /// asked any more.
    fn listen(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.body_left > 0 || !self.input.is_empty() {
            return Ok(());
        }
        match self.poll_input(context) {
            Poll::Ready(Ok(false)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(read) => read.map(drop),
            Poll::Pending => Ok(()),
        }
    }

    /// Reads what the client says next; false at the end.
    pub fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let input = &mut self.input;
        pipe::poll_read(&mut self.stream, FIRST_PIECE, context, |bytes, _| {
            input.extend_from_slice(bytes);
            !bytes.is_empty()
        })
    }
}

/// How many bytes the empty lines at the beginning have.
fn empty_lines(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some(after) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
        rest = after;
    }
    bytes.len() - rest.len()
}

/// Writes what belongs to the body for the client; how many bytes that were.
fn carry(framing: &mut Framing, in_chunks: bool, bytes: &[u8], into: &mut Vec<u8>) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() && !framing.is_done() {
        let piece = framing.next(&bytes[taken..])?;
        taken += piece.taken;
        if in_chunks && !piece.data.is_empty() {
            write!(into, "{:x}\r\n", piece.data.len())?;
            into.extend_from_slice(piece.data);
            into.extend_from_slice(b"\r\n");
        } else {
            into.extend_from_slice(piece.data);
        }
    }
    if in_chunks && framing.is_done() {
        into.extend_from_slice(LAST_CHUNK);
    }
    Ok(taken)
}

/// The endpoint has closed the connection: that is the end of the body, or an accident.
fn end_of_connection(framing: &mut Framing, into: &mut Vec<u8>) -> io::Result<()> {
    if *framing != Framing::Rest {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    *framing = Framing::Length(0);
    into.extend_from_slice(LAST_CHUNK);
    Ok(())
}
