//! Ingresses.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Event, Secret};
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};
use skiff_client::{DeleteOptions, ListOptions, Patch};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;

use crate::support::{Certificate, Endpoint, HTTP, NODE, PATIENCE, PORT, ask, ask_on, with_world};

#[test]
fn requests_go_where_ingresses_say() {
    with_world("routes", async |world| {
        let endpoint = Endpoint::start(2).await;
        assert!(TcpStream::connect(HTTP).await.is_err(), "no port is taken before there is an Ingress");
        world.serve("web", PORT(), &[endpoint.address]).await;
        world.route("web.example", "web", json!({}), Value::Null).await;
        world.until_answered("web.example", 200).await;
        let (_, text) = ask("web.example:80", "/a?b=c").await.expect("an answer");
        assert_eq!(text, "10.244.0.2 GET /a?b=c web.example:80 127.0.0.1 http web.example:80 80");
        assert_eq!(ask("other.example", "/").await.expect("an answer").0, 404);
        world
            .until("the address", async || {
                let ingress: Ingress = world.admin.get("default", "web").await.expect("is there");
                let balancer = ingress.status.and_then(|status| status.load_balancer);
                let points = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
                points.iter().filter_map(|point| point.ip.as_deref()).eq([NODE])
            })
            .await;

        world.set_endpoints("web", &[]).await;
        world.until_answered("web.example", 503).await;
        world.admin.delete::<Ingress>("default", "web", &DeleteOptions::default()).await.expect("is deleted");
        world.until("the end", async || TcpStream::connect(HTTP).await.is_err()).await;
    });
}

#[test]
fn endpoints_that_do_not_answer_are_passed_over() {
    with_world("retries", async |world| {
        let living = Endpoint::start(2).await;
        // Nobody listens there.
        let dead = SocketAddr::from(([10, 244, 0, 3], 8080));
        world.serve("web", PORT(), &[living.address, dead]).await;
        world.route("web.example", "web", json!({}), Value::Null).await;
        world.until_answered("web.example", 200).await;
        for number in 0..20 {
            assert_eq!(ask("web.example", "/").await.expect("an answer").0, 200, "request {number}");
        }
        drop(living);
        world.until_answered("web.example", 502).await;
    });
}

/// Endpoints are replaced one after the other, each closing all its connections at once when it is no endpoint any
/// more; a client that goes on asking on one connection never notices.
#[test]
fn a_rolling_change_of_endpoints_loses_no_request() {
    const REQUESTS: usize = 600;
    const ASKED_BETWEEN: usize = 100;
    with_world("rolling", async |world| {
        let mut endpoints = vec![Endpoint::start(2).await, Endpoint::start(3).await];
        let all = |endpoints: &[Endpoint]| endpoints.iter().map(|it| it.address).collect::<Vec<_>>();
        world.serve("web", PORT(), &all(&endpoints)).await;
        world.route("web.example", "web", json!({}), Value::Null).await;
        world.until_answered("web.example", 200).await;
        let stream = TcpStream::connect(HTTP).await.expect("connects");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("agrees");
        tokio::spawn(connection);
        let mut last = 3;
        for number in 0..REQUESTS {
            let request = Request::get("/").header("host", "web.example").body(Full::<Bytes>::default());
            sender.ready().await.expect("the connection lives");
            let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
            assert_eq!(answer.status(), 200, "request {number}");
            answer.into_body().collect().await.expect("a text");
            if number % ASKED_BETWEEN == ASKED_BETWEEN - 1 {
                last += 1;
                endpoints.push(Endpoint::start(last).await);
                // The oldest ends before anybody was told.
                drop(endpoints.remove(0));
                world.set_endpoints("web", &all(&endpoints)).await;
            }
        }
    });
}

#[test]
fn web_sockets_pass() {
    with_world("sockets", async |world| {
        let listener = TcpListener::bind("10.244.0.2:8080").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                tokio::spawn(async move {
                    // Requests that are no web sockets only ask whether there is a way here.
                    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_text() {
                            socket.send(message).await.expect("the client listens");
                        }
                    }
                });
            }
        });
        world.serve("web", PORT(), &[address]).await;
        world.route("web.example", "web", json!({}), Value::Null).await;
        // Who asks for no web socket is not answered by the endpoint; before it is known, nobody could be.
        world.until_answered("web.example", 502).await;
        let stream = TcpStream::connect(HTTP).await.expect("connects");
        let (mut socket, answer) =
            tokio_tungstenite::client_async("ws://web.example/chat", stream).await.expect("becomes a web socket");
        assert_eq!(answer.status(), 101);
        for text in ["first", "second"] {
            socket.send(tungstenite::Message::text(text)).await.expect("sends");
            let answer = timeout(PATIENCE, socket.next()).await.expect("in time").expect("an answer").expect("is one");
            assert_eq!(answer.into_text().expect("text").as_str(), text);
        }
        socket.close(None).await.expect("closes");
    });
}

/// HTTP/2 without TLS on both sides, with a trailer, as gRPC has it.
#[test]
fn grpc_passes_with_its_trailers() {
    with_world("grpc", async |world| {
        let listener = TcpListener::bind("10.244.0.2:8080").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                let call = |request: Request<Incoming>| async move {
                    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                    let sent = request.into_body().collect().await.expect("a message").to_bytes();
                    let message = Bytes::from(format!("{authority} {}", String::from_utf8_lossy(&sent)));
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let frames = [Frame::data(message), Frame::trailers(trailers)];
                    let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
                    Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
                };
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(call)),
                );
            }
        });
        world.serve("web", json!({ "port": 80, "appProtocol": "kubernetes.io/h2c" }), &[address]).await;
        world.route("web.example", "web", json!({}), Value::Null).await;
        world.until_answered("web.example", 200).await;
        let stream = TcpStream::connect(HTTP).await.expect("connects");
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("agrees");
        tokio::spawn(connection);
        for number in 0..3 {
            let request = Request::post("http://web.example/Service/Call").header("te", "trailers");
            let request = request.body(Full::new(Bytes::from(format!("call {number}")))).expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            let answer = answer.into_body().collect().await.expect("a message");
            let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
            assert_eq!(status, Some(http::HeaderValue::from_static("0")));
            assert_eq!(answer.to_bytes(), format!("web.example call {number}"));
        }
    });
}

#[test]
fn certificates_are_shown_by_name_and_follow_their_secret() {
    with_world("tls", async |world| {
        let endpoint = Endpoint::start(2).await;
        let (first, second) = (Certificate::new("web.example"), Certificate::new("web.example"));
        let metadata = json!({ "name": "web", "namespace": "default" });
        world
            .create::<Secret>(json!({ "metadata": metadata, "type": "kubernetes.io/tls", "stringData": first.data() }))
            .await;
        world.serve("web", PORT(), &[endpoint.address]).await;
        let tls = json!([{ "hosts": ["web.example"], "secretName": "web" }]);
        world.route("web.example", "web", json!({ "ingress.skiff.io/ssl-redirect": "true" }), tls).await;
        world.until("the certificate", async || first.ask("web.example", b"http/1.1").await.is_ok()).await;
        let answer = first.ask("web.example", b"http/1.1").await.expect("an answer");
        let wanted = "10.244.0.2 GET / web.example 127.0.0.1 https web.example 443";
        assert_eq!(String::from_utf8_lossy(answer.body()), wanted);
        assert!(first.ask("other.example", b"http/1.1").await.is_err(), "that name has another certificate");

        let stream = TcpStream::connect(HTTP).await.expect("connects");
        let answer = ask_on(stream, "web.example:80", "/a?b=c").await.expect("an answer");
        assert_eq!(answer.status(), 308);
        assert_eq!(answer.headers()["location"], "https://web.example/a?b=c");

        let patch = Patch::Merge(json!({ "stringData": second.data() }));
        world.admin.patch::<Secret>("default", "web", "", &patch).await.expect("is changed");
        world.until("the new certificate", async || second.ask("web.example", b"http/1.1").await.is_ok()).await;
        assert!(first.ask("web.example", b"http/1.1").await.is_err(), "the old one is not shown any more");
    });
}

#[test]
fn a_port_that_somebody_has_is_told_and_taken_later() {
    with_world("ports", async |world| {
        let other = TcpListener::bind(HTTP).await.expect("the port is free");
        let endpoint = Endpoint::start(2).await;
        world.serve("web", PORT(), &[endpoint.address]).await;
        world.route("web.example", "web", json!({}), Value::Null).await;
        let told = async {
            loop {
                let events = world.admin.list::<Event>("default", &ListOptions::default()).await.expect("are listed");
                let texts = events.items.iter().filter(|event| event.reason.as_deref() == Some("PortInUse"));
                if let Some(text) = texts.filter_map(|event| event.message.clone()).next() {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        let text = timeout(PATIENCE, told).await.expect("in time");
        assert!(
            text.starts_with("port 80 of node address 192.0.2.1 cannot be served: Address already in use"),
            "{text}"
        );
        drop(other);
        world.until_answered("web.example", 200).await;
    });
}
