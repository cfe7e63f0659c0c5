//! Connections to endpoints, kept for the next request: those of HTTP/1.1 serve one request at a time, one of HTTP/2
//! serves all.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use tokio::net::TcpStream;

use super::annotations::Protocol;
use super::bodies::Outgoing;

/// How many connections to one endpoint wait for their next request at most.
const MAX_IDLE: usize = 64;
/// How long they wait; shorter than what most servers wait themselves.
const IDLE: Duration = Duration::from_secs(30);

/// All connections to endpoints that are not busy.
pub struct Connections {
    clock: SharedClock,
    places: Mutex<HashMap<SocketAddr, Place>>,
}

#[derive(Default)]
struct Place {
    /// The last one used is the last; each with when it was put there.
    idle: Vec<(http1::SendRequest<Outgoing>, Duration)>,
    shared: Option<http2::SendRequest<Outgoing>>,
}

/// A connection that a request can be sent by.
pub enum Connection {
    /// HTTP/1.1, and whether it has served before.
    One(http1::SendRequest<Outgoing>),
    /// HTTP/2.
    Shared(http2::SendRequest<Outgoing>),
}

impl Connections {
    /// None yet.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, places: Mutex::default() }
    }

    /// A connection to the endpoint, an old one if there is one and it `may_be_old`.
    pub async fn get(
        &self,
        endpoint: SocketAddr,
        protocol: Protocol,
        may_be_old: bool,
        patience: Duration,
    ) -> io::Result<Connection> {
        if may_be_old && let Some(connection) = self.take(endpoint, protocol) {
            return Ok(connection);
        }
        let connecting = async {
            let stream = TcpStream::connect(endpoint).await?;
            stream.set_nodelay(true)?;
            match protocol {
                Protocol::Http1 => connect_http1(stream).await.map(Connection::One),
                Protocol::Http2 => connect_http2(stream).await.map(Connection::Shared),
            }
        };
        let connection = tokio::time::timeout(patience, connecting).await??;
        if let Connection::Shared(sender) = &connection {
            self.places.lock().entry(endpoint).or_default().shared = Some(sender.clone());
        }
        Ok(connection)
    }

    fn take(&self, endpoint: SocketAddr, protocol: Protocol) -> Option<Connection> {
        let now = self.clock.monotonic();
        let mut places = self.places.lock();
        let place = places.get_mut(&endpoint)?;
        match protocol {
            Protocol::Http2 => place.shared.clone().filter(|sender| !sender.is_closed()).map(Connection::Shared),
            Protocol::Http1 => loop {
                let (sender, since) = place.idle.pop()?;
                if sender.is_ready() && now.saturating_sub(since) < IDLE {
                    return Some(Connection::One(sender));
                }
            },
        }
    }

    /// Keeps the connection for the next request, as soon as the answer to the last one has been read.
    pub fn give_back(self: &Arc<Self>, endpoint: SocketAddr, mut sender: http1::SendRequest<Outgoing>) {
        let all = self.clone();
        tokio::spawn(async move {
            // An error means that the connection ended with that answer.
            if sender.ready().await.is_ok() {
                let since = all.clock.monotonic();
                let mut places = all.places.lock();
                let idle = &mut places.entry(endpoint).or_default().idle;
                if idle.len() < MAX_IDLE {
                    idle.push((sender, since));
                }
            }
        });
    }

    /// Closes those that nobody will need: to endpoints that are not there any more, and those that waited too long.
    pub fn sweep(&self, known: &BTreeSet<SocketAddr>) {
        let now = self.clock.monotonic();
        let mut places = self.places.lock();
        places.retain(|endpoint, place| {
            place.idle.retain(|(sender, since)| !sender.is_closed() && now.saturating_sub(*since) < IDLE);
            place.shared.take_if(|sender| sender.is_closed());
            known.contains(endpoint) && (!place.idle.is_empty() || place.shared.is_some())
        });
    }
}

impl Connection {
    /// Sends the request; an error may bring it back, if nothing of it was sent.
    pub async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Shared(sender) => sender.try_send_request(request).await,
        }
    }
}

async fn connect_http1(stream: TcpStream) -> io::Result<http1::SendRequest<Outgoing>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to an endpoint broke");
        }
    });
    Ok(sender)
}

async fn connect_http2(stream: TcpStream) -> io::Result<http2::SendRequest<Outgoing>> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).adaptive_window(true);
    let (sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an endpoint broke");
        }
    });
    Ok(sender)
}
