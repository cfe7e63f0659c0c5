//! Connections whose bytes go to an endpoint as they are, whatever is in them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;

use super::choice::Target;
use super::proxy::Proxy;
use super::site::Route;

/// A connection that remembers what was read from it, so that it can be read once more: a client says by its first
/// words to whom its connection goes, and that one must hear them, too.
pub struct Recorded<S = TcpStream> {
    stream: S,
    record: Record,
}

enum Record {
    /// Everything that was read.
    Kept(Vec<u8>),
    /// What is to be read once more, and how far that is.
    Again(Vec<u8>, usize),
    /// Nothing.
    Forgotten,
}

impl<S> Recorded<S> {
    /// Remembers from now on.
    pub fn new(stream: S) -> Self {
        Self { stream, record: Record::Kept(Vec::new()) }
    }

    /// Of which this was read already, and is to be read once more.
    pub fn read_already(stream: S, bytes: Vec<u8>) -> Self {
        Self { stream, record: Record::Again(bytes, 0) }
    }

    /// Forgets what was read.
    pub fn forget(&mut self) {
        self.record = Record::Forgotten;
    }

    /// Reads everything once more.
    pub fn rewind(&mut self) {
        if let Record::Kept(kept) = &mut self.record {
            self.record = Record::Again(std::mem::take(kept), 0);
        }
    }
}

impl<S: AsyncRead + Unpin> Recorded<S> {
    /// Reads so much that it is enough, or all there is, to be read once more.
    ///
    /// # Errors
    /// It broke.
    pub async fn read_ahead(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        let mut bytes = match std::mem::replace(&mut self.record, Record::Forgotten) {
            Record::Kept(_) | Record::Forgotten => Vec::new(),
            Record::Again(kept, at) => kept[at..].to_vec(),
        };
        while !is_enough(&bytes) && self.stream.read_buf(&mut bytes).await? > 0 {}
        self.record = Record::Again(bytes, 0);
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorded<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Record::Again(kept, at) = &mut this.record {
            let rest = &kept[*at..];
            let length = rest.len().min(into.remaining());
            into.put_slice(&rest[..length]);
            *at += length;
            if *at == kept.len() {
                this.record = Record::Forgotten;
            }
            if length > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, into))?;
        if let Record::Kept(kept) = &mut this.record {
            kept.extend_from_slice(&into.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Proxy {
    /// Carries a connection's bytes to an endpoint of whoever the route chooses, and back, until both are done.
    ///
    /// # Errors
    /// Nobody is there, or one side broke off.
    pub async fn pass(&self, mut client: impl AsyncRead + AsyncWrite + Unpin, route: &Route) -> io::Result<()> {
        let nobody = || io::Error::new(io::ErrorKind::NotConnected, format!("{} has no endpoint", route.owner));
        let backend = route.choice.turn().and_then(|at| route.choice.backend(at)).ok_or_else(nobody)?;
        let Target::Upstream(upstream) = &backend.target else { return Err(nobody()) };
        let mut failure = nobody();
        for endpoint in upstream.turn().take(upstream.endpoints.len()) {
            let connecting = tokio::time::timeout(route.options.connect_timeout, TcpStream::connect(endpoint));
            match connecting.await.unwrap_or_else(|late| Err(late.into())) {
                Ok(mut stream) => {
                    stream.set_nodelay(true)?;
                    return copy_bidirectional(&mut client, &mut stream).await.map(drop);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}
