//! API servers of others behind this one: a real TLS server on loopback that believes the front proxy's certificate.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use skiff_apiserver::config::FrontProxy;
use skiff_apiserver::trust::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::served::{Authority, connect, provider};
use crate::support::{Cluster, Watch};

const AGGREGATED: &str = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const ROOT: &str = "/apis/wardle.example.com/v1alpha1";

type Reply = Response<BoxBody<Bytes, std::io::Error>>;

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// A small API server: it tells of `flunders`, and answers requests for them with who asks.
struct Extension {
    port: u16,
    /// As an APIService has it.
    bundle: String,
}

impl Extension {
    async fn start(proxy: &Authority) -> Self {
        let own = Authority::new();
        let (chain, key) = own.issue("extension", "x");
        let verifier = WebPkiClientVerifier::builder_with_provider(proxy.roots(), provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a certificate");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let served = hyper::server::conn::http1::Builder::new();
                    let serving = served.serve_connection(TokioIo::new(stream), service_fn(serve)).with_upgrades();
                    if let Err(error) = serving.await {
                        tracing::debug!(%error, "a connection of the test's server ended");
                    }
                });
            }
        });
        let bundle = pem("CERTIFICATE", &own.certificate);
        Self { port, bundle: base64::engine::general_purpose::STANDARD.encode(bundle) }
    }
}

fn reply(code: u16, tree: &Value) -> Reply {
    let body = Full::new(Bytes::from(tree.to_string())).map_err(|never| match never {}).boxed();
    Response::builder().status(code).header("content-type", "application/json").body(body).expect("a response")
}

async fn serve(mut request: Request<Incoming>) -> Result<Reply, std::io::Error> {
    let schema = json!({"type": "object", "properties": {"m": {"$ref": "#/definitions/io.k8s.Meta"}}});
    let flunders = format!("{ROOT}/namespaces/default/flunders");
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("").to_owned();
    Ok(match path.as_str() {
        ROOT => reply(
            200,
            &json!({"kind": "APIResourceList", "groupVersion": "wardle.example.com/v1alpha1", "resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                    "verbs": ["create", "get", "list", "watch"]}]}),
        ),
        "/openapi/v3" => {
            reply(200, &json!({"paths": {&ROOT[1..]: {"serverRelativeURL": format!("/openapi/v3{ROOT}?hash=FACE")}}}))
        }
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => reply(200, &json!({"openapi": "3.0.0", "paths": {}})),
        "/openapi/v2" => reply(
            200,
            &json!({"swagger": "2.0", "paths": {format!("{ROOT}/flunders"): {"get": {"responses": {"200": {
                "description": "OK", "schema": {"$ref": "#/definitions/com.example.Flunder"}}}}}},
                "definitions": {"com.example.Flunder": schema, "io.k8s.Meta": {"type": "object"}}}),
        ),
        _ if query.contains("watch=1") => {
            let events = (0..2).map(|number| {
                Ok(Frame::data(Bytes::from(format!("{{\"type\":\"ADDED\",\"object\":{{\"n\":{number}}}}}\n"))))
            });
            Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(events))))
        }
        _ if path.ends_with("/console") => {
            tokio::spawn(async move {
                let upgraded = hyper::upgrade::on(&mut request).await.expect("an upgrade");
                let (mut stream, mut text) = (TokioIo::new(upgraded), [0; 4]);
                stream.read_exact(&mut text).await.expect("four bytes");
                text.reverse();
                stream.write_all(&text).await.expect("the other side reads");
            });
            let empty = Empty::new().map_err(|never| match never {}).boxed();
            let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "x");
            answer.body(empty).expect("a response")
        }
        _ if path.ends_with("/elsewhere") => {
            let mut answer = reply(302, &json!({}));
            answer.headers_mut().insert("location", "https://elsewhere/".parse().expect("a place"));
            answer
        }
        _ if path == flunders => {
            let all = |name: &str| {
                let values = request.headers().get_all(name).iter();
                values.map(|value| value.to_str().expect("text").to_owned()).collect::<Vec<_>>()
            };
            let (user, groups) = (all("x-remote-user"), all("x-remote-group"));
            let (method, token) = (request.method().to_string(), all("authorization"));
            let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
            let body = String::from_utf8_lossy(&body);
            reply(200, &json!({"method": method, "user": user, "groups": groups, "token": token, "body": body}))
        }
        _ => reply(404, &json!({})),
    })
}

async fn start() -> (Cluster, Extension) {
    let authority = Authority::new();
    let (chain, key) = authority.issue("front-proxy-client", "");
    let front_proxy = FrontProxy {
        identity: Identity::new(chain, key),
        authority: pem("CERTIFICATE", &authority.certificate),
        name: "front-proxy-client".into(),
        client_authority: "clients".into(),
    };
    let cluster = Cluster::with(|config| config.front_proxy = Some(front_proxy)).await;
    (cluster, Extension::start(&authority).await)
}

pub fn registration(port: u16, more: Value) -> String {
    let mut spec = json!({"group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000,
        "versionPriority": 200, "service": {"namespace": "default", "name": "flunders", "port": port}});
    for (key, value) in more.as_object().expect("fields") {
        spec[key] = value.clone();
    }
    let object = json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": spec});
    format!("POST {SERVICES}\n\n{object}")
}

/// A Service whose name leads to this machine.
pub fn service() -> String {
    let object =
        json!({"metadata": {"name": "flunders"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    format!("POST /api/v1/namespaces/default/services\n\n{object}")
}

/// Waits until the condition has this reason; gives its message.
pub async fn reason(cluster: &Cluster, name: &str, expected: &str) -> String {
    let target = format!(
        "GET {SERVICES}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name={name}"
    );
    let mut watch = Watch::open(cluster, &target).await;
    loop {
        for event in watch.next().await {
            let condition = &event["object"]["status"]["conditions"][0];
            if condition["reason"] == expected {
                return condition["message"].as_str().expect("a message").to_owned();
            }
        }
    }
}

#[tokio::test]
async fn requests_are_passed_on_in_the_name_of_who_asks() {
    let (cluster, extension) = start().await;
    cluster.tree(&service()).await;
    cluster.tree(&registration(extension.port, json!({"caBundle": extension.bundle}))).await;
    assert_eq!(reason(&cluster, "v1alpha1.wardle.example.com", "Passed").await, "all checks passed");
    let flunders = format!("{ROOT}/namespaces/default/flunders");
    let told =
        cluster.tree(&format!("POST {flunders}\nX-Remote-User: root\nAuthorization: Bearer x\n\n{{\"a\": 1}}")).await;
    let expected = json!({"method": "POST", "user": ["admin"], "groups": ["system:masters", "system:authenticated"],
        "token": [], "body": "{\"a\": 1}"});
    assert_eq!(told, expected);
    let refused = cluster.outcome(&format!("GET {flunders}\nUser: jane")).await;
    assert!(
        refused.starts_with(r#"403 flunders.wardle.example.com is forbidden: User "jane" cannot list"#),
        "{refused}"
    );
    let watched = cluster.answer(&format!("GET {flunders}?watch=1")).await;
    assert_eq!(watched.lines().filter(|line| line.contains("ADDED")).count(), 2, "{watched}");
    let redirected = cluster.answer(&format!("GET {ROOT}/elsewhere")).await;
    assert_eq!(redirected, "502\nthe backend attempted to redirect this request, which is not permitted\n\n");
    let mut sender = connect(&cluster, Some(("admin", "system:masters"))).await;
    let request = Request::get(format!("{flunders}/x/console")).header("host", "localhost");
    let request = request.header("connection", "Upgrade").header("upgrade", "x").body(Empty::new());
    let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), 101);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.expect("an upgrade"));
    stream.write_all(b"abcd").await.expect("the other side reads");
    let mut text = [0; 4];
    stream.read_exact(&mut text).await.expect("four bytes");
    assert_eq!(&text, b"dcba");
}

#[tokio::test]
async fn what_others_tell_is_part_of_what_this_server_tells() {
    let (cluster, extension) = start().await;
    cluster.tree(&service()).await;
    cluster.tree(&registration(extension.port, json!({"caBundle": extension.bundle}))).await;
    reason(&cluster, "v1alpha1.wardle.example.com", "Passed").await;
    let groups = cluster.tree("GET /apis").await;
    let names: Vec<&str> =
        groups["groups"].as_array().expect("groups").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!((names[0], names[names.len() - 2]), ("apiregistration.k8s.io", "wardle.example.com"));
    let group = cluster.tree("GET /apis/wardle.example.com").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    assert_eq!(cluster.tree(&format!("GET {ROOT}")).await["resources"][0]["name"], "flunders");
    let whole = cluster.tree(&format!("GET /apis\n{AGGREGATED}")).await;
    let items = whole["items"].as_array().expect("items");
    let item = items.iter().find(|item| item["metadata"]["name"] == "wardle.example.com").expect("the group");
    assert_eq!(item["versions"][0]["freshness"], "Current");
    assert_eq!(item["versions"][0]["resources"][0]["resource"], "flunders");
    let index = cluster.tree("GET /openapi/v3").await;
    assert_eq!(index["paths"][&ROOT[1..]]["serverRelativeURL"], format!("/openapi/v3{ROOT}?hash=FACE"));
    assert_eq!(cluster.tree(&format!("GET /openapi/v3{ROOT}?hash=FACE")).await["openapi"], "3.0.0");
    let v2 = cluster.tree("GET /openapi/v2\nAccept: application/json").await;
    assert!(
        v2["paths"][format!("{ROOT}/flunders")].is_object() && v2["definitions"]["com.example.Flunder"].is_object()
    );
    assert!(v2["paths"]["/apis/apps/v1/"].is_object());
    cluster.tree(&format!("DELETE {SERVICES}/v1alpha1.wardle.example.com")).await;
    let mut left = cluster.outcome(&format!("GET {ROOT}")).await;
    while left != "404" {
        tokio::task::yield_now().await;
        left = cluster.outcome(&format!("GET {ROOT}")).await;
    }
    let whole = cluster.tree(&format!("GET /apis\n{AGGREGATED}")).await;
    assert!(!whole.to_string().contains("wardle"));
}

#[tokio::test]
async fn a_server_that_cannot_be_asked_is_told_of_and_not_asked() {
    let (cluster, extension) = start().await;
    cluster.tree(&registration(extension.port, json!({"insecureSkipTLSVerify": true}))).await;
    let name = "v1alpha1.wardle.example.com";
    assert_eq!(reason(&cluster, name, "ServiceNotFound").await, r#"service/flunders in "default" is not present"#);
    let refused = cluster.answer(&format!("GET {ROOT}/flunders")).await;
    assert_eq!(refused, "503\nservice unavailable\n\n");
    let whole = cluster.tree(&format!("GET /apis\n{AGGREGATED}")).await;
    let items = whole["items"].as_array().expect("items");
    let item = items.iter().find(|item| item["metadata"]["name"] == "wardle.example.com").expect("the group");
    assert_eq!(item["versions"], json!([{"version": "v1alpha1", "freshness": "Stale"}]));
    let table =
        cluster.tree(&format!("GET {SERVICES}/{name}\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io")).await;
    assert_eq!(table["rows"][0]["cells"][1], "default/flunders");
    assert_eq!(table["rows"][0]["cells"][2], "False (ServiceNotFound)");
    let figures = cluster.answer("GET /metrics").await;
    assert!(figures.contains(&format!("aggregator_unavailable_apiservice{{name=\"{name}\"}} 1\n")), "{figures}");
    // As soon as the Service comes it is asked again, and nobody checks its certificate.
    cluster.tree(&service()).await;
    reason(&cluster, name, "Passed").await;
    assert_eq!(cluster.tree(&format!("GET {ROOT}/namespaces/default/flunders")).await["user"], json!(["admin"]));
    // With an authority that it does not have it is still there, but not to be trusted.
    let other = base64::engine::general_purpose::STANDARD.encode(pem("CERTIFICATE", &Authority::new().certificate));
    let patch = json!({"spec": {"insecureSkipTLSVerify": false, "caBundle": other}});
    cluster.tree(&format!("PATCH {SERVICES}/{name}\nContent-Type: application/merge-patch+json\n\n{patch}")).await;
    let mut answer = String::new();
    while !answer.contains("tls: failed to verify certificate") {
        tokio::task::yield_now().await;
        answer = cluster.answer(&format!("GET {ROOT}/namespaces/default/flunders")).await;
    }
    assert!(answer.starts_with("503\nerror trying to reach service: tls:"), "{answer}");
}

#[tokio::test]
async fn what_this_server_has_itself_is_listed_too() {
    let (cluster, extension) = start().await;
    let list = cluster.tree(&format!("GET {SERVICES}")).await;
    let find = |name: &str| {
        let items = list["items"].as_array().expect("items");
        items.iter().find(|item| item["metadata"]["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(find("v1.")["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
    assert_eq!(find("v1.apps")["status"]["conditions"][0]["reason"], "Local");
    assert_eq!(find("v1.apps")["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    let schema = json!({"type": "object"});
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.tree(&format!("POST {definitions}\n\n{definition}")).await;
    assert_eq!(reason(&cluster, "v1.example.com", "Local").await, "Local APIServices are always available");
    cluster.tree(&format!("DELETE {definitions}/things.example.com")).await;
    while cluster.outcome(&format!("GET {SERVICES}/v1.example.com")).await == "200" {
        tokio::task::yield_now().await;
    }
    let map = cluster.tree("GET /api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
    assert_eq!(map["data"]["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
    assert_eq!(map["data"]["client-ca-file"], "clients");
    // Another server of metrics takes over, and gives them back when it goes.
    let usage = "v1beta1.metrics.k8s.io";
    assert_eq!(cluster.tree("GET /apis/metrics.k8s.io/v1beta1").await["resources"][0]["name"], "nodes");
    let patch = json!({"spec": {"insecureSkipTLSVerify": true, "service":
        {"namespace": "default", "name": "nowhere", "port": extension.port}}});
    cluster.tree(&format!("PATCH {SERVICES}/{usage}\nContent-Type: application/merge-patch+json\n\n{patch}")).await;
    reason(&cluster, usage, "ServiceNotFound").await;
    assert_eq!(cluster.answer("GET /apis/metrics.k8s.io/v1beta1/nodes").await, "503\nservice unavailable\n\n");
    cluster.tree(&format!("DELETE {SERVICES}/{usage}")).await;
    reason(&cluster, usage, "Local").await;
    assert_eq!(cluster.tree("GET /apis/metrics.k8s.io/v1beta1/nodes").await["kind"], "NodeMetricsList");
}
