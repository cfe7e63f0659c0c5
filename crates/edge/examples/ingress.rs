//! The Ingress alone, with one route to one endpoint, to be measured beside other proxies:
//! `ingress 127.0.0.1:8081 127.0.0.1:8080` serves at the first address what is behind the second.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use skiff_base::clock::SystemClock;
use skiff_client::{Body, Client, InProcess, Informers, Recorder};
use skiff_edge::ingress::{Ingresses, IngressesConfig};

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

fn main() {
    let addresses: Vec<SocketAddr> = std::env::args().skip(1).map(|it| it.parse().expect("an address")).collect();
    let [own, endpoint] = addresses[..] else { panic!("two addresses: the own one, and the endpoint's") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let answer = move |request: Request<Body>| async move { answer(&request, endpoint) };
        let client = Client::new(Arc::new(InProcess(answer)), "ingress");
        let clock = SystemClock::shared();
        let ingresses = Ingresses::start(IngressesConfig {
            informers: Informers::new(client.clone()),
            recorder: Recorder::start(client.clone(), clock.clone(), "ingress", "node"),
            client,
            clock,
            address: own.ip(),
            http: own,
            // Any port: TLS is not measured.
            https: SocketAddr::new(own.ip(), own.port() + 1),
            certificate: Arc::new(NoCertificate),
        });
        let _served = ingresses.expect("starts");
        std::future::pending::<()>().await;
    });
}

/// What an API server would say that knows the few objects which are needed, and where nothing ever changes.
fn answer(request: &Request<Body>, endpoint: SocketAddr) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    if query.contains("watch=") {
        let nothing = futures_util::stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
        return Response::new(StreamBody::new(nothing).boxed_unsync());
    }
    let kind = request.uri().path().rsplit('/').next().unwrap_or_default();
    let named = json!({ "name": "web", "namespace": "default", "resourceVersion": "1", "uid": "1",
        "labels": { "kubernetes.io/service-name": "web" } });
    let object = match kind {
        "ingressclasses" => json!({ "spec": { "controller": "skiff.io/ingress" } }),
        "services" => json!({ "spec": { "ports": [{ "port": 80 }] } }),
        "endpointslices" => json!({
            "addressType": "IPv4", "ports": [{ "name": "", "port": endpoint.port() }],
            "endpoints": [{ "addresses": [endpoint.ip()] }],
        }),
        "ingresses" => {
            let backend = json!({ "service": { "name": "web", "port": { "number": 80 } } });
            let http = json!({ "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] });
            json!({ "spec": { "ingressClassName": "web", "rules": [{ "host": "bench.example", "http": http }] } })
        }
        _ => Value::Null,
    };
    let mut items = Vec::new();
    if let Value::Object(mut object) = object {
        object.insert("metadata".to_owned(), named);
        items.push(object);
    }
    let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": items });
    let text = Bytes::from(list.to_string());
    Response::new(Full::new(text).map_err(|never: std::convert::Infallible| match never {}).boxed_unsync())
}
