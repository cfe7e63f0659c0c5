//! One connection of HTTP/1.1 to an endpoint. No task of its own drives it, but the request that it serves: so a request and
//! its answer pass between two sockets without waking anybody else.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::bodies::Outgoing;
use super::connections::Connections;

/// All that is written and read, until the connection ends or becomes something else.
type Wire = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// A connection that serves one request at a time.
pub struct Line {
    sender: SendRequest<Outgoing>,
    /// Nothing once it has ended.
    wire: Option<Wire>,
}

impl Line {
    /// Begins to speak on a stream.
    ///
    /// # Errors
    /// The HTTP stack does not take it.
    pub async fn open(stream: TcpStream) -> hyper::Result<Self> {
        let (sender, wire) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, wire: Some(Box::pin(wire.with_upgrades())) })
    }

    /// Goes on as far as it can; true when it has ended.
    fn advance(&mut self, context: &mut Context<'_>) -> bool {
        let Some(wire) = &mut self.wire else { return true };
        let Poll::Ready(outcome) = wire.as_mut().poll(context) else { return false };
        self.wire = None;
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection to an endpoint broke");
        }
        true
    }

    /// Whether the other side has not closed it while it waited, and it takes a request.
    pub fn is_good(&mut self) -> bool {
        !self.advance(&mut Context::from_waker(Waker::noop())) && self.sender.is_ready()
    }

    fn end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.advance(context) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sends a request; an error may bring it back, if nothing of it was sent. The connection goes with the answer, and back
    /// to where others wait when that was read.
    pub async fn send(
        mut self,
        request: Request<Outgoing>,
        home: Home,
    ) -> Result<Response<Answer>, TrySendError<Request<Outgoing>>> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let response = std::future::poll_fn(|context| {
            self.advance(context);
            answer.as_mut().poll(context)
        });
        let response = response.await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            tokio::spawn(async move { std::future::poll_fn(|context| self.end(context)).await });
            return Ok(response.map(Answer::alone));
        }
        let mut response = response.map(|body| Answer { body, line: Some((self, home)) });
        std::future::poll_fn(|context| {
            // Who reads an answer of no bytes does not ask for its end.
            response.body_mut().settle(context);
            Poll::Ready(())
        })
        .await;
        Ok(response)
    }
}

/// Where a connection goes when it has served.
pub struct Home {
    /// All that wait.
    pub all: Arc<Connections>,
    /// To whom it leads.
    pub endpoint: SocketAddr,
}

/// The body of an endpoint's answer, which drives the connection that it comes by.
pub struct Answer {
    body: Incoming,
    line: Option<(Line, Home)>,
}

impl Answer {
    /// One whose connection is driven elsewhere.
    pub fn alone(body: Incoming) -> Self {
        Self { body, line: None }
    }

    /// Lets the connection go where all was read.
    fn settle(&mut self, context: &mut Context<'_>) {
        if self.body.is_end_stream() {
            self.let_go(context);
        }
    }

    fn let_go(&mut self, context: &mut Context<'_>) {
        if let Some((mut line, home)) = self.line.take()
            && !line.advance(context)
            && line.sender.is_ready()
        {
            home.all.give_back(home.endpoint, line);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let mut next = Pin::new(&mut this.body).poll_frame(context);
        if next.is_pending()
            && let Some((line, _)) = &mut this.line
        {
            if line.advance(context) {
                this.line = None;
            }
            next = Pin::new(&mut this.body).poll_frame(context);
        }
        match ready!(next) {
            None => {
                this.let_go(context);
                Poll::Ready(None)
            }
            Some(frame) => {
                this.settle(context);
                Poll::Ready(Some(frame))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
