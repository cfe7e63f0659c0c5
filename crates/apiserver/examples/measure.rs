//! What one request costs without the network: the server in-process, one request after the other.
//! `cargo run --release -p skiff-apiserver --example measure -- FOLDER [COUNT [WHAT...]]` prints the CPU time for each; with
//! `valgrind --tool=callgrind` it tells where instructions go, which no other work on the machine can blur.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the machine's clock")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request};
use http_body_util::BodyExt;
use skiff_apiserver::http::body;
use skiff_apiserver::{ApiServer, Config, UserInfo, VersionInfo};
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::ids::Ids;
use skiff_store::embedded::{EmbeddedOptions, EmbeddedStore};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The allocator of `skiff`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn config(folder: &str, clock: SharedClock) -> Fallible<Config> {
    Ok(Config {
        version: VersionInfo::skiff("measure"),
        advertise: "127.0.0.1:6443".parse()?,
        ..Config::new(EmbeddedStore::open(folder, EmbeddedOptions::default())?, clock, Arc::new(Ids::random()))
    })
}

/// A request that is made again and again.
struct Repeated {
    name: &'static str,
    method: Method,
    content_type: &'static str,
    accept: &'static str,
    path: fn(usize) -> String,
    body: fn(usize) -> String,
    /// One request in so many: those that take long are made less often.
    every: usize,
}

const fn reading(name: &'static str, accept: &'static str, path: fn(usize) -> String, every: usize) -> Repeated {
    Repeated { name, method: Method::GET, content_type: JSON, accept, path, body: nothing, every }
}

const fn writing(name: &'static str, method: Method, path: fn(usize) -> String, body: fn(usize) -> String) -> Repeated {
    Repeated { name, method, content_type: JSON, accept: JSON, path, body, every: 1 }
}

/// In the order in which they are made: some need what others have left.
fn all() -> Vec<Repeated> {
    let pod = |number: usize| format!("{PODS}/pod-{number}");
    let patch = |name, content_type, path, body| Repeated { content_type, ..writing(name, Method::PATCH, path, body) };
    vec![
        writing("create-map", Method::POST, |_| CONFIG_MAPS.into(), |number| config_map(number, 'a')),
        writing("put-map", Method::PUT, map_path, |number| config_map(number, 'b')),
        reading("get-map", JSON, map_path, 1),
        writing("create-pod", Method::POST, |_| PODS.into(), self::pod),
        writing("create-plain-pod", Method::POST, |_| PODS.into(), plain_pod),
        writing(
            "bind-plain-pod",
            Method::POST,
            |number| format!("{PODS}/plain-{number}/binding"),
            |_| r#"{"apiVersion":"v1","kind":"Binding","metadata":{},"target":{"kind":"Node","name":"node-1"}}"#.into(),
        ),
        reading("get-pod", JSON, pod, 1),
        reading("get-pod-protobuf", PROTOBUF, pod, 1),
        patch(
            "patch-status",
            "application/strategic-merge-patch+json",
            |number| format!("{PODS}/pod-{number}/status"),
            |_| r#"{"status":{"phase":"Running","podIP":"10.0.0.1"}}"#.into(),
        ),
        patch("merge-patch", "application/merge-patch+json", pod, |_| {
            r#"{"metadata":{"labels":{"patched":"yes"}}}"#.into()
        }),
        patch(
            "apply",
            "application/apply-patch+yaml",
            |number| format!("{}?fieldManager=m&force=1", map_path(number)),
            |number| {
                format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"map-{number}"}},"data":{{"applied":"{number}"}}}}"#
                )
            },
        ),
        reading("list-pods", JSON, |_| PODS.into(), 100),
        reading("list-pods-table", TABLE, |_| PODS.into(), 100),
        reading("list-pods-protobuf", PROTOBUF, |_| PODS.into(), 100),
        writing("delete-map", Method::DELETE, map_path, nothing),
    ]
}

fn nothing(_: usize) -> String {
    String::new()
}

fn map_path(number: usize) -> String {
    format!("{CONFIG_MAPS}/map-{number}")
}

fn config_map(number: usize, letter: char) -> String {
    format!(r#"{{"metadata":{{"name":"map-{number}"}},"data":{{"value":"{}"}}}}"#, letter.to_string().repeat(1024))
}

/// The smallest Pod, which waits for a node.
fn plain_pod(number: usize) -> String {
    format!(
        r#"{{"metadata":{{"name":"plain-{number}","annotations":{{"sim.skiff.io/start-delay":"300s"}}}},"spec":{{"containers":[
        {{"name":"app","image":"app:v1","resources":{{"requests":{{"cpu":"10m","memory":"16Mi"}}}}}}]}}}}"#
    )
}

fn pod(number: usize) -> String {
    let variables: Vec<String> =
        (0..8).map(|n| format!(r#"{{"name":"VARIABLE_{n}","value":"value-{number}-{n}"}}"#)).collect();
    format!(
        r#"{{"metadata":{{"name":"pod-{number}","labels":{{"app":"app-{}"}}}},"spec":{{"nodeName":"node-{}","containers":[
        {{"name":"main","image":"registry.example.com/app:v1","env":[{}],"ports":[{{"containerPort":8080}}],
        "resources":{{"requests":{{"cpu":"100m","memory":"64Mi"}}}}}}]}}}}"#,
        number % 100,
        number % 50,
        variables.join(",")
    )
}

async fn send(server: &Arc<ApiServer>, what: &Repeated, number: usize) -> Fallible<usize> {
    let request = Request::builder().method(what.method.clone()).uri((what.path)(number));
    let request =
        request.header(USER_AGENT, "measure").header(ACCEPT, what.accept).header(CONTENT_TYPE, what.content_type);
    let mut request = request.body(body::full((what.body)(number)))?;
    request.extensions_mut().insert(UserInfo::new("measure", &["system:masters"]));
    let answer = server.handle(request).await;
    let status = answer.status();
    let whole = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(format!("{} {number}: {}", what.name, String::from_utf8_lossy(&whole)).into());
    }
    Ok(whole.len())
}

/// The CPU time of all threads so far.
fn cpu_time() -> Fallible<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    let own: u64 = text.split_whitespace().next().ok_or("no figures in schedstat")?.parse()?;
    Ok(Duration::from_nanos(own))
}

async fn measure(folder: &str, count: usize, wanted: &[String]) -> Fallible<()> {
    let clock = SystemClock::shared();
    let server = ApiServer::new(config(folder, clock.clone())?).await?;
    let account =
        writing("account", Method::POST, |_| ACCOUNTS.into(), |_| r#"{"metadata":{"name":"default"}}"#.into());
    send(&server, &account, 0).await?;
    for what in all() {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == what.name) {
            continue;
        }
        let times = (count / what.every).max(1);
        let (began, cpu, mut bytes) = (clock.monotonic(), cpu_time()?, 0);
        for number in 0..times {
            bytes = send(&server, &what, number).await?;
        }
        let each = |time: Duration| time.as_secs_f64() * 1e6 / times as f64;
        let (cpu, wall) = (each(cpu_time()?.saturating_sub(cpu)), each(clock.monotonic() - began));
        println!(
            "{:20} {times:7} times, {bytes:8} bytes: {cpu:9.1} us of this thread, {wall:9.1} us by the clock",
            what.name
        );
    }
    server.stop();
    Ok(())
}

fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("FOLDER is missing")?;
    let count = arguments.next().map_or(Ok(2000), |text| text.parse())?;
    let wanted: Vec<String> = arguments.collect();
    // One thread, so that what it costs is told apart from the store's writer.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&folder, count, &wanted))
}
