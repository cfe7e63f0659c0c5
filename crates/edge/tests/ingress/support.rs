//! A world for tests of Ingress and Gateways: the real API server, endpoints that are real servers, and real clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use nix::sched::{CloneFlags, unshare};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::clock::SystemClock;
use skiff_base::ids::Ids;
use skiff_client::{Body, Client, InProcess, Informers, Kind, Patch, Recorder};
use skiff_edge::ingress::{Ingresses, IngressesConfig};
use skiff_netd::netlink::{Attributes, Batch, Protocol, Socket};
use skiff_store::{EmbeddedOptions, EmbeddedStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// How long anything here may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked again where nothing has been done.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
pub const HTTP: &str = "127.0.0.1:80";
pub const HTTPS: &str = "127.0.0.1:443";
pub const NODE: &str = "192.0.2.1";

/// An API server, and Ingresses that are served.
pub struct World {
    pub server: Arc<ApiServer>,
    pub admin: Client,
    pub ingresses: Ingresses,
}

/// A client of the server in this process, in the name of `user` with `groups`.
pub fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str]) -> Client {
    let (server, user) = (server.clone(), UserInfo::new(user, groups));
    let answer = move |mut request: Request<Body>| {
        request.extensions_mut().insert(user.clone());
        let server = server.clone();
        async move { server.handle(request).await }
    };
    Client::new(Arc::new(InProcess(answer)), "test")
}

impl World {
    async fn start(folder: &std::path::Path, gateway_api: bool) -> Self {
        let clock = SystemClock::shared();
        let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::default() };
        let store = EmbeddedStore::open(folder, options).expect("a store");
        let config = skiff_apiserver::Config::new(store, clock.clone(), Arc::new(Ids::seeded(7)));
        let config = skiff_apiserver::Config { gateway_api, ..config };
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

    pub async fn create<K: Kind>(&self, object: Value) -> K {
        self.admin.create(&serde_json::from_value::<K>(object).expect("an object")).await.expect("is created")
    }

    /// A Service with one port, and a slice with these endpoints.
    pub async fn serve(&self, name: &str, port: Value, endpoints: &[SocketAddr]) {
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

    pub async fn set_endpoints(&self, name: &str, endpoints: &[SocketAddr]) {
        let patch = Patch::Merge(json!({ "endpoints": addresses(endpoints) }));
        self.admin.patch::<EndpointSlice>("default", name, "", &patch).await.expect("is changed");
    }

    /// An Ingress that leads all of a host to port 80 of a Service.
    pub async fn route(&self, host: &str, service: &str, annotations: Value, tls: Value) {
        let backend = json!({ "service": { "name": service, "port": { "number": 80 } } });
        let http = json!({ "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] });
        self.create::<Ingress>(json!({
            "metadata": { "name": service, "namespace": "default", "annotations": annotations },
            "spec": { "rules": [{ "host": host, "http": http }], "tls": tls },
        }))
        .await;
    }

    /// Waits until this is so.
    pub async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
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

    pub async fn until_answered(&self, host: &str, wanted: u16) {
        self.until("an answer", async || ask(host, "/").await.is_ok_and(|(status, _)| status == wanted)).await;
    }
}

fn addresses(endpoints: &[SocketAddr]) -> Value {
    endpoints.iter().map(|endpoint| json!({ "addresses": [endpoint.ip()] })).collect()
}

/// Runs `work` in a new network namespace, in which all pod addresses are at hand.
pub fn with_world(name: &str, work: impl AsyncFnOnce(&World) + Send) {
    with_world_that(name, true, work);
}

/// The same, in a cluster that begins with the definitions of the Gateway API or without.
pub fn with_world_that(name: &str, gateway_api: bool, work: impl AsyncFnOnce(&World) + Send) {
    let folder = std::env::temp_dir().join(format!("skiff-edge-ingress-{}-{name}", std::process::id()));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
            set_up_loopback();
            // Its threads are made by this one, and so are in the same namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("starts").block_on(async {
                let world = World::start(&folder, gateway_api).await;
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
pub struct Endpoint {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    pub async fn start(last: u8) -> Self {
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

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

pub async fn ask_on(
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
pub async fn ask(host: &str, path: &str) -> Result<(u16, String), Failed> {
    let answer = ask_on(TcpStream::connect(HTTP).await?, host, path).await?;
    Ok((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
}

pub const PORT: fn() -> Value = || json!({ "port": 80, "targetPort": 8080 });

pub struct Certificate {
    pem: (String, String),
    pub der: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

impl Certificate {
    pub fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        Self { pem: (made.cert.pem(), made.signing_key.serialize_pem()), der: made.cert.der().clone(), key }
    }

    pub fn certified(&self) -> Arc<SingleCertAndKey> {
        let key = rustls::crypto::ring::sign::any_supported_type(&self.key).expect("a key");
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![self.der.clone()], key)))
    }

    pub fn data(&self) -> Value {
        json!({ "tls.crt": self.pem.0, "tls.key": self.pem.1 })
    }

    /// An answer by TLS from whoever has this certificate, and the protocol that was agreed on.
    pub async fn ask(&self, host: &str, protocol: &[u8]) -> Result<Response<Bytes>, Failed> {
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
