//! The service rules and the load balancer addresses against the real API server, with upstream's rights, and a
//! network namespace of the tests' own.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::ids::Ids;
use skiff_client::{Body, Client, DeleteOptions, InProcess, Informers, Patch, Recorder};
use skiff_netd::netlink::{Batch, Protocol, Socket};
use skiff_netd::rules::Frame;
use skiff_netd::{Balancer, BalancerConfig, Netd, NetdConfig, NewPod};
use skiff_store::{EmbeddedOptions, EmbeddedStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

const NODE_HEALTH: &str = "0.0.0.0:10256";

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

async fn start_server(folder: &std::path::Path) -> Arc<ApiServer> {
    let clock: SharedClock = SystemClock::shared();
    let options = EmbeddedOptions { clock: clock.clone(), ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(folder, options).expect("a store");
    let config = skiff_apiserver::Config::new(store, clock, Arc::new(Ids::seeded(7)));
    ApiServer::new(config).await.expect("a server")
}

fn start_rules(server: &Arc<ApiServer>) -> Netd {
    start_rules_for(server, &["10.244.0.0/16"], &["10.96.0.0/12"])
}

/// With these ranges of pods and of Services.
fn start_rules_for(server: &Arc<ApiServer>, pods: &[&str], services: &[&str]) -> Netd {
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a range")).collect();
    let frame = Frame {
        bridge: "skiff0".into(),
        pod_ranges: ranges(pods),
        service_ranges: ranges(services),
        balancer_ranges: ranges(&["203.0.113.0/24"]),
    };
    // As on a node that has no other part of the cluster: with the node's own rights.
    let own = client(server, "system:node:node-1", &["system:nodes"]);
    let clock = SystemClock::shared();
    Netd::start(NetdConfig {
        recorder: Recorder::start(own.clone(), clock.clone(), "kube-proxy", "node-1"),
        informers: Informers::new(own),
        clock,
        health_address: NODE_HEALTH.parse().expect("an address"),
        node_name: "node-1".into(),
        frame,
        host_ports: watch::channel(Vec::new()).1,
    })
    .expect("starts")
}

fn start_balancer(server: &Arc<ApiServer>) -> Balancer {
    let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    let own = client(server, "system:serviceaccount:kube-system:service-controller", &groups);
    Balancer::start(BalancerConfig {
        informers: Informers::new(own.clone()),
        recorder: Recorder::start(own.clone(), SystemClock::shared(), "service-controller", ""),
        client: own,
        pool: vec!["203.0.113.4/31".parse().expect("a range")],
        node_addresses: vec!["192.0.2.1".parse().expect("an address")],
        reserved_ports: Vec::new(),
    })
}

/// Runs nft in the current namespace.
#[allow(clippy::disallowed_methods, reason = "nft is the tests' oracle only")]
fn nft(arguments: &[&str]) -> String {
    let output = std::process::Command::new("nft").args(arguments).output().expect("nft is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Waits until the kernel's rules are as wanted.
async fn until(netd: &Netd, what: &str, wanted: impl Fn(&str) -> bool) {
    let reached = async {
        loop {
            let applied = netd.applied();
            if wanted(&nft(&["-nn", "list", "table", "ip", "skiff"])) {
                return;
            }
            netd.applied_after(applied).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{what} in {}", nft(&["list", "ruleset"])));
}

fn service(name: &str) -> Service {
    let spec = json!({ "type": "LoadBalancer", "ports": [{ "port": 80, "targetPort": 8080 }] });
    let metadata = json!({ "name": name, "namespace": "default" });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("a Service")
}

fn slice(service: &str, address: &str) -> EndpointSlice {
    let labels = json!({ "kubernetes.io/service-name": service });
    serde_json::from_value(json!({
        "metadata": { "name": format!("{service}-1"), "namespace": "default", "labels": labels },
        "addressType": "IPv4",
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
    }))
    .expect("a slice")
}

fn switch_loopback_on() {
    let mut up = [0; 16];
    // The interface with index 1, flags and their mask: up.
    (up[4], up[8], up[12]) = (1, 1, 1);
    let mut batch = Batch::new();
    drop(batch.message("switch lo on", 16, 5, &up));
    Socket::open(Protocol::Route).expect("opens").execute(&batch).expect("the kernel does it");
}

/// Runs `work` in a new network namespace, with an API server whose store is in a folder of its own.
fn with_server(name: &str, work: impl AsyncFnOnce(Arc<ApiServer>) + Send) {
    let folder = std::env::temp_dir().join(format!("skiff-netd-cluster-{}-{name}", std::process::id()));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network run as root");
            switch_loopback_on();
            // Its threads are made by this one, and so are in the same namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("starts").block_on(async {
                let server = start_server(&folder).await;
                work(server.clone()).await;
                server.stop();
            });
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    std::fs::remove_dir_all(&folder).expect("the folder was made by this test");
}

#[test]
fn rules_follow_services_and_endpoints() {
    with_server("rules", async |server| {
        let admin = client(&server, "admin", &["system:masters"]);
        let netd = start_rules(&server);
        timeout(PATIENCE, netd.ready()).await.expect("the rules are made");
        until(&netd, "the API's own Service", |rules| {
            rules.contains("10.96.0.1 . 6 . 443 . 0x00000000 : 192.0.2.1 . 6443")
        })
        .await;
        assert_eq!(nft(&["list", "tables"]).trim(), "table ip skiff", "none of a family that the cluster has not");

        let _balancer = start_balancer(&server);
        admin.create(&service("web")).await.expect("is created");
        until(&netd, "a refusal", |rules| rules.contains("203.0.113.4 . 6 . 80 : goto reject")).await;
        admin.create(&slice("web", "10.244.0.5")).await.expect("is created");
        until(&netd, "the endpoint", |rules| rules.contains("203.0.113.4 . 6 . 80 . 0x00000000 : 10.244.0.5 . 8080"))
            .await;

        // Somebody takes our rules away: the next change finds out, and all of them come back.
        nft(&["delete", "table", "ip", "skiff"]);
        let endpoints = json!({ "endpoints": [{ "addresses": ["10.244.0.6"], "conditions": { "ready": true } }] });
        admin.patch::<EndpointSlice>("default", "web-1", "", &Patch::Merge(endpoints)).await.expect("is changed");
        let applied = netd.applied();
        timeout(PATIENCE, netd.applied_after(applied.saturating_sub(1))).await.expect("is applied");
        let all = ["10.96.0.1 . 6 . 443 . 0x00000000", "0x00000000 : 10.244.0.6 . 8080", "chain nat-postrouting"];
        let is_back = || async {
            loop {
                let applied = netd.applied();
                let there = nft(&["list", "tables"]).contains("skiff");
                if there && all.iter().all(|part| nft(&["-nn", "list", "table", "ip", "skiff"]).contains(part)) {
                    return;
                }
                netd.applied_after(applied).await;
            }
        };
        timeout(PATIENCE, is_back()).await.expect("all rules are back");

        admin.delete::<Service>("default", "web", &DeleteOptions::default()).await.expect("is deleted");
        until(&netd, "no trace of it", |rules| !rules.contains("203.0.113.4") && !rules.contains("10.244.0.6")).await;

        netd.shutdown().await;
        assert!(nft(&["list", "tables"]).contains("skiff"), "the rules stay when the program ends");
        Netd::clean_up().expect("cleans up");
        assert_eq!(nft(&["list", "tables"]), "");
    });
}

fn pod(name: &str, labels: serde_json::Value) -> Pod {
    let metadata = json!({ "name": name, "namespace": "default", "labels": labels });
    let spec = json!({ "nodeName": "node-1", "containers": [{ "name": "c", "image": "none" }] });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("a Pod")
}

#[test]
fn rules_follow_policies_and_pods() {
    with_server("policies", async |server| {
        let admin = client(&server, "admin", &["system:masters"]);
        let netd = start_rules(&server);
        let gate = netd.gate();
        timeout(PATIENCE, netd.ready()).await.expect("the rules are made");
        let new = |name: &str, label: &str, address: &str| NewPod {
            namespace: "default".into(),
            name: name.into(),
            uid: format!("uid-of-{name}"),
            labels: [("app".to_owned(), label.to_owned())].into(),
            addresses: vec![address.parse().expect("an address")],
        };
        // Before there is a policy, nobody waits, and nothing is known of pods.
        gate.admit(new("early", "web", "10.244.0.5")).await;

        let spec = json!({
            "podSelector": { "matchLabels": { "app": "web" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }],
        });
        let metadata = json!({ "name": "web", "namespace": "default" });
        let policy: NetworkPolicy = serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("one");
        admin.create(&policy).await.expect("is created");
        until(&netd, "an isolated pod", |rules| rules.contains("10.244.0.5 : jump ingress/default/")).await;

        // Whoever has passed the gate is isolated, though the API does not even know the pod.
        gate.admit(new("late", "web", "10.244.0.6")).await;
        assert!(nft(&["-nn", "list", "table", "ip", "skiff"]).contains("10.244.0.6 : jump ingress/default/"));

        let account = json!({ "metadata": { "name": "default", "namespace": "default" } });
        admin.create::<ServiceAccount>(&serde_json::from_value(account).expect("one")).await.expect("is created");
        admin.create(&pod("client", json!({ "app": "client" }))).await.expect("is created");
        let status = Patch::Merge(json!({ "status": { "podIP": "10.244.1.7", "podIPs": [{ "ip": "10.244.1.7" }] } }));
        admin.patch::<Pod>("default", "client", "status", &status).await.expect("is changed");
        until(&netd, "a peer", |rules| rules.contains("0x00000000 . 10.244.1.7")).await;

        gate.leave("default", "late", "uid-of-late");
        until(&netd, "one pod less", |rules| !rules.contains("10.244.0.6")).await;
        admin.delete::<NetworkPolicy>("default", "web", &DeleteOptions::default()).await.expect("is deleted");
        until(&netd, "no trace", |rules| !rules.contains("10.244.0.5") && !rules.contains("10.244.1.7")).await;
        netd.shutdown().await;
    });
}

#[test]
fn rules_of_both_families_follow_the_same_pods() {
    with_server("families", async |server| {
        let admin = client(&server, "admin", &["system:masters"]);
        let both =
            || start_rules_for(&server, &["fd00:10:244::/48", "10.244.0.0/16"], &["fd00:10:96::/112", "10.96.0.0/12"]);
        let netd = both();
        timeout(PATIENCE, netd.ready()).await.expect("the rules are made");
        let spec = json!({ "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": "2001:db8::/32" } }] }] });
        let metadata = json!({ "name": "web", "namespace": "default" });
        let policy: NetworkPolicy = serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("one");
        admin.create(&policy).await.expect("is created");
        let gate = netd.gate();
        let addresses = ["fd00:10:244::5", "10.244.0.5"];
        gate.admit(NewPod {
            namespace: "default".into(),
            name: "web".into(),
            uid: "uid-of-web".into(),
            labels: [].into(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        })
        .await;
        // Those of the first family are there before those of the other.
        until(&netd, "an isolated pod", |rules| rules.contains("10.244.0.5 : jump ingress/default/")).await;
        let [six, four] = ["ip6", "ip"].map(|family| nft(&["-nn", "list", "table", family, "skiff"]));
        for (rules, address) in [&six, &four].into_iter().zip(addresses) {
            assert!(rules.contains(&format!("{address} : jump ingress/default/")), "{address} in {rules}");
        }
        assert!(six.contains("2001:db8::/32") && !four.contains("2001:db8"), "{six}{four}");
        assert!(
            four.contains("10.96.0.1 . 6 . 443") && !six.contains(" . 6 . 443"),
            "the API's Service is one of IPv4"
        );

        // Somebody takes the rules of one family away: the next change finds out.
        nft(&["delete", "table", "ip6", "skiff"]);
        gate.leave("default", "web", "uid-of-web");
        let is_back = async {
            loop {
                let applied = netd.applied();
                let tables = nft(&["list", "tables"]);
                let is_gone = || !nft(&["-nn", "list", "table", "ip6", "skiff"]).contains("fd00:10:244::5");
                if tables.contains("table ip6 skiff") && is_gone() {
                    return;
                }
                netd.applied_after(applied).await;
            }
        };
        timeout(PATIENCE, is_back).await.expect("all rules are back");
        netd.shutdown().await;

        // A cluster that has a family no more keeps no rules of it.
        let netd = start_rules(&server);
        timeout(PATIENCE, netd.ready()).await.expect("the rules are made");
        assert_eq!(nft(&["list", "tables"]).trim(), "table ip skiff");
        netd.shutdown().await;
        let netd = both();
        timeout(PATIENCE, netd.ready()).await.expect("the rules are made");
        netd.shutdown().await;
        Netd::clean_up().expect("cleans up");
        assert_eq!(nft(&["list", "tables"]), "");
    });
}

#[test]
fn load_balancers_share_the_node_when_the_pool_is_empty() {
    with_server("balancers", async |server| {
        let admin = client(&server, "admin", &["system:masters"]);
        let _balancer = start_balancer(&server);
        let (sender, mut changes) = watch::channel(());
        let services = Informers::new(admin.clone()).of::<Service>();
        services.on_change(move |_| sender.send_replace(()));
        let mut wait_for = async |name: &str, address: Option<&str>| {
            let reached = async {
                loop {
                    changes.mark_unchanged();
                    let object = services.get("default", name);
                    let status = object.as_ref().and_then(|service| service.status.as_ref()?.load_balancer.as_ref());
                    let first = status.and_then(|balancer| balancer.ingress.as_ref()?.first()?.ip.as_deref());
                    if object.is_some() && first == address {
                        return;
                    }
                    changes.changed().await.expect("the informer lives");
                }
            };
            timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{name} gets {address:?}"));
        };
        let expected = [("a", Some("203.0.113.4")), ("b", Some("203.0.113.5")), ("c", Some("192.0.2.1")), ("d", None)];
        for (name, address) in expected {
            admin.create(&service(name)).await.expect("is created");
            wait_for(name, address).await;
        }
        // What one gives back, the one that waits for its port gets.
        admin.delete::<Service>("default", "c", &DeleteOptions::default()).await.expect("is deleted");
        wait_for("d", Some("192.0.2.1")).await;
        let cluster = json!({ "spec": { "type": "ClusterIP", "ports": [{ "port": 80, "nodePort": null }] } });
        admin.patch::<Service>("default", "a", "", &Patch::Merge(cluster)).await.expect("is changed");
        wait_for("a", None).await;
    });
}

#[test]
fn rules_follow_the_zone_of_the_node() {
    with_server("zones", async |server| {
        let admin = client(&server, "admin", &["system:masters"]);
        let zone = |zone: &str| json!({ "topology.kubernetes.io/zone": zone });
        let node = json!({ "metadata": { "name": "node-1", "labels": zone("a") } });
        admin.create::<Node>(&serde_json::from_value(node).expect("a Node")).await.expect("is created");
        let netd = start_rules(&server);
        admin.create(&service("web")).await.expect("is created");
        let endpoint =
            |address: &str, zone: &str| json!({ "addresses": [address], "hints": { "forZones": [{ "name": zone }] } });
        let mut slice = slice("web", "10.244.0.5");
        slice.endpoints =
            serde_json::from_value(json!([endpoint("10.244.0.5", "a"), endpoint("10.244.0.6", "b")])).ok();
        admin.create(&slice).await.expect("is created");
        let only = |wanted: &'static str, other: &'static str| {
            move |rules: &str| rules.contains(wanted) && !rules.contains(other)
        };
        until(&netd, "the endpoint for zone a", only("10.244.0.5 . 8080", "10.244.0.6 . 8080")).await;
        let labels = Patch::Merge(json!({ "metadata": { "labels": zone("b") } }));
        admin.patch::<Node>("", "node-1", "", &labels).await.expect("is changed");
        until(&netd, "the endpoint for zone b", only("10.244.0.6 . 8080", "10.244.0.5 . 8080")).await;
        let labels = Patch::Merge(json!({ "metadata": { "labels": zone("c") } }));
        admin.patch::<Node>("", "node-1", "", &labels).await.expect("is changed");
        until(&netd, "both endpoints", |rules| {
            ["10.244.0.5 . 8080", "10.244.0.6 . 8080"].iter().all(|it| rules.contains(it))
        })
        .await;
        netd.shutdown().await;
    });
}

/// The head and the text of an answer, or nothing if nobody listens.
async fn get(port: i32, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).expect("a port"))).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    // A listener that is just being closed may break off.
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[test]
fn balancers_are_told_which_nodes_serve() {
    with_server("health", async |server| {
        let admin = client(&server, "admin", &["system:masters"]);
        let netd = start_rules(&server);
        let answers = async |port: i32, path: &str, wanted: &[&str]| {
            let reached = async {
                loop {
                    let answer = get(port, path).await;
                    let is_wanted = |answer: &String| wanted.iter().all(|part| answer.contains(part));
                    if answer.as_ref().map_or(wanted.is_empty(), is_wanted) {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("port {port}{path} answers {wanted:?}"));
        };
        answers(10256, "/healthz", &["HTTP/1.1 200 OK", "\"nodeEligible\": true"]).await;
        answers(10256, "/livez", &["HTTP/1.1 200 OK", "\"currentTime\": \""]).await;

        let mut web = service("web");
        web.spec.as_mut().expect("it has one").external_traffic_policy = Some("Local".into());
        let web = admin.create(&web).await.expect("is created");
        let port = web.spec.and_then(|spec| spec.health_check_node_port).expect("was given");
        answers(port, "/", &["HTTP/1.1 503 ", "x-load-balancing-endpoint-weight: 0", "\"localEndpoints\": 0,"]).await;
        let mut here = slice("web", "10.244.0.5");
        here.endpoints.iter_mut().flatten().for_each(|endpoint| endpoint.node_name = Some("node-1".into()));
        admin.create(&here).await.expect("is created");
        answers(port, "/any/path", &["HTTP/1.1 200 OK", "x-content-type-options: nosniff", "\"localEndpoints\": 1,"])
            .await;
        let away = Patch::Merge(json!({ "endpoints": [{ "addresses": ["10.244.1.5"], "nodeName": "node-2" }] }));
        admin.patch::<EndpointSlice>("default", "web-1", "", &away).await.expect("is changed");
        answers(port, "/", &["HTTP/1.1 503 "]).await;
        admin.delete::<Service>("default", "web", &DeleteOptions::default()).await.expect("is deleted");
        answers(port, "/", &[]).await;
        netd.shutdown().await;
    });
}
