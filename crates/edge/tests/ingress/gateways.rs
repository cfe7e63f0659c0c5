//! Gateways and their routes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use serde_json::{Value, json};
use skiff_client::{DeleteOptions, Patch};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{
    Certificate, Endpoint, HTTP, NODE, PATIENCE, PORT, World, ask, ask_on, with_world, with_world_that,
};

const GROUP: &str = "/apis/gateway.networking.k8s.io";

impl World {
    /// Makes an object of the Gateway API from its kind's plural, its name and its spec.
    async fn make(&self, plural: &str, name: &str, spec: &str) {
        let spec: Value = serde_saphyr::from_str(spec).expect("a spec");
        let version = if plural == "referencegrants" { "v1beta1" } else { "v1" };
        let kind = match plural {
            "gateways" => "Gateway",
            "httproutes" => "HTTPRoute",
            "grpcroutes" => "GRPCRoute",
            "tlsroutes" => "TLSRoute",
            "referencegrants" => "ReferenceGrant",
            other => panic!("no kind for {other}"),
        };
        let object = json!({
            "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": kind,
            "metadata": { "name": name, "namespace": "default" }, "spec": spec,
        });
        let path = format!("{GROUP}/{version}/namespaces/default/{plural}");
        // Its kind may be defined in this very moment.
        self.until("the kind", async || self.admin.get_path::<Value>(&path).await.is_ok()).await;
        self.admin.send_json::<Value>(Method::POST, &path, &object).await.expect("is made");
    }

    async fn look(&self, plural: &str, name: &str) -> Value {
        let path = format!("{GROUP}/v1/namespaces/default/{plural}/{name}");
        self.admin.get_path(&path).await.expect("is there")
    }

    /// Waits until a condition of an object says so, at a place in its status.
    async fn until_said(&self, (plural, name): (&str, &str), place: &str, kind: &str, wanted: &str) {
        self.until(&format!("{kind} {wanted} of {name}"), async || {
            let object = self.look(plural, name).await;
            let conditions = object["status"].pointer(place).and_then(Value::as_array).cloned().unwrap_or_default();
            conditions.iter().any(|known| {
                let text =
                    format!("{} {}", known["status"].as_str().unwrap_or("-"), known["reason"].as_str().unwrap_or("-"));
                known["type"] == kind && text == wanted
            })
        })
        .await;
    }
}

const HTTP_LISTENER: &str = "
gatewayClassName: skiff
listeners: [{name: web, port: 80, protocol: HTTP}]";

/// Where the conditions of a route's first parent are, and those of a Gateway's first listener.
const OF_PARENT: &str = "/parents/0/conditions";
const OF_LISTENER: &str = "/listeners/0/conditions";

#[test]
fn weights_are_kept_exactly() {
    with_world("weights", async |world| {
        let endpoints = [Endpoint::start(2).await, Endpoint::start(3).await, Endpoint::start(4).await];
        for (name, endpoint) in ["old", "canary", "main"].iter().zip(&endpoints) {
            world.serve(name, PORT(), &[endpoint.address]).await;
        }
        world.make("gateways", "web", HTTP_LISTENER).await;
        let rules = "
parentRefs: [{name: web}]
rules:
- backendRefs:
  - {name: old, port: 80, weight: 10}
  - {name: canary, port: 80, weight: 10}
  - {name: main, port: 80, weight: 80}";
        world.make("httproutes", "web", rules).await;
        world.until_said(("httproutes", "web"), OF_PARENT, "Accepted", "True Accepted").await;
        world.until_said(("gateways", "web"), "/conditions", "Programmed", "True Programmed").await;
        world.until_answered("web.example", 200).await;
        let mut counts = BTreeMap::<String, usize>::new();
        for _ in 0..200 {
            let (status, text) = ask("web.example", "/").await.expect("an answer");
            assert_eq!(status, 200);
            *counts.entry(text.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        let wanted = [("10.244.0.2", 20), ("10.244.0.3", 20), ("10.244.0.4", 160)];
        assert_eq!(counts, wanted.map(|(name, count)| (name.to_owned(), count)).into());

        let gateway = world.look("gateways", "web").await;
        assert_eq!(gateway["status"]["addresses"], json!([{ "type": "IPAddress", "value": NODE }]));
        assert_eq!(gateway["status"]["listeners"][0]["attachedRoutes"], 1);
        let class: Value = world.admin.get_path(&format!("{GROUP}/v1/gatewayclasses/skiff")).await.expect("is made");
        let told: Vec<_> = class["status"]["conditions"].as_array().into_iter().flatten().collect();
        assert!(told.len() == 2 && told.iter().all(|it| it["status"] == "True"), "{told:?}");
    });
}

/// Whatever wakes the controller, it writes nothing where nothing is to be said.
#[test]
fn statuses_settle() {
    with_world("settle", async |world| {
        let endpoint = Endpoint::start(2).await;
        world.serve("web", PORT(), &[endpoint.address]).await;
        world.make("gateways", "web", HTTP_LISTENER).await;
        world
            .make("httproutes", "web", "{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}")
            .await;
        world.until_said(("httproutes", "web"), OF_PARENT, "ResolvedRefs", "True ResolvedRefs").await;
        world.until_said(("gateways", "web"), "/conditions", "Programmed", "True Programmed").await;
        world
            .until("the route", async || {
                world.look("gateways", "web").await["status"]["listeners"][0]["attachedRoutes"] == 1
            })
            .await;
        let versions = async || {
            let version = |object: Value| object["metadata"]["resourceVersion"].clone();
            (version(world.look("gateways", "web").await), version(world.look("httproutes", "web").await))
        };
        let before = versions().await;
        let mut rounds = world.ingresses.rounds();
        for number in 0..5 {
            rounds.borrow_and_update();
            let patch = Patch::Merge(json!({ "metadata": { "annotations": { "touched": number.to_string() } } }));
            world.admin.patch::<Namespace>("", "default", "", &patch).await.expect("is changed");
            timeout(PATIENCE, rounds.changed()).await.expect("in time").expect("the part lives");
        }
        assert_eq!(versions().await, before);
    });
}

#[test]
fn requests_are_matched_and_changed() {
    with_world("matches", async |world| {
        let (first, second) = (Endpoint::start(2).await, Endpoint::start(3).await);
        world.serve("first", PORT(), &[first.address]).await;
        world.serve("second", PORT(), &[second.address]).await;
        world.make("gateways", "web", HTTP_LISTENER).await;
        let rules = "
parentRefs: [{name: web, sectionName: web}]
hostnames: [web.example]
rules:
- matches: [{headers: [{name: x-version, value: two}]}, {queryParams: [{name: version, value: two}]}]
  backendRefs: [{name: second, port: 80}]
- matches: [{path: {value: /old}}]
  filters:
  - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: changed}]}}
  backendRefs: [{name: first, port: 80}]
- matches: [{path: {value: /gone}}]
  filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
- matches: [{path: {value: /broken}}]
  backendRefs: [{name: nothing, port: 80}]
- backendRefs: [{name: first, port: 80}]";
        world.make("httproutes", "web", rules).await;
        world.until_said(("httproutes", "web"), OF_PARENT, "ResolvedRefs", "False BackendNotFound").await;
        world.until_answered("web.example", 200).await;
        let who = async |path: &str| ask("web.example", path).await.expect("an answer").1;
        assert!(who("/").await.starts_with("10.244.0.2 GET / "));
        assert!(who("/?version=two").await.starts_with("10.244.0.3 GET /?version=two "));
        assert!(who("/old/a?b=c").await.starts_with("10.244.0.2 GET /new/a?b=c inner.example "));
        assert_eq!(ask("web.example", "/broken").await.expect("an answer").0, 500);
        assert_eq!(ask("other.example", "/").await.expect("an answer").0, 404);
        let whole = async |path: &str| {
            ask_on(TcpStream::connect(HTTP).await.expect("connects"), "web.example", path).await.expect("an answer")
        };
        assert_eq!(whole("/old").await.headers()["x-answer"], "changed");
        let moved = whole("/gone/a?b=c").await;
        assert_eq!(
            (moved.status().as_u16(), &moved.headers()["location"]),
            (301, &http::HeaderValue::from_static("https://web.example/gone/a?b=c"))
        );
    });
}

/// A server that tells what it was asked.
async fn listener(last: u8) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind(SocketAddr::from(([10, 244, 0, last], 8080))).await.expect("binds");
    let address = listener.local_addr().expect("has one");
    let (sender, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let line = format!("{} {}", request.method(), request.uri());
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    sender.send(format!("{line} {}", String::from_utf8_lossy(&body))).expect("the test listens");
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, heard)
}

#[test]
fn mirrors_hear_what_is_said() {
    with_world("mirrors", async |world| {
        let endpoint = Endpoint::start(2).await;
        let (copies, mut heard) = listener(3).await;
        world.serve("web", PORT(), &[endpoint.address]).await;
        world.serve("copies", PORT(), &[copies]).await;
        world.make("gateways", "web", HTTP_LISTENER).await;
        let rules = "
parentRefs: [{name: web}]
rules:
- matches: [{path: {value: /copied}}]
  filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copies, port: 80}}}]
  backendRefs: [{name: web, port: 80}]
- backendRefs: [{name: web, port: 80}]";
        world.make("httproutes", "web", rules).await;
        world.until_answered("web.example", 200).await;
        let stream = TcpStream::connect(HTTP).await.expect("connects");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("agrees");
        tokio::spawn(connection);
        let request =
            Request::post("/copied/a").header("host", "web.example").body(Full::new(Bytes::from("some words")));
        let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let copy = timeout(PATIENCE, heard.recv()).await.expect("in time").expect("a copy");
        assert_eq!(copy, "POST /copied/a some words");
    });
}

#[test]
fn certificates_of_other_namespaces_need_a_grant() {
    with_world("grants", async |world| {
        let endpoint = Endpoint::start(2).await;
        world.serve("web", PORT(), &[endpoint.address]).await;
        let certificate = Certificate::new("web.example");
        let secret = json!({ "metadata": { "name": "web", "namespace": "kube-public" },
            "type": "kubernetes.io/tls", "stringData": certificate.data() });
        world.create::<Secret>(secret).await;
        let listeners = "
gatewayClassName: skiff
listeners:
- {name: safe, port: 443, protocol: HTTPS, hostname: web.example, tls: {certificateRefs: [{name: web, namespace: kube-public}]}}";
        world.make("gateways", "web", listeners).await;
        world
            .make("httproutes", "web", "{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}")
            .await;
        world.until_said(("gateways", "web"), OF_LISTENER, "ResolvedRefs", "False RefNotPermitted").await;
        let grant = json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
            "metadata": { "name": "gateways", "namespace": "kube-public" },
            "spec": {
                "from": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "default" }],
                "to": [{ "group": "", "kind": "Secret" }],
            },
        });
        let path = format!("{GROUP}/v1beta1/namespaces/kube-public/referencegrants");
        world.until("the kind", async || world.admin.get_path::<Value>(&path).await.is_ok()).await;
        world.admin.send_json::<Value>(Method::POST, &path, &grant).await.expect("is made");
        world.until_said(("gateways", "web"), OF_LISTENER, "Programmed", "True Programmed").await;
        world
            .until("the certificate", async || {
                certificate.ask("web.example", b"h2").await.is_ok()
                    || certificate.ask("web.example", b"http/1.1").await.is_ok()
            })
            .await;
        let answer = certificate.ask("web.example", b"http/1.1").await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert!(certificate.ask("other.example", b"http/1.1").await.is_err(), "nobody serves that name");
    });
}

/// The client shakes hands with the pod itself.
#[test]
fn tls_passes_by_its_name() {
    with_world("passthrough", async |world| {
        let certificate = Certificate::new("db.example");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.expect("a config").with_no_client_auth().with_cert_resolver(certificate.certified());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("10.244.0.2:8443").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who breaks off is not the test's client.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let call = |_: Request<Incoming>| async {
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("the pod"))))
                    };
                    let http = hyper::server::conn::http1::Builder::new();
                    drop(http.serve_connection(TokioIo::new(stream), hyper::service::service_fn(call)).await);
                });
            }
        });
        world.serve("db", json!({ "port": 443, "targetPort": 8443 }), &[address]).await;
        let listeners = "
gatewayClassName: skiff
listeners: [{name: db, port: 443, protocol: TLS, hostname: '*.example', tls: {mode: Passthrough}}]";
        world.make("gateways", "db", listeners).await;
        world
            .make(
                "tlsroutes",
                "db",
                "{parentRefs: [{name: db}], hostnames: [db.example], rules: [{backendRefs: [{name: db, port: 443}]}]}",
            )
            .await;
        world.until_said(("tlsroutes", "db"), OF_PARENT, "Accepted", "True Accepted").await;
        world.until("the pod", async || certificate.ask("db.example", b"http/1.1").await.is_ok()).await;
        let answer = certificate.ask("db.example", b"http/1.1").await.expect("an answer");
        assert_eq!(answer.body(), "the pod");
        assert!(certificate.ask("web.example", b"http/1.1").await.is_err(), "no route has that name");
    });
}

#[test]
fn a_port_that_somebody_has_is_said_of_its_listener() {
    with_world("taken", async |world| {
        let other = TcpListener::bind("127.0.0.1:8080").await.expect("the port is free");
        world
            .make("gateways", "web", "{gatewayClassName: skiff, listeners: [{name: web, port: 8080, protocol: HTTP}]}")
            .await;
        world.until_said(("gateways", "web"), OF_LISTENER, "Accepted", "False PortUnavailable").await;
        world.until_said(("gateways", "web"), "/conditions", "Accepted", "False ListenersNotValid").await;
        drop(other);
        world.until_said(("gateways", "web"), OF_LISTENER, "Programmed", "True Programmed").await;
        world.until_said(("gateways", "web"), "/conditions", "Programmed", "True Programmed").await;
    });
}

/// As when a chart brings them: by the door that users have, with all its checks.
#[test]
fn definitions_may_come_later() {
    with_world_that("later", false, async |world| {
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        for definition in skiff_kinds::bootstrap::gateway_definitions() {
            world.admin.send_json::<Value>(Method::POST, definitions, &definition).await.expect("is a good definition");
        }
        let endpoint = Endpoint::start(2).await;
        world.serve("web", PORT(), &[endpoint.address]).await;
        world.make("gateways", "web", HTTP_LISTENER).await;
        world.make("grpcroutes", "web", "{parentRefs: [{name: web}], hostnames: [rpc.example]}").await;
        world
            .make("httproutes", "web", "{parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}")
            .await;
        world.until_answered("web.example", 200).await;
        world.until_said(("grpcroutes", "web"), OF_PARENT, "Accepted", "True Accepted").await;

        let routes = format!("{definitions}/httproutes.gateway.networking.k8s.io");
        world.admin.delete_path(&routes, &DeleteOptions::default()).await.expect("is deleted");
        world.until_answered("web.example", 404).await;
    });
}
