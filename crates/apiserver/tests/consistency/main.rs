//! Two servers on one etcd, one of them killed and started again, while clients read, write and watch through both. The
//! history is held against etcd's own: writes are linearizable, reads are consistent, and watches show every change once
//! and in order. `SKIFF_CONSISTENCY_SEED` and `SKIFF_CONSISTENCY_ROUNDS` repeat a run or lengthen it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and starts programs")]

mod client;
#[path = "../../../store/tests/suite/etcd.rs"]
#[allow(dead_code, reason = "this test needs a part")]
mod etcd;
mod history;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use skiff_base::ids::Ids;
use skiff_store::{EtcdOptions, EtcdStore, KeyRange, Store, WatchItem};

use client::{Access, Client};
use history::{Change, History, Operation, Outcome};
use server::Server;

const SEED: &str = "SKIFF_CONSISTENCY_SEED";
const ROUNDS: &str = "SKIFF_CONSISTENCY_ROUNDS";
/// Enough for a change, and little enough for every run of the tests.
const DEFAULT_ROUNDS: u64 = 3;
/// How often a server is killed in one round.
const KILLS: u64 = 2;
/// What is done between two kills.
const OPERATIONS_BETWEEN: u64 = 150;
const WRITERS: u64 = 4;
const READERS: u64 = 2;
const WATCHERS: usize = 4;
/// How long a watch may be silent; far beyond what it is.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Few, so that clients meet.
const KEYS: u64 = 3;
const NAMESPACE: &str = "/api/v1/namespaces/default/configmaps";

fn main() {
    if let Some(role) = server::role() {
        return server::run(role);
    }
    history::check_the_check();
    if !etcd::is_there() {
        println!("test result: ok. 0 passed; 0 failed; there is no etcd");
        return;
    }
    let rounds = std::env::var(ROUNDS).map_or(DEFAULT_ROUNDS, |text| text.parse().unwrap());
    let seed = std::env::var(SEED).map_or_else(|_| Ids::random().next_u64() >> 1, |text| text.parse().unwrap());
    println!("{rounds} rounds with {SEED}={seed}");
    let folder = std::env::temp_dir().join(format!("skiff-consistency-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = std::panic::catch_unwind(|| {
        let members = etcd::cluster(&folder, 1, None);
        let ids = Ids::seeded(seed);
        for round in 0..rounds {
            let told = runtime.block_on(self::round(&folder, &members[0].endpoint, round, ids.next_u64() >> 1));
            println!("round {round}: {told}");
        }
    });
    std::fs::remove_dir_all(&folder).unwrap();
    match outcome {
        Ok(()) => println!("test result: ok. 1 passed; 0 failed"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// What the clients of one round share.
struct Shared {
    access: [Access; 2],
    history: History,
    start: Instant,
    done: AtomicU64,
    over: AtomicBool,
}

async fn round(folder: &Path, endpoint: &str, round: u64, seed: u64) -> String {
    let prefix = format!("/round-{round}/");
    let ids = Arc::new(Ids::seeded(seed));
    let (mut servers, access) = start(&folder.join(format!("round-{round}")), endpoint, &prefix).await;
    let store = store(endpoint, &prefix).await;
    let begin = store.revision().await.unwrap();
    let shared = Arc::new(Shared {
        access,
        history: History::default(),
        start: Instant::now(),
        done: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let mut clients = Vec::new();
    for number in 0..WRITERS {
        clients.push(tokio::spawn(write(shared.clone(), Ids::seeded(ids.next_u64()), number)));
    }
    for _ in 0..READERS {
        clients.push(tokio::spawn(read(shared.clone(), Ids::seeded(ids.next_u64()))));
    }
    let watchers: Vec<_> = (0..WATCHERS).map(|number| tokio::spawn(watch(shared.clone(), number, begin))).collect();
    for kill in 1..=KILLS {
        let until = kill * OPERATIONS_BETWEEN;
        while shared.done.load(Ordering::Acquire) < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let victim = (ids.next_u64() % 2) as usize;
        servers[victim].kill();
        servers[victim].start();
    }
    while shared.done.load(Ordering::Acquire) < (KILLS + 1) * OPERATIONS_BETWEEN {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    shared.over.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }
    // A last write is the end of the history, which every watcher waits for.
    let truth = truth(&*store, begin, finish(&shared).await).await;
    let mut seen = Vec::new();
    for watcher in watchers {
        seen.push(watcher.await.unwrap());
    }
    drop(servers);
    history::check(&shared.history.take(), &truth, &seen);
    format!(
        "{} operations, {} changes, {} watchers saw them all",
        shared.done.load(Ordering::Acquire),
        truth.len(),
        seen.len()
    )
}

async fn start(folder: &Path, endpoint: &str, prefix: &str) -> ([Server; 2], [Access; 2]) {
    let make = |number: u32| {
        let own: PathBuf = folder.join(number.to_string());
        let mut server = Server::new(&own, endpoint, prefix);
        server.start();
        let access = server.access();
        (server, access)
    };
    let ((a, of_a), (b, of_b)) = (make(0), make(1));
    for access in [&of_a, &of_b] {
        Client::new(access.clone()).wait_ready().await;
    }
    ([a, b], [of_a, of_b])
}

async fn store(endpoint: &str, prefix: &str) -> Arc<EtcdStore> {
    let options = EtcdOptions {
        root: "/registry/".into(),
        prefix: prefix.to_owned().into(),
        compact_interval: None,
        ..EtcdOptions::new(vec![endpoint.to_owned()])
    };
    EtcdStore::open(options).await.unwrap()
}

impl Shared {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn note(&self, operation: Operation) {
        self.history.add(operation);
        self.done.fetch_add(1, Ordering::AcqRel);
    }
}

/// Creates, changes and deletes the few objects, each change made from what was read before.
async fn write(shared: Arc<Shared>, ids: Ids, writer: u64) {
    let mut clients = shared.access.clone().map(Client::new);
    let mut count = 0;
    while !shared.over.load(Ordering::Acquire) {
        let client = &mut clients[(ids.next_u64() % 2) as usize];
        let key = format!("k{}", ids.next_u64() % KEYS);
        let path = format!("{NAMESPACE}/{key}");
        let Some((200 | 404, found)) = client.send("GET", &path, None).await else { continue };
        let revision = found["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
        count += 1;
        let value = format!("w{writer}-{count}");
        let mut body = serde_json::json!({"metadata": {"name": key}, "data": {"value": value}});
        let began = shared.now();
        let answer = if revision.is_empty() {
            client.send("POST", NAMESPACE, Some(body.to_string())).await
        } else if ids.next_u64().is_multiple_of(5) {
            let options = serde_json::json!({"preconditions": {"resourceVersion": revision}});
            client.send("DELETE", &path, Some(options.to_string())).await
        } else {
            body["metadata"]["resourceVersion"] = revision.as_str().into();
            client.send("PUT", &path, Some(body.to_string())).await
        };
        let deletes = answer.as_ref().is_some_and(|(code, tree)| *code == 200 && tree["kind"] == "Status");
        let outcome = match &answer {
            Some((200 | 201, tree)) => {
                Outcome::Done(tree["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()))
            }
            Some((404 | 409, _)) => Outcome::Refused,
            _ => Outcome::Unknown,
        };
        let value = (!deletes).then_some(value);
        let expected = revision.parse().unwrap_or(0);
        shared.note(Operation::write(key, value, expected, outcome, began, shared.now()));
    }
}

/// Reads single objects and whole lists, consistently.
async fn read(shared: Arc<Shared>, ids: Ids) {
    let mut clients = shared.access.clone().map(Client::new);
    while !shared.over.load(Ordering::Acquire) {
        let client = &mut clients[(ids.next_u64() % 2) as usize];
        let began = shared.now();
        if ids.next_u64().is_multiple_of(2) {
            let key = format!("k{}", ids.next_u64() % KEYS);
            let answer = client.send("GET", &format!("{NAMESPACE}/{key}"), None).await;
            let Some((200 | 404, found)) = answer else { continue };
            shared.note(Operation::get(key, history::state_of(&found), began, shared.now()));
        } else {
            let Some((200, list)) = client.send("GET", NAMESPACE, None).await else { continue };
            shared.note(Operation::list(&list, began, shared.now()));
        }
    }
}

/// Follows all changes after `begin`, going on at the other server whenever one ends the watch.
async fn watch(shared: Arc<Shared>, number: usize, begin: u64) -> Vec<Change> {
    let (mut seen, mut at, mut turn) = (Vec::new(), begin, number);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let mut client = Client::new(shared.access[turn % 2].clone());
        turn += 1;
        let path = format!("{NAMESPACE}?watch=1&resourceVersion={at}");
        let Some(mut events) = client.watch(&path).await else {
            assert!(Instant::now() < deadline, "no server begins a watch");
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        loop {
            // Somebody writes all the time, and the last write is for every watcher: who hears nothing has missed it.
            let event = tokio::time::timeout(SILENCE_LIMIT, events.next()).await;
            let event = event.unwrap_or_else(|_| panic!("watcher {number} hears nothing after revision {at}"));
            let Some(event) = event else { break };
            assert_ne!(event["type"], "ERROR", "a watch from {at} failed: {event}");
            let change = Change::of_event(&event);
            at = change.revision;
            let is_last = change.key == LAST;
            seen.push(change);
            if is_last {
                return seen;
            }
        }
    }
}

/// The object that ends the history.
const LAST: &str = "the-end";

async fn finish(shared: &Shared) -> u64 {
    let body = serde_json::json!({"metadata": {"name": LAST}, "data": {"value": LAST}}).to_string();
    let mut clients = shared.access.clone().map(Client::new);
    for turn in 0.. {
        match clients[turn % 2].send("POST", NAMESPACE, Some(body.clone())).await {
            Some((201, tree)) => return tree["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap(),
            Some((409, _)) => break,
            _ => {}
        }
    }
    // An earlier try was done after all.
    let (_, tree) = clients[0].send("GET", &format!("{NAMESPACE}/{LAST}"), None).await.unwrap();
    tree["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// All changes as etcd itself tells them.
async fn truth(store: &dyn Store, begin: u64, end: u64) -> Vec<Change> {
    let prefix = "/registry/core/configmaps/default/";
    let mut watch = store.watch(KeyRange::prefix(prefix), begin).await.unwrap();
    let mut changes: Vec<Change> = Vec::new();
    while changes.last().is_none_or(|last| last.revision < end) {
        let item = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("etcd tells its history");
        let WatchItem::Events(events) = item.unwrap().unwrap() else { continue };
        changes.extend(events.iter().map(|event| {
            let value = event.value.as_ref().map(|pair| {
                let tree: serde_json::Value = serde_json::from_slice(&pair.value).unwrap();
                tree["data"]["value"].as_str().unwrap_or_default().to_owned()
            });
            let key = String::from_utf8(event.key[prefix.len()..].to_vec()).unwrap();
            Change { revision: event.revision, key, value }
        }));
    }
    changes
}
