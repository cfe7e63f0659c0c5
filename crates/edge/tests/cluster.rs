//! The cluster DNS against the real API server, over real sockets in a network namespace of the test's own.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::ids::Ids;
use skiff_client::{Body, Client, InProcess, Informers};
use skiff_edge::dns::{Dns, DnsConfig, Zone};
use skiff_netd::netlink::{Batch, Protocol, Socket};
use skiff_store::{EmbeddedOptions, EmbeddedStore};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many Services are made and asked for, one after another.
const SERVICES: usize = 20;

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

async fn start_server(folder: &std::path::Path, clock: SharedClock) -> Arc<ApiServer> {
    let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(folder, options).expect("a store");
    let config = skiff_apiserver::Config::new(store, clock, Arc::new(Ids::seeded(7)));
    ApiServer::new(config).await.expect("a server")
}

/// The first address of a name, or nothing.
async fn ask(server: SocketAddr, name: &str) -> Option<String> {
    let mut request = Message::query();
    request.add_query(Query::query(Name::from_str(name).expect("a name"), RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    socket.send_to(&request.to_vec().expect("encodes"), server).await.expect("sends");
    let mut buffer = [0; 4096];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer in time").expect("receives");
    let answer = Message::from_vec(&buffer[..length]).expect("decodes");
    answer.answers.first().map(|record| record.data.to_string())
}

async fn a_new_service_has_its_name_at_once(server: Arc<ApiServer>, clock: SharedClock) {
    let admin = client(&server, "admin", &["system:masters"]);
    let zone = Zone {
        domain: "cluster.local".into(),
        servers: vec!["10.96.0.10".parse().expect("an address")],
        own_ranges: Vec::new(),
    };
    let dns = Dns::start(DnsConfig {
        informers: Informers::new(admin.clone()),
        zone,
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        resolv_conf: None,
        clock,
    });
    let dns = dns.expect("starts");
    timeout(PATIENCE, dns.synced()).await.expect("knows all");
    let at = dns.listening()[0];
    assert_eq!(ask(at, "kubernetes.default.svc.cluster.local.").await.as_deref(), Some("10.96.0.1"));
    for number in 0..SERVICES {
        let name = format!("s{number}");
        let service =
            json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "ports": [{ "port": 80 }] } });
        let service: Service = serde_json::from_value(service).expect("a Service");
        let made = admin.create(&service).await.expect("is created");
        let address = made.spec.and_then(|spec| spec.cluster_ip);
        let name = format!("{name}.default.svc.cluster.local.");
        let answered = async { while ask(at, &name).await != address {} };
        timeout(PATIENCE, answered).await.expect("has a name in the end");
    }
}

#[test]
fn new_services_have_names() {
    let folder = std::env::temp_dir().join(format!("skiff-edge-cluster-{}", std::process::id()));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
            let mut up = [0; 16];
            // The interface with index 1, flags and their mask: up.
            (up[4], up[8], up[12]) = (1, 1, 1);
            let mut batch = Batch::new();
            drop(batch.message("switch lo on", 16, 5, &up));
            Socket::open(Protocol::Route).expect("opens").execute(&batch).expect("the kernel does it");
            // Its threads are made by this one, and so are in the same namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("starts").block_on(async {
                let clock = SystemClock::shared();
                let server = start_server(&folder, clock.clone()).await;
                a_new_service_has_its_name_at_once(server.clone(), clock).await;
                server.stop();
            });
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    std::fs::remove_dir_all(&folder).expect("the folder was made by this test");
}
