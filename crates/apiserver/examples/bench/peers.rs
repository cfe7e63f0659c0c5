//! What the figures are read against: the disk's own syncs, the same HTTP stack answering a constant, and etcd as a raw
//! store.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use skiff_store::{Change, EtcdOptions, EtcdStore, Store, Transaction};
use tokio_rustls::TlsAcceptor;

use super::load::{self, Client, Protocol, Request};
use super::server::cpu_of;
use super::{CONFIG_MAPS, DATA_BYTES, Fallible, Figures, PERIOD, config_map};

/// About what a ConfigMap of 1 KiB takes in the store.
const STORED_BYTES: usize = DATA_BYTES + 300;

/// Measures all peers.
pub async fn measure(folder: &Path, figures: &mut Figures) -> Fallible<()> {
    figures.add("the disk: appends of 1 KiB with fdatasync", "/s", syncs(folder)?);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        constant(protocol, figures).await?;
    }
    match etcd(folder, figures).await {
        Ok(()) => Ok(()),
        Err(error) if error.to_string() == NO_ETCD => {
            eprintln!("{error}: its figures are left out");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn syncs(folder: &Path) -> std::io::Result<f64> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    // A file of fixed length, as the store's: a sync then has no new length to write.
    file.set_len(64 * 1024 * 1024)?;
    file.sync_all()?;
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < PERIOD {
        file.write_all(&[1; 1024])?;
        file.sync_data()?;
        count += 1;
    }
    std::fs::remove_file(path)?;
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// The same stack with the same bytes under way, and nothing behind it.
async fn constant(protocol: Protocol, figures: &mut Figures) -> Fallible<()> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".into()])?.self_signed(&key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into()?)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    // A runtime of its own, as the server's process has one.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.spawn(answer_constantly(listener, TlsAcceptor::from(Arc::new(tls))));
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    let trusting = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Arc::new(Client { port, tls: Arc::new(trusting), protocol, user: None });
    let (next, tag) = (Arc::new(AtomicU64::new(0)), protocol.name());
    let post = move || Request::post(CONFIG_MAPS, config_map("constant", next.fetch_add(1, Ordering::Relaxed)));
    measured(&client, 64, &format!("a constant for POST, 64 in flight, {tag}"), post.clone(), figures).await?;
    measured(&client, 1, &format!("a constant for POST, one at a time, {tag}"), post, figures).await?;
    let get = || Request::get(CONFIG_MAPS);
    measured(&client, 32, &format!("a constant for GET, 32 in flight, {tag}"), get, figures).await?;
    runtime.shutdown_background();
    Ok(())
}

/// Server and load generator are one process here.
async fn measured(
    client: &Arc<Client>,
    in_flight: usize,
    name: &str,
    make: impl Fn() -> Request + Clone + Send + 'static,
    figures: &mut Figures,
) -> Fallible<()> {
    let before = cpu_of("self")?;
    let rate = load::run(client, in_flight, PERIOD, make).await?;
    let took = cpu_of("self")? - before;
    figures.add_rate(name, &rate);
    let each = took.as_secs_f64() * 1e6 / rate.count.max(1) as f64;
    figures.add(&format!("{name}, CPU with the load generator's"), "us", each);
    Ok(())
}

async fn answer_constantly(listener: tokio::net::TcpListener, acceptor: TlsAcceptor) {
    let body = Bytes::from(vec![b'x'; STORED_BYTES]);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, body) = (acceptor.clone(), body.clone());
        tokio::spawn(async move {
            if stream.set_nodelay(true).is_err() {
                return;
            }
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let body = body.clone();
                async move {
                    drop(request.into_body().collect().await);
                    Ok::<_, Infallible>(http::Response::new(Full::new(body)))
                }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

const NO_ETCD: &str = "there is no etcd on this machine";

/// Plain writes of the same size to etcd, durable as its own are.
async fn etcd(folder: &Path, figures: &mut Figures) -> Fallible<()> {
    let port = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let (clients, peers) = (format!("http://{}", port()?), format!("http://{}", port()?));
    let data = folder.join("etcd");
    let mut child = Command::new("etcd")
        .arg("--data-dir")
        .arg(&data)
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|_| NO_ETCD)?;
    let outcome = etcd_writes(&clients, figures).await;
    child.kill()?;
    child.wait()?;
    std::fs::remove_dir_all(data)?;
    outcome
}

async fn etcd_writes(endpoint: &str, figures: &mut Figures) -> Fallible<()> {
    let store = EtcdStore::open(EtcdOptions::new(vec![endpoint.to_owned()])).await?;
    for (writers, name) in [(64, "64 in flight"), (1, "one at a time")] {
        let start = Instant::now();
        let tasks: Vec<_> = (0..writers).map(|writer| tokio::spawn(put_again(store.clone(), writer, start))).collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await??);
        }
        let rate = load::summed(times, 0, start.elapsed());
        figures.add_rate(&format!("etcd as a raw store, puts of 1 KiB, {name}"), &rate);
    }
    Ok(())
}

async fn put_again(store: Arc<EtcdStore>, writer: usize, start: Instant) -> Fallible<Vec<Duration>> {
    let (value, mut times) = (Bytes::from(vec![b'x'; STORED_BYTES]), Vec::new());
    while start.elapsed() < PERIOD {
        let key = Bytes::from(format!("/registry/core/configmaps/default/w{writer}-{}", times.len()));
        let begun = Instant::now();
        let changes = vec![Change::Put { key, value: value.clone() }];
        store.commit(Transaction { changes, ..Transaction::default() }).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}
