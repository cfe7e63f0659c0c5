//! What operators and every client meet whatever they ask for: health, figures, headers, unknown paths, time.

use std::sync::Arc;

use expect_test::expect;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::support::{Cluster, Watch, established};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Code, media type and text.
async fn text(cluster: &Cluster, request: &str) -> (u16, String, String) {
    let answer = cluster.send(request).await;
    let media = answer.headers().get("content-type").map(|value| value.to_str().expect("text").to_owned());
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
    (code, media.unwrap_or_default(), String::from_utf8_lossy(&body).into_owned())
}

async fn header(cluster: &Cluster, request: &str, name: &str) -> String {
    let answer = cluster.send(request).await;
    answer.headers().get(name).map_or_else(String::new, |value| value.to_str().expect("text").to_owned())
}

#[tokio::test]
async fn health_is_told_whole_and_check_by_check() {
    let cluster = Cluster::new().await;
    for path in ["/healthz", "/livez", "/readyz", "/livez/ping", "/readyz/poststarthook/rbac/bootstrap-roles"] {
        let (code, media, body) = text(&cluster, &format!("GET {path}")).await;
        assert_eq!((code, media.as_str(), body.as_str()), (200, "text/plain; charset=utf-8", "ok"), "{path}");
    }
    assert_eq!(text(&cluster, "GET /livez/none").await.0, 404);
    let (_, _, verbose) = text(&cluster, "GET /readyz?verbose&exclude=etcd").await;
    assert!(verbose.starts_with("[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n"), "{verbose}");
    assert!(verbose.ends_with("[+]shutdown ok\nreadyz check passed\n"), "{verbose}");
    cluster.server.drain();
    let (code, _, body) = text(&cluster, "GET /readyz").await;
    assert_eq!(code, 500);
    assert!(body.ends_with("[-]shutdown failed: reason withheld\nreadyz check failed\n"), "{body}");
    assert_eq!(text(&cluster, "GET /readyz/shutdown").await.2, "internal server error: process is shutting down\n");
    assert_eq!(text(&cluster, "GET /livez").await.0, 200);
}

#[tokio::test]
async fn figures_have_upstreams_names() {
    let cluster = Cluster::new().await;
    cluster.tree(&format!("GET {CONFIG_MAPS}")).await;
    cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", r#"{"metadata":{"name":"a"}}"#)).await;
    text(&cluster, "GET /livez").await;
    cluster.outcome(&format!("GET {CONFIG_MAPS}?resourceVersion=999&timeout=10ms")).await;
    let (code, media, figures) = text(&cluster, "GET /metrics\nAccept: text/plain").await;
    assert_eq!((code, media.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    for name in [
        "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",\
         scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1",
        "apiserver_request_duration_seconds_count{",
        "apiserver_request_terminations_total{code=\"504\",component=\"apiserver\",group=\"\",resource=\"configmaps\"",
        "apiserver_response_sizes_count{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"namespace\"",
        "apiserver_admission_controller_admission_duration_seconds_count{name=\"LimitRanger\",operation=\"CREATE\",\
         rejected=\"false\",type=\"admit\"} 1",
        "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"validate\"} 1",
        "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"exempt\",priority_level=\"exempt\"} ",
        "etcd_request_duration_seconds_count{group=\"\",operation=\"create\",resource=\"configmaps\"} 1",
        "etcd_requests_total{group=\"\",operation=\"create\",resource=\"configmaps\"} 1",
        "kubernetes_healthchecks_total{name=\"etcd\",status=\"success\",type=\"livez\"} 1",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1",
        "apiserver_storage_objects{resource=\"namespaces\"} 4",
        "apiserver_resource_objects{group=\"rbac.authorization.k8s.io\",resource=\"clusterroles\"}",
        "kubernetes_build_info{",
        "process_start_time_seconds ",
        "process_resident_memory_bytes ",
    ] {
        assert!(figures.contains(name), "{name}\n{figures}");
    }
    let (_, _, figures) = text(&cluster, "GET /metrics/slis").await;
    assert!(figures.contains("kubernetes_healthcheck{name=\"etcd\",type=\"livez\"} 1"));
}

#[tokio::test]
async fn figures_tell_of_expressions_and_of_features() {
    let cluster = Cluster::new().await;
    let definition = serde_json::json!({"metadata": {"name": "dials.example.com"}, "spec": {"group": "example.com",
        "scope": "Cluster", "names": {"plural": "dials", "kind": "Dial"}, "versions": [{"name": "v1", "served": true,
        "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-validations": [
        {"rule": "self.metadata.name != 'x'"}]}}}]}});
    cluster.tree(&format!("POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions\n\n{definition}")).await;
    established(&cluster, "dials.example.com").await;
    let object = serde_json::json!({"metadata": {"name": "a"}});
    cluster.tree(&format!("POST /apis/example.com/v1/dials\n\n{object}")).await;
    let (_, _, figures) = text(&cluster, "GET /metrics").await;
    for name in ["compilation", "evaluation"] {
        let name = format!("\napiserver_cel_{name}_duration_seconds");
        assert!(figures.contains(&format!("{name}_bucket{{le=\"0.005\"}} ")), "{figures}");
        assert!(figures.contains(&format!("{name}_bucket{{le=\"10\"}} ")), "{figures}");
        let count = figures.split_once(&format!("{name}_count ")).map_or("0", |(_, rest)| rest);
        assert!(!count.starts_with('0'), "{figures}");
    }
    assert!(figures.contains("kubernetes_feature_enabled{name=\"MutatingAdmissionPolicy\",stage=\"\"} 1"), "{figures}");
}

#[tokio::test]
async fn every_answer_has_the_headers_of_all() {
    let cluster = Cluster::new().await;
    for path in [CONFIG_MAPS, "/version", "/nowhere", "/api/v1/namespaces/none"] {
        assert_eq!(header(&cluster, &format!("GET {path}"), "cache-control").await, "no-cache, private", "{path}");
        assert_eq!(header(&cluster, &format!("GET {path}"), "audit-id").await.len(), 36, "{path}");
        assert_eq!(header(&cluster, &format!("GET {path}\nAudit-ID: mine"), "audit-id").await, "mine", "{path}");
    }
    let flow = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/exempt";
    let exempt = cluster.tree(&format!("GET {flow}")).await["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert_eq!(header(&cluster, &format!("GET {flow}"), "x-kubernetes-pf-flowschema-uid").await, exempt);
    assert_eq!(header(&cluster, &format!("GET {flow}"), "x-kubernetes-pf-prioritylevel-uid").await.len(), 36);
    let schema = cluster.tree(&format!("GET {flow}")).await;
    assert_eq!(schema["status"]["conditions"][0]["status"], "False");
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let warning = r#"299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice""#;
    for request in [format!("GET {endpoints}"), format!("GET {endpoints}/none"), format!("DELETE {endpoints}/none")] {
        assert_eq!(header(&cluster, &request, "warning").await, warning, "{request}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_as_upstream_tells_it() {
    let cluster = Cluster::new().await;
    for path in
        ["/nowhere", "/apis/none.example.com", "/apis/none.example.com/v1/things", "/api/v2/pods", "/apis/apps/v9"]
    {
        let (code, media, body) = text(&cluster, &format!("GET {path}")).await;
        let expected = (404, "text/plain; charset=utf-8", "404 page not found\n");
        assert_eq!((code, media.as_str(), body.as_str()), expected, "{path}");
    }
    let message = "404 the server could not find the requested resource";
    assert_eq!(cluster.outcome("GET /api/v1/things").await, message);
    assert_eq!(cluster.outcome("GET /apis/apps/v1/namespaces/default/things/a").await, message);
    let method = "405 the server does not allow this method on the requested resource";
    for request in ["PUT /api/v1/pods", "POST /api/v1/pods", "OPTIONS /api/v1/pods", "HEAD /api/v1/pods"] {
        assert_eq!(cluster.outcome(request).await, method, "{request}");
    }
    assert_eq!(cluster.send(&format!("GET {CONFIG_MAPS}/")).await.status(), 200);
    let (_, _, version) = text(&cluster, "GET /version").await;
    assert!(version.starts_with("{\n  \"major\": \"1\",\n"), "{version}");
    assert!(text(&cluster, "GET /api/v1/namespaces/default").await.2.ends_with("}\n"));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let cluster = Cluster::new().await;
    let answer = cluster.send_bytes(&format!("POST {CONFIG_MAPS}"), vec![b' '; 3 * 1024 * 1024 + 1]).await;
    let status: Value =
        serde_json::from_slice(&answer.into_body().collect().await.expect("a body").to_bytes()).expect("JSON");
    assert_eq!((&status["code"], &status["reason"]), (&413.into(), &"RequestEntityTooLarge".into()));
    assert_eq!(status["message"], "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn what_is_nested_too_deep_is_refused() {
    let cluster = Cluster::new().await;
    let deep = |open: &str, close: &str| format!("{{\"data\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));
    let yaml = "Content-Type: application/yaml";
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
        d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
        g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]";
    cluster.tree(&format!("POST {CONFIG_MAPS}\n\n{}", r#"{"metadata":{"name":"a"}}"#)).await;
    let patch = |kind: &str| format!("PATCH {CONFIG_MAPS}/a?fieldManager=a\nContent-Type: application/{kind}");
    for request in [
        format!("POST {CONFIG_MAPS}\n\n{}", deep("[", "]")),
        format!("POST {CONFIG_MAPS}\n\n{}", deep("{\"a\":", "}")),
        format!("POST {CONFIG_MAPS}\n{yaml}\n\n{}", deep("[", "]")),
        format!("POST {CONFIG_MAPS}\n{yaml}\n\n{bomb}"),
        format!("{}\n\n{}", patch("merge-patch+json"), deep("{\"a\":", "}")),
        format!("{}\n\n{}", patch("strategic-merge-patch+json"), deep("[", "]")),
        format!("{}\n\n{}", patch("apply-patch+yaml"), deep("[", "]")),
        format!("{}\n\n{}", patch("json-patch+json"), deep("[", "]").replace("{\"data\":", "[").replace('}', "]")),
    ] {
        let outcome = cluster.outcome(&request).await;
        assert!(
            outcome.starts_with("400"),
            "{}\n{}",
            request.lines().next().unwrap_or(""),
            &outcome[..outcome.len().min(300)]
        );
    }
}

#[tokio::test]
async fn requests_say_how_long_they_wait() {
    let cluster = Cluster::new().await;
    assert_eq!(
        cluster.outcome(&format!("GET {CONFIG_MAPS}?timeout=x")).await,
        "400 invalid timeout specified in the request URL - time: invalid duration \"x\""
    );
    // A state that is not there is waited for, as long as the request lasts.
    assert_eq!(
        cluster.outcome(&format!("GET {CONFIG_MAPS}?resourceVersion=999&timeout=10ms")).await,
        "504 Timeout: request did not complete within the allotted timeout"
    );
}

#[tokio::test]
async fn a_server_that_stops_ends_its_watches_whole() {
    let cluster = Cluster::new().await;
    let mut watch = Watch::open(
        &cluster,
        &format!("GET {CONFIG_MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"),
    )
    .await;
    cluster.server.drain();
    assert!(watch.next().await.is_empty());
}

#[tokio::test]
async fn a_server_tells_by_a_lease_that_it_is_there() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let cluster = Cluster::new().await;
    let silent = serde_json::json!({
        "metadata": {"name": "apiserver-gone", "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"}},
        "spec": {"holderIdentity": "gone", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z"},
    });
    cluster.tree(&format!("POST {LEASES}\n\n{silent}")).await;
    let mut watch = Watch::open(&cluster, &format!("GET {LEASES}?watch=1")).await;
    cluster.server.keep_identity("host".to_owned());
    let mut events = Vec::new();
    while !events.iter().any(|event: &Value| event["type"] == "DELETED") {
        events.extend(watch.next().await);
    }
    let shown = |event: &Value| {
        let object = &event["object"];
        let host = object["metadata"]["labels"]["kubernetes.io/hostname"].as_str().unwrap_or("-").to_owned();
        let renewed = object["spec"]["renewTime"].as_str().unwrap_or("-").to_owned();
        format!("{} {} {host} {renewed}", event["type"], object["metadata"]["name"])
    };
    expect![[r#"
        "ADDED" "apiserver-gone" - 2026-01-01T00:00:00.000000Z
        "ADDED" "apiserver-i5ak4y2hwalsyajfj72vxls274" host 2026-01-02T03:04:05.000000Z
        "DELETED" "apiserver-gone" - 2026-01-01T00:00:00.000000Z"#]]
    .assert_eq(&events.iter().map(shown).collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn the_service_leads_to_every_server_of_the_store() {
    let first = Cluster::with(|config| config.shared_store = true).await;
    let shown = async |cluster: &Cluster| {
        let slice = cluster.tree("GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
        let endpoints = cluster.tree("GET /api/v1/namespaces/default/endpoints/kubernetes").await;
        let ready = slice["endpoints"].as_array().expect("a list").iter().map(|one| one["addresses"][0].clone());
        let ready = Value::Array(ready.collect());
        let plain =
            endpoints["subsets"][0]["addresses"].as_array().expect("a list").iter().map(|one| one["ip"].clone());
        assert_eq!(ready, Value::Array(plain.collect()), "both kinds say the same");
        (ready.to_string(), slice["metadata"]["uid"].clone())
    };
    let (alone, uid) = shown(&first).await;
    assert_eq!(alone, r#"["192.0.2.1"]"#);
    let store = first.store.clone();
    let second = Cluster::with(|config| {
        config.shared_store = true;
        config.advertise = "192.0.2.2:6443".parse().expect("an address");
        config.store = store;
    })
    .await;
    assert_eq!(shown(&second).await, (r#"["192.0.2.1","192.0.2.2"]"#.to_owned(), uid.clone()));
    // It is told to stop at once.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).expect("a key");
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .expect("a certificate and its key");
    second.server.clone().serve(listener, Arc::new(tls), std::future::ready(())).await.expect("served");
    assert_eq!(shown(&first).await, (alone, uid));
}
