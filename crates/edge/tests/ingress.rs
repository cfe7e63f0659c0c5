//! Ingress against the real API server, with the rights it has in a cluster: real clients, and endpoints that are real
//! servers, in a network namespace of the test's own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Event, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use nix::sched::{CloneFlags, unshare};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::clock::SystemClock;
use skiff_base::ids::Ids;
use skiff_client::{Body, Client, DeleteOptions, InProcess, Informers, Kind, ListOptions, Patch, Recorder};
use skiff_edge::ingress::{Ingresses, IngressesConfig};
use skiff_netd::netlink::{Attributes, Batch, Protocol, Socket};
use skiff_store::{EmbeddedOptions, EmbeddedStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked again where nothing has been done.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const HTTP: &str = "127.0.0.1:80";
const HTTPS: &str = "127.0.0.1:443";
const NODE: &str = "192.0.2.1";

/// An API server, and Ingresses that are served.
struct World {
    server: Arc<ApiServer>,
    admin: Client,
    ingresses: Ingresses,
}

/// A client of the server in this process, in the name of `user` with `groups`.
fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str]) -> Client {
    let (server, user) = (server.clone(), UserInfo::new(user, groups));
    let answer = move |mut request: Request<Body>| {
        request.extensions_mut().insert(user.clone());
        let server = server.clone();
        async move { server.handle(request).await }
    };
    Client::new(Arc::new(InProcess(answer)), "test")
}

impl World {
    async fn start(folder: &std::path::Path) -> Self {
        let clock = SystemClock::shared();
        let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::default() };
        let store = EmbeddedStore::open(folder, options).expect("a store");
        let config = skiff_apiserver::Config::new(store, clock.clone(), Arc::new(Ids::seeded(7)));
        let server = ApiServer::new(config).await.expect("a server");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        let own = client(&server, "system:serviceaccount:kube-system:ingress-controller", &groups);
        let ingresses = Ingresses::start(IngressesConfig {
            informers: Informers::new(own.clone()),
            recorder: Recorder::start(own.clone(), clock.clone(), "ingress-controller", "node-1"),
            client: own,
            clock,
            address: NODE.parse().expect("an address"),
            http: HTTP.parse().expect("an address"),
            https: HTTPS.parse().expect("an address"),
            certificate: Certificate::new("default.example").certified(),
        })
        .expect("starts");
        Self { admin: client(&server, "admin", &["system:masters"]), ingresses, server }
    }

    async fn create<K: Kind>(&self, object: Value) -> K {
        self.admin.create(&serde_json::from_value::<K>(object).expect("an object")).await.expect("is created")
    }

    /// A Service with one port, and a slice with these endpoints.
    async fn serve(&self, name: &str, port: Value, endpoints: &[SocketAddr]) {
        let metadata = json!({ "name": name, "namespace": "default" });
        self.create::<Service>(json!({ "metadata": metadata, "spec": { "ports": [port] } })).await;
        let number = endpoints.first().map_or(8080, SocketAddr::port);
        let labels = json!({ "kubernetes.io/service-name": name });
        self.create::<EndpointSlice>(json!({
            "metadata": { "name": name, "namespace": "default", "labels": labels },
            "addressType": "IPv4", "ports": [{ "name": "", "port": number }], "endpoints": addresses(endpoints),
        }))
        .await;
    }

    async fn set_endpoints(&self, name: &str, endpoints: &[SocketAddr]) {
        let patch = Patch::Merge(json!({ "endpoints": addresses(endpoints) }));
        self.admin.patch::<EndpointSlice>("default", name, "", &patch).await.expect("is changed");
    }

    /// An Ingress that leads all of a host to port 80 of a Service.
    async fn route(&self, host: &str, service: &str, annotations: Value, tls: Value) {
        let backend = json!({ "service": { "name": service, "port": { "number": 80 } } });
        let http = json!({ "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] });
        self.create::<Ingress>(json!({
            "metadata": { "name": service, "namespace": "default", "annotations": annotations },
            "spec": { "rules": [{ "host": host, "http": http }], "tls": tls },
        }))
        .await;
    }

    /// Waits until this is so.
    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let mut rounds = self.ingresses.rounds();
        let reached = async {
            loop {
                rounds.borrow_and_update();
                if is_so().await {
                    return;
                }
                // Some of what is waited for, such as a closed connection, is no reason to act.
                if let Ok(ended) = timeout(LOOK_AGAIN, rounds.changed()).await {
                    ended.expect("the part lives");
                }
            }
        };
        timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{what} in time"));
    }

    async fn until_answered(&self, host: &str, wanted: u16) {
        self.until("an answer", async || ask(host, "/").await.is_ok_and(|(status, _)| status == wanted)).await;
    }
}

fn addresses(endpoints: &[SocketAddr]) -> Value {
    endpoints.iter().map(|endpoint| json!({ "addresses": [endpoint.ip()] })).collect()
}

/// Runs `work` in a new network namespace, in which all pod addresses are at hand.
fn with_world(name: &str, work: impl AsyncFnOnce(&World) + Send) {
    let folder = std::env::temp_dir().join(format!("skiff-edge-ingress-{}-{name}", std::process::id()));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
            set_up_loopback();
            // Its threads are made by this one, and so are in the same namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("starts").block_on(async {
                let world = World::start(&folder).await;
                work(&world).await;
                world.server.stop();
            });
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    std::fs::remove_dir_all(&folder).expect("the folder was made by this test");
}

/// Switches the loopback interface on and gives it all addresses of 10.244.0.0/16.
fn set_up_loopback() {
    const NEW_LINK: u16 = 16;
    const NEW_ADDRESS: u16 = 20;
    const REQUEST: u16 = 1;
    const ACKNOWLEDGE: u16 = 4;
    const CREATE: u16 = 0x400;
    let mut up = [0; 16];
    // The interface with index 1, flags and their mask: up.
    (up[4], up[8], up[12]) = (1, 1, 1);
    let mut batch = Batch::new();
    drop(batch.message("switch lo on", NEW_LINK, REQUEST | ACKNOWLEDGE, &up));
    // IPv4, 16 bits, no flags, everywhere, the interface with index 1.
    let header = [2, 16, 0, 0, 1, 0, 0, 0];
    let mut message = batch.message("give lo an address", NEW_ADDRESS, REQUEST | ACKNOWLEDGE | CREATE, &header);
    for attribute in [1, 2] {
        message.put(attribute, &[10, 244, 0, 1]);
    }
    drop(message);
    Socket::open(Protocol::Route).expect("opens").execute(&batch).expect("the kernel does it");
}

/// A server at an address of its own that tells what it was asked; it ends when this is dropped, with its connections.
struct Endpoint {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    async fn start(last: u8) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([10, 244, 0, last], 8080))).await.expect("binds");
        let address = listener.local_addr().expect("has one");
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| async move {
                        Ok::<_, Infallible>(tell(address, request))
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    // How a connection ends is the client's business.
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, task }
    }
}

fn tell(address: SocketAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    let names = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];
    let headers: Vec<String> = names.iter().map(|name| header(name)).collect();
    let text = format!("{} {} {} {}", address.ip(), request.method(), request.uri(), headers.join(" "));
    Response::new(Full::new(Bytes::from(text)))
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn ask_on(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> Result<Response<Bytes>, Failed> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", host).body(Full::<Bytes>::default())?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(parts, body))
}

/// Status and text of an answer on a connection of its own.
async fn ask(host: &str, path: &str) -> Result<(u16, String), Failed> {
    let answer = ask_on(TcpStream::connect(HTTP).await?, host, path).await?;
    Ok((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
}

const PORT: fn() -> Value = || json!({ "port": 80, "targetPort": 8080 });

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

struct Certificate {
    pem: (String, String),
    der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        Self { pem: (made.cert.pem(), made.signing_key.serialize_pem()), der: made.cert.der().clone(), key }
    }

    fn certified(&self) -> Arc<SingleCertAndKey> {
        let key = rustls::crypto::ring::sign::any_supported_type(&self.key).expect("a key");
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![self.der.clone()], key)))
    }

    fn data(&self) -> Value {
        json!({ "tls.crt": self.pem.0, "tls.key": self.pem.1 })
    }

    /// An answer by TLS from whoever has this certificate, and the protocol that was agreed on.
    async fn ask(&self, host: &str, protocol: &[u8]) -> Result<Response<Bytes>, Failed> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TcpStream::connect(HTTPS).await?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        ask_on(stream, host, "/").await
    }
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
