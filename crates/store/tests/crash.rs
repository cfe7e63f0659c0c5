//! Nothing acknowledged is lost when the process dies: this binary runs itself as a child that writes and tells what was
//! acknowledged and what a watch saw, kills it at a random moment, opens the store again and compares.
//! `SKIFF_CRASH_ROUNDS` sets the number of rounds, `SKIFF_CRASH_SEED` the seed that a failure has printed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "the test starts itself as a child and kills it")]

mod suite;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::StreamExt;
use skiff_base::ids::Ids;
use skiff_store::{
    Change, Durability, EmbeddedOptions, EmbeddedStore, HistoryLimits, KeyRange, Outcome, Store, StoreError,
    Transaction,
};
use skiff_store::{WatchEvent, WatchItem};
use suite::{Folder, bytes};

const FOLDER: &str = "SKIFF_CRASH_FOLDER";
const SEED: &str = "SKIFF_CRASH_SEED";
const ROUNDS: &str = "SKIFF_CRASH_ROUNDS";
const WRITERS: u64 = 8;
const KEYS: u64 = 40;
/// The child is killed after it told at most this much.
const LINES: u64 = 250;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match std::env::var(FOLDER) {
        Ok(folder) => runtime.block_on(child(Path::new(&folder))),
        Err(_) => runtime.block_on(rounds()),
    }
}

fn options(seed: u64) -> EmbeddedOptions {
    // Every other round forgets history while it writes.
    let revisions = if seed.is_multiple_of(2) { 200 } else { 100_000 };
    EmbeddedOptions { history: HistoryLimits { revisions, ..HistoryLimits::default() }, ..EmbeddedOptions::default() }
}

/// Says one thing to the parent, in one write.
fn say(line: String) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent listens");
}

async fn child(folder: &Path) {
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let store = EmbeddedStore::open(folder, options(seed)).unwrap();
    let start = store.revision().await.unwrap();
    say(format!("open {start}"));
    let watch = store.watch(KeyRange::prefix("k"), start).await.unwrap();
    let watching = tokio::spawn(async move {
        let mut watch = watch;
        while let Some(Ok(item)) = watch.next().await {
            let WatchItem::Events(events) = item else {
                continue;
            };
            say(format!("seen {}", events.iter().map(told).collect::<Vec<_>>().join(" ")));
        }
    });
    let writers = (0..WRITERS).map(|writer| {
        tokio::spawn(write(store.clone(), Ids::seeded(seed ^ (writer << 32)), writer, seed.is_multiple_of(3)))
    });
    futures_util::future::join_all(writers).await;
    watching.await.unwrap();
}

/// Writes until the end; with `all_relaxed` nothing is durable, so that the end loses much.
async fn write(store: Arc<EmbeddedStore>, ids: Ids, writer: u64, all_relaxed: bool) {
    for number in 0.. {
        // No two writers share a key, so that each knows what it wrote last.
        let key = format!("k{}", ids.next_u64() % KEYS * WRITERS + writer);
        let value = format!("{writer}/{number}/{}", "x".repeat((ids.next_u64() % 200) as usize));
        let delete = ids.next_u64().is_multiple_of(8);
        let relaxed = all_relaxed || ids.next_u64().is_multiple_of(4);
        let change = if delete {
            Change::Delete { key: bytes(&key) }
        } else {
            Change::Put { key: bytes(&key), value: bytes(&value) }
        };
        let durability = if relaxed { Durability::Relaxed } else { Durability::Durable };
        let outcome =
            store.commit(Transaction { changes: vec![change], durability, ..Transaction::default() }).await.unwrap();
        let Outcome::Committed(revision) = outcome else { panic!("no comparison was asked for") };
        let value = if delete { "-" } else { &value };
        say(format!("{} {revision} {key} {}", if relaxed { "relaxed" } else { "durable" }, digest(value)));
    }
}

/// A value, short.
fn digest(value: &str) -> String {
    format!("{}:{}", value.split("/x").next().unwrap_or_default(), value.len())
}

fn told(event: &WatchEvent) -> String {
    let value = event.value.as_ref().map_or("-".into(), |value| String::from_utf8(value.value.to_vec()).unwrap());
    format!("{}={}={}", event.revision, String::from_utf8_lossy(&event.key), digest(&value))
}

/// What a child told before it died.
#[derive(Default)]
struct Told {
    start: u64,
    durable: Vec<(u64, String, String)>,
    relaxed: Vec<(u64, String, String)>,
    seen: Vec<(u64, String, String)>,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let write = || (words[1].parse().unwrap(), words[2].to_owned(), words[3].to_owned());
        match words[0] {
            "open" => self.start = words[1].parse().unwrap(),
            "durable" => self.durable.push(write()),
            "relaxed" => self.relaxed.push(write()),
            "seen" => self.seen.extend(words[1..].iter().map(|event| {
                let parts: Vec<&str> = event.splitn(3, '=').collect();
                (parts[0].parse().unwrap(), parts[1].to_owned(), parts[2].to_owned())
            })),
            other => panic!("the child said {other}"),
        }
    }

    fn highest(&self) -> u64 {
        let all = self.durable.iter().chain(&self.relaxed).chain(&self.seen);
        all.map(|(revision, ..)| *revision).max().unwrap_or(0).max(self.start)
    }
}

async fn rounds() {
    let rounds: u64 = std::env::var(ROUNDS).map_or(100, |rounds| rounds.parse().expect("a number of rounds"));
    let seed: u64 =
        std::env::var(SEED).map_or_else(|_| Ids::random().next_u64() >> 1, |seed| seed.parse().expect("a seed"));
    println!("{rounds} rounds with {SEED}={seed}");
    let folder = Folder::new("crash");
    let ids = Ids::seeded(seed);
    let mut state = BTreeMap::new();
    let (mut writes, mut leaps) = (0, 0);
    for round in 0..rounds {
        let told = run_child(folder.path(), ids.next_u64() >> 1, ids.next_u64() % LINES);
        let store =
            EmbeddedStore::open(folder.path(), options(1)).unwrap_or_else(|error| panic!("round {round}: {error}"));
        writes += told.durable.len();
        leaps += u64::from(check(round, &store, &told, &mut state).await);
    }
    println!("ok: {writes} acknowledged writes, all there; {leaps} times lost relaxed writes were marked as such");
}

fn run_child(folder: &Path, seed: u64, lines: u64) -> Told {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut told = Told::default();
    let mut heard = 0;
    let mut line = String::new();
    loop {
        if heard == lines {
            child.kill().unwrap();
        }
        line.clear();
        // A line without its end was cut off by the kill.
        if output.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
            break;
        }
        told.hear(line.trim_end());
        heard += 1;
    }
    child.wait().unwrap();
    assert!(heard >= lines, "the child ended by itself after {heard} lines");
    told
}

type State = BTreeMap<String, (u64, String)>;

/// Compares the store with what the child told; says whether revisions were lost that had been shown.
async fn check(round: u64, store: &Arc<EmbeddedStore>, told: &Told, state: &mut State) -> bool {
    let revision = store.revision().await.unwrap();
    assert!(revision >= told.highest(), "round {round}: the revision went back from {} to {revision}", told.highest());
    let now = present(store).await;
    for (revision, key, value) in &told.durable {
        let found = at(store, key, *revision).await;
        // Where that revision is compacted, the key is as it was then, or was written since.
        let newer = now.get(key).map_or(u64::MAX, |(revision, _)| *revision);
        let kept = found.as_ref().map_or(newer >= *revision, |found| found == value);
        assert!(
            kept,
            "round {round}: {key}={value} was acknowledged at {revision}, found {found:?} and now {:?}",
            now.get(key)
        );
    }
    for (revision, key, value) in told.relaxed.iter().chain(&told.seen) {
        let found = at(store, key, *revision).await;
        assert!(
            found.as_ref().is_none_or(|found| found == value),
            "round {round}: {revision} means {found:?}, and was shown as {key}={value}"
        );
    }
    let lost = resume(round, store, told, state, &now).await;
    *state = now;
    lost
}

async fn present(store: &Arc<EmbeddedStore>) -> State {
    let all = store.range(&KeyRange::prefix("k"), None, 0).await.unwrap();
    let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    all.items.iter().map(|item| (text(&item.key), (item.mod_revision, digest(&text(&item.value))))).collect()
}

/// What a key was at a revision; `None` where that cannot be told any more.
async fn at(store: &Arc<EmbeddedStore>, key: &str, revision: u64) -> Option<String> {
    match store.get(key.as_bytes(), Some(revision)).await {
        Ok((_, value)) => {
            Some(value.map_or_else(|| digest("-"), |value| digest(std::str::from_utf8(&value.value).unwrap())))
        }
        Err(StoreError::Compacted { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A watch goes on where the child's ended: with what the child saw, it shows every change once, in order.
async fn resume(round: u64, store: &Arc<EmbeddedStore>, told: &Told, before: &State, now: &State) -> bool {
    let last_seen = told.seen.last().map_or(told.start, |(revision, ..)| *revision);
    if told.start == 0 {
        return false;
    }
    let mut watch = match store.watch(KeyRange::prefix("k"), last_seen).await {
        Ok(watch) => watch,
        // What the child saw last was relaxed and is lost: its watcher is told to start anew.
        Err(StoreError::Compacted { oldest }) if oldest > last_seen => return true,
        Err(error) => panic!("round {round}: {error}"),
    };
    let mut changes = told.seen.clone();
    let end = store.revision().await.unwrap();
    let mut shown = last_seen;
    while shown < end {
        match tokio::time::timeout(suite::PATIENCE, watch.next()).await.expect("the watch goes on").unwrap().unwrap() {
            WatchItem::Progress(at) => shown = at,
            WatchItem::Events(events) => changes.extend(events.iter().map(|event| {
                shown = event.revision;
                let (key, value) = told_parts(event);
                (event.revision, key, value)
            })),
        }
    }
    let mut replayed = before.clone();
    let mut last = told.start;
    for (revision, key, value) in changes {
        assert!(revision > last, "round {round}: revision {revision} came after {last}");
        last = revision;
        if value == digest("-") {
            replayed.remove(&key);
        } else {
            replayed.insert(key, (revision, value));
        }
    }
    assert_eq!(&replayed, now, "round {round}: the resumed watch left something out");
    false
}

fn told_parts(event: &WatchEvent) -> (String, String) {
    let text = told(event);
    let mut parts = text.splitn(3, '=').skip(1).map(str::to_owned);
    (parts.next().unwrap(), parts.next().unwrap())
}
