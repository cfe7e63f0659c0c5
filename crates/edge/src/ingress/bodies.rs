//! What is sent to endpoints: a client's words as they come, and copies of them for those who only listen.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

/// How many pieces of a body a copy may be behind; who is slower is given up, because nobody waits for copies.
const MAX_BEHIND: usize = 32;

/// What is sent.
pub enum Outgoing {
    /// Nothing.
    Nothing,
    /// What the client sends.
    Whole(Incoming),
    /// What the client sends, and copies of it to others.
    Copied(Incoming, Vec<mpsc::Sender<Piece>>),
    /// A copy.
    Copy(mpsc::Receiver<Piece>),
}

/// A piece of a copied body.
pub enum Piece {
    /// Some of it.
    Frame(Frame<Bytes>),
    /// It was all.
    End,
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

impl Outgoing {
    /// The same body with so many copies of it.
    pub fn with_copies(self, count: usize) -> (Self, Vec<Self>) {
        match self {
            Self::Whole(body) if count > 0 => {
                let (senders, copies): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(MAX_BEHIND)).unzip();
                (Self::Copied(body, senders), copies.into_iter().map(Self::Copy).collect())
            }
            other => (other, (0..count).map(|_| Self::Nothing).collect()),
        }
    }
}

/// Sends a piece to all who keep up.
fn tell(copies: &mut Vec<mpsc::Sender<Piece>>, piece: impl Fn() -> Option<Piece>) {
    copies.retain(|copy| piece().is_none_or(|piece| copy.try_send(piece).is_ok()));
}

fn again(frame: &Frame<Bytes>) -> Option<Piece> {
    let data = frame.data_ref().cloned().map(Frame::data);
    data.or_else(|| frame.trailers_ref().cloned().map(Frame::trailers)).map(Piece::Frame)
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Nothing => Poll::Ready(None),
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Copied(body, copies) => {
                let next = ready!(Pin::new(&mut *body).poll_frame(context));
                match &next {
                    Some(Ok(frame)) => tell(copies, || again(frame)),
                    None => {}
                    // Copies end without their end.
                    Some(Err(_)) => copies.clear(),
                }
                // Who knows the length does not ask whether more is to come.
                if next.is_none() || body.is_end_stream() {
                    tell(copies, || Some(Piece::End));
                    copies.clear();
                }
                Poll::Ready(next.map(|frame| frame.map_err(Into::into)))
            }
            Self::Copy(pieces) => Poll::Ready(match ready!(pieces.poll_recv(context)) {
                Some(Piece::Frame(frame)) => Some(Ok(frame)),
                Some(Piece::End) => None,
                None => Some(Err("the copied request broke off".into())),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Whole(body) => body.is_end_stream(),
            // Copies have to be told that it was all.
            Self::Copied(..) | Self::Copy(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Whole(body) | Self::Copied(body, _) => body.size_hint(),
            Self::Copy(_) => SizeHint::default(),
        }
    }
}
