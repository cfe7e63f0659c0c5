//! The table of routes and what is made of requests, without a socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use expect_test::{Expect, expect};
use http::{Request, Response};
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use rustls::sign::SingleCertAndKey;
use serde_json::{Value, json};
use skiff_client::ObjectKey;

use super::annotations::{Options, Protocol};
use super::certificates::{Certificates, Wanted};
use super::choice::Target;
use super::headers::{Caller, host_of, prepare_request, prepare_response};
use super::routes::is_ours;
use super::site::{Route, Routes, World};
use super::status;
use super::table::{Ask, PathMatch, Table};
use super::upstream::Upstream;

fn parse<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

/// The ports of Ingresses.
const PORTS: (u16, u16) = (80, 443);

/// A plain question.
fn ask<'a>(host: &'a str, path: &'a str) -> Ask<'a> {
    static NO_HEADERS: std::sync::LazyLock<http::HeaderMap> = std::sync::LazyLock::new(http::HeaderMap::new);
    Ask { host, path, query: "", method: &http::Method::GET, headers: &*NO_HEADERS }
}

/// The examples of the API's documentation: kind, the rules' paths, and what is asked for.
#[test]
fn paths_match_as_documented() {
    let cases = [
        ("Prefix", "/", "/any/path"),
        ("Exact", "/foo", "/foo"),
        ("Exact", "/foo", "/bar"),
        ("Exact", "/foo", "/foo/"),
        ("Exact", "/foo/", "/foo"),
        ("Prefix", "/foo", "/foo"),
        ("Prefix", "/foo", "/foo/"),
        ("Prefix", "/foo/", "/foo"),
        ("Prefix", "/foo/", "/foo/"),
        ("Prefix", "/aaa/bb", "/aaa/bbb"),
        ("Prefix", "/aaa/bbb", "/aaa/bbb"),
        ("Prefix", "/aaa/bbb/", "/aaa/bbb"),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/"),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc"),
        ("Prefix", "/aaa/bbb", "/aaa/bbbxyz"),
        ("Prefix", "/ /aaa", "/aaa/ccc"),
        ("Prefix", "/ /aaa", "/ccc"),
        ("Prefix", "/ /aaa /aaa/bbb", "/aaa/bbb"),
        ("Prefix", "/aaa", "/ccc"),
        ("Prefix", "/aaa", "/AAA"),
        ("Mixed", "/foo", "/foo"),
        ("Mixed", "/foo", "/foo/"),
    ];
    let mut text = String::new();
    for (kind, paths, asked) in cases {
        let mut table = Table::default();
        for path in paths.split(' ') {
            if kind != "Exact" {
                table.add("", PathMatch::prefix(path), format!("prefix {path}"));
            }
            if kind != "Prefix" {
                table.add("", PathMatch::Exact(path.to_owned()), format!("exact {path}"));
            }
        }
        text += &format!(
            "{kind} {paths}: {asked} {}\n",
            table.find(&ask("any.example", asked)).map_or("-", String::as_str)
        );
    }
    expect![[r#"
        Prefix /: /any/path prefix /
        Exact /foo: /foo exact /foo
        Exact /foo: /bar -
        Exact /foo: /foo/ -
        Exact /foo/: /foo -
        Prefix /foo: /foo prefix /foo
        Prefix /foo: /foo/ prefix /foo
        Prefix /foo/: /foo prefix /foo/
        Prefix /foo/: /foo/ prefix /foo/
        Prefix /aaa/bb: /aaa/bbb -
        Prefix /aaa/bbb: /aaa/bbb prefix /aaa/bbb
        Prefix /aaa/bbb/: /aaa/bbb prefix /aaa/bbb/
        Prefix /aaa/bbb: /aaa/bbb/ prefix /aaa/bbb
        Prefix /aaa/bbb: /aaa/bbb/ccc prefix /aaa/bbb
        Prefix /aaa/bbb: /aaa/bbbxyz -
        Prefix / /aaa: /aaa/ccc prefix /aaa
        Prefix / /aaa: /ccc prefix /
        Prefix / /aaa /aaa/bbb: /aaa/bbb prefix /aaa/bbb
        Prefix /aaa: /ccc -
        Prefix /aaa: /AAA -
        Mixed /foo: /foo exact /foo
        Mixed /foo: /foo/ prefix /foo
    "#]]
    .assert_eq(&text);
}

#[test]
fn hosts_match_exactly_then_by_wildcard_then_anyhow() {
    let mut table = Table::default();
    table.add("foo.example.com", PathMatch::prefix("/a"), "exact");
    table.add("*.example.com", PathMatch::prefix("/"), "wildcard");
    table.add("", PathMatch::prefix("/b"), "anyhow");
    table.add("foo.example.com", PathMatch::prefix("/a/"), "too late");
    table.add_fallback("foo.example.com", "its own");
    table.add_fallback("", "default");
    fn find(table: &Table<&'static str>, host: &str, path: &str) -> &'static str {
        table.find(&ask(host, path)).or_else(|| table.find_fallback(host)).unwrap_or(&"-")
    }
    let mut text = String::new();
    for (host, path) in [
        ("foo.example.com", "/a"),
        ("FOO.example.com.:8080", "/a/b"),
        ("foo.example.com", "/c"),
        ("bar.example.com", "/a"),
        ("bar.foo.example.com", "/a"),
        ("example.com", "/b"),
        ("example.com", "/a"),
        ("*.example.com", "/a"),
        ("[::1]:80", "/b"),
        ("", "/"),
    ] {
        text += &format!("{host} {path}: {}\n", find(&table, host, path));
    }
    expect![[r#"
        foo.example.com /a: exact
        FOO.example.com.:8080 /a/b: exact
        foo.example.com /c: wildcard
        bar.example.com /a: wildcard
        bar.foo.example.com /a: default
        example.com /b: anyhow
        example.com /a: default
        *.example.com /a: wildcard
        [::1]:80 /b: anyhow
         /: default
    "#]]
    .assert_eq(&text);
}

/// Services `web` (ports `http` 80, `admin` 9000, `grpc` 50051) and `empty`, whose endpoints are all of these.
struct Shop {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Shop {
    fn new(endpoints: Value) -> Self {
        let ports = json!([
            { "name": "http", "port": 80 },
            { "name": "admin", "port": 9000 },
            { "name": "grpc", "port": 50051, "appProtocol": "kubernetes.io/h2c" },
        ]);
        let slice = |port: &str, number: u16| {
            parse(json!({
                "addressType": "IPv4", "ports": [{ "name": port, "port": number }], "endpoints": endpoints,
            }))
        };
        Self {
            service: parse(json!({ "spec": { "ports": ports } })),
            slices: vec![slice("http", 8080), slice("admin", 9090), slice("grpc", 5051)],
        }
    }

    fn ready() -> Self {
        Self::new(json!([{ "addresses": ["10.244.0.5"] }, { "addresses": ["10.244.1.6"] }]))
    }
}

impl World for Shop {
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        (key.to_string() == "shop/web").then(|| self.service.clone())
    }

    fn slices(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        if key.to_string() == "shop/web" { self.slices.clone() } else { Vec::new() }
    }
}

fn ingress(name: &str, second: u8, spec: &str) -> Arc<Ingress> {
    let spec: Value = serde_saphyr::from_str(spec).expect("a spec");
    let metadata = json!({
        "name": name, "namespace": "shop", "creationTimestamp": format!("2026-03-04T05:06:{second:02}Z"),
    });
    parse(json!({ "metadata": metadata, "spec": spec }))
}

fn backend(name: &str, port: &str) -> String {
    format!("{{service: {{name: {name}, port: {{{port}}}}}}}")
}

/// The endpoints that get the next request.
fn upstream_of(route: &Route) -> &Arc<Upstream> {
    let backend = route.choice.turn().and_then(|at| route.choice.backend(at)).expect("a backend");
    match &backend.target {
        Target::Upstream(upstream) => upstream,
        Target::Refused(status) => panic!("refused with {status}"),
    }
}

fn check(ingresses: &[Arc<Ingress>], shop: &Shop, asked: &[(&str, &str)], expected: Expect) {
    let routes = Routes::of_ingresses(ingresses, PORTS, shop, &Routes::default());
    let mut text = String::new();
    for (host, path) in asked {
        let found = routes.find(80, &ask(host, path)).map_or_else(
            || "nobody".to_owned(),
            |route| {
                let upstream = upstream_of(route);
                format!("{} {:?} {:?}", route.owner, upstream.protocol, upstream.endpoints)
            },
        );
        text += &format!("{host}{path}: {found}\n");
    }
    expected.assert_eq(&text);
}

#[test]
fn ingresses_become_routes() {
    let http = backend("web", "number: 80");
    let rules = format!(
        "rules:
- host: shop.example
  http:
    paths:
    - {{path: /, pathType: Prefix, backend: {http}}}
    - {{path: /admin, pathType: Exact, backend: {}}}
    - {{path: /rpc, pathType: ImplementationSpecific, backend: {}}}
    - {{path: /gone, pathType: Prefix, backend: {}}}
    - {{path: /wrong, pathType: Prefix, backend: {}}}
    - {{path: /bucket, pathType: Prefix, backend: {{resource: {{kind: Bucket, name: b}}}}}}
- http:
    paths: [{{path: /all, pathType: Prefix, backend: {http}}}]",
        backend("web", "name: admin"),
        backend("web", "name: grpc"),
        backend("empty", "number: 80"),
        backend("web", "number: 81"),
    );
    let late =
        format!("rules: [{{host: shop.example, http: {{paths: [{{path: /, pathType: Prefix, backend: {http}}}]}}}}]");
    check(
        &[ingress("late", 9, &late), ingress("first", 1, &rules)],
        &Shop::ready(),
        &[
            ("shop.example", "/"),
            ("shop.example", "/admin"),
            ("shop.example", "/admin/x"),
            ("shop.example", "/rpc/Service/Call"),
            ("shop.example", "/gone"),
            ("shop.example", "/wrong"),
            ("shop.example", "/bucket"),
            ("other.example", "/all/of/it"),
            ("other.example", "/"),
        ],
        expect![[r#"
            shop.example/: Ingress shop/first Http1 [10.244.0.5:8080, 10.244.1.6:8080]
            shop.example/admin: Ingress shop/first Http1 [10.244.0.5:9090, 10.244.1.6:9090]
            shop.example/admin/x: Ingress shop/first Http1 [10.244.0.5:8080, 10.244.1.6:8080]
            shop.example/rpc/Service/Call: Ingress shop/first Http2 [10.244.0.5:5051, 10.244.1.6:5051]
            shop.example/gone: Ingress shop/first Http1 []
            shop.example/wrong: Ingress shop/first Http1 []
            shop.example/bucket: Ingress shop/first Http1 []
            other.example/all/of/it: Ingress shop/first Http1 [10.244.0.5:8080, 10.244.1.6:8080]
            other.example/: nobody
        "#]],
    );
}

#[test]
fn default_backends_are_the_last_resort() {
    let own = format!(
        "defaultBackend: {}\nrules: [{{host: shop.example, http: {{paths: [{{path: /a, pathType: Prefix, backend: {}}}]}}}}]",
        backend("web", "name: admin"),
        backend("web", "name: http")
    );
    let all = format!("defaultBackend: {}", backend("web", "name: http"));
    check(
        &[ingress("own", 2, &own), ingress("all", 1, &all)],
        &Shop::ready(),
        &[("shop.example", "/a"), ("shop.example", "/b"), ("other.example", "/a")],
        expect![[r#"
            shop.example/a: Ingress shop/own Http1 [10.244.0.5:8080, 10.244.1.6:8080]
            shop.example/b: Ingress shop/own Http1 [10.244.0.5:9090, 10.244.1.6:9090]
            other.example/a: Ingress shop/all Http1 [10.244.0.5:8080, 10.244.1.6:8080]
        "#]],
    );
}

#[test]
fn endpoints_that_end_are_asked_when_no_other_is_left() {
    let all = ingress("all", 1, &format!("defaultBackend: {}", backend("web", "name: http")));
    let endpoint = |address: &str, ready: bool, serving: bool, terminating: bool| {
        json!({ "addresses": [address],
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
    };
    let ending = endpoint("10.244.0.5", false, true, true);
    let gone = endpoint("10.244.0.6", false, false, true);
    let ready = endpoint("10.244.0.7", true, true, false);
    let asked = [("shop.example", "/")];
    check(
        std::slice::from_ref(&all),
        &Shop::new(json!([ending, gone, ready])),
        &asked,
        expect![[r#"
        shop.example/: Ingress shop/all Http1 [10.244.0.7:8080]
    "#]],
    );
    check(
        &[all],
        &Shop::new(json!([ending, gone])),
        &asked,
        expect![[r#"
        shop.example/: Ingress shop/all Http1 [10.244.0.5:8080]
    "#]],
    );
}

#[test]
fn endpoints_take_turns_also_when_the_routes_change() {
    let all = [ingress("all", 1, &format!("defaultBackend: {}", backend("web", "name: http")))];
    let shop = Shop::ready();
    let mut routes = Routes::default();
    let mut taken = Vec::new();
    for _ in 0..4 {
        routes = Routes::of_ingresses(&all, PORTS, &shop, &routes);
        let upstream = upstream_of(routes.find(80, &ask("", "/")).expect("a route"));
        taken.push(upstream.turn().next().expect("an endpoint").ip().to_string());
    }
    assert_eq!(taken, ["10.244.0.5", "10.244.1.6", "10.244.0.5", "10.244.1.6"]);
    // Who is asked again asks each of the others first.
    let upstream = upstream_of(routes.find(80, &ask("", "/")).expect("a route"));
    let order: Vec<String> = upstream.turn().take(3).map(|endpoint| endpoint.ip().to_string()).collect();
    assert_eq!(order, ["10.244.0.5", "10.244.1.6", "10.244.0.5"]);
}

#[test]
fn only_classes_of_this_controller_count() {
    let class = |name: &str, controller: &str| -> Arc<IngressClass> {
        parse(json!({ "metadata": { "name": name }, "spec": { "controller": controller } }))
    };
    let classes = [class("skiff", "skiff.io/ingress"), class("nginx", "k8s.io/ingress-nginx")];
    let of = |metadata: Value, spec: Value| is_ours(&parse(json!({ "metadata": metadata, "spec": spec })), &classes);
    let annotated = |class: &str| json!({ "annotations": { "kubernetes.io/ingress.class": class } });
    assert!(of(json!({}), json!({ "ingressClassName": "skiff" })));
    assert!(of(annotated("skiff"), json!({})));
    assert!(!of(json!({}), json!({ "ingressClassName": "nginx" })));
    assert!(!of(annotated("nginx"), json!({})));
    assert!(!of(json!({}), json!({ "ingressClassName": "none" })));
    assert!(!of(json!({}), json!({})));
}

#[test]
fn annotations_are_read_and_faults_are_told() {
    let read = |texts: &[(&str, &str)]| {
        let annotations: BTreeMap<String, String> =
            texts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (options, faults) = Options::read(Some(&annotations));
        let Options { redirect, protocol, connect_timeout, read_timeout, request_timeout: _, logs_access } = options;
        format!("{redirect:?} {protocol:?} {connect_timeout:?} {read_timeout:?} {logs_access} {faults:?}\n")
    };
    let text = [
        read(&[]),
        read(&[
            ("ingress.skiff.io/ssl-redirect", "true"),
            ("nginx.ingress.kubernetes.io/backend-protocol", "grpc"),
            ("ingress.skiff.io/proxy-connect-timeout", "1"),
            ("nginx.ingress.kubernetes.io/proxy-read-timeout", "3600"),
            ("ingress.skiff.io/enable-access-log", "true"),
        ]),
        read(&[
            ("nginx.ingress.kubernetes.io/force-ssl-redirect", "true"),
            ("ingress.skiff.io/ssl-redirect", "yes"),
            ("ingress.skiff.io/backend-protocol", "FCGI"),
            ("ingress.skiff.io/proxy-read-timeout", "0"),
        ]),
    ];
    expect![[r#"
        Never None 5s 60s false []
        IfTls Some(Http2) 1s 3600s true []
        Always None 5s 60s false ["annotation ingress.skiff.io/ssl-redirect is neither true nor false: \"yes\"", "annotation ingress.skiff.io/proxy-read-timeout is no number of seconds: \"0\"", "annotation ingress.skiff.io/backend-protocol: \"FCGI\" is not supported, only HTTP, H2C and GRPC are"]
    "#]].assert_eq(&text.concat());
}

fn request_after(request: Request<()>, is_tls: bool, protocol: Protocol) -> String {
    let caller = Caller::new("192.0.2.9".parse().expect("an address"), is_tls, 443);
    let (mut parts, ()) = request.into_parts();
    let host = host_of(&parts).to_owned();
    prepare_request(&mut parts, &host, &caller, protocol, None);
    let mut lines: Vec<String> =
        parts.headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().expect("text"))).collect();
    lines.sort();
    format!("{} {} {:?}\n{}\n", parts.method, parts.uri, parts.version, lines.concat())
}

#[test]
fn requests_lose_what_is_about_their_connection() {
    let plain = Request::get("/a?b=c")
        .header("Host", "shop.example:8080")
        .header("Connection", "keep-alive, X-Private")
        .header("Keep-Alive", "timeout=5")
        .header("X-Private", "1")
        .header("TE", "trailers, deflate")
        .header("Upgrade", "h2c")
        .header("X-Forwarded-For", "10.0.0.1")
        .header("Forwarded", "for=10.0.0.1")
        .header("Accept", "text/html");
    let socket = Request::get("/chat")
        .header("Host", "shop.example")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let second = Request::post("https://shop.example/a")
        .version(http::Version::HTTP_2)
        .header("cookie", "a=1")
        .header("cookie", "b=2");
    let rpc = Request::post("http://shop.example/Service/Call").version(http::Version::HTTP_2).header("te", "trailers");
    let built = |builder: http::request::Builder| builder.body(()).expect("a request");
    let text = [
        request_after(built(plain), false, Protocol::Http1),
        request_after(built(socket), true, Protocol::Http1),
        request_after(built(second), true, Protocol::Http1),
        request_after(built(rpc), true, Protocol::Http2),
    ];
    expect![[r#"
        GET /a?b=c HTTP/1.1
        accept: text/html
        host: shop.example:8080
        te: trailers
        x-forwarded-for: 192.0.2.9
        x-forwarded-host: shop.example:8080
        x-forwarded-port: 443
        x-forwarded-proto: http
        x-forwarded-scheme: http
        x-real-ip: 192.0.2.9

        GET /chat HTTP/1.1
        connection: upgrade
        host: shop.example
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==
        upgrade: websocket
        x-forwarded-for: 192.0.2.9
        x-forwarded-host: shop.example
        x-forwarded-port: 443
        x-forwarded-proto: https
        x-forwarded-scheme: https
        x-real-ip: 192.0.2.9

        POST /a HTTP/1.1
        cookie: a=1; b=2
        host: shop.example
        x-forwarded-for: 192.0.2.9
        x-forwarded-host: shop.example
        x-forwarded-port: 443
        x-forwarded-proto: https
        x-forwarded-scheme: https
        x-real-ip: 192.0.2.9

        POST http://shop.example/Service/Call HTTP/2.0
        te: trailers
        x-forwarded-for: 192.0.2.9
        x-forwarded-host: shop.example
        x-forwarded-port: 443
        x-forwarded-proto: https
        x-forwarded-scheme: https
        x-real-ip: 192.0.2.9

    "#]]
    .assert_eq(&text.concat());
}

#[test]
fn answers_lose_what_is_about_their_connection() {
    let after = |builder: http::response::Builder| {
        let (mut parts, ()) = builder.body(()).expect("an answer").into_parts();
        prepare_response(&mut parts);
        let mut lines: Vec<String> = parts.headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        lines.sort();
        lines.join(", ")
    };
    let plain = Response::builder().header("Connection", "close").header("Transfer-Encoding", "chunked");
    assert_eq!(after(plain.header("Upgrade", "h2c").header("Server", "x")), "server: \"x\"");
    let switched = Response::builder().status(101).header("Connection", "Upgrade").header("Upgrade", "websocket");
    assert_eq!(after(switched), "connection: \"upgrade\", upgrade: \"websocket\"");
}

fn tls_secret(name: &str) -> (Arc<Secret>, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let data = |text: String| k8s_openapi::ByteString(text.into_bytes());
    let secret = Secret {
        data: Some(
            [
                ("tls.crt".to_owned(), data(made.cert.pem())),
                ("tls.key".to_owned(), data(made.signing_key.serialize_pem())),
            ]
            .into(),
        ),
        ..Secret::default()
    };
    (Arc::new(secret), made.cert.der().to_vec())
}

#[test]
fn certificates_are_shown_by_name() {
    let secrets = ["exact.example", "star.example", "all.example", "default.example"].map(tls_secret);
    let default = super::certificates::parse_certificate(&secrets[3].0).expect("a good one");
    let certificates = Certificates::new(Arc::new(SingleCertAndKey::from((*default).clone())));
    let shown = |name: Option<&str>| {
        // Where there is none, the default one is shown.
        let shown = certificates.find(name).unwrap_or_else(|| default.clone());
        secrets.iter().position(|(_, der)| shown.cert[0].as_ref() == der).expect("one of them")
    };
    assert_eq!((shown(Some("exact.example")), shown(None)), (3, 3));
    let key = |name: &str| ObjectKey::new("shop", name);
    let wanted = |host: &str, secret: &str| Wanted { host: host.to_owned(), secret: key(secret), one_label: true };
    let mut mixed = (*secrets[0].0).clone();
    mixed.data.as_mut().expect("has some").extend(secrets[1].0.data.clone().into_iter().flatten().take(1));
    let of = |key: &ObjectKey| match key.name.as_str() {
        "exact" => Some(secrets[0].0.clone()),
        "star" => Some(secrets[1].0.clone()),
        "all" => Some(secrets[2].0.clone()),
        "mixed" => Some(Arc::new(mixed.clone())),
        "empty" => Some(Arc::new(Secret::default())),
        _ => None,
    };
    let faults = certificates.replace(
        &[
            wanted("exact.example", "exact"),
            wanted("exact.example", "star"),
            wanted("*.example", "star"),
            wanted("bad.other", "none"),
            wanted("bad.other", "mixed"),
            wanted("bad.other", "empty"),
        ],
        true,
        of,
    );
    let faults: Vec<String> = faults.iter().map(|(secret, reason)| format!("{secret} {reason}\n")).collect();
    expect![[r#"
        shop/none is not there, or not of type kubernetes.io/tls
        shop/mixed tls.crt is not the certificate of tls.key
        shop/empty has no tls.crt
    "#]]
    .assert_eq(&faults.concat());
    assert_eq!(["Exact.Example", "x.example", "x.y.example", "bad.other"].map(|name| shown(Some(name))), [0, 1, 3, 3]);
    certificates.replace(&[wanted("", "all")], true, of);
    assert_eq!((shown(Some("exact.example")), shown(None)), (2, 2));
}

#[test]
fn the_status_tells_of_the_nodes_that_serve() {
    let node = |address: &str, ready: &str| -> Arc<Node> {
        parse(json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": "n" }],
            "conditions": [{ "type": "Ready", "status": ready }],
        } }))
    };
    let ready =
        status::ready_addresses(&[node("192.0.2.1", "True"), node("192.0.2.2", "True"), node("192.0.2.3", "False")]);
    let wanted = |current: &[&str], serves| {
        let current: Vec<String> = current.iter().map(|address| (*address).to_owned()).collect();
        status::wanted(&current, "192.0.2.2", serves, &ready).join(" ")
    };
    assert_eq!(wanted(&[], true), "192.0.2.2");
    assert_eq!(wanted(&["192.0.2.1", "192.0.2.3"], true), "192.0.2.1 192.0.2.2");
    assert_eq!(wanted(&["192.0.2.2", "192.0.2.1"], false), "192.0.2.1");
    let balanced = |protocol: &str| -> Arc<Service> {
        parse(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "ports": [{ "port": 80, "protocol": protocol, "nodePort": 30080 }] },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.2" }] } },
        }))
    };
    let owner =
        |protocol, address, port| status::port_owner(&[balanced(protocol)], address, port).map(|key| key.to_string());
    assert_eq!(owner("TCP", "192.0.2.2", 80).as_deref(), Some("shop/web"));
    assert_eq!(
        [owner("UDP", "192.0.2.2", 80), owner("TCP", "192.0.2.1", 80), owner("TCP", "192.0.2.2", 443)],
        [None, None, None]
    );
    assert_eq!(owner("TCP", "192.0.2.9", 30080).as_deref(), Some("shop/web"));
}
