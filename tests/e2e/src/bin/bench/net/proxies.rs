//! Ingress beside nginx, and the DNS beside unbound: each has one core, and the load and what is behind it the other.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

use super::api::create_all;
use super::place::{LOAD_CORE, Place, Running, SERVER_CORE, on_core};
use super::{compare, node, number, peers, waiting_pod};
use crate::attempt::{Scratch, line};
use crate::percentile;
use crate::proxy::Proxy;
use crate::traces::cost_of;

const ROUNDS: usize = 6;
const TIME: Duration = Duration::from_secs(4);
const CONNECTIONS: usize = 32;
const NGINX: &str = "127.0.0.1:8088";
const UNBOUND: &str = "127.0.0.1:5300";
const DNS: &str = "10.96.0.10:53";
const NAMES: usize = 1000;
const IN_FLIGHT: usize = 64;

const INGRESS: &str = "
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: bench}
spec:
  rules:
  - host: bench.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: server, port: {number: 80}}}}]}
";

/// One that is measured: where it answers, and who does the work.
struct Side<'a> {
    name: &'static str,
    address: &'a str,
    pids: Vec<u32>,
    rates: Vec<f64>,
    worst: Vec<f64>,
    /// Microseconds of the processor for each answer.
    work: Vec<f64>,
}

impl<'a> Side<'a> {
    fn new(name: &'static str, address: &'a str, pids: Vec<u32>) -> Self {
        Self { name, address, pids, rates: Vec::new(), worst: Vec::new(), work: Vec::new() }
    }

    fn measure(&mut self, load: impl Fn(&str) -> Value, counts: bool) {
        let used = || cost_of(self.pids.iter().copied()).cpu_seconds;
        let before = used();
        let measured = load(self.address);
        let work = (used() - before) * 1e6 / number(&measured, "count");
        if counts {
            self.rates.push(number(&measured, "rate"));
            self.worst.push(measured["p99"].as_f64().unwrap_or(0.0));
            self.work.push(work);
        }
    }
}

/// Lets both answer in turns, each as often first; the first pair warms up.
fn in_turns(sides: [&mut Side<'_>; 2], load: impl Fn(&str) -> Value) {
    let [ours, theirs] = sides;
    for round in 0..=ROUNDS {
        if round % 2 == 0 {
            ours.measure(&load, round > 0);
            theirs.measure(&load, round > 0);
        } else {
            theirs.measure(&load, true);
            ours.measure(&load, true);
        }
    }
}

fn tell(what: &str, unit: &str, ours: &Side<'_>, theirs: &Side<'_>) {
    compare(what, unit, (ours.name, &ours.rates), (theirs.name, &theirs.rates));
    for side in [ours, theirs] {
        line(&format!("{what}: processor time for each"), side.name, &format!("{:.1} us", percentile(&side.work, 0.5)));
    }
}

/// Requests by connections that are kept.
pub fn ingress(share: u32) {
    let cluster = on_core(SERVER_CORE, || node("bench-ingress"));
    cluster.create(INGRESS);
    let pod = waiting_pod(&cluster, "server", json!({}));
    let backend = format!("{pod}:8080");
    let _server = Place::of_pod(&cluster, "server").start(LOAD_CORE, &["serve", "0.0.0.0:8080"]);
    let mut own = String::new();
    eventually("the Ingress has an address", || {
        let ingress = cluster.get("ingress/bench");
        own = ingress["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default().to_owned();
        !own.is_empty()
    });
    let own = format!("{own}:80");
    let scratch = Scratch::new();
    let place = Place::of_node(&cluster, &cluster.name);
    let nginx = peers::nginx(&place, scratch.path(), NGINX, std::slice::from_ref(&backend));
    let load = |address: &str, time: Duration| {
        place.try_load(&["keep", address, &CONNECTIONS.to_string(), &time.as_millis().to_string()])
    };
    for address in [own.as_str(), NGINX] {
        eventually("the proxy answers", || load(address, Duration::from_millis(200)).is_ok());
    }
    let mut ours = Side::new("Ingress", &own, vec![cluster.server_pid()]);
    let mut theirs = Side::new("nginx", NGINX, with_children(&nginx));
    let time = TIME / share;
    in_turns([&mut ours, &mut theirs], |address| load(address, time).expect("all requests are answered"));
    let what = format!("requests of 1 KiB by {CONNECTIONS} connections that are kept");
    tell(&what, "/s", &ours, &theirs);
    compare(&format!("{what}: p99"), "us", (ours.name, &ours.worst), (theirs.name, &theirs.worst));
    let direct = load(&backend, time).expect("all requests are answered");
    line(&what, "the backend itself", &format!("{:.0} /s", number(&direct, "rate")));
}

/// Questions for the addresses of Services.
pub fn dns(share: u32) {
    let cluster = on_core(SERVER_CORE, || Cluster::up_without_images("bench-dns"));
    let names = services(&cluster);
    let scratch = Scratch::new();
    let list = scratch.path().join("names");
    let text: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    std::fs::write(&list, text.join("\n")).expect("a writable folder");
    let list = list.display().to_string();
    let place = Place::of_node(&cluster, &cluster.name);
    let unbound = peers::unbound(&place, scratch.path(), UNBOUND, &names);
    let load = |address: &str, time: Duration| {
        place.try_load(&["ask", address, &list, &IN_FLIGHT.to_string(), &time.as_millis().to_string()])
    };
    for address in [DNS, UNBOUND] {
        eventually("the DNS answers for all names", || load(address, Duration::from_millis(100)).is_ok());
    }
    let mut ours = Side::new("DNS", DNS, vec![cluster.server_pid()]);
    let mut theirs = Side::new("unbound", UNBOUND, with_children(&unbound));
    let time = TIME / share;
    in_turns([&mut ours, &mut theirs], |address| load(address, time).expect("all questions are answered"));
    tell(&format!("questions for {NAMES} names of Services, by UDP, {IN_FLIGHT} at a time"), "/s", &ours, &theirs);
}

/// Some Services: each one's name, and its address.
fn services(cluster: &Cluster) -> Vec<(String, String)> {
    let proxy = Proxy::start(cluster);
    let service = |at: usize| {
        let ports = json!([{"port": 80}]);
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("named-{at}")}, "spec": {"ports": ports}})
    };
    let path = "/api/v1/namespaces/default/services".to_owned();
    let objects: Vec<_> = (0..NAMES).map(|at| (path.clone(), service(at))).collect();
    create_all(proxy.address(), &objects);
    let all = cluster.get("services");
    let all = all["items"].as_array().cloned().unwrap_or_default();
    let named = all.iter().filter_map(|service| {
        let name = service["metadata"]["name"].as_str().filter(|name| name.starts_with("named-"))?;
        let address = service["spec"]["clusterIP"].as_str()?;
        Some((format!("{name}.default.svc.cluster.local"), address.to_owned()))
    });
    named.collect()
}

/// A process and those that it started.
fn with_children(running: &Running) -> Vec<u32> {
    let pid = running.0.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    std::iter::once(pid).chain(children).collect()
}
