//! Service rules at size: 10,000 Services with two endpoints each, one more, and all of them from nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_e2e::Cluster;

use super::api::{Api, create_all};
use super::place::{LOAD_CORE, Place};
use super::{inside, number};
use crate::agent::Apart;
use crate::attempt::line;
use crate::proxy::Proxy;
use crate::traces::cost;
use crate::{SETTLE, percentile};

const SERVICES: usize = 10_000;
const ADDED: usize = 60;
const LOADS: usize = 3;
const PORT: u16 = 9000;
/// The Service of the API, which answers wherever the rules are in place.
const API: &str = "10.96.0.1:443";
/// What netd counts of its own work.
const SYNC: &str = "kubeproxy_sync_proxy_rules_duration_seconds";

/// All of it.
pub fn measure(share: u32) {
    whole_node(share);
    agent(share);
}

/// What an agent keeps of Services while the API server is elsewhere, which is what can be compared with kube-proxy.
fn agent(share: u32) {
    let apart = Apart::start("bench-services-agent");
    std::thread::sleep(SETTLE / share);
    let before = apart.cost().memory_mib;
    let count = SERVICES / share as usize;
    let proxy = Proxy::start(&apart.cluster);
    make(proxy.address(), count);
    std::thread::sleep(SETTLE / share);
    let after = apart.cost().memory_mib;
    apart.start_again();
    std::thread::sleep(SETTLE / share);
    let loaded = apart.cost().memory_mib;
    line(
        &format!("memory of {count} Services in an agent (PSS), as they come and after a start"),
        "node",
        &format!("{:.1} and {:.1} MiB more than {before:.1}", after - before, loaded - before),
    );
}

fn whole_node(share: u32) {
    let cluster = Cluster::up_without_images("bench-services");
    let proxy = Proxy::start(&cluster);
    let place = Place::of_node(&cluster, &cluster.name);
    let server = format!("{}:{PORT}", node_address(&cluster));
    let _server = place.start(LOAD_CORE, &["serve", &server]);
    std::thread::sleep(SETTLE / share);
    let before = cost(&cluster).memory_mib;

    let count = SERVICES / share as usize;
    let begun = Instant::now();
    make(proxy.address(), count);
    line(
        &format!("{count} Services with 2 endpoints each, made by the API"),
        "node",
        &format!("{:.1} s", begun.elapsed().as_secs_f64()),
    );
    std::thread::sleep(SETTLE / share);
    let after = cost(&cluster).memory_mib;
    line(
        &format!("memory of {count} Services (PSS of the whole node)"),
        "node",
        &format!("{:.1} MiB more than {before:.1}", after - before),
    );

    add_one_more(&proxy, &place, &server, count, ADDED.div_ceil(share as usize));
    for _ in 0..LOADS {
        load_from_nothing(&cluster, count);
    }
    drop(proxy);
    std::thread::sleep(SETTLE / share);
    let loaded = cost(&cluster).memory_mib;
    line(
        &format!("memory after a start with {count} Services"),
        "node",
        &format!("{:.1} MiB more than {before:.1}", loaded - before),
    );
}

fn node_address(cluster: &Cluster) -> String {
    let node = cluster.get("nodes");
    let addresses = node["items"][0]["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let own = addresses.iter().find(|address| address["type"] == "InternalIP");
    own.and_then(|address| address["address"].as_str()).expect("a node has an address").to_owned()
}

fn service(name: &str, address: Option<&str>) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
    });
    if let Some(address) = address {
        service["spec"]["clusterIP"] = address.into();
    }
    service
}

fn slice(service: &str, addresses: &[String], port: u16) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": port}], "endpoints": endpoints,
    })
}

fn paths() -> [String; 2] {
    [
        "/api/v1/namespaces/default/services".to_owned(),
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(),
    ]
}

/// Services with addresses in a part of the pod range that no node has; nobody asks for them.
fn make(api: &str, count: usize) {
    let [services, slices] = paths();
    let address = |at: usize| format!("10.244.{}.{}", 128 + at / 250, 1 + at % 250);
    let objects = (0..count).flat_map(|at| {
        let name = format!("many-{at}");
        let addresses = [address(at * 2), address(at * 2 + 1)];
        [(services.clone(), service(&name, None)), (slices.clone(), slice(&name, &addresses, 8080))]
    });
    create_all(api, &objects.collect::<Vec<_>>());
}

/// One Service after the other, whose endpoint is there already: how long until its address answers.
fn add_one_more(proxy: &Proxy, place: &Place, server: &str, before: usize, count: usize) {
    let mut api = Api::open(proxy.address());
    let [services, slices] = paths();
    let host = server.split(':').next().unwrap_or_default().to_owned();
    let (mut from_sent, mut from_answer, mut work) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..count {
        let (name, address) = (format!("one-{at}"), format!("10.96.0.{}", 100 + at));
        api.request("POST", &slices, &slice(&name, std::slice::from_ref(&host), PORT).to_string());
        let mut watch = place.start(LOAD_CORE, &["watch", &format!("{address}:80")]);
        watch.say("up");
        std::thread::sleep(Duration::from_millis(20));
        let (syncs, seconds) = work_so_far(&mut api);
        let sent = inside::time_of_day();
        api.request("POST", &services, &service(&name, Some(&address)).to_string());
        let answered = inside::time_of_day();
        let seen = number(&watch.hear(), "at") as u64;
        let milliseconds = |from: u64| seen.saturating_sub(from) as f64 / 1e6;
        from_sent.push(milliseconds(sent));
        from_answer.push(milliseconds(answered));
        let (more_syncs, more_seconds) = work_so_far(&mut api);
        work.push((more_seconds - seconds) / (more_syncs - syncs).max(1.0) * 1000.0);
    }
    let told = |figures: &[f64]| format!("{:.2} / {:.2} ms", percentile(figures, 0.5), percentile(figures, 0.99));
    let figure = |what: &str| format!("one more Service beside {before}, {what}, p50 / p99");
    line(&figure("netd's own work"), "node", &told(&work));
    line(&figure("from the API's answer until it is reached"), "node", &told(&from_answer));
    line(&figure("from the request until it is reached"), "node", &told(&from_sent));
}

/// How often netd brought the rules up to date, and the seconds that took.
fn work_so_far(api: &mut Api) -> (f64, f64) {
    let text = api.request("GET", "/metrics", "");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(SYNC)?.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("{SYNC}{name} is in /metrics"))
    };
    (value("_count"), value("_sum"))
}

/// The node starts again, in a network of its own that is new: its kernel has no rules. Where a Service is reached before the
/// command has ended, the command's end is what is told.
fn load_from_nothing(cluster: &Cluster, count: usize) {
    cluster.skiff(&["down"]).ok();
    let begun = inside::time_of_day();
    cluster.skiff(&["up"]).ok();
    let place = Place::of_node(cluster, &cluster.name);
    let mut watch = place.start(LOAD_CORE, &["watch", API]);
    watch.say("up");
    let seen = number(&watch.hear(), "at") as u64;
    let proxy = Proxy::start(cluster);
    let (syncs, seconds) = work_so_far(&mut Api::open(proxy.address()));
    let text = format!(
        "{:.2} s from `skiff up` until a Service is reached; netd's own work {:.2} s ({syncs} times)",
        seen.saturating_sub(begun) as f64 / 1e9,
        seconds
    );
    line(&format!("{count} Services from nothing"), "node", &text);
}
