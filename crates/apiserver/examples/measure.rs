//! Measures the server in-process on a store in a folder: writes, reads, lists and watches per second.
//! `cargo run --release -p skiff-apiserver --example measure -- FOLDER`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use skiff_apiserver::config::Cidr;
use skiff_apiserver::http::body;
use skiff_apiserver::{ApiServer, Body, Config, UserInfo, VersionInfo};
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::ids::Ids;
use skiff_store::embedded::{EmbeddedOptions, EmbeddedStore};

const WRITES: usize = 2000;
const WRITERS: usize = 16;
const WATCHERS: usize = 100;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn config(folder: &str, clock: SharedClock) -> Fallible<Config> {
    Ok(Config {
        store: EmbeddedStore::open(folder, EmbeddedOptions::default())?,
        clock,
        ids: Arc::new(Ids::random()),
        version: VersionInfo::skiff("measure"),
        kinds: skiff_kinds::builtin().to_vec(),
        service_cidr: Cidr { base: "10.96.0.0".parse()?, bits: 12 },
        node_port_range: 30000..=32767,
        cluster_domain: "cluster.local".into(),
        advertise: "127.0.0.1:6443".parse()?,
        service_accounts: None,
        kubelet_tls: None,
        front_proxy: None,
        admission: Default::default(),
        authorization: true,
        tokens: Vec::new(),
    })
}

async fn send(server: &Arc<ApiServer>, method: Method, path: &str, content: String) -> http::Response<Body> {
    let request = Request::builder().method(method).uri(path).header("user-agent", "measure");
    let mut request = request.body(body::full(content)).expect("a well-formed request");
    request.extensions_mut().insert(UserInfo::new("measure", &["system:masters"]));
    let answer = server.handle(request).await;
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    answer
}

async fn read(answer: http::Response<Body>) -> usize {
    answer.into_body().collect().await.map_or(0, |whole| whole.to_bytes().len())
}

fn report(what: &str, count: usize, took: Duration) {
    println!(
        "{what}: {:.0}/s ({:.1} us each)",
        count as f64 / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / count as f64
    );
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let folder = std::env::args().nth(1).ok_or("FOLDER is missing")?;
    let clock = SystemClock::shared();
    let began = clock.monotonic();
    let server = ApiServer::new(config(&folder, clock.clone())?).await?;
    println!("ready after {:?}", clock.monotonic() - began);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    drop(send(&server, Method::POST, accounts, r#"{"metadata":{"name":"default"}}"#.into()).await);

    let pods = "/api/v1/namespaces/default/pods";
    let mut watchers = Vec::new();
    for index in 0..WATCHERS {
        // Most watchers wait for what never comes, as the agents of other nodes do.
        let path = format!("{pods}?watch=1&fieldSelector=spec.nodeName%3Dn{}", index % 50);
        watchers.push(send(&server, Method::GET, &path, String::new()).await);
    }
    let began = clock.monotonic();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let server = server.clone();
        writers.push(tokio::spawn(async move {
            for index in 0..WRITES / WRITERS {
                let pod = format!(
                    r#"{{"metadata":{{"name":"p{writer}-{index}","labels":{{"app":"a{writer}"}}}},"spec":{{"nodeName":"n{writer}","containers":[{{"name":"c","image":"busybox"}}]}}}}"#
                );
                drop(send(&server, Method::POST, pods, pod).await);
            }
        }));
    }
    for writer in writers {
        writer.await?;
    }
    report("pods created", WRITES, clock.monotonic() - began);
    drop(watchers);

    let began = clock.monotonic();
    for index in 0..WRITES {
        let path = format!("{pods}/p{}-{}", index % WRITERS, index / WRITERS);
        read(send(&server, Method::GET, &path, String::new()).await).await;
    }
    report("pods read", WRITES, clock.monotonic() - began);

    let (began, mut bytes) = (clock.monotonic(), 0);
    for _ in 0..20 {
        bytes = read(send(&server, Method::GET, "/api/v1/pods", String::new()).await).await;
    }
    report(&format!("lists of {WRITES} pods ({} KiB)", bytes / 1024), 20, clock.monotonic() - began);

    let began = clock.monotonic();
    for index in 0..WRITES / 4 {
        let path = format!("{pods}/p{}-{}/status", index % WRITERS, index / WRITERS);
        let request = Request::builder().method(Method::PATCH).uri(&path);
        let request = request.header("content-type", "application/strategic-merge-patch+json");
        let mut request = request.body(body::full(r#"{"status":{"phase":"Running","podIP":"10.0.0.1"}}"#))?;
        request.extensions_mut().insert(UserInfo::new("measure", &["system:masters"]));
        assert!(server.handle(request).await.status().is_success());
    }
    report("statuses patched one by one", WRITES / 4, clock.monotonic() - began);
    server.stop();
    Ok(())
}
