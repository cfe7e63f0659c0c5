//! The smallest of HTTP servers: every request is answered by one function of its path.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use skiff_base::clock::SharedClock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::answer::{Answer, NodeHealth};

/// How many may ask one port at once; balancers are few.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants, before its first request and between two.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// How long nobody is accepted after that failed: mostly for want of descriptors, and trying at once would only burn time.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long after a failed attempt the node's own port is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A listener in the calling thread's network namespace.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Answers on the node's own port for as long as it is polled.
pub async fn serve_node_health(address: SocketAddr, health: Arc<NodeHealth>, clock: SharedClock) {
    let mut is_told = false;
    let listener = loop {
        match listen(address) {
            Ok(listener) => break listener,
            Err(error) if !is_told => {
                tracing::warn!(%address, %error, "cannot tell whether the service rules are up to date; trying again");
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    serve(listener, move |path: &str| Answer::of_node(path, &health, clock.now())).await;
}

/// Answers every request, for as long as it is polled; with it end the connections.
pub async fn serve(listener: TcpListener, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                connections.spawn(async move {
                    serve_connection(stream, &*answer).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a health check failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, answer: &(impl Fn(&str) -> Answer + Send + Sync)) {
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let response = response(answer(request.uri().path()));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a health check broke off");
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.text)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Some(weight) = answer.weight {
        headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(weight));
    }
    response
}
