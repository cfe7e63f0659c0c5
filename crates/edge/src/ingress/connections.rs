//! Connections to endpoints, kept for the next request: those of HTTP/1.1 serve one request at a time, one of HTTP/2
//! serves all.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use tokio::net::TcpStream;

use super::annotations::Protocol;
use super::bodies::Outgoing;
use super::line::{Answer, Home, Line};

/// How many connections of HTTP/1.1 to one endpoint wait for their next request at most.
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
    idle: Vec<(Line, Duration)>,
    /// Those that the [quick way](super::quick) speaks HTTP/1.1 on, likewise.
    bare: Vec<(TcpStream, Duration)>,
    shared: Option<http2::SendRequest<Outgoing>>,
}

/// A connection that a request can be sent by.
pub enum Connection {
    /// HTTP/1.1.
    One(Line),
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
            let stream = connect(endpoint).await?;
            match protocol {
                Protocol::Http1 => Line::open(stream).await.map(Connection::One).map_err(io::Error::other),
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
            Protocol::Http1 => last_good(&mut place.idle, now, Line::is_good).map(Connection::One),
        }
    }

    /// Keeps a connection that has served for the next request.
    pub fn give_back(&self, endpoint: SocketAddr, line: Line) {
        self.keep(endpoint, line, |place| &mut place.idle);
    }

    /// An old connection to the endpoint for the quick way, if there is one.
    pub fn take_bare(&self, endpoint: SocketAddr) -> Option<TcpStream> {
        let now = self.clock.monotonic();
        last_good(&mut self.places.lock().get_mut(&endpoint)?.bare, now, is_quiet)
    }

    /// A new one.
    pub async fn connect_bare(&self, endpoint: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
        tokio::time::timeout(patience, connect(endpoint)).await?
    }

    /// Keeps one that has served for the quick way's next request.
    pub fn give_back_bare(&self, endpoint: SocketAddr, stream: TcpStream) {
        self.keep(endpoint, stream, |place| &mut place.bare);
    }

    fn keep<T>(&self, endpoint: SocketAddr, one: T, idle: impl FnOnce(&mut Place) -> &mut Vec<(T, Duration)>) {
        let since = self.clock.monotonic();
        let mut places = self.places.lock();
        let place = places.entry(endpoint).or_default();
        if place.idle.len() + place.bare.len() >= MAX_IDLE {
            place.drop_oldest();
        }
        idle(place).push((one, since));
    }

    /// Closes those that nobody will need: to endpoints that are not there any more, and those that waited too long.
    pub fn sweep(&self, known: &BTreeSet<SocketAddr>) {
        let now = self.clock.monotonic();
        let mut places = self.places.lock();
        places.retain(|endpoint, place| {
            place.idle.retain_mut(|(line, since)| now.saturating_sub(*since) < IDLE && line.is_good());
            place.bare.retain_mut(|(stream, since)| now.saturating_sub(*since) < IDLE && is_quiet(stream));
            place.shared.take_if(|sender| sender.is_closed());
            let is_empty = place.idle.is_empty() && place.bare.is_empty() && place.shared.is_none();
            known.contains(endpoint) && !is_empty
        });
    }
}

impl Place {
    /// Closes the connection that has waited longest: its kind may be the one that nobody needs any more.
    fn drop_oldest(&mut self) {
        let idle = self.idle.first().map(|(_, since)| *since);
        let bare = self.bare.first().map(|(_, since)| *since);
        if idle.is_some_and(|idle| bare.is_none_or(|bare| idle <= bare)) {
            self.idle.remove(0);
        } else if bare.is_some() {
            self.bare.remove(0);
        }
    }
}

/// The one that was used last of those that are still good.
fn last_good<T>(idle: &mut Vec<(T, Duration)>, now: Duration, is_good: impl Fn(&mut T) -> bool) -> Option<T> {
    loop {
        let (mut one, since) = idle.pop()?;
        if now.saturating_sub(since) < IDLE && is_good(&mut one) {
            return Some(one);
        }
    }
}

/// Whether the other side has neither closed it nor said anything that it was not asked for.
fn is_quiet(stream: &mut TcpStream) -> bool {
    // What is already known is asked for first, so that this is no call of the system where nothing has come.
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

async fn connect(endpoint: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection {
    /// Sends the request; an error may bring it back, if nothing of it was sent.
    pub async fn send(
        self,
        request: Request<Outgoing>,
        home: Home,
    ) -> Result<Response<Answer>, TrySendError<Request<Outgoing>>> {
        match self {
            Self::One(line) => line.send(request, home).await,
            Self::Shared(mut sender) => Ok(sender.try_send_request(request).await?.map(Answer::alone)),
        }
    }
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

#[cfg(test)]
mod tests {
    use skiff_base::SystemClock;
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::in_own_namespace;

    #[test]
    fn both_kinds_of_connections_together_have_one_limit() {
        in_own_namespace(async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            let address = listener.local_addr().expect("has one");
            let all = Connections::new(SystemClock::shared());
            for at in 0..MAX_IDLE {
                let stream = connect(address).await.expect("connects");
                if at % 2 == 0 {
                    all.give_back(address, Line::open(stream).await.expect("opens"));
                } else {
                    all.give_back_bare(address, stream);
                }
            }
            let count = || all.places.lock().get(&address).map(|place| (place.idle.len(), place.bare.len()));
            assert_eq!(count(), Some((MAX_IDLE / 2, MAX_IDLE / 2)));
            for _ in 0..MAX_IDLE {
                all.give_back_bare(address, connect(address).await.expect("connects"));
            }
            assert_eq!(count(), Some((0, MAX_IDLE)));
        });
    }
}
