//! What Gateways and routes become, without a socket: attachment, precedence, conditions, and what is done to requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use http::{HeaderMap, Method, Uri};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_client::ObjectKey;

use super::super::choice::{Target, take_turn};
use super::super::filters::{Mirror, PathEdit, Redirection};
use super::super::headers::Caller;
use super::super::hosts::intersection;
use super::super::site::{Route, Routes, Secured, World};
use super::super::table::Ask;
use super::super::upstream::Upstream;
use super::api::{Gateway, GrpcRoute, HttpRoute, ReferenceGrant, TlsRoute};
use super::attach::duration;
use super::plan::{Observed, plan};
use super::report::{gateway_status, route_status};

const NOW: &str = "2026-03-04T05:06:07Z";

/// Services `a`, `b` and `c` of all namespaces with one endpoint each; the others are not there.
struct Shop;

impl World for Shop {
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        let spec =
            json!({ "spec": { "ports": [{ "port": 80 }, { "name": "tls", "port": 443, "appProtocol": "https" }] } });
        ["a", "b", "c"].contains(&key.name.as_str()).then(|| parse(spec))
    }

    fn slices(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        let last = key.name.bytes().next().unwrap_or_default();
        vec![parse(json!({
            "addressType": "IPv4", "ports": [{ "name": "", "port": 8080 }],
            "endpoints": [{ "addresses": [format!("10.244.0.{last}")] }],
        }))]
    }
}

fn parse<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

/// What there is, as text: documents of `kind`, `name`, perhaps `namespace` and `age`, and `spec`.
#[derive(Default)]
struct Objects {
    gateways: Vec<Arc<Gateway>>,
    http: Vec<Arc<HttpRoute>>,
    grpc: Vec<Arc<GrpcRoute>>,
    tls: Vec<Arc<TlsRoute>>,
    grants: Vec<Arc<ReferenceGrant>>,
}

impl Objects {
    fn read(text: &str) -> Self {
        let mut all = Self::default();
        for document in text.split("\n---") {
            let read: Value = serde_saphyr::from_str(document).expect("a document");
            let second = read["age"].as_u64().unwrap_or(0);
            let object = json!({
                "metadata": {
                    "name": read["name"], "namespace": read["namespace"].as_str().unwrap_or("shop"), "generation": 3,
                    "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", 59 - second),
                },
                "spec": read["spec"], "status": read["status"],
            });
            match read["kind"].as_str() {
                Some("Gateway") => all.gateways.push(parse(object)),
                Some("HTTPRoute") => all.http.push(parse(object)),
                Some("GRPCRoute") => all.grpc.push(parse(object)),
                Some("TLSRoute") => all.tls.push(parse(object)),
                Some("ReferenceGrant") => all.grants.push(parse(object)),
                other => panic!("no kind {other:?}"),
            }
        }
        all
    }

    fn plan(&self) -> (Routes, super::Plan) {
        let labels = |name: &str| Some(BTreeMap::from([("team".to_owned(), name.to_owned())]));
        let certificate = |key: &ObjectKey| if key.name == "bad" { Err("is bad".to_owned()) } else { Ok(()) };
        let observed = Observed {
            gateways: &self.gateways,
            http: &self.http,
            grpc: &self.grpc,
            tls: &self.tls,
            grants: &self.grants,
            labels: &labels,
            certificate: &certificate,
        };
        let mut routes = Routes::default();
        let plan = plan(&observed, &Shop, &mut routes, &Routes::default());
        (routes, plan)
    }
}

/// Type, status and reason of conditions that are not as they are where all is well.
fn told(conditions: &Value) -> String {
    let well = [
        "Accepted True Accepted",
        "Programmed True Programmed",
        "Conflicted False NoConflicts",
        "ResolvedRefs True ResolvedRefs",
    ];
    let text = |it: &Value| format!("{} {} {}", it["type"], it["status"], it["reason"]).replace('"', "");
    let texts = conditions.as_array().into_iter().flatten().map(text);
    let odd: Vec<String> = texts.filter(|text| !well.contains(&text.as_str())).collect();
    if odd.is_empty() { "well".to_owned() } else { odd.join(", ") }
}

/// What is told of everything, where this node serves all ports but 9999.
fn check_told(text: &str, expected: Expect) {
    let (_, plan) = Objects::read(text).plan();
    let mut lines = String::new();
    for gateway in &plan.gateways {
        let status = gateway_status(gateway, &["192.0.2.1".to_owned()], |port| port != 9999, NOW);
        lines += &format!("Gateway {}: {}\n", gateway.gateway.key(), told(&status["conditions"]));
        for listener in status["listeners"].as_array().into_iter().flatten() {
            let (name, count) = (listener["name"].as_str().unwrap_or("-"), &listener["attachedRoutes"]);
            lines += &format!("  {name} with {count}: {}\n", told(&listener["conditions"]));
        }
    }
    for route in &plan.routes {
        let parents = route_status(route, NOW).unwrap_or_default();
        let name: Vec<&str> = route.path.split('/').collect();
        for parent in parents.as_array().into_iter().flatten() {
            lines += &format!("{} {}: {}\n", name[6], name[7], told(&parent["conditions"]));
        }
    }
    expected.assert_eq(&lines);
}

#[test]
fn routes_hang_on_listeners_that_take_them() {
    check_told(
        "
kind: Gateway
name: web
spec:
  listeners:
  - {name: all, port: 80, protocol: HTTP, hostname: '*.example', allowedRoutes: {namespaces: {from: All}}}
  - {name: own, port: 8080, protocol: HTTP}
  - name: team
    port: 8081
    protocol: HTTP
    allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: other}}}, kinds: [{kind: GRPCRoute}]}
---
{kind: HTTPRoute, name: everywhere, spec: {parentRefs: [{name: web}]}}
---
{kind: HTTPRoute, name: section, spec: {parentRefs: [{name: web, sectionName: own}]}}
---
{kind: HTTPRoute, name: port, spec: {parentRefs: [{name: web, port: 81}]}}
---
{kind: HTTPRoute, name: host, spec: {parentRefs: [{name: web, sectionName: all}], hostnames: [web.other]}}
---
{kind: HTTPRoute, name: stranger, namespace: other, spec: {parentRefs: [{name: web, namespace: shop, sectionName: own}]}}
---
{kind: HTTPRoute, name: wrong, namespace: other, spec: {parentRefs: [{name: web, namespace: shop, sectionName: team}]}}
---
{kind: HTTPRoute, name: elsewhere, spec: {parentRefs: [{name: web, kind: Service, group: ''}, {name: none}]}}
---
{kind: GRPCRoute, name: friend, namespace: other, spec: {parentRefs: [{name: web, namespace: shop, sectionName: team}]}}
---
{kind: TLSRoute, name: secure, spec: {parentRefs: [{name: web}], hostnames: [a.example]}}",
        expect![[r#"
            Gateway shop/web: well
              all with 1: well
              own with 2: well
              team with 1: well
            httproutes stranger: Accepted False NotAllowedByListeners
            httproutes wrong: Accepted False NotAllowedByListeners
            httproutes everywhere: well
            httproutes host: Accepted False NoMatchingListenerHostname
            httproutes port: Accepted False NoMatchingParent
            httproutes section: well
            grpcroutes friend: well
            tlsroutes secure: Accepted False NotAllowedByListeners
        "#]],
    );
}

#[test]
fn listeners_that_cannot_be_served_say_why() {
    check_told(
        "
kind: Gateway
name: first
age: 9
spec:
  listeners:
  - {name: plain, port: 80, protocol: HTTP}
  - {name: taken, port: 9999, protocol: HTTP}
  - {name: udp, port: 53, protocol: UDP}
  - {name: kinds, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}}
  - {name: mixed-a, port: 82, protocol: HTTP}
  - {name: mixed-b, port: 82, protocol: HTTPS, tls: {certificateRefs: [{name: good}]}}
  - {name: same-a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: good}]}}
  - {name: same-b, port: 443, protocol: TLS, hostname: a.example, tls: {mode: Passthrough}}
  - {name: good, port: 443, protocol: HTTPS, hostname: b.example, tls: {certificateRefs: [{name: good}]}}
  - {name: bad, port: 443, protocol: HTTPS, hostname: c.example, tls: {certificateRefs: [{name: bad}]}}
  - {name: map, port: 443, protocol: HTTPS, hostname: d.example, tls: {certificateRefs: [{name: good, kind: ConfigMap}]}}
  - {name: far, port: 443, protocol: HTTPS, hostname: e.example, tls: {certificateRefs: [{name: good, namespace: far}]}}
  - {name: near, port: 443, protocol: HTTPS, hostname: f.example, tls: {certificateRefs: [{name: good, namespace: near}]}}
---
{kind: Gateway, name: second, spec: {listeners: [{name: odd, port: 80, protocol: TLS, tls: {mode: Passthrough}}]}}
---
{kind: Gateway, name: third, spec: {addresses: [{value: 192.0.2.7}], listeners: [{name: web, port: 80, protocol: HTTP}]}}
---
kind: ReferenceGrant
name: near
namespace: near
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}]
  to: [{group: '', kind: Secret, name: good}]",
        expect![[r#"
            Gateway shop/first: Accepted True ListenersNotValid
              plain with 0: well
              taken with 0: Accepted False PortUnavailable, Programmed False Invalid
              udp with 0: Accepted False UnsupportedProtocol, Programmed False Invalid
              kinds with 0: ResolvedRefs False InvalidRouteKinds
              mixed-a with 0: Accepted False ProtocolConflict, Programmed False Invalid, Conflicted True ProtocolConflict
              mixed-b with 0: Accepted False ProtocolConflict, Programmed False Invalid, Conflicted True ProtocolConflict
              same-a with 0: Accepted False HostnameConflict, Programmed False Invalid, Conflicted True HostnameConflict
              same-b with 0: Accepted False HostnameConflict, Programmed False Invalid, Conflicted True HostnameConflict
              good with 0: well
              bad with 0: Programmed False Invalid, ResolvedRefs False InvalidCertificateRef
              map with 0: Programmed False Invalid, ResolvedRefs False InvalidCertificateRef
              far with 0: Programmed False Invalid, ResolvedRefs False RefNotPermitted
              near with 0: well
            Gateway shop/second: Accepted False ListenersNotValid, Programmed False Invalid
              odd with 0: Accepted False PortUnavailable, Programmed False Invalid
            Gateway shop/third: Accepted False UnsupportedAddress, Programmed False Invalid
              web with 0: Programmed False Invalid
        "#]],
    );
}

#[test]
fn routes_say_what_their_rules_want_in_vain() {
    check_told(
        "
{kind: Gateway, name: web, spec: {listeners: [{name: web, port: 80, protocol: HTTP}]}}
---
{kind: HTTPRoute, name: a-gone, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, port: 80}, {name: none, port: 80}]}]}}
---
{kind: HTTPRoute, name: b-port, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, port: 81}]}]}}
---
{kind: HTTPRoute, name: c-kind, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, kind: Bucket, group: x.example}]}]}}
---
{kind: HTTPRoute, name: d-far, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, port: 80, namespace: far}]}]}}
---
{kind: HTTPRoute, name: e-tls, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, port: 443}]}]}}
---
{kind: HTTPRoute, name: f-value, spec: {parentRefs: [{name: web}], rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}]}}
---
{kind: HTTPRoute, name: g-filter, spec: {parentRefs: [{name: web}], rules: [{filters: [{type: ExtensionRef}]}, {backendRefs: [{name: a, port: 80}]}]}}
---
{kind: HTTPRoute, name: h-near, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, port: 80, namespace: near}]}]}}
---
kind: ReferenceGrant
name: near
namespace: near
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}",
        expect![[r#"
            Gateway shop/web: well
              web with 7: well
            httproutes a-gone: ResolvedRefs False BackendNotFound
            httproutes b-port: ResolvedRefs False BackendNotFound
            httproutes c-kind: ResolvedRefs False InvalidKind
            httproutes d-far: ResolvedRefs False RefNotPermitted
            httproutes e-tls: ResolvedRefs False UnsupportedProtocol
            httproutes f-value: Accepted False UnsupportedValue
            httproutes g-filter: PartiallyInvalid True UnsupportedValue
            httproutes h-near: well
        "#]],
    );
}

/// The backend that gets a request.
fn backend_of(route: &Route) -> String {
    let backend = route.choice.turn().and_then(|at| route.choice.backend(at));
    match backend.map(|backend| &backend.target) {
        Some(Target::Upstream(upstream)) => {
            let last = upstream.endpoints.first().map(ToString::to_string).unwrap_or_default();
            let number = last.split(['.', ':']).nth(3).and_then(|text| text.parse::<u8>().ok());
            number.map_or("nobody".to_owned(), |number| char::from(number).to_string())
        }
        Some(Target::Refused(status)) => status.as_str().to_owned(),
        None => "none".to_owned(),
    }
}

/// Asks as `METHOD host path?query header=value`; what answers each.
fn check_found(text: &str, asked: &[&str], expected: Expect) {
    let (routes, _) = Objects::read(text).plan();
    let mut lines = String::new();
    for line in asked {
        let words: Vec<&str> = line.split(' ').collect();
        let method: Method = words[0].parse().expect("a method");
        let (path, query) = words[2].split_once('?').unwrap_or((words[2], ""));
        let mut headers = HeaderMap::new();
        for (name, value) in words[3..].iter().filter_map(|word| word.split_once('=')) {
            headers.append(name.parse::<http::HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        let ask = Ask { host: words[1], path, query, method: &method, headers: &headers };
        let found = routes.find(80, &ask).map_or_else(|| "404".to_owned(), backend_of);
        lines += &format!("{line}: {found}\n");
    }
    expected.assert_eq(&lines);
}

#[test]
fn who_asks_for_more_goes_first() {
    check_found(
        "
{kind: Gateway, name: web, spec: {listeners: [{name: web, port: 80, protocol: HTTP}]}}
---
kind: HTTPRoute
name: web
spec:
  parentRefs: [{name: web}]
  rules:
  - {backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {value: /shop}}], backendRefs: [{name: b, port: 80}]}
  - {matches: [{path: {value: /shop/exact, type: Exact}}], backendRefs: [{name: c, port: 80}]}
  - {matches: [{path: {value: '/shop/v[0-9]+', type: RegularExpression}}], backendRefs: [{name: c, port: 80}]}
  - {matches: [{path: {value: /shop}, method: POST}], backendRefs: [{name: c, port: 80}]}
  - {matches: [{headers: [{name: X-Beta, value: 'yes'}]}], backendRefs: [{name: b, port: 80}]}
  - {matches: [{headers: [{name: x-beta, value: 'yes'}, {name: x-team, value: 'a|b', type: RegularExpression}]}], backendRefs: [{name: c, port: 80}]}
  - {matches: [{queryParams: [{name: a b, value: ü}]}], backendRefs: [{name: c, port: 80}]}
  - {matches: [{path: {value: /gone}}], backendRefs: [{name: none, port: 80}]}
  - {matches: [{path: {value: /empty}}]}
---
{kind: HTTPRoute, name: late, age: 0, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: c, port: 80}]}]}}",
        &[
            "GET x.example /",
            "GET x.example /shop/a",
            "GET x.example /shopping",
            "GET x.example /shop/exact",
            "GET x.example /shop/v12",
            "GET x.example /shop/v12/a",
            "POST x.example /shop/a",
            "GET x.example / x-beta=yes",
            "GET x.example / x-beta=yes x-team=b",
            "GET x.example / x-beta=yes x-team=ab",
            "GET x.example /?x=1&a+b=%C3%BC",
            "GET x.example /?a+b=u&a+b=%C3%BC",
            "GET x.example /gone",
            "GET x.example /empty",
        ],
        expect![[r#"
            GET x.example /: c
            GET x.example /shop/a: b
            GET x.example /shopping: c
            GET x.example /shop/exact: c
            GET x.example /shop/v12: c
            GET x.example /shop/v12/a: b
            POST x.example /shop/a: c
            GET x.example / x-beta=yes: b
            GET x.example / x-beta=yes x-team=b: c
            GET x.example / x-beta=yes x-team=ab: b
            GET x.example /?x=1&a+b=%C3%BC: c
            GET x.example /?a+b=u&a+b=%C3%BC: c
            GET x.example /gone: 500
            GET x.example /empty: none
        "#]],
    );
}

/// A listener that is more specific keeps its names to itself; inside of one the more specific route goes first.
#[test]
fn hosts_go_to_the_most_specific_listener_and_route() {
    check_found(
        "
kind: Gateway
name: web
spec:
  listeners:
  - {name: all, port: 80, protocol: HTTP}
  - {name: wide, port: 80, protocol: HTTP, hostname: '*.example'}
  - {name: own, port: 80, protocol: HTTP, hostname: own.example}
---
{kind: HTTPRoute, name: all, spec: {parentRefs: [{name: web, sectionName: all}], rules: [{backendRefs: [{name: a, port: 80}]}]}}
---
{kind: HTTPRoute, name: wide, spec: {parentRefs: [{name: web, sectionName: wide}], rules: [{backendRefs: [{name: b, port: 80}]}]}}
---
kind: HTTPRoute
name: deep
spec:
  parentRefs: [{name: web, sectionName: wide}]
  hostnames: ['*.deep.example', deep.example, deep.other]
  rules: [{matches: [{path: {value: /deep}}], backendRefs: [{name: c, port: 80}]}]",
        &[
            "GET any.where /",
            "GET one.example /",
            "GET one.two.example /",
            "GET example /",
            "GET own.example /",
            "GET x.deep.example /deep",
            "GET x.deep.example /",
            "GET deep.example /deep",
            "GET deep.other /deep",
        ],
        expect![[r#"
            GET any.where /: a
            GET one.example /: b
            GET one.two.example /: b
            GET example /: a
            GET own.example /: 404
            GET x.deep.example /deep: c
            GET x.deep.example /: b
            GET deep.example /deep: c
            GET deep.other /deep: a
        "#]],
    );
}

#[test]
fn calls_are_matched_by_service_and_method() {
    check_found(
        "
{kind: Gateway, name: web, spec: {listeners: [{name: web, port: 80, protocol: HTTP}]}}
---
kind: GRPCRoute
name: rpc
spec:
  parentRefs: [{name: web}]
  rules:
  - {matches: [{method: {method: Ping}}], backendRefs: [{name: a, port: 80}]}
  - {matches: [{method: {service: shop.Cart}}], backendRefs: [{name: b, port: 80}]}
  - {matches: [{method: {service: shop.Cart, method: Add}}], backendRefs: [{name: c, port: 80}]}
  - {matches: [{method: {service: 'old\\..*', type: RegularExpression}}], backendRefs: [{name: none, port: 80}]}",
        &[
            "POST x /shop.Cart/Add",
            "POST x /shop.Cart/Ping",
            "POST x /shop.Cart/Other",
            "POST x /other.Service/Ping",
            "POST x /other.Service/Pong",
            "POST x /old.Thing/Any",
        ],
        expect![[r#"
            POST x /shop.Cart/Add: c
            POST x /shop.Cart/Ping: b
            POST x /shop.Cart/Other: b
            POST x /other.Service/Ping: a
            POST x /other.Service/Pong: 404
            POST x /old.Thing/Any: 503
        "#]],
    );
}

#[test]
fn tls_goes_by_names() {
    let (routes, _) = Objects::read(
        "
kind: Gateway
name: web
spec:
  listeners:
  - {name: wide, port: 443, protocol: TLS, hostname: '*.example', tls: {mode: Passthrough}}
  - {name: open, port: 443, protocol: TLS, hostname: '*.open', tls: {certificateRefs: [{name: good}]}}
  - {name: web, port: 443, protocol: HTTPS, hostname: web.example, tls: {certificateRefs: [{name: good}]}}
---
{kind: TLSRoute, name: db, spec: {parentRefs: [{name: web}], hostnames: [db.example, '*.open'], rules: [{backendRefs: [{name: a, port: 80}]}]}}",
    )
    .plan();
    let found = |name: &str| match routes.secured(443, name) {
        Secured::Ended => "ended".to_owned(),
        Secured::Passed(route) => format!("passed to {}", backend_of(&route)),
        Secured::Unwrapped(route) => format!("unwrapped for {}", backend_of(&route)),
        Secured::Refused => "refused".to_owned(),
    };
    let names = ["web.example", "db.example", "other.example", "a.open", "nowhere", ""];
    let found = names.map(|name| format!("{name}: {}\n", found(name)));
    expect![[r#"
        web.example: ended
        db.example: passed to a
        other.example: refused
        a.open: unwrapped for a
        nowhere: refused
        : refused
    "#]]
    .assert_eq(&found.concat());
}

#[test]
fn names_have_the_more_specific_one_in_common() {
    let cases = [
        ("", "", Some("")),
        ("", "a.example", Some("a.example")),
        ("a.example", "", Some("a.example")),
        ("*.example", "a.b.example", Some("a.b.example")),
        ("a.example", "*.example", Some("a.example")),
        ("*.example", "*.a.example", Some("*.a.example")),
        ("*.example", "example", None),
        ("*.example", "aexample", None),
        ("a.example", "b.example", None),
    ];
    for (one, other, wanted) in cases {
        assert_eq!(intersection(one, other), wanted, "{one} and {other}");
    }
}

#[test]
fn turns_are_exact_and_smooth() {
    let (weights, mut behind) = ([10_i64, 10, 80], [0; 3]);
    let mut counts = [0; 3];
    let mut longest = (0, 0);
    for _ in 0..100 {
        let at = take_turn(&mut behind, |at| weights[at]).expect("somebody");
        counts[at] += 1;
        longest.1 = if at == 2 { longest.1 + 1 } else { 0 };
        longest.0 = longest.0.max(longest.1);
    }
    assert_eq!((counts, behind), ([10, 10, 80], [0; 3]));
    assert!(longest.0 <= 8, "{} in a row", longest.0);
    assert_eq!(take_turn(&mut [0, 0], |_| 0), None);
    let mut behind = [0, 0];
    assert_eq!([(); 3].map(|()| take_turn(&mut behind, |at| [0, 7][at])), [Some(1); 3]);
}

#[test]
fn copies_are_made_of_a_share() {
    let count = |numerator, denominator, requests| {
        let mirror = Mirror::new(Arc::new(Upstream::none()), numerator, denominator);
        (0..requests).filter(|_| mirror.is_due()).count()
    };
    assert_eq!([count(1, 1, 7), count(25, 100, 100), count(1, 3, 9), count(0, 100, 100)], [7, 25, 3, 0]);
}

/// The table of the API's documentation.
#[test]
fn prefixes_are_replaced_as_documented() {
    let cases = [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar", "", "/xyz", "/xyz/bar"),
    ];
    for (path, prefix, new, wanted) in cases {
        assert_eq!(PathEdit::Prefix(new.into()).apply(path, prefix), wanted, "{path} with {prefix} as {new}");
    }
    assert_eq!(PathEdit::Full("/all".into()).apply("/foo/bar", "/foo"), "/all");
}

#[test]
fn redirects_say_no_more_than_is_needed() {
    let uri: Uri = "/a/b?c=d".parse().expect("a path");
    let caller = |port, is_tls| Caller::new("192.0.2.9".parse().expect("an address"), is_tls, port);
    let to = |scheme: Option<&str>, hostname: Option<&str>, port, caller| {
        let redirection = Redirection {
            scheme: scheme.map(str::to_owned),
            hostname: hostname.map(str::to_owned),
            path: None,
            port,
            status: http::StatusCode::FOUND,
        };
        redirection.location(&uri, "web.example:8080", &caller, "")
    };
    let found = [
        to(None, None, None, caller(80, false)),
        to(None, None, None, caller(8080, false)),
        to(None, Some("other.example"), None, caller(443, true)),
        to(Some("https"), None, None, caller(8080, false)),
        to(Some("https"), None, Some(8443), caller(80, false)),
        to(Some("http"), None, Some(80), caller(443, true)),
    ];
    expect![[r#"
        http://web.example/a/b?c=d
        http://web.example:8080/a/b?c=d
        https://other.example/a/b?c=d
        https://web.example/a/b?c=d
        https://web.example:8443/a/b?c=d
        http://web.example/a/b?c=d"#]]
    .assert_eq(&found.join("\n"));
}

#[test]
fn durations_are_read() {
    let cases = [("10s", 10_000), ("1h30m", 5_400_000), ("100ms", 100), ("0s", 0)];
    for (text, millis) in cases {
        assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    assert_eq!(["", "5", "s", "1d", "1.5s"].map(duration), [None; 5]);
}

/// What is told once is not told again, what others say stays, and what does not hold any more goes.
#[test]
fn statuses_settle() {
    let text = "
{kind: Gateway, name: web, spec: {listeners: [{name: web, port: 80, protocol: HTTP}]}}
---
{kind: HTTPRoute, name: web, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, port: 80}]}]}}";
    let mut objects = Objects::read(text);
    let status_of = |objects: &Objects, now: &str| {
        let (_, plan) = objects.plan();
        let gateway = gateway_status(&plan.gateways[0], &["192.0.2.1".to_owned()], |_| true, now);
        (gateway, route_status(&plan.routes[0], now))
    };
    let (gateway, parents) = status_of(&objects, NOW);
    let other =
        json!({ "parentRef": { "name": "theirs" }, "controllerName": "other.example/gateway", "conditions": [] });
    let mut parents: Vec<Value> = parents.and_then(|parents| parents.as_array().cloned()).expect("a list");
    parents.insert(0, other.clone());
    Arc::make_mut(&mut objects.gateways[0]).status = gateway.clone();
    Arc::make_mut(&mut objects.http[0]).status = json!({ "parents": parents });
    assert_eq!(status_of(&objects, "2027-01-01T00:00:00Z"), (gateway, None));
    Arc::make_mut(&mut objects.http[0]).spec.parent_refs.clear();
    assert_eq!(status_of(&objects, NOW).1, Some(json!([other])));
}
