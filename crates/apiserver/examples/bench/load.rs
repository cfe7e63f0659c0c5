//! The load generator: requests over kept connections, a fixed number in flight, each timed. It shares the cores with the
//! server that it measures, so it does no more than it must.

use std::future::Future;
use std::io::Error as IoError;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Fallible;

/// How many requests share one HTTP/2 connection.
const SHARED: usize = 16;

/// The protocol that requests are sent by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A connection for each request in flight.
    Http1,
    /// Some requests on each connection.
    Http2,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A request that is to be sent.
pub struct Request {
    method: Method,
    path: String,
    body: Bytes,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { method: Method::GET, path: path.to_owned(), body: Bytes::new() }
    }

    pub fn post(path: &str, body: String) -> Self {
        Self { method: Method::POST, path: path.to_owned(), body: body.into() }
    }

    pub fn put(path: &str, body: String) -> Self {
        Self { method: Method::PUT, path: path.to_owned(), body: body.into() }
    }
}

/// Where requests go, and how.
pub struct Client {
    pub port: u16,
    pub tls: Arc<rustls::ClientConfig>,
    pub protocol: Protocol,
    /// Whom the requests are made as, where it is not the administrator.
    pub user: Option<&'static str>,
}

/// A connection that is open.
pub struct Connection {
    sender: Sender,
    /// What carries an HTTP/1.1 connection's bytes: it runs with the exchanges, for handing over to a task of its own
    /// wakes another thread with each of them.
    carrier: Option<Carrier>,
    user: Option<&'static str>,
}

type Carrier = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// Opens a connection.
    pub async fn connect(&self) -> Fallible<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let mut tls = rustls::ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![if self.protocol == Protocol::Http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let name = ServerName::try_from("localhost")?;
        let stream = TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?);
        let (sender, carrier) = match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                let carrier: Carrier = Box::pin(async move { drop(connection.await) });
                (Sender::Http1(sender), Some(carrier))
            }
            Protocol::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(4 << 20).initial_connection_window_size(32 << 20);
                let (sender, connection) = builder.handshake(stream).await?;
                tokio::spawn(async move { drop(connection.await) });
                (Sender::Http2(sender), None)
            }
        };
        Ok(Connection { sender, carrier, user: self.user })
    }

    /// Connections for so many requests in flight.
    pub async fn connections(&self, in_flight: usize) -> Fallible<Vec<Connection>> {
        let mut connections = Vec::new();
        for index in 0..in_flight {
            let shared = match connections.get(index - index % SHARED) {
                Some(Connection { sender: Sender::Http2(sender), .. }) if index % SHARED > 0 => Some(sender.clone()),
                _ => None,
            };
            connections.push(match shared {
                Some(sender) => Connection { sender: Sender::Http2(sender), carrier: None, user: self.user },
                None => self.connect().await?,
            });
        }
        Ok(connections)
    }
}

impl Connection {
    /// Sends a request, and gives the answer while its body is still to come.
    pub async fn send(&mut self, request: Request, port: u16) -> Fallible<http::Response<Incoming>> {
        if let Some(carrier) = self.carrier.take() {
            tokio::spawn(carrier);
        }
        self.begin(request, port).await
    }

    async fn begin(&mut self, request: Request, port: u16) -> Fallible<http::Response<Incoming>> {
        let uri = match self.sender {
            Sender::Http1(_) => request.path,
            Sender::Http2(_) => format!("https://localhost:{port}{}", request.path),
        };
        let mut head = http::Request::builder().method(request.method).uri(uri);
        if matches!(self.sender, Sender::Http1(_)) {
            head = head.header("host", "localhost");
        }
        head = head.header("user-agent", "bench").header("accept", "application/json");
        if let Some(user) = self.user {
            head = head.header("impersonate-user", user);
        }
        if !request.body.is_empty() {
            head = head.header("content-type", "application/json");
        }
        let request = head.body(Full::new(request.body))?;
        Ok(match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// Sends a request and reads the whole answer; gives its length.
    pub async fn exchange(&mut self, request: Request, port: u16) -> Fallible<u64> {
        let Some(mut carrier) = self.carrier.take() else { return self.exchanged(request, port).await };
        let (length, carrier) = {
            let mut exchanged = std::pin::pin!(self.exchanged(request, port));
            tokio::select! {
                biased;
                length = &mut exchanged => (length, Some(carrier)),
                () = &mut carrier => (exchanged.await, None),
            }
        };
        self.carrier = carrier;
        length
    }

    async fn exchanged(&mut self, request: Request, port: u16) -> Fallible<u64> {
        let what = format!("{} {}", request.method, request.path);
        let answer = self.begin(request, port).await?;
        let status = answer.status();
        let (mut body, mut length, mut words) = (answer.into_body(), 0, Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            let Some(data) = frame.data_ref() else { continue };
            length += data.len() as u64;
            if !status.is_success() {
                words.extend_from_slice(data);
            }
        }
        if status.is_success() {
            return Ok(length);
        }
        Err(IoError::other(format!("{what}: {status} {}", String::from_utf8_lossy(&words))).into())
    }
}

/// What a load did.
#[derive(Debug, Default)]
pub struct Rate {
    pub per_second: f64,
    pub p99_ms: f64,
    pub count: u64,
    pub bytes: u64,
}

/// Keeps `in_flight` requests under way for a while.
pub async fn run(
    client: &Arc<Client>,
    in_flight: usize,
    period: Duration,
    make: impl Fn() -> Request + Clone + Send + 'static,
) -> Fallible<Rate> {
    let deadline = Instant::now() + period;
    drive(client, in_flight, move || (Instant::now() < deadline).then(&make)).await
}

/// Sends requests, `in_flight` at a time, until there are none left.
pub async fn exhaust(
    client: &Arc<Client>,
    in_flight: usize,
    make: impl Fn() -> Option<Request> + Clone + Send + 'static,
) -> Fallible<Rate> {
    drive(client, in_flight, make).await
}

async fn drive(
    client: &Arc<Client>,
    in_flight: usize,
    make: impl Fn() -> Option<Request> + Clone + Send + 'static,
) -> Fallible<Rate> {
    let connections = client.connections(in_flight).await?;
    let start = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            let (make, port) = (make.clone(), client.port);
            tokio::spawn(async move {
                let (mut times, mut bytes) = (Vec::new(), 0);
                while let Some(request) = make() {
                    let begun = Instant::now();
                    bytes += connection.exchange(request, port).await?;
                    times.push(begun.elapsed());
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>((times, bytes))
            })
        })
        .collect();
    let (mut times, mut bytes) = (Vec::new(), 0);
    for task in tasks {
        let (own, length) = task.await??;
        times.extend(own);
        bytes += length;
    }
    Ok(summed(times, bytes, start.elapsed()))
}

/// The figures of so many requests in so much time.
pub fn summed(mut times: Vec<Duration>, bytes: u64, took: Duration) -> Rate {
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    let count = times.len() as u64;
    Rate { per_second: count as f64 / took.as_secs_f64(), p99_ms: p99.as_secs_f64() * 1e3, count, bytes }
}
