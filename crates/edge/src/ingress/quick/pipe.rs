//! Bytes on their way between sockets.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once of bodies.
pub const PIECE: usize = 64 * 1024;

thread_local! {
    /// Where all connections of a thread read to, so that one that waits has no room of its own.
    static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]);
}

/// Bytes that are to be written.
#[derive(Debug, Default)]
pub struct Out {
    /// All of them.
    pub bytes: Vec<u8>,
    /// So many are written.
    pub written: usize,
}

impl Out {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }

    /// Writes what is left.
    pub fn poll_write(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(context, &self.bytes[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes these bytes, when nothing is left; what cannot be written now is left.
    pub fn write_or_keep(
        &mut self,
        bytes: &[u8],
        to: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        self.clear();
        let written = match Pin::new(to).poll_write(context, bytes) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        self.bytes.extend_from_slice(&bytes[written..]);
        Ok(())
    }
}

/// Reads so many bytes at most; none at the end.
pub fn poll_read<T>(
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
    context: &mut Context<'_>,
    then: impl FnOnce(&[u8], &mut Context<'_>) -> T,
) -> Poll<io::Result<T>> {
    ROOM.with_borrow_mut(|room| {
        let mut read = ReadBuf::new(&mut room[..most]);
        ready!(Pin::new(from).poll_read(context, &mut read))?;
        Poll::Ready(Ok(then(read.filled(), context)))
    })
}

/// Takes so many bytes away from the beginning.
pub fn take(bytes: &mut Vec<u8>, count: usize) {
    if count == bytes.len() {
        bytes.clear();
    } else {
        bytes.drain(..count);
    }
}
