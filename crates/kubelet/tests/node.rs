//! The agent against the real API server, with the rights of a node and no more, and the kubelet API over TLS.
//! The runtime only pretends.

mod storage_driver;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use skiff_apiserver::config::ServiceAccountKeys;
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::ids::Ids;
use skiff_client::{Body, Client, DeleteOptions, InProcess, Informers, Kind, ListOptions, Patch};
use skiff_cri::fake::FakeRuntime;
use skiff_cri::{ListPodSandboxRequest, RuntimeService};
use skiff_kubelet::{Config, Kubelet, NoMounts, ServerConfig};
use skiff_store::{EmbeddedOptions, EmbeddedStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);
const CALLER: &str = "kube-apiserver-kubelet-client";

/// A client of the server in this process, in the name of `user` with `groups`.
fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str]) -> Client {
    let (server, user) = (server.clone(), UserInfo::new(user, groups));
    let answer = move |mut request: http::Request<Body>| {
        request.extensions_mut().insert(user.clone());
        let server = server.clone();
        async move { server.handle(request).await }
    };
    Client::new(Arc::new(InProcess(answer)), "test")
}

/// Certificates of one authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<rustls::RootCertStore>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a root");
        Self { issuer: Issuer::new(params, key), roots: Arc::new(roots) }
    }

    fn leaf(&self, name: &str) -> (Vec<rustls_pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        let verifier =
            rustls::server::WebPkiClientVerifier::builder(self.roots.clone()).allow_unauthenticated().build();
        let (chain, key) = self.leaf("system:node:n1");
        let builder = rustls::ServerConfig::builder().with_client_cert_verifier(verifier.expect("a verifier"));
        Arc::new(builder.with_single_cert(chain, key).expect("a certificate and its key"))
    }

    fn client(&self, name: Option<&str>) -> Arc<rustls::ClientConfig> {
        let builder = rustls::ClientConfig::builder().with_root_certificates(self.roots.clone());
        Arc::new(match name {
            Some(name) => {
                let (chain, key) = self.leaf(name);
                builder.with_client_auth_cert(chain, key).expect("a certificate and its key")
            }
            None => builder.with_no_client_auth(),
        })
    }
}

struct Cluster {
    admin: Client,
    server: Arc<ApiServer>,
    runtime: Arc<FakeRuntime>,
    kubelet: Option<Kubelet>,
    authority: Authority,
    port: u16,
    folder: PathBuf,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.stop();
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

impl Cluster {
    async fn start() -> Self {
        // Another test of this process may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = std::env::temp_dir().join(format!("skiff-node-{}", Ids::random().suffix(10)));
        let clock: SharedClock = SystemClock::shared();
        let ids = Arc::new(Ids::seeded(7));
        let authority = Authority::new();
        let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::default() };
        let store = EmbeddedStore::open(folder.join("store"), options).expect("a store");
        let config = skiff_apiserver::Config {
            service_accounts: Some(ServiceAccountKeys::new(
                KeyPair::generate().expect("a key").serialize_der(),
                "https://kubernetes.default.svc.cluster.local",
            )),
            kubelet_tls: Some(authority.client(Some(CALLER))),
            ..skiff_apiserver::Config::new(store, clock.clone(), ids.clone())
        };
        let server = ApiServer::new(config).await.expect("a server");
        let client = |user: &str, groups: &[&str]| client(&server, user, groups);
        let runtime = Arc::new(FakeRuntime::new(clock.clone()));
        runtime.add_image("web:v1");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of this machine");
        let port = listener.local_addr().expect("it is bound").port();
        let node = client("system:node:n1", &["system:nodes"]);
        let config = Config {
            cgroup_root: String::new(),
            informers: Informers::new(node.clone()),
            client: node,
            runtime: runtime.clone(),
            images: runtime.clone(),
            mounter: Arc::new(NoMounts),
            clock,
            ids,
            node_name: "n1".into(),
            node_ips: vec!["127.0.0.1".into()],
            root_dir: folder.join("kubelet"),
            log_dir: folder.join("log"),
            pod_cidrs: vec!["10.244.0.0/24".into()],
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/dev/null".into(),
            version: "v1.36.0".into(),
            options: skiff_kubelet::Options::default(),
            credentials: Arc::new(skiff_kubelet::CredentialProviders::none(SystemClock::shared())),
            manifests: folder.join("manifests"),
            cgroups: false,
            disk_bytes: None,
            labels: [].into(),
            taints: vec![],
            server: Some(ServerConfig { listener, tls: authority.server(), allowed_names: vec![CALLER.into()] }),
        };
        let kubelet = tokio::time::timeout(PATIENCE, Kubelet::start(config)).await.expect("the agent starts");
        let admin = client("admin", &["system:masters"]);
        let cluster = Self { admin, server, runtime, kubelet: Some(kubelet), authority, port, folder };
        cluster.put::<ServiceAccount>(json!({"metadata": {"name": "default", "namespace": "default"}})).await;
        let root = json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": "PEM"}});
        cluster.put::<ConfigMap>(root).await;
        cluster
    }

    async fn stop(mut self) {
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.shutdown().await;
        }
    }

    async fn put<K: Kind>(&self, object: Value) -> K {
        let object: K = serde_json::from_value(object).expect("an object");
        self.admin.create(&object).await.unwrap_or_else(|error| panic!("create {}: {error}", K::resource().plural))
    }

    async fn pod(&self, name: &str) -> Option<Pod> {
        match self.admin.get::<Pod>("default", name).await {
            Ok(pod) => Some(pod),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("get {name}: {error}"),
        }
    }

    /// Waits until `holds` gives something.
    async fn eventually<T, F: Future<Output = Option<T>>>(&self, what: &str, holds: impl Fn() -> F) -> T {
        let looking = async {
            loop {
                if let Some(found) = holds().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(found) => found,
            Err(_) => {
                let pods = self.admin.list::<Pod>("", &ListOptions::default()).await.map(|list| list.items);
                let events = self.admin.list::<Event>("", &ListOptions::default()).await.map(|list| list.items);
                let events: Vec<_> = events.into_iter().flatten().map(|event| event.message).collect();
                panic!("{what} did not come true: {pods:#?} {events:#?}")
            }
        }
    }

    async fn ready(&self, name: &str) -> Pod {
        self.eventually("a Pod that is ready", || async {
            let pod = self.pod(name).await?;
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(pod)
        })
        .await
    }

    /// A request to the kubelet API, as the named caller.
    async fn ask(&self, caller: Option<&str>, path: &str) -> (StatusCode, String) {
        let response = self.connect(caller).await.send_request(get(path)).await.expect("an answer");
        let code = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (code, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn connect(&self, caller: Option<&str>) -> hyper::client::conn::http1::SendRequest<Empty<Bytes>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection");
        let connector = tokio_rustls::TlsConnector::from(self.authority.client(caller));
        let name = "127.0.0.1".try_into().expect("a name");
        let stream = connector.connect(name, stream).await.expect("a handshake");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection.with_upgrades());
        sender
    }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "127.0.0.1").body(Empty::new()).expect("a request")
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "nodeName": "n1",
            "containers": [{
                "name": "web", "image": "web:v1",
                "resources": {"requests": {"cpu": "10m"}},
                "env": [{"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "greeting"}}}],
                "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "token", "mountPath": "/token"}],
            }],
            "volumes": [
                {"name": "config", "configMap": {"name": "config"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            ],
        },
    })
}

fn config_map(greeting: &str) -> Value {
    json!({"metadata": {"name": "config", "namespace": "default"}, "data": {"greeting": greeting}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_and_goes_with_a_nodes_own_rights() {
    let cluster = Cluster::start().await;
    let node: Node = cluster.admin.get("", "n1").await.expect("the node is registered");
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    assert!(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));

    cluster.put::<ConfigMap>(config_map("hello")).await;
    cluster.put::<Pod>(pod("web")).await;
    let ready = cluster.ready("web").await;
    let uid = ready.metadata.uid.clone().expect("the server gives UIDs");
    let status = ready.status.expect("it has a status");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.host_ip.as_deref(), Some("127.0.0.1"));
    let container = &status.container_statuses.expect("it has a container")[0];
    assert!(container.container_id.as_deref().is_some_and(|id| id.starts_with("fake://")));

    let volumes = cluster.folder.join(format!("kubelet/pods/{uid}/volumes"));
    let token = std::fs::read_to_string(volumes.join("kubernetes.io~projected/token/token")).expect("a token");
    assert_eq!(token.split('.').count(), 3, "a token of the API server: {token}");
    let patch = Patch::Merge(json!({"data": {"greeting": "bye"}}));
    cluster.admin.patch::<ConfigMap>("default", "config", "", &patch).await.expect("a changed ConfigMap");
    let file = volumes.join("kubernetes.io~configmap/config/greeting");
    cluster
        .eventually("the new file", || async { (std::fs::read_to_string(&file).ok()? == "bye").then_some(()) })
        .await;

    cluster.runtime.exit("web", 3);
    let restarted = |pod: Pod| {
        let container = pod.status?.container_statuses?.into_iter().next()?;
        (container.restart_count == 1 && container.ready).then_some(container)
    };
    let container = cluster.eventually("a restart", || async { cluster.pod("web").await.and_then(restarted) }).await;
    let ended = container.last_state.and_then(|state| state.terminated).expect("its end is told");
    assert_eq!(ended.exit_code, 3);

    // As after a reboot: another sandbox, another address, and no trace of the old one.
    let sandboxes = cluster.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.expect("a list").items;
    let old_ip = status.pod_ip.expect("it had an address");
    cluster.runtime.kill_sandbox(&sandboxes[0].id);
    let moved = |pod: Pod| {
        let ips: Vec<_> = pod.status?.pod_ips?.into_iter().map(|ip| ip.ip).collect();
        (!ips.contains(&old_ip)).then_some(ips)
    };
    let ips = cluster.eventually("another address", || async { cluster.pod("web").await.and_then(moved) }).await;
    assert_eq!(ips.len(), 1, "{ips:?}");

    let told = || async {
        let events = cluster.admin.list::<Event>("default", &ListOptions::default()).await.ok()?.items;
        let reasons: Vec<_> = events.into_iter().filter_map(|event| event.reason).collect();
        ["Pulled", "Created", "Started"].iter().all(|reason| reasons.iter().any(|r| r == reason)).then_some(())
    };
    cluster.eventually("the events", told).await;

    cluster.admin.delete::<Pod>("default", "web", &DeleteOptions::default()).await.expect("it can be deleted");
    cluster.eventually("the Pod to go", || async { cluster.pod("web").await.is_none().then_some(()) }).await;
    let folder = cluster.folder.join(format!("kubelet/pods/{uid}"));
    cluster.eventually("its folder to go", || async { (!folder.exists()).then_some(()) }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_pods_come_and_go_at_once() {
    let cluster = Cluster::start().await;
    cluster.put::<ConfigMap>(config_map("hello")).await;
    let names: Vec<_> = (0..50).map(|number| format!("web-{number}")).collect();
    for name in &names {
        cluster.put::<Pod>(pod(name)).await;
    }
    let count = |phase: &'static str| {
        let admin = cluster.admin.clone();
        async move {
            let pods = admin.list::<Pod>("default", &ListOptions::default()).await.map(|list| list.items);
            let pods = pods.unwrap_or_default();
            let in_phase =
                |pod: &&Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some(phase));
            (pods.len(), pods.iter().filter(in_phase).count())
        }
    };
    cluster
        .eventually("fifty Pods that run", || async { (count("Running").await.1 == names.len()).then_some(()) })
        .await;
    let gone = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    for name in &names {
        cluster.admin.delete::<Pod>("default", name, &gone).await.expect("it can be deleted");
    }
    let pods = cluster.folder.join("kubelet/pods");
    let empty = || async { (std::fs::read_dir(&pods).ok()?.count() == 0).then_some(()) };
    cluster.eventually("a node with nothing left", empty).await;
    assert!(cluster.runtime.container_id("web").is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubelet_api_serves_its_own_caller_alone() {
    let cluster = Cluster::start().await;
    cluster.put::<ConfigMap>(config_map("hello")).await;
    cluster.put::<Pod>(pod("web")).await;
    let uid = cluster.ready("web").await.metadata.uid.expect("the server gives UIDs");
    assert_eq!(cluster.ask(None, "/pods").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(cluster.ask(Some("somebody"), "/pods").await.0, StatusCode::FORBIDDEN);
    assert_eq!(cluster.ask(Some(CALLER), "/healthz").await, (StatusCode::OK, "ok".to_owned()));
    let (code, pods) = cluster.ask(Some(CALLER), "/pods").await;
    assert!(code == StatusCode::OK && pods.contains(&uid));

    let log = cluster.folder.join(format!("log/pods/default_web_{uid}/web/0.log"));
    std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stdout F two\n").expect("a log");
    let path = "/api/v1/namespaces/default/pods/web/log";
    let through_server = |query: &'static str| {
        let request = Request::get(format!("{path}{query}")).body(Bytes::new()).expect("a request");
        let admin = cluster.admin.clone();
        async move {
            match admin.send(request).await {
                Ok(response) => {
                    let body = response.into_body().collect().await.expect("a body").to_bytes();
                    String::from_utf8(body.to_vec()).expect("text")
                }
                Err(error) => error.to_string(),
            }
        }
    };
    assert_eq!(through_server("").await, "one\ntwo\n");
    assert_eq!(through_server("?tailLines=1&timestamps=true").await, "2026-01-01T00:00:01Z two\n");
    assert_eq!(
        through_server("?previous=true").await,
        "previous terminated container \"web\" in pod \"web\" not found"
    );

    // Followed, a log ends with its container.
    let mut following = cluster.connect(Some(CALLER)).await;
    let answer = following.send_request(get("/containerLogs/default/web/web?follow=true")).await.expect("an answer");
    let mut body = answer.into_body();
    let first = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
    assert_eq!(first, "one\ntwo\n");
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).expect("the log");
    std::io::Write::write_all(&mut file, b"2026-01-01T00:00:02Z stdout F three\n").expect("another line");
    let second = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
    assert_eq!(second, "three\n");
    cluster.admin.delete::<Pod>("default", "web", &DeleteOptions::default()).await.expect("it can be deleted");
    assert!(body.frame().await.is_none(), "the log has ended");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_joined_to_the_runtimes() {
    let cluster = Cluster::start().await;
    cluster.put::<ConfigMap>(config_map("hello")).await;
    cluster.put::<Pod>(pod("web")).await;
    cluster.ready("web").await;
    let streams = TcpListener::bind("127.0.0.1:0").await.expect("a port of this machine");
    cluster.runtime.set_streams(&streams.local_addr().expect("it is bound").to_string());
    let echo = tokio::spawn(async move {
        let (mut stream, _) = streams.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: test\r\n\r\n";
        stream.write_all(answer).await.expect("an answer");
        let mut text = [0; 4];
        stream.read_exact(&mut text).await.expect("four bytes");
        stream.write_all(&text).await.expect("the same four bytes");
        String::from_utf8(head).expect("text")
    });
    let path = "/exec/default/web/web?command=echo&command=hi&output=1";
    let request =
        Request::get(path).header("host", "127.0.0.1").header("connection", "Upgrade").header("upgrade", "test");
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let mut answer = cluster.connect(Some(CALLER)).await.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "test");
    let mut joined = TokioIo::new(hyper::upgrade::on(&mut answer).await.expect("an upgraded connection"));
    joined.write_all(b"ping").await.expect("four bytes");
    let mut text = [0; 4];
    joined.read_exact(&mut text).await.expect("four bytes");
    assert_eq!(&text, b"ping");
    let head = echo.await.expect("the stream server ends well");
    assert!(head.starts_with("GET /exec/") && head.contains("upgrade: test"), "{head}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_may_ask_the_kubelet_api_what_their_roles_say() {
    let cluster = Cluster::start().await;
    let create = async |path: &str, object: Value| -> Value {
        cluster.admin.send_json(http::Method::POST, path, &object).await.expect("it can be created")
    };
    create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "scraper"}})).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]);
    create(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": "scraper"}, "rules": rules})).await;
    let binding = json!({
        "metadata": {"name": "scraper"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "scraper"},
        "subjects": [{"kind": "ServiceAccount", "name": "scraper", "namespace": "default"}],
    });
    create(&format!("{rbac}/clusterrolebindings"), binding).await;
    let request = json!({"spec": {"audiences": [], "expirationSeconds": 3600}});
    let answer = create("/api/v1/namespaces/default/serviceaccounts/scraper/token", request).await;
    let token = answer["status"]["token"].as_str().expect("a token").to_owned();
    let ask = async |token: &str, path: &str| {
        let mut request = get(path);
        let value = format!("Bearer {token}").parse().expect("a header's value");
        request.headers_mut().insert(http::header::AUTHORIZATION, value);
        let answer = cluster.connect(None).await.send_request(request).await.expect("an answer");
        let code = answer.status();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (code, String::from_utf8(body.to_vec()).expect("text"))
    };
    let (code, text) = ask(&token, "/metrics/resource").await;
    assert!(code == StatusCode::OK && text.contains("node_cpu_usage_seconds_total"), "{code} {text}");
    let (code, text) = ask(&token, "/pods").await;
    let expected =
        "Forbidden (user=system:serviceaccount:default:scraper, verb=get, resource=nodes, subresource(s)=[pods proxy])";
    assert_eq!((code, text.as_str()), (StatusCode::FORBIDDEN, expected));
    assert_eq!(ask("no.such.token", "/metrics").await.0, StatusCode::UNAUTHORIZED);
    let (code, text) = cluster.ask(Some(CALLER), "/configz").await;
    assert!(code == StatusCode::OK && text.contains("\"maxPods\":110"), "{text}");
    let (code, text) = cluster.ask(Some(CALLER), "/stats/summary").await;
    assert!(code == StatusCode::OK && text.contains("\"nodeName\":\"n1\""), "{text}");
    assert_eq!(cluster.ask(Some(CALLER), "/metrics/cadvisor").await.0, StatusCode::OK);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_pod_runs_and_has_a_mirror() {
    let cluster = Cluster::start().await;
    cluster.runtime.add_image("still:v1");
    let folder = cluster.folder.join("manifests");
    std::fs::create_dir_all(&folder).expect("a folder");
    let manifest = |image: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: still}}, spec: {{terminationGracePeriodSeconds: 1,
              containers: [{{name: app, image: '{image}', imagePullPolicy: IfNotPresent}}]}}}}"
        )
    };
    std::fs::write(folder.join("still.yaml"), manifest("still:v1")).expect("a manifest");
    let mirror = cluster.ready("still-n1").await;
    let annotations = mirror.metadata.annotations.expect("a mirror has some");
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    let status = mirror.status.expect("its status is told");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    // Another manifest is another Pod, and another mirror.
    cluster.runtime.add_image("still:v2");
    std::fs::write(folder.join("still.yaml"), manifest("still:v2")).expect("a manifest");
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
    let follows = || async { cluster.pod("still-n1").await.filter(|pod| image(pod).as_deref() == Some("still:v2")) };
    cluster.eventually("the mirror follows the manifest", follows).await;
    std::fs::remove_file(folder.join("still.yaml")).expect("the manifest was there");
    let gone = || async { cluster.pod("still-n1").await.is_none().then_some(()) };
    cluster.eventually("the mirror goes with the manifest", gone).await;
    cluster.stop().await;
}

fn driver_pod(name: &str, volume: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": "n1", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "web", "image": "web:v1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [volume],
        },
    })
}

/// A volume of the driver, and a claim that is bound to it.
async fn bound_claim(cluster: &Cluster, name: &str, mode: &str) {
    let secret = json!({"metadata": {"name": name, "namespace": "default"}, "stringData": {"password": "x"}});
    cluster.put::<Secret>(secret).await;
    let volume = format!("pv-{name}");
    let claim = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": volume, "volumeMode": mode,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    let claim = cluster.put::<PersistentVolumeClaim>(claim).await;
    let volume = json!({
        "metadata": {"name": volume},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "", "volumeMode": mode,
            "claimRef": {"namespace": "default", "name": name, "uid": claim.metadata.uid},
            "csi": {
                "driver": storage_driver::NAME, "volumeHandle": format!("vol-{name}"),
                "volumeAttributes": {"speed": "high"}, "nodeStageSecretRef": {"namespace": "default", "name": name},
            },
        },
    });
    cluster.put::<PersistentVolume>(volume).await;
    let bound = Patch::Merge(json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}));
    cluster.admin.patch::<PersistentVolumeClaim>("default", name, "status", &bound).await.expect("it is bound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_drivers_mount_what_pods_ask_of_them() {
    let cluster = Cluster::start().await;
    let agent = cluster.folder.join("kubelet");
    let about = json!({
        "metadata": {"name": storage_driver::NAME},
        "spec": {"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Persistent", "Ephemeral"]},
    });
    cluster.put::<CSIDriver>(about).await;
    bound_claim(&cluster, "data", "Filesystem").await;
    let inline = json!({"name": "v", "csi": {"driver": storage_driver::NAME, "volumeAttributes": {"colour": "red"}}});
    let inline = cluster.put::<Pod>(driver_pod("inline", inline)).await;
    // Without the driver the Pod waits, and says for whom.
    let lacks = || async {
        let events = cluster.admin.list::<Event>("default", &ListOptions::default()).await.ok()?.items;
        events.into_iter().find(|event| event.reason.as_deref() == Some("FailedMount"))?.message
    };
    assert_eq!(
        cluster.eventually("the event", lacks).await,
        "MountVolume.SetUp failed for volume \"v\" : kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: \
         driver name trial.example.com not found in the list of registered CSI drivers"
    );
    let driver = storage_driver::Driver::start(&agent);
    cluster.ready("inline").await;
    let drivers = || async {
        let node: CSINode = cluster.admin.get("", "n1").await.ok()?;
        node.spec.drivers.into_iter().next()
    };
    let told = cluster.eventually("the driver at the node", drivers).await;
    assert_eq!((told.name.as_str(), told.node_id.as_str()), (storage_driver::NAME, "here"));
    assert_eq!(told.topology_keys, Some(vec!["example.com/zone".to_owned()]));
    let claimed = |name: &str| driver_pod(name, json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}));
    let first = cluster.put::<Pod>(claimed("first")).await;
    cluster.ready("first").await;
    cluster.put::<Pod>(claimed("second")).await;
    cluster.ready("second").await;
    let data = |pod: &Pod, volume: &str| {
        let uid = pod.metadata.uid.clone().expect("the server gives UIDs");
        let folder = agent.join(format!("pods/{uid}/volumes/kubernetes.io~csi/{volume}/mount"));
        std::fs::read_to_string(folder.join("data")).unwrap_or_default()
    };
    assert_eq!((data(&inline, "v").as_str(), data(&first, "pv-data").as_str()), ("inline", "vol-data"));
    for (done, name) in ["inline", "first", "second"].into_iter().enumerate() {
        cluster.admin.delete::<Pod>("default", name, &DeleteOptions::default()).await.expect("it can be deleted");
        // A Pod with a grace of 0 is gone from the API before the node has let its volumes go.
        let unpublished = || driver.calls().iter().filter(|call| call.starts_with("unpublish")).count();
        cluster.eventually("its volume to go", || async { (unpublished() > done).then_some(()) }).await;
    }
    cluster
        .eventually("the end", || async { driver.calls().iter().any(|c| c.contains("unstage")).then_some(()) })
        .await;
    expect_test::expect![[r#"
        registered: true 
        publish inline staged=false ro=false {"colour": "red", "csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.name": "inline", "csi.storage.k8s.io/pod.namespace": "default", "csi.storage.k8s.io/serviceAccount.name": "default"}
        stage vol-data {"password": "x"} true
        publish vol-data staged=true ro=false {"csi.storage.k8s.io/ephemeral": "false", "csi.storage.k8s.io/pod.name": "first", "csi.storage.k8s.io/pod.namespace": "default", "csi.storage.k8s.io/serviceAccount.name": "default", "speed": "high"}
        stage vol-data {"password": "x"} true
        publish vol-data staged=true ro=false {"csi.storage.k8s.io/ephemeral": "false", "csi.storage.k8s.io/pod.name": "second", "csi.storage.k8s.io/pod.namespace": "default", "csi.storage.k8s.io/serviceAccount.name": "default", "speed": "high"}
        unpublish inline
        unpublish vol-data
        unpublish vol-data
        unstage vol-data
    "#]]
    .assert_eq(&(driver.calls().join("\n") + "\n"));
    let staged = agent.join("plugins/kubernetes.io/csi").join(storage_driver::NAME);
    cluster
        .eventually("nothing to be left", || async {
            std::fs::read_dir(&staged).is_ok_and(|left| left.count() == 0).then_some(())
        })
        .await;
    cluster.stop().await;
}

/// What a cluster's controllers do for a volume: they say that it is at the node.
async fn attach(cluster: &Cluster, volume: &str) {
    let name = skiff_client::volumes::attachment_name(storage_driver::NAME, &format!("vol-{volume}"), "n1");
    let attachment = json!({
        "metadata": {"name": name},
        "spec": {
            "attacher": storage_driver::NAME, "nodeName": "n1",
            "source": {"persistentVolumeName": format!("pv-{volume}")},
        },
    });
    cluster.put::<VolumeAttachment>(attachment).await;
    let attached = Patch::Merge(json!({"status": {"attached": true, "attachmentMetadata": {"device": "/dev/trial"}}}));
    cluster.admin.patch::<VolumeAttachment>("", &name, "status", &attached).await.expect("it is attached");
    let called = skiff_client::volumes::attached_name(storage_driver::NAME, &format!("vol-{volume}"));
    let told = Patch::Merge(json!({"status": {"volumesAttached": [{"name": called, "devicePath": ""}]}}));
    cluster.admin.patch::<Node>("", "n1", "status", &told).await.expect("it is told");
}

/// Waits until the Node tells that it uses these volumes.
async fn in_use(cluster: &Cluster, expected: &[&str]) {
    let expected: Vec<_> =
        expected.iter().map(|name| format!("kubernetes.io/csi/{}^{name}", storage_driver::NAME)).collect();
    let told = || async {
        let node = cluster.admin.get::<Node>("", "n1").await.expect("the node is there");
        (node.status?.volumes_in_use.unwrap_or_default() == expected).then_some(())
    };
    cluster.eventually(&format!("{expected:?} in use"), told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attached_volumes_are_used_grow_and_are_counted() {
    let cluster = Cluster::start().await;
    let agent = cluster.folder.join("kubelet");
    cluster.put::<CSIDriver>(json!({"metadata": {"name": storage_driver::NAME}, "spec": {}})).await;
    let driver = storage_driver::Driver::start(&agent);
    bound_claim(&cluster, "data", "Filesystem").await;
    cluster.put::<Pod>(driver_pod("first", json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}))).await;
    // Nobody has attached it, so the driver is asked for nothing.
    in_use(&cluster, &["vol-data"]).await;
    assert!(!driver.calls().iter().any(|call| call.starts_with("stage")), "{:?}", driver.calls());
    attach(&cluster, "data").await;
    cluster.ready("first").await;
    let (_, metrics) = cluster.ask(Some(CALLER), "/metrics").await;
    let told: String =
        metrics.lines().filter(|line| line.starts_with("kubelet_volume")).map(|l| format!("{l}\n")).collect();
    expect_test::expect![[r#"
        kubelet_volume_stats_available_bytes{namespace="default",persistentvolumeclaim="data"} 70
        kubelet_volume_stats_capacity_bytes{namespace="default",persistentvolumeclaim="data"} 100
        kubelet_volume_stats_health_status_abnormal{namespace="default",persistentvolumeclaim="data"} 1
        kubelet_volume_stats_inodes{namespace="default",persistentvolumeclaim="data"} 10
        kubelet_volume_stats_inodes_free{namespace="default",persistentvolumeclaim="data"} 7
        kubelet_volume_stats_inodes_used{namespace="default",persistentvolumeclaim="data"} 3
        kubelet_volume_stats_used_bytes{namespace="default",persistentvolumeclaim="data"} 30
    "#]]
    .assert_eq(&told);
    // The driver's controller has made it larger.
    let pending = json!({"conditions": [{"type": "FileSystemResizePending", "status": "True"}]});
    let pending = Patch::Merge(json!({ "status": pending }));
    cluster.admin.patch::<PersistentVolumeClaim>("default", "data", "status", &pending).await.expect("it is told");
    let larger = Patch::Merge(json!({"spec": {"capacity": {"storage": "2Gi"}}}));
    cluster.admin.patch::<PersistentVolume>("", "pv-data", "", &larger).await.expect("it is larger");
    let grown = || async {
        let claim = cluster.admin.get::<PersistentVolumeClaim>("default", "data").await.expect("the claim is there");
        let status = claim.status?;
        let over = status.conditions.is_none_or(|conditions| conditions.is_empty());
        (status.capacity?.get("storage")?.0 == "2Gi" && over).then_some(())
    };
    cluster.eventually("the claim to grow", grown).await;
    // A volume that is a device: a link leads to what the driver has made.
    bound_claim(&cluster, "raw", "Block").await;
    let mut second = driver_pod("second", json!({"name": "v", "persistentVolumeClaim": {"claimName": "raw"}}));
    let container = &mut second["spec"]["containers"][0];
    container["volumeMounts"] = Value::Null;
    container["volumeDevices"] = json!([{"name": "v", "devicePath": "/dev/v"}]);
    let second = cluster.put::<Pod>(second).await;
    in_use(&cluster, &["vol-data", "vol-raw"]).await;
    attach(&cluster, "raw").await;
    cluster.ready("second").await;
    let uid = second.metadata.uid.expect("the server gives UIDs");
    let link = agent.join(format!("pods/{uid}/volumeDevices/kubernetes.io~csi/pv-raw"));
    assert_eq!(std::fs::read_to_string(&link).expect("it leads to the device"), "vol-raw");
    for (name, left) in [("second", &["vol-data"] as &[&str]), ("first", &[])] {
        cluster.admin.delete::<Pod>("default", name, &DeleteOptions::default()).await.expect("it can be deleted");
        in_use(&cluster, left).await;
    }
    expect_test::expect![[r#"
        registered: true 
        stage vol-data {"password": "x"} true
        publish vol-data from /dev/trial staged=true ro=false {"speed": "high"}
        expand vol-data to 2147483648 there=true staged=true
        stage vol-raw {"password": "x"} true
        publish vol-raw as a device from /dev/trial staged=true ro=false {"speed": "high"}
        unpublish vol-raw
        unstage vol-raw
        unpublish vol-data
        unstage vol-data
    "#]]
    .assert_eq(&(driver.calls().join("\n") + "\n"));
    assert_eq!(files_below(&agent.join("plugins/kubernetes.io")), [""; 0]);
    cluster.stop().await;
}

fn files_below(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let each = entries.flat_map(|entry| match entry.path().is_dir() {
        true => files_below(&entry.path()),
        false => vec![entry.path().display().to_string()],
    });
    each.collect()
}
