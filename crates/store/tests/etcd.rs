//! The etcd store passes the same suite as the embedded one, and behaves at its own edges: members that die, TLS.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "the fixture starts a program and waits for it")]

mod suite;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use skiff_store::{EtcdOptions, EtcdStore, EtcdTls, KeyRange, Store, StoreError};
use suite::etcd::{self, Certificates, Member};
use suite::{Folder, bytes, commit, delete, event, listed, put};

fn options(members: &[Member]) -> EtcdOptions {
    EtcdOptions::new(members.iter().map(|member| member.endpoint.clone()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_etcd_store_is_a_store() {
    if !etcd::is_there() {
        return;
    }
    let folder = Folder::new("etcd");
    // The suite needs stores that are empty and whose history is their own: a fresh etcd each.
    let next = AtomicU32::new(0);
    let members = parking_lot::Mutex::new(Vec::new());
    let make = async || -> Arc<dyn Store> {
        let number = next.fetch_add(1, Ordering::Relaxed).to_string();
        let fresh = etcd::cluster(&folder.path().join(number), 1, None);
        let options = EtcdOptions { prefix: bytes("/registry/"), ..options(&fresh) };
        *members.lock() = fresh;
        let store: Arc<dyn Store> = EtcdStore::open(options).await.unwrap();
        store
    };
    suite::run(make).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_share_an_etcd_without_seeing_each_other() {
    if !etcd::is_there() {
        return;
    }
    let folder = Folder::new("etcd-shared");
    let members = etcd::cluster(folder.path(), 1, None);
    let open = async |prefix: &str| {
        let options = EtcdOptions { root: bytes("/registry/"), prefix: bytes(prefix), ..options(&members) };
        EtcdStore::open(options).await.unwrap()
    };
    let (one, other) = (open("/registry/").await, open("/other/").await);
    let start = one.revision().await.unwrap();
    let mut watch = one.watch(KeyRange::prefix("/registry/"), start).await.unwrap();
    let mut narrow = one.watch(KeyRange::prefix("/registry/b"), start).await.unwrap();
    commit(&*other, vec![put("/registry/a", "theirs")]).await;
    let own = commit(&*one, vec![put("/registry/a", "ours")]).await;
    let shown = format!("/registry/a=ours@{own}:{own}");
    assert_eq!(listed(&*one, "/registry/", None, 0).await, format!("{shown} +0 at {own}"));
    assert_eq!(event(&mut watch).await, format!("{own}: - -> {shown}"));
    // The last revision is the other cluster's: that nothing of ours is missing is known all the same.
    let last = commit(&*other, vec![delete("/registry/a")]).await;
    one.request_progress().await.unwrap();
    suite::progress(&mut watch, last).await;
    suite::progress(&mut narrow, last).await;
    assert_eq!(listed(&*other, "", None, 0).await.split(" +").next(), Some(""));
    let strange = one.get(b"elsewhere", None).await.unwrap_err();
    assert_eq!(strange.to_string(), "the key elsewhere cannot be stored");
    let beside = KeyRange { start: bytes("/registry0"), end: Bytes::new() };
    assert_eq!(one.range(&beside, None, 0).await.unwrap().items, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_ranges_come_page_by_page() {
    if !etcd::is_there() {
        return;
    }
    const KEYS: usize = 4500;
    let folder = Folder::new("etcd-pages");
    let members = etcd::cluster(folder.path(), 1, None);
    let store = EtcdStore::open(options(&members)).await.unwrap();
    for first in (0..KEYS).step_by(100) {
        commit(&*store, (first..first + 100).map(|n| put(&format!("p/{n:05}"), "x")).collect()).await;
    }
    let all = store.range(&KeyRange::prefix("p/"), None, 0).await.unwrap();
    let expected: Vec<Bytes> = (0..KEYS).map(|n| bytes(&format!("p/{n:05}"))).collect();
    assert_eq!(all.items.iter().map(|pair| pair.key.clone()).collect::<Vec<_>>(), expected);
    let part = store.range(&KeyRange::prefix("p/"), None, 3000).await.unwrap();
    assert_eq!((part.items.len(), part.remaining), (3000, 1500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_may_die_and_nothing_is_missed_or_repeated() {
    if !etcd::is_there() {
        return;
    }
    let folder = Folder::new("etcd-failover");
    let mut members = etcd::cluster(folder.path(), 3, None);
    let store = EtcdStore::open(options(&members)).await.unwrap();
    let start = store.revision().await.unwrap();
    let mut watch = store.watch(KeyRange::prefix("n"), start).await.unwrap();
    let mut expected = 0u64;
    for round in 0..6 {
        let victim = round % members.len();
        members[victim].kill();
        for _ in 0..5 {
            expected += 1;
            write_until_done(&*store, expected).await;
        }
        members[victim].start();
        members[victim].wait();
    }
    let mut seen = 0;
    while seen < expected {
        // A write whose outcome was not known may have been done twice; never out of order.
        let text = event(&mut watch).await;
        let number: u64 = text.split("-> n=").nth(1).unwrap().split('@').next().unwrap().parse().unwrap();
        assert!(number == seen + 1 || number == seen, "{number} after {seen}: {text}");
        seen = number;
    }
}

/// Writes a number; an error means that nobody knows whether it was written.
async fn write_until_done(store: &dyn Store, number: u64) {
    let change = || skiff_store::Transaction { changes: vec![put("n", &number.to_string())], ..Default::default() };
    while let Err(error) = store.commit(change()).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_whose_place_was_compacted_while_it_was_away_says_so() {
    if !etcd::is_there() {
        return;
    }
    let folder = Folder::new("etcd-compacted");
    let members = etcd::cluster(folder.path(), 1, None);
    let (reader, writer) =
        (EtcdStore::open(options(&members)).await.unwrap(), EtcdStore::open(options(&members)).await.unwrap());
    let start = commit(&*writer, vec![put("a", "1")]).await;
    let second = commit(&*writer, vec![put("a", "2")]).await;
    let third = commit(&*writer, vec![put("a", "3")]).await;
    writer.compact(third).await.unwrap();
    match reader.watch(KeyRange::prefix(""), start).await {
        Err(StoreError::Compacted { oldest }) => assert_eq!(oldest, third),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("revision {start} is compacted"),
    }
    let read = reader.get(b"a", Some(second)).await.unwrap_err();
    assert!(matches!(read, StoreError::Compacted { oldest } if oldest == third), "{read}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_reached_by_tls_with_a_client_certificate() {
    if !etcd::is_there() {
        return;
    }
    let folder = Folder::new("etcd-tls");
    let (authority, issuer) = authority();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (server, server_key) = leaf(&issuer);
    let (client, client_key) = leaf(&issuer);
    let (certificate, key) = (write("server.crt", server), write("server.key", server_key));
    let ca = write("ca.crt", authority.clone());
    let tls = Certificates { certificate: &certificate, key: &key, authority: &ca };
    let members = etcd::cluster(folder.path(), 1, Some(tls));
    let good =
        EtcdTls { authorities: authority.into_bytes(), certificate: client.into_bytes(), key: client_key.into_bytes() };
    let store = EtcdStore::open(EtcdOptions { tls: Some(good.clone()), ..options(&members) }).await.unwrap();
    let at = commit(&*store, vec![put("a", "1")]).await;
    assert_eq!(listed(&*store, "", None, 0).await, format!("a=1@{at}:{at} +0 at {at}"));
    let refused = EtcdStore::open(options(&members)).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("needs TLS, which is not set up"), "{refused}");
    let bad = EtcdTls { authorities: b"nothing".to_vec(), ..good };
    let refused = EtcdStore::open(EtcdOptions { tls: Some(bad), ..options(&members) }).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("there are none in the file"), "{refused}");
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

fn leaf(issuer: &Issuer<'static, KeyPair>) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}
